"""When a history takes place, and how much is asked in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["DAY_S", "HOUR_S", "Span"]

HOUR_S: Final = 3600.0
DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The span of a history. Raises ValueError for one that cannot be."""

    end: float
    """Unix time in seconds; no line is later."""
    days: float = 7.0
    requests_per_day: float = 2000.0
    """On average: more on working days, fewer at night."""
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.days <= 3660:
            raise ValueError(f"a history has more than 0 and at most 3660 days, not {self.days:g}")
        if not 0 <= self.requests_per_day <= 1e8:
            raise ValueError(f"a day has 0 to 10^8 requests, not {self.requests_per_day:g}")
        if not DAY_S * self.days <= self.end <= 2e11:
            raise ValueError("a history begins in 1970 at the earliest")

    @property
    def begin(self) -> float:
        """Unix time in seconds."""
        return self.end - self.length_s

    @property
    def length_s(self) -> float:
        """Seconds from its beginning to its end."""
        return self.days * DAY_S

    @property
    def requests(self) -> int:
        """How many there are in all."""
        return round(self.days * self.requests_per_day)
