"""ModelRouter and AsyncModelRouter: two thin drivers of one loop.

All that decides anything is in `loop` and `core`; what is here carries their commands out, with threads and requests, or
with an event loop and aiohttp.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
    Sequence,
)
from pathlib import Path
from typing import Any, Self

from fallback.config import Settings, load
from fallback.core.errors import TransportError
from fallback.core.models import Answer, ChatRequest, Event, Finished, Message
from fallback.core.plan import known_models
from fallback.core.roster import Permit, ProviderStatus
from fallback.intake import chat_request, new_request_id
from fallback.loop import Close, Exchange, Probe, ProbeCourse, Read, RoutingContext, Send, Sleep
from fallback.switchboard import Switchboard
from fallback.transport import AsyncResponse, AsyncTransport, Cancellation, Response, Transport
from fallback.wiring import Wiring, assemble

__all__ = ["AnswerStream", "AsyncAnswerStream", "AsyncModelRouter", "ModelRouter", "get_router", "set_router"]

Config = str | Path | Settings | Wiring
Sleeper = Callable[[float], object]
AsyncSleeper = Callable[[float], Awaitable[object]]
BeginProbe = Callable[[Permit], None]
Course = Exchange | ProbeCourse

TEST_PROMPT = "Reply with the word OK."
TEST_TOKENS = 16
TEST_DEADLINE_S = 20.0


class _Router:
    """What both routers have in common: the wiring, and the providers' state."""

    def __init__(self, config: Config) -> None:
        self._owns = not isinstance(config, Wiring)
        self._closed = False
        if isinstance(config, Wiring):
            self.wiring = config
        else:
            settings = config if isinstance(config, Settings) else load(config)
            self.wiring = assemble(settings)
            self.wiring.start()

    @property
    def context(self) -> RoutingContext:
        """What every request shares."""
        return self.wiring.context

    def _exchange(self, request: ChatRequest, *, live: bool) -> Exchange:
        if self._closed:
            raise RuntimeError("this router is closed")
        return Exchange(request, self.context, live=live)

    def _probe_course(self, permit: Permit) -> ProbeCourse:
        return ProbeCourse(permit, self.context, new_request_id())

    def status(self) -> tuple[ProviderStatus, ...]:
        """Return the state of every provider, in the order asked."""
        return self.context.roster.status(self.context.clock())

    def ready(self) -> bool:
        """Return whether some provider may be asked now."""
        return self.context.roster.ready(self.context.clock())

    def models(self) -> tuple[str, ...]:
        """Return everything that `model` may name: auto, the routes, the providers, their models."""
        return known_models(self.context.roster)

    @property
    def switchboard(self) -> Switchboard:
        """Switches, drills, order and cooldowns of the providers."""
        return self.wiring.switchboard

    def set_enabled(self, provider: str, enabled: bool, *, by: str = "python") -> None:
        """Switch `provider` on or off; the next request sees it. Raises KeyError for an unknown name."""
        self.switchboard.set_enabled(provider, enabled, by=by)

    def _test_exchange(self, provider: str) -> Exchange:
        if self._closed:
            raise RuntimeError("this router is closed")
        if provider not in self.context.roster.providers:
            raise KeyError(provider)
        request = chat_request(TEST_PROMPT, max_tokens=TEST_TOKENS, deadline_s=TEST_DEADLINE_S, source="test")
        return Exchange(request, self.context, live=False, only=provider)


