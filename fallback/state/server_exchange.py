"""One round between the memory of a process and a server, and what happens when the server fails.

Theory of operation: a round writes what is pending, sees to the claims, and takes in what others have written; where
the stamp of the last write is what it was, that is one small question. A write names the revision that it was decided
upon for each key; where another process was faster nothing is written, and the round decides again.

What the server should hold and does not is written back under its own revision: whatever made the server
forget (it was wiped, restarted without its last seconds, replaced by a replica that lagged behind), the newest revision
that any process knows comes out on top. So nothing needs to tell one kind of forgetting from another.

A failure never leaves here: it becomes `warning`, is logged once, and the memory goes on alone. Where the server still
answers (its memory is full, it is read-only) it is read on. Everything is tried anew on a fresh connection, after pauses
that grow from RETRY_S to MAX_RETRY_S.

What may not live here: threads, commands of the server. Time comes in as clocks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from fallback.state.claims import Claims
from fallback.state.entry import TOMBSTONE_S, Entry
from fallback.state.ledger import Ledger, Put, settle
from fallback.state.server import FAILURES, Server, Write, described, is_refusal

__all__ = ["MAX_RETRY_S", "RECONCILE_S", "RETRY_S", "ServerExchange"]

logger = logging.getLogger(__name__)

RETRY_S = 0.25
MAX_RETRY_S = 4.0
RECONCILE_S = 30.0
"""How often everything is read though nothing seems to have changed."""
PRUNE_S = 3600.0
KEEP_S = TOMBSTONE_S + 3600.0
"""Longer than anybody writes a tombstone back: clocks differ."""
TRIES = 10
"""How often a round decides again because others were faster."""
BATCH = 200
"""Keys in one write: the server does nothing else meanwhile."""


class ServerExchange:
    """Keeps `ledger` and a server the same, and sees to `claims`. For one thread at a time.

    `place` is what people know the server by. `wall` gives Unix seconds, `clock` monotonic ones.
    """

    def __init__(
        self,
        connect: Callable[[], Server],
        ledger: Ledger,
        claims: Claims,
        *,
        place: str,
        wall: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self.loaded = False
        """Whether the server has been read once."""
        self._connect = connect
        self._ledger = ledger
        self._claims = claims
        self._place = place
        self._wall = wall
        self._clock = clock
        self._server: Server | None = None
        self._stored: dict[str, Entry] = {}
        """What the server holds, as far as is known."""
        self._seen: str | None = None
        """The stamp up to which that is complete; None: everything is to be read."""
        self._forgetful = False
        """Whether the server lacks something that it held once."""
        self._reconcile_at = 0.0
        self._prune_at = 0.0
        self._trouble: str | None = None
        self._failures = 0
        self._retry_at = 0.0

    @property
    def out(self) -> bool:
        """Whether the server cannot be used just now."""
        return self._trouble is not None

    @property
    def warning(self) -> str | None:
        """Return what people should know, in words; None while all is well."""
        if self._trouble is None:
            return None
        return (
            f"state server {self._place} cannot be used: {self._trouble}; "
            "switches and cooldowns hold in this program alone until it can"
        )

    def round(self, *, urgent: bool = False) -> Sequence[Entry]:
        """Write what is pending, read what is new, and return the entries that differ from what was known.

        `urgent`: try in any case, even where the last failure is recent. Raises what the ledger's merge raises.
        """
        due = urgent or self._trouble is None or self._clock() >= self._retry_at
        changed: list[Entry] = []
        if due and self._trouble is not None:
            self.drop()  # behind the same name there may be another server by now
        if self._server is None:
            if not due:
                return changed
            self._server = self._connect()
            self._seen = None
        # Claims come after the write, so that who gives one back has told everything before, and before the last look,
        # so that who gets one knows it.
        well = self._seen is not None or self._tried(self._look, changed)
        well = well and due and self._tried(self._write, changed) and self._tried(self._claim, changed)
        well = self._tried(self._look, changed) and well
        if well and (self._forgetful or self._clock() >= self._prune_at):
            well = self._tried(self._mend, changed)
        if well:
            self._recover()
        return changed

    def drop(self) -> None:
        """Close the connection. The next round opens it again."""
        server, self._server = self._server, None
        self._seen = None
        if server is not None:
            server.close()

    def fail(self, reason: str) -> None:
        """Let it be known that nothing is written, and why. Logged once until all is well again."""
        if self._trouble is None:
            logger.warning(
                "state server %s cannot be used (%s); the program goes on with what is in memory",
                self._place,
                reason,
            )
        self._trouble = reason
        self._retry_at = self._clock() + min(RETRY_S * 2.0 ** min(self._failures, 10), MAX_RETRY_S)
        self._failures += 1

    def _recover(self) -> None:
        self._failures = 0
        if self._trouble is not None:
            logger.warning("state server %s works again", self._place)
            self._trouble = None

    def _tried(self, step: Callable[[Server, list[Entry]], None], changed: list[Entry]) -> bool:
        if self._server is None:
            return False
        try:
            step(self._server, changed)
        except FAILURES as error:
            self.fail(described(error))
            if not is_refusal(error):
                self.drop()
            return False
        return True

    def _look(self, server: Server, changed: list[Entry]) -> None:
        now = self._clock()
        if self._seen is not None and now < self._reconcile_at and server.stamp() == self._seen:
            return
        everything = server.everything()
        self._stored = dict(everything.entries)
        in_order = sorted(self._stored.values(), key=lambda entry: entry.revision)
        changed += self._ledger.take_in(in_order, newer=True)
        self.loaded = True
        self._seen = everything.stamp
        self._reconcile_at = now + RECONCILE_S
        self._forgetful = bool(self._missing())

    def _missing(self) -> Sequence[Entry]:
        return self._ledger.missing(self._stored, tombstones_since=self._wall() - TOMBSTONE_S)

    def _mend(self, server: Server, _changed: list[Entry]) -> None:
        """Write back what the server has forgotten, and remove what it need not remember any more."""
        for _ in range(TRIES):
            missing = self._missing()
            if not missing:
                self._forgetful = False
                break
            self._send(server, [Write(key=e.key, expected=self._revision(e.key), entry=e) for e in missing])
        if self._clock() >= self._prune_at:
            oldest = self._wall() - KEEP_S
            old = [entry for entry in self._stored.values() if entry.value is None and entry.at < oldest]
            if self._send(server, [Write(key=e.key, expected=e.revision, remove=True) for e in old]):
                for entry in old:
                    del self._stored[entry.key]
                self._prune_at = self._clock() + PRUNE_S

    def _write(self, server: Server, changed: list[Entry]) -> None:
        if self._trouble is not None:
            self._ledger.hold()
        for _ in range(TRIES):
            puts = self._ledger.pending()[:BATCH]
            if not puts:
                return
            if self._send(server, [self._settled(put) for put in puts]):
                stored = {put.entry.key: self._stored[put.entry.key] for put in puts}
                changed += self._ledger.written(puts, stored)

    def _settled(self, put: Put) -> Write:
        key = put.entry.key
        entry = settle(self._stored.get(key), put, self._ledger.merge)
        return Write(key=key, expected=self._revision(key), entry=entry)

    def _revision(self, key: str) -> int:
        standing = self._stored.get(key)
        return 0 if standing is None else standing.revision

    def _send(self, server: Server, writes: Sequence[Write]) -> bool:
        """Return whether all of it was written; else it is known now what stands there."""
        whole = True
        for begin in range(0, len(writes), BATCH):
            written = server.write(writes[begin : begin + BATCH])
            for key, entry in (written.standing or {}).items():
                whole = False
                if entry is None:
                    self._stored.pop(key, None)
                else:
                    self._stored[key] = entry
            self._stored.update(written.entries)
            if written.standing is None and written.before == self._seen:
                self._seen = written.after
        return whole

    def _claim(self, server: Server, _changed: list[Entry]) -> None:
        self._claims.round(server)
