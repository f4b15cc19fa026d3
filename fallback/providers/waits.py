"""How long a provider asks us to stay away, and what is left of its rate limit.

Sources: RFC 9110 section 10.2.3 (Retry-After), https://console.groq.com/docs/rate-limits (retry-after in seconds, resets
as "7m12.5s"), https://docs.together.ai/docs/rate-limits (x-ratelimit-reset in seconds, maybe fractional).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from fallback.core.models import Headroom

__all__ = ["MAX_WAIT_S", "headroom", "parse_duration_s", "retry_after_s"]

MAX_WAIT_S = 86_400.0
_EPOCH_BEGINS = 1e9

_TRY_AGAIN = re.compile(r"try again in\s+((?:\d+(?:\.\d+)?(?:ms|d|h|m|s))+)", re.IGNORECASE)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|d|h|m|s)", re.IGNORECASE)
_HEADROOM = frozenset(
    f"x-ratelimit-{what}-{unit}"
    for what in ("limit", "remaining", "reset")
    for unit in ("requests", "tokens")
)
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def parse_duration_s(text: str) -> float | None:
    """Return "7m12.5s", "44ms", "3h20m9.6s" or a bare number in seconds; None for anything else."""
    text = text.strip()
    parts = _PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNIT_S[unit.lower()] for number, unit in parts)
    return _number(text)


def retry_after_s(headers: Mapping[str, str], message: str, *, wall: float | None = None) -> float | None:
    """Return the longest wait that `headers` (lower-case names) or `message` ask for, 0..86,400 s; None: none do.

    `wall` is the Unix time now, for a Retry-After that is a date; the response's own Date comes before it. A value too
    large to be a number counts as the longest wait, NaN and negative ones do not count.
    """
    waits = [
        _scaled(_number(headers.get("retry-after-ms", "")), 0.001),
        _retry_after(headers, wall),
        _rate_limit_reset(headers, wall),
    ]
    found = _TRY_AGAIN.search(message)
    if found:
        waits.append(parse_duration_s(found.group(1)))
    known = [wait for wait in waits if wait is not None]
    return min(max(known), MAX_WAIT_S) if known else None


def headroom(headers: Mapping[str, str]) -> Headroom | None:
    """Return what the x-ratelimit-* headers say is left; None where there are none of them."""
    if _HEADROOM.isdisjoint(headers):
        return None
    found = Headroom(
        limit_requests=_count(headers, "x-ratelimit-limit-requests"),
        remaining_requests=_count(headers, "x-ratelimit-remaining-requests"),
        reset_requests_s=_reset(headers, "x-ratelimit-reset-requests"),
        limit_tokens=_count(headers, "x-ratelimit-limit-tokens"),
        remaining_tokens=_count(headers, "x-ratelimit-remaining-tokens"),
        reset_tokens_s=_reset(headers, "x-ratelimit-reset-tokens"),
    )
    return None if found == Headroom() else found


def _retry_after(headers: Mapping[str, str], wall: float | None) -> float | None:
    value = headers.get("retry-after", "").strip()
    number = _number(value)
    if number is not None or not value:
        return number
    ends = _date(value)
    now = _date(headers.get("date", ""))
    now = wall if now is None else now
    if ends is None or now is None:
        return None
    return max(0.0, ends - now)


def _rate_limit_reset(headers: Mapping[str, str], wall: float | None) -> float | None:
    value = _number(headers.get("x-ratelimit-reset", ""))
    if value is None or value < _EPOCH_BEGINS:
        return value
    # Together sends seconds from now; others send the instant, in seconds or milliseconds of Unix time.
    instant = value / 1000.0 if value >= _EPOCH_BEGINS * 1000.0 else value
    return None if wall is None else max(0.0, instant - wall)


def _date(value: str) -> float | None:
    try:
        date = parsedate_to_datetime(value)
        # The asctime form names no zone; RFC 9110 has it in UTC, Python in the zone of this machine.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) or value < 0 else value


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _count(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _reset(headers: Mapping[str, str], name: str) -> float | None:
    length_s = parse_duration_s(headers.get(name, ""))
    return None if length_s is None else min(length_s, MAX_WAIT_S)
