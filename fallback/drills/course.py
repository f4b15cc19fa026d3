"""The course of one drilled call, without I/O: two generators that a transport obeys.

Theory of operation: `start(limit_s)` ends with the head, `read(limit_s)` with the next bytes; both raise DrilledError
as the real transports raise TransportError, and yield what has to be done meanwhile:

    Pause(seconds)   -> None; never longer than what is left of the limit
    Ask(limit_s)     -> Head: the call goes to the provider after all
    Take(limit_s)    -> bytes: the next ones of the provider's answer

What may not live here: threads, event loops, clocks, the board.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

import orjson

from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.core.values import valueclass
from fallback.drills.drill import Drill, DrillKind
from fallback.drills.scenes import Scene, good_scene, scene_of
from fallback.providers.base import WireRequest
from fallback.transport.base import Head

__all__ = [
    "Ask",
    "Command",
    "Course",
    "DrilledError",
    "DrilledHead",
    "Pause",
    "Take",
    "course_of",
    "drill_of",
]

SLICE_BYTES = 32
LEAST_S = 0.001
_LATE = {
    Phase.HEADERS: "no answer in time (drill)",
    Phase.BODY: "silence in the middle of the answer (drill)",
}
_EVENT_END = re.compile(rb"\r?\n\r?\n")


@valueclass(frozen=True, slots=True, kw_only=True)
class DrilledHead(Head):
    """The head of a response that a drill made up or slowed down."""

    drill: DrillKind


class DrilledError(TransportError):
    """A call that a drill did not let finish."""

    def __init__(self, kind: FailureKind, phase: Phase, detail: str, drill: DrillKind) -> None:
        super().__init__(kind, phase, detail)
        self.drill = drill


def drill_of(reply: Head | TransportError) -> DrillKind | None:
    """Return the drill behind what a transport's `send` gave or raised; None: it is the provider's own doing."""
    return reply.drill if isinstance(reply, DrilledHead | DrilledError) else None


@dataclass(frozen=True, slots=True)
class Pause:
    """Let time pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ask:
    """Send the request to the provider."""

    limit_s: float


@dataclass(frozen=True, slots=True)
class Take:
    """Read from the provider's answer."""

    limit_s: float


Command = Pause | Ask | Take


class Course(Protocol):
    """One call, as a transport carries it out."""

    def start(self, limit_s: float) -> Generator[Command, Any, Head]:
        """Come to the head. Raises DrilledError, after `limit_s` at the latest."""

    def read(self, limit_s: float) -> Generator[Command, Any, bytes]:
        """Come to the next bytes, b"" at the end. Raises DrilledError, after `limit_s` at the latest."""


def course_of(drill: Drill, request: WireRequest, *, strikes: bool, reachable: bool) -> Course | None:
    """Return how a call of a provider with `drill` goes; None: as if there were no drill.

    `strikes` says whether the drill is for this call, `reachable` whether the provider can be asked at all.
    """
    kind, amount = drill.kind, drill.value or 0.0
    if not strikes:
        if reachable:
            return None
        return _Staged(kind, good_scene(model=_model(request), streamed=request.streamed))
    if reachable and kind is DrillKind.SLOW_FIRST_TOKEN:
        return _Slowed(kind, first_s=amount, each_s=0.0)
    if reachable and kind is DrillKind.TRICKLE:
        return _Slowed(kind, first_s=amount, each_s=amount)
    return _Staged(kind, scene_of(kind, amount, model=_model(request), streamed=request.streamed))


def _model(request: WireRequest) -> str:
    try:
        model = orjson.loads(request.body).get("model")
    except (ValueError, AttributeError):
        model = None
    return model if isinstance(model, str) else "drill"


class _Delay:
    """A wait that may be longer than the limit of one read: the next read goes on with what is left of it."""

    def __init__(self, kind: DrillKind, seconds: float) -> None:
        self.seconds = seconds
        self._kind = kind

    def within(self, limit_s: float, phase: Phase) -> Generator[Command, Any, float]:
        """Let it pass and return what is left of `limit_s`. Raises DrilledError where that is not enough."""
        if self.seconds > limit_s:
            self.seconds -= limit_s
            yield Pause(limit_s)
            raise DrilledError(FailureKind.TIMEOUT, phase, _LATE[phase], self._kind)
        passed, self.seconds = self.seconds, 0.0
        if passed > 0:
            yield Pause(passed)
        return limit_s - passed


class _Staged:
    """A call that never leaves this program."""

    def __init__(self, kind: DrillKind, scene: Scene) -> None:
        self._kind = kind
        self._scene = scene
        self._body = deque((_Delay(kind, piece.after_s), piece.data) for piece in scene.body)

    def start(self, limit_s: float) -> Generator[Command, Any, Head]:
        head = self._scene.head
        if head is not None:
            return DrilledHead(status=head.status, headers=head.headers, drill=self._kind)
        self._break()
        yield from _Delay(self._kind, inf).within(limit_s, Phase.HEADERS)
        raise AssertionError("nobody waits for ever")

    def read(self, limit_s: float) -> Generator[Command, Any, bytes]:
        if not self._body:
            self._break()
            return b""
        delay, data = self._body[0]
        yield from delay.within(limit_s, Phase.BODY)
        self._body.popleft()
        return data

    def _break(self) -> None:
        broken = self._scene.broken
        if broken is not None:
            raise DrilledError(broken.kind, broken.phase, broken.detail, self._kind)


class _Slowed:
    """A call that goes to the provider, whose answer is passed on with waits. Its refusals are passed on at once."""

    def __init__(self, kind: DrillKind, *, first_s: float, each_s: float) -> None:
        self._kind = kind
        self._delay = _Delay(kind, first_s)
        self._each_s = each_s
        self._events = False
        self._held = b""

    def start(self, limit_s: float) -> Generator[Command, Any, Head]:
        head: Head = yield Ask(limit_s)
        self._events = head.headers.get("content-type", "").lower().startswith("text/event-stream")
        if head.status >= 300:
            self._delay.seconds = self._each_s = 0.0
        return DrilledHead(status=head.status, headers=head.headers, drill=self._kind)

    def read(self, limit_s: float) -> Generator[Command, Any, bytes]:
        left_s = yield from self._delay.within(limit_s, Phase.BODY)
        if not self._held:
            self._held = yield Take(max(LEAST_S, left_s))
        if not self._each_s:
            data, self._held = self._held, b""
            return data
        self._delay.seconds = self._each_s if self._held else 0.0
        size = self._piece_size()
        data, self._held = self._held[:size], self._held[size:]
        return data

    def _piece_size(self) -> int:
        """Return how much of what is held comes next: one event of a stream, or a small slice of anything else."""
        if not self._events:
            return SLICE_BYTES
        end = _EVENT_END.search(self._held)
        return end.end() if end else len(self._held)
