"""The table of requests, newest first: searched, narrowed by clicks, and one of them opened."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd
import streamlit as st

from fallback.analytics import requests
from fallback.ui.analytics.downloads import neutral
from fallback.ui.analytics.filters import zone
from fallback.ui.analytics.frames import View
from fallback.ui.analytics.one_request import show_request
from fallback.ui.analytics.picks import clear, picks, words
from fallback.ui.charts.words import counted, kind_label, money
from fallback.ui.text_safety import plain
from fallback.ui.wording import duration

__all__ = ["OPENED", "show_requests"]

OPENED: Final = "request"
"""Where the address names the request that is open."""
PAGE_ROWS = 200
MOST_ROWS = 2_000
TABLE_HEIGHT = 420
_ROWS: Final = "analytics_rows"
_LIMIT: Final = "analytics_limit"
_TABLE: Final = "analytics_table"


def show_requests(shown: View) -> None:
    """Draw the table, and the request that is open."""
    st.markdown(
        "##### Requests",
        anchors=False,
        help="Newest first. Click a row to open the request. Click a bar, a cell or a segment of the charts above to see its "
        "requests alone.",
    )
    search = st.text_input(
        "Search",
        type="search",
        key="search",
        bind="query-params",
        live="400ms",
        max_chars=200,
        placeholder="Request id, provider, model, error, source or route",
        help="Any part of a request's id, provider, model, kind of error, source or route.",
    )
    _show_picks(shown.window.utc_offset_s)
    frame = _rows(shown, search)
    if frame.empty:
        st.caption("No request matches." if search or picks() else "No requests in this time.")
    else:
        _show_table(frame)
        _show_more(len(frame))
    opened = st.query_params.get(OPENED)
    if opened:
        show_request(shown, opened, close=_close)


def _show_picks(utc_offset_s: int) -> None:
    found = picks()
    if not found:
        return
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key="analytics_picks"):
        told = "; ".join(words(pick, utc_offset_s) for pick in found)
        st.markdown(f":material/filter_alt: Only requests with {plain(told)}", width="content")
        st.button(
            "Show all",
            key="analytics_clear_picks",
            icon=":material/close:",
            type="tertiary",
            help="Show the requests of the whole time again",
            on_click=clear,
        )


def _rows(shown: View, search: str) -> pd.DataFrame:
    """Return the rows to show: while a request is open those from before, so that no row moves under the reader."""
    limit = int(st.session_state.get(_LIMIT, PAGE_ROWS))
    asked = (shown.filters, search, limit, picks(), shown.window.until - shown.window.since)
    kept: dict[str, Any] = st.session_state.get(_ROWS, {})
    if kept and kept["asked"] == asked and st.query_params.get(OPENED):
        return pd.DataFrame(kept["frame"])
    frame = requests(shown.analytics, shown.window, shown.filters, search, limit, through=picks())
    st.session_state[_ROWS] = {"asked": asked, "frame": frame}
    return frame


def _show_table(frame: pd.DataFrame) -> None:
    st.dataframe(
        neutral(_for_people(frame)),
        hide_index=True,
        height=min(TABLE_HEIGHT, 36 * (len(frame) + 1) + 2),
        key=_table_key(),
        on_select=_open,
        selection_mode="single-row",
        column_config={
            "Time": st.column_config.DatetimeColumn(
                format="D MMM HH:mm:ss", help="When it ended, by the clock of your browser"
            ),
            "Outcome": st.column_config.TextColumn(width=150, help="Rescued: a failover saved the answer"),
            "Tokens": st.column_config.NumberColumn(
                format="localized", help="Of question and answer, all attempts"
            ),
            "Failovers": st.column_config.NumberColumn(help="How often it went on to the next provider"),
        },
        alt="Requests, newest first: time, outcome, provider, attempts, time to answer, tokens, cost",
    )


def _for_people(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that people read, in their words."""
    tokens = frame["input_tokens"].fillna(0) + frame["output_tokens"].fillna(0)
    answered_by = frame["provider"].fillna("—")
    first = frame["first_provider"].fillna("—")
    table = pd.DataFrame(
        {
            "Time": frame["ts"].dt.tz_convert(zone()),
            "Outcome": [_outcome(row) for row in frame.to_dict("records")],
            "Answered by": answered_by,
            "Asked first": first,
            "Attempts": frame["attempts"],
            "Failovers": frame["failovers"],
            "Took": [_seconds(value) for value in frame["duration_s"]],
            "First words": [_seconds(value) for value in frame["ttft_s"]],
            "Tokens": tokens,
            "Cost": [money(value) for value in frame["cost_usd"].astype(float)],
            "Source": frame["source"].fillna("—"),
            "Route": frame["route"].fillna("—"),
            "Model": frame["model"].fillna("—"),
            "Request": frame["request_id"].fillna("—"),
        }
    )
    if frame["instance"].nunique() > 1:
        table.insert(1, "Instance", frame["instance"].fillna("—"))
    if frame["drill"].any():
        table.insert(
            list(table.columns).index("Outcome") + 1,
            "Drill",
            ["drill" if drilled else "" for drilled in frame["drill"]],
        )
    return table


def _outcome(row: dict[Any, Any]) -> str:
    if row["outcome"] == "ok":
        if row["degraded"]:
            return "↪ embedded model"
        return "↪ rescued" if row["rescued"] else "✓ answered"
    if row["outcome"] == "cancelled":
        return "– cancelled"
    kind = row["error_type"]
    return f"✕ {kind_label(kind)}" if isinstance(kind, str) and kind else "✕ failed"


def _seconds(value: Any) -> str:
    return "—" if pd.isna(value) else duration(float(value))


def _show_more(rows: int) -> None:
    limit = int(st.session_state.get(_LIMIT, PAGE_ROWS))
    if rows < limit:
        st.caption(f"{counted(rows, 'request')}.")
    elif limit < MOST_ROWS:
        with st.container(horizontal=True, gap="small", vertical_alignment="center"):
            st.caption(f"The newest {rows:,} are shown.", width="content")
            st.button(
                f"Show {PAGE_ROWS} more",
                key="analytics_more",
                icon=":material/expand_more:",
                help="Older requests of this time",
                on_click=_more,
            )
    else:
        st.caption(f"The newest {rows:,} are shown. The search, the filters and a shorter time find others.")


def _more() -> None:
    st.session_state[_LIMIT] = int(st.session_state.get(_LIMIT, PAGE_ROWS)) + PAGE_ROWS


def _table_key() -> str:
    return f"{_TABLE}_{st.session_state.get(f'{_TABLE}_closed', 0)}"


def _open() -> None:
    """Open the request whose row was clicked, or close the one whose row was clicked again."""
    state: Any = st.session_state.get(_table_key())
    rows = list(state.selection.rows) if state is not None else []
    frame = st.session_state.get(_ROWS, {}).get("frame")
    if rows and frame is not None and rows[0] < len(frame):
        st.query_params[OPENED] = str(frame["request_id"].iloc[rows[0]])
    else:
        st.query_params.pop(OPENED, None)


def _close() -> None:
    st.query_params.pop(OPENED, None)
    # A new key, because no row is to stay marked.
    st.session_state[f"{_TABLE}_closed"] = st.session_state.get(f"{_TABLE}_closed", 0) + 1
