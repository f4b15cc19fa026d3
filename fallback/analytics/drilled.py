"""Attempts that a drill has to do with: those of a request in which one was drilled.

A drill strikes one provider, and the request goes on with the next, which is asked for real. Figures without drills leave the
whole request out, so they have to leave out its other attempts as well, or a failover that nobody counts as one would stand
between the pairs of providers. Lines of one request are close to each other in time, but may come in any order, and in
different steps.

What may not live here: how a line is read, and what is counted.
"""

from __future__ import annotations

from duckdb import DuckDBPyConnection

from fallback.analytics import tables

__all__ = ["mark"]

_FOUND = f"""
    SELECT DISTINCT other.file, other.line FROM attempts AS other JOIN attempts AS drilled
        ON drilled.request_id = other.request_id AND abs(drilled.ts - other.ts) <= {tables.APART_US}
        AND coalesce(drilled.instance, '') = coalesce(other.instance, '')
    WHERE drilled.own_drill AND NOT other.drill AND drilled.request_id <> ''
        AND drilled.ts BETWEEN $since AND $until AND other.ts BETWEEN $since AND $until
"""


def mark(connection: DuckDBPyConnection, which: str) -> None:
    """Mark them. `which` is the condition of the rows that are new, and in no sums yet. Raises duckdb.Error."""
    [(first, last)] = connection.execute(f"SELECT min(ts), max(ts) FROM attempts WHERE {which}").fetchall()
    if first is None:
        return
    values = {"since": first - tables.APART_US, "until": last + tables.APART_US}
    connection.execute(f"CREATE OR REPLACE TEMP TABLE beside_a_drill AS {_FOUND}", values)
    [(count,)] = connection.execute("SELECT count(*) FROM beside_a_drill").fetchall()
    if not count:
        return
    marked = "(file, line) IN (SELECT (file, line) FROM beside_a_drill)"
    counted = f"{marked} AND NOT ({which})"
    tables.apply_sums(connection, counted, taken_back=True)
    connection.execute(f"UPDATE entries SET beside_drill = true WHERE {marked}")
    tables.apply_sums(connection, counted, taken_back=False)
