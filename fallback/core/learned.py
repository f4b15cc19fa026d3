"""What the answers of one candidate teach about it: how soon its first token comes, and whether it takes a prefill.

The limit for the first token is `max(2 s, 3 x p95)` of the recent successes once there are twenty of them, the p95 by
nearest rank. It only ever shortens the configured limit: a provider that answers within half a second and has been silent
for two is not going to answer.

What may not live here: the clock, and anything that is not about one (provider, model).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import ceil

__all__ = ["LEAST_LIMIT_S", "LEAST_SUCCESSES", "REMEMBERED", "Learned"]

LEAST_SUCCESSES = 20
REMEMBERED = 100
LEAST_LIMIT_S = 2.0
_FACTOR = 3.0
_QUANTILE = 0.95


class Learned:
    """What is known of one candidate. Not safe for threads by itself: the roster holds its lock around every call."""

    __slots__ = ("_latest", "_sorted", "prefill_refused")

    def __init__(self) -> None:
        self.prefill_refused = False
        """Whether it answered a last assistant message with 400."""
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []

    def note_first_token(self, seconds: float) -> None:
        """Take note of the time from the start of a good attempt to its first token."""
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