class AnswerStream(Iterator[Event]):
    """The events of one answer, as they happen; the last one is Finished.

    Iterating raises NoAnswerError where no provider gave a whole answer. `close()` may be called from any thread: it ends
    the call to the provider at once, and the iteration.
    """

    def __init__(
        self, exchange: Exchange, transport: Transport, probe: BeginProbe, sleep: Sleeper | None = None
    ) -> None:
        self.request_id = exchange.request.request_id
        self._cancellation = Cancellation()
        self._events = _drive(
            exchange, transport, self._cancellation, sleep or self._cancellation.sleep, probe
        )

    def __next__(self) -> Event:
        return next(self._events)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it. What another thread is waiting for ends at once; the iteration there stops."""
        self._cancellation.cancel()
        try:
            self._events.close()
        except ValueError:
            return  # another thread is inside: it notices the cancellation by itself


def _drive(
    whole: Course, transport: Transport, cancellation: Cancellation, sleep: Sleeper, probe: BeginProbe
) -> Generator[Event, None, None]:
    course = whole.run()
    response: Response | None = None
    result: Any = None
    try:
        while not cancellation.cancelled:
            try:
                command = course.send(result)
            except StopIteration:
                return
            result = None
            match command:
                case Send():
                    try:
                        response = transport.send(
                            command.request,
                            connect_s=command.connect_s,
                            limit_s=command.limit_s,
                            cancellation=cancellation,
                        )
                        result = response.head
                    except TransportError as error:
                        result = error
                case Read() if response is not None:
                    try:
                        result = response.read(command.limit_s)
                    except TransportError as error:
                        result = error
                case Close() | Read():
                    if response is not None:
                        response.close()
                    response = None
                case Sleep():
                    sleep(command.seconds)
                case Probe():
                    probe(command.permit)
                case _:
                    yield command
    finally:
        if response is not None:
            cancellation.cancel()  # nobody reads the rest: the provider is to stop at once
            response.close()
        cancellation.attach(None)
        course.close()


class ModelRouter(_Router):
    """Asks the providers in their order until one gives a whole answer. Safe for threads.

    `config` is the path of providers.yaml, or its Settings; the embedded model then begins to load in the background.
    A Wiring is shared with other routers and not closed by this one. `transport` and `sleep` are replaced by tests.
    Raises ConfigError, with every problem in it.
    """

    def __init__(
        self,
        config: Config = "providers.yaml",
        *,
        transport: Transport | None = None,
        sleep: Sleeper | None = None,
    ) -> None:
        super().__init__(config)
        self._transport = transport or self.wiring.transport()
        self._sleep = sleep
        self._probes: dict[threading.Thread, Cancellation] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def invoke(
        self, prompt: str | None = None, *, messages: Sequence[Message] | None = None, **options: Any
    ) -> Answer:
        """Return the answer to `prompt` or `messages`.

        `options` are those of `intake.chat_request`: system, model, temperature (0 to 2), max_tokens, deadline_s
        (seconds), extra (further parameters of the chat completions call). Raises RequestError for wrong arguments,
        UnknownModelError, and NoAnswerError where no provider gave an answer.
        """
        request = chat_request(prompt, messages=messages, **options)
        return self._whole(self._exchange(request, live=False))

    def stream(
        self, prompt: str | None = None, *, messages: Sequence[Message] | None = None, **options: Any
    ) -> AnswerStream:
        """Return the events of the answer as they happen; arguments and exceptions as for `invoke`.

        The exceptions of NoAnswerError come from the iteration.
        """
        return self.ask(chat_request(prompt, messages=messages, **options))

    def test(self, provider: str) -> Answer:
        """Ask `provider` alone one small question, even where it is resting or disabled; an answer makes it ready.

        Raises KeyError for an unknown name, and NoAnswerError as `invoke` does.
        """
        return self._whole(self._test_exchange(provider))

    def _whole(self, exchange: Exchange) -> Answer:
        with AnswerStream(exchange, self._transport, self._begin_probe, self._sleep) as events:
            for event in events:
                if isinstance(event, Finished):
                    return event.answer
        raise AssertionError("a course ends with Finished or with an exception")

    def ask(self, request: ChatRequest) -> AnswerStream:
        """Return the events of the answer to `request`. Raises UnknownModelError."""
        exchange = self._exchange(request, live=True)
        return AnswerStream(exchange, self._transport, self._begin_probe, self._sleep)

    def _begin_probe(self, permit: Permit) -> None:
        course, cancellation = self._probe_course(permit), Cancellation()

        def run() -> None:
            try:
                for _ in _drive(course, self._transport, cancellation, cancellation.sleep, self._begin_probe):
                    pass
            finally:
                course.abandon()
                self._probes.pop(threading.current_thread(), None)

        thread = threading.Thread(target=run, name="fallback-probe", daemon=True)
        self._probes[thread] = cancellation
        try:
            thread.start()
        except RuntimeError:  # no thread to be had, or the interpreter is ending
            del self._probes[thread]
            course.abandon()

    def wait_for_probes(self) -> None:
        """Wait until every probe under way has come to its end."""
        for thread in tuple(self._probes):
            thread.join()

    def close(self) -> None:
        """End what is under way, the connections, and the embedded model where this router started it."""
        self._closed = True
        for cancellation in tuple(self._probes.values()):
            cancellation.cancel()
        self._transport.close()
        if self._owns:
            self.wiring.close()


class AsyncAnswerStream(AsyncIterator[Event]):
    """The events of one answer, as they happen; see AnswerStream. Cancelling the task that iterates ends it as well."""

    def __init__(
        self,
        exchange: Exchange,
        transport: AsyncTransport,
        probe: BeginProbe,
        sleep: AsyncSleeper = asyncio.sleep,
    ) -> None:
        self.request_id = exchange.request.request_id
        self._events = _drive_async(exchange, transport, sleep, probe)

    async def __anext__(self) -> Event:
        return await anext(self._events)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End it, and the call to the provider."""
        await self._events.aclose()


