"""What is beyond the embedded model: requests to which it could only make an answer up.

What may not live here: what is beyond a provider elsewhere, which says so itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fallback.core.models import ChatRequest, Message

__all__ = ["beyond_embedded"]

_READ = frozenset({"text", "refusal"})
_MEDIA: Mapping[str, str] = {
    "image_url": "cannot see pictures",
    "input_audio": "cannot hear",
    "file": "cannot read files",
}


def beyond_embedded(request: ChatRequest) -> str | None:
    """Return in a few words why the embedded model cannot give what `request` asks for; None: it can answer it."""
    unread = _unread(request.messages)
    if unread is not None:
        return unread
    extra = request.extra
    if not extra:
        return None
    wanted = extra.get("n")
    if isinstance(wanted, int) and wanted > 1:
        return "cannot give several answers (n)"
    if _demanded(extra.get("tool_choice")) or isinstance(extra.get("function_call"), Mapping):
        return "cannot call tools"
    return None


def _unread(messages: Iterable[Message]) -> str | None:
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind not in _READ:
                return _MEDIA.get(str(kind), "reads text alone")
    return None


def _demanded(choice: Any) -> bool:
    """Return whether a tool has to be called: any, one by name, or one of some."""
    if not isinstance(choice, Mapping):
        return bool(choice == "required")
    allowed = choice.get("allowed_tools")
    mode = allowed.get("mode") if isinstance(allowed, Mapping) else choice.get("mode")
    return choice.get("type") != "allowed_tools" or mode == "required"
