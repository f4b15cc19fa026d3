"""The tables of the cache: rows of the log, and what is summed up of them.

Theory of operation: `entries` holds a row for each line, with its file and number, for the table of requests and for single look-ups;
`requests` and `attempts` are views of it, one for each kind of line, and `changes`, which are few, a copy. Everything that is drawn comes from sums: for each size of LEVELS_S one table of counts
and one of histograms, of requests and of attempts each, by bucket and by whatever can be told apart in a figure. New lines
are summed up once, the finest level from their rows and each coarser one from the finer, and merged into the tables; the same
with the sign turned takes lines back, for a file that was deleted or cut. So whatever a figure asks, it reads as many sums as
there are buckets and series, however long the log is.

Windows with smaller buckets than those of LEVELS_S are at most some hours long, and are made from their rows: summed up by the
minute, most calls would have a row of their own anyway. Histograms are kept without route and source for the same reason;
quantiles under such a filter are made from the rows of the window.

Instants are whole microseconds of Unix time, money whole picodollars (the log's own precision, 12 decimals), so that sums are
exact in whatever order. A text that is missing is '' in sums, and NULL in rows.

What may not live here: files and lines of JSON, and the definitions of figures.
"""

from __future__ import annotations

import json
from typing import Final

import pyarrow as pa
from duckdb import DuckDBPyConnection

from fallback.analytics.grid import MICRO, grid_sql
from fallback.usage_log.encode import SCHEMA

__all__ = [
    "APART_US",
    "CALLERS_FAULT",
    "LEVELS_S",
    "PICO",
    "VERSION",
    "add_up",
    "apply_sums",
    "clear",
    "create",
    "level_of",
    "put",
    "refuse",
    "rows_of",
    "sums_of",
    "take_back",
    "unread",
]

VERSION: Final = 5
"""Raised with every change of a table or of what goes into it; a cache of another version is made anew."""

APART_US: Final = 3_600 * MICRO
"""So far apart, at most, are attempts that are looked up for each other: those of one request."""

LEVELS_S: Final = (900, 3_600)
"""Sizes of buckets that sums are kept for, in seconds: each a multiple of the one before."""

PICO: Final = 10**12
"""Picodollars of a dollar."""

CALLERS_FAULT: Final = ("content_policy", "context_window_exceeded", "invalid_request", "request_too_large")

_FIELDS: Final = {
    **dict.fromkeys(
        ("kind", "instance", "request_id", "source", "route", "outcome", "error_type", "error_message"),
        "VARCHAR",
    ),
    **dict.fromkeys(("provider", "request_model", "finish_reason", "role", "first_provider"), "VARCHAR"),
    **dict.fromkeys(("previous_provider", "previous_error_type", "model", "from", "to", "reason"), "VARCHAR"),
    **dict.fromkeys(
        ("http_status", "input_tokens", "output_tokens", "attempt", "attempts", "failovers"), "BIGINT"
    ),
    **dict.fromkeys(("duration_s", "time_to_first_token_s", "retry_after_s", "cooldown_s"), "DOUBLE"),
    **dict.fromkeys(("started_s", "length_s", "cost_usd"), "DOUBLE"),
    **dict.fromkeys(("drill", "probe", "rescued", "degraded"), "BOOLEAN"),
}
"""The fields of the log that figures are made of, as docs/usage-log.md names them."""

_YEAR_2200_US = 7_258_118_400 * MICRO
_MOST_USD = 1e6
_CHANGES = """
    INSERT INTO changes SELECT ts, file, line, instance, provider, model, "from", "to", reason, length_s
    FROM entries WHERE kind = 'state' AND {0}
"""
_KINDS = "('attempt', 'request', 'state')"

