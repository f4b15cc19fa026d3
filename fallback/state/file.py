"""One SQLite file that holds shared state: opening, reading, writing, and setting it aside where it is damaged.

Theory of operation: a row is a key, and its `revision` is SQLite's AUTOINCREMENT, so every write, a deletion too, moves
its key to the end of the file and "what is new" is a scan from the last revision seen. In WAL mode readers and the one
writer do not wait for each other. The file is opened, created and set aside under a lock file, so that no process takes
away what another one has just begun; the `store` table names the file's own identity, by which a process that comes
back notices that it is another one.

What may not live here: who wins a conflict (`ledger.settle`), retries, threads. A busy database raises Busy after
0.1 seconds at most; the caller comes again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from fallback.state.entry import TOMBSTONE_S, Entry, Merge, decoded_value, encoded_value
from fallback.state.ledger import Put, settle

if sys.platform != "win32":
    import fcntl

__all__ = [
    "Busy",
    "Damaged",
    "FileClaims",
    "StateFile",
    "Unfit",
    "Written",
    "is_busy",
    "is_damage",
    "open_file",
]

SCHEMA_VERSION = 1
APPLICATION_ID = 0x4C4C4653
"""Marks a SQLite file as one of these, in its header."""

MAX_SET_ASIDE = 5
"""Damaged files that are kept; the oldest goes first."""

_BUSY_S = 0.1
_BUSY_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_DAMAGE_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SUFFIXES = ("-wal", "-shm", "")
"""The files of one database. The main file goes last: without it, the others would be taken for leftovers."""

_SCHEMA = (
    "CREATE TABLE store (id TEXT NOT NULL)",
    """CREATE TABLE entries (
        revision INTEGER PRIMARY KEY AUTOINCREMENT,
        "key" TEXT NOT NULL UNIQUE,
        value TEXT,
        "by" TEXT NOT NULL,
        at REAL NOT NULL,
        origin TEXT NOT NULL
    )""",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
# Made with the first claim: files that were begun before there were claims do not have it.
_CLAIMS = (
    "CREATE TABLE IF NOT EXISTS claims (name TEXT PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL)"
)
_COLUMNS = 'revision, "key", value, "by", at, origin'


class Busy(Exception):  # noqa: N818 - not an error: come again
    """Another process holds a lock just now."""


class Damaged(Exception):  # noqa: N818 - named after what the file is
    """The file is no database any more, or not the one it says it is."""


class Unfit(Exception):  # noqa: N818 - named after what the file is
    """A good file of another program or of a newer version: to be left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What came of a write."""

    stored: Mapping[str, Entry]
    """What the file holds now for each key that was put."""
    others: Sequence[Entry]
    """What others have written since `since`, in the order of its revisions."""
    revision: int
    """The highest revision of the file."""


def is_busy(error: BaseException) -> bool:
    """Return whether `error` only says that another process holds a lock just now."""
    return isinstance(error, Busy) or _code(error) in _BUSY_CODES


def is_damage(error: BaseException) -> bool:
    """Return whether `error` says that the file is damaged."""
    return isinstance(error, Damaged) or _code(error) in _DAMAGE_CODES


def _code(error: BaseException) -> int:
    extended = getattr(error, "sqlite_errorcode", None)
    return extended & 0xFF if isinstance(extended, int) else -1


def open_file(path: Path, *, wall: Callable[[], float]) -> tuple[StateFile, Path | None]:
    """Open or create the file at `path`. Returns it, and where a damaged one was set aside.

    Raises OSError, sqlite3.Error, Busy, Unfit.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opening_lock(path):
        try:
            return StateFile(path), None
        except (sqlite3.Error, Damaged) as error:
            if not is_damage(error):
                raise
        aside = _set_aside(path, wall())
        return StateFile(path), aside


