"""One step of reading the log into the cache: some seconds' worth of lines, in one transaction.

Theory of operation: what was read of each file stands in the table `files`, and is changed in the same transaction as the rows
and sums of the lines, so that a line is counted once whoever reads and whatever breaks off. A step looks at the files that
there are; takes back the lines of those that are gone, or were cut or written over; and reads on where the first file with
something new was left, up to STEP_BYTES or for STEP_S. The last line of a rotated file may have no newline. It is read all the same, and
taken back and read again if the file grows after all. Taking the lines in is one statement, fed by one stream (intake), in
another thread, so that whoever waits can be told how far it has come.

What may not live here: how a line is read (rows), how the cache is opened (cache).
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection

from fallback.analytics import drilled, tables
from fallback.analytics.intake import Intake, Known, Reading
from fallback.analytics.places import Places
from fallback.analytics.rows import TEXTS, Slow, json_batch
from fallback.analytics.sources import Listing, LogFile, MovedError, digest_of

__all__ = ["STEP_BYTES", "Step", "step"]

STEP_BYTES = 640 * 1024 * 1024
"""Of one transaction. Every thread fills groups of 122,880 rows, and writes those that are full at once; the last one of each
waits for the end of the transaction, and for one thread. So a long step costs less than several short ones."""
STEP_S = 6.0
"""How long a step takes lines in at most, for others wait for the cache meanwhile."""

_TRIES = 5
_TELL_S = 0.1
"""How often somebody is told how far the reading has come."""
_MOST_UNREAD = 10_000
"""Lines that the database refused and that are held at once."""

_RESOLVE = f"""
    UPDATE entries AS late SET previous_provider = found.provider, previous_error_type = found.outcome
    FROM (
        SELECT late.file, late.line, arg_max(early.provider, early.attempt) AS provider,
            arg_max(early.outcome, early.attempt) AS outcome
        FROM attempts AS late JOIN attempts AS early
            ON early.request_id = late.request_id AND early.attempt < late.attempt
            AND early.instance IS NOT DISTINCT FROM late.instance
        WHERE late.role = 'failover' AND late.previous_provider IS NULL AND $which
            AND early.ts BETWEEN $since - {tables.APART_US} AND $until + {tables.APART_US}
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
        self._problem: str | None = None
        self._changed = False

    def take(self) -> Step:
        """Do it. Raises MovedError, OSError, duckdb.Error, and what `told` raises."""
        found = self._places.listing()
        self._problem = found.problem
        known = {file.identity: file for file in self._known_files()}
        self._forget_missing(known, found)
        begun = [
            (file, before)
            for file in found.files
            if not _is_as_it_was(known.get(file.identity), file)
            and (before := self._beginning(file, known.get(file.identity))) is not None
        ]
        all_bytes = sum(file.size - before.position for file, before in begun)
        intake = Intake(self._places, begun, self._most_bytes, until=time.monotonic() + STEP_S)
        while begun and not intake.over:
            self._put(intake, all_bytes)
        read = [reading for reading in intake.begun if self._is_good(reading)]
        if read:
            which = _new_in(read)
            self._read_slowly(which)
            tables.refuse(self._connection, which)
            self._resolve_failovers(which, _new_in(read, "late."))
            drilled.mark(self._connection, which)
            tables.add_up(self._connection, which)
        for reading in read:
            if reading.taken_back:
                gone = _lines_of(reading.known.id, reading.taken_back)
                tables.take_back(self._connection, gone, only="request")
        damaged = self._keep(read, begun[len(intake.begun) :])
        lines = sum(reading.lines for reading in read)
        return Step(
            lines=lines,
            damaged=damaged,
            read_bytes=intake.read_bytes,
            left_bytes=_left_bytes(read, begun[len(intake.begun) :]) if intake.full else 0,
            changed=self._changed or lines > 0,
            problem=self._problem,
        )

    def _known_files(self) -> list[Known]:
        names = [field.name for field in dataclasses.fields(Known)]
        found = self._connection.execute(f"SELECT {', '.join(names)} FROM files").fetchall()
        return [Known(**dict(zip(names, row, strict=True))) for row in found]

    def _forget_missing(self, known: dict[tuple[int, int], Known], found: Listing) -> None:
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

    def _beginning(self, file: LogFile, known: Known | None) -> Known | None:
        """Return where reading goes on in `file`; None, and the problem, where it cannot be read.

        The lines of one that was cut or written over are taken back first.
        """
        if known is None:
            # A result that is not fetched to its end keeps a connection busy, so all of it is fetched.
            [(number,)] = self._connection.execute("SELECT nextval('file_ids')").fetchall()
            return Known(id=number, name=file.name, device=file.device, inode=file.inode)
        try:
            same = self._is_the_same(file, known)
        except OSError as error:
            self._problem = _unreadable(file, error)
            return None
        if not same:
            self._take_back(f"file = {known.id}")
            return Known(id=known.id, name=file.name, device=file.device, inode=file.inode)
        if known.rest:
            self._take_back(_lines_of(known.id, [known.lines + 1]))
        return dataclasses.replace(known, rest=0, rest_filled=0, rest_damaged=0)

    def _is_the_same(self, file: LogFile, known: Known) -> bool:
        """Whether what was read of `file` still stands there. Raises OSError, MovedError."""
        if not known.position:
            return True
        with self._places.opened(file) as stream:
            return file.size >= known.position and digest_of(stream, known.position) == known.digest

    def _take_back(self, which: str) -> None:
        self._changed = True
        tables.take_back(self._connection, which)
        for name in ("problems", "mentions"):
            self._connection.execute(f"DELETE FROM {name} WHERE {which}")

    def _put(self, intake: Intake, all_bytes: int) -> None:
        """Put one stream of lines into the rows. Raises MovedError, duckdb.Error, and what `told` raises."""
        reader = pa.RecordBatchReader.from_batches(TEXTS, intake.batches())
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="fallback-analytics") as pool:
            putting = pool.submit(tables.put, self._connection, reader)
            try:
                while not wait((putting,), timeout=_TELL_S).done:
                    self._told(intake.read_bytes, all_bytes)
            except BaseException:
                # Whoever is told can break off: a page that its reader has left.
                intake.stop()
                raise
            try:
                putting.result()
            except duckdb.Error:
                if intake.failure is not None:
                    raise intake.failure from None
                raise
        self._told(intake.read_bytes, all_bytes)

    def _is_good(self, reading: Reading) -> bool:
        """Whether `reading` could be read; else its rows are deleted."""
        if reading.failure is None:
            self._note(reading.known.id, "problems (line, reason, file)", reading.damaged)
            self._note(reading.known.id, "mentions (request_id, line, file)", reading.mentions)
            return True
        self._problem = _unreadable(reading.file, reading.failure)
        self._connection.execute(f"DELETE FROM entries WHERE {_new_in([reading])}")
        return False

    def _read_slowly(self, which: str) -> None:
        """Read those new lines one by one that the database refused."""
        while refused := tables.unread(self._connection, which, _MOST_UNREAD):
            for file, found in itertools.groupby(refused, key=lambda line: line[0]):
                slow = Slow()
                for _, number, text in found:
                    slow.take(number, text.encode())
                self._note(file, "problems (line, reason, file)", slow.damaged)
                if slow.texts:
                    batch = json_batch(file, slow.texts)
                    tables.put(self._connection, pa.RecordBatchReader.from_batches(TEXTS, [batch]))

    def _note(self, file: int, table: str, pairs: Sequence[tuple[object, object]]) -> None:
        if pairs:
            first, second = zip(*pairs, strict=True)
            self._connection.register("pairs", pa.table({"first": list(first), "second": list(second)}))
            self._connection.execute(f"INSERT INTO {table} SELECT first, second, {file} FROM pairs")
            self._connection.unregister("pairs")

    def _keep(self, read: Sequence[Reading], others: Sequence[tuple[LogFile, Known]]) -> int:
        """Keep what is known of the files now; return how many of the lines read were damaged."""
        damaged = self._damaged(_new_in(read))
        rests = [_lines_of(one.known.id, [one.known.lines + 1]) for one in read if one.known.rest]
        in_rests = self._damaged(" OR ".join(rests))
        for reading in read:
            number = reading.known.id
            rest = in_rests.get(number, 0)
            whole = reading.known.damaged + damaged.get(number, 0) - rest
            self._keep_file(
                reading.file, dataclasses.replace(reading.known, damaged=whole, rest_damaged=rest)
            )
        for file, known in others:
            self._keep_file(file, known)
        return sum(damaged.values())

    def _damaged(self, which: str) -> dict[int, int]:
        """Return how many problems there are in each file, of those for which `which` holds; "": none does."""
        found = self._connection.execute(
            f"SELECT file, count(*) FROM problems WHERE {which or 'false'} GROUP BY file"
        )
        return dict(found.fetchall())

    def _keep_file(self, file: LogFile, known: Known) -> None:
        kept = dataclasses.replace(
            known, name=file.name, size=file.size, modified_ns=file.modified_ns, ended=file.ended
        )
        names = [field.name for field in dataclasses.fields(Known)]
        self._connection.execute("DELETE FROM files WHERE id = ?", [kept.id])
        self._connection.execute(
            f"INSERT INTO files ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
            [getattr(kept, name) for name in names],
        )

    def _resolve_failovers(self, which: str, which_late: str) -> None:
        """Find out whom a failover left, where its line does not say so, from the attempt before in its request."""
        [(since, until)] = self._connection.execute(
            "SELECT min(ts), max(ts) FROM attempts "
            f"WHERE role = 'failover' AND previous_provider IS NULL AND ({which})"
        ).fetchall()
        if since is not None:
            values = {"since": since, "until": until}
            self._connection.execute(_RESOLVE.replace("$which", f"({which_late})"), values)


