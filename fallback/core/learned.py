"""What the answers of one candidate teach about it: how soon its first token comes, and whether it takes a prefill.

What is new since the last `fresh()` can be told to other processes, and what those learned takes the place of what is known
here: all that share what they know learn from the answers of all.

The limit for the first token is `max(2 s, 3 x p95)` of the recent successes once there are twenty of them, the p95 by
nearest rank. It only ever shortens the configured limit: a provider that answers within half a second and has been silent
for two is not going to answer.

What may not live here: the clock, and anything that is not about one (provider, model).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from math import ceil

__all__ = ["LEAST_LIMIT_S", "LEAST_SUCCESSES", "REMEMBERED", "Learned"]

LEAST_SUCCESSES = 20
REMEMBERED = 100
LEAST_LIMIT_S = 2.0
_FACTOR = 3.0
_QUANTILE = 0.95


class Learned:
    """What is known of one candidate. Not safe for threads by itself: the roster holds its lock around every call."""

    __slots__ = ("_fresh", "_latest", "_sorted", "prefill_refused")

    def __init__(self) -> None:
        self.prefill_refused = False
        """Whether it answered a last assistant message with 400."""
        self._fresh: deque[float] = deque(maxlen=REMEMBERED)
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []

    def note_first_token(self, seconds: float) -> None:
        """Take note of the time from the start of a good attempt to its first token."""
        self._fresh.append(seconds)
        self._note(seconds)

    def fresh(self) -> tuple[float, ...]:
        """Return the times noted since the last call, the oldest first, a hundred at most."""
        fresh = tuple(self._fresh)
        self._fresh.clear()
        return fresh

    def adopt(self, times_s: Iterable[float]) -> None:
        """Let `times_s`, the oldest first, and what was not told of yet be all that is known."""
        self._latest.clear()
        self._sorted.clear()
        for seconds in (*times_s, *self._fresh):
            self._note(seconds)

    def _note(self, seconds: float) -> None:
        if len(self._latest) == REMEMBERED:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]
        self._latest.append(seconds)
        insort(self._sorted, seconds)

    @property
    def first_token_limit_s(self) -> float | None:
        """How long a first token is worth waiting for, in seconds; None: not known yet."""
        count = len(self._sorted)
        if count < LEAST_SUCCESSES:
            return None
        return max(LEAST_LIMIT_S, _FACTOR * self._sorted[ceil(_QUANTILE * count) - 1])
