"""The charts below the cards. Their scales have fixed domains, so that nothing shifts when a value appears."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import altair as alt
import pandas as pd
import streamlit as st

from fallback.recent import CallRecord, RecentSnapshot
from fallback.ui.providers.states import account_of
from fallback.ui.wording import duration

__all__ = ["Drawn", "last_calls_chart", "medians_chart"]

MINUTES: Final = "minutes"
"""The parameter that holds the beginning and the end of the time axis."""
SHOWN_CALLS = 30
ROW_HEIGHT = 46
MEDIANS_HEIGHT = 190
LEGEND_ROW = 26
"""The height of a chart holds that of its legend, two entries a row."""
_SHARE = 0.72
"""How much of its row the longest bar takes."""
_LEAST = 0.06
FOOT = 0.1
"""Where the bars of a row begin."""
_STEPS_S = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)

_INK = "#4b5263"
_INK_ON_DARK = "#c3cad9"
# Told apart by shape and by colour; each colour has a contrast of 3:1 or more on both backgrounds.
_OUTCOMES = ("answered", "failed", "failed in a drill", "cancelled")
_OUTCOME_COLORS = ("#2a9d63", "#dc4a3d", "#c9781a", "#7d8596")
_OUTCOME_SHAPES = ("circle", "cross", "diamond", "square")
_SERIES_COLORS = ("#5b6ee8", "#c9781a", "#1f9aa8", "#b04fc4", "#7d8596", "#2a9d63")
_SERIES_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A chart: its Vega-Lite specification, its values, and what it says in words."""

    spec: dict[str, Any]
    frame: pd.DataFrame
    alt: str
    note: str = ""


def last_calls_chart(
    names: Sequence[str], calls: Sequence[CallRecord], *, dark: bool = False
) -> Drawn | None:
    """Return the last calls as bars, a row for each provider, oldest left; None: there are none.

    `calls` are newest first. Those of providers that are not among `names` are left out. `dark` is the page's theme.
    """
    shown = [call for call in calls if call.provider in names][:SHOWN_CALLS]
    if not shown:
        return None
    limit_s = _step(max(call.duration_s or 0.0 for call in shown))
    rows = [_call_row(call, names, SHOWN_CALLS - age, limit_s) for age, call in enumerate(shown)]
    present = {str(row["outcome"]) for row in rows}
    failed = sum(call.outcome not in {"ok", "cancelled"} for call in shown)
    return Drawn(
        spec=_calls_spec(tuple(names), tuple(outcome for outcome in _OUTCOMES if outcome in present), dark),
        frame=pd.DataFrame(rows),
        alt=f"The last {len(shown)} calls: {failed} of them failed, by {len(names)} providers, newest right",
        note=f"The newest is on the right. The higher, the longer it took: a full row is {duration(limit_s)}.",
    )


def medians_chart(names: Sequence[str], snapshot: RecentSnapshot, *, dark: bool = False) -> Drawn | None:
    """Return the median time of each provider's answers, minute by minute; None: there are no answers."""
    medians = [
        (name, snapshot.start_ts + 60 * minute, value)
        for name in names
        for minute, value in enumerate(snapshot.provider(name).sparkline)
        if value is not None
    ]
    if not medians:
        return None
    answered = tuple(name for name in names if snapshot.provider(name).p50_s is not None)
    spec = _medians_spec(tuple(names), answered, _step(max(value for _, _, value in medians)), dark)
    start, end = snapshot.start_ts, snapshot.start_ts + 60 * (snapshot.minutes - 1)
    told = ", ".join(f"{name} {duration(snapshot.provider(name).p50_s or 0.0)}" for name in answered)
    return Drawn(
        spec={**spec, "params": [{"name": MINUTES, "value": [start * 1000, end * 1000]}]},
        frame=pd.DataFrame(
            [
                {"provider": name, "minute": _moment(ts), "seconds": value, "took": duration(value)}
                for name, ts, value in medians
            ]
        ),
        alt=f"Median time to answer in the last 15 minutes: {told}",
    )


# Altair takes a tenth of a second to check a chart: so what it checked is kept, and the values are sent beside it.
@st.cache_data(max_entries=64, show_spinner=False)
def _calls_spec(names: Sequence[str], present: Sequence[str], dark: bool) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("values")).encode(
        x=alt.X("position:Q", scale=alt.Scale(domain=[0, SHOWN_CALLS + 1], nice=False), axis=None),
        tooltip=[
            alt.Tooltip("provider:N", title="provider"),
            alt.Tooltip("model:N", title="model"),
            alt.Tooltip("told:N", title="outcome"),
            alt.Tooltip("took:N", title="took"),
            alt.Tooltip("when:T", title="ended", format="%H:%M:%S"),
        ],
    )
    legend = _legend(present)
    color = alt.Color("outcome:N", scale=alt.Scale(domain=_OUTCOMES, range=_OUTCOME_COLORS), legend=legend)
    shape = alt.Shape("outcome:N", scale=alt.Scale(domain=_OUTCOMES, range=_OUTCOME_SHAPES), legend=legend)
    rows = alt.Scale(domain=[0, len(names)], nice=False)
    bars = base.mark_bar(width=7, cornerRadiusEnd=2).encode(
        y=alt.Y("low:Q", scale=rows, axis=_rows_axis(names), title=None), y2="high:Q", color=color
    )
    marks = base.mark_point(filled=True, size=45, opacity=1).encode(y="high:Q", color=color, shape=shape)
    return _specification((bars + marks).properties(height=ROW_HEIGHT * len(names) + LEGEND_ROW * 2), dark)