def _unreadable(file: LogFile, error: OSError) -> str:
    return f"{file.name} cannot be read: {error.strerror or error}"


def _new_in(read: Sequence[Reading], table: str = "") -> str:
    """Return the condition of the rows and problems that came from `read`; `table` is put before the names of columns."""
    whole = [str(reading.known.id) for reading in read if reading.is_new]
    parts = [f"{table}file IN ({', '.join(whole)})"] if whole else []
    parts += [
        f"({table}file = {reading.known.id} AND {table}line > {reading.before.lines})"
        for reading in read
        if not reading.is_new
    ]
    return " OR ".join(parts)


def _left_bytes(read: Sequence[Reading], others: Sequence[tuple[LogFile, Known]]) -> int:
    known = [*((reading.file, reading.known) for reading in read), *others]
    return sum(max(file.size - one.position - one.rest, 0) for file, one in known)


def _lines_of(file: int, lines: Sequence[int]) -> str:
    return f"file = {file} AND line IN ({', '.join(map(str, lines))})"


def _is_as_it_was(known: Known | None, file: LogFile) -> bool:
    return (
        known is not None
        and (known.name, known.ended) == (file.name, file.ended)
        and (known.size, known.modified_ns) == (file.size, file.modified_ns)
        and known.position + known.rest == file.size
    )
