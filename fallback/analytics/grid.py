"""The grid on which durations are counted: whole microseconds, rounded to three significant digits.

Theory of operation: quantiles cannot be added up, histograms can. A duration is first rounded half up to whole
microseconds (the log's own precision), then half up to its first three digits: 1.23449 s is 1.23 s, 0.9995 s is 1.00 s,
987 µs stays 987 µs. That is off by at most 0.5 %. A quantile is then the nearest rank on the grid: the smallest value v
such that at least ceil(q x n) of the n durations are not greater than v. After the first rounding all of it is arithmetic
with whole numbers, so the same comes out wherever it is computed: `grid_sql` says it in the database's words.

What may not live here: anything that knows whose durations these are.
"""

from __future__ import annotations

import math

__all__ = ["MICRO", "grid_sql", "on_grid_us"]

MICRO = 1_000_000
"""Microseconds of a second."""

_LONGEST_US = 10**15
"""A thousand million seconds: longer ones are taken as left out."""


def on_grid_us(duration_s: float) -> int:
    """Return where `duration_s` (seconds, not negative) lies on the grid, in microseconds."""
    return three_digits(math.floor(duration_s * MICRO + 0.5))


def three_digits(whole: int) -> int:
    """Return `whole` (not negative), rounded half up to three significant digits."""
    step: int = 10 ** max(len(str(whole)) - 3, 0)
    return (whole + step // 2) // step * step


def grid_sql(column: str) -> str:
    """Return the expression of `three_digits` of a column of microseconds."""
    cases = []
    step = 1
    while step * 1_000 <= _LONGEST_US:
        rounded = column if step == 1 else f"({column} + {step // 2}) // {step} * {step}"
        cases.append(f"WHEN {column} < {step * 1_000} THEN {rounded}")
        step *= 10
    return f"CASE {' '.join(cases)} ELSE ({column} + {step // 2}) // {step} * {step} END"