_LACK = f"""
    CASE
        WHEN ts IS NULL OR ts < 0 OR ts >= {_YEAR_2200_US} THEN 'ts is no instant'
        WHEN field.kind <> 'request' AND coalesce(field.provider, '') = '' THEN 'provider is missing'
        WHEN field.kind <> 'state' AND coalesce(field.outcome, '') = '' THEN 'outcome is missing'
        WHEN field.kind = 'state' AND coalesce(field."from", '') = '' THEN 'from is missing'
        WHEN field.kind = 'state' AND coalesce(field."to", '') = '' THEN 'to is missing'
    END
"""
"""What a line makes no sense without; NULL: it has it."""

_VIEWS: Final = """
    CREATE VIEW requests AS SELECT kind, ts, file, line, instance, request_id, source, route, outcome, error_type,
        nullif(provider, '') AS provider, request_model AS model, nullif(first_provider, '') AS first_provider,
        attempts, failovers, rescued, degraded, drill, duration_s,
        time_to_first_token_s AS ttft_s, input_tokens, output_tokens, cost_usd
        FROM entries WHERE kind = 'request';
    CREATE VIEW attempts AS SELECT kind, ts, file, line, instance, request_id, source, route, attempt, role, provider,
        request_model AS model, outcome, http_status, error_message, retry_after_s, cooldown_s, started_s, duration_s,
        time_to_first_token_s AS ttft_s, input_tokens, output_tokens, cost_usd, probe, drill OR beside_drill AS drill,
        drill AS own_drill, finish_reason, previous_provider, previous_error_type
        FROM entries WHERE kind = 'attempt';
"""

_OTHER_TABLES = """
    CREATE TABLE files (
        id INTEGER, name VARCHAR, device UBIGINT, inode UBIGINT, size BIGINT, modified_ns BIGINT, ended BOOLEAN,
        position BIGINT, rest BIGINT, digest BLOB, lines BIGINT, filled BIGINT, damaged BIGINT, rest_filled BIGINT,
        rest_damaged BIGINT, story VARCHAR
    );
    CREATE TABLE changes (
        ts BIGINT, file INTEGER, line BIGINT, instance VARCHAR, provider VARCHAR, model VARCHAR, from_state VARCHAR, to_state VARCHAR,
        reason VARCHAR, length_s DOUBLE
    );
    CREATE TABLE problems (file INTEGER, line BIGINT, reason VARCHAR);
    CREATE TABLE mentions (request_id VARCHAR, instance VARCHAR, file INTEGER, line BIGINT);
    CREATE SEQUENCE file_ids;
    CREATE TABLE cache_of_usage_log (version INTEGER);
"""


class _Sums:
    """One kind of sums: the table's name before its level, what is told apart, and what is added up."""

    def __init__(self, name: str, keys: dict[str, str], sums: tuple[str, ...], rows: str) -> None:
        self.name = name
        self.keys = keys
        self.sums = sums
        self.rows = rows
        """What is added up: a query with `bucket`, each key and each sum, of the rows for which $which holds."""

    def create(self, level_s: int) -> str:
        keys = ", ".join(f"{key} {kind} NOT NULL" for key, kind in self.keys.items())
        sums = ", ".join(f"{name} BIGINT NOT NULL" for name in self.sums)
        return f"CREATE TABLE {self.name}_{level_s} (bucket BIGINT NOT NULL, {keys}, {sums})"

    def apply(self, connection: DuckDBPyConnection, which: str, *, taken_back: bool) -> None:
        """Add rows to the sums of all levels, or take them out."""
        source = self.rows_where(which)
        sign = "-" if taken_back else ""
        for level_s in LEVELS_S:
            sums = ", ".join(f"({sign}sum({name}))::BIGINT AS {name}" for name in self.sums)
            connection.execute(
                f"CREATE OR REPLACE TEMP TABLE added_{level_s} AS "
                f"SELECT bucket // {level_s} * {level_s} AS bucket, {', '.join(self.keys)}, {sums} "
                f"FROM {source} GROUP BY ALL"
            )
            self._merge(connection, level_s)
            if taken_back:
                connection.execute(f"DELETE FROM {self.name}_{level_s} WHERE n = 0")
            # What has been added up, with its sign, is what the next level is made of.
            source, sign = f"added_{level_s}", ""

    def _merge(self, connection: DuckDBPyConnection, level_s: int) -> None:
        kept, added = f"{self.name}_{level_s}", f"added_{level_s}"
        names = ("bucket", *self.keys)
        same = " AND ".join(f"kept.{name} = added.{name}" for name in names)
        new = ", ".join(f"{name} = kept.{name} + added.{name}" for name in self.sums)
        columns = (*names, *self.sums)
        [(last,)] = connection.execute(f"SELECT coalesce(max(bucket), -1) FROM {kept}").fetchall()
        connection.execute(
            f"MERGE INTO {kept} AS kept USING (SELECT * FROM {added} WHERE bucket <= {last}) AS added ON {same} "
            f"WHEN MATCHED THEN UPDATE SET {new} "
            f"WHEN NOT MATCHED THEN INSERT VALUES ({', '.join(f'added.{name}' for name in columns)})"
        )
        # Nearly all of a long reading is later than what there is, and need not be looked for.
        connection.execute(
            f"INSERT INTO {kept} SELECT {', '.join(columns)} FROM {added} WHERE bucket > {last}"
        )

    def rows_where(self, which: str) -> str:
        """Return the rows that are added up, as a query in brackets: `bucket` is the instant in whole seconds."""
        return "(" + self.rows.replace("$which", f"({which})") + ")"


