"""What one process knows of a shared store, what it has put and not yet written, and who wins a conflict.

Theory of operation: `put` changes the memory and leaves a Put; putting the same key again before it was written
replaces the Put, so that a thousand puts cost a few writes. Whoever talks to the store takes the `pending` Puts,
decides each with `settle` against what the store holds, inside the store's own transaction, and reports back with
`written` and `take_in`. What others wrote under a key that this process has put and not yet written is not taken in:
the write that is under way decides it.

Last writer wins. One exception: a Put that an outage held back yields to what another process has put later than it.

What may not live here: I/O, threads, callbacks (but for the pure `merge`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from fallback.state.entry import Entry, Merge, Value, checked_by, checked_key, checked_merge, checked_value

__all__ = ["Ledger", "Put", "settle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """One change that waits to be written."""

    entry: Entry
    """The change, with revision 0."""
    base: int
    """The revision that it replaced as far as its process knew; 0: none."""
    held: bool = False
    """Whether an outage has kept it from being written."""


def settle(existing: Entry | None, put: Put, merge: Merge) -> Entry | None:
    """Return what to write for `put` (its revision to be given by the store); None: what exists stays as it is."""
    ours = put.entry
    if existing is None:
        return replace(ours, value=checked_value(merge(None, ours.value)))
    if put.held and existing.revision > put.base and existing.at >= ours.at:
        # Decided as though ours had been written in time, and theirs after it.
        merged = checked_value(merge(ours, existing.value))
        return None if merged == existing.value else replace(ours, value=merged)
    merged = checked_value(merge(existing, ours.value))
    return None if merged == existing.value != ours.value else replace(ours, value=merged)


class Ledger:
    """The memory of one process, safe for threads. `instance` names the process, `wall` gives Unix seconds."""

    def __init__(self, *, instance: str, merge: Merge, wall: Callable[[], float]) -> None:
        self.instance = instance
        self.merge = merge
        self.lock = threading.Lock()
        """Held for microseconds; public so that a fork can happen between two changes."""
        self._wall = wall
        self._entries: dict[str, Entry] = {}
        self._pending: dict[str, Put] = {}
        self._live: Mapping[str, Entry] | None = None

    def put(self, key: str, value: Value, *, by: str) -> bool:
        """Change the memory and remember to write it. Returns whether there is something to write. Raises ValueError."""
        key, value, at = checked_key(key), checked_value(value), self._wall()
        with self.lock:
            existing = self._entries.get(key)
            merged = checked_merge(self.merge, existing, value)
            if existing is not None and merged == existing.value != value:
                return False
            entry = Entry(key=key, value=merged, by=checked_by(by), at=at, revision=0, origin=self.instance)
            waiting = self._pending.get(key)
            base = waiting.base if waiting else existing.revision if existing else 0
            self._pending[key] = Put(entry=entry, base=base)
            self._remember(entry)
            return True

    def entries(self) -> Mapping[str, Entry]:
        """Return all that is not deleted, by key; the same object until something changes."""
        with self.lock:
            if self._live is None:
                live = {key: entry for key, entry in self._entries.items() if entry.value is not None}
                self._live = MappingProxyType(live)
            return self._live

    def pending(self) -> Sequence[Put]:
        """Return what waits to be written."""
        with self.lock:
            return tuple(self._pending.values())

    def hold(self) -> None:
        """Take note that an outage keeps everything pending from being written."""
        with self.lock:
            for key, put in self._pending.items():
                self._pending[key] = replace(put, held=True)

    def restore(self) -> None:
        """Make everything known pending, for a new and empty store in place of the one that is gone."""
        with self.lock:
            for key, put in self._pending.items():
                self._pending[key] = replace(put, base=0)
            for key, entry in self._entries.items():
                if key not in self._pending:
                    self._pending[key] = Put(entry=replace(entry, revision=0), base=0, held=True)

    def written(self, puts: Iterable[Put], stored: Mapping[str, Entry]) -> list[Entry]:
        """Take note of what the store holds now for `puts`. Returns the entries that came out other than put."""
        changed: list[Entry] = []
        with self.lock:
            for put in puts:
                entry = stored[put.entry.key]
                waiting = self._pending.get(entry.key)
                if waiting is not put:
                    if waiting is not None:
                        self._pending[entry.key] = replace(waiting, base=entry.revision)
                    continue
                del self._pending[entry.key]
                self._note(entry, changed)
        return changed

    def missing(self, stored: Mapping[str, Entry], *, tombstones_since: float) -> Sequence[Entry]:
        """Return what was written once and the store does not hold, or only as it was before.

        Deletions from before `tombstones_since` (Unix seconds) are forgotten for good.
        """
        with self.lock:
            return [
                entry
                for key, entry in self._entries.items()
                if key not in self._pending
                and entry.revision > (stored[key].revision if key in stored else 0)
                and (entry.value is not None or entry.at >= tombstones_since)
            ]

    def take_in(
        self, stored: Sequence[Entry], *, everything: bool = False, newer: bool = False
    ) -> list[Entry]:
        """Take note of entries that the store holds. Returns those that are news.

        `everything`: the store holds nothing else, so whatever else is known is gone. `newer`: what is known with a higher
        revision stays.
        """
        changed: list[Entry] = []
        with self.lock:
            for entry in stored:
                known = self._entries.get(entry.key)
                if entry.key not in self._pending and not (
                    newer and known is not None and known.revision > entry.revision
                ):
                    self._note(entry, changed)
            if everything:
                for key in self._entries.keys() - {entry.key for entry in stored} - self._pending.keys():
                    self._note(replace(self._entries[key], value=None), changed)
                    del self._entries[key]
        return changed

    def _note(self, entry: Entry, changed: list[Entry]) -> None:
        before = self._entries.get(entry.key)
        if before == entry:
            return
        self._remember(entry)
        if before is None or before.value is None:
            news = entry.value is not None
        else:
            news = replace(before, revision=entry.revision) != entry
        if news:
            changed.append(entry)

    def _remember(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        self._live = None
