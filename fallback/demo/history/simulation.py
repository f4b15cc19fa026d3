"""The requests of a history, each carried out as the routers do it, while no time passes really.

Theory of operation: an `Exchange` says what it wants; of that only `Send`, `Read` and `Sleep` take time, and a request
that waits for one of them stands in the timeline until it comes. Limits are kept as the transports keep them. A caller
who leaves closes the generator, in the middle of whatever it waits for. The probes that requests bring about run beside
them in the same way.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator
from random import Random
from typing import Any, Final

from fallback.core.errors import FailureKind, NoAnswerError, Phase, TransportError
from fallback.core.models import AttemptStarted, Candidate, ChatRequest
from fallback.core.roster import Permit
from fallback.demo.history.callers import Visit
from fallback.demo.history.replies import Piece, Replies, Reply
from fallback.demo.history.timeline import Timeline
from fallback.demo.history.world import World
from fallback.drills import Drill, DrilledError
from fallback.loop import Aside, Command, Exchange, Probe, ProbeCourse, Read, Send, Sleep
from fallback.transport.base import Head

__all__ = ["Simulation"]

_PROMPT: Final = ({"role": "user", "content": "What is the capital of Japan?"},)

_Came = tuple[float, Head | TransportError | bytes]
"""What comes of a command, after so many seconds."""


_PROBE: Final = Visit(
    at_s=0.0,
    source="probe",
    model="",
    stream=False,
    input_tokens=14,
    output_tokens=1,
    max_tokens=1,
    deadline_s=20.0,
)
"""What a probe asks; the router says the rest of it."""


class _Course:
    """One request or probe on its way."""

    __slots__ = ("body", "broken", "candidate", "drill", "over", "run", "visit")

    def __init__(self, visit: Visit, run: Generator[Command, Any, None]) -> None:
        self.visit = visit
        self.run = run
        self.candidate: Candidate
        """Who is being asked."""
        self.drill: Drill | None = None
        """What strikes the call under way."""
        self.body: Iterator[Piece] = iter(())
        self.broken: TransportError | None = None
        self.over = False


class Simulation:
    """Carries out the requests of `visits`. `run()` is called once."""

    def __init__(
        self, world: World, timeline: Timeline, *, replies: Replies, visits: Iterator[Visit], draw: Random
    ) -> None:
        self._world = world
        self._timeline = timeline
        self._replies = replies
        self._visits = visits
        self._draw = draw
        self._under_way: dict[_Course, None] = {}

    def run(self, *, until_s: float) -> None:
        """Let everything happen, up to `until_s` after the beginning; what is under way then is ended."""
        self._await_next()
        self._timeline.run(until_s=until_s)
        for course in tuple(self._under_way):
            self._leave(course)

    def _await_next(self) -> None:
        visit = next(self._visits, None)
        if visit is not None:
            self._timeline.at(visit.at_s, functools.partial(self._ask, visit))

    def _ask(self, visit: Visit) -> None:
        self._await_next()
        request = ChatRequest(
            request_id=self._new_id(),
            messages=_PROMPT,
            model=visit.model,
            max_tokens=visit.max_tokens,
            deadline_s=visit.deadline_s,
            source=visit.source,
        )
        course = _Course(visit, Exchange(request, self._world.context, live=visit.stream).run())
        if visit.leaves_after_s is not None:
            self._timeline.at(visit.at_s + visit.leaves_after_s, functools.partial(self._leave, course))
        self._begin(course)

    def _probe(self, permit: Permit) -> None:
        course = _Course(_PROBE, ProbeCourse(permit, self._world.context, self._new_id()).run())
        course.candidate = permit.candidate
        # Its turn comes when whoever began it waits for something.
        self._timeline.at(self._timeline.now, functools.partial(self._begin, course))

    def _begin(self, course: _Course) -> None:
        self._under_way[course] = None
        self._go_on(course, None)

    def _leave(self, course: _Course) -> None:
        if not course.over:
            course.run.close()
            self._end(course)

    def _end(self, course: _Course) -> None:
        course.over = True
        self._under_way.pop(course, None)

    def _new_id(self) -> str:
        return f"{self._draw.getrandbits(128):032x}"

    def _go_on(self, course: _Course, came: object) -> None:
        """Tell a request what came, and let it go on until it waits for what takes time."""
        if course.over:
            return
        now = self._timeline.now
        try:
            while True:
                command = course.run.send(came)
                match command:
                    case AttemptStarted():
                        course.candidate = self._world.candidates[command.provider, command.model]
                        came = None
                        continue
                    case Probe():
                        self._probe(command.permit)
                        came = None
                        continue
                    case Aside():
                        came = command.work()
                        continue
                    case Send():
                        after_s, came = self._send(course, command)
                    case Read():
                        after_s, came = self._read(course, command)
                    case Sleep():
                        after_s, came = command.seconds, None
                    case _:
                        came = None
                        continue
                if after_s > 0:
                    self._timeline.at(now + after_s, functools.partial(self._go_on, course, came))
                    return
        except (StopIteration, NoAnswerError):
            self._end(course)

    def _send(self, course: _Course, command: Send) -> _Came:
        course.drill = self._world.drill(course.candidate)
        reply = self._reply(course, streamed=command.request.streamed)
        course.body, course.broken = iter(reply.body), reply.broken
        if reply.head is None or reply.after_s > command.limit_s:
            return command.limit_s, _late(course, Phase.HEADERS)
        return reply.after_s, reply.head

    def _reply(self, course: _Course, *, streamed: bool) -> Reply:
        if course.drill is not None:
            return self._replies.drilled(course.drill, course.candidate, streamed=streamed)
        return self._replies.reply(course.visit, course.candidate, now=self._timeline.now, streamed=streamed)

    @staticmethod
    def _read(course: _Course, command: Read) -> _Came:
        piece = next(course.body, None)
        if piece is None:
            return 0.0, course.broken or b""
        if piece.after_s > command.limit_s:
            return command.limit_s, _late(course, Phase.BODY)
        return piece.after_s, piece.data


def _late(course: _Course, phase: Phase) -> TransportError:
    text = "no answer in time" if phase is Phase.HEADERS else "silence in the middle of the answer"
    if course.drill is not None:
        return DrilledError(FailureKind.TIMEOUT, phase, f"{text} (drill)", course.drill.kind)
    return TransportError(FailureKind.TIMEOUT, phase, text)
