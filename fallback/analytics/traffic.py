"""Figures of requests: how many, how they ended, what they took."""

from __future__ import annotations

import pandas as pd

from fallback.analytics.engine import Analytics
from fallback.analytics.windows import Filters, Window

__all__ = ["totals", "totals_over_time"]


def totals(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return one row of figures.

    Columns: requests, answered, failed, cancelled, degraded, rescued, success_rate, success_rate_without_failover,
    failovers, failover_rate, latency_p50_s, latency_p95_s, ttft_p50_s, ttft_p95_s, input_tokens, output_tokens, cost_usd,
    unpriced (answers without a cost), cost_per_1k_answers_usd.
    """
    raise NotImplementedError


def totals_over_time(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return `bucket` and the columns of `totals`, one row for every bucket of the window, oldest first."""
    raise NotImplementedError
