"""Who asks, when, and what: people by day, programs around the clock, a batch at night, little at the weekend.

What may not live here: what becomes of a question.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Final

from fallback.demo.history.span import DAY_S, HOUR_S

__all__ = ["Visit", "visits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One question of somebody."""

    at_s: float
    """Seconds after the beginning of the history."""
    source: str
    model: str
    """What is asked for: auto, a route, a provider or a model."""
    stream: bool
    input_tokens: int
    output_tokens: int
    """As long as the answer would like to be."""
    max_tokens: int | None
    deadline_s: float
    leaves_after_s: float | None = None
    """Somebody who presses Stop or hangs up after so long; None: who waits."""
    improper: str | None = None
    """A failure kind that lies in the question itself: content_policy, invalid_request, request_too_large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """One kind of caller."""

    name: str
    share: float
    """Of the traffic of a week."""
    hours: tuple[float, ...]
    """How much it asks in each hour of the day (UTC), against its other hours."""
    weekend: float
    """How much it asks on Saturdays and Sundays, against the other days."""
    stream: float
    """How often it wants a stream."""
    input_tokens: float
    """The median, as the next."""
    output_tokens: float
    impatient: float
    """How often it leaves before the end."""


_WORKING = (2, 1, 1, 1, 2, 5, 12, 28, 55, 80, 92, 88, 70, 78, 90, 86, 74, 58, 44, 38, 32, 22, 12, 5)
_EVENINGS = (6, 3, 2, 1, 1, 2, 5, 10, 16, 22, 26, 30, 34, 30, 28, 28, 34, 44, 62, 78, 84, 70, 42, 18)
_STEADY = (38, 36, 35, 35, 36, 40, 48, 60, 76, 88, 94, 92, 86, 90, 94, 92, 84, 74, 64, 58, 54, 50, 46, 42)
_NIGHTLY = (2, 60, 100, 80, 20, 1, 1, 1, 1, 4, 6, 6, 3, 5, 6, 5, 3, 1, 1, 1, 1, 1, 1, 2)

SOURCES: Final = (
    _Source(
        name="api",
        share=0.50,
        hours=_STEADY,
        weekend=0.55,
        stream=0.45,
        input_tokens=420,
        output_tokens=170,
        impatient=0.004,
    ),
    _Source(
        name="chat",
        share=0.27,
        hours=tuple(a + b for a, b in zip(_WORKING, _EVENINGS, strict=True)),
        weekend=0.4,
        stream=1.0,
        input_tokens=260,
        output_tokens=260,
        impatient=0.03,
    ),
    _Source(
        name="python",
        share=0.17,
        hours=_NIGHTLY,
        weekend=0.8,
        stream=0.1,
        input_tokens=900,
        output_tokens=110,
        impatient=0.002,
    ),
    _Source(
        name="cli",
        share=0.06,
        hours=_WORKING,
        weekend=0.15,
        stream=1.0,
        input_tokens=90,
        output_tokens=210,
        impatient=0.015,
    ),
)

AUTO_SHARE: Final = 0.74
"""Of the questions that name nothing in particular."""
_LONG_PROMPT: Final = 0.004
_LONG_TOKENS: Final = (9_000, 90_000)
_HURRIED: Final = 0.02
"""Of the programs' questions with a short deadline."""
_IMPROPER: Final = (("content_policy", 0.0012), ("invalid_request", 0.001), ("request_too_large", 0.001))


def visits(
    count: int, *, begin: float, length_s: float, routes: Sequence[str], deadline_s: float, draw: Random
) -> Iterator[Visit]:
    """Give `count` questions in the order of their time.

    `begin` is the Unix time of the beginning of the history and `length_s` its length; `routes` are what may be asked
    for beside `auto`, `deadline_s` is the time that most are content with.
    """
    edges, weights = _hours(begin, length_s)
    cumulative = list(accumulate(sum(row) for row in weights))
    share = 0.0
    for left in range(count, 0, -1):
        # The smallest of `left` uniform numbers above `share`: sorted without keeping them all.
        share = 1.0 - (1.0 - share) * draw.random() ** (1.0 / left)
        reached = share * cumulative[-1]
        hour = min(bisect_right(cumulative, reached), len(weights) - 1)
        before = cumulative[hour - 1] if hour else 0.0
        part = (reached - before) / (cumulative[hour] - before)
        at_s = edges[hour] + part * (edges[hour + 1] - edges[hour])
        source = draw.choices(SOURCES, weights[hour])[0]
        yield _visit(at_s, source, routes, deadline_s, draw)


def _hours(begin: float, length_s: float) -> tuple[list[float], list[list[float]]]:
    """Return the edges of the hours of the span, in seconds after its beginning, and each source's weight in each."""
    edges = [0.0]
    weights: list[list[float]] = []
    while edges[-1] < length_s:
        now = begin + edges[-1]
        end = min((math.floor(now / HOUR_S) + 1) * HOUR_S - begin, length_s)
        hour = int(now % DAY_S // HOUR_S)
        weekend = (int(now // DAY_S) + 3) % 7 >= 5  # the first of January 1970 was a Thursday
        weights.append(
            [
                (end - edges[-1])
                * each.share
                * each.hours[hour]
                / sum(each.hours)
                * (each.weekend if weekend else 1)
                for each in SOURCES
            ]
        )
        edges.append(end)
    return edges, weights


def _visit(at_s: float, source: _Source, routes: Sequence[str], deadline_s: float, draw: Random) -> Visit:
    model = "auto" if not routes or draw.random() < AUTO_SHARE else draw.choice(routes)
    wanted = int(draw.lognormvariate(math.log(source.input_tokens), 0.9)) + 8
    if draw.random() < _LONG_PROMPT:
        wanted = draw.randint(*_LONG_TOKENS)
    hurried = source.name in {"api", "python"} and draw.random() < _HURRIED
    return Visit(
        at_s=at_s,
        source=source.name,
        model=model,
        stream=draw.random() < source.stream,
        input_tokens=wanted,
        output_tokens=int(draw.lognormvariate(math.log(source.output_tokens), 0.8)) + 1,
        max_tokens=draw.choice((256, 512, 1024)) if draw.random() < 0.3 else None,
        deadline_s=min(draw.uniform(1.5, 6.0), deadline_s) if hurried else deadline_s,
        leaves_after_s=draw.expovariate(1 / 2.0) + 0.05 if draw.random() < source.impatient else None,
        improper=_improper(draw.random()),
    )


def _improper(drawn: float) -> str | None:
    for kind, share in _IMPROPER:
        if drawn < share:
            return kind
        drawn -= share
    return None
