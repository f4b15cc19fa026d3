"""Figures of failovers: when, why, and from whom to whom.

Definitions. A failover is an attempt with the role `failover`, in the bucket in which it ended. Its reason is the outcome of the
attempt that was left; "" where the log does not tell. A filter by provider is one by the provider that was gone to.
"""

from __future__ import annotations

import pandas as pd

from fallback.analytics.engine import Analytics
from fallback.analytics.frames import INSTANT, TEXT, WHOLE, frame
from fallback.analytics.grid import MICRO
from fallback.analytics.selection import Selection
from fallback.analytics.windows import Filters, Window

__all__ = ["failover_pairs", "failovers_over_time"]


def failovers_over_time(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return bucket, reason (failure kind of the attempt that was left), failovers; by bucket and reason.

    Buckets without a failover have no row. Raises CacheError.
    """
    chosen = Selection(window=window, filters=filters)
    rows = analytics.ask(
        f"""SELECT {chosen.bucket()} * {MICRO}, previous_error_type, sum(n)::BIGINT FROM {chosen.attempt_sums()}
            WHERE role = 'failover' GROUP BY ALL ORDER BY ALL""",
        chosen.values,
    )
    return frame(rows, {"bucket": INSTANT, "reason": TEXT, "failovers": WHOLE})


def failover_pairs(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return from_provider, to_provider, failovers, answered (those that ended in an answer of to_provider).

    The most frequent pair comes first. Raises CacheError.
    """
    chosen = Selection(window=window, filters=filters)
    rows = analytics.ask(
        f"""SELECT previous_provider, provider, sum(n)::BIGINT AS failovers,
                coalesce(sum(n) FILTER (WHERE outcome = 'ok'), 0)::BIGINT
            FROM {chosen.attempt_sums()} WHERE role = 'failover'
            GROUP BY ALL ORDER BY failovers DESC, previous_provider, provider""",
        chosen.values,
    )
    return frame(rows, {"from_provider": TEXT, "to_provider": TEXT, "failovers": WHOLE, "answered": WHOLE})
