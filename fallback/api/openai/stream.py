"""A streamed completion on its way to the caller, as server-sent events.

https://html.spec.whatwg.org/multipage/server-sent-events.html

Theory of operation: the task of the request takes events from the router and writes chunks. The head of the response waits
for the first piece of the answer, so that a failure of everybody has a status of its own and the headers can name who
answers; where that takes longer than the keep-alive, the head goes out without. One timer looks after the silence: it has a
comment written where nothing was for a while, and takes a caller who does not read for gone. Nothing is set up per chunk.

A stream that breaks ends with an error in OpenAI's shape, without a finish_reason and without [DONE].
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from starlette.types import Receive, Scope, Send

from fallback import activity
from fallback.api.attend import CallerGoneError, attended
from fallback.api.closing import Closing
from fallback.api.errors import ErrorReply, Refusal, error_reply, settle
from fallback.api.openai.chunks import Chunks
from fallback.api.openai.errors import error_object, error_reply_of
from fallback.api.openai.reply import json_bytes
from fallback.api.sse import LAST_WORD_S
from fallback.core.models import AttemptStarted, Delta, Event, Finished
from fallback.router import AsyncAnswerStream

__all__ = ["CompletionStream"]

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_KEEP_ALIVE = b": keep-alive\n\n"


class CompletionStream:
    """One streamed completion. `serve` is called once, and closes `events` however it ends."""

    def __init__(
        self,
        events: AsyncAnswerStream,
        chunks: Chunks,
        send: Send,
        *,
        keep_alive_s: float,
        send_limit_s: float,
    ) -> None:
        self._events = events
        self._chunks = chunks
        self._send = send
        self._keep_alive_s = keep_alive_s
        self._send_limit_s = send_limit_s
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._begun = False
        self._ended = False
        self._attempt: AttemptStarted | None = None
        self._activity: list[str] = []
        self._written = 0.0
        self._sending_since: float | None = None
        self._patience = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None
        self._beat: asyncio.Task[None] | None = None

    async def serve(self, scope: Scope, receive: Receive, closing: Closing) -> None:
        """Write the whole stream."""
        try:
            await attended(self._run(), scope, receive, closing)
        except CallerGoneError:
            return
        except Refusal as refusal:
            await self._last_word(refusal)
        finally:
            await self._events.aclose()

    async def _run(self) -> None:
        self._written = self._loop.time()
        self._look_in(self._keep_alive_s)
        try:
            async with self._patience:
                outcome = await settle(self._pass_on(), self._events.request_id)
                if isinstance(outcome, ErrorReply):
                    await self._fail(outcome)
        except (TimeoutError, OSError) as error:
            raise CallerGoneError from error
        finally:
            for each in (self._timer, self._beat):
                if each is not None:
                    each.cancel()

    async def _pass_on(self) -> None:
        """Write what the router tells, to the end."""
        async for event in self._events:
            match event:
                case Delta():
                    piece = self._chunks.piece(event)
                    if piece and not await self._write(piece, event.provider):
                        return
                case Finished():
                    await self._write(self._chunks.end(event.answer), event.answer.provider, more=False)
                case _:
                    self._take_note(event)

    def _take_note(self, event: Event) -> None:
        if isinstance(event, AttemptStarted):
            self._attempt = event
        self._activity.extend(activity.lines(event))

    async def _write(self, body: bytes, provider: str | None = None, *, more: bool = True) -> bool:
        """Write `body`; `provider` is who answers, None where that is not known yet. False: the caller is gone."""
        try:
            async with self._lock:
                if not self._begun:
                    self._begun, self._sending_since = True, self._loop.time()
                    headers = self._headers(provider)
                    await self._send({"type": "http.response.start", "status": 200, "headers": headers})
                await self._write_on(body, more=more)
        except OSError:
            return False
        return True

    async def _write_on(self, body: bytes, *, more: bool) -> None:
        self._ended = not more
        self._sending_since = self._loop.time()
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
        self._sending_since, self._written = None, self._loop.time()

    def _headers(self, provider: str | None) -> list[tuple[bytes, bytes]]:
        headers = list(_HEADERS)
        if self._attempt is not None:
            headers.append((b"x-fallback-attempts", b"%d" % self._attempt.number))
        if provider is not None:
            degraded = self._attempt is not None and self._attempt.degraded
            headers.append((b"x-fallback-provider", provider.encode()))
            headers.append((b"x-fallback-degraded", b"true" if degraded else b"false"))
        return headers

    async def _fail(self, reply: ErrorReply) -> None:
        async with self._lock:
            if self._ended:
                return
            if self._begun:
                await self._write_on(b"data: " + json_bytes(error_object(reply)) + b"\n\n", more=False)
            else:
                self._begun = self._ended = True
                await error_reply_of(reply).send(self._send)

    async def _last_word(self, refusal: Refusal) -> None:
        """End it before its time; where the caller takes nothing any more, silently."""
        reply = replace(error_reply(refusal, self._events.request_id), activity_log=tuple(self._activity))
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(LAST_WORD_S):
                await self._fail(reply)

    def _look_in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Look whether it has been silent for too long, or whether what was sent is not taken."""
        now = self._loop.time()
        if self._sending_since is not None:
            left_s = self._sending_since + self._send_limit_s - now
            if left_s <= 0:
                self._patience.reschedule(now)
                return
        else:
            left_s = self._written + self._keep_alive_s - now
            if left_s <= 0:
                self._beat = self._loop.create_task(self._keep_alive())
                left_s = self._keep_alive_s
        self._look_in(min(left_s, self._keep_alive_s))

    async def _keep_alive(self) -> None:
        await self._write(_KEEP_ALIVE)
