"""One question and what came of it.

Theory of operation: a worker thread takes the events of the router and keeps them; any number of viewers look at a
snapshot, or wait for the next one. So a browser may be reloaded, or look elsewhere, while the answer goes on being
written, and a page never waits for a provider, only for the next fifty milliseconds. What may not live here: Streamlit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from fallback import activity
from fallback.core.errors import FallbackError, StreamBrokenError
from fallback.core.models import Answer, Delta, Event, Finished, Message
from fallback.router import AnswerStream, ModelRouter

__all__ = ["Options", "Seam", "Turn", "TurnState", "TurnView"]

SOURCE = "chat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is asked for besides the question. None: each provider's own setting."""

    model: str = "auto"
    system: str = ""
    temperature: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam:
    """A place in an answer where one provider broke off and another went on."""

    at: int
    """Characters before it."""
    before: str
    after: str


class TurnState(StrEnum):
    """How far a turn has come."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    """Somebody stopped it; the text so far is kept."""
    BROKEN = "broken"
    """The stream broke after text had come; the text is kept."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnView:
    """A turn at one moment."""

    question: str
    options: Options
    state: TurnState
    text: str
    events: tuple[Event, ...]
    """Everything but the pieces of text."""
    log: tuple[str, ...]
    """The activity log."""
    elapsed_s: float
    """From the question to the end, or to now."""
    attempt_s: float
    """Since the attempt under way began."""
    answer: Answer | None = None
    error: FallbackError | None = None
    seams: tuple[Seam, ...] = ()
    """Where the text goes over from one provider to the next."""

    @property
    def running(self) -> bool:
        """Whether more may come."""
        return self.state is TurnState.RUNNING


class Turn:
    """A question on its way. Safe for threads; `start` is called once."""

    def __init__(self, question: str, options: Options, *, repeats: int = 0) -> None:
        """Hold the question. `repeats` is how often it was asked before, its answers thrown away."""
        self.question = question
        self.options = options
        self.repeats = repeats
        self._changed = threading.Condition()
        self._state = TurnState.RUNNING
        self._pieces: list[str] = []
        self._voices: list[tuple[int, str]] = []
        """Who speaks from which character on."""
        self._events: list[Event] = []
        self._log: list[str] = []
        self._version = 0
        self._stopping = False
        self._stream: AnswerStream | None = None
        self._answer: Answer | None = None
        self._error: FallbackError | None = None
        self._began = time.monotonic()
        self._attempt_began = self._began
        self._ended: float | None = None

    def start(self, router: ModelRouter, history: Sequence[Message]) -> None:
        """Ask `router`, in the background. `history` is what was said before the question."""
        threading.Thread(
            target=self._work, args=(router, list(history)), name="fallback-chat", daemon=True
        ).start()

    def stop(self) -> None:
        """End it; the text so far is kept. Does nothing once it has ended."""
        with self._changed:
            if self._state is not TurnState.RUNNING:
                return
            self._stopping = True
            stream = self._stream
        if stream is not None:
            stream.close()

    def wait(self, seen: int, timeout_s: float) -> int:
        """Wait until there is more than at version `seen`, at most `timeout_s` seconds; return the version there is."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != seen, timeout_s)
            return self._version

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait until it has ended, at most `timeout_s` seconds; return whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self._state is not TurnState.RUNNING, timeout_s)

    @property
    def running(self) -> bool:
        """Whether the answer is still being written."""
        with self._changed:
            return self._state is TurnState.RUNNING

    @property
    def size(self) -> int:
        """How many characters it keeps, about."""
        with self._changed:
            return len(self.question) + len(self.options.system) + sum(map(len, self._pieces))

    def view(self) -> TurnView:
        """Return it as it is now."""
        with self._changed:
            now = time.monotonic() if self._ended is None else self._ended
            return TurnView(
                question=self.question,
                options=self.options,
                state=self._state,
                text="".join(self._pieces),
                events=tuple(self._events),
                log=tuple(self._log),
                elapsed_s=now - self._began,
                attempt_s=now - self._attempt_began,
                answer=self._answer,
                error=self._error,
                seams=tuple(
                    Seam(at=at, before=before, after=after)
                    for (_, before), (at, after) in pairwise(self._voices)
                ),
            )

    def messages(self) -> tuple[Message, ...]:
        """Return what later questions are told of it; nothing where it brought no text."""
        view = self.view()
        if not view.text.strip():
            return ()
        return ({"role": "user", "content": view.question}, {"role": "assistant", "content": view.text})

    def _work(self, router: ModelRouter, history: list[Message]) -> None:
        try:
            stream = router.stream(
                self.question,
                messages=history,
                system=self.options.system or None,
                model=self.options.model,
                temperature=self.options.temperature,
                max_tokens=self.options.max_tokens,
                source=SOURCE,
            )
            with stream:
                if self._attach(stream):
                    for event in stream:
                        self._take(event)
        except FallbackError as error:
            self._fail(error)
        finally:
            self._end()

    def _attach(self, stream: AnswerStream) -> bool:
        with self._changed:
            self._stream = stream
            return not self._stopping

    def _take(self, event: Event) -> None:
        with self._changed:
            match event:
                case Delta():
                    if event.text and (not self._voices or self._voices[-1][1] != event.provider):
                        self._voices.append((sum(map(len, self._pieces)), event.provider))
                    self._pieces.append(event.text)
                case Finished():
                    self._answer = event.answer
                    self._pieces = [event.answer.text]
                    self._log = list(event.answer.activity_log)
                case _:
                    self._events.append(event)
                    self._log.extend(activity.lines(event))
                    self._attempt_began = time.monotonic()
            self._advance()

    def _fail(self, error: FallbackError) -> None:
        with self._changed:
            self._error = error
            told = getattr(error, "activity_log", ())
            self._log = list(told) or [f"No answer: {error}"]

    def _end(self) -> None:
        """Say how it ended. An error that nobody expected is on its way to the thread's own report then."""
        with self._changed:
            self._stream = None
            if self._answer is not None:
                self._state = TurnState.DONE
            elif self._stopping:
                self._state, self._error = TurnState.STOPPED, None
                self._log.append("Stopped")
            elif isinstance(self._error, StreamBrokenError) and any(self._pieces):
                self._state = TurnState.BROKEN
            else:
                self._state = TurnState.FAILED
            self._ended = time.monotonic()
            self._advance()

    def _advance(self) -> None:
        self._version += 1
        self._changed.notify_all()