def _value(name: str, kind: str) -> str:
    """Return the expression for what is kept of a field."""
    value = f'field."{name}"'
    if name == "kind":
        return f"""CASE WHEN field IS NULL THEN NULL
            WHEN field.schema = {SCHEMA} AND {value} IN {_KINDS} THEN coalesce({_LACK}, {value}) ELSE '' END"""
    if name == "error_message":
        return f"CASE WHEN field IS NULL THEN text ELSE {value} END"
    if name == "cost_usd":
        return f"CASE WHEN {value} BETWEEN 0 AND {_MOST_USD} THEN {value} END"
    if kind == "BOOLEAN":
        return f"coalesce({value}, false)"
    if kind in {"BIGINT", "DOUBLE"}:
        # Columns that are compared as they are let the database pass over what does not fit without looking at the rest.
        otherwise = " ELSE 0" if name in {"attempts", "failovers"} else ""
        return f"CASE WHEN {value} BETWEEN 0 AND 1000000000 THEN {value}{otherwise} END"
    return value


_READ: Final = (
    f"""TRY(json_transform(text, '{json.dumps({"schema": "BIGINT", "ts": "VARCHAR", **_FIELDS})}'))"""
)
# A cast to TIMESTAMP would pass over the offset from UTC, and one to TIMESTAMPTZ takes a local time where there is none.
_INSTANT = """CASE WHEN field.ts[-1] = 'Z' OR field.ts[-6] IN ('+', '-')
    THEN epoch_us(TRY_CAST(field.ts AS TIMESTAMPTZ)) END"""
# A condition on the field would have every line read twice, and looking at whole rows again costs as much as making them. So each
# line becomes a row at first, and the kind of those that cannot stay says why: NULL, with the line itself as its message,
# where it is no JSON; a reason; or "" for a line of another schema or kind.
_PUT: Final = f"""
    INSERT INTO entries SELECT file, line, ts, false, {", ".join(_value(name, kind) for name, kind in _FIELDS.items())}
    FROM (
        SELECT file, line, text, {_INSTANT} AS ts, field
        FROM (SELECT file, line, text, {_READ} AS field FROM texts)
    )
"""


def grid_of(seconds: str) -> str:
    """Return the expression for where a duration in seconds lies on the grid, in microseconds."""
    return grid_sql(f"floor({seconds} * {MICRO} + 0.5)::BIGINT")


def picodollars_of(dollars: str) -> str:
    """Return the expression for an amount of dollars in picodollars."""
    return f"floor({dollars} * {PICO} + 0.5)::BIGINT"


