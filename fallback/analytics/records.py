"""Single requests, attempts and lines of the log."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from fallback.analytics.engine import Analytics
from fallback.analytics.windows import Filters, Window

__all__ = ["Choices", "Position", "attempts", "choices", "last_position", "lines", "problems", "requests"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in the table of requests: that of its last row, as `last_position` gives it."""

    ts_us: int
    """Unix microseconds."""
    file: int
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What can be filtered by: the names that the log holds, the most frequent first."""

    providers: tuple[str, ...]
    routes: tuple[str, ...]
    sources: tuple[str, ...]


def requests(
    analytics: Analytics,
    window: Window,
    filters: Filters,
    search: str = "",
    limit: int = 200,
    before: Position | None = None,
) -> pd.DataFrame:
    """Return the newest `limit` requests of the window, newest first; further ones with `before`.

    Columns: ts, request_id, source, route, outcome, error_type, provider, model, first_provider, attempts, failovers, rescued,
    degraded, drill, duration_s, ttft_s, input_tokens, output_tokens, cost_usd. `search` is a text that one of request_id,
    provider, first_provider, model, error_type, source or route contains, whatever its case.
    """
    raise NotImplementedError


def last_position(frame: pd.DataFrame) -> Position | None:
    """Return where a frame of `requests` ends, for `before`; None where it is empty."""
    raise NotImplementedError


def attempts(analytics: Analytics, request_id: str) -> pd.DataFrame:
    """Return the attempts of one request in their order.

    Columns: attempt, role, provider, model, outcome, http_status, error_message, retry_after_s, cooldown_s, started_s,
    duration_s, ttft_s, input_tokens, output_tokens, cost_usd, probe, drill, finish_reason.
    """
    raise NotImplementedError


def lines(analytics: Analytics, request_id: str) -> pd.DataFrame:
    """Return file, line, text: the lines of the log that name the request, as they stand there."""
    raise NotImplementedError


def problems(analytics: Analytics, limit: int = 100) -> pd.DataFrame:
    """Return file, line, reason of the last `limit` lines that could not be read, the latest first."""
    raise NotImplementedError


def choices(analytics: Analytics) -> Choices:
    """Return what can be filtered by."""
    raise NotImplementedError
