"""The whole router in simulated time: many requests and probes interleaved, without a thread or a socket.

Theory of operation: a world has one clock and one queue of what happens when. It drives the courses of `fallback.loop` as
the routers do, but where those wait a world puts the rest of the course into the queue, so the order of everything is exact
and comes out the same each time. `Watch` (watch.py) sits beside it, sees what the providers see and what the log says, and
objects to what may not be.

What may not live here: what providers do (weather), what is right and wrong (watch).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any

from watch import Asked, Scope, Visit, Watch
from weather import Habits, Reply, SimulatedProvider, Weather

from fallback.core.errors import FailureKind, NoAnswerError, Phase, TransportError
from fallback.core.models import (
    AttemptFailed,
    AttemptStarted,
    ChatRequest,
    Delta,
    Event,
    Finished,
)
from fallback.core.policy import RoutingPolicy
from fallback.core.roster import Permit, Roster
from fallback.loop import Aside, Close, Exchange, Probe, ProbeCourse, Read, Send, Sleep
from fallback.providers.settings import ModelSettings, ProviderSettings
from fallback.testing import FakeClock, scripted_wiring

__all__ = ["Asked", "Provider", "World", "in_order"]

BEGAN = 1000.0
THREAD_S = 0.0005
"""Until a background probe is on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A provider as it is configured, and what becomes of it."""

    schedule: tuple[tuple[float, Weather], ...] = ()
    habits: Habits = field(default_factory=Habits)
    models: int = 1
    prefills: bool = True
    streams: bool = True
    """Whether it is asked for streams."""
    embedded: bool = False


class World:
    """Providers by name in their order, a router for them, and time."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        *,
        policy: RoutingPolicy | None = None,
        jitter: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.clock = FakeClock(BEGAN)
        self.began = BEGAN
        self.providers = {
            name: SimulatedProvider(name, provider.schedule, provider.habits)
            for name, provider in providers.items()
        }
        wiring, _ = scripted_wiring(
            [_settings(name, provider) for name, provider in providers.items()],
            clock=self.clock,
            policy=policy,
            jitter=jitter,
            record=lambda line: self.watch.note_line(line),
        )
        self.context = wiring.context
        for name, provider in providers.items():
            if provider.embedded:
                self.roster.set_unavailable(name, None)
        self.watch = Watch(self.roster, self.providers, self.clock)
        self.asked: list[Asked] = []
        """Every request, in the order in which they began."""
        self.open_replies = 0
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._ticks = count()
        self._ids = count(1)

    @property
    def roster(self) -> Roster:
        """The state behind the router."""
        return self.context.roster

    @property
    def now(self) -> float:
        """Seconds since it began."""
        return self.clock.now - BEGAN

    def at(self, instant: float, what: Callable[[], object]) -> None:
        """Let `what` happen at `instant`, in seconds since the world began."""
        heappush(self._queue, (instant + BEGAN, next(self._ticks), what))

    def after(self, seconds: float, what: Callable[[], object]) -> None:
        """Let `what` happen in `seconds` from now."""
        self.at(self.now + seconds, what)

    def run(self) -> None:
        """Let everything happen that is to happen."""
        while self._queue:
            instant, _, what = heappop(self._queue)
            self.clock.now = max(self.clock.now, instant)
            what()
            self.watch.look()

    def ask(
        self,
        *,
        deadline_s: float = 60.0,
        live: bool = True,
        only: str | None = None,
        leave_after_s: float | None = None,
        leave_at_event: int | None = None,
        close_after_s: float | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Asked:
        """Begin a request now. Its caller leaves after some seconds, or at an event; or the router is closed then."""
        request = ChatRequest(
            request_id=f"r{next(self._ids)}",
            messages=({"role": "user", "content": "Say them."},),
            deadline_s=deadline_s,
            extra=extra or {},
        )
        asked = Asked(request=request, began=self.clock.now, live=live, only=only)
        self.asked.append(asked)
        self.watch.asked(asked)
        course = Exchange(request, self.context, live=live, only=only)
        drive = _Drive(self, course.run(), asked, leave_at_event=leave_at_event)
        if leave_after_s is not None:
            self.after(leave_after_s, drive.leave)
        if close_after_s is not None:
            self.after(close_after_s, drive.cancel)
        drive.go(None)
        return asked

    def begin_probe(self, permit: Permit) -> None:
        """Let a background probe begin, as soon as a thread is there for it; one that is booked looks later, or never."""
        booked = permit.not_before is not None and permit.not_before > self.clock.now
        probed = frozenset() if booked else self.watch.probe_begins(permit.candidate.key, background=True)
        course = ProbeCourse(permit, self.context, f"p{next(self._ids)}")
        drive = _Drive(self, course.run(), None, probed=probed)
        self.after(THREAD_S, lambda: drive.go(None))

    def end_by_hand(self, provider: str) -> None:
        """End the cooldowns of `provider` by hand."""
        self.roster.end_cooldown(provider, by="test")
        self.watch.ended_by_hand(provider)

    def switch(self, provider: str, *, on: bool) -> None:
        """Throw the switch of `provider`."""
        self.roster.set_enabled(provider, on, by="test")
        (self.watch.off.discard if on else self.watch.off.add)(provider)


class _Drive:
    """What a router does with a course, one command after the other."""

    def __init__(
        self,
        world: World,
        course: Generator[Any, Any, None],
        asked: Asked | None,
        *,
        probed: frozenset[Scope] = frozenset(),
        leave_at_event: int | None = None,
    ) -> None:
        self._world = world
        self._course = course
        self._asked = asked
        self._leave_at = leave_at_event
        self._events = 0
        self._over = False
        self._cancelled = False
        self._reply: Reply | None = None
        self._visit: Visit | None = None
        self._probed = probed
        self._turn: object = None
        """Of what was waited for last: what comes of anything else is out of date."""

    def go(self, result: Any) -> None:
        """Go on with what came of the last command."""
        while not self._over:
            try:
                command = self._course.send(result)
            except StopIteration:
                self._end()
                return
            except NoAnswerError as error:
                assert self._asked is not None
                self._asked.error = error
                self._end()
                return
            result = None
            match command:
                case Send():
                    self._send(command)
                    return
                case Read():
                    assert self._reply is not None, "a read without a response"
                    self._later(*self._reply.read(self._world.clock.now, command.limit_s))
                    return
                case Close():
                    self._close()
                case Sleep():
                    self._later(self._world.clock.now + command.seconds, None)
                    return
                case Aside():
                    result = command.work()
                case Probe():
                    self._world.begin_probe(command.permit)
                case _:
                    self._event(command)

    def leave(self) -> None:
        """Go away: nobody waits for what is under way."""
        if not self._over:
            self._course.close()
            if self._asked is not None:
                self._asked.left = True
            self._end()

    def cancel(self) -> None:
        """Close the router: what is under way ends as cancelled."""
        if not self._over:
            self._cancelled = True
            assert self._asked is not None
            self._asked.left = True
            if self._visit is not None:
                self._turn = None
                self.go(TransportError(FailureKind.CANCELLED, Phase.BODY, "closed"))

    def _later(self, instant: float, result: Any) -> None:
        if self._visit is not None and self._cancelled:
            result, instant = (
                TransportError(FailureKind.CANCELLED, Phase.BODY, "closed"),
                self._world.clock.now,
            )
        self._turn = turn = object()

        def go_on() -> None:
            if self._over or self._turn is not turn:
                return
            if isinstance(result, Reply):
                self._reply = result
                self._world.open_replies += 1
                self.go(result.head)
            else:
                self.go(result)

        self._world.at(instant - BEGAN, go_on)

    def _send(self, command: Send) -> None:
        world = self._world
        if self._asked is None and not self._probed:
            key = (command.request.provider, str(json.loads(command.request.body)["model"]))
            self._probed = world.watch.probe_begins(key, background=True)
        self._visit = world.watch.sent(command, self._asked, probe=bool(self._probed))
        at, came = world.providers[command.request.provider].call(command, world.now)
        self._later(at + BEGAN, came)

    def _close(self) -> None:
        if self._reply is not None:
            self._reply.closed = True
            self._reply = None
            self._world.open_replies -= 1

    def _event(self, event: Event) -> None:
        asked, watch = self._asked, self._world.watch
        assert asked is not None, "a background probe tells nobody anything"
        self._events += 1
        match event:
            case AttemptStarted():
                if event.probe:
                    self._probed = watch.probe_begins((event.provider, event.model), background=False)
            case AttemptFailed():
                assert self._reply is None, "an attempt ended and its response was not closed"
                self._attempt_ends()
            case Delta():
                watch.delivered(event, asked)
            case Finished():
                assert self._reply is None, "an attempt ended and its response was not closed"
                asked.answer = event.answer
                self._attempt_ends()
        if self._events == self._leave_at:
            self.leave()

    def _attempt_ends(self) -> None:
        self._visit = None
        self._world.watch.probe_ends(self._probed)
        self._probed = frozenset()

    def _end(self) -> None:
        self._over = True
        self._close()  # what a caller who left had not read to its end
        self._attempt_ends()
        if self._asked is not None:
            self._asked.ended = self._world.clock.now
            self._world.watch.request_ends(self._asked)


def _settings(name: str, provider: Provider) -> ProviderSettings:
    return ProviderSettings(
        name=name,
        type="local" if provider.embedded else "openai",
        endpoint="" if provider.embedded else f"http://{name}.invalid/v1/chat/completions",
        models=tuple(ModelSettings(name=f"{name}-{number}") for number in range(1, provider.models + 1)),
        needs_key=False,
        supports_prefill=provider.prefills,
        stream_upstream=provider.streams,
    )


def in_order(*providers: Provider) -> dict[str, Provider]:
    """Return `providers` named a, b, c, ..."""
    return {chr(ord("a") + place): provider for place, provider in enumerate(providers)}
