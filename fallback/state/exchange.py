"""One round between the memory of a process and the file, and what happens when the file fails.

Theory of operation: a round opens the file where it is not open, writes what is pending, and takes in what others have
written. A failure never leaves here: it becomes `warning`, is logged once, and the memory goes on alone; what was open
for reading is read on. Every RETRY_S seconds a round tries everything anew on a fresh connection. A lock that another
process holds is no failure before LOCKED_S seconds have gone by.

A file under the same name with another identity is a new store: the old one was deleted or set aside. Then everything
in memory is written to it, unless somebody else has put it there already.

What may not live here: threads. Time comes in as clocks.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from fallback.state.claims import Claims
from fallback.state.entry import Entry
from fallback.state.file import Busy, Damaged, FileClaims, StateFile, Unfit, is_busy, is_damage, open_file
from fallback.state.ledger import Ledger

__all__ = ["LOCKED_S", "RETRY_S", "Exchange"]

logger = logging.getLogger(__name__)

RETRY_S = 3.0
LOCKED_S = 2.0

_FAILURES = (OSError, sqlite3.Error, Busy, Damaged, Unfit)


class Exchange:
    """Keeps `ledger` and the file at `path` the same, and sees to `claims`. For one thread at a time.

    `wall` gives Unix seconds, for what is too old to keep; `clock` monotonic ones, for the pauses.
    """

    def __init__(
        self,
        path: Path,
        ledger: Ledger,
        claims: Claims,
        *,
        wall: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self.loaded = False
        """Whether the file has been read once."""
        self._path = path
        self._ledger = ledger
        self._claims = claims
        self._wall = wall
        self._clock = clock
        self._file: StateFile | None = None
        self._identity: str | None = None
        self._seen = 0
        self._everything = False
        """Whether the whole file is still to be read."""
        self._pruned = False
        self._trouble: str | None = None
        self._notice: str | None = None
        self._retry_at = 0.0
        self._busy_since: float | None = None

    @property
    def out(self) -> bool:
        """Whether the file cannot be used just now."""
        return self._trouble is not None

    @property
    def warning(self) -> str | None:
        """Return what people should know, in words; None while all is well."""
        if self._trouble is not None:
            return (
                f"state store unwritable: {self._trouble}; switches and cooldowns last until the program ends"
            )
        return self._notice

    def round(self, *, urgent: bool = False) -> Sequence[Entry]:
        """Write what is pending, read what is new, and return the entries that differ from what was known.

        `urgent`: try in any case, even where the last failure is recent. Raises what the ledger's merge raises.
        """
        now = self._clock()
        due = urgent or self._trouble is None or now >= self._retry_at
        if self._file is not None and (self._file.moved() or (due and self._trouble is not None)):
            self.drop()
        changed: list[Entry] = []
        # Claims come after the write: who gets one that was given back finds what its owner put before.
        well = due and self._tried(self._write, changed, now) and self._tried(self._claim, changed, now)
        if self._file is not None and not self._tried(self._read, changed, now):
            well = False
            self.drop()
        if well:
            self._recover()
        return changed

    def drop(self) -> None:
        """Close the file. The next round opens it again."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def fail(self, reason: str) -> None:
        """Let it be known that nothing is written, and why. Logged once until all is well again."""
        if self._trouble is None:
            logger.warning(
                "%s cannot be used (%s); the program goes on with what is in memory", self._path, reason
            )
        self._trouble = reason
        self._retry_at = self._clock() + RETRY_S

    def _recover(self) -> None:
        self._busy_since = None
        if self._trouble is not None:
            logger.warning("%s works again", self._path)
            self._trouble = None

    def _tried(self, step: Callable[[list[Entry]], None], changed: list[Entry], now: float) -> bool:
        try:
            step(changed)
        except _FAILURES as error:
            if is_busy(error):
                if self._busy_since is None:
                    self._busy_since = now
                if now - self._busy_since >= LOCKED_S or self._trouble is not None:
                    self.fail("another process has locked it")
                return False
            self.fail(_described(error))
            if is_damage(error):
                # The next round finds the damage when it opens the file, and sets it aside.
                self.drop()
                self._retry_at = now
            return False
        return True

    def _write(self, changed: list[Entry]) -> None:
        if self._file is None:
            self._open()
        file = self._file
        if file is None:
            return
        if self._trouble is not None:
            self._ledger.hold()
        puts = self._ledger.pending()
        if not puts and self._pruned:
            return
        written = file.write(
            puts,
            merge=self._ledger.merge,
            since=self._seen,
            prune_at=None if self._pruned else self._wall(),
        )
        self._pruned = True
        changed += self._ledger.written(puts, written.stored)
        changed += self._ledger.take_in(
            [
                *(entry for entry in written.others if entry.key not in written.stored),
                *written.stored.values(),
            ],
            everything=self._everything,
        )
        self._seen = written.revision
        self._taken_in()

    def _claim(self, _changed: list[Entry]) -> None:
        if self._file is not None:
            self._claims.round(FileClaims(self._file, self._wall))

    def _read(self, changed: list[Entry]) -> None:
        if self._file is None:
            return
        news = self._file.news(self._seen, anyway=self._everything)
        changed += self._ledger.take_in(news, everything=self._everything)
        if news:
            self._seen = news[-1].revision
        self._taken_in()

    def _taken_in(self) -> None:
        self._everything = False
        self.loaded = True

    def _open(self) -> None:
        file, aside = open_file(self._path, wall=self._wall)
        self._file = file
        if aside is not None:
            self._notice = (
                f"state store was damaged: set aside as {aside.name}, and a new one begun from memory"
            )
            logger.warning("%s was damaged; it was set aside as %s and a new one begun", self._path, aside)
        if self._identity not in {None, file.identity}:
            self._ledger.restore()
        self._identity = file.identity
        self._seen = 0
        self._everything = True


def _described(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
