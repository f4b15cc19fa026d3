"""Figures of providers: how fast they answer, how they fail, whether they were there, and what they took.

Definitions. An attempt belongs to the bucket in which it ended. Its role is "failover" where it was one, else "direct". Latency
is the duration of attempts that answered; quantiles as in `grid`. Availability leaves out cancelled attempts and those that
failed by the caller's own fault (tables.CALLERS_FAULT), and in the whole the requests that did; its nines are
-log10(1 - availability), infinity where nothing failed.

What may not live here: figures of requests, but for the availability of the whole.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from fallback.analytics.engine import Analytics
from fallback.analytics.frames import INSTANT, NUMBER, TEXT, WHOLE, frame, seconds
from fallback.analytics.grid import MICRO
from fallback.analytics.selection import Selection, quantiles
from fallback.analytics.tables import CALLERS_FAULT, PICO
from fallback.analytics.windows import Filters, Window

__all__ = ["availability", "consumption", "failures", "latency_distribution", "latency_over_time"]

_ROLE = "CASE WHEN failover THEN 'failover' ELSE 'direct' END AS role"
_RENARD = (100, 125, 160, 200, 250, 315, 400, 500, 630, 800)
"""Ten steps to a decade (ISO 3, R10), in tens of microseconds: exact in decimals, unlike powers of 10^0.1."""
_DECADES = 7
_EDGES_US = (0, *(step * 10 ** (decade + 1) for decade in range(_DECADES) for step in _RENARD), 10**16)
"""Edges of the bins: 0, then from 1 ms to 8,000 s, and what is longer."""


def latency_over_time(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return bucket, provider, role ("direct", "failover"), answers, p50_s, p95_s, p99_s of attempts that answered.

    Buckets without an answer have no row. Raises CacheError.
    """
    chosen = Selection(window=window, filters=filters)
    histogram = f"""(SELECT {chosen.bucket()} * {MICRO} AS bucket, provider, {_ROLE}, grid, n
        FROM {chosen.attempt_durations()})"""
    keys = ("bucket", "provider", "role")
    rows = analytics.ask(f"{quantiles(histogram, keys, (50, 95, 99))} ORDER BY ALL", chosen.values)
    ranks = ("p50_s", "p95_s", "p99_s")
    kinds = {
        "bucket": INSTANT,
        "provider": TEXT,
        "role": TEXT,
        "answers": WHOLE,
        **dict.fromkeys(ranks, NUMBER),
    }
    made = frame(rows, kinds)
    return made.assign(**{rank: seconds(made[rank]) for rank in ranks})


def latency_distribution(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return provider, role, low_s, high_s, answers: bins low_s <= duration < high_s, ten to a decade from 1 ms on.

    Durations are those on the grid; empty bins have no row. Raises CacheError.
    """
    chosen = Selection(window=window, filters=filters)
    edges = ", ".join(f"({low}, {high})" for low, high in pairwise(_EDGES_US))
    rows = analytics.ask(
        f"""SELECT provider, role, low, high, sum(n)::BIGINT
            FROM (SELECT provider, {_ROLE}, grid, sum(n) AS n FROM {chosen.attempt_durations()} GROUP BY ALL) AS counted
            ASOF JOIN (VALUES {edges}) AS bins(low, high) ON counted.grid >= bins.low
            GROUP BY ALL ORDER BY ALL""",
        chosen.values,
    )
    kinds = {"provider": TEXT, "role": TEXT, "low_s": NUMBER, "high_s": NUMBER, "answers": WHOLE}
    made = frame(rows, kinds)
    return made.assign(low_s=seconds(made["low_s"]), high_s=seconds(made["high_s"]))


def failures(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return provider, kind, failures: attempts that failed; cancelled is no failure. Raises CacheError."""
    chosen = Selection(window=window, filters=filters)
    rows = analytics.ask(
        f"""SELECT provider, outcome, sum(n)::BIGINT FROM {chosen.attempt_sums()}
            WHERE outcome NOT IN ('ok', 'cancelled') GROUP BY ALL ORDER BY ALL""",
        chosen.values,
    )
    return frame(rows, {"provider": TEXT, "kind": TEXT, "failures": WHOLE})


def availability(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return day (local midnight), provider ("": the whole, of requests), calls, good, availability, nines.

    Days are local ones of the window's offset, whatever its buckets; of the first and the last only what lies in the window
    counts. A day without calls has no row. Raises CacheError.
    """
    chosen = Selection(window=window, filters=filters)
    day = f"{chosen.bucket(days=True)} * {MICRO}"
    good = "coalesce(sum(n) FILTER (WHERE outcome = 'ok'), 0)::BIGINT"
    whole = f"""SELECT {day} AS day, '' AS provider, sum(n)::BIGINT, {good} FROM {chosen.request_sums(days=True)}
        WHERE outcome <> 'cancelled' AND NOT callers_fault GROUP BY ALL"""
    single = f"""SELECT {day} AS day, provider, sum(n)::BIGINT, {good} FROM {chosen.attempt_sums(days=True)}
        WHERE outcome NOT IN {("cancelled", *CALLERS_FAULT)} GROUP BY ALL"""
    rows = analytics.ask(f"{whole} UNION ALL {single} ORDER BY day, provider", chosen.values)
    made = frame(rows, {"day": INSTANT, "provider": TEXT, "calls": WHOLE, "good": WHOLE})
    bad = (made["calls"] - made["good"]) / made["calls"]
    with np.errstate(divide="ignore"):
        nines = -np.log10(bad.to_numpy(dtype="float64"))
    return made.assign(availability=(made["good"] / made["calls"]).astype(NUMBER), nines=nines + 0.0)


def consumption(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return bucket, provider, answers, input_tokens, output_tokens, cost_usd, unpriced (answers without a cost).

    Tokens and cost are those of all attempts, failed ones included. Raises CacheError.
    """
    chosen = Selection(window=window, filters=filters)
    rows = analytics.ask(
        f"""SELECT {chosen.bucket()} * {MICRO}, provider, coalesce(sum(n) FILTER (WHERE outcome = 'ok'), 0)::BIGINT,
                sum(input_tokens)::BIGINT, sum(output_tokens)::BIGINT, sum(cost_pico)::BIGINT, sum(unpriced)::BIGINT
            FROM {chosen.attempt_sums()} GROUP BY 1, 2 ORDER BY 1, 2""",
        chosen.values,
    )
    counts = ("answers", "input_tokens", "output_tokens", "cost_usd", "unpriced")
    made = frame(rows, {"bucket": INSTANT, "provider": TEXT, **dict.fromkeys(counts, WHOLE)})
    return made.assign(cost_usd=made["cost_usd"] / PICO)
