"""What answers teach, told by each process to the others: how soon a first token comes, and what is left of a rate limit.

Theory of operation: a request only ever teaches the roster of its own process. Every SHARE_S seconds whatever is new there
goes into the state store, so that no request pays for a write, and comes out of it in the other processes. The times to
the first token form one list for all, of the last hundred: each process appends its own to what stands there. Of two that do
so at once one may be lost, which a statistic can bear. A list that nobody has added to for STALE_S seconds is not taken over:
the provider may have become slower meanwhile, and a limit that is too short would never be found out.

    learned/NAME/MODEL   {"first_tokens_s": [...], "prefill_refused": false, "at": ...}
    headroom/NAME        {"remaining_requests": ..., ..., "at": ...}: a core Headroom, whose resets count from `at`

That a limit is used up is a cooldown, and told at once as every cooldown is.

What may not live here: what the lessons lead to (core).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from typing import Any

from fallback.core.learned import REMEMBERED
from fallback.core.models import Headroom
from fallback.core.roster import Roster
from fallback.state import JSON, StateStore, Value

__all__ = ["KINDS", "SHARE_S", "STALE_S", "Lessons"]

SHARE_S = 5.0
STALE_S = 600.0
_MOST = 1e15
"""No instant, length or count is as large."""
KINDS = frozenset({"learned", "headroom"})
"""The first parts of the keys."""


class Lessons:
    """What the roster of this process and the store tell each other. Safe for threads.

    `clock` gives monotonic seconds, those of the roster, and `wall` Unix seconds.
    """

    def __init__(
        self, roster: Roster, store: StateStore, *, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._roster = roster
        self._store = store
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        self._share_at = clock() + SHARE_S
        self._told_headroom: dict[str, float] = {}
        """By provider the instant of the headroom that was told, or heard of, last."""
        self._told_refusals: set[tuple[str, str]] = set()

    def share(self, *, at_once: bool = False) -> None:
        """Tell the other processes what is new, where that is due."""
        with self._lock:
            now = self._clock()
            if now < self._share_at and not at_once:
                return
            self._share_at = now + SHARE_S
            for provider in self._roster.providers:
                self._share_headroom(provider)
                for candidate in self._roster.candidates(provider):
                    self._share_learned(provider, candidate.model)

    def take(self, kind: str, rest: str, value: Value) -> None:
        """Take over what another process put under the key `kind`/`rest`, whose provider is known."""
        if value is None or not _is_number(value.get("at")):
            return
        provider, _, model = rest.partition("/")
        age_s = max(0.0, self._wall() - value["at"])  # type: ignore[operator]
        if kind == "headroom":
            headroom, at = _headroom(value), self._clock() - age_s
            if headroom is not None:
                self._told_headroom[provider] = max(at, self._told_headroom.get(provider, at))
                self._roster.adopt_headroom(provider, headroom, at)
        elif age_s <= STALE_S:
            refused = value.get("prefill_refused") is True
            if refused:
                self._told_refusals.add((provider, model))
            self._roster.adopt_lessons(provider, model, _times(value), prefill_refused=refused)

    def _share_headroom(self, provider: str) -> None:
        known = self._roster.headroom(provider)
        if known is None or known[1] <= self._told_headroom.get(provider, -math.inf):
            return
        headroom, at = known
        self._told_headroom[provider] = at
        told: dict[str, JSON] = asdict(headroom)
        told["at"] = self._wall() - (self._clock() - at)
        self._store.put(f"headroom/{provider}", told, by="router")

    def _share_learned(self, provider: str, model: str) -> None:
        fresh, refused = self._roster.fresh_lessons(provider, model)
        if not fresh and (not refused or (provider, model) in self._told_refusals):
            return
        if refused:
            self._told_refusals.add((provider, model))
        key = f"learned/{provider}/{model}"
        entry = self._store.entries().get(key)
        before = _times(entry.value) if entry is not None and entry.value is not None else ()
        # Rounded: a limit of seconds needs no more, and it is a third of the length.
        times = (*before, *(round(seconds, 3) for seconds in fresh))[-REMEMBERED:]
        told: dict[str, JSON] = {"first_tokens_s": times, "prefill_refused": refused, "at": self._wall()}
        self._store.put(key, told, by="router")
        self._roster.adopt_lessons(provider, model, times, prefill_refused=refused)


def _times(value: Any) -> tuple[float, ...]:
    """Return the times in an entry, without what is none."""
    times = value.get("first_tokens_s")
    found: Iterable[Any] = times if isinstance(times, (list, tuple)) else ()
    return tuple(float(seconds) for seconds in found if _is_number(seconds) and seconds >= 0)[-REMEMBERED:]


def _headroom(value: Any) -> Headroom | None:
    """Return the headroom in an entry; None where there is something else."""
    found = {field.name: value.get(field.name) for field in fields(Headroom)}
    if not all(number is None or _is_number(number) for number in found.values()):
        return None
    return Headroom(**found)


def _is_number(value: object) -> bool:
    # Compared, since an integer from a store may be too long for a float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_MOST < value < _MOST
