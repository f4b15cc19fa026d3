"""Drawing the figures and the charts, and what a click on a chart picks."""

from __future__ import annotations

from functools import partial
from typing import Final

import streamlit as st

from fallback.ui.analytics.frames import View
from fallback.ui.analytics.picks import chart_key, pickable, remember
from fallback.ui.charts import PICK, ROWS, Canvas, Drawn, Section, figures, reading, section
from fallback.ui.text_safety import plain

__all__ = ["show_charts", "show_figures"]


def show_figures(shown: View) -> None:
    """Draw the figures with their sparklines."""
    totals = shown.ask("totals")
    st.markdown(plain(reading(totals)))
    with st.grid(5, min_column_width=150, gap="small", key="analytics_figures"):
        for figure in figures(totals, shown.ask("totals_over_time")):
            st.metric(
                figure.label,
                plain(figure.value),
                figure.note,
                delta_color="off",
                delta_arrow="off",
                help=figure.about,
                border=True,
                height="stretch",
                chart_data=list(figure.points) if len(figure.points) > 1 else None,
                chart_type=figure.shape,
            )


_WIDTHS: Final[dict[tuple[str, ...], list[int]]] = {("failovers", "pairs"): [3, 2]}
"""Of rows whose parts are not of the same width."""


def show_charts(shown: View, canvas: Canvas) -> None:
    """Draw the sections, in their order."""
    for row in ROWS:
        for column, key in zip(st.columns(_WIDTHS.get(row, len(row)), gap="medium"), row, strict=True):
            with column, st.container(gap="small", key=f"analytics_section_{key}"):
                _show_section(section(key, canvas, shown.ask))


def _show_section(part: Section) -> None:
    st.markdown(f"##### {part.title}", anchors=False, help=part.about)
    if not part.charts:
        st.caption(part.empty)
    elif part.key == "latency":
        with st.grid(min(len(part.charts), 2), min_column_width=320, gap="medium"):
            for number, (name, drawn) in enumerate(part.charts):
                with st.container(gap="xsmall"):
                    st.markdown(f"**{plain(name)}**")
                    _show_chart(drawn, f"analytics_latency_{number}")
    else:
        for _, drawn in part.charts:
            _show_chart(drawn, chart_key(part.key), part.key if pickable(part.key) else None)


def _show_chart(drawn: Drawn, key: str, picked_by: str | None = None) -> None:
    if picked_by is None:
        st.vega_lite_chart(drawn.frame, drawn.spec, alt=drawn.alt, key=key)
    else:
        st.vega_lite_chart(
            drawn.frame,
            drawn.spec,
            alt=drawn.alt,
            key=key,
            on_select=partial(remember, picked_by, key),
            selection_mode=PICK,
        )
    st.caption(plain(drawn.note))
