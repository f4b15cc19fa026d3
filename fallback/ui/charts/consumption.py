"""What answers took: tokens and dollars for each provider over time."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import altair as alt
import pandas as pd

from fallback.ui.charts.drawn import (
    AXIS_HEIGHT,
    LEGEND_ROW,
    Canvas,
    Drawn,
    amounts,
    finished,
    most,
    provider_scale,
    span_class,
    specification,
    stacked,
    times,
)
from fallback.ui.charts.words import amount, counted, money, share

__all__ = ["cost_chart", "tokens_chart"]

HEIGHT = 180
_BAR = 0.86
_REST = "all others"


def tokens_chart(canvas: Canvas, frame: pd.DataFrame) -> Drawn | None:
    """Return the tokens of each bucket, stacked by provider; None: there were none. `frame` is `consumption`."""
    rows = _rows(canvas, frame.assign(value=frame["input_tokens"] + frame["output_tokens"]))
    if rows.empty:
        return None
    sums = rows.groupby("provider")["value"].sum().sort_values(ascending=False, kind="stable")
    into, out = frame["input_tokens"].sum(), frame["output_tokens"].sum()
    top = str(sums.index[0])
    told = (
        f"{amount(into + out)} tokens: {amount(into)} in questions, {amount(out)} in answers."
        f" {top} took {share(sums.iloc[0] / sums.sum())} of them."
    )
    return _drawn(canvas, rows, "tokens", f"Tokens by provider over time: {told}", told)


def cost_chart(canvas: Canvas, frame: pd.DataFrame) -> Drawn | None:
    """Return the dollars of each bucket, stacked by provider; None: nothing had a price. `frame` is `consumption`."""
    rows = _rows(canvas, frame.assign(value=frame["cost_usd"]))
    if rows.empty:
        return None
    sums = rows.groupby("provider")["value"].sum().sort_values(ascending=False, kind="stable")
    told = f"{money(sums.sum())} in all, failed attempts and probes included; {sums.index[0]} took {share(sums.iloc[0] / sums.sum())} of it."
    unpriced = frame["unpriced"].sum()
    if unpriced:
        told += (
            f" {counted(unpriced, 'answer')} had no price and {'is' if unpriced == 1 else 'are'} not in it."
        )
    return _drawn(canvas, rows, "cost", f"Cost by provider over time: {told}", told)


def _rows(canvas: Canvas, frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame[frame["value"] > 0].copy()
    if rows.empty:
        return rows
    names, _ = most(rows, "provider", "value")
    if len(names) < rows["provider"].nunique():
        rows["provider"] = [name if name in names else _REST for name in rows["provider"]]
        sums = ["value", "answers", "input_tokens", "output_tokens", "cost_usd", "unpriced"]
        rows = rows.groupby(["bucket", "provider"], as_index=False)[sums].sum()
    places = {name: place for place, name in enumerate(canvas.known(sorted(set(rows["provider"]))))}
    rows["rank"] = [places[name] for name in rows["provider"]]
    rows["end"] = rows["bucket"] + pd.Timedelta(seconds=canvas.window.bucket_s * _BAR)
    rows["cost"] = [money(value) for value in rows["cost_usd"]]
    return stacked(rows, "value")


def _drawn(
    canvas: Canvas, rows: pd.DataFrame, what: Literal["tokens", "cost"], alt_text: str, note: str
) -> Drawn:
    present = canvas.known(sorted(set(rows["provider"])))
    others = tuple(name for name in present if name not in canvas.providers)
    text = _spec((*canvas.providers, *others), present, what, span_class(canvas.span_s))
    return Drawn(
        spec=finished(text, canvas, most_of=float(rows["high"].max())), frame=rows, alt=alt_text, note=note
    )


@lru_cache(maxsize=64)
def _spec(providers: tuple[str, ...], present: tuple[str, ...], what: str, span_s: float) -> str:
    scale, entries = provider_scale(providers, present)
    format_ = "~s" if what == "tokens" else "$~r"
    chart = (
        alt.Chart(alt.NamedData("values"))
        .mark_rect()
        .encode(
            x=times("bucket", span_s),
            x2="end:T",
            y=alt.Y("low:Q", scale=amounts(), axis=alt.Axis(title=None, format=format_, tickCount=5)),
            color=alt.Color("provider:N", scale=scale, legend=entries),
            y2="high:Q",
            tooltip=[
                alt.Tooltip("provider:N", title="provider"),
                alt.Tooltip("input_tokens:Q", title="tokens of questions", format=",d"),
                alt.Tooltip("output_tokens:Q", title="tokens of answers", format=",d"),
                alt.Tooltip("cost:N", title="cost"),
                alt.Tooltip("answers:Q", title="answers", format=",d"),
                alt.Tooltip("bucket:T", title="from", format="%a %d %b %H:%M"),
            ],
        )
    )
    return specification(
        chart.properties(height=HEIGHT + AXIS_HEIGHT + LEGEND_ROW * ((len(present) + 3) // 4))
    )
