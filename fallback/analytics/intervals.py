"""The states of providers as intervals."""

from __future__ import annotations

import pandas as pd

from fallback.analytics.engine import Analytics
from fallback.analytics.windows import Filters, Window

__all__ = ["states"]


def states(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return provider, state, begin, end, reason: intervals cut to the window, without overlaps for each provider.

    States: ready, cooling_down, disabled, off, not_configured, drill.
    """
    raise NotImplementedError
