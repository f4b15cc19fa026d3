"""The records of the last minutes, kept up to date from the log's tail.

Theory of operation: one lock. `refresh` takes in the new lines; whoever comes while another reads waits for it and
finds the reading fresh enough. `snapshot` is a function of the records and the running minute, so the one made last is
handed out again until a line came or the minute passed. Instants are the stamps of the lines: after a jump of the clock
the calls that now lie in the future, or too far back, are not counted.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import orjson

from fallback.recent.figures import (
    MINUTE_S,
    MinuteOutcomes,
    ProviderHealth,
    RequestFigures,
    provider_health,
    request_figures,
)
from fallback.recent.records import (
    CallRecord,
    ChangeRecord,
    LastError,
    RequestRecord,
    call_record,
    change_record,
    instant,
    last_error,
    request_record,
)
from fallback.recent.tail import LogTail
from fallback.usage_log.encode import SCHEMA
from fallback.usage_log.parse import Damaged, parse_line

__all__ = ["RecentActivity", "RecentSnapshot"]

T = TypeVar("T")

_FRESH_S = 0.5
"""A reading this young is as good as a new one."""
_LAST_CALLS = 30
_LAST_REQUESTS = 30
_LAST_CHANGES = 50
_ORDINARY_START = b'{"schema":'
_MOST_PROVIDERS = 256
"""Whose last error and success are remembered beyond the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentSnapshot:
    """What is known at one moment."""

    providers: tuple[ProviderHealth, ...]
    """Every provider that the log names, by name."""
    requests: RequestFigures
    """Of the window."""
    last_calls: tuple[CallRecord, ...]
    """The last 30, newest first, of whatever age; drills and probes included."""
    last_requests: tuple[RequestRecord, ...]
    """The last 30, newest first."""
    changes: tuple[ChangeRecord, ...]
    """The last 50, newest first."""
    minutes: int
    """Length of the window and of every sparkline."""
    start_ts: float
    """Beginning of the window and of the first minute of every sparkline, in Unix seconds."""
    since_ts: float
    """What the figures cover begins here: later than `start_ts` where the log grew faster than it is kept in memory."""
    damaged: int
    """Lines that could not be read, so far."""
    problem: str | None
    """Why the log cannot be read just now, in one sentence; None: it can."""

    def provider(self, name: str) -> ProviderHealth:
        """Return the figures of the provider `name`; empty ones where the log does not name it."""
        for health in self.providers:
            if health.name == name:
                return health
        return ProviderHealth(
            name=name,
            attempts=0,
            successes=0,
            failures=0,
            last_failure=None,
            success_rate=None,
            p50_s=None,
            p95_s=None,
            ttft_p50_s=None,
            ttft_p95_s=None,
            sparkline=(None,) * self.minutes,
            outcomes_per_minute=(MinuteOutcomes(),) * self.minutes,
            last_error=None,
            last_success_ts=None,
        )


