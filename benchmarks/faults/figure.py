"""One promise and what was measured of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of "How it must behave"."""

    wanted: str
    measured: str
    reached: bool


def mostly_within(wanted: str, values: Sequence[float], limit: float, unit: str = "s") -> Figure:
    """Judge 99 of 100 `values`: among hundreds a shared machine is always late once."""
    ranked = sorted(values)
    most = ranked[-(-len(ranked) * 99 // 100) - 1]
    measured = (
        f"99 of 100 within {most:.3g} {unit}, median {ranked[len(ranked) // 2]:.2g}, slowest {ranked[-1]:.3g}"
    )
    return Figure(wanted=wanted, measured=f"{measured} ({len(values)})", reached=most <= limit)


def within(wanted: str, values: Sequence[float], limit: float, unit: str = "s") -> Figure:
    """Judge the largest of `values`."""
    worst = max(values)
    return Figure(
        wanted=wanted, measured=f"{worst:.3g} {unit} at most ({len(values)})", reached=worst <= limit
    )
