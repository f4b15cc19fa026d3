"""One HTTP/1.1 connection to a provider, over which one request at a time is sent (RFC 9112).

Theory of operation: httptools, the parser that also reads what callers send us, tells what stands in the bytes that arrive; a
`Connection` is fed them by the event loop and keeps them in the `Reply` to the request under way, where whoever waits is woken.
A reply that is at its end has let go of its connection, which takes the next request; whatever comes on a connection that
waits for nothing makes it useless, and so does a reply that is left before its end. Each wait is one timer, and no task.

What may not live here: which connection a request goes over and how one is opened (direct), what a failure leads to.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

import httptools

from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.transport.base import DRAIN_S, MAX_HEADER_BYTES, MAX_HEADERS, Head, Last

__all__ = ["Connection", "Reply"]

MAX_FRAMING_BYTES = 2 * MAX_HEADER_BYTES
"""Of what comes without a piece of the body: all headers, those of interim responses included, or a trailer."""
MAX_UNREAD_BYTES = 256 * 1024
"""So much of a body is kept for a reader who does not come; then reading from the connection pauses."""

MAX_KNOWN_NAME = 64
"""Longer names of headers are not remembered."""

_NO_BODY = frozenset({204, 304})
_LOST = "the connection was closed"


def _lower(name: bytes) -> str:
    return name.decode("latin-1").lower()


_known_lower = functools.lru_cache(maxsize=512)(_lower)


def _key(name: bytes) -> str:
    """Return a header's name as it is looked for."""
    return _known_lower(name) if len(name) <= MAX_KNOWN_NAME else _lower(name)