_NO_TEXT = "coalesce({0}, '') AS {0}"
_SECOND = f"ts // {MICRO} AS bucket"
_CONSUMPTION = ("input_tokens", "output_tokens", "cost_pico", "unpriced")
_CONSUMED = f"""
    coalesce(input_tokens, 0) AS input_tokens, coalesce(output_tokens, 0) AS output_tokens,
    coalesce({picodollars_of("cost_usd")}, 0) AS cost_pico,
    (outcome = 'ok' AND cost_usd IS NULL)::BIGINT AS unpriced
"""

_SUMS: Final = (
    _Sums(
        "request",
        dict.fromkeys(("instance", "source", "route", "outcome", "first_provider", "provider"), "VARCHAR")
        | dict.fromkeys(("callers_fault", "rescued", "degraded", "failed_over", "drill"), "BOOLEAN"),
        ("n", "failovers", *_CONSUMPTION),
        f"""SELECT {_SECOND}, {", ".join(_NO_TEXT.format(name) for name in ("instance", "source", "route", "first_provider", "provider"))},
            outcome, outcome = 'error' AND coalesce(error_type, '') IN {CALLERS_FAULT} AS callers_fault, rescued, degraded,
            failovers > 0 AS failed_over, drill, 1 AS n, failovers AS failovers, {_CONSUMED}
            FROM requests WHERE $which""",
    ),
    _Sums(
        "request_duration",
        dict.fromkeys(("first_provider", "provider"), "VARCHAR")
        | {"drill": "BOOLEAN", "first_token": "BOOLEAN", "grid": "BIGINT"},
        ("n",),
        f"""SELECT {_SECOND}, {", ".join(_NO_TEXT.format(name) for name in ("first_provider", "provider"))},
            drill, first_token, grid, 1 AS n FROM (
                SELECT ts, first_provider, provider, drill, unnest([false, true]) AS first_token,
                    unnest([{grid_of("duration_s")}, {grid_of("ttft_s")}]) AS grid
                FROM requests WHERE outcome = 'ok' AND $which
            ) WHERE grid IS NOT NULL""",
    ),
    _Sums(
        "attempt",
        dict.fromkeys(("instance", "source", "route", "provider", "role", "outcome"), "VARCHAR")
        | dict.fromkeys(("previous_provider", "previous_error_type"), "VARCHAR")
        | {"drill": "BOOLEAN"},
        ("n", *_CONSUMPTION),
        f"""SELECT {_SECOND}, {", ".join(_NO_TEXT.format(name) for name in ("instance", "source", "route", "role", "previous_provider"))},
            {_NO_TEXT.format("previous_error_type")}, provider, outcome, drill, 1 AS n, {_CONSUMED}
            FROM attempts WHERE $which""",
    ),
    _Sums(
        "attempt_duration",
        {"provider": "VARCHAR", "failover": "BOOLEAN", "drill": "BOOLEAN", "grid": "BIGINT"},
        ("n",),
        f"""SELECT {_SECOND}, provider, coalesce(role, '') = 'failover' AS failover, drill,
            {grid_of("duration_s")} AS grid, 1 AS n
            FROM attempts WHERE outcome = 'ok' AND duration_s IS NOT NULL AND $which""",
    ),
)


def create(connection: DuckDBPyConnection) -> None:
    """Make the tables of an empty cache."""
    fields = ", ".join(f'"{name}" {kind}' for name, kind in _FIELDS.items())
    connection.execute(
        f"CREATE TABLE entries (file INTEGER NOT NULL, line BIGINT NOT NULL, ts BIGINT, beside_drill BOOLEAN, {fields})"
    )
    connection.execute(_VIEWS)
    connection.execute(_OTHER_TABLES)
    for sums in _SUMS:
        for level_s in LEVELS_S:
            connection.execute(sums.create(level_s))
    connection.execute("INSERT INTO cache_of_usage_log VALUES (?)", [VERSION])


def clear(connection: DuckDBPyConnection) -> None:
    """Empty all tables but that of the version."""
    names = ["entries", "changes", "files", "problems", "mentions"]
    names += [f"{sums.name}_{level_s}" for sums in _SUMS for level_s in LEVELS_S]
    for name in names:
        connection.execute(f"DELETE FROM {name}")


