"""ModelRouter: the driver for threads, over requests."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, Self

from fallback.core.errors import TransportError
from fallback.core.models import Answer, ChatRequest, Event, Finished, Message
from fallback.core.roster import Permit
from fallback.intake import chat_request
from fallback.loop import Aside, Close, Exchange, Probe, Read, Send, Sleep
from fallback.router.base import BaseRouter, BeginProbe, Config, Course
from fallback.transport import Cancellation, Response, Transport

__all__ = ["AnswerStream", "ModelRouter"]

LEAVINGS_S = 2.0
"""How long the end of a router waits for the ends of streams that were left in the middle."""

Sleeper = Callable[[float], object]


class _Leavings:
    """Ends the streams that were left in the middle, on a thread of its own.

    They are collected wherever an object is made, under any lock of this program, and ending one takes those locks.
    """

    def __init__(self) -> None:
        self._left: SimpleQueue[Generator[Event, None, None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, stream: AnswerStream, events: Generator[Event, None, None]) -> weakref.finalize[Any, Any]:
        """See that `events` come to their end once `stream` is gone."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_end_all, args=(self._left,), name="fallback-leavings", daemon=True
                )
                self._thread.start()
        watched = weakref.finalize(stream, self._left.put, events)
        watched.atexit = False
        return watched

    def close(self) -> None:
        """End what has been left so far, and then the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._left.put(None)
            thread.join(LEAVINGS_S)


def _end_all(left: SimpleQueue[Generator[Event, None, None] | None]) -> None:
    while (events := left.get()) is not None:
        events.close()


class AnswerStream(Iterator[Event]):
    """The events of one answer, as they happen; the last one is Finished.

    Iterating raises NoAnswerError where no provider gave a whole answer. `close()` may be called from any thread: it ends
    the call to the provider at once, and the iteration.
    """

    def __init__(
        self,
        exchange: Exchange,
        transport: Transport,
        probe: BeginProbe,
        sleep: Sleeper | None = None,
        leavings: _Leavings | None = None,
    ) -> None:
        """`leavings` sees to its end where the caller does not; None: the caller does."""
        self.request_id = exchange.request.request_id
        self._cancellation = Cancellation()
        self._events = _drive(
            exchange, transport, self._cancellation, sleep or self._cancellation.sleep, probe
        )
        self._watched = None if leavings is None else leavings.watch(self, self._events)

    def __next__(self) -> Event:
        try:
            return next(self._events)
        except BaseException:
            self._forget()
            raise

    def _forget(self) -> None:
        if self._watched is not None:
            self._watched.detach()

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
        self._forget()


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
            try:
                match command:
                    case Send():
                        response = transport.send(
                            command.request,
                            connect_s=command.connect_s,
                            limit_s=command.limit_s,
                            cancellation=cancellation,
                        )
                        result = response.head
                    case Read() if response is not None:
                        result = response.read(command.limit_s)
                    case Close() | Read():
                        if response is not None:
                            response.close()
                        response = None
                    case Sleep():
                        sleep(command.seconds)
                    case Probe():
                        probe(command.permit)
                    case Aside():
                        result = command.work()
                    case _:
                        yield command
            except TransportError as error:
                result = error
    finally:
        if response is not None:
            cancellation.cancel()  # nobody reads the rest: the provider is to stop at once
            response.close()
        cancellation.attach(None)
        course.close()


class ModelRouter(BaseRouter):
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
        self._leavings = _Leavings()

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
        return AnswerStream(exchange, self._transport, self._begin_probe, self._sleep, self._leavings)

    def _begin_probe(self, permit: Permit) -> None:
        course, cancellation = self._probe_course(permit), Cancellation()
        sleep = self._sleep or cancellation.sleep

        def run() -> None:
            try:
                for _ in _drive(course, self._transport, cancellation, sleep, self._begin_probe):
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
        self._leavings.close()
        if self._owns:
            self.wiring.close()