async def _drive_async(
    whole: Course, transport: AsyncTransport, sleep: AsyncSleeper, probe: BeginProbe
) -> AsyncGenerator[Event, None]:
    course = whole.run()
    response: AsyncResponse | None = None
    result: Any = None
    try:
        while True:
            try:
                command = course.send(result)
            except StopIteration:
                return
            result = None
            match command:
                case Send():
                    try:
                        response = await transport.send(
                            command.request, connect_s=command.connect_s, limit_s=command.limit_s
                        )
                        result = response.head
                    except TransportError as error:
                        result = error
                case Read() if response is not None:
                    try:
                        result = await response.read(command.limit_s)
                    except TransportError as error:
                        result = error
                case Close() | Read():
                    if response is not None:
                        await response.close()
                    response = None
                case Sleep():
                    await sleep(command.seconds)
                case Probe():
                    probe(command.permit)
                case _:
                    yield command
    finally:
        if response is not None:
            response.abort()
        course.close()


class AsyncModelRouter(_Router):
    """ModelRouter for one event loop: the same loop, driven with aiohttp."""

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
        async with AsyncAnswerStream(exchange, self._transport, self._begin_probe, self._sleep) as events:
            async for event in events:
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
        return AsyncAnswerStream(exchange, self._transport, self._begin_probe, self._sleep)

    def _begin_probe(self, permit: Permit) -> None:
        course = self._probe_course(permit)
        task = asyncio.get_running_loop().create_task(self._probe(course))
        self._probes.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._probes.discard(task)
            course.abandon()  # one that is cancelled before its first step never runs

        task.add_done_callback(ended)

    async def _probe(self, course: ProbeCourse) -> None:
        async for _ in _drive_async(course, self._transport, self._sleep, self._begin_probe):
            pass

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
        if self._owns:
            self.wiring.close()


_router: ModelRouter | None = None


def get_router() -> ModelRouter:
    """Return the router of this process; RuntimeError where none was set."""
    if _router is None:
        raise RuntimeError("no router is set: the program sets one when it starts")
    return _router


def set_router(router: ModelRouter | None) -> None:
    """Set the router of this process. Tests set their own."""
    global _router  # noqa: PLW0603 - the one mutable thing at module level, style rule 14
    _router = router
