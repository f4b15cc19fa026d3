"""Every figure of the analytics once more, by brute force: plain loops and dicts over the lines as `usage_log.read` gives them.

It shares nothing with the engine but the definitions of docs/analytics.md: no frames, no sums kept from one question to the
next, and a database for what the definitions leave to it alone, a value of a wrong type. Where a definition leaves room, the sentence that it stands on is quoted beside the code. Rows are
dicts by column name; instants are Unix microseconds, a missing value is None.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb

from fallback.analytics import Filters, Window
from fallback.usage_log import Record, read

__all__ = ["Reference", "Row"]

Row = dict[str, Any]

NEEDED: Mapping[object, Sequence[str]] = {
    "request": ("outcome",),
    "attempt": ("provider", "outcome"),
    "state": ("provider", "from", "to"),
}
CALLERS_FAULT = frozenset(
    {"content_policy", "context_window_exceeded", "invalid_request", "request_too_large"}
)
REQUEST_COLUMNS = (
    *(
        "instance",
        "request_id",
        "source",
        "route",
        "outcome",
        "error_type",
        "provider",
        "model",
        "first_provider",
        "attempts",
    ),
    *(
        "failovers",
        "rescued",
        "degraded",
        "drill",
        "duration_s",
        "ttft_s",
        "input_tokens",
        "output_tokens",
        "cost_usd",
    ),
)
ATTEMPT_COLUMNS = (
    *(
        "instance",
        "attempt",
        "role",
        "provider",
        "model",
        "outcome",
        "http_status",
        "error_message",
        "retry_after_s",
        "cooldown_s",
    ),
    *(
        "started_s",
        "duration_s",
        "ttft_s",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "probe",
        "drill",
        "finish_reason",
    ),
)
MICRO = 1_000_000
MOST = 10**9
"""Seconds and counts beyond it count as left out, as do negative ones."""
MOST_USD = 1e6
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What every line of the tables has."""

    ts_us: int
    place: tuple[int, int]
    """Number of its file in the order of reading, number of the line in it."""
    file: str
    instance: str | None
    request_id: str | None
    provider: str | None
    drill: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Line):
    source: str | None
    route: str | None
    outcome: str
    error_type: str | None
    model: str | None
    first_provider: str | None
    attempts: int
    failovers: int
    rescued: bool
    degraded: bool
    duration_s: float | None
    ttft_s: float | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt(Line):
    source: str | None
    route: str | None
    attempt: int | None
    role: str | None
    model: str | None
    outcome: str
    http_status: int | None
    error_message: str | None
    retry_after_s: float | None
    cooldown_s: float | None
    started_s: float | None
    duration_s: float | None
    ttft_s: float | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    probe: bool
    finish_reason: str | None
    previous_provider: str | None
    previous_error_type: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Line):
    model: str | None
    before: str
    after: str
    reason: str | None
    length_s: float | None


# Fields, with their types


def text(fields: Mapping[str, object], name: str) -> str | None:
    """An empty text counts as left out, half a pair of surrogates is shown as U+FFFD, and what is no text as JSON."""
    value = fields.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        return json.dumps(value, separators=(",", ":"))
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@cache
def cast(value: str, kind: str) -> int | float | bool | None:
    """What the database takes for a value of that kind where `value`, a text of JSON, stands in its place."""
    found = duckdb.execute(f"SELECT TRY(json_transform(?, '[\"{kind}\"]'))", [f"[{value}]"]).fetchone()
    assert found is not None
    return None if found[0] is None else found[0][0]


def whole(fields: Mapping[str, object], name: str) -> int | None:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        value = cast(json.dumps(value), "BIGINT")
    return int(value) if value is not None and 0 <= value <= MOST else None


def number(fields: Mapping[str, object], name: str, most: float = MOST) -> float | None:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        value = cast(json.dumps(value), "DOUBLE")
    return float(value) if value is not None and 0 <= value <= most else None


def flag(fields: Mapping[str, object], name: str) -> bool:
    value = fields.get(name)
    return value if isinstance(value, bool) else bool(cast(json.dumps(value), "BOOLEAN"))


def instant_us(value: object) -> int | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    if moment is None or moment.tzinfo is None or not 1970 <= moment.astimezone(UTC).year <= 2199:
        return None
    return (moment - EPOCH) // timedelta(microseconds=1)


