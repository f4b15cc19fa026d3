"""The events of an answer as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Theory of operation: one task takes events from the router and writes them; a second one writes a comment where nothing
was written for a while. The status line goes out with the first thing that a provider does, so that a request nobody can
be asked about still gets a status of its own. The last event is `done` or `error`, never both.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fallback import activity
from fallback.api.attend import CallerGoneError, attended
from fallback.api.closing import Closing
from fallback.api.encode import JsonResponse, event_object, json_text
from fallback.api.errors import ErrorReply, Refusal, settle
from fallback.core.models import CandidateSkipped, Delta, Event
from fallback.router import AsyncAnswerStream

__all__ = ["KEEP_ALIVE_S", "EventStream"]

KEEP_ALIVE_S = 10.0
"""Silence after which a comment is written, so that nobody in between takes the connection for dead."""

LAST_WORD_S = 1.0
"""The same for the word that the program ends."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class EventStream(Response):
    """The answer to one request, streamed. Closes `events` however it ends."""

    def __init__(
        self, events: AsyncAnswerStream, closing: Closing, *, keep_alive_s: float, send_limit_s: float
    ) -> None:
        super().__init__()
        self._events = events
        self._closing = closing
        self._keep_alive_s = keep_alive_s
        self._send_limit_s = send_limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the whole stream."""
        pump = _Pump(self._events, scope, receive, send, self._keep_alive_s, self._send_limit_s)
        try:
            await attended(pump.run(), scope, receive, self._closing)
        except CallerGoneError:
            return
        except Refusal as refusal:
            await pump.end(refusal)
        finally:
            await self._events.aclose()


class _Pump:
    """Takes events and writes them."""

    def __init__(
        self,
        events: AsyncAnswerStream,
        scope: Scope,
        receive: Receive,
        send: Send,
        keep_alive_s: float,
        send_limit_s: float,
    ) -> None:
        self._events = events
        self._scope = scope
        self._receive = receive
        self._send = send
        self._keep_alive_s = keep_alive_s
        self._send_limit_s = send_limit_s
        self._lock = asyncio.Lock()
        self._begun = False
        self._written = 0.0
        self._activity: list[str] = []

    async def run(self) -> None:
        """Write until the answer is whole or there is none. Raises CallerGoneError."""
        keeping_alive = asyncio.create_task(self._keep_alive())
        try:
            await self._run()
        finally:
            keeping_alive.cancel()
            await asyncio.gather(keeping_alive, return_exceptions=True)

    async def end(self, refusal: Refusal) -> None:
        """End it before its time; where the caller takes nothing any more, silently."""
        reply = ErrorReply(
            status=refusal.status,
            error=str(refusal),
            error_type=refusal.error_type,
            request_id=self._events.request_id,
            activity_log=tuple(self._activity),
            headers=refusal.headers,
        )
        with contextlib.suppress(CallerGoneError, TimeoutError):
            async with asyncio.timeout(LAST_WORD_S):
                await self._fail(reply)

    async def _run(self) -> None:
        held: list[Event] = []
        while True:
            event = await settle(anext(self._events, None), self._events.request_id)
            match event:
                case None:
                    await self._write("", more=False)
                    return
                case ErrorReply():
                    await self._fail(event)
                    return
                case CandidateSkipped() if not self._begun:
                    held.append(event)
                case Delta(text=""):
                    pass
                case _:
                    await self._write("".join(self._told(each) for each in (*held, event)))
                    held.clear()

    def _told(self, event: Event) -> str:
        self._activity.extend(activity.lines(event))
        return _event_text(*event_object(event))

    async def _fail(self, reply: ErrorReply) -> None:
        if self._begun:
            await self._write(_event_text("error", reply.body()), more=False)
        else:
            response = JsonResponse(reply.body(), reply.status, dict(reply.headers))
            await response(self._scope, self._receive, self._send)

    async def _write(self, text: str, *, more: bool = True) -> None:
        try:
            async with asyncio.timeout(self._send_limit_s), self._lock:
                if not self._begun:
                    self._begun = True
                    await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                self._written = asyncio.get_running_loop().time()
                body = text.encode("utf-8", "replace")
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
        except (TimeoutError, OSError) as error:
            raise CallerGoneError from error

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            left_s = self._written + self._keep_alive_s - loop.time() if self._begun else self._keep_alive_s
            if left_s > 0:
                await asyncio.sleep(left_s)
            elif self._begun:
                await self._write(": keep-alive\n\n")


def _event_text(name: str, data: object) -> str:
    return f"event: {name}\ndata: {json_text(data)}\n\n"
