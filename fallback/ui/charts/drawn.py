"""What all charts have in common: colours, shapes, the time axis, and how a chart is handed over.

Theory of operation: a chart is a Vega-Lite specification beside a small frame. Altair takes a tenth of a second to check
one, so specifications are kept as text by what decides them (`functools.lru_cache`), and everything that changes with each
refresh travels beside them: the rows, and the ends of the time axis as a parameter. Colours, dashes and shapes of a provider
follow from its place among all known providers, so that they are the same on every chart, whichever of them has rows.

What may not live here: Streamlit. The HTML report draws the same charts without it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import altair as alt
import pandas as pd

from fallback.analytics import Window

__all__ = [
    "AMOUNTS",
    "AXIS_HEIGHT",
    "INK",
    "INK_ON_DARK",
    "LEGEND_ROW",
    "MOMENTS",
    "PICK",
    "Canvas",
    "Drawn",
    "amounts",
    "color_of",
    "dash_of",
    "finished",
    "in_rows",
    "legend",
    "log_seconds_axis",
    "most",
    "picked",
    "provider_scale",
    "shape_of",
    "span_class",
    "specification",
    "stacked",
    "time_axis",
    "times",
]

MOMENTS: Final = "moments"
"""The parameter that holds the beginning and the end of the time axis."""
AMOUNTS: Final = "amounts"
"""The parameter that holds the ends of the axis of amounts."""
PICK: Final = "pick"
"""The selection of what was clicked."""
LEGEND_ROW: Final = 20
AXIS_HEIGHT: Final = 40
"""Of a legend. The height of a chart is that of all of it: axes and legend are inside."""
_NARROW: Final = 380
"""Pixels of a chart on a phone."""
MOST_PROVIDERS: Final = 12
"""That are told apart in one chart."""

INK: Final = "#4b5263"
INK_ON_DARK: Final = "#c3cad9"
_GRID: Final = "#e3e6ee"
_GRID_ON_DARK: Final = "#364057"

_HOURS_S: Final = 2 * 86_400.0
"""Windows up to here have a clock on their axis, up to the next days of the week, and beyond it dates."""
_DAYS_S: Final = 9 * 86_400.0
_LONGER_S: Final = 1e9

# Each has a contrast of 3:1 or more on both backgrounds.
_COLORS = ("#5b6ee8", "#c9781a", "#1f9aa8", "#b04fc4", "#7d8596", "#2a9d63")
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
_DASHES: tuple[tuple[int, ...], ...] = ((1, 0), (7, 3), (2, 2), (8, 3, 2, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A chart: its Vega-Lite specification, its rows, and what it says in words."""

    spec: dict[str, Any]
    frame: pd.DataFrame
    alt: str
    note: str = ""
    """What can be read off it, in a sentence or two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """What a chart is drawn on: the same for all charts of a page."""

    window: Window
    providers: tuple[str, ...]
    """Every provider there is, in an order that stays: their colours follow from it."""
    dark: bool = False
    pick: bool = False
    """Whether a click selects something: in the parameter PICK."""

    def known(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return `names` in the order of the canvas; those that it does not know come last, by name."""
        places = {name: place for place, name in enumerate(self.providers)}
        return tuple(sorted(names, key=lambda name: (places.get(name, len(places)), name)))

    def place(self, name: str) -> int:
        """Return the place of a provider, from which its colour follows."""
        return self.providers.index(name) if name in self.providers else len(self.providers)

    @property
    def span_s(self) -> float:
        """How long the window is."""
        return self.window.until - self.window.since


def color_of(place: int) -> str:
    """Return the colour of the provider at that place."""
    return _COLORS[place % len(_COLORS)]


