"""How long answers of each provider take, over the whole window.

Definitions are those of `latency_over_time`: attempts that answered, quantiles as in `grid`. What may not live here: courses over time.
"""

from __future__ import annotations

import pandas as pd

from fallback.analytics.engine import Analytics
from fallback.analytics.frames import NUMBER, TEXT, WHOLE, frame, seconds
from fallback.analytics.selection import Selection, quantiles
from fallback.analytics.windows import Filters, Window

__all__ = ["latency"]


def latency(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return provider, role ("direct", "failover"), answers, p50_s, p95_s, p99_s. Raises CacheError."""
    chosen = Selection(window=window, filters=filters)
    role = "CASE WHEN failover THEN 'failover' ELSE 'direct' END AS role"
    histogram = f"(SELECT provider, {role}, grid, n FROM {chosen.attempt_durations()})"
    query = f"{quantiles(histogram, ('provider', 'role'), (50, 95, 99))} ORDER BY ALL"
    ranks = dict.fromkeys(("p50_s", "p95_s", "p99_s"), NUMBER)
    made = frame(
        analytics.ask(query, chosen.values), {"provider": TEXT, "role": TEXT, "answers": WHOLE, **ranks}
    )
    return made.assign(**{rank: seconds(made[rank]) for rank in ranks})
