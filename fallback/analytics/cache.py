"""The DuckDB file beside the log: opened when it is needed, shared with other processes, made anew when it is damaged.

Theory of operation: DuckDB lets one process at a time have a file. So it is had for a short while only: it is opened with the
first use, shared by all threads of this process, and closed half a second after the last use, or as soon as nobody uses it while
another process waits. Who waits holds the lock of a queue (an empty file beside the cache) until it has the cache, and who
wants it again has to go through the same queue, so that two busy processes take turns. The first reading of a long log is cut into
transactions of some seconds, and the cache is let go between them; whoever has it then reads the log on from where the other
one stopped.

The cache can be lost at any time. A file that is gone is made anew, one that is damaged or of another version is deleted
first; whoever uses the cache is told that it is new, and fills it. One that another program does not let go of, or that cannot be
written, is given up for a private one in a temporary folder.

DuckDB is kept from the network, from other files and from loading extensions.

What may not live here: what is in the tables.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import duckdb
from duckdb import DuckDBPyConnection

from fallback.analytics import tables

if sys.platform != "win32":
    import fcntl

__all__ = ["Cache", "CacheError"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

_LINGER_S = 0.5
"""How long the file is kept open after its last use."""
_WAIT_S = 15.0
"""How long another process is waited for; it lets go every few seconds even in the first reading of a long log."""
_POLL_S = 0.01
_MEMORY = "256MB"
"""For DuckDB's own buffers; what does not fit goes to the temporary folder."""
_MOST_THREADS = 4
_LOCKED = "lock"
"""What DuckDB's error says where another process has the file."""


class CacheError(Exception):
    """Not even a private cache can be had: the temporary folder cannot be written either."""


class _BusyError(Exception):
    """Another process has the file."""


