"""What is looked at: a stretch of time in buckets, and which requests and attempts of it.

Theory of operation: a window begins and ends on a bucket's edge, so that every figure of it is a sum over whole buckets.
Buckets of an hour and less lie as they do in UTC; those of six hours and of a day are counted from local midnight of
the window's offset. A local day is one of 24 hours at that fixed offset: where clocks change within the window, days on the
other side of the change begin an hour off, and none is counted twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["BUCKETS_S", "Filters", "Window", "window"]

BUCKETS_S = (60, 300, 900, 3_600, 21_600, 86_400)
"""The sizes a bucket may have, in seconds."""

_HOUR_S = 3_600
_MOST_OFFSET_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Half-open: since <= ts < until, Unix seconds (UTC).

    Raises ValueError for a size that is none of BUCKETS_S, an offset that is no whole number of minutes or beyond a
    day, for edges that are not those of buckets, and where it ends before it begins.
    """

    since: float
    until: float
    bucket_s: int
    """60, 300, 900, 3600, 21600 or 86400."""
    utc_offset_s: int = 0
    """What local clocks are ahead of UTC: days and buckets of 6 h begin at local midnight of this offset."""

    def __post_init__(self) -> None:
        """Raise ValueError; see the class."""
        if self.bucket_s not in BUCKETS_S:
            raise ValueError(f"bucket_s={self.bucket_s}: none of {', '.join(map(str, BUCKETS_S))}")
        if self.utc_offset_s % 60 or abs(self.utc_offset_s) > _MOST_OFFSET_S:
            raise ValueError(f"utc_offset_s={self.utc_offset_s}: no whole minutes of at most a day")
        shift_s = bucket_shift_s(self.bucket_s, self.utc_offset_s)
        if any((edge + shift_s) % self.bucket_s for edge in (self.since, self.until)):
            raise ValueError(
                f"since={self.since}, until={self.until}: no edges of buckets of {self.bucket_s} s"
            )
        if self.until < self.since:
            raise ValueError(f"until={self.until} lies before since={self.since}")

    @property
    def buckets(self) -> int:
        """How many buckets there are."""
        return int((self.until - self.since) // self.bucket_s)

    @property
    def shift_s(self) -> int:
        """What is added to an instant before it is divided by the size of a bucket."""
        return bucket_shift_s(self.bucket_s, self.utc_offset_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which requests and attempts count. An empty tuple: all.

    Outcomes are those of requests. An attempt does not tell how its request ended, so that figures of attempts
    (failovers, latency and failures of providers, consumption) do not look at `outcomes`.
    """

    providers: tuple[str, ...] = ()
    """Of a request: it took part (asked first, answered, or in any attempt). Of an attempt or a state: it is the one."""
    instances: tuple[str, ...] = ()
    """Names of the processes that wrote the lines, those of states too. Lines without a name are left out by any."""
    routes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    """ok, error, cancelled; "rescued" (answered after a failover); "degraded" (answered by the embedded model)."""
    drills: bool = False
    """False: requests and attempts with an injected fault are left out."""


def window(
    since: float | None,
    until: float,
    *,
    first_ts: float | None,
    utc_offset_s: int = 0,
    most_buckets: int = 120,
) -> Window:
    """Snap a wanted range outwards to whole buckets of the smallest size that gives at most `most_buckets`.

    `since` None: all there is, from `first_ts` (Coverage.first_ts) on; where that is None or later than `until`, the
    last bucket. Days are the largest buckets, so that a range of more than `most_buckets` days has more of them. An
    offset is rounded to whole minutes. Raises ValueError for less than one bucket.
    """
    if most_buckets < 1:
        raise ValueError(f"most_buckets={most_buckets}: expected at least 1")
    begin = since if since is not None else first_ts
    begin = until if begin is None else min(begin, until)
    offset_s = round(utc_offset_s / 60) * 60
    for bucket_s in BUCKETS_S:
        shift_s = bucket_shift_s(bucket_s, offset_s)
        first = math.floor((begin + shift_s) / bucket_s)
        last = max(math.ceil((until + shift_s) / bucket_s), first + 1)
        if last - first <= most_buckets or bucket_s == BUCKETS_S[-1]:
            break
    return Window(
        since=float(first * bucket_s - shift_s),
        until=float(last * bucket_s - shift_s),
        bucket_s=bucket_s,
        utc_offset_s=offset_s,
    )


def bucket_shift_s(bucket_s: int, utc_offset_s: int) -> int:
    """Return what is added to an instant before it is divided by `bucket_s`."""
    return utc_offset_s if bucket_s > _HOUR_S else 0
