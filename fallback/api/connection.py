"""One HTTP connection, held to limits that uvicorn does not have.

Theory of operation: uvicorn's protocol, which parses and answers, stands between small additions. What comes in is
counted until the headers of a request are whole, and what is sent ahead of an answer is left in the kernel. What uvicorn sends
goes through `Outgoing`; a whole answer that a route has ready goes past it and past ASGI (`answer`). And once a second
`Connections` looks at each open connection: headers that do not come to an end, a caller who takes nothing of an answer,
a connection on which nothing happens. One timer for all of them, so that a request pays nothing for it.

A request finds its connection under `LINE_KEY` in its state, and can have itself told when that is lost.

The limits come with the lifespan's state, under `STATE_KEY`; without them a connection is as uvicorn made it. How long a body
may take is the matter of `limits`, which can still answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.types import Scope
from uvicorn.protocols.http import auto

from fallback.api.attend import LINE_KEY
from fallback.api.connections import STATE_KEY, Connections
from fallback.api.incoming import MAX_AHEAD_BYTES, PIECE_BYTES, Reading, asks_for_websocket, without_offer
from fallback.api.outgoing import Outgoing, send_unasked
from fallback.config import ApiSettings

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as Base
else:
    # That of httptools where it is installed, else that of h11: what is used here they have in common.
    Base = auto.AutoHTTPProtocol

_STATUS_LINES: Mapping[int, bytes] | None = None
"""What a response begins with, by its status. None: the server is h11, which has to be told all that is sent."""
with contextlib.suppress(ImportError):
    from uvicorn.protocols.http.httptools_impl import STATUS_LINE

    _STATUS_LINES = STATUS_LINE

__all__ = ["GuardedProtocol", "guard_streamlit"]

LAST_SEND_S = 2.0
"""How long the end of the program waits for a caller to take something of what is still to be sent."""

LINGER_S = 2.0
LINGER_BYTES = 8 * 1024 * 1024
"""How long, and how much, is still taken of a body after its refusal. A connection that is closed while something on it has not
been read is reset, and takes the answer with it (RFC 9112, section 9.6)."""

_END_OF_HEAD = b"\r\n\r\n"
_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class GuardedProtocol(Base):
    """uvicorn's protocol with limits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._guard: Connections | None = self.app_state.get(STATE_KEY)
        self._since = 0.0
        """When this connection became idle."""
        self._busy = False
        """Whether a request has begun since the last look."""
        self._head_bytes = 0
        """What has come of a request whose headers are not whole."""
        self._head_since = 0.0
        self._tail = b""
        self._beside_bytes = 0
        """What has come since a request began, or since a piece of its body, that was neither."""
        if _STATUS_LINES is None:
            self.pipeline: deque[Any] = deque()  # h11 has none: nobody waits
        self._under_way: Any = None
        """The request that is being answered, where others have come behind it."""
        self._held = bytearray()
        """What is to be parsed once the requests before it have begun."""
        self._fed = b""
        """What the parser is being given."""
        self._again = b""
        """What it is to be given next, in the place of the rest of that."""
        self._unsent = 0
        self._unsent_since = 0.0
        self._watchers: set[Callable[[], None]] | None = set()
        """Who is told when the connection is lost; None once it is."""
        self._outgoing: Outgoing | None = None
        self._linger_bytes: int | None = None
        """How much is still to be thrown away; None where this connection is not at its end."""
        self.app_state = {**self.app_state, LINE_KEY: self}
        if self._guard is not None:
            self.timeout_keep_alive = self._guard.limits.keep_alive_timeout_s

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self.flow = Reading(transport, self._held)
        self._outgoing = Outgoing(transport, self.loop, self._close)
        self._since = self._unsent_since = self.loop.time()
        if self._guard is not None and not self._guard.add(self):
            self._refuse(503, "There are too many connections: try again later.")

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if self._guard is not None:
            self._guard.discard(self)
        super().connection_lost(exc)
        if self._outgoing is not None:
            self._outgoing.lose()
        self._held.clear()
        if self._under_way is not None and not self._under_way.response_complete:
            # uvicorn tells it to the last request alone, and takes the silence of another for an error.
            self._under_way.disconnected = True
            self._under_way.message_event.set()
        self.app_state = {}
        watchers, self._watchers = self._watchers, None
        for lost in tuple(watchers or ()):
            lost()

    @property
    def is_received(self) -> bool:
        """Whether every request that has begun is here with its whole body; see Line."""
        cycle: Any = self.cycle
        return cycle is not None and not cycle.more_body

    def watch(self, lost: Callable[[], None]) -> None:
        """Call `lost` when the connection ends; see Line."""
        if self._watchers is None:
            self.loop.call_soon(lost)
            return
        self._watchers.add(lost)
        # The end of a connection is noticed by reading, which a long body may have stopped.
        self.flow.resume_reading()

    def unwatch(self, lost: Callable[[], None]) -> None:
        """Do not call `lost` any more."""
        if self._watchers is not None:
            self._watchers.discard(lost)

    def answer(self, scope: Scope, status: int, headers: bytes, body: bytes) -> bool:
        """Send the whole response at once; see Line.

        Through ASGI it costs four calls, and each header is looked at twice: a twelfth of a whole request.
        """
        cycle: Any = self.cycle
        if _STATUS_LINES is None or self._outgoing is None or not self._takes_at_once(cycle, scope):
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        self._outgoing.flush()  # an interim response, which begins as a head does
        first = _rendered(tuple(self.server_state.default_headers))
        self.transport.write(b"".join((_STATUS_LINES[status], first, headers, b"\r\n", body)))
        cycle.message_event.set()
        cycle.on_response()
        return True

    def _takes_at_once(self, cycle: Any, scope: Scope) -> bool:
        """Return whether the response to the request of `scope` can go out now, and the connection stays open after it."""
        return (
            cycle.scope is scope  # not so where another request was sent behind it
            and cycle.keep_alive
            and scope["method"] != "HEAD"
            and not (cycle.more_body or cycle.response_started or cycle.disconnected)
            and not (self.flow.write_paused or self.transport.is_closing())
        )

    def on_headers_complete(self) -> None:
        """Begin a request."""
        before = self.cycle
        super().on_headers_complete()
        cycle: Any = self.cycle
        if cycle is not None and self._outgoing is not None:
            cycle.transport = self._outgoing  # all that it uses of one
        self.headers = []  # a trailer is not to be among those of the request
        if self.expect_100_continue and cycle is not None and cycle.waiting_for_100_continue:
            cycle.send = functools.partial(send_unasked, cycle, cycle.send)
        if self.pipeline:
            if len(self.pipeline) == 1:
                self._under_way = before
            self.flow.resume_reading()  # or nobody would notice that the connection is lost

    def on_message_complete(self) -> None:
        """Take the end of a body, also of one whose answer is out."""
        cycle: Any = self.cycle
        if self.parser.should_upgrade():
            return  # the body has not been looked for
        cycle.more_body = False
        cycle.message_event.set()
        if cycle.response_complete:
            self._head_bytes = 0  # what comes next is of a head again

    def on_response_complete(self) -> None:
        """Go on after an answer. That the next request is late is seen by `check`, without a timer of its own."""
        # h11 has to be told more, and has no pipeline.
        if self._guard is None or _STATUS_LINES is None or self.pipeline or self.transport.is_closing():
            if self.pipeline:
                self._under_way = self.pipeline[-1][0]
            super().on_response_complete()
            if self._held:
                self._go_on()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Take in what came."""
        if self.pipeline or len(data) > PIECE_BYTES:
            self._held += data
            self._go_on()
        else:
            self._take(data)

    def _go_on(self) -> None:
        """Take in what is held, until a request waits for the one before it."""
        while self._held and not self.pipeline:
            piece = bytes(self._held[:PIECE_BYTES])
            del self._held[:PIECE_BYTES]
            self._take(piece)
            if self.transport.is_closing() or self.transport.get_protocol() is not self:
                self._held.clear()
        if len(self._held) > MAX_AHEAD_BYTES:
            self.flow.pause_reading()

    def _take(self, data: bytes) -> None:
        if self._linger_bytes is not None:
            self._linger_bytes -= len(data)
            if self._linger_bytes < 0:
                self.transport.abort()
            return
        guard = self._guard
        cycle: Any = self.cycle  # None before the first request, whatever its type says
        if guard is None:
            self._parse(data)
            return
        if cycle is not None and not cycle.response_complete:
            self._take_more(cycle, data, guard)
            return
        if not self._head_bytes:
            self._head_since = self.loop.time()
        self._head_bytes += len(data)
        if self._head_bytes > guard.limits.max_header_bytes and not self._head_ends(data, guard.limits):
            guard.cut_off += 1
            if cycle is not None and cycle.more_body:
                self.transport.abort()  # the rest of a body that nobody wants, after its answer
            else:
                self._refuse(431, f"The headers are longer than {guard.limits.max_header_bytes} bytes.")
            return
        self._parse(data)
        if self.cycle is not cycle:
            self._head_bytes, self._beside_bytes, self._tail, self._busy = 0, 0, b"", True
        elif self.transport.get_protocol() is not self:
            guard.discard(self)  # it is a WebSocket from now on
        else:
            self._tail = data[-3:]

    def _take_more(self, cycle: Any, data: bytes, guard: Connections) -> None:
        """Take what comes before the answer of `cycle` is out: the rest of its body, or what is sent behind it."""
        had, behind = len(cycle.body), not cycle.more_body
        self._parse(data)
        if self.cycle is not cycle or len(cycle.body) > had:
            self._beside_bytes = 0
            return
        self._beside_bytes += len(data)
        if behind and self._beside_bytes > MAX_AHEAD_BYTES and not self.transport.is_closing():
            self.flow.pause_reading()  # uvicorn reads on once the answer is out
        elif cycle.more_body and self._beside_bytes > guard.limits.max_header_bytes:
            guard.cut_off += 1
            self.transport.abort()  # a trailer without end, or as much between two pieces of a body

    def _parse(self, data: bytes) -> None:
        self._fed = data
        super().data_received(data)
        while self._again:
            self._fed, self._again = self._again, b""
            super().data_received(self._fed)
        self._fed = b""

    def _should_upgrade(self) -> bool:
        """Return that an offer of another protocol is not passed over; asked by httptools' protocol for each."""
        return _STATUS_LINES is not None or super()._should_upgrade()

    def handle_websocket_upgrade(self, *event: Any) -> None:
        """Go on as a WebSocket where that is offered and can be; else answer the request as if nothing were."""
        if _STATUS_LINES is None:
            super().handle_websocket_upgrade(*event)
            return
        scope: Any = self.scope
        cycle: Any = self.cycle
        if scope["method"] == "CONNECT":
            self.send_400_response("CONNECT is for proxies.")
        elif (
            self.ws_protocol_class is not None
            and (cycle is None or cycle.response_complete)
            and asks_for_websocket(scope["method"], scope["headers"])
        ):
            super().handle_websocket_upgrade()
        else:
            stopped: Any = sys.exception()  # with the place where the parser stopped
            head = without_offer(scope["method"], self.url, scope["http_version"], scope["headers"])
            self._again = head + self._fed[stopped.args[0] :]

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            # In the middle of another answer nothing can be said any more.
            self.transport.abort()
        else:
            self._refuse(400, msg)

    def shutdown(self) -> None:
        """End as the server does; a caller who takes nothing of what is left is not waited for."""
        if self._outgoing is not None:
            self._outgoing.flush()
        super().shutdown()
        self.loop.call_later(LAST_SEND_S, self._leave_unread, self.transport.get_write_buffer_size())

    def _leave_unread(self, unsent: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left and left >= unsent:
            self.transport.abort()

    def _close(self) -> None:
        """Close it after an answer: at once, or where a body is still coming, when the caller has had time to read."""
        cycle: Any = self.cycle
        # Another request behind the answered one is not to be begun on a connection that takes no answer any more.
        coming = cycle.more_body and cycle.response_complete
        if not coming or self.transport.is_closing() or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._linger_bytes = LINGER_BYTES
        self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(LINGER_S, self.transport.close)

    def check(self, now: float) -> None:
        """End this connection where it is over its time at the instant `now`."""
        guard = self._guard
        if guard is None:
            return
        limits = guard.limits
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        elif now - self._unsent_since >= limits.send_timeout_s:
            guard.cut_off += 1
            self.transport.abort()
            return
        cycle: Any = self.cycle
        if self.transport.is_closing() or (cycle is not None and not cycle.response_complete):
            return
        if self._busy:
            self._busy, self._since = False, now
        if self._head_bytes and now - self._head_since >= limits.header_timeout_s:
            guard.cut_off += 1
            if cycle is not None and cycle.more_body:
                self.transport.abort()  # the rest of a body, after its answer: another one is not to follow
                return
            self._refuse(408, f"The headers were not there within {limits.header_timeout_s:g} s.")
        elif not self._head_bytes and now - self._since >= limits.keep_alive_timeout_s:
            self.transport.close()

    def _head_ends(self, data: bytes, limits: ApiSettings) -> bool:
        """Return whether the headers end in that part of `data` that is within the limit."""
        allowed = limits.max_header_bytes - (self._head_bytes - len(data))
        return allowed > 0 and _END_OF_HEAD in self._tail + data[:allowed]

    def _refuse(self, status: int, sentence: str) -> None:
        if self._outgoing is not None:
            self._outgoing.flush()
        body = sentence.encode()
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: text/plain; charset=utf-8\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


@functools.lru_cache(maxsize=1)
def _rendered(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Return the headers that the server puts before all others, as lines: the date, which changes once a second."""
    return b"".join(name + b": " + value + b"\r\n" for name, value in headers)


def guard_streamlit() -> None:
    """Let the server that Streamlit starts use GuardedProtocol: it takes what uvicorn's `auto` names, and no other."""
    auto.AutoHTTPProtocol = GuardedProtocol
