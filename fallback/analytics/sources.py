"""The files of a log: which there are, which are the ones that were read before, and their bytes from a place on.

Theory of operation: a file is known by its device and inode number, whatever its name, so that a rename costs nothing. An
inode number is used again and a file can be cut or written over; so of what was read, the first and the last bytes are
remembered as a digest, and looked at again when the file's size or time has changed. As in `usage_log.reader`, `usage.log`
is looked at before the rotated files are listed, and if it turns up among them, the step is taken again. A file is opened
by its name later, and only if it still is the one that was looked at.

What may not live here: what stands in the lines, and the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fallback.usage_log.files import CURRENT_NAME, rotated_files

__all__ = [
    "RUN_BYTES",
    "Listing",
    "LogFile",
    "MovedError",
    "Readable",
    "Run",
    "digest_of",
    "listing",
    "look",
    "opened",
    "runs",
]

RUN_BYTES = 8 * 1024 * 1024
"""Of one reading. Much larger blocks of memory are new from the system each time, which costs more than it saves."""

_DIGEST_BYTES = 1_024
_TRIES = 50


class MovedError(Exception):
    """A file is not the one any more that stood under its name when the files were listed."""


class Readable(Protocol):
    """The bytes of a file."""

    def seek(self, offset: int, /) -> int:
        """Go to a place, in bytes from the beginning."""

    def read(self, count: int, /) -> bytes:
        """Return up to so many bytes, none at the end. Raises OSError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """One file that there is."""

    name: str
    device: int
    inode: int
    size: int
    """When it was looked at; it may have grown since."""
    modified_ns: int
    ended: bool
    """Whether it was rotated, so that its last line will hardly get a newline any more."""

    @property
    def identity(self) -> tuple[int, int]:
        """What it is known by."""
        return (self.device, self.inode)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of a log, oldest first."""

    files: tuple[LogFile, ...]
    problem: str | None
    """Why one that there is cannot be looked at; None: all could be."""
    unread: tuple[str, ...] = ()
    """What the names of files begin with that may be there all the same."""

    def may_hold(self, name: str) -> bool:
        """Whether the file of that name may be there though it is not listed."""
        return any(name.startswith(begin) for begin in self.unread)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The bytes of whole lines."""

    text: bytes
    """With their newlines; without the last one where the file has ended. Empty: one line that is too long to be kept."""
    length: int
    """Bytes in the file."""
    whole: bool
    """Whether it ends with a newline."""


def listing(folder: Path) -> Listing:
    """List the files of the log in `folder`. A folder that is not there has none.

    Raises OSError where the folder cannot be listed, or its files are renamed all the time.
    """
    for _ in range(_TRIES):
        problems: list[str] = []
        current = look(folder / CURRENT_NAME, problems, ended=False)
        paths = rotated_files(folder)
        found = {file.identity: file for path in paths if (file := look(path, problems, ended=True))}
        if current is not None and current.identity in found:
            continue  # renamed meanwhile
        if len(found) < len(paths) and not problems and not all(path.exists() for path in paths):
            continue  # deleted or moved meanwhile
        files = (*found.values(), *(() if current is None else (current,)))
        return Listing(
            files=files, problem=problems[0] if problems else None, unread=("",) if problems else ()
        )
    raise OSError(f"the files in {folder.name} are renamed faster than they can be listed")


@contextlib.contextmanager
def opened(folder: Path, file: LogFile) -> Iterator[Readable]:
    """Open `file`. Raises MovedError where another one stands under its name by now, OSError where it cannot be read."""
    try:
        stream = (folder / file.name).open("rb", buffering=0)
    except FileNotFoundError as error:
        raise MovedError(file.name) from error
    with stream:
        status = os.fstat(stream.fileno())
        if (status.st_dev, status.st_ino) != file.identity:
            raise MovedError(file.name)
        yield stream


def digest_of(stream: Readable, length: int) -> bytes:
    """Return what the first `length` bytes are recognised by: a digest of the first and the last of them."""
    digest = hashlib.blake2b(digest_size=16)
    stream.seek(0)
    digest.update(stream.read(min(length, _DIGEST_BYTES)))
    if length > _DIGEST_BYTES:
        stream.seek(length - _DIGEST_BYTES)
        digest.update(stream.read(_DIGEST_BYTES))
    return digest.digest()


def runs(stream: Readable, offset: int, *, ended: bool, most_line_bytes: int) -> Iterator[Run]:
    """Give the whole lines from `offset` on, and the last one without a newline where the file has `ended`.

    A line that is longer than `most_line_bytes` and does not fit into a run is passed over without being kept.
    """
    while True:
        stream.seek(offset)
        text = _read(stream, RUN_BYTES)
        if not text:
            return
        end = text.rfind(b"\n") + 1
        if not end and len(text) <= most_line_bytes:
            text += _read(stream, most_line_bytes + 1 - len(text))
            end = text.rfind(b"\n") + 1
        if end:
            yield Run(text=text[:end], length=end, whole=True)
            offset += end
        elif len(text) <= most_line_bytes:
            if ended:
                yield Run(text=text, length=len(text), whole=False)
            return
        else:
            length, whole = _pass_over(stream, len(text))
            if whole or ended:
                yield Run(text=b"", length=length, whole=whole)
            if not whole:
                return
            offset += length


def _read(stream: Readable, count: int) -> bytes:
    """Read `count` bytes, or up to the end: one call gives less than it is asked for at times."""
    blocks = []
    while count > 0 and (block := stream.read(count)):
        blocks.append(block)
        count -= len(block)
    return b"".join(blocks)


def _pass_over(stream: Readable, length: int) -> tuple[int, bool]:
    """Read on to the end of a line, `length` bytes of which have been read; say how long it is, and whether it is whole."""
    while block := stream.read(RUN_BYTES):
        end = block.find(b"\n") + 1
        if end:
            return length + end, True
        length += len(block)
    return length, False


def look(path: Path, problems: list[str], *, ended: bool) -> LogFile | None:
    """Look at one file; None where there is none, or with a word in `problems` where it cannot be read."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror or error}")
        return None
    # A device or pipe under the name (usage.log -> /dev/stdout) has nothing to read, and may never end.
    if not stat.S_ISREG(status.st_mode):
        problems.append(f"{path.name} is no regular file")
        return None
    return LogFile(
        name=path.name,
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        modified_ns=status.st_mtime_ns,
        ended=ended,
    )
