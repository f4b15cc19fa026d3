"""What is new in the files of a log, as one stream of rows for the database.

Theory of operation: the database takes lines in fastest where it gets very many in one statement: then its threads read JSON and
press rows together side by side, and write them before the transaction ends. So the files are not handed to it one after
another, nor as a whole, but as a stream of batches that is drawn from as the database goes along; a line's bytes are gone
from memory as soon as its row is made. Lines that are read one by one (rows) follow in the same stream. How far each file
has been read is noted as it is read, so that the statement, the note and the sums can be one transaction.

A stream ends early, to be gone on with in another, where so many lines are damaged that their places alone would fill the memory.

What may not live here: tables, and transactions.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from fallback.analytics.legacy import Telling
from fallback.analytics.places import Places
from fallback.analytics.rows import Chunk, json_batch
from fallback.analytics.sources import LogFile, Run, digest_of, runs
from fallback.usage_log.reader import MAX_READ_BYTES

__all__ = ["Intake", "Known", "Reading", "StoppedError"]

_MOST_PLACES = 100_000
"""Damaged lines, and lines of the original format, of one stream."""


class StoppedError(Exception):
    """The reading was broken off from outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
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
        """What the file is known by."""
        return (self.device, self.inode)

    def with_run(self, run: Run, chunk: Chunk, story: str | None) -> Known:
        """Return what is known after `run` has been read as well; its damaged lines are not counted yet."""
        if not run.whole:
            return dataclasses.replace(self, rest=run.length, rest_filled=chunk.filled)
        return dataclasses.replace(
            self,
            position=self.position + run.length,
            lines=self.lines + chunk.lines,
            filled=self.filled + chunk.filled,
            story=story,
        )


@dataclass(slots=True, kw_only=True)
class Reading:
    """One file, and what has been read of it in this step."""

    file: LogFile
    before: Known
    known: Known
    """As far as it has been read now."""
    failure: OSError | None = None
    """Why it cannot be read; then the rows that it gave have to go again, and `known` is `before`."""
    damaged: list[tuple[int, str]] = field(default_factory=list)
    """Lines and reasons."""
    mentions: list[tuple[str, int]] = field(default_factory=list)
    """Requests and lines."""
    taken_back: list[int] = field(default_factory=list)
    """Lines whose rows of requests no longer hold; see legacy."""

    @property
    def lines(self) -> int:
        """How many lines were read, blank ones not counted."""
        return self.known.filled + self.known.rest_filled - self.before.filled

    @property
    def is_new(self) -> bool:
        """Whether the file was read from its beginning."""
        return self.before.position == 0


class Intake:
    """Reads on in `files`, one after the other, until about `most_bytes` have been read, or `until` is over.

    `files` are such that have something new, and what is known of them; `until` is an instant of the monotonic clock.
    """

    def __init__(
        self, places: Places, files: Sequence[tuple[LogFile, Known]], most_bytes: int, *, until: float
    ) -> None:
        self.read_bytes = 0
        """So far."""
        self.begun: list[Reading] = []
        """The files that were read, the one under way included."""
        self.over = False
        """Whether there is no more to come."""
        self.full = False
        """Whether it ended because as much had been read as was wanted, or as could be in the time."""
        self.failure: BaseException | None = None
        """What broke the stream off: the database tells only that something did."""
        self._places = places
        self._files = files
        self._most_bytes = most_bytes
        self._until = until
        self._noted = 0
        self._stopped = False
        self._source = self._all()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Give rows of the schema `rows.TEXTS`. To be called again until `over`.

        Raises MovedError, and StoppedError after `stop`.
        """
        self._noted = 0
        try:
            while self._noted < _MOST_PLACES:
                batch = next(self._source, None)
                if batch is None:
                    self.over = True
                    return
                yield batch
        except BaseException as error:
            self.failure = error
            raise

    def stop(self) -> None:
        """Have the stream break off, from another thread."""
        self._stopped = True

    def _all(self) -> Iterator[pa.RecordBatch]:
        for file, known in self._files:
            if self._is_full():
                return
            reading = Reading(file=file, before=known, known=known)
            self.begun.append(reading)
            read_bytes, began = self.read_bytes, time.monotonic()
            try:
                yield from self._of(reading)
            except OSError as error:
                reading.failure = error
                reading.known = known
                # What it took is not taken from the files behind it, or they might never be read.
                self.read_bytes = read_bytes
                self._until += time.monotonic() - began

    def _is_full(self) -> bool:
        if self.read_bytes >= self._most_bytes or time.monotonic() >= self._until:
            self.full = True
        return self.full

    def _of(self, reading: Reading) -> Iterator[pa.RecordBatch]:
        file, known = reading.file, reading.known
        telling = Telling.resumed(known.story)
        with self._places.opened(file) as stream:
            for run in runs(stream, known.position, ended=file.ended, most_line_bytes=MAX_READ_BYTES):
                yield from self._rows(reading, run, telling)
                if self._is_full():
                    break
            digest = digest_of(stream, reading.known.position)
            reading.known = dataclasses.replace(reading.known, digest=digest)

    def _rows(self, reading: Reading, run: Run, telling: Telling) -> Iterator[pa.RecordBatch]:
        if self._stopped:
            raise StoppedError
        number = reading.known.lines + 1
        chunk = Chunk(run.text, number) if run.text else Chunk.of_long_line(number)
        yield from chunk.batches(reading.known.id)
        for line, fields in chunk.slow.legacy:
            telling.take(line, fields)
        slow = chunk.slow.texts + telling.told()
        if slow:
            yield json_batch(reading.known.id, slow)
        reading.damaged += chunk.slow.damaged
        reading.mentions += telling.mentions
        reading.taken_back += telling.taken_back
        self._noted += len(chunk.slow.damaged) + len(telling.mentions)
        telling.mentions.clear()
        telling.taken_back.clear()
        reading.known = reading.known.with_run(run, chunk, telling.kept())
        self.read_bytes += run.length
