"""Time that jumps from one event to the next."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

__all__ = ["Timeline"]


class Timeline:
    """What happens next, and the clock that says when it is."""

    def __init__(self, *, begin: float) -> None:
        """Begin at the Unix time `begin`."""
        self.now = 0.0
        """Seconds after the beginning."""
        self._begin = begin
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def clock(self) -> float:
        """Return the seconds since the beginning."""
        return self.now

    def wall(self) -> float:
        """Return the Unix time in seconds."""
        return self._begin + self.now

    def at(self, at_s: float, happen: Callable[[], object]) -> None:
        """Let something happen at `at_s` seconds after the beginning; of two things at once, the first said first."""
        heapq.heappush(self._queue, (max(at_s, self.now), next(self._numbers), happen))

    def run(self, *, until_s: float) -> None:
        """Let everything happen that is to happen, and what comes of it, up to `until_s` after the beginning."""
        while self._queue and self._queue[0][0] < until_s:
            self.now, _, happen = heapq.heappop(self._queue)
            happen()
