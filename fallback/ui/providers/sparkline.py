"""The small line on a card, as SVG: a chart library costs each viewer a view to keep for every provider."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from fallback.ui.wording import duration

__all__ = ["Sparkline", "sparkline"]

WIDTH, HEIGHT, MARGIN = 136.0, 34.0, 3.0
GROUND = "#7d8596"
INK = "#5b6ee8"
"""Both have a contrast of 3:1 or more on both backgrounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparkline:
    """A drawing, and what it says in words."""

    svg: str
    alt: str

    @property
    def markdown(self) -> str:
        """The drawing as a Markdown image that loads nothing."""
        return f"![{self.alt}](data:image/svg+xml;base64,{b64encode(self.svg.encode()).decode()})"


def sparkline(values: Sequence[float | None]) -> Sparkline | None:
    """Return the drawing of one value a minute, in seconds, oldest first; None where there is none.

    A minute without a value (None) is left open. The scale begins at 0, the last value has a dot.
    """
    known = [(place, value) for place, value in enumerate(values) if value is not None]
    if not known:
        return None
    highest = max(value for _, value in known) or 1.0
    step = (WIDTH - 2 * MARGIN) / max(1, len(values) - 1)

    def at(place: int, value: float) -> str:
        return f"{MARGIN + place * step:.1f},{HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * value / highest:.1f}"

    lines: list[list[str]] = []
    before = -2
    for place, value in known:
        if place != before + 1:
            lines.append([])
        lines[-1].append(at(place, value))
        before = place
    paths = "".join(f'<path d="M{" L".join(line)}"/>' for line in lines if len(line) > 1)
    # A minute that stands alone is a dot, and so is the last one.
    alone = [line[0] for line in lines if len(line) == 1 and line is not lines[-1]] + [lines[-1][-1]]
    dots = "".join(
        f'<circle cx="{x}" cy="{y}" r="2" fill="{INK}" stroke="none"/>'
        for x, y in (spot.split(",") for spot in alone)
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" width="{WIDTH:g}" height="{HEIGHT:g}"'
        f' fill="none" stroke="{INK}" stroke-width="2" stroke-linecap="round" stroke-linejoin="round">'
        f'<path d="M{MARGIN:g},{HEIGHT - 1:g} H{WIDTH - MARGIN:g}" stroke="{GROUND}" stroke-width="1"/>'
        f"{paths}{dots}</svg>"
    )
    lowest = min(value for _, value in known)
    return Sparkline(svg=svg, alt=f"Median time minute by minute, {duration(lowest)} to {duration(highest)}")
