"""The files of a usage log: their names, their order, and the lock under which one is renamed.

`usage.log` is the one being written. When it is full, or its day (UTC) is over, it becomes `usage-2026-11-22.log`; further
ones of the same day become `usage-2026-11-22.2.log`, `.3.log` and so on. The day is that of the file's first line.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

__all__ = ["CURRENT_NAME", "day_of_first_line", "free_name", "is_log_name", "rotated_files", "rotation_lock"]

CURRENT_NAME = "usage.log"
_LOCK_NAME = "usage.log.lock"
_ROTATED = re.compile(r"usage-(\d{4}-\d{2}-\d{2})(?:\.(\d{1,9}))?\.log")
_FIRST_LINE = re.compile(rb'(?:\{"schema":\d+,"ts":")?(\d{4}-\d{2}-\d{2})[T ]\d')


def rotated_files(folder: Path) -> list[Path]:
    """List the rotated files of `folder`, oldest first; none where there is no folder.

    Raises OSError where the folder cannot be listed.
    """
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    found = [(match[1], int(match[2] or 1), name) for name in names if (match := _ROTATED.fullmatch(name))]
    return [folder / name for _, _, name in sorted(found)]


def is_log_name(name: str) -> bool:
    """Tell whether a file of that name is one of a log, rotated or not."""
    return name == CURRENT_NAME or _ROTATED.fullmatch(name) is not None


def free_name(folder: Path, day: str) -> Path:
    """Give the first name for a rotated file of `day` that comes after all that exist. Call it under the lock."""
    numbers = [
        int(match[2] or 1)
        for path in folder.iterdir()
        if (match := _ROTATED.fullmatch(path.name)) and match[1] == day
    ]
    number = max(numbers, default=0) + 1
    return folder / (f"usage-{day}.log" if number == 1 else f"usage-{day}.{number}.log")


def day_of_first_line(start: bytes) -> str | None:
    """Tell the day, `2026-11-22`, on which a file that starts so was begun; None where it does not say."""
    match = _FIRST_LINE.match(start)
    return match[1].decode() if match else None


@contextlib.contextmanager
def rotation_lock(folder: Path) -> Iterator[bool]:
    """Hold the right to rename files of `folder`; gives False at once where another process holds it.

    Raises OSError where the lock file cannot be made. On Windows, which refuses to rename an open file, always False.
    """
    if sys.platform == "win32":
        yield False
        return
    descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            # Closing is not enough: a child forked meanwhile holds a copy of the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
