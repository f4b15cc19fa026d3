"""What failover did, from usage.log of any size: small frames of figures for a window of time.

Theory of operation: `Analytics` reads what was appended to the log into a columnar cache beside it, rows and sums over
buckets alike; a figure is a function of it, a `Window` and `Filters`, and returns a small pandas frame, which is empty
but has the same columns and types where nothing happened. All instants are `datetime64[ns, UTC]`. docs/analytics.md has
the definitions.

What may not live here: Streamlit, charts, and words for people.
"""

from fallback.analytics.cache import CacheError
from fallback.analytics.calls import (
    availability,
    consumption,
    failures,
    latency_distribution,
    latency_over_time,
)
from fallback.analytics.engine import Analytics, Coverage, Refreshed
from fallback.analytics.failovers import failover_pairs, failovers_over_time
from fallback.analytics.grid import on_grid_us
from fallback.analytics.intervals import states
from fallback.analytics.latency import latency
from fallback.analytics.records import (
    Choices,
    Position,
    attempts,
    choices,
    last_position,
    lines,
    problems,
    requests,
)
from fallback.analytics.through import Through
from fallback.analytics.traffic import totals, totals_over_time
from fallback.analytics.windows import BUCKETS_S, Filters, Window, window

__all__ = [
    "BUCKETS_S",
    "Analytics",
    "CacheError",
    "Choices",
    "Coverage",
    "Filters",
    "Position",
    "Refreshed",
    "Through",
    "Window",
    "attempts",
    "availability",
    "choices",
    "consumption",
    "failover_pairs",
    "failovers_over_time",
    "failures",
    "last_position",
    "latency",
    "latency_distribution",
    "latency_over_time",
    "lines",
    "on_grid_us",
    "problems",
    "requests",
    "states",
    "totals",
    "totals_over_time",
    "window",
]
