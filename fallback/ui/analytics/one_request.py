"""One request: its attempts as they followed each other, and the lines of the log that tell of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from fallback.analytics import attempts, lines
from fallback.ui.analytics.downloads import neutral
from fallback.ui.analytics.frames import View
from fallback.ui.charts import Canvas, attempts_chart
from fallback.ui.charts.words import counted, kind_label, money
from fallback.ui.text_safety import clean, plain
from fallback.ui.wording import duration

__all__ = ["show_request"]

MOST_LINES = 60
MOST_CHARACTERS = 8_000
"""Of one line that is shown."""


def show_request(shown: View, request_id: str, *, close: Callable[[], None]) -> None:
    """Draw the request of that id; `close` is called where the reader has seen enough."""
    instances = shown.filters.instances
    told, log = (ask(shown.analytics, request_id, instances) for ask in (attempts, lines))
    with st.container(border=True, key="analytics_request"):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.markdown(f"##### Request {plain(request_id)}", anchors=False, width="stretch")
            st.button(
                "Close",
                key="analytics_close_request",
                icon=":material/close:",
                help="Back to the table alone",
                on_click=close,
            )
        if told.empty and log.empty:
            st.caption("The log knows no request of this id, or not any more.")
            return
        _show_attempts(shown, told)
        _show_lines(log)


def _show_attempts(shown: View, told: pd.DataFrame) -> None:
    names = told["instance"].dropna().unique()
    if len(names) > 1:
        st.caption(
            f"{plain(', '.join(names))} each have a request of this id. Choose one of them as the instance above to see its own alone."
        )
    canvas = Canvas(window=shown.window, providers=(), dark=st.context.theme.type == "dark")
    drawn = attempts_chart(canvas, told)
    if drawn is None:
        st.caption("No provider was asked: nobody was ready, or the request itself was refused.")
        return
    st.caption(plain(drawn.note))
    st.vega_lite_chart(drawn.frame, drawn.spec, alt=drawn.alt, key="analytics_waterfall")
    st.dataframe(
        neutral(_for_people(told)),
        hide_index=True,
        key="analytics_attempts",
        column_config={
            "Tokens in": st.column_config.NumberColumn(format="localized"),
            "Tokens out": st.column_config.NumberColumn(format="localized"),
        },
        alt=f"The attempts: {drawn.alt}",
    )


def _for_people(told: pd.DataFrame) -> pd.DataFrame:
    rows = told.to_dict("records")
    table = pd.DataFrame(
        {
            "#": told["attempt"],
            "Provider": told["provider"],
            "Model": told["model"].fillna("—"),
            "Role": [_role(row) for row in rows],
            "Outcome": [
                "answered" if row["outcome"] == "ok" else kind_label(str(row["outcome"])) for row in rows
            ],
            "Status": ["—" if pd.isna(row["http_status"]) else f"{row['http_status']:.0f}" for row in rows],
            "Message": told["error_message"].fillna(""),
            "Began at": [_seconds(row["started_s"]) for row in rows],
            "Took": [_seconds(row["duration_s"]) for row in rows],
            "First words": [_seconds(row["ttft_s"]) for row in rows],
            "Asked to wait": [_seconds(row["retry_after_s"]) for row in rows],
            "Left alone for": [_seconds(row["cooldown_s"]) for row in rows],
            "Tokens in": told["input_tokens"],
            "Tokens out": told["output_tokens"],
            "Cost": [money(value) for value in told["cost_usd"].astype(float)],
            "Ended with": told["finish_reason"].fillna("—"),
        }
    )
    if told["instance"].notna().any():
        table.insert(0, "Instance", told["instance"].fillna("—"))
    return table


def _role(row: dict[Any, Any]) -> str:
    role = {"first": "asked first", "retry": "asked again", "failover": "failover"}.get(str(row["role"]), "—")
    marks = [word for word in ("probe", "drill") if row[word] is True]
    return ", ".join((role, *marks))


def _seconds(value: Any) -> str:
    return "—" if value is None or pd.isna(value) else duration(float(value))


def _show_lines(log: pd.DataFrame) -> None:
    with st.expander(
        f"{counted(len(log), 'line')} of the log",
        icon=":material/data_object:",
        key="analytics_request_lines",
    ):
        if log.empty:
            st.caption("The lines are not in the log any more.")
        for row in log.head(MOST_LINES).to_dict("records"):
            text = clean(str(row["text"]))
            cut = "" if len(text) <= MOST_CHARACTERS else f", the first {MOST_CHARACTERS:,} characters"
            st.caption(plain(f"{row['file']}, line {row['line']:,}{cut}"))
            st.code(text[:MOST_CHARACTERS], language="json", wrap_lines=True)
        if len(log) > MOST_LINES:
            st.caption(f"The first {MOST_LINES} of them.")
