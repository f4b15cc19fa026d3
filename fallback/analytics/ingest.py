"""One step of reading the log into the cache: some seconds' worth of lines, in one transaction.

Theory of operation: what was read of each file stands in the table `files`, and is changed in the same transaction as the rows
and sums of the lines, so that a line is counted once whoever reads and whatever breaks off. A step looks at the files that
there are; takes back the lines of those that are gone, or were cut or written over; and reads on where the first file with
something new was left, up to STEP_BYTES. The last line of a rotated file may have no newline. It is read all the same, and
taken back and read again if the file grows after all.

What may not live here: how a line is read (rows), how the cache is opened (cache).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
from duckdb import DuckDBPyConnection

from fallback.analytics import tables
from fallback.analytics.legacy import Telling
from fallback.analytics.places import Places
from fallback.analytics.rows import Chunk, json_table
from fallback.analytics.sources import Listing, LogFile, MovedError, Readable, Run, digest_of, runs
from fallback.usage_log.reader import MAX_READ_BYTES

K = TypeVar("K")

__all__ = ["STEP_BYTES", "Step", "step"]

STEP_BYTES = 160 * 1024 * 1024
"""Of one transaction."""

_TRIES = 5

_LOOK_BACK_US = 3_600 * 1_000_000
"""So long before a failover lies the attempt that it left, where the line itself does not name it."""

_RESOLVE = f"""
    UPDATE entries AS late SET previous_provider = found.provider, previous_error_type = found.outcome
    FROM (
        SELECT late.file, late.line, arg_max(early.provider, early.attempt) AS provider,
            arg_max(early.outcome, early.attempt) AS outcome
        FROM attempts AS late JOIN attempts AS early
            ON early.request_id = late.request_id AND early.attempt < late.attempt
            AND early.instance IS NOT DISTINCT FROM late.instance
        WHERE late.role = 'failover' AND late.previous_provider IS NULL AND $which
            AND early.ts BETWEEN $since - {_LOOK_BACK_US} AND $until + {_LOOK_BACK_US}
        GROUP BY late.file, late.line
    ) AS found
    WHERE late.file = found.file AND late.line = found.line AND $which
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step did."""

    lines: int
    damaged: int
    read_bytes: int
    left_bytes: int
    """What there is still to read."""
    changed: bool
    """Whether the cache holds anything else than before."""
    problem: str | None
    """Why some file cannot be read just now; None: all can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What is known of one file: a row of the table `files`."""

    id: int
    name: str
    device: int
    inode: int
    size: int = -1
    modified_ns: int = -1
    ended: bool = False
    position: int = 0
    """How far whole lines have been read."""
    rest: int = 0
    """Bytes behind that were read as a last line without a newline."""
    digest: bytes = b""
    """What the bytes before `position` are recognised by."""
    lines: int = 0
    """Before `position`, blank ones included."""
    filled: int = 0
    """Of them, without the blank ones."""
    damaged: int = 0
    rest_filled: int = 0
    """1 where the rest is not blank."""
    rest_damaged: int = 0
    story: str | None = None

    @property
    def identity(self) -> tuple[int, int]:
        return (self.device, self.inode)


def step(
    connection: DuckDBPyConnection, places: Places, told: Callable[[int, int], None], most_bytes: int
) -> Step:
    """Read on, up to about `most_bytes`.

    `told` gets the bytes that have been read so far in this step, and those that there were to read when it began. Raises OSError where the one folder cannot be listed, and duckdb.Error; then nothing has changed.
    """
    for _ in range(_TRIES):
        reading = _Step(connection, places, told, most_bytes)
        connection.begin()
        try:
            done = reading.take()
        except MovedError:
            connection.rollback()
            continue
        except OSError:
            connection.rollback()
            raise
        connection.commit()
        return done
    raise OSError(f"the files in {places.told} are renamed faster than they can be read")


class _Step:
    """One step on its way."""

    def __init__(
        self,
        connection: DuckDBPyConnection,
        places: Places,
        told: Callable[[int, int], None],
        most_bytes: int,
    ) -> None:
        self._connection = connection
        self._places = places
        self._told = told
        self._most_bytes = most_bytes
        self._read_bytes = 0
        self._all_bytes = 0
        self._lines = 0
        self._damaged = 0
        self._changed = False
        self._problem: str | None = None
        self._new: list[str] = []
        """Conditions of the rows that came with this step."""
        self._outdated: list[tuple[int, list[int]]] = []
        """Files and lines whose rows of requests no longer hold; see legacy."""

    def take(self) -> Step:
        """Do it. Raises MovedError, OSError, duckdb.Error."""
        found = self._places.listing()
        self._problem = found.problem
        known = {file.identity: file for file in self._known_files()}
        self._forget_missing(known, found)
        begun = [
            (file, before)
            for file in found.files
            if not _is_as_it_was(known.get(file.identity), file)
            and (before := self._reachable(self._beginning, file, known.get(file.identity))) is not None
        ]
        self._all_bytes = sum(file.size - before.position for file, before in begun)
        left = 0
        for file, before in begun:
            after = before if self._is_full() else self._reachable(self._read, file, before)
            if after is not None:
                self._keep(file, after)
                left += max(file.size - after.position - after.rest, 0) if self._is_full() else 0
        if self._new:
            self._resolve_failovers(" OR ".join(self._new))
            tables.add_up(self._connection, " OR ".join(self._new))
        for number, lines in self._outdated:
            tables.take_back(self._connection, _lines_of(number, lines), only="request")
        return Step(
            lines=self._lines,
            damaged=self._damaged,
            read_bytes=self._read_bytes,
            left_bytes=left,
            changed=self._changed or self._lines > 0,
            problem=self._problem,
        )

    def _known_files(self) -> list[_Known]:
        names = [field.name for field in dataclasses.fields(_Known)]
        found = self._connection.execute(f"SELECT {', '.join(names)} FROM files").fetchall()
        return [_Known(**dict(zip(names, row, strict=True))) for row in found]

    def _is_full(self) -> bool:
        return self._read_bytes >= self._most_bytes

    def _reachable(self, work: Callable[[LogFile, K], _Known], file: LogFile, known: K) -> _Known | None:
        """Return what `work` makes of `file`; None, and the problem, where it cannot be read."""
        try:
            return work(file, known)
        except OSError as error:
            self._problem = f"{file.name} cannot be read: {error.strerror or error}"
            return None

    def _forget_missing(self, known: dict[tuple[int, int], _Known], found: Listing) -> None:
        """Take back the lines of files that are gone, and of none that may be where nobody can look just now."""
        there = {file.identity for file in found.files}
        missing = [
            file
            for identity, file in known.items()
            if identity not in there and not found.may_hold(file.name)
        ]
        if not missing:
            return
        self._changed = True
        if len(missing) == len(known):
            tables.clear(self._connection)
            return
        for file in missing:
            self._take_back(f"file = {file.id}")
            self._connection.execute("DELETE FROM files WHERE id = ?", [file.id])

    def _beginning(self, file: LogFile, known: _Known | None) -> _Known:
        """Return where reading goes on in `file`: the lines of one that was cut or written over are taken back first."""
        if known is None:
            # A result that is not fetched to its end keeps a connection busy, so all of it is fetched.
            [(number,)] = self._connection.execute("SELECT nextval('file_ids')").fetchall()
            return _Known(id=number, name=file.name, device=file.device, inode=file.inode)
        with self._places.opened(file) as stream:
            same = file.size >= known.position and digest_of(stream, known.position) == known.digest
        if not same:
            self._take_back(f"file = {known.id}")
            return _Known(id=known.id, name=file.name, device=file.device, inode=file.inode)
        if known.rest:
            self._take_back(_lines_of(known.id, [known.lines + 1]))
        return dataclasses.replace(known, rest=0, rest_filled=0, rest_damaged=0)

    def _take_back(self, which: str) -> None:
        self._changed = True
        tables.take_back(self._connection, which)
        for name in ("problems", "mentions"):
            self._connection.execute(f"DELETE FROM {name} WHERE {which}")

    def _read(self, file: LogFile, known: _Known) -> _Known:
        """Read on in one file; nothing of it is kept where it breaks off."""
        counted = (self._lines, self._damaged, self._read_bytes)
        try:
            return self._read_on(file, known)
        except OSError:
            which = f"file = {known.id} AND line > {known.lines}"
            for name in ("entries", "problems", "mentions"):
                self._connection.execute(f"DELETE FROM {name} WHERE {which}")
            self._outdated = [(number, lines) for number, lines in self._outdated if number != known.id]
            self._lines, self._damaged, self._read_bytes = counted
            raise

    def _read_on(self, file: LogFile, known: _Known) -> _Known:
        first = known.lines + 1
        telling = Telling.resumed(known.story)
        with (
            self._places.opened(file) as stream,
            contextlib.closing(self._chunks(stream, file, known)) as found,
        ):
            for run, chunk in found:
                story = telling.kept()
                damaged = self._put(known.id, chunk, telling)
                if run.whole:
                    known = dataclasses.replace(
                        known,
                        position=known.position + run.length,
                        lines=known.lines + chunk.lines,
                        filled=known.filled + chunk.filled,
                        damaged=known.damaged + damaged,
                        story=telling.kept(),
                    )
                else:
                    known = dataclasses.replace(
                        known, rest=run.length, rest_filled=chunk.filled, rest_damaged=damaged, story=story
                    )
                self._lines += chunk.filled
                self._damaged += damaged
                self._read_bytes += run.length
                self._told(self._read_bytes, self._all_bytes)
            self._new.append(f"(file = {known.id} AND line >= {first})")
            return dataclasses.replace(known, digest=digest_of(stream, known.position))

    def _chunks(self, stream: Readable, file: LogFile, known: _Known) -> Generator[tuple[Run, Chunk]]:
        """Give what is new in a file, up to what is left of the step; the next chunk is made ready in another thread."""
        left_bytes = self._most_bytes - self._read_bytes

        def made() -> Iterator[tuple[Run, Chunk]]:
            number, read_bytes = known.lines + 1, 0
            for run in runs(stream, known.position, ended=file.ended, most_line_bytes=MAX_READ_BYTES):
                chunk = Chunk(run.text, number) if run.text else Chunk.of_long_line(number)
                yield run, chunk
                number += chunk.lines
                read_bytes += run.length
                if read_bytes >= left_bytes:
                    return

        source = made()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="fallback-analytics") as pool:
            coming = pool.submit(next, source, None)
            while (found := coming.result()) is not None:
                coming = pool.submit(next, source, None)
                yield found

    def _put(self, file: int, read: Chunk, telling: Telling) -> int:
        """Put a chunk's lines into the tables; return how many of them are damaged."""
        first = read.first_line
        slow = read.slow
        further = read.read_slowly(tables.put(self._connection, file, read.table()))
        damaged = slow.damaged + further.damaged
        for line, fields in slow.legacy:
            telling.take(line, fields)
        tables.put(self._connection, file, json_table(slow.texts + further.texts + telling.told()))
        if telling.taken_back:
            self._outdated.append((file, telling.taken_back.copy()))
            telling.taken_back.clear()
        damaged += tables.refuse(self._connection, f"file = {file} AND line >= {first}")
        self._put_pairs("problems (line, reason, file)", damaged, file)
        self._put_pairs("mentions (request_id, line, file)", telling.mentions, file)
        telling.mentions.clear()
        return len(damaged)

    def _put_pairs(self, table: str, pairs: Sequence[tuple[object, object]], file: int) -> None:
        if pairs:
            first, second = zip(*pairs, strict=True)
            self._connection.register("pairs", pa.table({"first": list(first), "second": list(second)}))
            self._connection.execute(f"INSERT INTO {table} SELECT first, second, {file} FROM pairs")
            self._connection.unregister("pairs")

    def _keep(self, file: LogFile, known: _Known) -> None:
        kept = dataclasses.replace(
            known, name=file.name, size=file.size, modified_ns=file.modified_ns, ended=file.ended
        )
        names = [field.name for field in dataclasses.fields(_Known)]
        self._connection.execute("DELETE FROM files WHERE id = ?", [kept.id])
        self._connection.execute(
            f"INSERT INTO files ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
            [getattr(kept, name) for name in names],
        )

    def _resolve_failovers(self, which: str) -> None:
        """Find out whom a failover left, where its line does not say so, from the attempt before in its request."""
        [(since, until)] = self._connection.execute(
            "SELECT min(ts), max(ts) FROM attempts "
            f"WHERE role = 'failover' AND previous_provider IS NULL AND ({which})"
        ).fetchall()
        if since is not None:
            of_late = f"({which})".replace("(file", "(late.file").replace("line >=", "late.line >=")
            self._connection.execute(_RESOLVE.replace("$which", of_late), {"since": since, "until": until})


def _lines_of(file: int, lines: Sequence[int]) -> str:
    return f"file = {file} AND line IN ({', '.join(map(str, lines))})"


def _is_as_it_was(known: _Known | None, file: LogFile) -> bool:
    return (
        known is not None
        and (known.name, known.ended) == (file.name, file.ended)
        and (known.size, known.modified_ns) == (file.size, file.modified_ns)
        and known.position + known.rest == file.size
    )
