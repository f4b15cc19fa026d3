"""What the routes need of the program that they belong to."""

from __future__ import annotations

from typing import Protocol

from fallback.api.closing import Closing
from fallback.router import AsyncModelRouter

__all__ = ["Serving"]


class Serving(Protocol):
    """A running program."""

    @property
    def router(self) -> AsyncModelRouter:
        """Its router."""

    @property
    def closing(self) -> Closing:
        """Tells when it ends."""

    keep_alive_s: float
    """Silence after which a stream gets a comment."""

    @property
    def send_limit_s(self) -> float:
        """How long a caller may take nothing of an answer before it counts as gone."""
