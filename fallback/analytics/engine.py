"""One log and its cache, kept up to date: what the figures ask."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

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

    Safe for threads; several processes may use the same cache. `cache` is its file, `folder / "analytics.duckdb"` where None;
    where it cannot be written, or another program does not let go of it, this object works with a cache of its own in a
    temporary folder and says so in `coverage.warning`. Nothing of the log's content or of the cache's raises.
    """

    def __init__(
        self, folder: Path, *, cache: Path | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        self.folder = folder
        self.cache = folder / "analytics.duckdb" if cache is None else cache
        self._wall = wall

    def refresh(self, progress: Callable[[float], None] | None = None) -> Refreshed:
        """Read what was appended since, whoever read before. `progress` gets the share that is done, 0..1."""
        raise NotImplementedError

    @property
    def coverage(self) -> Coverage:
        """What has been read so far."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the cache for good."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