class StateFile:
    """One open connection, for one thread at a time. `identity` names the file for as long as it lives."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()  # a relative ":memory:" would be no file
        self._inode = _create(self._path)
        # The thread that forks closes the connection of the thread that watches.
        self._connection = sqlite3.connect(
            self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        self._connection.text_factory = lambda text: text.decode(errors="replace")
        try:
            self.identity = self._begin()
            self._version = -1
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def moved(self) -> bool:
        """Return whether another file, or none, stands under the name by now."""
        try:
            return _inode(self._path.stat()) != self._inode
        except FileNotFoundError:
            return True
        except OSError:
            return False  # the name cannot be looked at just now; the connection may be good all the same

    def news(self, since: int, *, anyway: bool = False) -> Sequence[Entry]:
        """Return the entries with a revision above `since`; nothing is read where nobody else has written.

        `anyway`: read them in any case. Raises sqlite3.Error.
        """
        version = self._number("PRAGMA data_version")
        if version == self._version and not anyway:
            return ()
        entries = self._since(since)
        self._version = version
        return entries

    def write(self, puts: Sequence[Put], *, merge: Merge, since: int, prune_at: float | None) -> Written:
        """Write `puts` in one transaction, each as `settle` decides. Raises sqlite3.Error.

        `prune_at` is Unix seconds where what is older than its keep is to be removed first.
        """
        stored: dict[str, Entry] = {}
        with self._transaction():
            if prune_at is not None:
                self._prune(prune_at)
            others = self._since(since)
            for put in puts:
                key = put.entry.key
                existing = self._standing(key)
                entry = settle(existing, put, merge)
                if entry is not None:
                    stored[key] = self._store(entry)
                elif existing is not None:
                    stored[key] = existing
            revision = self._number("SELECT coalesce(max(revision), 0) FROM entries")
        return Written(stored=stored, others=others, revision=revision)

    def claim(self, name: str, owner: str, *, now: float, until: float) -> bool:
        """Let `owner` have the claim `name` until `until` (Unix seconds); False where another one has it.

        Raises sqlite3.Error.
        """
        with self._transaction():
            self._connection.execute(_CLAIMS)
            # Far ahead it was put before the clock was set back.
            self._connection.execute(
                "DELETE FROM claims WHERE until <= ? OR until > ?", (now, now + 2 * (until - now))
            )
            self._connection.execute(
                "INSERT INTO claims VALUES (?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET until = excluded.until WHERE owner = excluded.owner",
                (name, owner, until),
            )
            (holder,) = self._connection.execute(
                "SELECT owner FROM claims WHERE name = ?", (name,)
            ).fetchone()
        return bool(holder == owner)

    def unclaim(self, name: str, owner: str) -> None:
        """Take the claim `name` from `owner`. Raises sqlite3.Error."""
        with self._transaction():
            self._connection.execute(_CLAIMS)
            self._connection.execute("DELETE FROM claims WHERE name = ? AND owner = ?", (name, owner))

    def _begin(self) -> str:
        tables = self._number("SELECT count(*) FROM sqlite_master")
        application = self._number("PRAGMA application_id")
        version = self._number("PRAGMA user_version")
        if tables and application != APPLICATION_ID:
            raise Unfit(f"{self._path.name} is a database of another program")
        if version > SCHEMA_VERSION:
            raise Unfit(f"{self._path.name} was written by a newer version of this program")
        (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise Damaged(str(verdict))
        self._connection.execute("PRAGMA journal_mode = WAL")
        # A crash of the machine may lose the last seconds; the file stays whole.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("PRAGMA journal_size_limit = 1048576")
        if not tables:
            with self._transaction():
                for statement in _SCHEMA:
                    self._connection.execute(statement)
                self._connection.execute("INSERT INTO store VALUES (?)", (secrets.token_hex(8),))
        try:
            self._connection.execute(f"SELECT {_COLUMNS} FROM entries LIMIT 0")  # noqa: S608 - constants
            row = self._connection.execute("SELECT id FROM store").fetchone()
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_ERROR:
                raise
            raise Damaged(str(error)) from error
        if (tables and version != SCHEMA_VERSION) or row is None:
            raise Damaged("not the tables it should hold")
        return str(row[0])

    def _prune(self, now: float) -> None:
        self._connection.execute("DELETE FROM entries WHERE value IS NULL AND at < ?", (now - TOMBSTONE_S,))

    def _since(self, revision: int) -> Sequence[Entry]:
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM entries WHERE revision > ? ORDER BY revision",  # noqa: S608 - constants
            (revision,),
        )
        return [entry for row in rows if (entry := _entry(row)) is not None]

    def _standing(self, key: str) -> Entry | None:
        row = self._connection.execute(
            f'SELECT {_COLUMNS} FROM entries WHERE "key" = ?',  # noqa: S608 - constants
            (key,),
        ).fetchone()
        return None if row is None else _entry(row)

    def _store(self, entry: Entry) -> Entry:
        cursor = self._connection.execute(
            'INSERT OR REPLACE INTO entries ("key", value, "by", at, origin) VALUES (?, ?, ?, ?, ?)',
            (entry.key, encoded_value(entry.value), entry.by, entry.at, entry.origin),
        )
        return replace(entry, revision=cursor.lastrowid or 0)

    def _number(self, statement: str) -> int:
        (number,) = self._connection.execute(statement).fetchone()
        return int(number)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        finally:
            # Some failures, a full disk for one, have rolled back already.
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")


class FileClaims:
    """The claims in a file, as `claims.Claims` asks for them. `wall` gives Unix seconds."""

    def __init__(self, file: StateFile, wall: Callable[[], float]) -> None:
        self._file = file
        self._wall = wall

    def take(self, name: str, owner: str, hold_s: float) -> bool:
        """Grant `name` to `owner` for `hold_s` seconds; False where another one has it. Raises sqlite3.Error."""
        now = self._wall()
        return self._file.claim(name, owner, now=now, until=now + hold_s)

    def keep(self, name: str, owner: str, hold_s: float) -> None:
        """Let `owner` have it for longer, where nobody else has it by now. Raises sqlite3.Error."""
        self.take(name, owner, hold_s)

    def free(self, name: str, owner: str) -> None:
        """Let everybody have `name`, where it is `owner` who has it. Raises sqlite3.Error."""
        self._file.unclaim(name, owner)


def _entry(row: Sequence[object]) -> Entry | None:
    """Return the entry of a row; None where something else than this program has written it."""
    match row:
        case (int(revision), str(key), str() | None as text, str(by), float(at), str(origin)):
            try:
                value = None if text is None else decoded_value(text)
            except ValueError:
                return None
            return Entry(key=key, value=value, by=by, at=at, revision=revision, origin=origin)
        case _:
            return None


def _create(path: Path) -> tuple[int, int]:
    """Make sure that there is a file, for this user and the group; return what tells it from others. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o660)
    except PermissionError:
        if not path.exists():
            raise
        status = path.stat()  # what cannot be written may still be read
    else:
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path.name} is not a file")
    return _inode(status)


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _set_aside(path: Path, now: float) -> Path:
    """Rename a damaged database under a free name and return that. Raises OSError."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{stamp}.{number}")
    for suffix in _SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    kept = [old for old in path.parent.glob(f"{path.name}.damaged-*") if not old.name.endswith(_SUFFIXES[:2])]
    for old in sorted(kept, key=lambda old: old.stat().st_mtime_ns)[:-MAX_SET_ASIDE]:
        for suffix in _SUFFIXES:
            if old != aside:
                Path(f"{old}{suffix}").unlink(missing_ok=True)
    return aside


@contextlib.contextmanager
def _opening_lock(path: Path) -> Iterator[None]:
    """Hold the right to open, create and set aside the file at `path`. Raises Busy at once where another one does.

    Where the lock file cannot be made nothing can be created or renamed either, so there it goes without; so it does on
    Windows, which refuses to rename an open file.
    """
    if sys.platform == "win32":
        yield
        return
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o660)
    except OSError:
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"{path.name} is being opened by another process") from error
        yield
    finally:
        # Closing is not enough: a child forked meanwhile would hold a copy of the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