def shape_of(place: int) -> str:
    """Return its shape; with the colour it tells 36 providers apart."""
    return _SHAPES[(place + place // len(_COLORS)) % len(_SHAPES)]


def dash_of(place: int) -> list[int]:
    """Return the dash of its lines."""
    return list(_DASHES[(place + place // len(_COLORS)) % len(_DASHES)])


def provider_scale(providers: Sequence[str], present: Sequence[str]) -> tuple[alt.Scale, alt.Legend | None]:
    """Return the colours of `providers`, and a legend of those that are `present`; none for a single one."""
    colors = [color_of(place) for place in range(len(providers))]
    return alt.Scale(domain=list(providers), range=colors), legend(present)


def legend(values: Sequence[str], columns: int = 4) -> alt.Legend | None:
    """Return a legend of `values` above the chart; None where there is nothing to tell apart.

    `columns` is how many stand beside each other where there is room; on a phone there are two.
    """
    if len(values) < 2:
        return None
    return alt.Legend(
        orient="top",
        columns=alt.ExprRef(f"width < {_NARROW} ? 2 : {columns}"),
        title=None,
        symbolOpacity=1,
        symbolSize=80,
        symbolStrokeWidth=2,
        labelLimit=170,
        values=list(values),
    )


def span_class(span_s: float) -> float:
    """Return one of three lengths, so that windows of similar lengths share a specification."""
    return next((limit_s for limit_s in (_HOURS_S, _DAYS_S) if span_s <= limit_s), _LONGER_S)


def time_axis(span_s: float) -> alt.Axis:
    """Return the axis of a window of that length. Its labels are of the reader's time zone."""
    if span_s <= _HOURS_S:
        clock, day = "timeFormat(datum.value, '%H:%M')", "timeFormat(datum.value, '%a %d')"
        label = f"{clock} === '00:00' ? {day} : {clock}"
        return alt.Axis(labelExpr=label, tickCount=6, grid=False, title=None, labelOverlap="greedy")
    if span_s <= _DAYS_S:
        return alt.Axis(format="%a %d", tickCount="day", grid=False, title=None, labelOverlap="greedy")
    return alt.Axis(format="%d %b", tickCount=6, grid=False, title=None, labelOverlap="greedy")


def times(field: str, span_s: float) -> alt.X:
    """Return the time axis of the whole window."""
    return alt.X(
        f"{field}:T", scale=alt.Scale(domain=alt.ExprRef(MOMENTS), nice=False), axis=time_axis(span_s)
    )


def stacked(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Return `rows` with `low` and `high`: the values of each bucket on top of each other, by `rank`."""
    # By hand, because Vega-Lite does not stack what has a beginning and an end on the other axis.
    placed = rows.sort_values(["bucket", "rank"], kind="stable").reset_index(drop=True)
    placed["high"] = placed.groupby("bucket")[value].cumsum()
    placed["low"] = placed["high"] - placed[value]
    return placed


def amounts(**options: Any) -> alt.Scale:
    """Return the scale from nothing to the largest amount: known beforehand, because the rows come later."""
    return alt.Scale(domain=alt.ExprRef(AMOUNTS), **options)


def log_seconds_axis(low: float, high: float) -> alt.Axis:
    """Return an axis of seconds from `low` to `high` on a logarithmic scale."""
    label = (
        "datum.value < 1 ? format(datum.value * 1000, ',.0f') + ' ms' : format(datum.value, ',.0f') + ' s'"
    )
    steps = [float(f"{digit}e{power}") for power in range(-4, 6) for digit in (1, 3)]
    values = [step for step in steps if low <= step <= high]
    return alt.Axis(values=values, labelExpr=label, title=None, gridOpacity=0.6)


def picked(*fields: str) -> alt.Parameter:
    """Return the selection of what is clicked, by the values of `fields`; a click beside clears it."""
    return alt.selection_point(name=PICK, fields=list(fields), clear="dblclick", toggle=False)


def specification(chart: alt.Chart | alt.LayerChart | alt.FacetChart) -> str:
    """Return the text of a chart of named rows, without them."""
    spec: dict[str, Any] = chart.to_dict()
    spec.pop("data", None)
    spec.pop("$schema", None)
    return json.dumps(spec)


def finished(
    text: str, canvas: Canvas, *, over_time: bool = True, most_of: float | None = None
) -> dict[str, Any]:
    """Return the specification that `text` holds, with the theme's ink, the ends of the time axis, and those of `amounts`."""
    spec: dict[str, Any] = json.loads(text)
    ink = INK_ON_DARK if canvas.dark else INK
    grid = _GRID_ON_DARK if canvas.dark else _GRID
    labels = {"labelColor": ink, "titleColor": ink, "labelFontSize": 11.5, "titleFontSize": 11.5}
    axis = {**labels, "gridColor": grid, "domainColor": grid, "tickColor": grid, "titleFontWeight": "normal"}
    spec["config"] = {"axis": axis, "legend": labels, "view": {"stroke": None}}
    if over_time:
        ends = [canvas.window.since * 1000, canvas.window.until * 1000]
        spec["params"] = [*spec.get("params", ()), {"name": MOMENTS, "value": ends}]
    if most_of is not None:
        spec["params"] = [*spec.get("params", ()), {"name": AMOUNTS, "value": [0, most_of]}]
    return spec


def in_rows(names: Sequence[str]) -> alt.Y:
    """Return an axis with a row for each name, in this order, its labels at the left."""
    return alt.Y(
        "provider:N",
        sort=list(names),
        scale=alt.Scale(domain=list(names)),
        axis=alt.Axis(
            title=None, labelLimit=120, labelOverlap=False, ticks=False, domain=False, labelPadding=8
        ),
    )


def most(frame: pd.DataFrame, column: str, by: str, limit: int = MOST_PROVIDERS) -> tuple[list[str], str]:
    """Return the values of `column` with the largest sums of `by`, and a sentence on those left out: often ""."""
    sums = (
        frame.groupby(column, sort=True, observed=True)[by].sum().sort_values(ascending=False, kind="stable")
    )
    names = [str(name) for name in sums.index]
    left_out = len(names) - limit
    if left_out <= 0:
        return names, ""
    return names[:limit], f" The {limit} with the most are drawn; the filter shows the other {left_out:,}."
