"""Attempts that are there because of a drill: those that follow a drilled one in their request.

A drill strikes one provider, and the request goes on with the next, which is asked for real. Figures without drills leave the
whole request out, so they have to leave out what came after the drilled attempt as well, or a failover that nobody counts as one
would stand between the pairs of providers. What came before it happened anyway. Lines of one request are close to each other
in time, but may come in any order, and in different steps.

What may not live here: how a line is read, and what is counted.
"""

from __future__ import annotations

from typing import Final

from duckdb import DuckDBPyConnection

from fallback.analytics import tables
from fallback.analytics.grid import MICRO

__all__ = ["mark"]

_APART_US: Final = 3_600 * MICRO
"""So far apart, at most, are the two attempts."""

_FOUND = f"""
    SELECT DISTINCT late.file, late.line FROM attempts AS late JOIN attempts AS early
        ON early.request_id = late.request_id AND early.attempt < late.attempt
        AND coalesce(early.instance, '') = coalesce(late.instance, '')
        AND abs(early.ts - late.ts) <= {_APART_US}
    WHERE early.own_drill AND NOT late.drill AND early.request_id <> ''
        AND early.ts BETWEEN $since AND $until AND late.ts BETWEEN $since AND $until
"""


def mark(connection: DuckDBPyConnection, which: str) -> None:
    """Mark them. `which` is the condition of the rows that are new, and in no sums yet. Raises duckdb.Error."""
    [(first, last)] = connection.execute(f"SELECT min(ts), max(ts) FROM attempts WHERE {which}").fetchall()
    if first is None:
        return
    values = {"since": first - _APART_US, "until": last + _APART_US}
    connection.execute(f"CREATE OR REPLACE TEMP TABLE after_a_drill AS {_FOUND}", values)
    [(count,)] = connection.execute("SELECT count(*) FROM after_a_drill").fetchall()
    if not count:
        return
    marked = "(file, line) IN (SELECT (file, line) FROM after_a_drill)"
    counted = f"{marked} AND NOT ({which})"
    tables.apply_sums(connection, counted, taken_back=True)
    connection.execute(f"UPDATE entries SET after_drill = true WHERE {marked}")
    tables.apply_sums(connection, counted, taken_back=False)
