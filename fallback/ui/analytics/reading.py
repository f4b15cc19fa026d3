"""Reading the log on: a bar while it takes long, and a word on what could not be read."""

from __future__ import annotations

import time

import streamlit as st

from fallback.analytics import Analytics, Coverage, problems
from fallback.ui.charts.words import count, counted
from fallback.ui.text_safety import plain

__all__ = ["read_on", "show_coverage", "show_empty"]

PATIENCE_S = 0.4
"""How long a reading may take before there is a bar."""
MOST_PROBLEMS = 100


def read_on(analytics: Analytics) -> None:
    """Read what was appended; where that takes a while, with a bar."""
    place = st.empty()
    began = time.monotonic()

    def progress(part: float) -> None:
        if time.monotonic() - began > PATIENCE_S:
            part = min(max(part, 0.0), 1.0)
            place.progress(part, text=f"Reading the log for the first time: {part:.0%}")

    analytics.refresh(progress)
    place.empty()


def show_coverage(analytics: Analytics, coverage: Coverage, note: str) -> None:
    """Say what the figures are made of, and which lines could not be read."""
    told = f"{note} · {counted(coverage.lines, 'line')} in {counted(coverage.files, 'file')}"
    if coverage.warning:
        st.warning(plain(coverage.warning), icon=":material/warning:")
    if not coverage.damaged:
        st.caption(told)
        return
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key="analytics_damaged"):
        st.caption(told, width="content")
        with st.popover(
            f"{count(coverage.damaged)} of {counted(coverage.lines, 'line')} could not be read",
            icon=":material/warning:",
            type="tertiary",
            key="analytics_problems",
            help="Which lines, and why",
        ):
            found = problems(analytics, MOST_PROBLEMS)
            if len(found) < coverage.damaged:
                st.caption(f"The last {len(found)} of them.")
            st.dataframe(
                found.rename(columns={"file": "File", "line": "Line", "reason": "What is wrong"}),
                hide_index=True,
                key="analytics_problem_lines",
                alt="Lines of the log that could not be read: file, line and reason",
            )


def show_empty() -> None:
    """Say what will be here once something was asked."""
    with st.container(border=True, key="analytics_empty"):
        st.markdown("#### Nothing has been asked yet", anchors=False)
        st.markdown(
            "This page shows what failover did, from the usage log: how often it happened and why, which answers it saved and "
            "what they cost, how fast each provider is and how often it was away, and every request with all its attempts."
        )
        st.markdown(
            "Ask something on the [Chat](/chat) page or over HTTP, and it begins to fill. "
            "Or see it full at once: `make demo` starts the program with simulated providers, a day of history and an outage now "
            "and then. It needs no key, and nothing leaves this machine."
        )
