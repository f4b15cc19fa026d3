"""Figures of providers: how fast they answer, how they fail, whether they were there, and what they took."""

from __future__ import annotations

import pandas as pd

from fallback.analytics.engine import Analytics
from fallback.analytics.windows import Filters, Window

__all__ = ["availability", "consumption", "failures", "latency_distribution", "latency_over_time"]


def latency_over_time(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return bucket, provider, role ("direct", "failover"), answers, p50_s, p95_s, p99_s of attempts that answered."""
    raise NotImplementedError


def latency_distribution(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return provider, role, low_s, high_s, answers: bins low_s <= duration < high_s, ten to a decade."""
    raise NotImplementedError


def failures(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return provider, kind, failures: attempts that failed; cancelled is no failure."""
    raise NotImplementedError


def availability(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return day (local midnight), provider ("": the whole, of requests), calls, good, availability, nines."""
    raise NotImplementedError


def consumption(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return bucket, provider, answers, input_tokens, output_tokens, cost_usd, unpriced."""
    raise NotImplementedError
