"""A path that shows one text to whoever asks for it, and takes nothing."""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fallback.api.errors import Refusal
from fallback.api.refusing import refusal_response

__all__ = ["PlainPath"]

_ALLOW = {"allow": "GET, HEAD, OPTIONS"}


class PlainPath:
    """An ASGI application for GET and HEAD; `text` is called for each."""

    def __init__(self, text: Callable[[], bytes], media_type: str) -> None:
        self._text = text
        self._media_type = media_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        method, path = scope["method"], scope["path"]
        if method in {"GET", "HEAD"}:
            headers = {"cache-control": "no-store", "content-type": self._media_type}
            response = Response(self._text(), headers=headers)
        elif method == "OPTIONS":
            response = Response(status_code=204, headers=_ALLOW)
        else:
            message = f"{path} takes GET, not {ascii(method[:20])[1:-1]}"
            refusal = Refusal(405, "method_not_allowed", message, _ALLOW)
            response = refusal_response(refusal, path, scope["state"]["request_id"])
        await response(scope, receive, send)
