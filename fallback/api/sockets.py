"""Open WebSockets by the sign-in they belong to, so that none outlives it.

Theory of operation: the application receives through `Socket`, which waits for a message and for the end of the sign-in at once.
When that comes, the browser is told so and the application hears that the browser has gone; what it still sends goes nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator

from starlette.types import Message, Receive, Send

__all__ = ["Socket", "Sockets"]

SIGNED_OUT = 1008
"""The close code for a breach of policy (RFC 6455, 7.4.1)."""


class Socket:
    """One open WebSocket."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending: asyncio.Future[Message] | None = None

    def end(self) -> None:
        """Let it be over."""
        if not self._over.done():
            self._over.set_result(None)

    async def receive(self) -> Message:
        """Return the next message; a disconnect once it is over."""
        if self._pending is None:
            self._pending = asyncio.ensure_future(self._receive())
        await asyncio.wait((self._pending, self._over), return_when=asyncio.FIRST_COMPLETED)
        if self._over.done():
            self.leave()
            with contextlib.suppress(OSError, RuntimeError):  # the browser may have gone
                await self._send({"type": "websocket.close", "code": SIGNED_OUT, "reason": "signed out"})
            return {"type": "websocket.disconnect", "code": SIGNED_OUT}
        message, self._pending = self._pending.result(), None
        return message

    async def send(self, message: Message) -> None:
        """Send a message, unless it is over."""
        if not self._over.done():
            await self._send(message)

    def leave(self) -> None:
        """Wait for nothing more."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None


class Sockets:
    """All of them. Belongs to one event loop."""

    def __init__(self) -> None:
        self._open: defaultdict[str, set[Socket]] = defaultdict(set)

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    @contextlib.contextmanager
    def open(self, session: str, left_s: float | None, receive: Receive, send: Send) -> Iterator[Socket]:
        """Give a socket of `session`, which is over after `left_s` seconds; None: not by itself."""
        socket = Socket(receive, send)
        timer = None if left_s is None else asyncio.get_running_loop().call_later(left_s, socket.end)
        self._open[session].add(socket)
        try:
            yield socket
        finally:
            socket.leave()
            if timer is not None:
                timer.cancel()
            self._open[session].discard(socket)
            if not self._open[session]:
                del self._open[session]

    def close(self, session: str) -> None:
        """Let every socket of `session` be over."""
        for socket in tuple(self._open.get(session, ())):
            socket.end()
