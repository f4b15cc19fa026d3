"""AsyncModelRouter: the driver for one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Self

from fallback.core.errors import TransportError
from fallback.core.models import Answer, ChatRequest, Event, Finished, Message
from fallback.core.roster import Permit
from fallback.intake import chat_request
from fallback.loop import Aside, Close, Exchange, Probe, ProbeCourse, Read, Send, Sleep
from fallback.router.base import BaseRouter, BeginProbe, Config, Course
from fallback.transport import AsyncResponse, AsyncTransport

__all__ = ["AsyncAnswerStream", "AsyncModelRouter"]

AsyncSleeper = Callable[[float], Awaitable[object]]


class _Drive:
    """A course that is carried out, from one of its events to the next."""

    __slots__ = ("_course", "_probe", "_response", "_sleep", "_stops_at_each", "_transport")

    def __init__(
        self,
        whole: Course,
        transport: AsyncTransport,
        sleep: AsyncSleeper,
        probe: BeginProbe,
        *,
        stops_at_each: bool,
    ) -> None:
        """Stop at each event, or with `stops_at_each` False at Finished alone."""
        self._course = whole.run()
        self._stops_at_each = stops_at_each
        self._transport = transport
        self._sleep = sleep
        self._probe = probe
        self._response: AsyncResponse | None = None

    async def go_on(self) -> Event | None:
        """Return the next event to stop at, None after the last.

        At the end, and where the course raises or this is cancelled, all is ended; who stops before has to call `end`.
        """
        result: Any = None
        try:
            while True:
                try:
                    command = self._course.send(result)
                except StopIteration:
                    break
                result = None
                try:
                    match command:
                        case Send():
                            self._response = await self._transport.send(
                                command.request, connect_s=command.connect_s, limit_s=command.limit_s
                            )
                            result = self._response.head
                        case Read() if self._response is not None:
                            result = await self._response.read(command.limit_s)
                        case Close() | Read():
                            if self._response is not None:
                                await self._response.close()
                            self._response = None
                        case Sleep() | Probe() | Aside():
                            result = await self._obey(command)
                        case _ if self._stops_at_each or isinstance(command, Finished):
                            return command
                except TransportError as error:
                    result = error
        except BaseException:
            self.end()
            raise
        self.end()
        return None

    async def _obey(self, command: Sleep | Probe | Aside) -> object:
        """Do what has nothing to do with a call."""
        match command:
            case Sleep():
                await self._sleep(command.seconds)
            case Probe():
                self._probe(command.permit)
            case Aside():
                return await asyncio.to_thread(command.work)
        return None

    def end(self) -> None:
        """End the course, and the call that is under way for it. Safe to call twice."""
        response, self._response = self._response, None
        if response is not None:
            response.abort()
        self._course.close()


class AsyncAnswerStream(AsyncIterator[Event]):
    """The events of one answer, as they happen; see AnswerStream. Cancelling the task that iterates ends it as well."""

    def __init__(
        self,
        exchange: Exchange,
        transport: AsyncTransport,
        probe: BeginProbe,
        sleep: AsyncSleeper = asyncio.sleep,
    ) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        """Where it is iterated, while it is."""
        self._waits = False
        self.request_id = exchange.request.request_id
        self._drive = _Drive(exchange, transport, sleep, probe, stops_at_each=True)

    async def __anext__(self) -> Event:
        if self._waits:
            raise RuntimeError("the next event of this answer is waited for already")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._waits = True
        event: Event | None = None
        try:
            event = await self._drive.go_on()
        finally:
            self._waits = False
            if event is None:  # it is over, however that came about
                self._loop = None
        if event is None:
            raise StopAsyncIteration
        return event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End it, and the call to the provider. RuntimeError while another task waits for its next event."""
        if self._waits:
            raise RuntimeError("the next event of this answer is still waited for")
        self.abandon()

    def abandon(self) -> None:
        """End it where nobody goes on with it, on the event loop that it belongs to; whoever waits in it is let be."""
        if not self._waits:
            self._loop = None
            self._drive.end()

    def __del__(self) -> None:
        # Left in the middle. Whoever collects it may be another thread, which must not touch a connection.
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and its connections with it
                self._loop.call_soon_threadsafe(self._drive.end)


class AsyncModelRouter(BaseRouter):
    """ModelRouter for one event loop: the same loop, driven with async and await."""

    def __init__(
        self,
        config: Config = "providers.yaml",
        *,
        transport: AsyncTransport | None = None,
        sleep: AsyncSleeper = asyncio.sleep,
    ) -> None:
        super().__init__(config)
        self._transport = transport or self.wiring.async_transport()
        self._sleep = sleep
        self._probes: set[asyncio.Task[None]] = set()
        self._streams: weakref.WeakSet[AsyncAnswerStream] = weakref.WeakSet()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def invoke(
        self, prompt: str | None = None, *, messages: Sequence[Message] | None = None, **options: Any
    ) -> Answer:
        """Return the answer; see ModelRouter.invoke."""
        return await self.answer(chat_request(prompt, messages=messages, **options))

    async def answer(self, request: ChatRequest) -> Answer:
        """Return the answer to `request`. Raises UnknownModelError and NoAnswerError."""
        return await self._whole(self._exchange(request, live=False))

    async def test(self, provider: str) -> Answer:
        """Ask `provider` alone one small question; see ModelRouter.test."""
        return await self._whole(self._test_exchange(provider))

    async def _whole(self, exchange: Exchange) -> Answer:
        drive = _Drive(exchange, self._transport, self._sleep, self._begin_probe, stops_at_each=False)
        event = await drive.go_on()
        drive.end()
        if isinstance(event, Finished):
            return event.answer
        raise AssertionError("a course ends with Finished or with an exception")

    def stream(
        self, prompt: str | None = None, *, messages: Sequence[Message] | None = None, **options: Any
    ) -> AsyncAnswerStream:
        """Return the events of the answer as they happen; see ModelRouter.stream."""
        return self.ask(chat_request(prompt, messages=messages, **options))

    def ask(self, request: ChatRequest) -> AsyncAnswerStream:
        """Return the events of the answer to `request`. Raises UnknownModelError."""
        exchange = self._exchange(request, live=True)
        stream = AsyncAnswerStream(exchange, self._transport, self._begin_probe, self._sleep)
        self._streams.add(stream)
        return stream

    def _begin_probe(self, permit: Permit) -> None:
        course = self._probe_course(permit)
        task = asyncio.get_running_loop().create_task(self._probe(course))
        self._probes.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._probes.discard(task)
            course.abandon()  # one that is cancelled before its first step never runs

        task.add_done_callback(ended)

    async def _probe(self, course: ProbeCourse) -> None:
        await _Drive(course, self._transport, self._sleep, self._begin_probe, stops_at_each=False).go_on()

    async def wait_for_probes(self) -> None:
        """Wait until every probe under way has come to its end."""
        await asyncio.gather(*tuple(self._probes), return_exceptions=True)

    async def aclose(self) -> None:
        """End what is under way beside requests, the connections, and the embedded model where this router started it."""
        self._closed = True
        probes = tuple(self._probes)
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        await self._transport.close()
        for stream in tuple(self._streams):
            stream.abandon()
        if self._owns:
            self.wiring.close()