def put(connection: DuckDBPyConnection, texts: pa.RecordBatchReader) -> None:
    """Put lines of JSON (rows of `rows.TEXTS`) into the rows; `unread` and `refuse` find those that cannot stay there."""
    connection.register("texts", texts)
    try:
        connection.execute(_PUT)
    finally:
        connection.unregister("texts")


def unread(connection: DuckDBPyConnection, which: str, most: int) -> list[tuple[int, int, str]]:
    """Take out up to `most` of the rows for which `which` holds that are no JSON; return file, line and text of each."""
    found = connection.execute(
        f"SELECT file, line, error_message FROM entries WHERE kind IS NULL AND ({which}) "
        f"ORDER BY file, line LIMIT {most}"
    ).fetchall()
    if found:
        file, line, _ = found[-1]
        connection.execute(
            f"DELETE FROM entries WHERE kind IS NULL AND (file, line) <= ({file}, {line}) AND ({which})"
        )
    return found


def refuse(connection: DuckDBPyConnection, which: str) -> None:
    """Make problems of those of the rows for which `which` holds that make no sense.

    Rows of another schema or kind are deleted without a word: they belong to a later version of the log. Of all of them it
    is kept which request they name.
    """
    odd = f"kind NOT IN {_KINDS} AND ({which})"
    [(count,)] = connection.execute(f"SELECT count(*) FROM entries WHERE {odd}").fetchall()
    if count:
        connection.execute(
            f"INSERT INTO problems SELECT file, line, kind FROM entries WHERE kind <> '' AND {odd}"
        )
        connection.execute(
            f"INSERT INTO mentions SELECT request_id, instance, file, line FROM entries WHERE request_id <> '' AND {odd}"
        )
        connection.execute(f"DELETE FROM entries WHERE {odd}")


def add_up(connection: DuckDBPyConnection, which: str) -> None:
    """Add the rows for which the condition `which` holds to the sums and to the changes of states."""
    connection.execute(_CHANGES.format(f"({which})"))
    apply_sums(connection, which, taken_back=False)


def apply_sums(connection: DuckDBPyConnection, which: str, *, taken_back: bool) -> None:
    """Add the rows for which the condition `which` holds to the sums, or take them out."""
    for sums in _SUMS:
        sums.apply(connection, which, taken_back=taken_back)


def take_back(connection: DuckDBPyConnection, which: str, *, only: str | None = None) -> None:
    """Delete the rows for which the condition `which` holds, those of the kind `only`, and take them out of the sums."""
    if only is not None:
        which = f"({which}) AND kind = '{only}'"
    apply_sums(connection, which, taken_back=True)
    connection.execute(f"DELETE FROM entries WHERE {which}")
    if only is None:
        connection.execute(f"DELETE FROM changes WHERE {which}")


def level_of(bucket_s: int, utc_offset_s: int, *, days: bool) -> int | None:
    """Return the size of the largest sums that buckets of `bucket_s` are made up of; None: rows have to do.

    `days`: whether the sums have to fall into local days of that offset, whatever the buckets.
    """
    local = days or bucket_s > LEVELS_S[-1]
    fitting = (
        level_s for level_s in LEVELS_S if bucket_s % level_s == 0 and not (local and utc_offset_s % level_s)
    )
    return max(fitting, default=None)


def sums_of(name: str, level_s: int | None, since_s: int, until_s: int) -> str:
    """Return the sums `name` (request, request_duration, ...) of a level from `since_s` to `until_s`, for use in FROM."""
    if level_s is None:
        return rows_of(name, f"ts >= {since_s * MICRO} AND ts < {until_s * MICRO}")
    return f"(SELECT * FROM {name}_{level_s} WHERE bucket >= {since_s} AND bucket < {until_s})"


def rows_of(name: str, which: str) -> str:
    """Return the same from rows, those for which `which` holds; `bucket` is the second in which a row was written."""
    return next(sums for sums in _SUMS if sums.name == name).rows_where(which)
