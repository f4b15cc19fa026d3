"""Figures of requests: how many, how they ended, what they took.

Definitions. success_rate = answered / (answered + failed); without failover, the rescued ones would not have been answered.
failover_rate = requests with a failover / requests, cancelled ones included. Latency and time to first token are those of
answered requests, quantiles as in `grid`. A rate or quantile of nothing is NaN.

What may not live here: figures of single providers.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from fallback.analytics.engine import Analytics
from fallback.analytics.frames import INSTANT, NUMBER, WHOLE, frame, instants, ratio, seconds
from fallback.analytics.grid import MICRO
from fallback.analytics.selection import Selection, quantiles
from fallback.analytics.tables import PICO
from fallback.analytics.windows import Filters, Window

__all__ = ["totals", "totals_over_time"]

_COUNTS = {
    "requests": "n",
    "answered": "n FILTER outcome = 'ok'",
    "failed": "n FILTER outcome = 'error'",
    "cancelled": "n FILTER outcome = 'cancelled'",
    "degraded": "n FILTER degraded",
    "rescued": "n FILTER rescued",
    "failovers": "failovers",
    "failed_over": "n FILTER failed_over",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cost_pico": "cost_pico",
    "unpriced": "unpriced",
}
_COLUMNS = (
    *("requests", "answered", "failed", "cancelled", "degraded", "rescued"),
    *("success_rate", "success_rate_without_failover", "failovers", "failover_rate"),
    *("latency_p50_s", "latency_p95_s", "ttft_p50_s", "ttft_p95_s"),
    *("input_tokens", "output_tokens", "cost_usd", "unpriced", "cost_per_1k_answers_usd"),
)


def totals(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return one row of figures.

    Columns: requests, answered, failed, cancelled, degraded, rescued, success_rate, success_rate_without_failover,
    failovers, failover_rate, latency_p50_s, latency_p95_s, ttft_p50_s, ttft_p95_s, input_tokens, output_tokens, cost_usd,
    unpriced (answers without a cost), cost_per_1k_answers_usd. Raises CacheError.
    """
    chosen = Selection(window=window, filters=filters)
    return _figures(analytics, chosen, str(int(window.since)), [int(window.since)]).drop(columns="bucket")


def totals_over_time(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return `bucket` and the columns of `totals`, one row for every bucket of the window, oldest first.

    Raises CacheError.
    """
    chosen = Selection(window=window, filters=filters)
    buckets = range(int(window.since), int(window.until), window.bucket_s)
    return _figures(analytics, chosen, chosen.bucket(), buckets)


def _figures(
    analytics: Analytics, chosen: Selection, bucket: str, buckets: range | list[int]
) -> pd.DataFrame:
    """Return the figures of `buckets`; `bucket` is the expression for the one in which a row lies."""
    sums = ", ".join(_sum(expression) for expression in _COUNTS.values())
    counted = analytics.ask(f"SELECT {bucket}, {sums} FROM {chosen.request_sums()} GROUP BY 1", chosen.values)
    chosen.values.clear()
    histogram = f"(SELECT {bucket} AS bucket, first_token, grid, n FROM {chosen.request_durations()})"
    ranks = analytics.ask(quantiles(histogram, ("bucket", "first_token"), (50, 95)), chosen.values)
    made = frame(counted, {"bucket": WHOLE, **dict.fromkeys(_COUNTS, WHOLE)}).set_index("bucket")
    made = made.reindex(buckets, fill_value=0)
    found = frame(ranks, {"bucket": WHOLE, "first_token": "bool", "n": WHOLE, "p50": NUMBER, "p95": NUMBER})
    for name, first_token in (("latency", False), ("ttft", True)):
        of_kind = found[found["first_token"] == first_token].set_index("bucket")
        for rank in ("p50", "p95"):
            made[f"{name}_{rank}_s"] = seconds(of_kind[rank].reindex(buckets))
    ended = made["answered"] + made["failed"]
    made["success_rate"] = ratio(made["answered"], ended)
    made["success_rate_without_failover"] = ratio(made["answered"] - made["rescued"], ended)
    made["failover_rate"] = ratio(made["failed_over"], made["requests"])
    made["cost_usd"] = made["cost_pico"] / PICO
    made["cost_per_1k_answers_usd"] = made["cost_usd"] * 1_000 / made["answered"].replace(0, np.nan)
    made["bucket"] = instants(pd.Series(made.index, index=made.index) * MICRO).astype(INSTANT)
    return made[["bucket", *_COLUMNS]].reset_index(drop=True)


def _sum(expression: str) -> str:
    column, _, condition = expression.partition(" FILTER ")
    return f"coalesce(sum({column}){f' FILTER (WHERE {condition})' if condition else ''}, 0)::BIGINT"
