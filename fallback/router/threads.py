"""ModelRouter: the driver for threads, over requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Self

from fallback.core.errors import TransportError
from fallback.core.models import Answer, ChatRequest, Event, Finished, Message
from fallback.core.roster import Permit
from fallback.intake import chat_request
from fallback.loop import Aside, Close, Exchange, Probe, Read, Send, Sleep
from fallback.router.base import BaseRouter, BeginProbe, Config, Course
from fallback.transport import Cancellation, Response, Transport

__all__ = ["AnswerStream", "ModelRouter"]

Sleeper = Callable[[float], object]


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
        if self._owns:
            self.wiring.close()
