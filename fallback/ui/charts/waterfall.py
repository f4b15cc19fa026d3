"""The attempts of one request, one below the other, as they followed each other."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import altair as alt
import pandas as pd

from fallback.ui.charts.drawn import (
    AXIS_HEIGHT,
    LEGEND_ROW,
    Canvas,
    Drawn,
    amounts,
    finished,
    legend,
    specification,
)
from fallback.ui.charts.words import count, counted, kind_label
from fallback.ui.wording import cost, duration

__all__ = ["attempts_chart"]

ROW_HEIGHT = 38
WAITING: Final = "waiting"
SILENT: Final = "until the first words"
WRITING: Final = "answering"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
_PARTS: Final = {
    WAITING: "#a3a9b8",
    SILENT: "#8f9bef",
    WRITING: "#2a9d63",
    FAILED: "#dc4a3d",
    CANCELLED: "#7d8596",
}
_LEAST_WAIT_S = 0.02
"""A shorter gap between two attempts is no wait."""


def attempts_chart(canvas: Canvas, frame: pd.DataFrame) -> Drawn | None:
    """Return the attempts of one request from its start on, a row each; None: the log tells of none.

    `frame` is `attempts`.
    """
    if frame.empty:
        return None
    parts: list[dict[str, Any]] = []
    labels: list[str] = []
    end_s = 0.0
    for row in frame.to_dict("records"):
        begin = _number(row["started_s"], end_s)
        label = f"{count(_number(row['attempt'], len(labels) + 1))}. {row['provider']}"
        labels.append(label)
        if begin - end_s > _LEAST_WAIT_S:
            parts.append(_part(row, label, WAITING, end_s, begin))
        end_s = begin + max(_number(row["duration_s"], 0.0), 0.0)
        parts += _spent(row, label, begin, end_s)
    present = tuple(part for part in _PARTS if any(row["part"] == part for row in parts))
    told = f"{counted(len(frame), 'attempt')} in {duration(end_s)}: " + ", then ".join(
        f"{row['provider']} {_ended(row)}" for row in frame.head(6).to_dict("records")
    )
    told += "." if len(frame) <= 6 else ", and so on."
    return Drawn(
        spec=finished(_spec(tuple(labels), present), canvas, over_time=False, most_of=max(end_s, 0.001)),
        frame=pd.DataFrame(parts),
        alt=told,
        note=told,
    )


def _spent(row: dict[Any, Any], label: str, begin: float, end: float) -> list[dict[str, Any]]:
    outcome = str(row["outcome"])
    if outcome not in {"ok", "cancelled"}:
        return [_part(row, label, FAILED, begin, end)]
    last = WRITING if outcome == "ok" else CANCELLED
    first_s = _number(row["ttft_s"], 0.0)
    if not 0 < first_s < end - begin:
        return [_part(row, label, last, begin, end)]
    return [_part(row, label, SILENT, begin, begin + first_s), _part(row, label, last, begin + first_s, end)]


def _part(row: dict[Any, Any], label: str, part: str, begin: float, end: float) -> dict[str, Any]:
    status = _number(row["http_status"], 0.0)
    marks = [word for word in ("probe", "drill") if row[word] is True]
    return {
        "label": label,
        "part": part,
        "begin": begin,
        "end": end,
        "took": duration(end - begin),
        "told": " ".join((_ended(row), *(f"({mark})" for mark in marks))),
        "model": str(row["model"] or ""),
        "role": {"first": "asked first", "retry": "asked again", "failover": "failover"}.get(
            str(row["role"]), "—"
        ),
        "status": f"{status:.0f}" if status else "—",
        "cost": cost(None if pd.isna(row["cost_usd"]) else float(row["cost_usd"])),
    }


def _ended(row: dict[Any, Any]) -> str:
    outcome = str(row["outcome"])
    if outcome == "ok":
        return "answered"
    return "was cancelled" if outcome == "cancelled" else f"failed ({kind_label(outcome)})"


def _number(value: Any, otherwise: float) -> float:
    return otherwise if value is None or pd.isna(value) else float(value)


@lru_cache(maxsize=64)
def _spec(labels: tuple[str, ...], present: tuple[str, ...]) -> str:
    scale = alt.Scale(domain=list(_PARTS), range=list(_PARTS.values()))
    base = alt.Chart(alt.NamedData("values")).encode(
        x=alt.X(
            "begin:Q",
            scale=amounts(nice=False),
            axis=alt.Axis(title="seconds since the request", tickCount=6),
        ),
        x2="end:Q",
        y=alt.Y(
            "label:N",
            scale=alt.Scale(domain=list(labels)),
            axis=alt.Axis(title=None, labelLimit=150, ticks=False, domain=False, labelPadding=8),
        ),
        color=alt.Color("part:N", scale=scale, legend=legend(present, columns=3)),
        tooltip=[
            alt.Tooltip("label:N", title="attempt"),
            alt.Tooltip("model:N", title="model"),
            alt.Tooltip("role:N", title="role"),
            alt.Tooltip("part:N", title="this part"),
            alt.Tooltip("took:N", title="took"),
            alt.Tooltip("told:N", title="it"),
            alt.Tooltip("status:N", title="HTTP status"),
            alt.Tooltip("cost:N", title="cost"),
        ],
    )
    # A wait is thin, so that it is not colour alone that tells.
    waits = base.transform_filter(f"datum.part === '{WAITING}'").mark_bar(height=4)
    works = base.transform_filter(f"datum.part !== '{WAITING}'").mark_bar(
        height={"band": 0.62}, cornerRadius=2
    )
    legend_rows = (len(present) + 1) // 2 if len(present) > 1 else 0
    height = ROW_HEIGHT * len(labels) + 2 * AXIS_HEIGHT + LEGEND_ROW * legend_rows
    return specification((waits + works).properties(height=height))
