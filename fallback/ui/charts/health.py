"""How providers fail, whether they were there, and in which states they were."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Final

import altair as alt
import pandas as pd

from fallback.ui.charts.drawn import (
    AXIS_HEIGHT,
    LEGEND_ROW,
    Canvas,
    Drawn,
    amounts,
    finished,
    in_rows,
    legend,
    most,
    picked,
    span_class,
    specification,
    times,
)
from fallback.ui.charts.failovers import MOST_KINDS, kinds_scale, with_kinds
from fallback.ui.charts.words import NINES, count, counted, moment, nines_words, share, why
from fallback.ui.wording import account_of, duration

__all__ = ["availability_chart", "failures_chart", "states_chart"]

ROW_HEIGHT = 38
WHOLE: Final = "all requests"
"""The row of the whole in the chart of availability."""
# White numbers stand on them: a contrast of 4.5:1 or more.
_NINES_COLORS = ("#217a4d", "#66761a", "#a35f10", "#bd4b20", "#a3231b")
_STATES: Final[dict[str, tuple[str, str]]] = {
    "ready": ("ready", "#2a9d63"),
    "cooling_down": ("cooling down", "#c9781a"),
    "disabled": ("disabled", "#dc4a3d"),
    "off": ("switched off", "#7d8596"),
    "not_configured": ("not configured", "#a3a9b8"),
    "drill": ("drill", "#b04fc4"),
}
_MOST_NUMBERS = 10
"""Days up to which each cell holds its number."""
_MOST_INTERVALS = 1_500
"""That are drawn; shorter ones melt into their neighbours."""


def failures_chart(canvas: Canvas, frame: pd.DataFrame) -> Drawn | None:
    """Return the failures of each provider, stacked by kind; None: there were none. `frame` is `failures`."""
    if frame.empty:
        return None
    names, left_out = most(frame, "provider", "failures")
    kinds, _ = most(frame, "kind", "failures", MOST_KINDS)
    shown = frame[frame["provider"].isin(names)].rename(columns={"kind": "error"})
    rows = with_kinds(shown, "error", kinds, "failures", ["provider"])
    total = rows.groupby("provider")["failures"].transform("sum")
    rows["part"] = [share(value) for value in rows["failures"] / total]
    present = tuple(rows.sort_values("rank")["kind"].unique())
    most_of = float(rows.groupby("provider")["failures"].sum().max())
    worst = names[0]
    own = frame[frame["provider"] == worst].sort_values("failures", ascending=False)
    told = (
        f"{worst} failed {counted(own['failures'].sum(), 'time')}, most often because it {why(str(own['kind'].iloc[0]))} "
        f"({count(own['failures'].iloc[0])})."
    )
    if len(frame) > len(own):
        told += f" Of all {counted(frame['failures'].sum(), 'failure')} that is {share(own['failures'].sum() / frame['failures'].sum())}."
    return Drawn(
        spec=finished(
            _failures_spec(canvas.known(names), present, canvas.pick),
            canvas,
            over_time=False,
            most_of=most_of,
        ),
        frame=rows,
        alt=f"Failures by provider and kind: {told}",
        note=told + left_out,
    )


@lru_cache(maxsize=64)
def _failures_spec(names: tuple[str, ...], present: tuple[str, ...], pick: bool) -> str:
    chosen = picked("provider", "name")
    chart = (
        alt.Chart(alt.NamedData("values"))
        .mark_bar(cursor="pointer" if pick else "default", height={"band": 0.62})
        .encode(
            y=in_rows(names),
            x=alt.X(
                "failures:Q",
                stack="zero",
                scale=amounts(),
                axis=alt.Axis(title=None, tickMinStep=1, tickCount=5),
            ),
            color=alt.Color("kind:N", scale=kinds_scale(present), legend=legend(present, columns=3)),
            order=alt.Order("rank:Q"),
            tooltip=[
                alt.Tooltip("provider:N", title="provider"),
                alt.Tooltip("kind:N", title="kind"),
                alt.Tooltip("failures:Q", title="failures", format=",d"),
                alt.Tooltip("part:N", title="of its failures"),
            ],
        )
        .properties(height=ROW_HEIGHT * len(names) + AXIS_HEIGHT + LEGEND_ROW * ((len(present) + 1) // 2))
    )
    if pick:
        chart = chart.add_params(chosen).encode(
            opacity=alt.when(chosen).then(alt.value(1)).otherwise(alt.value(0.35))
        )
    return specification(chart)


def availability_chart(canvas: Canvas, frame: pd.DataFrame) -> Drawn | None:
    """Return which share of calls was answered, day by day, for each provider and for all requests.

    `frame` is `availability`. None: there was nothing to answer.
    """
    if frame.empty:
        return None
    own = frame[frame["provider"] != ""]
    names, left_out = most(own, "provider", "calls") if not own.empty else ([], "")
    rows = frame[frame["provider"].isin([*names, ""])].copy()
    rows["provider"] = [name or WHOLE for name in rows["provider"]]
    days = _days(rows["day"], canvas.window.utc_offset_s)
    first = rows["day"].min()
    rows["date"] = [days[(day - first) // pd.Timedelta(days=1)] for day in rows["day"]]
    rows["step"] = [nines_words(value) for value in rows["availability"]]
    rows["told"] = [share(value) for value in rows["availability"]]
    rows["brief"] = [_brief(value) for value in rows["availability"]]
    rows["count"] = [_nines(value) for value in rows["nines"]]
    whole = frame[frame["provider"] == ""]
    subject = whole if not whole.empty else frame
    rate = subject["good"].sum() / subject["calls"].sum()
    worst = subject.sort_values(["availability", "day"]).iloc[0]
    on = _date(worst["day"].timestamp(), canvas.window.utc_offset_s)
    told = f"{share(rate)} of {counted(subject['calls'].sum(), 'request')} were answered"
    told += f"; the worst day was {on} with {share(worst['availability'])}." if len(days) > 1 else "."
    shown = (WHOLE, *canvas.known(names)) if not whole.empty else canvas.known(names)
    present = tuple(words for _, words in NINES if words in set(rows["step"]))
    spec = finished(_availability_spec(shown, days, present), canvas, over_time=False)
    return Drawn(spec=spec, frame=rows, alt=f"Availability by day and provider: {told}", note=told + left_out)


def _days(days: pd.Series[pd.Timestamp], utc_offset_s: int) -> tuple[str, ...]:
    """Return every day from the first to the last one, also those on which nothing was asked."""
    first, last = days.min().timestamp(), days.max().timestamp()
    number = int((last - first) // 86_400) + 1
    form = "%a %d" if number <= _MOST_NUMBERS else "%d %b" if number <= 300 else "%d %b %Y"
    zone = timezone(timedelta(seconds=utc_offset_s))
    return tuple(datetime.fromtimestamp(first + 86_400 * day, zone).strftime(form) for day in range(number))


def _date(ts: float, utc_offset_s: int) -> str:
    return moment(ts, utc_offset_s).rsplit(" ", 1)[0]


def _brief(availability: float) -> str:
    """Return a share in a cell: "100", "99.95", "98.7"; rounded down, so that only all is 100."""
    if availability in {0.0, 1.0}:
        return f"{availability * 100:.0f}"
    digits = 2 if availability >= 0.99 else 1
    return f"{math.floor(availability * 100 * 10**digits) / 10**digits:.{digits}f}"


def _nines(nines: float) -> str:
    return "all answered" if math.isinf(nines) else f"{nines:.2f}"


@lru_cache(maxsize=64)
def _availability_spec(names: tuple[str, ...], days: tuple[str, ...], present: tuple[str, ...]) -> str:
    numbers = len(days) <= _MOST_NUMBERS
    steps = [words for _, words in NINES]
    columns = alt.X(
        "date:N",
        scale=alt.Scale(domain=list(days), paddingInner=0.04),
        axis=alt.Axis(
            title=None, ticks=False, domain=False, labelAngle=0, labelOverlap="greedy", labelPadding=6
        ),
    )
    base = alt.Chart(alt.NamedData("values")).encode(
        y=in_rows(names),
        x=columns,
        tooltip=[
            alt.Tooltip("provider:N", title="provider"),
            alt.Tooltip("date:N", title="day"),
            alt.Tooltip("told:N", title="answered"),
            alt.Tooltip("count:N", title="nines"),
            alt.Tooltip("calls:Q", title="calls that count", format=",d"),
            alt.Tooltip("good:Q", title="of these answered", format=",d"),
        ],
    )
    cells = base.mark_rect(cornerRadius=3, stroke="#8a8f9c", strokeOpacity=0.25, strokeWidth=1).encode(
        color=alt.Color(
            "step:N",
            scale=alt.Scale(domain=steps, range=list(_NINES_COLORS)),
            legend=legend(present, columns=3),
        ),
    )
    chart = alt.layer(cells)
    if numbers:
        texts = base.mark_text(fontSize=11.5, fontWeight="bold", color="#ffffff").encode(text="brief:N")
        chart = alt.layer(cells, texts)
    return specification(chart.properties(height=ROW_HEIGHT * len(names) + AXIS_HEIGHT + LEGEND_ROW * 2))


def states_chart(canvas: Canvas, frame: pd.DataFrame) -> Drawn | None:
    """Return when each provider was in which state; None: the log tells of no state. `frame` is `states`."""
    if frame.empty:
        return None
    lengths = (frame["end"] - frame["begin"]).dt.total_seconds()
    away = frame.assign(away_s=lengths.where(frame["state"] != "ready", 0.0))
    names, left_out = most(away, "provider", "away_s")
    rows = frame[frame["provider"].isin(names)].assign(length_s=lengths)
    rows = (
        rows.sort_values("length_s", ascending=False, kind="stable")
        .head(_MOST_INTERVALS)
        .sort_values("begin")
    )
    rows["told"] = [_STATES.get(state, (state, ""))[0] for state in rows["state"]]
    rows["why"] = [_reason(str(reason or "")) for reason in rows["reason"]]
    rows["long"] = [duration(value) for value in rows["length_s"]]
    # A cooldown of seconds in a week would be thinner than a hair.
    least = pd.Timedelta(seconds=canvas.span_s / 400)
    rows["shown_end"] = rows["end"].where(
        (rows["state"] == "ready") | (rows["end"] - rows["begin"] >= least), rows["begin"] + least
    )
    present = tuple(words for state, (words, _) in _STATES.items() if state in set(rows["state"]))
    told = _states_reading(away)
    return Drawn(
        spec=finished(_states_spec(canvas.known(names), present, span_class(canvas.span_s)), canvas),
        frame=rows,
        alt=f"States of the providers over time: {told}",
        note=told + left_out,
    )


def _states_reading(away: pd.DataFrame) -> str:
    sums = away.groupby("provider")["away_s"].sum()
    worst = str(sums.idxmax())
    if sums.max() <= 0:
        return "Every provider was ready all the time."
    own = away[away["provider"] == worst]
    times_away = int((own["state"] != "ready").sum())
    whole = (own["end"] - own["begin"]).dt.total_seconds().sum()
    ready = [str(name) for name, value in sums.items() if value <= 0]
    calm = (
        f" {', '.join(ready[:3])} {'was' if len(ready) == 1 else 'were'} ready all the time."
        if 0 < len(ready) <= 3
        else ""
    )
    return (
        f"{worst} was away for the longest: {duration(sums.max())} in {counted(times_away, 'spell')}, "
        f"{share(sums.max() / whole)} of the time.{calm}"
    )


def _reason(reason: str) -> str:
    told = account_of(reason)
    return f"it {told.what}" if told else reason.replace("_", " ") or "—"


@lru_cache(maxsize=64)
def _states_spec(names: tuple[str, ...], present: tuple[str, ...], span_s: float) -> str:
    words = [told for told, _ in _STATES.values()]
    colors = [color for _, color in _STATES.values()]
    base = alt.Chart(alt.NamedData("values")).encode(
        x=times("begin", span_s),
        x2="shown_end:T",
        y=in_rows(names),
        color=alt.Color(
            "told:N", scale=alt.Scale(domain=words, range=colors), legend=legend(present, columns=6)
        ),
        tooltip=[
            alt.Tooltip("provider:N", title="provider"),
            alt.Tooltip("told:N", title="state"),
            alt.Tooltip("why:N", title="because"),
            alt.Tooltip("begin:T", title="from", format="%a %d %b %H:%M:%S"),
            alt.Tooltip("end:T", title="to", format="%a %d %b %H:%M:%S"),
            alt.Tooltip("long:N", title="that is"),
        ],
    )
    # What is ready is thin, so that it is not colour alone that tells.
    ready = base.transform_filter("datum.state === 'ready'").mark_bar(height=5, opacity=0.7)
    away = base.transform_filter("datum.state !== 'ready'").mark_bar(height={"band": 0.7})
    return specification((ready + away).properties(height=ROW_HEIGHT * len(names) + AXIS_HEIGHT + LEGEND_ROW))
