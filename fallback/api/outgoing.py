"""What one connection sends.

Theory of operation: a server writes the head of a response and then its body, which would be two packets and two system
calls, and wake the caller twice. So a head waits until the first bytes of its body, and leaves with them; where those do not
follow at once, it leaves by itself in the next turn of the event loop. Nothing else waits. What is written to a connection that is
lost goes nowhere: not every server tells all the requests on it so, and uvloop raises where it is written to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import Message, Send

__all__ = ["Outgoing", "send_unasked"]

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
        """Send what is waiting."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def lose(self) -> None:
        """Take note that the connection is lost."""
        self._held = b""
        self._transport = _Nowhere()
        self._close = self._transport.close

    def is_closing(self) -> bool:
        """Return whether the connection is closed, or about to be."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self.flush()
        self._close()


class _Nowhere(asyncio.Transport):
    """In the place of a transport that is closed."""

    __slots__ = ()

    def write(self, data: object) -> None:
        """Do nothing."""

    def is_closing(self) -> bool:
        """Return that it is."""
        return True

    def close(self) -> None:
        """Do nothing."""


async def send_unasked(cycle: Any, send: Send, message: Message) -> None:
    """Send for a caller who waits with its body: who was never told to go on may leave it out, and its end is not known."""
    if cycle.waiting_for_100_continue:
        cycle.keep_alive = False
    await send(message)
