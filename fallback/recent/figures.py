"""Rates, quantiles and minutes of the last calls: functions of the records and the number of the running minute.

Definitions. The window is the running clock minute and those before it, so that figures change only with a new line or a
new minute; a call belongs to the minute in which it ended. A call stamped in the next minute (another machine's
clock) counts to the running one, one further ahead not at all. Quantiles are by nearest rank: the smallest value that at
least q percent of the values do not exceed, so always one that was measured. Latencies are those of successes.
A cancelled call is neither a success nor a failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fallback.recent.records import CallRecord, LastError, RequestRecord

__all__ = [
    "MINUTE_S",
    "MinuteOutcomes",
    "ProviderHealth",
    "RequestFigures",
    "nearest_rank",
    "provider_health",
    "request_figures",
]

MINUTE_S = 60.0
_OK = "ok"
_CANCELLED = "cancelled"
_TEST = "test"
"""The `source` of a test call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MinuteOutcomes:
    """How the calls of one provider in one minute ended."""

    ok: int = 0
    failed: int = 0
    cancelled: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderHealth:
    """How one provider did in the window. None: there was nothing to measure."""

    name: str
    attempts: int
    """All calls, cancelled ones included."""
    successes: int
    failures: int
    last_failure: str | None
    """The kind of the last of `failures`."""
    success_rate: float | None
    """0..1, of successes and failures."""
    p50_s: float | None
    """Duration of its successful calls."""
    p95_s: float | None
    ttft_p50_s: float | None
    """Time to first token of its successful calls."""
    ttft_p95_s: float | None
    sparkline: tuple[float | None, ...]
    """p50 of the duration of its successful calls, one for each minute, oldest first; the last minute is still running."""
    outcomes_per_minute: tuple[MinuteOutcomes, ...]
    """For the same minutes."""
    last_error: LastError | None
    """Of whatever age, as far as the log was read; drills included."""
    last_success_ts: float | None
    """Unix seconds, likewise; drills left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFigures:
    """How the requests of all callers fared in the window, test calls and cancelled ones left out."""

    answered: int = 0
    failed: int = 0
    rescued: int = 0
    """Of the answered ones: those that a failover saved."""


def request_figures(requests: Iterable[RequestRecord], *, minute: int, minutes: int) -> RequestFigures:
    """Return the figures of the `minutes` up to the running one, `minute` (Unix seconds // 60).

    Those under a drill are counted: whoever asked did get an answer, or did not.
    """
    oldest = minute - minutes + 1
    counted = [
        request
        for request in requests
        if 0 <= request.ts // MINUTE_S - oldest <= minutes
        and request.outcome != _CANCELLED
        and request.source != _TEST
    ]
    answered = [request for request in counted if request.outcome == _OK]
    return RequestFigures(
        answered=len(answered),
        failed=len(counted) - len(answered),
        rescued=sum(request.rescued for request in answered),
    )


def provider_health(
    calls: Iterable[CallRecord],
    *,
    minute: int,
    minutes: int,
    include_drills: bool,
    last_errors: Mapping[str, LastError],
    last_successes: Mapping[str, float],
) -> tuple[ProviderHealth, ...]:
    """Return the figures of every provider that is named anywhere, by name.

    `minute` is the running one (Unix seconds // 60), `minutes` the length of the window.
    """
    tallies: dict[str, _Tally] = {}
    oldest = minute - minutes + 1
    for call in calls:
        place = int(call.ts // MINUTE_S) - oldest
        if not 0 <= place <= minutes or (call.drill and not include_drills):
            continue
        tally = tallies.get(call.provider)
        if tally is None:
            tally = tallies[call.provider] = _Tally(minutes)
        tally.add(call, min(place, minutes - 1))
    names = sorted({*tallies, *last_errors, *last_successes})
    return tuple(
        (tallies.get(name) or _Tally(minutes)).health(name, last_errors.get(name), last_successes.get(name))
        for name in names
    )


def nearest_rank(ordered: Sequence[float], percent: int) -> float | None:
    """Return the quantile of the sorted values at `percent` (1..100) by nearest rank; None where there are none."""
    if not ordered:
        return None
    # In whole numbers: 0.95 x n is not always what it is on paper.
    return ordered[(percent * len(ordered) + 99) // 100 - 1]


class _Tally:
    """The calls of one provider, counted by minute."""

    def __init__(self, minutes: int) -> None:
        self._ok = [0] * minutes
        self._failed = [0] * minutes
        self._cancelled = [0] * minutes
        self._durations: list[list[float]] = [[] for _ in range(minutes)]
        self._first_tokens: list[float] = []
        self._last_failure: str | None = None

    def add(self, call: CallRecord, place: int) -> None:
        if call.outcome == _OK:
            self._ok[place] += 1
            if call.duration_s is not None:
                self._durations[place].append(call.duration_s)
            if call.ttft_s is not None:
                self._first_tokens.append(call.ttft_s)
        elif call.outcome == _CANCELLED:
            self._cancelled[place] += 1
        else:
            self._failed[place] += 1
            self._last_failure = call.outcome

    def health(self, name: str, error: LastError | None, success_ts: float | None) -> ProviderHealth:
        by_minute = [sorted(durations) for durations in self._durations]
        durations = sorted(duration for of_minute in by_minute for duration in of_minute)
        first_tokens = sorted(self._first_tokens)
        successes, failures = sum(self._ok), sum(self._failed)
        decided = successes + failures
        return ProviderHealth(
            name=name,
            attempts=decided + sum(self._cancelled),
            successes=successes,
            failures=failures,
            last_failure=self._last_failure,
            success_rate=successes / decided if decided else None,
            p50_s=nearest_rank(durations, 50),
            p95_s=nearest_rank(durations, 95),
            ttft_p50_s=nearest_rank(first_tokens, 50),
            ttft_p95_s=nearest_rank(first_tokens, 95),
            sparkline=tuple(nearest_rank(of_minute, 50) for of_minute in by_minute),
            outcomes_per_minute=tuple(
                MinuteOutcomes(ok=ok, failed=failed, cancelled=cancelled)
                for ok, failed, cancelled in zip(self._ok, self._failed, self._cancelled, strict=True)
            ),
            last_error=error,
            last_success_ts=success_ts,
        )