# Durations on their grid, and quantiles


def grid_us(duration_s: float) -> int:
    """Whole microseconds, rounded half up, and of those three significant digits, rounded half up."""
    exact = math.floor(Fraction(duration_s) * MICRO + Fraction(1, 2))
    step = 1
    while exact >= 1000 * step:
        step *= 10
    return (exact + step // 2) // step * step


def quantile(values: Iterable[int], q: Fraction) -> float | None:
    """The smallest value v such that at least ceil(q x n) values are not greater than v."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[math.ceil(q * len(ordered)) - 1] / MICRO


P50, P95, P99 = Fraction(1, 2), Fraction(95, 100), Fraction(99, 100)


def ratio(part: float, whole_: float) -> float | None:
    return part / whole_ if whole_ else None


class Reference:
    """The log in `folder` as it stands now, and every figure of it."""

    def __init__(self, folder: Path, *, wall: float = 0.0) -> None:
        """`wall` is the Unix time now."""
        self.folder = folder
        self.wall = wall
        self.requests: list[Request] = []
        self.attempts: list[Attempt] = []
        self.changes: list[Change] = []
        self.damaged: list[Record] = []
        self.lines = 0
        self._files: dict[str, int] = {}
        for record in read(folder):
            self.lines += 1
            self._files.setdefault(record.file, len(self._files))
            if record.fields is None:
                self.damaged.append(record)
            else:
                self._take(record, record.fields)
        self._attempts_of: defaultdict[str, list[Attempt]] = defaultdict(list)
        for attempt in self.attempts:
            if attempt.request_id is not None:
                self._attempts_of[attempt.request_id].append(attempt)
        self._of_drills = {attempt.place for attempt in self.attempts if self._is_of_drill(attempt)}

    def _is_of_drill(self, attempt: Attempt) -> bool:
        """All attempts of a request in which one was drilled, within an hour of that."""
        return attempt.drill or any(
            other.drill
            and other.instance == attempt.instance
            and abs(other.ts_us - attempt.ts_us) <= 3600 * MICRO
            for other in self._attempts_of.get(attempt.request_id or "", ())
        )

    def _take(self, record: Record, fields: Mapping[str, object]) -> None:
        """A line without what it makes no sense without counts as damaged."""
        kind = fields.get("kind")
        # "Lines of another schema or kind count as read and as nothing else."
        if not isinstance(kind, str) or kind not in NEEDED or fields.get("schema") != 1:
            return
        ts_us = instant_us(fields.get("ts"))
        missing = [name for name in NEEDED[kind] if text(fields, name) is None]
        if ts_us is None or missing:
            reason = "ts is no instant" if ts_us is None else f"{missing[0]} is missing"
            self.damaged.append(replace(record, fields=None, damaged=reason))
            return
        common: Row = {
            "ts_us": ts_us,
            "place": (self._files[record.file], record.line),
            "file": record.file,
            "instance": text(fields, "instance"),
            "request_id": text(fields, "request_id"),
            "provider": text(fields, "provider"),
        }
        if kind == "request":
            self._take_request(fields, common)
        elif kind == "attempt":
            self._take_attempt(fields, common)
        else:
            self._take_change(fields, common)

    def _take_request(self, fields: Mapping[str, object], common: Row) -> None:
        self.requests.append(
            Request(
                **common,
                **_called(fields),
                outcome=text(fields, "outcome") or "",
                error_type=text(fields, "error_type"),
                first_provider=text(fields, "first_provider"),
                attempts=whole(fields, "attempts") or 0,
                failovers=whole(fields, "failovers") or 0,
                rescued=flag(fields, "rescued"),
                degraded=flag(fields, "degraded"),
            )
        )

    def _take_attempt(self, fields: Mapping[str, object], common: Row) -> None:
        self.attempts.append(
            Attempt(
                **common,
                **_called(fields),
                outcome=text(fields, "outcome") or "",
                attempt=whole(fields, "attempt"),
                role=text(fields, "role"),
                http_status=whole(fields, "http_status"),
                error_message=text(fields, "error_message"),
                retry_after_s=number(fields, "retry_after_s"),
                cooldown_s=number(fields, "cooldown_s"),
                started_s=number(fields, "started_s"),
                probe=flag(fields, "probe"),
                finish_reason=text(fields, "finish_reason"),
                previous_provider=text(fields, "previous_provider"),
                previous_error_type=text(fields, "previous_error_type"),
            )
        )

    def _take_change(self, fields: Mapping[str, object], common: Row) -> None:
        self.changes.append(
            Change(
                **common,
                model=text(fields, "model"),
                before=text(fields, "from") or "",
                after=text(fields, "to") or "",
                reason=text(fields, "reason"),
                length_s=number(fields, "length_s"),
            )
        )

    def span(self) -> tuple[int, int]:
        """The instants of the first and the last line; the other way round where there is none."""
        instants = [line.ts_us for line in (*self.requests, *self.attempts, *self.changes)]
        return (min(instants), max(instants)) if instants else (1, 0)

    # Which lines count

    def wanted_requests(self, window: Window, filters: Filters) -> list[Request]:
        return [r for r in self.requests if inside(r.ts_us, window) and self._wants(r, filters)]

    def _wants(self, request: Request, filters: Filters) -> bool:
        took_part = {request.first_provider, request.provider}
        if request.request_id is not None:
            took_part |= {
                attempt.provider
                for attempt in self._attempts_of.get(request.request_id, [])
                if attempt.instance == request.instance
            }
        endings = {request.outcome}
        endings |= {"rescued"} if request.rescued else set()
        endings |= {"degraded"} if request.degraded else set()
        return (
            (not filters.providers or not took_part.isdisjoint(filters.providers))
            and (not filters.instances or request.instance in filters.instances)
            and (not filters.routes or request.route in filters.routes)
            and (not filters.sources or request.source in filters.sources)
            and (not filters.outcomes or not endings.isdisjoint(filters.outcomes))
            and (filters.drills or not request.drill)
        )

    def wanted_attempts(self, window: Window, filters: Filters) -> list[Attempt]:
        """Figures of attempts do not look at the outcomes of requests."""
        return [
            a
            for a in self.attempts
            if inside(a.ts_us, window)
            and (not filters.providers or a.provider in filters.providers)
            and (not filters.instances or a.instance in filters.instances)
            and (not filters.routes or a.route in filters.routes)
            and (not filters.sources or a.source in filters.sources)
            and (filters.drills or a.place not in self._of_drills)
        ]

    # Figures of requests

    def totals(self, window: Window, filters: Filters) -> list[Row]:
        return [totals_of(self.wanted_requests(window, filters))]

    def totals_over_time(self, window: Window, filters: Filters) -> list[Row]:
        inside_: defaultdict[int, list[Request]] = defaultdict(list)
        for request in self.wanted_requests(window, filters):
            inside_[bucket_us(request.ts_us, window)].append(request)
        return [
            {"bucket": bucket, **totals_of(inside_.get(bucket, []))}
            for bucket in range(
                round(window.since) * MICRO, round(window.until) * MICRO, window.bucket_s * MICRO
            )
        ]

    def requests_table(
        self, window: Window, filters: Filters, search: str = "", limit: int | None = None
    ) -> list[Row]:
        """Newest first; of two at one instant the one that stands later in the log."""
        found = [r for r in self.wanted_requests(window, filters) if _found(r, search)]
        found.sort(key=lambda r: (r.ts_us, r.place), reverse=True)
        return [
            {"ts": r.ts_us, **{name: getattr(r, name) for name in REQUEST_COLUMNS}} for r in found[:limit]
        ]

    # Figures of failovers

    def _left(self, attempt: Attempt) -> tuple[str, str]:
        """From whom a failover went on, and why.

        Lines without the two fields are completed from the attempt before in the same request, if that was read not later
        and ended within an hour.
        """
        before = [
            other
            for other in self._attempts_of.get(attempt.request_id or "", [])
            if attempt.attempt is not None
            and other.attempt == attempt.attempt - 1
            and other.place < attempt.place
            and other.instance == attempt.instance
            and abs(attempt.ts_us - other.ts_us) <= 3600 * MICRO
        ]
        last = max(before, key=lambda other: (other.ts_us, other.place), default=None)
        derived = ("", "") if last is None else (last.provider or "", last.outcome)
        return attempt.previous_provider or derived[0], attempt.previous_error_type or derived[1]

    def failovers_over_time(self, window: Window, filters: Filters) -> list[Row]:
        counted: Counter[tuple[int, str]] = Counter()
        for attempt in self.wanted_attempts(window, filters):
            if attempt.role == "failover":
                counted[bucket_us(attempt.ts_us, window), self._left(attempt)[1] or ""] += 1
        return [{"bucket": b, "reason": reason, "failovers": n} for (b, reason), n in counted.items()]

    def failover_pairs(self, window: Window, filters: Filters) -> list[Row]:
        counted: Counter[tuple[str, str]] = Counter()
        answered: Counter[tuple[str, str]] = Counter()
        for attempt in self.wanted_attempts(window, filters):
            if attempt.role == "failover":
                pair = (self._left(attempt)[0] or "", attempt.provider or "")
                counted[pair] += 1
                answered[pair] += attempt.outcome == "ok"
        return [
            {"from_provider": a, "to_provider": b, "failovers": n, "answered": answered[a, b]}
            for (a, b), n in counted.items()
        ]

    # Figures of providers

    def latency_over_time(self, window: Window, filters: Filters) -> list[Row]:
        taken: defaultdict[tuple[int, str, str], list[int]] = defaultdict(list)
        for attempt in self._answers(window, filters):
            assert attempt.duration_s is not None
            key = (bucket_us(attempt.ts_us, window), attempt.provider or "", role_of(attempt))
            taken[key].append(grid_us(attempt.duration_s))
        return [
            {
                "bucket": bucket,
                "provider": provider,
                "role": role,
                "answers": len(values),
                "p50_s": quantile(values, P50),
                "p95_s": quantile(values, P95),
                "p99_s": quantile(values, P99),
            }
            for (bucket, provider, role), values in taken.items()
        ]

    def latency_distribution(self, window: Window, filters: Filters) -> list[Row]:
        counted: Counter[tuple[str, str, tuple[float, float]]] = Counter()
        for attempt in self._answers(window, filters):
            assert attempt.duration_s is not None
            counted[attempt.provider or "", role_of(attempt), bin_of(grid_us(attempt.duration_s))] += 1
        return [
            {"provider": provider, "role": role, "low_s": low_s, "high_s": high_s, "answers": n}
            for (provider, role, (low_s, high_s)), n in counted.items()
        ]

    def _answers(self, window: Window, filters: Filters) -> list[Attempt]:
        wanted = self.wanted_attempts(window, filters)
        return [a for a in wanted if a.outcome == "ok" and a.duration_s is not None]

    def failures(self, window: Window, filters: Filters) -> list[Row]:
        counted = Counter(
            (attempt.provider, attempt.outcome)
            for attempt in self.wanted_attempts(window, filters)
            if attempt.outcome not in {"ok", "cancelled"}
        )
        return [{"provider": p, "kind": kind, "failures": n} for (p, kind), n in counted.items()]

    def availability(self, window: Window, filters: Filters) -> list[Row]:
        calls: Counter[tuple[int, str]] = Counter()
        good: Counter[tuple[int, str]] = Counter()
        for attempt in self.wanted_attempts(window, filters):
            if attempt.outcome not in CALLERS_FAULT | {"cancelled"}:
                key = (day_us(attempt.ts_us, window), attempt.provider or "")
                calls[key] += 1
                good[key] += attempt.outcome == "ok"
        for request in self.wanted_requests(window, filters):
            callers = request.outcome == "error" and request.error_type in CALLERS_FAULT
            if request.outcome != "cancelled" and not callers:
                key = (day_us(request.ts_us, window), "")
                calls[key] += 1
                good[key] += request.outcome == "ok"
        return [
            {
                "day": day,
                "provider": provider,
                "calls": n,
                "good": good[day, provider],
                "availability": good[day, provider] / n,
                "nines": nines(good[day, provider], n),
            }
            for (day, provider), n in calls.items()
        ]

    def consumption(self, window: Window, filters: Filters) -> list[Row]:
        taken: defaultdict[tuple[int, str], list[Attempt]] = defaultdict(list)
        for attempt in self.wanted_attempts(window, filters):
            taken[bucket_us(attempt.ts_us, window), attempt.provider or ""].append(attempt)
        return [
            {"bucket": bucket, "provider": provider, "answers": _answered(attempts), **consumed(attempts)}
            for (bucket, provider), attempts in taken.items()
        ]

    def states(self, window: Window, filters: Filters) -> list[Row]:
        """Intervals without overlaps, those that touch and say the same being one."""
        first, last_us = self.span()
        # Nothing is shown before the log begins, nor of the future.
        begin = max(round(window.since) * MICRO, first)
        end = min(round(window.until) * MICRO, max(last_us, round(self.wall * MICRO)))
        rows: list[Row] = []
        if begin >= end:
            return rows
        # Another order of the providers changes none of them.
        changes = [
            change
            for change in self.changes
            if change.after != "order" and (not filters.instances or change.instance in filters.instances)
        ]
        for provider in sorted({change.provider or "" for change in changes}):
            if filters.providers and provider not in filters.providers:
                continue
            told = [c for c in changes if c.provider == provider]
            standing = Standing(sorted(told, key=lambda c: (c.ts_us, c.place)))
            edges = sorted({begin, end, *(edge for edge in standing.edges() if begin < edge < end)})
            for since, until in pairwise(edges):
                state, reason = standing.shown(since)
                last = rows[-1] if rows and rows[-1]["provider"] == provider else None
                if last is not None and last["state"] == state:
                    last["end"] = until
                else:
                    row = {
                        "provider": provider,
                        "state": state,
                        "begin": since,
                        "end": until,
                        "reason": reason,
                    }
                    rows.append(row)
        return rows

    # Single requests, and the log as a whole

    def attempts_table(self, request_id: str) -> list[Row]:
        found = sorted(
            self._attempts_of.get(request_id, []),
            key=lambda a: (a.instance or "", a.attempt is None, a.attempt or 0, a.ts_us, a.place),
        )
        return [{name: getattr(attempt, name) for name in ATTEMPT_COLUMNS} for attempt in found]

    def lines_table(self, request_id: str) -> list[Row]:
        found: list[Row] = []
        for record in read(self.folder):
            if record.fields is not None and text(record.fields, "request_id") == request_id:
                raw = (
                    (self.folder / record.file)
                    .read_bytes()[record.offset :]
                    .partition(b"\n")[0]
                    .rstrip(b"\r")
                )
                found.append(
                    {"file": record.file, "line": record.line, "text": raw.decode("utf-8", "replace")}
                )
        return found

    def problems_table(self, limit: int = 100) -> list[Row]:
        """The latest first."""
        last = self.damaged[::-1][:limit]
        return [{"file": r.file, "line": r.line, "reason": r.damaged} for r in last]

    def choices(self) -> dict[str, Counter[str]]:
        """How often each name stands in the log."""
        rows: Sequence[Request | Attempt] = [*self.requests, *self.attempts]
        return {
            "providers": Counter(
                name
                for row in (*rows, *self.changes)
                for name in (row.provider, getattr(row, "first_provider", None))
                if name
            ),
            "instances": Counter(r.instance for r in rows if r.instance),
            "routes": Counter(r.route for r in rows if r.route),
            "sources": Counter(r.source for r in rows if r.source),
        }


class Standing:
    """One provider: its drill, the whole of it and its models, each as its last change says."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self.first = changes[0]
        self.drills = [c for c in changes if c.after in {"drill", "no_drill"}]
        rest = [c for c in changes if c not in self.drills]
        self.whole = [c for c in rest if c.model is None]
        self.models = [c for c in rest if c.model is not None]

    def edges(self) -> Iterable[int]:
        for change in (*self.drills, *self.whole, *self.models):
            yield change.ts_us
            if change.length_s is not None:
                yield change.ts_us + round(change.length_s * MICRO)

    def shown(self, now_us: int) -> tuple[str, str]:
        """What is shown from this instant on; before the first change what that says it was."""
        if now_us < self.first.ts_us:
            return SHOWN.get(self.first.before, self.first.before), ""
        for changes in (self.drills, self.whole):
            state, reason = _last_of(changes, now_us)
            if state != "ready":
                return state, reason
        return _last_of(self.models, now_us)


def _last_of(changes: Sequence[Change], now_us: int) -> tuple[str, str]:
    past = [change for change in changes if change.ts_us <= now_us]
    if not past:
        return "ready", ""
    last = past[-1]
    state = SHOWN.get(last.after, last.after)
    over = last.length_s is not None and now_us >= last.ts_us + round(last.length_s * MICRO)
    # A cooldown or a drill ends with its announced length, whether or not a line says so.
    return ("ready", "") if over and state in {"cooling_down", "drill"} else (state, last.reason or "")


SHOWN = {"on": "ready", "no_drill": "ready", "probing": "cooling_down", "retired": "disabled"}


def _called(fields: Mapping[str, object]) -> Row:
    """What attempts and requests have alike."""
    return {
        "source": text(fields, "source"),
        "route": text(fields, "route"),
        "model": text(fields, "request_model"),
        "duration_s": number(fields, "duration_s"),
        "ttft_s": number(fields, "time_to_first_token_s"),
        "input_tokens": whole(fields, "input_tokens"),
        "output_tokens": whole(fields, "output_tokens"),
        "cost_usd": number(fields, "cost_usd", MOST_USD),
        "drill": flag(fields, "drill"),
    }


def _found(request: Request, search: str) -> bool:
    names = ("request_id", "provider", "first_provider", "model", "error_type", "source", "route")
    return any(search.casefold() in (getattr(request, name) or "").casefold() for name in names)


def inside(ts_us: int, window: Window) -> bool:
    return round(window.since) * MICRO <= ts_us < round(window.until) * MICRO


def bucket_us(ts_us: int, window: Window) -> int:
    """The beginning of the bucket; those of six hours and of a day are counted from local midnight."""
    size = window.bucket_s * MICRO
    shift = window.utc_offset_s * MICRO if window.bucket_s > 3600 else 0
    return (ts_us + shift) // size * size - shift


def day_us(ts_us: int, window: Window) -> int:
    shift = window.utc_offset_s * MICRO
    return (ts_us + shift) // (86_400 * MICRO) * 86_400 * MICRO - shift


def role_of(attempt: Attempt) -> str:
    return "failover" if attempt.role == "failover" else "direct"


def bin_of(duration_us: int) -> tuple[float, float]:
    """The edges, in seconds, of the bin that holds a duration: ten to a decade, the round numbers nearest to 10^(k/10).

    All below 1 ms are in one bin, as are all from 8,000 s on.
    """
    if duration_us < 1_000:
        return 0.0, 0.001
    if duration_us >= 8_000 * MICRO:
        return 8_000.0, 1e10
    edges = (100, 125, 160, 200, 250, 315, 400, 500, 630, 800, 1000)
    scale = 10
    while duration_us >= 1000 * scale:
        scale *= 10
    low, high = next((low, high) for low, high in pairwise(edges) if duration_us < high * scale)
    return low * scale / MICRO, high * scale / MICRO


def nines(good: int, calls: int) -> float:
    return math.inf if good == calls else -math.log10(1 - good / calls)


def _answered(rows: Iterable[Request | Attempt]) -> int:
    return sum(row.outcome == "ok" for row in rows)


def consumed(rows: Sequence[Request | Attempt]) -> Row:
    return {
        "input_tokens": sum(row.input_tokens or 0 for row in rows),
        "output_tokens": sum(row.output_tokens or 0 for row in rows),
        "cost_usd": math.fsum(row.cost_usd or 0.0 for row in rows),
        "unpriced": sum(row.outcome == "ok" and row.cost_usd is None for row in rows),
    }


def totals_of(rows: Sequence[Request]) -> Row:
    answered = _answered(rows)
    failed = sum(r.outcome == "error" for r in rows)
    rescued = sum(r.rescued for r in rows)
    ok = [r for r in rows if r.outcome == "ok"]
    latencies = [grid_us(r.duration_s) for r in ok if r.duration_s is not None]
    first_tokens = [grid_us(r.ttft_s) for r in ok if r.ttft_s is not None]
    used = consumed(rows)
    return {
        "requests": len(rows),
        "answered": answered,
        "failed": failed,
        "cancelled": sum(r.outcome == "cancelled" for r in rows),
        "degraded": sum(r.degraded for r in rows),
        "rescued": rescued,
        "success_rate": ratio(answered, answered + failed),
        "success_rate_without_failover": ratio(answered - rescued, answered + failed),
        "failovers": sum(r.failovers for r in rows),
        "failover_rate": ratio(sum(r.failovers >= 1 for r in rows), len(rows)),
        "latency_p50_s": quantile(latencies, P50),
        "latency_p95_s": quantile(latencies, P95),
        "ttft_p50_s": quantile(first_tokens, P50),
        "ttft_p95_s": quantile(first_tokens, P95),
        **used,
        "cost_per_1k_answers_usd": ratio(used["cost_usd"] * 1000, answered),
    }
