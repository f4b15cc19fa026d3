"""From the bytes of whole lines to the lines of JSON that the database takes in, and those that it does not.

Theory of operation: nearly every line begins and ends as the writer makes it, and holds strict JSON. Those are handed to the
database's own JSON reader, all of a chunk at once and without being copied. What that reader would take for JSON though
`usage_log.parse_line` would not (a comma before a bracket, thousands of brackets), and every line that does not look ordinary, is
read by `parse_line`, which alone says what is damaged; if it finds fields, they are written as ordinary JSON and go the same way
as the others. Lines that the database refuses after all come back and are read by `parse_line` too. So there is one judge of what is
damaged, and one way in which a field becomes a value.

What may not live here: files, tables, and what the fields mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import orjson
import pyarrow as pa

from fallback.usage_log.encode import MAX_LINE_BYTES, as_text
from fallback.usage_log.parse import Damaged, parse_line
from fallback.usage_log.reader import MAX_READ_BYTES

__all__ = ["TEXTS", "Chunk", "Fields", "Slow", "json_batch"]

Fields = Mapping[str, object]

TEXTS: Final = pa.schema([("file", pa.int32()), ("line", pa.int64()), ("text", pa.string())])
"""What the database is given: the number of a file, the number of a line of it, and its JSON."""

_START = b'{"schema":'
_BATCH_LINES = 16_384
"""That the database takes at once on one of its threads."""
_MOST_BRACKETS = 500
"""That an ordinary line closes; parse_line refuses some thousand, one inside the other."""


@dataclass(slots=True, kw_only=True)
class Slow:
    """Lines that were read one by one."""

    texts: list[tuple[int, bytes]] = field(default_factory=list)
    """Line number, and its fields as ordinary JSON."""
    legacy: list[tuple[int, Fields]] = field(default_factory=list)
    """Of the original text format."""
    damaged: list[tuple[int, str]] = field(default_factory=list)
    """Line number and reason."""
    blank: int = 0

    def take(self, number: int, line: bytes) -> None:
        """Read the line with that number."""
        if not line.strip():
            self.blank += 1
            return
        parsed = Damaged(reason=_too_long()) if len(line) >= MAX_READ_BYTES else parse_line(line)
        if isinstance(parsed, Damaged):
            self.damaged.append((number, parsed.reason))
        elif parsed.get("kind") == "legacy" and "schema" not in parsed:
            self.legacy.append((number, parsed))
        else:
            self.texts.append((number, _as_json(parsed)))


class Chunk:
    """A run of whole lines, each with its newline but for the last, which may have none.

    `first_line` is the number of the first. Nothing that they hold raises.
    """

    def __init__(self, text: bytes, first_line: int) -> None:
        self._text = text
        self.first_line = first_line
        bytes_ = np.frombuffer(text, np.uint8)
        ends = np.flatnonzero(bytes_ == ord("\n"))
        if not text.endswith(b"\n"):
            ends = np.append(ends, len(text))
        self._ends = ends
        self._starts = np.concatenate((np.zeros(1, np.int64), ends[:-1] + 1))
        self._ordinary = self._find_ordinary(bytes_)
        self.slow = Slow()
        for index in np.flatnonzero(~self._ordinary).tolist():
            self.slow.take(first_line + index, self._line(index))

    @classmethod
    def of_long_line(cls, number: int) -> Chunk:
        """Return what stands for a line that was passed over, because it is too long to be read."""
        chunk = cls(b"\n", number)
        chunk.slow = Slow(damaged=[(number, _too_long())])
        return chunk

    @property
    def lines(self) -> int:
        """All of them, blank ones included."""
        return len(self._ends)

    @property
    def filled(self) -> int:
        """Without the blank ones."""
        return len(self._ends) - self.slow.blank

    def batches(self, file: int) -> Iterator[pa.RecordBatch]:
        """Give the ordinary lines as rows of TEXTS."""
        count = len(self._ends)
        offsets = np.append(self._starts, self._ends[-1:] + 1).clip(max=len(self._text)).astype(np.int32)
        texts = pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(self._text))
        numbers = np.arange(self.first_line, self.first_line + count, dtype=np.int64)
        batch = pa.record_batch([np.full(count, file, np.int32), numbers, texts], schema=TEXTS)
        if not self._ordinary.all():
            batch = batch.filter(pa.array(self._ordinary))
        for begin in range(0, len(batch), _BATCH_LINES):
            yield batch.slice(begin, _BATCH_LINES)

    def _line(self, index: int) -> bytes:
        return self._text[self._starts[index] : self._ends[index]]

    def _find_ordinary(self, bytes_: np.ndarray) -> np.ndarray:
        starts, ends = self._starts, self._ends
        length = ends - starts
        good: np.ndarray = (length > len(_START)) & (length < MAX_LINE_BYTES)
        if not len(bytes_):
            return good
        for place, byte in enumerate(_START):
            good &= bytes_[np.minimum(starts + place, len(bytes_) - 1)] == byte
        good &= bytes_[np.maximum(ends - 1, 0)] == ord("}")
        if not self._text.isascii() and not _is_text(self._text):
            self._sift(good, _is_text)
        if b"\0" in self._text:
            self._sift(good, lambda line: b"\0" not in line)
        good[self._loose(bytes_)] = False
        return good

    def _loose(self, bytes_: np.ndarray) -> np.ndarray:
        """Return the lines with a comma, or with blanks, before a closing bracket, and those with a great many brackets.

        The database's reader forgives what parse_line does not. In a text they mean nothing, and reading such a line on
        its own costs only time.
        """
        # Of all bytes, only ] and } become } by that bit.
        closing = np.flatnonzero((bytes_ | 0x20) == ord("}"))
        before = bytes_[np.maximum(closing - 1, 0)]
        loose: np.ndarray = np.searchsorted(self._ends, closing[(before == ord(",")) | (before <= ord(" "))])
        if len(closing) > 2 * len(self._ends) + _MOST_BRACKETS:
            counts = np.bincount(np.searchsorted(self._ends, closing), minlength=len(self._ends))
            loose = np.concatenate((loose, np.flatnonzero(counts > _MOST_BRACKETS)))
        return loose

    def _sift(self, good: np.ndarray, is_ordinary: Callable[[bytes], bool]) -> None:
        for index in np.flatnonzero(good).tolist():
            good[index] = is_ordinary(self._line(index))


def json_batch(file: int, texts: Sequence[tuple[int, bytes]]) -> pa.RecordBatch:
    """Return lines that were made ordinary (number and JSON) as rows of TEXTS."""
    numbers = [number for number, _ in texts]
    return pa.record_batch([[file] * len(texts), numbers, [text.decode() for _, text in texts]], schema=TEXTS)


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _as_json(fields: Fields) -> bytes:
    """Return the fields as strict JSON; lists and objects as texts, which the database makes of them too."""
    return orjson.dumps(
        {as_text(name): plain for name, value in fields.items() if (plain := _plain(value)) is not None}
    )


def _plain(value: object) -> str | int | float | bool | None:
    match value:
        case bool():
            return value
        case str():
            return value if value.isascii() else as_text(value)
        case int():
            return value if -(2**63) <= value < 2**64 else None
        case float():
            return value if math.isfinite(value) else None
        case list() | dict():
            return as_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
        case _:
            return None


def _too_long() -> str:
    return f"longer than {MAX_READ_BYTES} bytes"
