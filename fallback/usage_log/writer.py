"""The writing end of usage.log.

Theory of operation: a line, or several that come together, is one `os.write` on a descriptor opened with O_APPEND, which
the kernel puts at the end of the file undivided, so threads and processes need no common lock to write. About once a second a
writer looks whether its file still stands under its name, and follows where another process rotated it or somebody deleted it;
a line that is written to the renamed file meanwhile is as good, because renamed files are read as well. Renaming alone needs the lock
between processes, and a writer that does not get it goes on writing and tries again.

A short write (a full disk) leaves a torn line. The writer then puts a newline before its next line, and so does any
writer that finds a file without one at its end, so a torn line spoils no other.

What may not live here: anything that raises towards the caller. A log that cannot be written is counted and shown.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from fallback.usage_log.encode import as_text, encode_line, format_ts
from fallback.usage_log.files import CURRENT_NAME, day_of_first_line, free_name, rotation_lock

__all__ = ["UsageLog"]

logger = logging.getLogger(__name__)

_FOLLOW_S = 1.0
"""How often the file behind the name is looked at."""
_REOPEN_S = 1.0
"""The pause between two attempts at opening a file that cannot be opened."""
_ROTATE_RETRY_S = 0.1
"""The pause after a rotation that another process prevented."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Failures after which the descriptor is as good as before."""
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)


