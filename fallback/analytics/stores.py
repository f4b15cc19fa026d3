"""Files of logs in object stores and on web servers (s3://, gs://, az://, https://, ...), through fsspec.

Theory of operation: a store is asked what it holds by a thread of its own, every few seconds at most, so that one that does not answer
holds nobody up for longer than the first time; what it said last is what counts until it says something else. A file is known by its
address. Whether it has changed is told by its size and whatever the store gives as a mark of its version (ETag, time of change); then
only its new bytes are read, in ranges. Credentials are those that the store's own library finds in the environment.

The libraries raise whatever they like, and the words of their errors hold addresses with signatures in them; so all they raise becomes an
OSError with words of ours.

What may not live here: what stands in the lines, and the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from fallback.analytics.sources import RUN_BYTES, Listing, LogFile, MovedError, Readable
from fallback.usage_log.files import CURRENT_NAME, is_log_name

__all__ = ["Store"]

T = TypeVar("T")

DEVICE = 2**64 - 1
"""Of all files in stores, in the place of a device number that no local file has."""
FIRST_WAIT_S = 10.0
"""How long a store may take to answer when it is asked for the first time."""
WAIT_S = 1.0
EVERY_S = 5.0
AGAIN_S = 30.0
"""After a failure."""
GIVE_UP_S = 120.0
"""After so long it is asked anew, whatever became of the asking before."""
READ_WITHIN_S = 60.0
"""For one range of at most RUN_BYTES."""
MOST_FILES = 10_000
LOG_SUFFIX = ".log"
_AHEAD_BYTES = 65_536
"""What asks for more reads a whole range, for it will go on behind it."""
_VERSIONS = (
    *("ETag", "etag", "e_tag", "generation", "md5Hash", "content_md5", "Content-MD5"),
    *("LastModified", "last_modified", "Last-Modified", "mtime", "updated", "created"),
)
"""What stores call the mark of a version."""
_NOT_THERE = "it is not there"
_PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs",
}  # fmt: skip


class Store:
    """One address: of a folder, of a file (`.log`), or a pattern for either. Safe for threads."""

    def __init__(self, url: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self._shown = _without_query(url)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._due = 0.0
        self._asked_at = 0.0
        self._fs: Any = None
        self._paths: dict[tuple[int, int], str] = {}
        self._found: Listing | None = None
        self._problem: str | None = None

    def begin_to_look(self) -> None:
        """Begin to ask what it holds, if that is due."""
        with self._lock:
            now = self._monotonic()
            stuck = self._thread is not None and now - self._asked_at >= GIVE_UP_S
            if (self._thread is None and now >= self._due) or stuck:
                self._asked_at = now
                self._thread = threading.Thread(target=self._look, name="fallback-store", daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Wait for the answer for a while: longer where there has been none yet."""
        with self._lock:
            thread, known = self._thread, self._found is not None or self._problem is not None
        if thread is not None:
            thread.join(WAIT_S if known else FIRST_WAIT_S)
            with self._lock:
                if self._thread is thread and self._monotonic() - self._asked_at >= FIRST_WAIT_S / 2:
                    self._problem = "it does not answer"

    def listing(self) -> Listing:
        """Return what it said last; where it has said nothing, or nothing of late, why."""
        with self._lock:
            found, problem = self._found, self._problem
        if found is None or problem is not None:
            told = f"{self._shown} cannot be read: {problem or 'it does not answer'}"
            begin = self._shown[: _magic_at(self._shown)]
            return Listing(files=() if found is None else found.files, problem=told, unread=(begin,))
        return found

    def holds(self, file: LogFile) -> bool:
        """Whether the file is one of this store."""
        return file.identity in self._paths

    @contextlib.contextmanager
    def opened(self, file: LogFile) -> Iterator[Readable]:
        """Open a file. Raises MovedError where the store holds it no longer; reading OSError where it does not give it."""
        path = self._paths.get(file.identity)  # the store may have been asked anew meanwhile
        if path is None:
            raise MovedError(file.name)
        yield _Ranges(self._fs, path, file.size)

    def _look(self) -> None:
        problem: str | None = None
        found: list[tuple[str, LogFile]] = []
        try:
            found = list(self._files())
        # The boundary to the libraries of the stores: they have no exception in common, and a page must not break.
        except Exception as error:  # noqa: BLE001
            found.clear()
            problem = _reason(error, self.url)
            if problem == _NOT_THERE:
                problem = None
        with self._lock:
            if self._thread is not threading.current_thread():
                return  # given up
            self._thread = None
            self._problem = problem
            self._due = self._monotonic() + (AGAIN_S if problem else EVERY_S)
            if problem is None:
                self._paths = {file.identity: path for path, file in found}
                empty = None if found else f"{self._shown}: there is no log"
                self._found = Listing(files=tuple(file for _, file in found), problem=empty)

    def _files(self) -> Iterator[tuple[str, LogFile]]:
        """Give the paths and files, oldest first."""
        self._fs, path = _opened(self.url)
        self._fs.invalidate_cache()
        entries = sorted(self._entries(path), key=lambda entry: _order(str(entry["name"])))
        for entry in entries[:MOST_FILES]:
            name = str(entry["name"])
            size = entry.get("size")
            if size is None:
                # An index page of a web server tells names alone.
                entry = self._fs.info(name)  # noqa: PLW2901
                size = entry.get("size")
            if not isinstance(size, int) or size < 0:
                raise OSError("it does not tell the size of a file")
            yield name, self._file(name, size, entry)

    def _entries(self, path: str) -> Iterator[Mapping[str, Any]]:
        if _magic_at(path) is not None:
            for name, entry in self._fs.glob(path, detail=True).items():
                if entry.get("type") == "directory":
                    yield from self._log_files(name)
                elif str(name).endswith(LOG_SUFFIX):
                    yield entry
        elif path.partition("?")[0].endswith(LOG_SUFFIX):
            yield self._fs.info(path)
        else:
            yield from self._log_files(path)

    def _log_files(self, folder: str) -> Iterator[Mapping[str, Any]]:
        for entry in self._fs.ls(folder, detail=True):
            if entry.get("type") == "file" and is_log_name(_last(str(entry["name"]))):
                yield entry

    def _file(self, path: str, size: int, entry: Mapping[str, Any]) -> LogFile:
        whole = str(self._fs.unstrip_protocol(path))
        version = [str(entry[name]) for name in _VERSIONS if entry.get(name) is not None]
        # Begins as the address does (s3a://, az://), for that is all that is known of a store which does not answer.
        shown = f"{self.url.partition('://')[0]}://{whole.partition('://')[2]}"
        return LogFile(
            name=_without_query(shown),
            device=DEVICE,
            inode=_number(whole),
            size=size,
            modified_ns=_number(repr(version)) >> 1,
            ended=_last(path) != CURRENT_NAME,
        )


