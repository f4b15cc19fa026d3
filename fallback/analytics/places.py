"""The places that a log is read from: one folder, or any number of folders, files, patterns and addresses in stores.

Theory of operation: every place gives the files that it holds, and a file that two of them give (named twice, by a link, by a pattern
that meets another) is one, because it is known by its identity and not by its name. Rotation is told apart from loss folder by folder, so a
pattern is taken as one for folders, and for names within them. A place that cannot be read says so, and its files of before are
kept: only what is known to be gone is taken back.

What may not live here: what stands in the lines, how one folder is listed (sources), how a store is asked (stores).
"""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from fallback.analytics.sources import Listing, LogFile, Readable, listing, look, opened
from fallback.analytics.stores import Store
from fallback.usage_log.files import CURRENT_NAME

__all__ = ["Places"]

LOG_SUFFIX = ".log"
"""What files end with that a pattern finds: it may well meet the cache, and the state."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MAGIC = re.compile(r"[*?\[]")
MOST_TOLD = 3


class Places:
    """The files of the log in `folder`; with `named`, those of all places named, and of the folder only where it is one.

    A place is a folder, a file, a pattern (`/logs/*`, `/logs/**`), or the address of one of these in a store. For several threads,
    except that the cache has to be had for `listing` and `opened`.
    """

    def __init__(
        self, folder: Path, named: Sequence[str] = (), *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._local = [place for place in named if not _URL.match(place)]
        self._stores = [Store(place, monotonic=monotonic) for place in named if _URL.match(place)]
        self._order = [
            next(store for store in self._stores if store.url == place) if _URL.match(place) else place
            for place in named
        ]

    @property
    def cache_name(self) -> str:
        """The name of the cache: another one for other places, so that two programs do not undo each other's reading."""
        if not self._order:
            return "analytics.duckdb"
        named = sorted({place if isinstance(place, str) else place.url for place in self._order})
        return f"analytics-{hashlib.blake2b(repr(named).encode(), digest_size=6).hexdigest()}.duckdb"

    @property
    def told(self) -> str:
        """What it is called in a message."""
        return self._folder.name if not self._order else "the places that USAGE_LOGS names"

    def look(self) -> None:
        """Ask the stores what they hold, where that is due. Takes seconds where one does not answer, so the cache should be free."""
        for store in self._stores:
            store.begin_to_look()
        for store in self._stores:
            store.wait()

    def listing(self) -> Listing:
        """Return the files, oldest first within each place. Raises OSError where there is one folder and it cannot be listed."""
        if not self._order:
            return listing(self._folder)
        files: dict[tuple[int, int], LogFile] = {}
        problems: list[str] = []
        unread: list[str] = []
        for place in self._order:
            found = _local_listing(place) if isinstance(place, str) else place.listing()
            for file in found.files:
                files.setdefault(file.identity, file)
            problems += [found.problem] if found.problem else []
            unread += found.unread
        return Listing(files=tuple(files.values()), problem=_joined(problems), unread=tuple(unread))

    def opened(self, file: LogFile) -> AbstractContextManager[Readable]:
        """Open `file`. Raises MovedError where another one stands under its name by now, OSError where it cannot be read."""
        for store in self._stores:
            if store.holds(file):
                return store.opened(file)
        return opened(self._folder, file)


def _local_listing(place: str) -> Listing:
    """Return what a folder, a file or a pattern gives; names are whole paths."""
    try:
        parts = list(_expanded(place))
    except OSError as error:
        reason = f"{place} cannot be read: {error.strerror or error}"
        return Listing(files=(), problem=reason, unread=(_before_magic(place),))
    files = tuple(file for part in parts for file in part.files)
    problems = [part.problem for part in parts if part.problem]
    if not files and not problems:
        problems.append(f"{place}: there is no log")
    return Listing(
        files=files, problem=_joined(problems), unread=tuple(name for part in parts for name in part.unread)
    )


def _expanded(place: str) -> Iterator[Listing]:
    path = Path(place)
    if _MAGIC.search(path.name):
        yield from (_folder_listing(match) for match in _matches(place) if match.is_dir())
        if path.name != "**":
            parents = _matches(str(path.parent))
            yield from (_within(parent, path.name) for parent in parents if parent.is_dir())
    elif _MAGIC.search(place):
        yield from map(_one, _matches(place))
    else:
        yield _one(path)


def _matches(pattern: str) -> list[Path]:
    # A Path's own glob takes no whole path as its pattern.
    return [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207


def _one(path: Path) -> Listing:
    return _folder_listing(path) if path.is_dir() else _file_listing(path)


def _folder_listing(folder: Path) -> Listing:
    found = listing(folder)
    files = tuple(dataclasses.replace(file, name=str(folder / file.name)) for file in found.files)
    return Listing(files=files, problem=found.problem, unread=(str(folder),) if found.problem else ())


def _within(folder: Path, pattern: str) -> Listing:
    """Return the files in `folder` whose names fit: those of a log as one listing, so that none is lost by its renaming."""
    whole = _folder_listing(folder)
    files = [file for file in whole.files if fnmatch.fnmatch(Path(file.name).name, pattern)]
    known = {file.name for file in whole.files}
    others = [
        path
        for path in sorted(folder.iterdir())
        if path.name.endswith(LOG_SUFFIX)
        and fnmatch.fnmatch(path.name, pattern)
        and str(path) not in known
        and path.is_file()
    ]
    more = [_file_listing(path) for path in others]
    return Listing(
        files=(*files, *(file for one in more for file in one.files)),
        problem=whole.problem,
        unread=whole.unread,
    )


def _file_listing(path: Path) -> Listing:
    problems: list[str] = []
    file = look(path, problems, ended=path.name != CURRENT_NAME)
    files = () if file is None else (dataclasses.replace(file, name=str(path)),)
    return Listing(files=files, problem=_joined(problems), unread=(str(path),) if problems else ())


def _before_magic(place: str) -> str:
    found = _MAGIC.search(place)
    return place if found is None else place[: found.start()]


def _joined(problems: Sequence[str]) -> str | None:
    if not problems:
        return None
    more = len(problems) - MOST_TOLD
    return "; ".join(problems[:MOST_TOLD]) + (f"; and {more} more" if more > 0 else "")
