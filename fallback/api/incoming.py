"""What one connection takes in, before and beside the parser: how far it is read, and upgrades that are not made.

Theory of operation: requests that are sent behind one another are begun one after the other, and an object stands for each
that waits. So what comes while one waits is kept as the bytes it is, and of a long piece the parser gets `PIECE_BYTES` at a
time; beyond `MAX_AHEAD_BYTES` the rest stays in the kernel, and `Reading` holds to that whoever asks to read on.

A request may offer to go on with another protocol (RFC 9110, section 7.8: Java's client offers HTTP/2 with each), and is
answered in this one where that is not taken up. The parser of httptools stops at every offer, and passes over the body: what
follows would be taken for the next request, with whatever the body says. So the request is parsed once more without the offer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sized

from uvicorn.protocols.http.flow_control import FlowControl

__all__ = ["MAX_AHEAD_BYTES", "PIECE_BYTES", "Reading", "asks_for_websocket", "without_offer"]

MAX_AHEAD_BYTES = 64 * 1024
"""What may be sent behind a request that is not answered yet before reading pauses."""

PIECE_BYTES = 16 * 1024

_OFFER = frozenset({b"upgrade", b"http2-settings"})
_KEPT_TOKENS = frozenset({b"close", b"keep-alive"})

Headers = Iterable[tuple[bytes, bytes]]
"""Names in lower case, and values."""


class Reading(FlowControl):
    """uvicorn's flow control, which does not read on while too much is held."""

    def __init__(self, transport: asyncio.Transport, held: Sized) -> None:
        super().__init__(transport)
        self._held = held

    def resume_reading(self) -> None:
        """Read on, unless more than enough waits to be parsed."""
        if self.read_paused and len(self._held) <= MAX_AHEAD_BYTES:
            super().resume_reading()


def asks_for_websocket(method: str, headers: Headers) -> bool:
    """Return whether a request can become a WebSocket (RFC 6455, section 4.1), and offers nothing else."""
    return method == "GET" and [value.lower() for name, value in headers if name == b"upgrade"] == [
        b"websocket"
    ]


def without_offer(method: str, url: bytes, version: str, headers: Headers) -> bytes:
    """Return the head of a request as it would be sent without the offer of another protocol."""
    lines = [b"%s %s HTTP/%s" % (method.encode(), url, version.encode())]
    for name, value in headers:
        if name in _OFFER:
            continue
        if name == b"connection":
            tokens = [token.strip() for token in value.split(b",")]
            value = b", ".join(token for token in tokens if token.lower() in _KEPT_TOKENS)  # noqa: PLW2901
        lines.append(name + b": " + value)
    return b"\r\n".join((*lines, b"\r\n"))