class _Ranges:
    """A file of a store, read in ranges up to the size that it had. What was read last is kept, to be looked at again."""

    def __init__(self, fs: Any, path: str, size: int) -> None:
        self._fs = fs
        self._path = path
        self._size = size
        self._place = 0
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=2)

    def seek(self, offset: int, /) -> int:
        """Go to `offset`, in bytes from the beginning."""
        self._place = offset
        return offset

    def read(self, count: int, /) -> bytes:
        """Return up to `count` bytes; fewer at the end. Raises OSError."""
        count = min(count, self._size - self._place)
        if count <= 0:
            return b""
        for begin, block in self._kept:
            at = self._place - begin
            if 0 <= at < len(block) and (at + count <= len(block) or count > _AHEAD_BYTES):
                return self._moved(block[at : at + count])
        wanted = count if count < _AHEAD_BYTES else max(count, RUN_BYTES)
        end = min(self._place + wanted, self._size)
        block = self._range(self._place, end)
        if len(block) >= _AHEAD_BYTES:
            self._kept.append((self._place, block))
        return self._moved(block[:count])

    def _moved(self, read: bytes) -> bytes:
        self._place += len(read)
        return read

    def _range(self, begin: int, end: int) -> bytes:
        try:
            found = _within(lambda: bytes(self._fs.cat_file(self._path, start=begin, end=end)), READ_WITHIN_S)
        # As in Store._look.
        except Exception as error:  # noqa: BLE001
            raise OSError(_reason(error, self._path)) from None
        if len(found) > end - begin:
            raise OSError("the server gives no parts of a file (Range)")
        return found


