"""Figures of failovers: when, why, and from whom to whom."""

from __future__ import annotations

import pandas as pd

from fallback.analytics.engine import Analytics
from fallback.analytics.windows import Filters, Window

__all__ = ["failover_pairs", "failovers_over_time"]


def failovers_over_time(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return bucket, reason (failure kind of the attempt that was left), failovers."""
    raise NotImplementedError


def failover_pairs(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return from_provider, to_provider, failovers, answered (those that ended in an answer of to_provider)."""
    raise NotImplementedError
