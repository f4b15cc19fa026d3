"""From a mapping of anything to one line of JSON.

Theory of operation: the ordinary line goes through the encoder once, and its stamp, which hardly changes from one line to the
next, is put before it as bytes that were made once. Only what the encoder refuses (a lone
surrogate, an object that is no JSON) or what comes out too long takes the slow way: a plain copy is made, and its
texts and containers are cut shorter and shorter until the line fits. Nothing that a caller puts into a line raises.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from datetime import UTC, datetime

import orjson

__all__ = ["MAX_LINE_BYTES", "SCHEMA", "as_text", "encode_line", "format_ts"]

SCHEMA = 1
"""Raised when a field changes its meaning; a new field does not raise it."""

MAX_LINE_BYTES = 65_536
"""Of one line, its newline included."""

_CUTS = (16_384, 4_096, 1_024, 256, 64, 16)
"""Characters of a text, and members of a container, that are kept: tried in turn until the line fits."""

_MAX_DEPTH = 16
_MAX_MEMBERS = 8_192
"""Of all containers of a line together; without a bound a list that holds itself twice would never end."""
_MAX_FIELDS = 256
_STAMPED = frozenset({"schema", "ts", "instance"})
_IDENTITY = ("kind", "request_id", "attempt", "provider", "request_model", "outcome")
"""What is kept of a line that fits under none of the cuts."""

# Numbers that are none (NaN, the infinities) become null by themselves.
_dumps = orjson.dumps
_HEAD = _dumps({"schema": SCHEMA})[:-1] + b',"ts":"'


def format_ts(unix_s: float) -> str:
    """Unix seconds as UTC with milliseconds: `2026-11-22T21:31:53.065Z` (RFC 3339).

    Raises ValueError, OverflowError or OSError for an instant outside the years 1 to 9999.
    """
    second, microsecond = divmod(round(unix_s * 1e6), 1_000_000)
    return f"{_second(second)}.{microsecond // 1000:03d}Z"


@functools.lru_cache(maxsize=2)
def _second(unix_s: int) -> str:
    # Kept, because lines come many to a second and the calendar costs a fifth of a line.
    return datetime.fromtimestamp(unix_s, UTC).isoformat()[:-6]


def encode_line(line: Mapping[str, object], *, ts: str, instance: str | None = None) -> bytes:
    """Stamp `line` with schema, ts and instance, and give it as one line of JSON of at most MAX_LINE_BYTES.

    NaN and the infinities become null, lone surrogates U+FFFD, what is no JSON its text. A line that was cut to fit
    says so in `cut`.
    """
    if type(line) is dict and line and _STAMPED.isdisjoint(line):
        try:
            encoded = b"".join((_HEAD, ts.encode(), _behind_ts(instance), _dumps(line)[1:], b"\n"))
        except (TypeError, ValueError, OverflowError, RecursionError):
            return _encode_slowly(line, ts, instance)
        if len(encoded) <= MAX_LINE_BYTES:
            return encoded
    return _encode_slowly(line, ts, instance)


@functools.lru_cache(maxsize=2)
def _behind_ts(instance: str | None) -> bytes:
    return b'",' if instance is None else b'","instance":' + _dumps(as_text(instance)) + b","


def _encode_slowly(line: Mapping[str, object], ts: str, instance: str | None) -> bytes:
    """Return the same for any mapping, cut where it is too long."""
    stamp: dict[str, object] = {"schema": SCHEMA, "ts": ts}
    if instance is not None:
        stamp["instance"] = instance
    fields = {**stamp, **line}
    fields.update(stamp)
    try:
        encoded = _dumps(fields) + b"\n"
    except (TypeError, ValueError, OverflowError, RecursionError):
        encoded = _dump_plain(fields, None)
    if len(encoded) <= MAX_LINE_BYTES:
        return encoded
    for limit in _CUTS if len(fields) <= _MAX_FIELDS else ():
        encoded = _dump_plain({**fields, "cut": True}, limit)
        if len(encoded) <= MAX_LINE_BYTES:
            return encoded
    identity = {name: fields[name] for name in _IDENTITY if name in fields}
    return _dump_plain({**stamp, **identity, "cut": True}, _CUTS[-1])


def as_text(value: object) -> str:
    """`value` as text that UTF-8 can hold. Raises nothing, whatever `value` is."""
    if isinstance(value, bytes | bytearray):
        text = bytes(value).decode("utf-8", "replace")
    else:
        try:
            text = str(value)
        # An object's own __str__ may raise anything, and its line is to be written all the same.
        except Exception:  # noqa: BLE001
            text = f"[{type(value).__name__}]"
    # A pair of surrogates is one character in UTF-16 and becomes it; a lone one is none in any encoding.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _dump_plain(fields: Mapping[str, object], limit: int | None) -> bytes:
    copy = _PlainCopy(limit)
    return _dumps({copy.text(name): copy.of(value) for name, value in fields.items()}) + b"\n"


class _PlainCopy:
    """Copies of values as JSON can say them, with at most `limit` characters or members where one is given."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._members_left = _MAX_MEMBERS

    def of(self, value: object, depth: int = 0) -> object:
        self._members_left -= 1
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            # Beyond 64 bits most readers refuse a number, and beyond 4,300 digits Python refuses to write it.
            return int(value) if -(2**63) <= value < 2**64 else None
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else None
        if not isinstance(value, Mapping | list | tuple | set | frozenset):
            return self.text(value)
        if depth >= _MAX_DEPTH or self._members_left <= 0:
            return "[too deep]"
        members = itertools.islice(value, self._limit)
        if isinstance(value, Mapping):
            return {self.text(name): self.of(value[name], depth + 1) for name in members}
        return [self.of(member, depth + 1) for member in members]

    def text(self, value: object) -> str:
        text = as_text(value)
        if self._limit is None or len(text) <= self._limit:
            return text
        return f"{text[: self._limit]}… [cut: {len(text)} characters]"