@st.cache_data(max_entries=64, show_spinner=False)
def _medians_spec(
    names: Sequence[str], answered: Sequence[str], limit_s: float, dark: bool
) -> dict[str, Any]:
    domain = list(names)
    colors = [_SERIES_COLORS[place % len(_SERIES_COLORS)] for place in range(len(names))]
    shapes = [_SERIES_SHAPES[place % len(_SERIES_SHAPES)] for place in range(len(names))]
    legend = _legend(answered)
    base = alt.Chart(alt.NamedData("values")).encode(
        x=alt.X(
            "minute:T",
            scale=alt.Scale(domain=alt.ExprRef(MINUTES)),
            axis=alt.Axis(format="%H:%M", tickCount=5, grid=False, title=None),
        ),
        y=alt.Y(
            "seconds:Q", scale=alt.Scale(domain=[0, limit_s]), axis=alt.Axis(title="seconds", tickCount=4)
        ),
        color=alt.Color("provider:N", scale=alt.Scale(domain=domain, range=colors), legend=legend),
        tooltip=[
            alt.Tooltip("provider:N", title="provider"),
            alt.Tooltip("took:N", title="median"),
            alt.Tooltip("minute:T", title="minute", format="%H:%M"),
        ],
    )
    points = base.mark_point(filled=True, size=50, opacity=1).encode(
        shape=alt.Shape("provider:N", scale=alt.Scale(domain=domain, range=shapes), legend=legend)
    )
    height = MEDIANS_HEIGHT + LEGEND_ROW * ((len(answered) + 1) // 2)
    return _specification((base.mark_line(strokeWidth=2) + points).properties(height=height), dark)


def _specification(chart: alt.LayerChart, dark: bool) -> dict[str, Any]:
    spec: dict[str, Any] = chart.to_dict()
    del spec["data"]
    # Streamlit's own are too pale to read.
    ink = {"labelColor": _INK_ON_DARK if dark else _INK, "titleColor": _INK_ON_DARK if dark else _INK}
    return {**spec, "config": {"axis": ink, "legend": ink}}


def _call_row(call: CallRecord, names: Sequence[str], position: int, limit_s: float) -> dict[str, object]:
    row = len(names) - 1 - names.index(call.provider)
    height = max(_LEAST, min((call.duration_s or 0.0) / limit_s, 1.0) * _SHARE)
    told = account_of(call.outcome)
    words = f"it {told.what}" if told else "it answered" if call.outcome == "ok" else call.outcome
    return {
        "position": position,
        "low": row + FOOT,
        "high": row + FOOT + height,
        "outcome": _outcome(call),
        "told": f"{words}{' (drill)' if call.drill else ''}{' (probe)' if call.probe else ''}",
        "provider": call.provider,
        "model": call.model or "",
        "took": "—" if call.duration_s is None else duration(call.duration_s),
        "when": _moment(call.ts),
    }


def _outcome(call: CallRecord) -> str:
    if call.outcome == "ok":
        return "answered"
    if call.outcome == "cancelled":
        return "cancelled"
    return "failed in a drill" if call.drill else "failed"


def _rows_axis(names: Sequence[str]) -> alt.Axis:
    # A JSON list of strings is one of Vega's expression language as well.
    labels = json.dumps(list(reversed(names)))
    return alt.Axis(
        values=[row + FOOT for row in range(len(names))],
        labelExpr=f"{labels}[floor(datum.value)]",
        labelLimit=130,
        labelBaseline="bottom",
        # The ground that the bars of a row stand on.
        grid=True,
        ticks=False,
        domain=False,
    )


def _legend(values: Sequence[str]) -> alt.Legend:
    return alt.Legend(
        orient="top", columns=2, title=None, symbolOpacity=1, symbolSize=70, values=list(values)
    )


def _moment(ts: float) -> pd.Timestamp:
    return pd.Timestamp(ts, unit="s", tz="UTC")


def _step(value_s: float) -> float:
    """Return the first round number that is no smaller, so that the scale moves seldom."""
    return next((step for step in _STEPS_S if step >= value_s), value_s)
