"""What one connection sends.

Theory of operation: a server writes the head of a response and then its body, which would be two packets and two system
calls, and wake the caller twice. So a head waits until the first bytes of its body, and leaves with them; where those do not
follow at once, it leaves by itself in the next turn of the event loop. Nothing else waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Outgoing"]

_HEAD = b"HTTP/1."


class Outgoing:
    """As much of a transport as a server writes to."""

    __slots__ = ("_close", "_held", "_loop", "_transport")

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        close: Callable[[], None] | None = None,
    ) -> None:
        """Write to `transport`; `close` is called instead of its own `close`."""
        self._transport = transport
        self._loop = loop
        self._close = close or transport.close
        self._held = b""

    def write(self, data: bytes) -> None:
        """Send `data`, the head of a response with what is written next."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        elif data.startswith(_HEAD):
            self._held = data
            self._loop.call_soon(self.flush)
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Send what is waiting, unless the connection has ended meanwhile."""
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)

    def is_closing(self) -> bool:
        """Return whether the connection is closed, or about to be."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self.flush()
        self._close()