class RecentActivity:
    """What the providers did in the last minutes, from the log in `folder`. Thread-safe; raises nothing.

    `window_s` is rounded up to whole minutes, the running one included, at most a day. At most `most_calls` calls are
    kept. `wall` gives Unix seconds, `monotonic` seconds for the pauses.
    """

    def __init__(
        self,
        folder: Path,
        *,
        window_s: float = 900.0,
        most_calls: int = 20_000,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raise ValueError for a window that is not above 0 and at most a day, and for less than one call."""
        if not 0 < window_s <= 86_400 or most_calls < 1:
            raise ValueError(f"window_s={window_s}, most_calls={most_calls}: out of range")
        self._minutes = math.ceil(window_s / MINUTE_S)
        self._most_calls = most_calls
        self._wall = wall
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._tail = LogTail(folder, monotonic=monotonic)
        self._read_at: float | None = None
        self._calls: deque[CallRecord] = deque()
        self._requests: deque[RequestRecord] = deque(maxlen=most_calls)
        self._last_calls: deque[CallRecord] = deque(maxlen=_LAST_CALLS)
        self._last_requests: deque[RequestRecord] = deque(maxlen=_LAST_REQUESTS)
        self._changes: deque[ChangeRecord] = deque(maxlen=_LAST_CHANGES)
        self._last_errors: dict[str, LastError] = {}
        self._last_successes: dict[str, float] = {}
        self._damaged = 0
        self._problem: str | None = None
        self._covered_from = -math.inf
        """Calls that ended before this instant may be missing; infinity: before the next line."""
        self._closed = False
        self._version = 0
        self._made: dict[bool, tuple[tuple[int, int], RecentSnapshot]] = {}

    def refresh(self) -> None:
        """Take in what was appended to the log since the last time; nothing where that is under 0.5 s ago."""
        with self._lock:
            if self._closed or self._fresh():
                return
            new = self._tail.read()
            if new.gap:
                # Figures of a stretch with a hole in it would lean to whatever lies on either side.
                self._calls.clear()
                self._requests.clear()
                self._covered_from = math.inf
            for line in new.lines:
                if line and not line.isspace():
                    self._take(line)
            self._damaged += new.too_long
            if new.lines or new.too_long or new.gap or new.problem != self._problem:
                self._version += 1
            self._problem = new.problem
            self._forget_old()
            self._read_at = self._monotonic()

    def snapshot(self, *, include_drills: bool = False) -> RecentSnapshot:
        """Return the figures as of the last refresh; with `include_drills`, injected faults count like real ones."""
        with self._lock:
            key = (self._version, self._minute())
            made = self._made.get(include_drills)
            if made is None or made[0] != key:
                made = self._made[include_drills] = (key, self._snapshot(key[1], include_drills))
            return made[1]

    def close(self) -> None:
        """Close the files for good: the figures stay, a later refresh reads nothing."""
        with self._lock:
            self._closed = True
            self._tail.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fresh(self) -> bool:
        return self._read_at is not None and 0 <= self._monotonic() - self._read_at < _FRESH_S

    def _minute(self) -> int:
        return int(self._wall() // MINUTE_S)

    def _snapshot(self, minute: int, include_drills: bool) -> RecentSnapshot:
        start_ts = (minute - self._minutes + 1) * MINUTE_S
        return RecentSnapshot(
            providers=provider_health(
                self._calls,
                minute=minute,
                minutes=self._minutes,
                include_drills=include_drills,
                last_errors=self._last_errors,
                last_successes=self._last_successes,
            ),
            requests=request_figures(self._requests, minute=minute, minutes=self._minutes),
            last_calls=tuple(reversed(self._last_calls)),
            last_requests=tuple(reversed(self._last_requests)),
            changes=tuple(reversed(self._changes)),
            minutes=self._minutes,
            start_ts=start_ts,
            since_ts=max(start_ts, min(self._covered_from, (minute + 1) * MINUTE_S)),
            damaged=self._damaged,
            problem=self._problem,
        )

    def _take(self, line: bytes) -> None:
        fields = _fields(line)
        if isinstance(fields, Damaged):
            self._damaged += 1
            return
        if fields.get("schema") != SCHEMA:
            return  # the original text format, or fields of another meaning
        try:
            ts = instant(fields)
            if self._covered_from == math.inf:
                self._covered_from = ts
            match fields.get("kind"):
                case "attempt":
                    self._take_call(fields, call_record(fields, ts))
                case "request":
                    self._take_request(request_record(fields, ts))
                case "state":
                    self._changes.append(change_record(fields, ts))
        except ValueError:
            self._damaged += 1

    def _take_request(self, request: RequestRecord) -> None:
        self._last_requests.append(request)
        self._requests.append(request)

    def _take_call(self, fields: Mapping[str, object], call: CallRecord) -> None:
        self._last_calls.append(call)
        self._calls.append(call)
        if len(self._calls) > self._most_calls:
            self._covered_from = max(self._covered_from, self._calls.popleft().ts)
        if call.outcome == "ok":
            if not call.drill:
                _remember(self._last_successes, call.provider, call.ts)
        elif call.outcome != "cancelled":
            _remember(self._last_errors, call.provider, last_error(fields, call))

    def _forget_old(self) -> None:
        start_ts = (self._minute() - self._minutes + 1) * MINUTE_S
        while self._calls and self._calls[0].ts < start_ts:
            self._calls.popleft()
        while self._requests and self._requests[0].ts < start_ts:
            self._requests.popleft()


def _fields(line: bytes) -> dict[str, object] | Damaged:
    # Some thousand lines are read before a page first shows, so the ordinary one takes the fast decoder.
    if line.startswith(_ORDINARY_START):
        try:
            fields: dict[str, object] = orjson.loads(line)
        except orjson.JSONDecodeError:
            return parse_line(line)
        return fields
    return parse_line(line)


def _remember(memory: dict[str, T], name: str, value: T) -> None:
    """Put `name` last, and drop the first where there are too many."""
    memory.pop(name, None)
    memory[name] = value
    if len(memory) > _MOST_PROVIDERS:
        del memory[next(iter(memory))]
