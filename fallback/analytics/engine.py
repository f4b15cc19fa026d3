"""One log and its cache, kept up to date: what the figures ask.

Theory of operation: a refresh takes one step after the other (ingest) until nothing is left to read, and lets the cache go between
them. A figure asks the cache as it is; only where the cache has been lost since the last refresh is the log read first.

What may not live here: figures, and SQL about them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import pandas as pd
from duckdb import DuckDBPyConnection

from fallback.analytics.cache import Cache
from fallback.analytics.grid import MICRO
from fallback.analytics.ingest import STEP_BYTES, Step, step
from fallback.analytics.places import Places

T = TypeVar("T")

__all__ = ["Analytics", "Coverage", "Refreshed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What one refresh did."""

    lines: int
    """Lines that were read by it, damaged ones included."""
    damaged: int
    """How many of them could not be read."""
    seconds: float
    done: bool
    """Whether everything there was has been read. False: a file cannot be read just now; see Coverage.warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What the figures are made of."""

    lines: int
    """Lines of all files that are there, damaged ones included, blank ones not."""
    damaged: int
    first_ts: float | None
    """Unix seconds of the earliest request, attempt or change; None: there is none."""
    last_ts: float | None
    """Of the latest."""
    files: int
    bytes: int
    """Of all files, as far as they have been read."""
    warning: str | None
    """What people should know, in one sentence; None: nothing."""


class Analytics:
    """One log folder, read incrementally into a DuckDB cache beside the log.

    With `sources` the log is what those places hold: folders, files, patterns, and addresses in stores, as USAGE_LOGS names
    them (docs/analytics.md); the cache alone is in `folder`, under a name of its own for these places.

    Safe for threads; several processes may use the same cache. `cache` is its file, `folder / "analytics.duckdb"` where None;
    where it cannot be written, or another program does not let go of it, this object works with a cache of its own in a
    temporary folder and says so in `coverage.warning`. Whatever the log and the cache hold, nothing raises but CacheError, where
    not even a temporary file can be written. `wall` gives Unix seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sources: Sequence[str] = (),
        cache: Path | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.places = Places(folder, sources)
        self.wall = wall
        self._cache = Cache(folder / self.places.cache_name if cache is None else cache)
        self._refreshing = threading.RLock()
        self._problem: str | None = None
        self._filled = 0
        """How many caches that were made anew have been filled since."""

    def refresh(self, progress: Callable[[float], None] | None = None) -> Refreshed:
        """Read what was appended since, whoever read before. `progress` gets the share that is done, 0..1.

        Who comes while another thread reads waits for it. Raises CacheError.
        """
        started = time.monotonic()
        lines = damaged = read_bytes = 0
        with self._refreshing:
            left_bytes = 1
            self.places.look()
            while left_bytes:
                # Between two steps the cache is free for others.
                told = _Told(progress, read_bytes)
                done = self._step(told)
                if done is None:
                    break
                lines += done.lines
                damaged += done.damaged
                read_bytes += done.read_bytes
                left_bytes = done.left_bytes
            self._filled = self._cache.created
        if progress is not None:
            progress(1.0)
        seconds = time.monotonic() - started
        return Refreshed(lines=lines, damaged=damaged, seconds=seconds, done=self._problem is None)

    def _step(self, told: _Told) -> Step | None:
        def work(connection: DuckDBPyConnection) -> Step:
            return step(connection, self.places, told, STEP_BYTES)

        try:
            done = self._cache.run(work)
        except OSError as error:
            self._problem = f"the log cannot be read: {error.strerror or error}"
            return None
        self._problem = done.problem
        return done

    @property
    def coverage(self) -> Coverage:
        """What has been read so far. Raises CacheError."""
        row = self.ask(_COVERAGE)[0]
        return Coverage(
            lines=row[0],
            damaged=row[1],
            first_ts=None if row[2] is None else row[2] / MICRO,
            last_ts=None if row[3] is None else row[3] / MICRO,
            files=row[4],
            bytes=row[5],
            warning=self._problem or self._cache.warning,
        )

    def hold(self) -> AbstractContextManager[None]:
        """Keep the cache open within a block, for a page that asks many figures. It works without, and takes longer."""
        return self._cache.hold()

    def ask(self, query: str, values: Mapping[str, object] | None = None) -> list[Any]:
        """Return the rows of a query of the cache's tables. For the figures of this package. Raises CacheError."""
        return self._run(lambda connection: connection.execute(query, values or {}).fetchall())

    def frame(self, query: str, values: Mapping[str, object] | None = None) -> pd.DataFrame:
        """Return the result of such a query as a frame. Raises CacheError."""
        return self._run(lambda connection: connection.execute(query, values or {}).df())

    def close(self) -> None:
        """Let go of the cache for good."""
        self._cache.close()

    def _run(self, work: Callable[[DuckDBPyConnection], T]) -> T:
        with self._cache.hold():
            if self._cache.created != self._filled:
                # Nobody has read yet, or somebody deleted the cache since.
                self.refresh()
            return self._cache.run(work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Told:
    """Passes on how far a refresh has come."""

    def __init__(self, progress: Callable[[float], None] | None, before_bytes: int) -> None:
        self._progress = progress
        self._before_bytes = before_bytes

    def __call__(self, read_bytes: int, all_bytes: int) -> None:
        if self._progress is not None:
            done = self._before_bytes + read_bytes
            self._progress(min(done / max(self._before_bytes + all_bytes, 1), 1.0))


_COVERAGE = """
    SELECT coalesce(sum(filled + rest_filled), 0)::BIGINT, coalesce(sum(damaged + rest_damaged), 0)::BIGINT,
        (SELECT min(ts) FROM entries), (SELECT max(ts) FROM entries),
        count(*), coalesce(sum(position + rest), 0)::BIGINT
    FROM files
"""
