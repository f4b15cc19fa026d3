"""How long answers take: over time for each provider, and as a distribution. Direct answers and failovers are told apart."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Final

import altair as alt
import pandas as pd

from fallback.ui.charts.drawn import (
    AXIS_HEIGHT,
    LEGEND_ROW,
    Canvas,
    Drawn,
    color_of,
    finished,
    legend,
    log_seconds_axis,
    most,
    span_class,
    specification,
    times,
)
from fallback.ui.charts.words import counted, share
from fallback.ui.wording import duration

__all__ = ["MOST_PANELS", "distribution_chart", "latency_charts"]

MOST_PANELS = 8
"""Providers that get a panel of their own."""
PANEL_HEIGHT = 160
ROW_HEIGHT = 64
DIRECT: Final = "asked first"
FAILOVER: Final = "after a failover"
_ROLES = {"direct": DIRECT, "failover": FAILOVER}
_FAILOVER_COLOR = "#dc4a3d"
_OWN_RED = "#8a8f9c"
_HALF: Final = 0.44
"""Of a row: the share that the tallest bar of one role takes."""


def latency_charts(canvas: Canvas, frame: pd.DataFrame, whole: pd.DataFrame) -> list[tuple[str, Drawn]]:
    """Return a panel for each provider that answered, in the order of the canvas; all have the same scale.

    `frame` is `latency_over_time` and `whole` is `latency`. The line is the median, the band goes up to 95 %, the dots are 99 %; answers after a failover
    are bars from the median (diamond) to 95 %, with a tick at 99 %.
    """
    if frame.empty:
        return []
    names, _ = most(frame, "provider", "answers", MOST_PANELS)
    shown = frame[frame["provider"].isin(names)]
    ends = _decade(float(shown["p50_s"].min()), float(shown["p99_s"].max()))

    def panel(name: str) -> Drawn:
        return _panel(canvas, shown[shown["provider"] == name], whole[whole["provider"] == name], ends)

    return [(name, panel(name)) for name in canvas.known(names)]


def _panel(canvas: Canvas, frame: pd.DataFrame, whole: pd.DataFrame, ends: tuple[float, float]) -> Drawn:
    rows = frame.assign(
        told=[_ROLES.get(role, role) for role in frame["role"]],
        middle=frame["bucket"] + pd.Timedelta(seconds=canvas.window.bucket_s / 2),
        p50=[duration(value) for value in frame["p50_s"]],
        p95=[duration(value) for value in frame["p95_s"]],
        p99=[duration(value) for value in frame["p99_s"]],
    ).sort_values("bucket")
    rows["run"] = _runs(rows, canvas.window.bucket_s)
    roles = tuple(told for told in (DIRECT, FAILOVER) if told in set(rows["told"]))
    note = " ".join(_reading(row) for row in whole.sort_values("role").to_dict("records"))
    name = str(frame["provider"].iloc[0])
    return Drawn(
        spec=finished(
            _panel_spec(color_of(canvas.place(name)), roles, *ends, span_class(canvas.span_s)), canvas
        ),
        frame=rows,
        alt=f"Time to answer of {name} over time, on a logarithmic scale: {note}",
        note=note,
    )


def _reading(row: dict[Any, Any]) -> str:
    told = _ROLES.get(str(row["role"]), str(row["role"]))
    half, most_of, nearly_all = (duration(float(row[rank])) for rank in ("p50_s", "p95_s", "p99_s"))
    return (
        f"{told[:1].upper()}{told[1:]}: {counted(row['answers'], 'answer')}, half within {half}, 95 % within {most_of}, "
        f"99 % within {nearly_all}."
    )


def _runs(rows: pd.DataFrame, bucket_s: int) -> list[str]:
    """Return a number for the stretches without a gap of each role, so that no line is drawn over a time without answers."""
    runs: list[str] = []
    last: dict[str, tuple[pd.Timestamp, int]] = {}
    for role, bucket in zip(rows["role"], rows["bucket"], strict=True):
        before, number = last.get(role, (None, 0))
        if before is not None and (bucket - before).total_seconds() > 2 * bucket_s:
            number += 1
        last[role] = (bucket, number)
        runs.append(f"{role}{number}")
    return runs


def _decade(low: float, high: float) -> tuple[float, float]:
    """Return round ends (1, 3, 10, 30, ...) of a logarithmic scale around the two."""
    steps = [float(f"{digit}e{power}") for power in range(-4, 6) for digit in (1, 3)]
    begin = max((step for step in steps if step <= low), default=steps[0])
    end = min((step for step in steps if step >= high), default=steps[-1])
    return begin, end if end > begin else begin * 10


@lru_cache(maxsize=128)
def _panel_spec(color: str, roles: tuple[str, ...], low: float, high: float, span_s: float) -> str:
    after = _OWN_RED if color == _FAILOVER_COLOR else _FAILOVER_COLOR
    scale = alt.Scale(domain=[DIRECT, FAILOVER], range=[color, after])
    told = alt.Color("told:N", scale=scale, legend=legend(roles, columns=2))
    seconds = alt.Scale(type="log", domain=[low, high], clamp=True, nice=False)
    base = alt.Chart(alt.NamedData("values")).encode(x=times("middle", span_s), color=told)
    tooltip = [
        alt.Tooltip("told:N", title="answers"),
        alt.Tooltip("answers:Q", title="how many", format=",d"),
        alt.Tooltip("p50:N", title="half within"),
        alt.Tooltip("p95:N", title="95 % within"),
        alt.Tooltip("p99:N", title="99 % within"),
        alt.Tooltip("bucket:T", title="from", format="%a %d %b %H:%M"),
    ]
    y = alt.Y("p50_s:Q", scale=seconds, axis=log_seconds_axis(low, high))
    first = base.transform_filter(f"datum.told === '{DIRECT}'")
    band = first.mark_area(opacity=0.22).encode(y=y, y2="p95_s:Q", detail="run:N")
    line = first.mark_line(strokeWidth=2).encode(y=y, detail="run:N")
    most_of = first.mark_line(strokeWidth=1.2, strokeDash=[1, 3]).encode(y="p99_s:Q", detail="run:N")
    dots = first.mark_point(filled=True, size=18, opacity=1).encode(y=y, tooltip=tooltip)
    second = base.transform_filter(f"datum.told === '{FAILOVER}'")
    bars = second.mark_rule(strokeWidth=2, opacity=0.75).encode(y=y, y2="p95_s:Q", tooltip=tooltip)
    ends = second.mark_tick(thickness=1.5, width=6, height=1.5, orient="horizontal").encode(
        y="p99_s:Q", tooltip=tooltip
    )
    diamonds = second.mark_point(filled=True, shape="diamond", size=45, opacity=1).encode(
        y=y, tooltip=tooltip
    )
    chart = alt.layer(band, most_of, line, dots, bars, ends, diamonds)
    return specification(
        chart.properties(height=PANEL_HEIGHT + AXIS_HEIGHT + (LEGEND_ROW if len(roles) > 1 else 0))
    )


def distribution_chart(canvas: Canvas, frame: pd.DataFrame) -> Drawn | None:
    """Return how the answers of each provider spread over time: a row each, direct ones upwards, failovers downwards.

    `frame` is `latency_distribution`. None: there are no answers.
    """
    if frame.empty:
        return None
    names, left_out = most(frame, "provider", "answers")
    shown = canvas.known(names)
    rows = frame[frame["provider"].isin(names) & (frame["high_s"] > 0)].copy()
    tallest = rows.groupby(["provider", "role"], observed=True)["answers"].transform("max")
    total = rows.groupby(["provider", "role"], observed=True)["answers"].transform("sum")
    row = (
        pd.Series([len(shown) - 1 - shown.index(str(name)) for name in rows["provider"]], index=rows.index)
        + 0.5
    )
    up = rows["role"].eq("direct").map({True: 1.0, False: -1.0})
    rows["base"] = row
    rows["top"] = row + up * _HALF * rows["answers"] / tallest
    rows["told"] = [_ROLES.get(role, role) for role in rows["role"]]
    rows["between"] = [
        f"{duration(a)} to {duration(b)}" for a, b in zip(rows["low_s"], rows["high_s"], strict=True)
    ]
    rows["part"] = [share(value) for value in rows["answers"] / total]
    rows["low_s"] = rows["low_s"].clip(lower=1e-4)
    low, high = _decade(float(rows["low_s"].min()), float(rows["high_s"].max()))
    colors = tuple(color_of(canvas.place(name)) for name in shown)
    told = _spread(frame, shown)
    return Drawn(
        spec=finished(_distribution_spec(shown, colors, low, high, canvas.dark), canvas, over_time=False),
        frame=rows,
        alt=f"How long answers took, a row for each provider, on a logarithmic scale: {told}",
        note=told + left_out,
    )


def _spread(frame: pd.DataFrame, names: tuple[str, ...]) -> str:
    """Say which provider is the fastest, by the bin in which half of its answers have ended."""
    halves = {name: _half(frame[frame["provider"] == name]) for name in names}
    fastest, slowest = min(halves, key=lambda name: halves[name]), max(halves, key=lambda name: halves[name])
    if fastest == slowest:
        return f"Half of the answers of {fastest} took less than {duration(halves[fastest])}."
    return (
        f"{fastest} is the fastest: half of its answers took less than {duration(halves[fastest])}; "
        f"{slowest} is the slowest: {duration(halves[slowest])}."
    )


def _half(frame: pd.DataFrame) -> float:
    bins = frame.groupby("high_s")["answers"].sum().sort_index().cumsum()
    return float(bins.index[(bins * 2 >= bins.iloc[-1]).to_numpy().argmax()])


@lru_cache(maxsize=64)
def _distribution_spec(
    names: tuple[str, ...], colors: tuple[str, ...], low: float, high: float, dark: bool
) -> str:
    labels = json.dumps(list(reversed(names)))
    rows = alt.Scale(domain=[0, len(names)], nice=False)
    axis = alt.Axis(
        values=[place + 0.5 for place in range(len(names))],
        labelExpr=f"{labels}[floor(datum.value)]",
        labelLimit=120,
        title=None,
        ticks=False,
        domain=False,
        gridColor="#5c6785" if dark else "#c3c8d6",
    )
    bars = (
        alt.Chart(alt.NamedData("values"))
        .mark_rect(strokeWidth=0.5, stroke="#1b2130" if dark else "#ffffff")
        .encode(
            x=alt.X(
                "low_s:Q",
                scale=alt.Scale(type="log", domain=[low, high], nice=False, clamp=True),
                axis=log_seconds_axis(low, high),
            ),
            x2="high_s:Q",
            y=alt.Y("base:Q", scale=rows, axis=axis),
            y2="top:Q",
            tooltip=[
                alt.Tooltip("provider:N", title="provider"),
                alt.Tooltip("told:N", title="answers"),
                alt.Tooltip("between:N", title="took"),
                alt.Tooltip("answers:Q", title="how many", format=",d"),
                alt.Tooltip("part:N", title="of these answers"),
            ],
        )
    )
    own = alt.Scale(domain=list(names), range=list(colors))
    first = bars.transform_filter("datum.role === 'direct'").encode(
        color=alt.Color("provider:N", scale=own, legend=None)
    )
    second = bars.transform_filter("datum.role !== 'direct'").encode(color=alt.value(_FAILOVER_COLOR))
    return specification((first + second).properties(height=ROW_HEIGHT * len(names) + AXIS_HEIGHT))
