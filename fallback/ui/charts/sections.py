"""The parts of the page and of the report, in their order: what each asks, its heading, and its charts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pandas as pd

from fallback.analytics import (
    Analytics,
    Filters,
    Window,
    availability,
    consumption,
    failover_pairs,
    failovers_over_time,
    failures,
    latency,
    latency_distribution,
    latency_over_time,
    states,
    totals,
    totals_over_time,
)
from fallback.ui.charts.consumption import cost_chart, tokens_chart
from fallback.ui.charts.drawn import Canvas, Drawn
from fallback.ui.charts.failovers import failovers_chart, pairs_chart
from fallback.ui.charts.health import availability_chart, failures_chart, states_chart
from fallback.ui.charts.latency import distribution_chart, latency_charts

__all__ = ["FIGURES", "ROWS", "Section", "section"]

Ask = Callable[[str], pd.DataFrame]
"""Gives the frame of a figure of fallback.analytics by the figure's name."""

FIGURES: Final[dict[str, Callable[[Analytics, Window, Filters], pd.DataFrame]]] = {
    "totals": totals,
    "totals_over_time": totals_over_time,
    "failovers_over_time": failovers_over_time,
    "failover_pairs": failover_pairs,
    "latency": latency,
    "latency_over_time": latency_over_time,
    "latency_distribution": latency_distribution,
    "failures": failures,
    "availability": availability,
    "states": states,
    "consumption": consumption,
}
"""What the sections ask, by the names that `Ask` takes."""

ROWS: tuple[tuple[str, ...], ...] = (
    ("failovers", "pairs"),
    ("latency",),
    ("distribution",),
    ("failures", "availability"),
    ("states",),
    ("tokens", "cost"),
)
"""What stands beside what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading, what can be seen below it, and the charts: each with a title of its own, mostly ""."""

    key: str
    title: str
    about: str
    charts: tuple[tuple[str, Drawn], ...]
    empty: str
    """What is said where there is nothing to draw."""


_TEXTS: dict[str, tuple[str, str, str]] = {
    "failovers": (
        "When and why failover happened",
        "Each bar counts how often a request went on to the next provider, by what was wrong with the one before.",
        "No failover in this time: every request stayed with the provider that was asked first.",
    ),
    "pairs": (
        "From which provider to which",
        (
            "A row is the provider that was left, a column the one that was asked next. Another model of the same provider "
            "counts as well."
        ),
        "No failover in this time.",
    ),
    "latency": (
        "How long answers take",
        (
            "Line: half of the answers were faster. Band: 95 % of them. Dotted: 99 %. Red diamonds are answers after a failover: "
            "half of them, with a bar up to 95 % and a tick at 99 %. The time is that of the attempt that answered; all panels have the "
            "same logarithmic scale."
        ),
        "No answers in this time.",
    ),
    "distribution": (
        "How the times spread",
        (
            "Upwards: answers of a provider that was asked first. Downwards, in red: answers after a failover. The tallest bar of "
            "each is drawn in full height."
        ),
        "No answers in this time.",
    ),
    "failures": (
        "What went wrong, and where",
        "Attempts that failed, by provider and kind. Cancelled ones are none.",
        "No attempt failed in this time.",
    ),
    "availability": (
        "Availability, in nines per day",
        (
            "Which share of calls was answered, in percent, and how many nines that makes. Mistakes of the caller (an invalid "
            "or too long request, refused content) and cancelled calls do not count."
        ),
        "No calls in this time.",
    ),
    "states": (
        "Who was ready, and who was not",
        (
            "Thin green: ready. Thick: left alone after a failure, disabled, switched off, or under a drill. Very short spells "
            "are drawn a little longer than they were, so that they can be seen."
        ),
        "The log tells of no provider in this time.",
    ),
    "tokens": (
        "Tokens",
        "Tokens of questions and answers, by the provider that answered.",
        "No tokens in this time.",
    ),
    "cost": (
        "Cost",
        "By the prices in providers.yaml at the time of the answer.",
        "Nothing that had a price in this time.",
    ),
}

_ONE: dict[str, tuple[Callable[[Canvas, pd.DataFrame], Drawn | None], str]] = {
    "failovers": (failovers_chart, "failovers_over_time"),
    "pairs": (pairs_chart, "failover_pairs"),
    "distribution": (distribution_chart, "latency_distribution"),
    "failures": (failures_chart, "failures"),
    "availability": (availability_chart, "availability"),
    "states": (states_chart, "states"),
    "tokens": (tokens_chart, "consumption"),
    "cost": (cost_chart, "consumption"),
}


def section(key: str, canvas: Canvas, ask: Ask) -> Section:
    """Return the section of that key, drawn on `canvas` from what `ask` gives."""
    title, about, empty = _TEXTS[key]
    if key == "latency":
        charts = tuple(latency_charts(canvas, ask("latency_over_time"), ask("latency")))
    else:
        draw, figure = _ONE[key]
        drawn = draw(canvas, ask(figure))
        charts = () if drawn is None else (("", drawn),)
    return Section(key=key, title=title, about=about, charts=charts, empty=empty)
