"""What befalls the providers in a history, and what people do meanwhile.

The large events are composed, so that every history has each of them once: an outage of 40 minutes, a slow evening, a
retired model, a spent balance, a refused key, minutes in which no cloud provider answers. Small ones, rate limits and
overloads, are drawn all the time; drills and switches come now and then. In a history of less than two days everything
becomes shorter in proportion.

What may not live here: what a provider sends during an incident (`replies`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any, Final

from fallback.demo.history.span import DAY_S, HOUR_S
from fallback.demo.stage import RETIRED
from fallback.drills import DrillKind

__all__ = ["Deed", "Incident", "Trouble", "course_of_events"]

MINUTE_S: Final = 60.0


class Trouble(StrEnum):
    """What a provider has."""

    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    DOWN = "down"
    """Refused connections, 503 and silence, as the end of a data centre looks from outside."""
    SLOW = "slow"
    GONE = "gone"
    """One model of it is retired, for good."""
    BAD_KEY = "bad_key"
    NO_CREDIT = "no_credit"
    CRASHED = "crashed"
    """The embedded model's process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One provider has one trouble for a time. Seconds after the beginning of the history."""

    provider: str
    trouble: Trouble
    at_s: float
    until_s: float
    model: str | None = None
    strength: float = 1.0
    """How often it strikes a call, or by what a slow provider's times are multiplied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Somebody does something on the Providers page, or through the API."""

    at_s: float
    what: str
    """on, off, drill, end_cooldown, swap (the first two of the order change places), unswap"""
    provider: str
    by: str = "dashboard"
    drill: Mapping[str, Any] | None = None
    """None: its drill is ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """Where in a span something happens."""

    begin: float
    length_s: float

    @property
    def scale(self) -> float:
        """How much shorter than in a long history things last."""
        return min(1.0, self.length_s / (2 * DAY_S))

    def at(self, part: float, hour: float | None = None) -> float:
        """Return the moment after `part` of the span, in a long one on that day at `hour` (UTC)."""
        at_s = part * self.length_s
        if hour is None or self.length_s < 3 * DAY_S:
            return at_s
        return math.floor((self.begin + at_s) / DAY_S) * DAY_S + hour * HOUR_S - self.begin


def course_of_events(
    *,
    clouds: Mapping[str, Sequence[str]],
    embedded: str | None,
    begin: float,
    length_s: float,
    draw: Random,
) -> tuple[list[Incident], list[Deed]]:
    """Return what happens to `clouds`, their models by their names in the order asked, and what people do.

    `embedded` is the provider that has the embedded model, `begin` the Unix time of the beginning and `length_s` the
    length of the history.
    """
    names = tuple(clouds)
    if not names:
        return [], []
    frame = _Frame(begin=begin, length_s=length_s)
    incidents = [*_composed(clouds, embedded, frame), *_small(names, frame, draw)]
    deeds = [*_people(names, frame), *_drills(names, frame, draw)]
    return incidents, deeds


def _composed(clouds: Mapping[str, Sequence[str]], embedded: str | None, frame: _Frame) -> Iterator[Incident]:
    names = tuple(clouds)
    first, second, third = (names[place % len(names)] for place in range(3))

    def incident(
        provider: str, trouble: Trouble, at_s: float, length_s: float, strength: float = 1.0
    ) -> Incident:
        return Incident(
            provider=provider,
            trouble=trouble,
            at_s=at_s,
            until_s=min(at_s + length_s, frame.length_s),
            strength=strength,
        )

    # Not scaled: 40 minutes are 40 minutes, as long as the span has room for them.
    yield incident(first, Trouble.DOWN, frame.at(0.45, 14.2), min(40 * MINUTE_S, 0.1 * frame.length_s))
    yield incident(second, Trouble.SLOW, frame.at(0.6, 18.0), 4.5 * HOUR_S * frame.scale, strength=3.5)
    yield incident(first, Trouble.SLOW, frame.at(0.6, 18.5), 3 * HOUR_S * frame.scale, strength=5.0)
    if len(names) > 1:
        yield incident(second, Trouble.NO_CREDIT, frame.at(0.72, 10.0), 1.5 * HOUR_S * frame.scale)
    if len(names) > 2:
        yield incident(third, Trouble.BAD_KEY, frame.at(0.82, 9.0), 2 * HOUR_S * frame.scale)
    dark_s = frame.at(0.9, 15.5)
    for name in names:
        yield incident(name, Trouble.DOWN, dark_s, 14 * MINUTE_S * frame.scale)
    if embedded is not None:
        # While it starts again nobody is left, and requests fail altogether.
        yield incident(
            embedded, Trouble.CRASHED, dark_s + 4 * MINUTE_S * frame.scale, 5 * MINUTE_S * frame.scale
        )
    # Of the models with a successor the one that nobody serves any more in the demo either.
    succeeded = [(name, models[0]) for name, models in clouds.items() if len(models) > 1]
    for name, model in sorted(succeeded, key=lambda each: each[1] not in RETIRED)[:1]:
        yield Incident(
            provider=name, trouble=Trouble.GONE, at_s=frame.at(0.3, 11.0), until_s=math.inf, model=model
        )


def _small(names: Sequence[str], frame: _Frame, draw: Random) -> Iterator[Incident]:
    """Give the rate limits and overloads: the first provider, who has most of the traffic, has most of them."""
    kinds = (
        (Trouble.RATE_LIMITED, 36.0, 8.0, (8.0, 60.0), 1.0),
        (Trouble.OVERLOADED, 5.0, 3.0, (15.0, 90.0), 0.7),
    )
    for place, name in enumerate(names):
        for trouble, busiest, others, (shortest_s, longest_s), strength in kinds:
            pause_s = DAY_S / (busiest if place == 0 else others)
            at_s = draw.expovariate(1 / pause_s)
            while at_s < frame.length_s:
                length_s = draw.uniform(shortest_s, longest_s)
                yield Incident(
                    provider=name, trouble=trouble, at_s=at_s, until_s=at_s + length_s, strength=strength
                )
                at_s += length_s + draw.expovariate(1 / pause_s)


def _people(names: Sequence[str], frame: _Frame) -> Iterator[Deed]:
    """Give what people do: switches thrown, the order changed, a key put right."""

    def for_a_time(
        at_s: float, length_s: float, what: str, back: str, provider: str, by: str
    ) -> Iterator[Deed]:
        yield Deed(at_s=at_s, what=what, provider=provider, by=by)
        yield Deed(at_s=at_s + length_s * frame.scale, what=back, provider=provider, by=by)

    first, last = names[0], names[-1]
    yield from for_a_time(frame.at(0.65, 12.0), 20 * MINUTE_S, "off", "on", first, "api")
    if len(names) > 1:
        yield from for_a_time(frame.at(0.18, 8.5), 3 * HOUR_S, "off", "on", last, "dashboard")
        yield from for_a_time(frame.at(0.52, 10.5), 2.5 * HOUR_S, "swap", "unswap", first, "dashboard")
    if len(names) > 2:
        key_s = frame.at(0.82, 9.0) + 2.1 * HOUR_S * frame.scale
        yield Deed(at_s=key_s, what="end_cooldown", provider=names[2])


_DRILLED: Final = (
    (DrillKind.RATE_LIMITED, 1.0),
    (DrillKind.OFF, 1.0),
    (DrillKind.OVERLOADED, 0.5),
    (DrillKind.REFUSED, 1.0),
    (DrillKind.SERVER_ERROR, 1.0),
    (DrillKind.CUT, 0.6),
    (DrillKind.SILENT, 0.5),
    (DrillKind.HTML, 1.0),
)


def _drills(names: Sequence[str], frame: _Frame, draw: Random) -> Iterator[Deed]:
    """Give the drills: two in working hours on most days, some of them ended by hand."""
    turn, at_s = 0, frame.length_s * 0.08
    while at_s < frame.length_s * 0.97:
        kind, probability = _DRILLED[turn % len(_DRILLED)]
        provider = names[0 if turn % 3 else 1 % len(names)]
        length_s = draw.choice((300.0, 600.0, 900.0)) * max(frame.scale, 0.1)
        spec = {"kind": kind.value, "for_s": length_s, "seed": draw.getrandbits(32)}
        if kind is not DrillKind.OFF:
            spec["probability"] = probability
        yield Deed(
            at_s=at_s, what="drill", provider=provider, by="api" if turn % 3 == 2 else "dashboard", drill=spec
        )
        if turn % 4 == 3:
            yield Deed(at_s=at_s + 0.6 * length_s, what="drill", provider=provider)
        turn += 1
        at_s += length_s + draw.uniform(0.2, 0.7) * DAY_S * max(frame.scale, 0.1)