class Reply:
    """The response to one request, as it arrives."""

    head: Head
    """There once `begun` has returned."""

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection
        self._pieces: list[bytes] = []
        self._unread = 0
        self._begun = False
        self._done = False
        self._closed = False
        self._failure: TransportError | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def begun(self, limit_s: float) -> None:
        """Wait for the headers. Raises TransportError, after `limit_s` at the latest; the connection is closed then."""
        try:
            while not self._begun and self._failure is None:
                await self._wait(limit_s)
        except TimeoutError:
            if not self._begun:  # in the very turn of the loop in which the time was over
                self.fail(TransportError(FailureKind.TIMEOUT, Phase.HEADERS, "no answer in time"))
        except asyncio.CancelledError:
            self.abort()
            raise
        if not self._begun and self._failure is not None:
            self.abort()
            raise self._failure

    async def read(self, limit_s: float) -> bytes:
        """Return the next bytes as they arrive; as Last where none follow, b"" at the end.

        Raises TransportError, again and again once it did.
        """
        if self._closed:
            raise TransportError(FailureKind.CANCELLED, Phase.BODY, "the response was closed")
        try:
            while not (self._pieces or self._done or self._failure):
                await self._wait(limit_s)
        except TimeoutError:
            if not self._pieces:
                text = "silence in the middle of the answer"
                self.fail(TransportError(FailureKind.TIMEOUT, Phase.BODY, text))
        except asyncio.CancelledError:
            self.abort()
            raise
        if self._pieces:
            return self._taken()
        if self._failure is not None:
            self._let_go(abort=True)
            raise self._failure
        return b""

    async def close(self) -> None:
        """Give the connection back where the body is at its end, else close it. Safe to call twice."""
        if self._closed:
            return
        try:
            # The last bytes of a body whose answer is whole nearly always stand in the buffer already.
            for _ in range(2):
                if self._done or self._failure is not None or not await self.read(DRAIN_S):
                    break
        except TransportError:
            pass  # aborted already
        self.abort()

    def abort(self) -> None:
        """Be done with it; a connection on which more of it would come is closed at once."""
        self._closed = True
        self._let_go(abort=True)

    def cancel(self) -> None:
        """End it for whoever waits for it: the transport is closed."""
        phase = Phase.BODY if self._begun else Phase.HEADERS
        self.fail(TransportError(FailureKind.CANCELLED, phase, "aborted"))

    def take_head(self, head: Head) -> None:
        """Take status and headers."""
        self.head = head
        self._begun = True
        self._wake()

    def take(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._pieces.append(data)
        self._unread += len(data)
        if self._unread > MAX_UNREAD_BYTES and self._connection is not None:
            self._connection.pause()
        self._wake()

    def end(self) -> None:
        """Take the end of the body."""
        self._done = True
        self._let_go(abort=False)
        self._wake()

    def lose(self, *, malformed: bool = False) -> None:
        """Take the end of the connection before that of the response, or that what comes is not HTTP."""
        if self._begun:
            self.fail(TransportError(FailureKind.CONNECTION, Phase.BODY, _LOST))
        elif malformed:
            text = "what came back is not HTTP"
            self.fail(TransportError(FailureKind.MALFORMED_RESPONSE, Phase.HEADERS, text))
        else:
            self.fail(TransportError(FailureKind.CONNECTION, Phase.HEADERS, _LOST))

    def fail(self, failure: TransportError) -> None:
        """Let every read from here on fail with `failure`; what has arrived before can still be read."""
        if self._failure is None and not self._done:
            self._failure = failure
        self._wake()

    def _taken(self) -> bytes:
        pieces, self._pieces, self._unread = self._pieces, [], 0
        if self._connection is not None:
            self._connection.resume()
        taken = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return Last(taken) if self._done else taken

    def _let_go(self, *, abort: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and abort:
            connection.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, limit_s: float) -> None:
        """Wait until something has arrived. Raises TimeoutError after `limit_s`."""
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = loop.call_later(limit_s, _expire, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


class Connection(asyncio.Protocol):
    """One connection, which the event loop feeds."""

    def __init__(self, free: Callable[[Connection], None], lost: Callable[[Connection], None]) -> None:
        """`free` is told when it can take the next request, `lost` when it can take none any more."""
        self.idle_since = 0.0
        """The instant of the event loop at which it became free."""
        self._free = free
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        # What some servers write and every client reads; whoever lies about an answer does so about its own alone.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._reply: Reply | None = None
        self._ended = False
        """Whether the response under way is whole."""
        self._until_close = False
        """Whether the end of the connection is that of the body."""
        self._stays = False
        """Whether the provider leaves the connection open after the response."""
        self._spoiled = False
        self._paused = False
        self._in_head = True
        """Whether the headers of the response are still to come, or some of them."""
        self._framing_bytes = 0
        """What has come since the last piece of a body."""
        self._headers: dict[str, str] = {}
        self._count = 0

    @property
    def usable(self) -> bool:
        """Whether a request can be sent on it."""
        return not (self._spoiled or self._transport is None or self._transport.is_closing())

    @property
    def busy(self) -> bool:
        """Whether a response is under way on it."""
        return self._reply is not None

    def ask(self, head: bytes, body: bytes) -> Reply:
        """Send a request and return the reply, of which nothing has arrived yet."""
        assert self._transport is not None  # noqa: S101 - it is made by the loop, with its transport
        reply = self._reply = Reply(self)
        self._ended, self._until_close = False, False
        self._in_head, self._framing_bytes = True, 0
        self._transport.write(head + body)
        return reply

    def cancel(self) -> None:
        """Close it at once, and tell whoever waits for a reply that this was wanted."""
        if self._reply is not None:
            self._reply.cancel()
        self.abort()

    def abort(self) -> None:
        """Close it at once, whatever is still to be sent."""
        self._spoiled = True
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Leave what comes in the kernel for now."""
        if not self._paused and self.usable and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and self._transport is not None:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # it is a stream's
        """Begin."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        reply = self._reply
        if reply is None or self._spoiled:
            self.abort()  # nobody asked for it
            return
        self._framing_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._spoiled = True
        if self._ended:
            self._reply = None
            self._finish(reply)
        elif self._spoiled or self._framing_bytes > MAX_FRAMING_BYTES:
            reply.lose(malformed=True)
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        whole = self._until_close and error is None and not self._spoiled
        self._spoiled = True
        reply, self._reply = self._reply, None
        if reply is not None:
            if whole:
                reply.end()
            else:
                reply.lose()
        self._lost(self)

    def _finish(self, reply: Reply) -> None:
        self.resume()
        reply.end()
        if self._transport is None or self._transport.get_write_buffer_size():
            self.abort()  # who answers before the request is there may never take the rest of it
        elif self.usable and self._stays:
            self._free(self)
        else:
            self._spoiled = True
            self._transport.close()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Begin a response, an interim one perhaps."""
        if self._ended:
            self._spoiled = True  # more than was asked for
        self._headers = {}
        self._count = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a field of a trailer, which means nothing here."""
        if not self._in_head:
            return
        self._count += 1
        if self._count > MAX_HEADERS or len(name) + len(value) > MAX_HEADER_BYTES:
            raise ValueError("the headers are too many or too long")
        key, text = _key(name), value.decode("latin-1")
        if key in self._headers:
            text = f"{self._headers[key]}, {text}"
        self._headers[key] = text

    def on_headers_complete(self) -> None:
        """Take the end of the headers."""
        status = self._parser.get_status_code()
        if status < 200 or self._reply is None or self._ended:
            return
        headers = self._headers
        self._in_head = False
        coding = headers.get("transfer-encoding")
        sized = "content-length" in headers if coding is None else "chunked" in coding.lower()
        self._until_close = not sized and status not in _NO_BODY
        self._reply.take_head(Head(status=status, headers=headers))

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._framing_bytes = 0
        if self._reply is not None and not self._ended:
            self._reply.take(data)

    def on_message_complete(self) -> None:
        """Take the end of a response."""
        if not self._in_head:  # that of an interim one is none
            self._ended = True
            self._stays = self._parser.should_keep_alive()
