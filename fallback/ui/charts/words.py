"""Figures as people read them, and what kinds of failure are called in a legend. Functions from values to texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Final

from fallback.core.errors import FailureKind
from fallback.ui.wording import account_of

__all__ = ["amount", "count", "counted", "kind_label", "moment", "money", "nines_words", "share", "why"]

_KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        FailureKind.AUTHENTICATION: "wrong key",
        FailureKind.PERMISSION_DENIED: "not permitted",
        FailureKind.QUOTA_EXHAUSTED: "out of credit",
        FailureKind.RATE_LIMITED: "rate limited",
        FailureKind.REQUEST_TOO_LARGE: "request too large",
        FailureKind.CONTEXT_WINDOW_EXCEEDED: "conversation too long",
        FailureKind.CONTENT_POLICY: "content refused",
        FailureKind.MODEL_UNAVAILABLE: "model gone",
        FailureKind.OUTPUT_REJECTED: "output rejected",
        FailureKind.INVALID_REQUEST: "invalid request",
        FailureKind.OVERLOADED: "overloaded",
        FailureKind.SERVER_ERROR: "server error",
        FailureKind.TIMEOUT: "too slow",
        FailureKind.CONNECTION: "unreachable",
        FailureKind.BLOCKED_BY_EDGE: "blocked by a gateway",
        FailureKind.MALFORMED_RESPONSE: "malformed answer",
        FailureKind.EMPTY_RESPONSE: "empty answer",
        FailureKind.STREAM_TRUNCATED: "broke off",
        FailureKind.STREAM_STALLED: "fell silent",
        FailureKind.CANCELLED: "cancelled",
    }
)


def kind_label(kind: str) -> str:
    """Return the name of a failure kind in a legend: "rate limited"; of one that is not ours as it stands."""
    return _KINDS.get(kind) or kind.replace("_", " ").strip() or "not known"


def why(kind: str) -> str:
    """Return what goes on after "because it": "is rate limited"."""
    told = account_of(kind)
    return told.what if told else f"failed ({kind_label(kind)})"


def count(number: float) -> str:
    """Return a whole number: "1,234"."""
    return f"{number:,.0f}"


def counted(number: float, one: str, many: str | None = None) -> str:
    """Return a number with its noun: "1 failover", "1,234 failovers"."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def amount(number: float) -> str:
    """Return a large number in short: "873", "12.4 k", "3.21 M", "1.05 G"."""
    if abs(number) < 9_999.5:
        return f"{number:,.0f}"
    for limit, unit in ((999_500, "k"), (999_500_000, "M"), (math.inf, "G")):
        if abs(number) < limit:
            value = number / {"k": 1e3, "M": 1e6, "G": 1e9}[unit]
            digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
            return f"{value:,.{digits}f} {unit}"
    return f"{number}"


def share(part: float | None) -> str:
    """Return a share of 0..1: "99.95 %", "8.3 %". Only all is "100 %", and only none is "0 %"; None and NaN are "—"."""
    if part is None or math.isnan(part):
        return "—"
    value = part * 100
    if value in {0.0, 100.0}:
        return f"{value:.0f} %"
    if value >= 99:
        # Rounded down: what is nearly all must not look like all.
        return f"{math.floor(value * 100) / 100:.2f} %"
    return f"{max(value, 0.01):.2f} %" if value < 1 else f"{value:.1f} %"


def money(amount_usd: float | None) -> str:
    """Return an amount of dollars: "$0", "$0.000015", "$0.0123", "$12.34", "$1,234"; None and NaN are "—"."""
    if amount_usd is None or math.isnan(amount_usd):
        return "—"
    if amount_usd == 0:
        return "$0"
    if amount_usd < 0.001:
        # Two digits that say something: the price of one answer is often a small part of a cent.
        digits = min(1 - math.floor(math.log10(amount_usd)), 9)
        return f"${max(amount_usd, 1e-9):.{digits}f}"
    if amount_usd < 1:
        return f"${amount_usd:.4f}"
    return f"${amount_usd:,.2f}" if amount_usd < 1_000 else f"${amount_usd:,.0f}"


def moment(ts: float, utc_offset_s: int, *, day: bool = True) -> str:
    """Return an instant (Unix seconds) as a clock of that offset shows it: "Tue 24 Nov 15:00"; without `day`: "15:00"."""
    zone = UTC if not utc_offset_s else timezone(timedelta(seconds=utc_offset_s))
    return datetime.fromtimestamp(ts, zone).strftime("%a %d %b %H:%M" if day else "%H:%M")


def nines_words(availability: float) -> str:
    """Return how good an availability of 0..1 is, in words of a legend: "99 % to 99.9 %"."""
    for least, words in NINES:
        if availability >= least:
            return words
    return NINES[-1][1]


NINES: Final[tuple[tuple[float, str], ...]] = (
    (1.0, "100 %"),
    (0.999, "three nines: 99.9 %"),
    (0.99, "two nines: 99 %"),
    (0.9, "one nine: 90 %"),
    (-math.inf, "less than 90 %"),
)
"""The steps of availability, the best first: from which share on, and what it is called."""
