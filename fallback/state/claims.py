"""Rights that one process at a time has: what this process asks for, holds, and has given back.

Theory of operation: a claim is granted for HOLD_S seconds and renewed every RENEW_S, so that one whose process is gone is
free again soon. The place that all processes share grants it (`Grants`); the thread that talks to that place does so in its
`round`, and `answer` wakes those who wait once everything that the round brought has been told. Nobody waits longer than
WAIT_S: a claim about which nobody can say anything counts as granted, since every process can decide for itself.

What may not live here: I/O, and what a claim is good for.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import Protocol

__all__ = ["HOLD_S", "RENEW_S", "WAIT_S", "Claims", "Grants"]

HOLD_S = 6.0
RENEW_S = 2.0
WAIT_S = 1.5


class Grants(Protocol):
    """The place that grants claims, each to one owner at a time."""

    def take(self, name: str, owner: str, hold_s: float) -> bool:
        """Grant `name` to `owner` for `hold_s` seconds; False where another one has it."""

    def keep(self, name: str, owner: str, hold_s: float) -> None:
        """Let `owner` have `name` for `hold_s` seconds from now, where nobody else has it by now."""

    def free(self, name: str, owner: str) -> None:
        """Let everybody have `name`, where it is `owner` who has it."""


class _Claim:
    """A claim of one owner; see `entry.Claim`."""

    def __init__(self, name: str, claims: Claims, ask: Callable[[], bool]) -> None:
        self.name = name
        self.owner = secrets.token_hex(8)
        self.granted: bool | None = None
        self.answered = threading.Event()
        self.wanted = False
        """Whether the owner still wants it."""
        self._claims = claims
        self.ask = ask

    def take(self) -> bool:
        return self._claims._take(self)

    def give_back(self) -> None:
        self._claims._give_back(self)


class Claims:
    """All claims of one process. Safe for threads; `clock` gives monotonic seconds."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Begin anew: what is held belongs to the process that this one was forked from."""
        self._lock = threading.Lock()
        self._closed = False
        self._waiting: list[_Claim] = []
        self._held: dict[_Claim, float] = {}
        """By claim the instant at which it is to be renewed."""
        self._freed: list[_Claim] = []

    def claim(self, name: str, ask: Callable[[], bool]) -> _Claim:
        """Return a claim on `name`. `ask` sees to it that a round comes soon, or returns False."""
        return _Claim(name, self, ask)

    def _take(self, claim: _Claim) -> bool:
        with self._lock:
            claim.wanted = True
            if self._closed or claim in self._held:
                return True
            claim.granted = None
            claim.answered.clear()
            if claim not in self._waiting:
                self._waiting.append(claim)
        if claim.ask():
            # Whoever waits no longer may still be granted it, and holds it then.
            claim.answered.wait(WAIT_S)
        return claim.granted is not False

    def _give_back(self, claim: _Claim) -> None:
        with self._lock:
            if not claim.wanted:
                return
            claim.wanted = False
            if claim in self._waiting:
                self._waiting.remove(claim)
            if self._held.pop(claim, None) is not None:
                self._freed.append(claim)
        claim.answered.set()
        claim.ask()

    def round(self, grants: Grants) -> None:
        """Give back, renew and ask for what is due. Raises what `grants` raises; the rest is for the next round."""
        now = self._clock()
        with self._lock:
            freed, waiting = tuple(self._freed), tuple(self._waiting)
            due = [claim for claim, at in self._held.items() if at <= now]
        for claim in freed:
            grants.free(claim.name, claim.owner)
            with self._lock:
                self._freed.remove(claim)
        for claim in due:
            grants.keep(claim.name, claim.owner, HOLD_S)
            with self._lock:
                if claim in self._held:
                    self._held[claim] = now + RENEW_S
        for claim in waiting:
            if claim.granted is None:
                granted = grants.take(claim.name, claim.owner, HOLD_S)
                with self._lock:
                    claim.granted = granted
                    if granted:
                        if claim.wanted and not self._closed:
                            self._held[claim] = now + RENEW_S
                        else:
                            self._freed.append(claim)

    def answer(self, *, out: bool) -> None:
        """Wake those whose claims are decided; all of them where the place is `out` and nobody can say."""
        with self._lock:
            decided = [claim for claim in self._waiting if out or claim.granted is not None]
            for claim in decided:
                self._waiting.remove(claim)
        for claim in decided:
            claim.answered.set()

    def close(self) -> None:
        """Give everything back with the next round. Whoever waits, or asks later, is told yes."""
        with self._lock:
            self._closed = True
            self._freed += self._held
            self._held.clear()
        self.answer(out=True)
