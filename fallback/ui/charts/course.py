"""How a figure went, as a small drawing: bars or a line in SVG, without axes. For what stands beside it in words.

Theory of operation: the drawing has the colour of the text around it (`currentColor`) and is stretched to any width. It holds
numbers alone, so nothing in it has to be escaped.

What may not live here: Streamlit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

__all__ = ["COURSE_COLOR", "course_svg"]

COURSE_COLOR: Final = "#7d8596"
"""For where the colour of the text around it is not known. It has a contrast of 3:1 or more on both backgrounds."""
_TOP, _BOTTOM = 4, 96
"""Of 100 parts of the height, so that half the width of a line fits above and below."""


def course_svg(points: Sequence[float], shape: Literal["bar", "line"], attributes: str) -> str:
    """Return an SVG with these `attributes`; "" where less than two points make no course.

    Bars begin at 0, and one of nothing is not seen. A line has its lowest point at the bottom and its highest at the top; where all
    are the same it runs in the middle.
    """
    if len(points) < 2:
        return ""
    # A point is a unit apart from the next. Whole numbers keep it short: a browser reads the text of a drawing letter by letter.
    if shape == "bar":
        most = max(points) or 1.0
        begin, width = -0.5, len(points)
        stroke = 'stroke-width=".7"'
        path = "".join(f"M{x} {_BOTTOM}V{_y(value / most)}" for x, value in enumerate(points) if value > 0)
    else:
        low = min(points)
        span = max(points) - low
        begin, width = 0, len(points) - 1
        stroke = 'stroke-width="2" vector-effect="non-scaling-stroke"'
        path = "M" + " ".join(
            f"{x} {_y((value - low) / span if span else 0.5)}" for x, value in enumerate(points)
        )
    return (
        f'<svg viewBox="{begin:g} 0 {width} 100" preserveAspectRatio="none" {attributes}>'
        f'<path d="{path}" fill="none" stroke="currentColor" {stroke}/></svg>'
    )


def _y(part: float) -> int:
    """Return where `part` (0..1) of the height is."""
    return round(_BOTTOM - (_BOTTOM - _TOP) * part)
