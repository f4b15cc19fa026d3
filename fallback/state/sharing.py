"""The thread between the memory of one process and a place that several processes share.

Theory of operation: one daemon thread makes rounds (`Exchange`), a few every second and at once after a `put`; it alone
talks to the place, so no caller ever waits for a disk or a server. `on_change` is called on that thread, between rounds,
without locks held. Claims are asked for in rounds as well, and answered after what the round brought has been told: whoever
gets one knows all that was known when it was given.

A fork would hand the child a connection that is not its own, so the connection is closed before a fork and
opened again on both sides, and the child starts a thread of its own with its first use of the store.

What may not live here: anything about one kind of place, and what the entries mean.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from fallback.state.claims import Claims
from fallback.state.entry import Claim, Entry, OnChange, Value
from fallback.state.ledger import Ledger

__all__ = ["Rounds", "SharedStateStore"]

logger = logging.getLogger(__name__)

START_S = 3.0
"""How long `start` waits for a place that can neither be read nor be called broken."""
CLOSE_S = 2.0
LAST_ROUNDS = 5
LAST_PAUSE_S = 0.1
FORK_S = 2.0
"""How long a fork waits for the round that is under way."""
COALESCE_S = 0.02
"""The pause after a put in which further puts join the same write."""


class Rounds(Protocol):
    """What makes the rounds between a ledger and a place. For one thread at a time."""

    @property
    def loaded(self) -> bool:
        """Whether the place has been read once."""

    @property
    def out(self) -> bool:
        """Whether the place cannot be used just now."""

    @property
    def warning(self) -> str | None:
        """Return what people should know, in words; None while all is well."""

    def round(self, *, urgent: bool = False) -> Sequence[Entry]:
        """Write what is pending, read what is new, and return the entries that differ from what was known."""

    def drop(self) -> None:
        """Close the connection. The next round opens it again."""

    def fail(self, reason: str) -> None:
        """Let it be known that nothing is written, and why."""


class SharedStateStore:
    """A StateStore over a place that `exchange` reads and writes; the kinds of stores are made from it.

    `ledger` and `claims` are those that `exchange` works with, `place` is what the log calls it, and `poll_s` is how many
    seconds pass between two looks at what others have written. `named`: the instance has a name that a forked child keeps.
    """

    def __init__(
        self, exchange: Rounds, ledger: Ledger, claims: Claims, *, place: str, poll_s: float, named: bool
    ) -> None:
        self.instance = ledger.instance
        self._named = named
        self._poll_s = poll_s
        self._place = place
        self._ledger = ledger
        self._claims = claims
        self._exchange = exchange
        self._on_change: OnChange = _ignore
        self._thread: threading.Thread | None = None
        self._began = False
        self._closed = False
        self._forked = False
        """Whether this is a forked child whose thread has not begun yet."""
        self._parted = False
        """Whether this is a forked child that must not touch the place."""
        self._untold: list[Entry] = []
        self._exit_hook = self._at_exit()
        self._renew()

    def _renew(self) -> None:
        self._start_lock = threading.Lock()
        self._place_lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._first = threading.Event()
        self._rounds = threading.Condition()
        self._urgent = threading.Event()
        self._in_round = False

    @property
    def warning(self) -> str | None:
        """Return what people should know about the store, in words; None while all is well."""
        return self._exchange.warning

    def put(self, key: str, value: Value, *, by: str) -> None:
        """Let `value` stand under `key`, in memory at once, in the place soon; None deletes. Raises ValueError.

        Before `start` it is kept for the place; after `close` it stays in this process.
        """
        if self._ledger.put(key, value, by=by):
            self._revive()
            self._wake.set()

    def entries(self) -> Mapping[str, Entry]:
        """Return all that is not deleted, by key, from memory; the same object until something changes."""
        self._revive()
        return self._ledger.entries()

    def start(self, on_change: OnChange) -> None:
        """Load what is there, tell it to `on_change`, and begin to watch. Raises RuntimeError the second time.

        Returns when the place has been read and told, or has failed, after 3 seconds at the latest. What is loaded
        later is told later.
        """
        with self._start_lock:
            if self._began or self._closed:
                raise RuntimeError("a state store is started once")
            self._began = True
            self._on_change = on_change
            self._begin()
        atexit.register(self._exit_hook)
        _watch_forks(self)
        self._first.wait(START_S)

    def claim(self, name: str) -> Claim:
        """Return a claim on `name` for one owner, not taken yet."""
        return self._claims.claim(name, self._ask)

    def _ask(self) -> bool:
        """See that claims are looked at soon; False where there is no thread that would."""
        self._revive()
        if self._thread is None or self._closed:
            return False
        self._wake.set()
        return True

    def flush(self, timeout_s: float = 2.0) -> bool:
        """Write what was put at once, even in an outage; False where that takes longer than `timeout_s` seconds."""
        self._revive()
        if self._thread is None or self._closed:
            return not self._ledger.pending()
        with self._rounds:
            self._urgent.set()
            self._wake.set()
            # To the end of the round, so that `warning` is that of the write.
            return self._rounds.wait_for(lambda: not self._in_round and not self._ledger.pending(), timeout_s)

    def close(self) -> None:
        """Write what is left, for 2 seconds at most, and stop watching."""
        self._closed = True
        self._closing.set()
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_S)
        atexit.unregister(self._exit_hook)

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="state-store", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._closing.is_set():
            urgent = self._urgent.is_set()
            if urgent:
                self._urgent.clear()
            self._round(urgent=urgent)
            if self._wake.wait(self._poll_s):
                self._closing.wait(COALESCE_S)
                self._wake.clear()
        self._claims.close()
        for _ in range(LAST_ROUNDS):
            self._round(urgent=True)
            if not self._ledger.pending() or self._exchange.warning is not None:
                break
            time.sleep(LAST_PAUSE_S)  # somebody is writing just now
        if not self._parted:
            with self._place_lock:
                self._exchange.drop()

    def _round(self, *, urgent: bool) -> None:
        with self._rounds:
            self._in_round = True
        with self._place_lock:
            try:
                if not self._parted:
                    self._untold += self._exchange.round(urgent=urgent)
            # The edge of the thread: whatever a merge function does, switches must go on being shared.
            except Exception as error:
                logger.exception("a round with %s failed", self._place)
                self._exchange.drop()
                self._exchange.fail(f"{type(error).__name__}: {error}")
        with self._rounds:
            self._in_round = False
            self._rounds.notify_all()
        untold, self._untold = self._untold, []
        if untold:
            try:
                self._on_change(sorted(untold, key=lambda entry: entry.revision))
            # The same edge: a callback that fails once must hear of the next change.
            except Exception:
                logger.exception("a callback of %s failed", self._place)
        self._claims.answer(out=self._exchange.out)
        if self._exchange.loaded or self._exchange.warning is not None:
            self._first.set()

    def _at_exit(self) -> Callable[[], None]:
        reference = weakref.ref(self)

        def close() -> None:
            store = reference()
            if store is not None:
                store.close()

        return close

    def _revive(self) -> None:
        """Start the thread that a fork has left behind in the parent."""
        if self._forked:
            with self._start_lock:
                if self._forked:
                    self._forked = False
                    self._begin()

    def _before_fork(self) -> bool:
        """Come to rest: no round under way, no connection open. Returns whether that was to be had in time."""
        rests = self._place_lock.acquire(timeout=FORK_S)
        if rests:
            self._exchange.drop()
        self._ledger.lock.acquire()
        return rests

    def _after_fork(self, *, rests: bool, child: bool) -> None:
        self._ledger.lock.release()
        if not child:
            if rests:
                self._place_lock.release()
            return
        watched = self._thread is not None and not self._closed
        self._renew()
        self._thread = None
        self._forked = watched
        self._claims.forget()
        # The parent writes what it has put. Whether it told everything to the copy of its callback is not known.
        self._ledger.hold()
        self._untold = list(self._ledger.entries().values())
        if not self._named:
            self.instance = self._ledger.instance = f"{os.getpid()}-{secrets.token_hex(3)}"
        if not rests:
            # The copy of the connection is never closed: that could take the parent's files away.
            self._parted = True
            self._exchange.fail("the process was forked while the store was in use")


def _ignore(_: object) -> None:
    """Tell nobody."""


def _watch_forks(store: SharedStateStore) -> None:
    if not hasattr(os, "register_at_fork"):
        return
    reference = weakref.ref(store)
    resting: list[tuple[SharedStateStore, bool]] = []

    def before() -> None:
        alive = reference()
        if alive is not None:
            resting.append((alive, alive._before_fork()))

    def after(*, child: bool) -> None:
        while resting:
            alive, rests = resting.pop()
            alive._after_fork(rests=rests, child=child)

    os.register_at_fork(
        before=before, after_in_parent=lambda: after(child=False), after_in_child=lambda: after(child=True)
    )