class UsageLog:
    """Appends lines to `folder/usage.log`, from any number of threads and processes at once.

    `rotate_bytes` is the size at which the file is renamed, which also happens at the end of its day (UTC). `instance`
    names this process in every line. `wall` gives Unix seconds for the stamps, `monotonic` seconds for the pauses.
    Nothing here raises: see `failures` and `last_error`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rotate_bytes: int = 64 * 1024 * 1024,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        instance: str | None = None,
    ) -> None:
        self.folder = folder
        self.path = folder / CURRENT_NAME
        self.lines_written = 0
        """Lines that reached the file, of this object."""
        self.failures = 0
        """Lines that did not, of this object."""
        self.last_error: str | None = None
        """Why the last failed line failed; stays after the log works again."""
        self._rotate_bytes = rotate_bytes
        self._wall = wall
        self._monotonic = monotonic
        self._instance = instance
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._identity: tuple[int, int] = (0, 0)
        self._size = 0
        self._day: str | None = None
        """The day of the file's first line; None: no such day, and no rotation (a device, say)."""
        self._torn = False
        self._follow_at = 0.0
        self._reopen_at = 0.0
        self._rotate_at = 0.0
        self._lost_in_outage = 0
        self._rotation_broken = False
        _renew_after_fork(self)

    def append(self, *lines: Mapping[str, object]) -> bool:
        """Stamp the lines and append them together; True when they are in the file, False when one was counted as failed."""
        messages: list[str] = []
        try:
            ts = format_ts(self._wall())
            encoded = [encode_line(line, ts=ts, instance=self._instance) for line in lines]
            with self._lock:
                written = self._append(encoded, ts[:10], messages)
        # The boundary of the log writer: whatever a caller's objects, clock or disk do, the request goes on.
        except Exception as error:  # noqa: BLE001
            written = False
            with self._lock:
                self._count_failures(len(lines), f"{type(error).__name__}: {as_text(error)}", messages)
        for message in messages:
            logger.warning("%s", message)
        return written

    def close(self) -> None:
        """Close the file. A later append opens it again."""
        with self._lock:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, encoded: list[bytes], today: str, messages: list[str]) -> bool:
        now = self._monotonic()
        due = self.lines_written + len(encoded)
        try:
            descriptor = self._ready(now, today, messages)
            if descriptor is None:
                self.failures += len(encoded)
                self._lost_in_outage += len(encoded)
                return False
            self._write_all(descriptor, encoded)
        except OSError as error:
            if self._descriptor is None or error.errno not in _FULL:
                self._release()
                self._reopen_at = now + _REOPEN_S
            lost = due - self.lines_written
            if lost:  # else only the newline of the last one is missing, which the next line brings
                self._count_failures(lost, _describe(error), messages)
            return not lost
        if self._lost_in_outage:
            messages.append(f"{self.path} is written again; lines lost meanwhile: {self._lost_in_outage}")
            self._lost_in_outage = 0
        return True

    def _count_failures(self, lines: int, reason: str, messages: list[str]) -> None:
        self.failures += lines
        self.last_error = reason
        if not self._lost_in_outage:
            messages.append(f"{self.path} cannot be written ({reason}); requests go on, their lines are lost")
        self._lost_in_outage += lines

    def _ready(self, now: float, today: str, messages: list[str]) -> int | None:
        """Give the descriptor of the right file; None where it is too early to try again. Raises OSError."""
        if self._descriptor is not None and now >= self._follow_at:
            self._follow(now)
        if self._descriptor is None:
            if now < self._reopen_at:
                return None
            self._open(now, today)
        due = (
            self._size > 0
            and self._day is not None
            and (self._size >= self._rotate_bytes or self._day < today)
        )
        if due and now >= self._rotate_at:
            self._rotate(now, today, messages)
        return self._descriptor

    def _open(self, now: float, today: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Readable by the group, for a dashboard under another user; not by everybody, for lines may hold prompts.
        descriptor = os.open(self.path, _FLAGS, 0o640)
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        self._identity = (status.st_dev, status.st_ino)
        self._size = status.st_size
        self._follow_at = now + _FOLLOW_S
        self._torn = False
        self._day = None
        if stat.S_ISREG(status.st_mode):
            self._torn = self._ends_torn(descriptor)
            self._day = self._first_day(descriptor, status) if status.st_size else today

    def _release(self) -> None:
        # Forgotten first, so that a child forked in between does not close a number that means something else by then.
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _follow(self, now: float) -> None:
        """Let go of a file that stands under its name no longer; learn what others have added to it."""
        self._follow_at = now + _FOLLOW_S
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._release()
            return
        except OSError:
            return  # the name cannot be looked at just now; the descriptor may be good all the same
        if (status.st_dev, status.st_ino) != self._identity:
            self._release()
            return
        self._size = status.st_size
        if self._day is not None and self._descriptor is not None:
            self._torn = self._torn or self._ends_torn(self._descriptor)

    def _rotate(self, now: float, today: str, messages: list[str]) -> None:
        """Rename the full file and begin the next; stay with the old one where that does not work."""
        self._rotate_at = now + _ROTATE_RETRY_S
        try:
            with rotation_lock(self.folder) as held:
                if not held:
                    return
                status = self.path.stat()
                if self._descriptor is not None and (status.st_dev, status.st_ino) == self._identity:
                    # Read anew: the file may have been empty when it was opened, and begun by another process since.
                    day = self._first_day(self._descriptor, status)
                    if status.st_size >= self._rotate_bytes or day < today:
                        self.path.rename(free_name(self.folder, day))
        except FileNotFoundError:
            pass  # deleted, or renamed by a process without this lock: opening makes a new one
        except OSError as error:
            self._rotate_at = now + _REOPEN_S
            if not self._rotation_broken:
                messages.append(f"{self.path} cannot be rotated ({_describe(error)}); it goes on growing")
            self._rotation_broken = True
            return
        self._release()
        self._open(now, today)
        self._rotation_broken = False
        self._rotate_at = 0.0

    def _write_all(self, descriptor: int, encoded: list[bytes]) -> None:
        whole = 0
        if len(encoded) > 1 and not self._torn:
            together = b"".join(encoded)
            written = os.write(descriptor, together)
            self._size += written
            if written == len(together):
                self.lines_written += len(encoded)
                return
            # A full disk: perhaps the first ones, and a part of the next.
            while whole < len(encoded) and written >= len(encoded[whole]) - 1:
                written -= len(encoded[whole])
                whole += 1
            self.lines_written += whole
            self._torn = written != 0  # at -1 only the newline is missing
            if self._torn and whole == len(encoded):
                self._size += os.write(descriptor, b"\n")
                self._torn = False
        for line in encoded[whole:]:
            self._write(descriptor, line)
            self.lines_written += 1

    def _write(self, descriptor: int, encoded: bytes) -> None:
        payload = b"\n" + encoded if self._torn else encoded
        written = os.write(descriptor, payload)
        self._size += written
        self._torn = False
        if written == len(payload):
            return
        # The rest alone might land behind another process's line. Ending the torn line and writing the whole one anew
        # is right wherever it lands.
        self._torn = True
        again = b"\n" if written == len(payload) - 1 else b"\n" + encoded
        written = os.write(descriptor, again)
        self._size += written
        if written < len(again):
            raise OSError(errno.ENOSPC, "only part of a line could be written")
        self._torn = False

    @staticmethod
    def _ends_torn(descriptor: int) -> bool:
        try:
            os.lseek(descriptor, -1, os.SEEK_END)
        except OSError:
            return False  # empty
        # Another process may be in the middle of its line: then a blank line comes about, which readers skip.
        return os.read(descriptor, 1) not in {b"\n", b""}

    @staticmethod
    def _first_day(descriptor: int, status: os.stat_result) -> str:
        os.lseek(descriptor, 0, os.SEEK_SET)
        day = day_of_first_line(os.read(descriptor, 256))
        return day or datetime.fromtimestamp(status.st_mtime, UTC).date().isoformat()

    def _renew(self) -> None:
        """In a child of fork(): another thread of the parent may have held the lock, and nobody would release it."""
        self._lock = threading.Lock()
        self._release()


def _renew_after_fork(log: UsageLog) -> None:
    if not hasattr(os, "register_at_fork"):
        return
    reference = weakref.ref(log)

    def renew() -> None:
        alive = reference()
        if alive is not None:
            alive._renew()

    os.register_at_fork(after_in_child=renew)


def _describe(error: OSError) -> str:
    return f"{errno.errorcode.get(error.errno or 0, type(error).__name__)}: {error.strerror or error}"
