"""Drawing the figures and the charts, and what a click on a chart picks."""

from __future__ import annotations

from base64 import b64encode
from functools import partial
from typing import Final

import streamlit as st

from fallback.ui.analytics.frames import View
from fallback.ui.analytics.picks import chart_key, pickable, remember
from fallback.ui.charts import (
    COURSE_COLOR,
    PICK,
    ROWS,
    Canvas,
    Drawn,
    Figure,
    Section,
    course_svg,
    figures,
    reading,
    section,
)
from fallback.ui.text_safety import plain

__all__ = ["STYLE", "show_charts", "show_figures"]

STYLE: Final = """<style>
.st-key-analytics_figures [data-testid=stMarkdownContainer] {margin-bottom: 0}
.st-key-analytics_figures p {margin: 0}
.st-key-analytics_figures strong {font-size: 2.25rem; font-weight: 400; line-height: 1.3}
.st-key-analytics_figures p .stMarkdownBadge {border-radius: 9999px; padding: 0.125rem 0.375rem; margin: 0}
.st-key-analytics_figures img {
  display: block; width: calc(100% + 2rem - 2px); max-width: none; height: 3.5rem; margin: 1rem calc(1px - 1rem) 0.5rem;
  object-fit: fill}
.st-key-analytics_request {scroll-margin-top: 4.5rem}
</style>"""
"""A large value, its note in a pill, and the course from edge to edge. It comes a moment after the figures, which can be read without."""


def show_figures(shown: View) -> None:
    """Draw the figures with their courses.

    They are Markdown, because Streamlit's page has what draws that from its beginning on. What draws st.metric is loaded with the
    first one; until then there are placeholders, which React leaves standing for 0.3 s at least, and then Vega is loaded for its sparklines.
    """
    totals = shown.ask("totals")
    st.markdown(plain(reading(totals)))
    with st.grid(5, min_column_width=150, gap="small", key="analytics_figures"):
        for figure in figures(totals, shown.ask("totals_over_time")):
            with st.container(
                border=True, height="stretch", gap="xxsmall", key=f"analytics_figure_{figure.key}"
            ):
                _show_figure(figure)


def _show_figure(figure: Figure) -> None:
    st.markdown(f":small[{plain(figure.label)}]", help=figure.about)
    st.markdown(f"**{plain(figure.value)}**  \n:gray-badge[{plain(figure.note)}]{_course(figure)}")


def _course(figure: Figure) -> str:
    """Return the course as a Markdown image that loads nothing, in a paragraph of its own; "" where there is none."""
    size = 'xmlns="http://www.w3.org/2000/svg" width="200" height="56"'
    svg = course_svg(figure.points, figure.shape, f'{size} color="{COURSE_COLOR}"')
    if not svg:
        return ""
    address = f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"
    told = plain(figure.course)
    return f'\n\n![{plain(figure.label)} over time: {told}]({address} "{told}")'


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
