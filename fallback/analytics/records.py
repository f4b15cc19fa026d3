"""Single requests, attempts and lines of the log, and the names that occur in it.

What may not live here: figures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from fallback.analytics.engine import Analytics
from fallback.analytics.frames import BOOL, COUNT, INSTANT, NUMBER, TEXT, WHOLE, frame
from fallback.analytics.places import Places
from fallback.analytics.selection import Selection
from fallback.analytics.sources import MovedError, Readable
from fallback.analytics.tables import LEVELS_S
from fallback.analytics.through import Through, condition
from fallback.analytics.windows import Filters, Window

__all__ = ["Choices", "Position", "attempts", "choices", "last_position", "lines", "problems", "requests"]

_POSITION = "position"
_REQUEST_COLUMNS = {
    "ts": INSTANT,
    **dict.fromkeys(("instance", "request_id", "source", "route", "outcome", "error_type"), TEXT),
    **dict.fromkeys(("provider", "model", "first_provider"), TEXT),
    **dict.fromkeys(("attempts", "failovers"), WHOLE),
    **dict.fromkeys(("rescued", "degraded", "drill"), BOOL),
    **dict.fromkeys(("duration_s", "ttft_s"), NUMBER),
    **dict.fromkeys(("input_tokens", "output_tokens"), COUNT),
    "cost_usd": NUMBER,
}
_ATTEMPT_COLUMNS = {
    "instance": TEXT,
    "attempt": COUNT,
    **dict.fromkeys(("role", "provider", "model", "outcome"), TEXT),
    "http_status": COUNT,
    "error_message": TEXT,
    **dict.fromkeys(("retry_after_s", "cooldown_s", "started_s", "duration_s", "ttft_s"), NUMBER),
    **dict.fromkeys(("input_tokens", "output_tokens"), COUNT),
    "cost_usd": NUMBER,
    **dict.fromkeys(("probe", "drill"), BOOL),
    "finish_reason": TEXT,
}
_SEARCHED = "concat_ws(' ', request_id, provider, first_provider, model, error_type, source, route)"
_MOST_LINES = 1_000
"""Of one request: more is a log in which somebody gave all requests one name."""
_BLOCK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in the table of requests: that of its last row, as `last_position` gives it."""

    ts_us: int
    """Unix microseconds."""
    file: int
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What can be filtered by: the names that the log holds, the most frequent first."""

    providers: tuple[str, ...]
    instances: tuple[str, ...]
    routes: tuple[str, ...]
    sources: tuple[str, ...]


def requests(
    analytics: Analytics,
    window: Window,
    filters: Filters,
    search: str = "",
    limit: int = 200,
    before: Position | None = None,
    through: Sequence[Through] = (),
) -> pd.DataFrame:
    """Return the newest `limit` requests of the window, newest first; further ones with `before`.

    Columns: ts, instance, request_id, source, route, outcome, error_type, provider, model, first_provider, attempts, failovers, rescued,
    degraded, drill, duration_s, ttft_s, input_tokens, output_tokens, cost_usd. `search` is a text that one of request_id,
    provider, first_provider, model, error_type, source or route contains, whatever its case. With `through` only requests that
    have an attempt like each of them. Raises CacheError.
    """
    chosen = Selection(window=window, filters=filters)
    further = ""
    if search.strip():
        further += f" AND contains(lower({_SEARCHED}), lower({chosen.value('search', search.strip())}))"
    if before is not None:
        further += f" AND (ts, file, line) < ({before.ts_us}, {before.file}, {before.line})"
    for number, attempt in enumerate(through):
        further += f" AND {condition(attempt, chosen, f'through_{number}')}"
    parts = [
        f"SELECT file, line, {', '.join(_REQUEST_COLUMNS)} FROM requests WHERE {which}{further}"
        for which in chosen.request_rows()
    ]
    rows = analytics.ask(
        f"{' UNION ALL '.join(parts)} ORDER BY ts DESC, file DESC, line DESC LIMIT {max(int(limit), 0)}",
        chosen.values,
    )
    made = frame([row[2:] for row in rows], _REQUEST_COLUMNS)
    if rows:
        file, line, ts_us = rows[-1][:3]
        made.attrs[_POSITION] = (ts_us, file, line)
    return made


def last_position(frame: pd.DataFrame) -> Position | None:
    """Return where a frame of `requests` ends, for `before`; None where it is empty."""
    place = frame.attrs.get(_POSITION)
    return None if place is None else Position(ts_us=place[0], file=place[1], line=place[2])


def attempts(analytics: Analytics, request_id: str, instances: Sequence[str] = ()) -> pd.DataFrame:
    """Return the attempts of one request in their order; of those of one name in several instances one after the other.

    With `instances` those of them alone. Columns: instance, attempt, role, provider, model, outcome, http_status, error_message, retry_after_s, cooldown_s, started_s,
    duration_s, ttft_s, input_tokens, output_tokens, cost_usd, probe, drill, finish_reason. Raises CacheError.
    """
    rows = analytics.ask(
        f"""SELECT {", ".join(_ATTEMPT_COLUMNS)} FROM (SELECT * REPLACE (own_drill AS drill) FROM attempts) WHERE request_id = $request_id{_of(instances)}
            ORDER BY instance NULLS FIRST, attempt, ts, file, line LIMIT {_MOST_LINES}""",
        {"request_id": request_id} | _instances(instances),
    )
    return frame(rows, _ATTEMPT_COLUMNS)


def _of(instances: Sequence[str]) -> str:
    return " AND list_contains($instances, instance)" if instances else ""


def _instances(instances: Sequence[str]) -> dict[str, object]:
    return {"instances": list(instances)} if instances else {}


def lines(analytics: Analytics, request_id: str, instances: Sequence[str] = ()) -> pd.DataFrame:
    """Return file, line, text: the lines of the log that name the request, as they stand there, also those that make no sense.

    With `instances` those that they wrote alone. In the order of the log; bytes that are no UTF-8 as U+FFFD. A line whose file was deleted meanwhile is left out.
    Raises CacheError.
    """
    found = analytics.ask(
        f"""SELECT device, inode, line FROM (
                SELECT file, line FROM entries WHERE request_id = $request_id{_of(instances)}
                UNION SELECT file, line FROM mentions WHERE request_id = $request_id{_of(instances)}
            ) AS places JOIN files ON files.id = places.file
            ORDER BY places.file, line LIMIT {_MOST_LINES}""",
        {"request_id": request_id} | _instances(instances),
    )
    wanted: dict[tuple[int, int], list[int]] = {}
    for device, inode, line in found:
        wanted.setdefault((device, inode), []).append(line)
    return frame(_texts(analytics.places, wanted), {"file": TEXT, "line": WHOLE, "text": TEXT})


def problems(analytics: Analytics, limit: int = 100) -> pd.DataFrame:
    """Return file, line, reason of the last `limit` lines that could not be read, the latest first. Raises CacheError."""
    rows = analytics.ask(
        f"""SELECT name, line, reason FROM problems JOIN files ON files.id = problems.file
            ORDER BY file DESC, line DESC LIMIT {max(int(limit), 0)}"""
    )
    return frame(rows, {"file": TEXT, "line": WHOLE, "reason": TEXT})


def choices(analytics: Analytics) -> Choices:
    """Return what can be filtered by, whatever the window. Raises CacheError."""
    level_s = LEVELS_S[-1]

    def names(query: str) -> tuple[str, ...]:
        rows = analytics.ask(
            f"SELECT name FROM ({query}) WHERE name <> '' GROUP BY name ORDER BY sum(n) DESC, name"
        )
        return tuple(name for (name,) in rows)

    both = " UNION ALL ".join(
        f"SELECT {{0}} AS name, n FROM {name}_{level_s}" for name in ("request", "attempt")
    )
    return Choices(
        providers=names(
            f"SELECT provider AS name, n FROM attempt_{level_s} "
            f"UNION ALL SELECT unnest([provider, first_provider]), 0 FROM request_{level_s} "
            "UNION ALL SELECT provider, 0 FROM changes WHERE to_state <> 'order'"
        ),
        instances=names(both.format("instance")),
        routes=names(both.format("route")),
        sources=names(both.format("source")),
    )


def _texts(places: Places, wanted: Mapping[tuple[int, int], Sequence[int]]) -> list[tuple[str, int, str]]:
    """Read the lines with the `wanted` numbers, of files that are known by device and inode."""
    found = []
    with contextlib.suppress(OSError):
        for file in places.listing().files:
            numbers = wanted.get(file.identity)
            if numbers:
                with contextlib.suppress(OSError, MovedError), places.opened(file) as stream:
                    texts = _numbered(stream, numbers)
                    found += [(file.name, line, text) for line, text in zip(numbers, texts, strict=False)]
    return found


def _numbered(stream: Readable, numbers: Sequence[int]) -> Iterator[str]:
    """Give the lines with `numbers`, which rise, without their newlines."""
    last = numbers[-1]
    wanted = set(numbers)
    before = 0
    held = b""
    while before < last and (block := stream.read(_BLOCK_BYTES)):
        count = block.count(b"\n")
        if any(before < number <= before + count + 1 for number in wanted):
            pieces = (held + block).split(b"\n")
            held = pieces.pop()
            for place, piece in enumerate(pieces, start=before + 1):
                if place in wanted:
                    yield piece.rstrip(b"\r").decode("utf-8", "replace")
        else:
            held = block[block.rfind(b"\n") + 1 :] if count else b""
        before += count
    if before + 1 in wanted:
        yield held.decode("utf-8", "replace")
