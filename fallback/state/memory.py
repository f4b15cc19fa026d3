"""A state store without a file: for tests, and where there is no place for a file.

Theory of operation: stores over one `_Board` see each other's changes at once. There is no thread: `start` calls back
on its caller's thread, and so does a `put` for the *other* stores of its board, after all locks are released.

What may not live here: anything that lasts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from fallback.state.entry import (
    Claim,
    Entry,
    Merge,
    OnChange,
    Value,
    checked_by,
    checked_key,
    checked_merge,
    checked_value,
    keep_latest,
)

__all__ = ["MemoryStateStore"]


class _Board:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entries: dict[str, Entry] = {}
        self.revision = 0
        self.live: Mapping[str, Entry] | None = None
        self.watching: dict[int, OnChange] = {}
        self.claimed: dict[str, object] = {}
        """By name who has it."""


class _Claim:
    """A claim on a name of one board; see `entry.Claim`."""

    def __init__(self, board: _Board, name: str) -> None:
        self._board = board
        self._name = name

    def take(self) -> bool:
        with self._board.lock:
            return self._board.claimed.setdefault(self._name, self) is self

    def give_back(self) -> None:
        with self._board.lock:
            if self._board.claimed.get(self._name) is self:
                del self._board.claimed[self._name]


class MemoryStateStore:
    """A StateStore in memory. `shared_with` makes it show the same entries as another one, like a second process."""

    def __init__(
        self,
        *,
        instance: str = "memory",
        merge: Merge = keep_latest,
        wall: Callable[[], float] = time.time,
        shared_with: MemoryStateStore | None = None,
    ) -> None:
        self.instance = instance
        self._merge = merge
        self._wall = wall
        self._board: _Board = _Board() if shared_with is None else shared_with._board
        self._started = False
        self._closed = False

    @property
    def warning(self) -> str | None:
        """Return None: memory does not fail."""
        return None

    def put(self, key: str, value: Value, *, by: str) -> None:
        """Let `value` stand under `key`; None deletes. Raises ValueError."""
        key, value, at = checked_key(key), checked_value(value), self._wall()
        board = self._board
        with board.lock:
            existing = board.entries.get(key)
            merged = checked_merge(self._merge, existing, value)
            if existing is not None and merged == existing.value != value:
                return
            board.revision += 1
            entry = Entry(
                key=key,
                value=merged,
                by=checked_by(by),
                at=at,
                revision=board.revision,
                origin=self.instance,
            )
            board.entries[key] = entry
            board.live = None
            others = [tell for owner, tell in board.watching.items() if owner != id(self)]
        for tell in others:
            tell((entry,))

    def entries(self) -> Mapping[str, Entry]:
        """Return all that is not deleted, by key."""
        board = self._board
        with board.lock:
            if board.live is None:
                live = {key: entry for key, entry in board.entries.items() if entry.value is not None}
                board.live = MappingProxyType(live)
            return board.live

    def start(self, on_change: OnChange) -> None:
        """Tell everything to `on_change`, and whatever other stores of the same board put from now on."""
        if self._started or self._closed:
            raise RuntimeError("a state store is started once")
        self._started = True
        with self._board.lock:
            self._board.watching[id(self)] = on_change
        present = sorted(self.entries().values(), key=lambda entry: entry.revision)
        if present:
            on_change(present)

    def claim(self, name: str) -> Claim:
        """Return a claim on `name` for one owner, not taken yet."""
        return _Claim(self._board, name)

    def flush(self, timeout_s: float = 2.0) -> bool:  # noqa: ARG002 - part of the protocol
        """Return True: nothing is ever left to write."""
        return True

    def close(self) -> None:
        """Stop watching."""
        self._closed = True
        with self._board.lock:
            self._board.watching.pop(id(self), None)