class Cache:
    """The cache at `path`. Safe for threads. `wait_s` is how long another process is waited for."""

    def __init__(self, path: Path, *, wait_s: float = _WAIT_S, linger_s: float = _LINGER_S) -> None:
        self.warning: str | None = None
        """Why a private cache is used; None: the one at `path` is."""
        self.opening = 0
        """How many times the file has been opened."""
        self.created = 0
        """How many times it was empty then, and its tables were made."""
        self._path = path
        self._wait_s = wait_s
        self._linger_s = linger_s
        self._private: tempfile.TemporaryDirectory[str] | None = None
        self._state = threading.Condition()
        self._connection: DuckDBPyConnection | None = None
        self._identity: tuple[int, int] | None = None
        self._users = 0
        self._used_at = 0.0
        self._closer: threading.Timer | None = None
        self._own = threading.local()
        self._closed = False

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the cache open while the block runs. Raises CacheError where none can be had."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def run(self, work: Callable[[DuckDBPyConnection], T]) -> T:
        """Return what `work` makes of a connection of its own; called again with a new cache where this one is damaged.

        Raises CacheError where no cache can be had, and what `work` raises that is no damage.
        """
        for last in (False, True):
            with self.hold():
                with self._state:
                    opening, connection = self.opening, self._connection
                failure: duckdb.Error
                try:
                    if connection is not None:
                        return self._run(connection, work)
                    continue  # another thread threw it away
                except duckdb.ProgrammingError:
                    raise
                except duckdb.Error as error:
                    failure = error
                self._recover(failure, opening, again=last)
        try:
            with self.hold():
                assert self._connection is not None  # noqa: S101  # opened
                return self._run(self._connection, work)
        except duckdb.Error as error:
            raise CacheError(f"no cache for the analytics can be used: {_first_line(error)}") from error

    @staticmethod
    def _run(connection: DuckDBPyConnection, work: Callable[[DuckDBPyConnection], T]) -> T:
        cursor = connection.cursor()
        try:
            return work(cursor)
        finally:
            # After damage nothing about a connection need work, and closing it is no news.
            with contextlib.suppress(duckdb.Error):
                cursor.close()

    def _recover(self, error: duckdb.Error, opening: int, *, again: bool) -> None:
        """Throw the cache away that was opened as number `opening`; the next use makes a new one, `again` a private one."""
        with self._state:
            if opening != self.opening:
                return  # done by another thread
            self._close()
            if again and self._private is None:
                self._go_private(f"it cannot be used ({_first_line(error)})")
            else:
                logger.warning("%s is made anew: %s", self._place(), _first_line(error))
                self._discard()

    def close(self) -> None:
        """Let go of the cache for good."""
        with self._state:
            self._closed = True
            if self._closer is not None:
                self._closer.cancel()
            self._close()
            if self._private is not None:
                self._private.cleanup()
                self._private = None

    def _enter(self) -> None:
        depth = getattr(self._own, "depth", 0)
        with self._state:
            if self._closed:
                raise CacheError("the cache has been closed")
            if depth == 0:
                # Who waits comes first; those of our own who are at it finish what they do.
                while self._connection is not None and self._users and self._is_wanted():
                    self._state.wait(_POLL_S)
                if (
                    self._connection is not None
                    and not self._users
                    and (self._is_wanted() or self._is_lost())
                ):
                    self._close()
            if self._connection is None:
                self._open()
            self._users += 1
            self._own.depth = depth + 1

    def _leave(self) -> None:
        with self._state:
            self._own.depth -= 1
            self._users -= 1
            self._used_at = time.monotonic()
            if self._users == 0:
                if self._is_wanted():
                    self._close()
                elif self._closer is None and self._connection is not None:
                    self._arm(self._linger_s)
            self._state.notify_all()

    def _arm(self, delay_s: float) -> None:
        self._closer = threading.Timer(delay_s, self._close_idle)
        self._closer.daemon = True
        self._closer.name = "fallback-analytics-cache"
        self._closer.start()

    def _close_idle(self) -> None:
        with self._state:
            self._closer = None
            if self._closed or self._connection is None or self._users:
                return
            left_s = self._used_at + self._linger_s - time.monotonic()
            if left_s > 0 and not self._is_wanted():
                self._arm(min(left_s, self._linger_s))
            else:
                self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(duckdb.Error):
                connection.close()

    def _open(self) -> None:
        """Open the cache, or make one, here or in a temporary folder. Raises CacheError."""
        if self._private is None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._wait_for_turn()
            except _BusyError:
                self._go_private("another program does not let go of it")
            except (OSError, duckdb.Error) as error:
                self._go_private(f"it cannot be written ({_first_line(error)})")
            else:
                return
        try:
            self._connect()
        except (OSError, duckdb.Error, _BusyError) as error:
            raise CacheError(f"no cache for the analytics can be made: {_first_line(error)}") from error

    def _wait_for_turn(self) -> None:
        """Connect when the file is free. Raises _BusyError, OSError, duckdb.Error."""
        until = time.monotonic() + self._wait_s
        with _queue(self._queue_path()) as queue:
            while True:
                if queue.entered():
                    with contextlib.suppress(_BusyError):
                        self._connect()
                        return
                if time.monotonic() >= until:
                    raise _BusyError
                time.sleep(_POLL_S)

    def _connect(self) -> None:
        """Connect to the file, made anew where it is no cache of ours. Raises _BusyError, OSError, duckdb.Error."""
        for last in (False, True):
            try:
                connection = _connected(self._place())
                try:
                    self.created += _prepare(connection)
                except duckdb.Error:
                    connection.close()
                    raise
            except duckdb.Error as error:
                if isinstance(error, duckdb.IOException) and _LOCKED in str(error):
                    raise _BusyError from error
                if last or not self._place().exists():
                    raise
                logger.warning("%s is made anew: %s", self._place(), _first_line(error))
                self._discard()
            else:
                status = self._place().stat()
                self._identity = (status.st_dev, status.st_ino)
                self._connection = connection
                self.opening += 1
                return

    def _place(self) -> Path:
        return Path(self._private.name, "analytics.duckdb") if self._private is not None else self._path

    def _queue_path(self) -> Path:
        return self._path.with_name(self._path.name + ".lock")

    def _discard(self) -> None:
        for path in (self._place(), self._place().with_name(self._place().name + ".wal")):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _go_private(self, reason: str) -> None:
        """Raise CacheError where there is no temporary folder."""
        try:
            self._private = tempfile.TemporaryDirectory(
                prefix="fallback-analytics-", ignore_cleanup_errors=True
            )
        except OSError as error:
            raise CacheError(f"no cache for the analytics can be made: {_first_line(error)}") from error
        self.warning = (
            f"{self._path.name} is not used, because {reason}; "
            "the log is read into a temporary file, anew at every start"
        )
        logger.warning("%s", self.warning)

    def _is_wanted(self) -> bool:
        """Whether another process waits for the file."""
        if self._private is not None:
            return False
        with contextlib.suppress(OSError), _queue(self._queue_path()) as queue:
            return not queue.entered()
        return False

    def _is_lost(self) -> bool:
        """Whether the open file is not the one any more that stands under its name."""
        try:
            status = self._place().stat()
        except OSError:
            return True
        return (status.st_dev, status.st_ino) != self._identity


class _Queue:
    """The lock in which those stand who wait for the file."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def entered(self) -> bool:
        """Whether it is our turn."""
        if self._descriptor is None or sys.platform == "win32":
            return True
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextlib.contextmanager
def _queue(path: Path) -> Iterator[_Queue]:
    """Stand in the queue at `path`, until the block ends. Raises OSError where the file cannot be made."""
    if sys.platform == "win32":
        yield _Queue(None)
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        yield _Queue(descriptor)
    finally:
        # Closing is not enough: a child forked meanwhile holds a copy of the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _connected(path: Path) -> DuckDBPyConnection:
    return duckdb.connect(
        path,
        config={
            "threads": str(min(os.cpu_count() or 1, _MOST_THREADS)),
            "memory_limit": _MEMORY,
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            # Rows may lie in any order, and are put in by several threads for it.
            "preserve_insertion_order": "false",
            "lock_configuration": "true",
        },
    )


def _prepare(connection: DuckDBPyConnection) -> bool:
    """Make the tables of a new cache; say whether it was one. Raises duckdb.Error where the file is of another version."""
    # A result that is not fetched to its end keeps a connection busy, so all of it is fetched.
    [(found,)] = connection.execute("SELECT count(*) FROM duckdb_tables() WHERE NOT temporary").fetchall()
    if not found:
        connection.begin()
        tables.create(connection)
        connection.commit()
        return True
    if connection.execute("SELECT version FROM cache_of_usage_log").fetchall() != [(tables.VERSION,)]:
        raise duckdb.CatalogException("it was made by another version")
    return False


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
