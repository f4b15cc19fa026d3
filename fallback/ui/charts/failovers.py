"""Failovers: when and why, and from whom to whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

import altair as alt
import pandas as pd

from fallback.core.errors import FailureKind
from fallback.ui.charts.drawn import (
    AXIS_HEIGHT,
    INK_ON_DARK,
    LEGEND_ROW,
    Canvas,
    Drawn,
    amounts,
    finished,
    legend,
    most,
    picked,
    span_class,
    specification,
    stacked,
    times,
)
from fallback.ui.charts.words import count, counted, kind_label, moment, share, why

__all__ = ["KIND_COLORS", "failovers_chart", "kind_color", "pairs_chart"]

OVER_TIME_HEIGHT = 200
CELL_HEIGHT = 46
MOST_KINDS = 10
"""That are told apart; the rest is drawn together."""
OTHER: Final = "other"
_BAR = 0.86
"""How much of its bucket a bar takes."""

KIND_COLORS: Final[dict[str, str]] = {
    FailureKind.RATE_LIMITED: "#c9781a",
    FailureKind.TIMEOUT: "#5b6ee8",
    FailureKind.CONNECTION: "#1f9aa8",
    FailureKind.SERVER_ERROR: "#dc4a3d",
    FailureKind.OVERLOADED: "#b04fc4",
    FailureKind.MODEL_UNAVAILABLE: "#2a9d63",
    FailureKind.QUOTA_EXHAUSTED: "#9a6a3a",
    FailureKind.AUTHENTICATION: "#7d8596",
    FailureKind.STREAM_TRUNCATED: "#d0588f",
    FailureKind.STREAM_STALLED: "#b3862a",
    FailureKind.MALFORMED_RESPONSE: "#8b7bd8",
    FailureKind.EMPTY_RESPONSE: "#5f9ea0",
    FailureKind.INVALID_REQUEST: "#b5636d",
    FailureKind.CONTENT_POLICY: "#c2649a",
    FailureKind.CONTEXT_WINDOW_EXCEEDED: "#4a90d9",
    FailureKind.REQUEST_TOO_LARGE: "#7a8f1f",
    FailureKind.PERMISSION_DENIED: "#a8722f",
    FailureKind.BLOCKED_BY_EDGE: "#4f8fb8",
    FailureKind.OUTPUT_REJECTED: "#e0655a",
}
"""The colour of each kind of failure, the same on every chart; 3:1 or more on both backgrounds. Their order is that of stacks."""


def kind_color(kind: str) -> str:
    """Return the colour of a kind of failure; grey for one that is not ours."""
    return KIND_COLORS.get(kind, "#8a8f9c")


def failovers_chart(canvas: Canvas, frame: pd.DataFrame) -> Drawn | None:
    """Return the failovers of each bucket, stacked by reason; None: there were none. `frame` is `failovers_over_time`."""
    if frame.empty:
        return None
    reasons, _ = most(frame, "reason", "failovers", MOST_KINDS)
    rows = with_kinds(frame, "reason", reasons, "failovers", ["bucket"])
    rows["end"] = rows["bucket"] + pd.Timedelta(seconds=canvas.window.bucket_s * _BAR)
    rows = stacked(rows, "failovers")
    # Numbers, because what is picked comes back as it was sent.
    rows["since_s"] = [bucket.timestamp() for bucket in rows["bucket"]]
    rows["until_s"] = rows["since_s"] + canvas.window.bucket_s
    present = _stacked(set(rows["kind"]))
    text = _over_time_spec(present, span_class(canvas.span_s), canvas.pick)
    total = int(frame["failovers"].sum())
    leading = str(frame.groupby("reason")["failovers"].sum().idxmax())
    often = int(frame.loc[frame["reason"] == leading, "failovers"].sum())
    sums = frame.groupby("bucket")["failovers"].sum()
    busiest = frame.loc[frame["bucket"].map(sums) == sums.max(), "bucket"].min()
    at = moment(busiest.timestamp(), canvas.window.utc_offset_s)
    told = f"{counted(total, 'failover')}, most often because a provider {why(leading)} ({count(often)}, {share(often / total)})."
    if len(sums) > 1:
        told += f" The most in one bar: {count(sums.max())}, {at}."
    return Drawn(
        spec=finished(text, canvas, most_of=float(sums.max())),
        frame=rows,
        alt=f"Failovers over time by reason: {told}",
        note=told,
    )


def with_kinds(
    frame: pd.DataFrame, column: str, kept: Sequence[str], by: str, keys: Sequence[str]
) -> pd.DataFrame:
    """Return `frame` with its kinds of failure by the names of a legend, in `kind`, and what is not kept as one."""
    named = frame.assign(
        kind=[kind_label(str(value)) if str(value) in kept else OTHER for value in frame[column]],
        name=[str(value) if str(value) in kept else "" for value in frame[column]],
    )
    rows = named.groupby([*keys, "kind", "name"], observed=True)[[by]].sum().reset_index()
    order = {kind_label(kind): place for place, kind in enumerate(KIND_COLORS)}
    rows["rank"] = [order.get(kind, len(order) + (kind == OTHER)) for kind in rows["kind"]]
    return rows


def kinds_scale(present: Sequence[str]) -> alt.Scale:
    """Return the colours of the kinds of a legend that are `present`."""
    colors = {kind_label(kind): color for kind, color in KIND_COLORS.items()}
    return alt.Scale(domain=list(present), range=[colors.get(kind, "#8a8f9c") for kind in present])


def _stacked(kinds: Iterable[str]) -> tuple[str, ...]:
    order = {kind_label(kind): place for place, kind in enumerate(KIND_COLORS)}
    return tuple(sorted(kinds, key=lambda kind: (order.get(kind, len(order)), kind == OTHER, kind)))


@lru_cache(maxsize=64)
def _over_time_spec(present: tuple[str, ...], span_s: float, pick: bool) -> str:
    chosen = picked("since_s", "until_s", "name")
    chart = (
        alt.Chart(alt.NamedData("values"))
        .mark_rect(cursor="pointer" if pick else "default")
        .encode(
            x=times("bucket", span_s),
            x2="end:T",
            y=alt.Y("low:Q", scale=amounts(), axis=alt.Axis(title=None, tickMinStep=1, tickCount=5)),
            y2="high:Q",
            color=alt.Color("kind:N", scale=kinds_scale(present), legend=legend(present)),
            tooltip=[
                alt.Tooltip("kind:N", title="reason"),
                alt.Tooltip("failovers:Q", title="failovers", format=",d"),
                alt.Tooltip("bucket:T", title="from", format="%a %d %b %H:%M"),
            ],
        )
        .properties(height=OVER_TIME_HEIGHT + AXIS_HEIGHT + LEGEND_ROW * ((len(present) + 3) // 4))
    )
    if pick:
        chart = chart.add_params(chosen).encode(
            opacity=alt.when(chosen).then(alt.value(1)).otherwise(alt.value(0.35))
        )
    return specification(chart)


def pairs_chart(canvas: Canvas, frame: pd.DataFrame) -> Drawn | None:
    """Return from whom failovers went to whom, as a matrix of numbers; None: there were none. `frame` is `failover_pairs`."""
    if frame.empty:
        return None
    left, note = most(frame, "from_provider", "failovers")
    to, _ = most(frame, "to_provider", "failovers")
    shown = frame[frame["from_provider"].isin(left) & frame["to_provider"].isin(to)]
    rows = shown.assign(
        rate=[share(a / n) for a, n in zip(shown["answered"], shown["failovers"], strict=True)],
        strong=shown["failovers"] > shown["failovers"].max() * 0.45,
    )
    top = frame.sort_values(
        ["failovers", "from_provider", "to_provider"], ascending=[False, True, True]
    ).iloc[0]
    rate = share(top["answered"] / top["failovers"])
    total, saved = frame["failovers"].sum(), frame["answered"].sum()
    told = (
        f"Most went from {top['from_provider']} to {top['to_provider']}: {count(top['failovers'])}, "
        f"of which {rate} were answered there."
    )
    if len(frame) > 1:
        told += f" Of all {count(total)}, {share(saved / total)} found their answer in the next provider."
    text = _pairs_spec(canvas.known(left), canvas.known(to), canvas.dark, canvas.pick)
    return Drawn(
        spec=finished(text, canvas, over_time=False, most_of=float(frame["failovers"].max())),
        frame=rows,
        alt=f"Failovers from one provider to the next: {told}",
        note=told + note,
    )


@lru_cache(maxsize=64)
def _pairs_spec(left: tuple[str, ...], to: tuple[str, ...], dark: bool, pick: bool) -> str:
    chosen = picked("from_provider", "to_provider")
    low, high = ("#2d3550", "#8f9bff") if dark else ("#e6e9fb", "#4450c8")
    base = alt.Chart(alt.NamedData("values")).encode(
        x=alt.X(
            "to_provider:N",
            scale=alt.Scale(domain=list(to)),
            axis=alt.Axis(
                title="went to",
                orient="top",
                labelAngle=-25 if len(to) > 2 else 0,
                labelOverlap=False,
                labelLimit=120,
                titlePadding=14,
                ticks=False,
                domain=False,
            ),
        ),
        y=alt.Y(
            "from_provider:N",
            scale=alt.Scale(domain=list(left)),
            axis=alt.Axis(title="left", labelLimit=120, ticks=False, domain=False),
        ),
        tooltip=[
            alt.Tooltip("from_provider:N", title="from"),
            alt.Tooltip("to_provider:N", title="to"),
            alt.Tooltip("failovers:Q", title="failovers", format=",d"),
            alt.Tooltip("answered:Q", title="answered there", format=",d"),
            alt.Tooltip("rate:N", title="that is"),
        ],
    )
    scale = amounts(range=[low, high], interpolate="rgb")
    cells = base.mark_rect(cornerRadius=4, cursor="pointer" if pick else "default").encode(
        color=alt.Color("failovers:Q", scale=scale, legend=None)
    )
    if pick:
        ring = alt.when(chosen, empty=False).then(alt.value("#dc4a3d")).otherwise(alt.value(None))
        cells = cells.add_params(chosen).encode(stroke=ring, strokeWidth=alt.value(2))
    strong, weak = ("#10131a", INK_ON_DARK) if dark else ("#ffffff", "#10131a")
    numbers = base.mark_text(fontSize=14, fontWeight="bold").encode(
        text=alt.Text("failovers:Q", format=",d"),
        color=alt.when("datum.strong").then(alt.value(strong)).otherwise(alt.value(weak)),
    )
    return specification((cells + numbers).properties(height=CELL_HEIGHT * len(left) + 2.5 * AXIS_HEIGHT))
