"""ModelRouter and AsyncModelRouter: two thin drivers of one loop.

All that decides anything is in `loop` and `core`; what is here carries their commands out, with threads and requests
(`threads`), or with an event loop (`tasks`).
"""

from __future__ import annotations

from fallback.router.base import TEST_PROMPT
from fallback.router.tasks import AsyncAnswerStream, AsyncModelRouter
from fallback.router.threads import AnswerStream, ModelRouter

__all__ = [
    "TEST_PROMPT",
    "AnswerStream",
    "AsyncAnswerStream",
    "AsyncModelRouter",
    "ModelRouter",
    "get_router",
    "set_router",
]

_router: ModelRouter | None = None


def get_router() -> ModelRouter:
    """Return the router of this process; RuntimeError where none was set."""
    if _router is None:
        raise RuntimeError("no router is set: the program sets one when it starts")
    return _router


def set_router(router: ModelRouter | None) -> None:
    """Set the router of this process. Tests set their own."""
    global _router  # noqa: PLW0603 - the one mutable thing at module level, style rule 14
    _router = router