def _opened(url: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path there. Raises whatever the library raises."""
    if importlib.util.find_spec("fsspec") is None:
        raise ModuleNotFoundError("fsspec", name="fsspec")
    # Here, because nobody needs it who reads folders alone.
    from fsspec.core import url_to_fs

    protocol = url.partition("://")[0].lower()
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol in {"http", "https"}:
        from aiohttp import ClientTimeout

        options["client_kwargs"] = {
            # A range of compressed bytes would be of no use.
            "headers": {"accept-encoding": "identity"},
            "timeout": ClientTimeout(total=READ_WITHIN_S, sock_connect=FIRST_WAIT_S),
        }
    elif protocol in {"s3", "s3a"}:
        options["config_kwargs"] = {
            "connect_timeout": FIRST_WAIT_S,
            "read_timeout": READ_WITHIN_S,
            "retries": {"max_attempts": 2},
        }
    fs, path = url_to_fs(url, **options)
    return fs, str(path)


def _within(work: Callable[[], T], limit_s: float) -> T:
    """Return what `work` returns, or raise TimeoutError: not every library knows limits."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - handed on
            errors.append(error)

    thread = threading.Thread(target=run, name="fallback-store-read", daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]


def _reason(error: Exception, url: str) -> str:
    """Say what went wrong without the library's own words."""
    protocol = url.partition("://")[0].lower()
    if protocol in {"http", "https"} and isinstance(error, FileNotFoundError):
        # Of a web server everything that goes wrong with a file is told so, a server that is away too.
        cause = error.__cause__
        error = cause if isinstance(cause, Exception) else error
    status = getattr(error, "status", None)
    match error:
        case ImportError():
            package = error.name if error.name == "fsspec" else _PACKAGES.get(protocol, "for it")
            return f"it needs the package {package}: pip install {package}"
        case ValueError() if "rotocol" in str(error):
            return f"no kind of store is called {protocol}"
        case FileNotFoundError():
            return _NOT_THERE
        case PermissionError():
            return "access is denied"
        case TimeoutError():
            return "it does not answer"
        case _ if isinstance(status, int):
            return _NOT_THERE if status == 404 else f"HTTP {status}"
        case OSError() if error.strerror:
            return error.strerror
        case OSError() if type(error) is OSError and error.args and len(str(error)) < 80:
            return str(error)
        case _:
            return type(error).__name__


def _magic_at(url: str) -> int | None:
    """Return where a pattern begins in an address; None: it is none. On a web server a question mark begins a query."""
    web = url.lower().startswith(("http://", "https://"))
    found = re.search(r"[*\[]" if web else r"[*?\[]", _without_query(url))
    return None if found is None else found.start()


def _order(name: str) -> tuple[str, Sequence[object]]:
    """Return a key that puts the files of a folder in their order, oldest first."""
    folder, _, last = name.rpartition("/")
    numbers = [int(part) if part.isdigit() else 0 for part in re.split(r"[-.]", last)]
    return folder, (last == CURRENT_NAME, numbers, last)


def _last(path: str) -> str:
    return path.partition("?")[0].rstrip("/").rpartition("/")[2]


def _without_query(url: str) -> str:
    return url.partition("?")[0] if url.lower().startswith(("http://", "https://")) else url


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest())
