"""Logs as no program of ours would write them, and as a folder nevertheless comes to hold them. Hypothesis strategies.

Fields are missing or of a wrong type, lines are torn, glued, blank or no JSON at all, requests share an id, attempts come
without their request and after it, names are unheard of, clocks go back, and two writers' lines are mixed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

__all__ = ["BEGIN", "INSTANCES", "LAST", "PROVIDERS", "ROUTES", "SOURCES", "logs"]

BEGIN = datetime(2026, 11, 20, 22, 30, tzinfo=UTC).timestamp()
LAST = BEGIN + 3 * 86_400.0
"""Lines lie between these instants, but for a few that lie years away."""

PROVIDERS = ("groq_llama", "together_llama", "local", "Größe", "gone since")
ROUTES = ("auto", "groq_llama", "m/1")
INSTANCES = ("replica-a", "replica-b")
SOURCES = ("api", "chat", "test")
KINDS = (
    *("rate_limited", "timeout", "connection", "content_policy", "context_window_exceeded"),
    *("invalid_request", "request_too_large", "cancelled", "never heard of"),
)
STATES = ("ready", "cooling_down", "disabled", "retired", "off", "on", "not_configured", "drill", "no_drill")
_IDS = tuple(f"r{number}" for number in range(12))

_seconds = st.one_of(
    st.integers(0, 5_000_000).map(lambda us: us / 1e6),
    st.integers(0, 90).map(float),
    st.integers(0, 7),
    st.sampled_from((0.0, 0.000999, 0.001, 0.9995, 1.235, 1.245, 9.995, 10.0, 99.95, 100.0, 12_345.678901)),
)
_tokens = st.integers(0, 20_000)
_usd = st.one_of(st.integers(0, 10**9).map(lambda pico: pico / 1e12), st.just(0.0), st.just(0))
_odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(2**63, 2**65),
    st.floats(-2.0, 2.0),
    st.text(max_size=5),
    st.just([1]),
    st.just({"a": None}),
    st.just("2026-13-45T99:99:99Z"),
)
"""What may stand where something else is meant to."""


def _is_short(value: object) -> bool:
    return not isinstance(value, float) and not (isinstance(value, int) and abs(value) > 3)


_OFFSETS = (-210, 120)
"""Minutes from UTC."""


def _ts(unix_s: float, form: int) -> str:
    moment = datetime.fromtimestamp(unix_s, UTC)
    if form == 1:
        return moment.isoformat()  # with +00:00, and with microseconds or without
    if form in _OFFSETS:
        return moment.astimezone(timezone(timedelta(minutes=form))).isoformat()
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_instants = st.one_of(
    st.floats(BEGIN, LAST),
    st.integers(0, 72).map(lambda hours: BEGIN + hours * 3600.0 + 1800.0),
    st.sampled_from((0.0, BEGIN - 400 * 86_400, LAST + 400 * 86_400)),
)


def _mapping(
    needed: Mapping[str, st.SearchStrategy[Any]], **optional: st.SearchStrategy[Any]
) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(dict(needed), optional=dict(optional))


_called: dict[str, st.SearchStrategy[Any]] = {
    "instance": st.sampled_from(INSTANCES),
    "source": st.sampled_from(SOURCES),
    "route": st.sampled_from(ROUTES),
    "request_id": st.sampled_from(_IDS),
    "request_model": st.sampled_from(("m/1", "m/2")),
    "duration_s": _seconds,
    "time_to_first_token_s": _seconds,
    "input_tokens": _tokens,
    "output_tokens": _tokens,
    "cost_usd": _usd,
    "drill": st.booleans(),
    "error_message": st.text(max_size=8),
    "http_status": st.integers(200, 599),
    "finish_reason": st.sampled_from(("stop", "length")),
    "new field": st.integers(),
}
_request = _mapping(
    {"kind": st.just("request"), "outcome": st.sampled_from(("ok", "ok", "ok", "error", "cancelled", "odd"))},
    **_called,
    provider=st.sampled_from(PROVIDERS),
    first_provider=st.sampled_from(PROVIDERS),
    error_type=st.sampled_from(KINDS),
    attempts=st.integers(0, 4),
    failovers=st.integers(0, 3),
    rescued=st.booleans(),
    degraded=st.booleans(),
)
_attempt = _mapping(
    {
        "kind": st.just("attempt"),
        "outcome": st.one_of(st.just("ok"), st.sampled_from(KINDS)),
        "provider": st.sampled_from(PROVIDERS),
    },
    **_called,
    attempt=st.integers(1, 4),
    role=st.sampled_from(("first", "retry", "other")),
    error_type=st.sampled_from(KINDS),
    retry_after_s=_seconds,
    cooldown_s=_seconds,
    started_s=_seconds,
    probe=st.booleans(),
)
_TOLD = ("previous_provider", "previous_error_type")
_failover = st.builds(
    lambda attempt, provider, kind: {
        **attempt,
        "role": "failover",
        "previous_provider": provider,
        "previous_error_type": kind,
    },
    _attempt,
    st.sampled_from(PROVIDERS),
    st.sampled_from(KINDS),
)
"""One that tells whom it left: without that it needs the attempt before, and only whole stories have one."""
_change = _mapping(
    {
        "kind": st.just("state"),
        "provider": st.sampled_from(PROVIDERS),
        "from": st.sampled_from(STATES),
        "to": st.sampled_from(STATES),
    },
    instance=st.sampled_from(INSTANCES),
    request_id=st.sampled_from(_IDS),
    model=st.sampled_from(("m/1", "m/2")),
    reason=st.text(max_size=6),
    length_s=_seconds,
    by=st.sampled_from(("router", "dashboard")),
)
_unheard_of = _mapping({"kind": st.one_of(st.just("lunch"), _odd)}, **_called)


@st.composite
def _story(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A request as the program writes it, older programs' lines without the last two fields among them."""
    request_id = "story"  # told apart from others by `_lines`
    source, route = draw(st.sampled_from(SOURCES)), draw(st.sampled_from(ROUTES))
    count = draw(st.integers(1, 3))
    asked = [draw(st.sampled_from(PROVIDERS)) for _ in range(count)]
    kinds = [draw(st.sampled_from(KINDS)) for _ in range(count - 1)] + ["ok"]
    told = draw(st.booleans())
    instance = {"instance": draw(st.sampled_from(INSTANCES))}
    lines: list[dict[str, Any]] = []
    for place, (provider, outcome) in enumerate(zip(asked, kinds, strict=True)):
        line = {**draw(_attempt), "request_id": request_id, "source": source, "route": route, **instance}
        line |= {"attempt": place + 1, "provider": provider, "outcome": outcome, "drill": False}
        line["role"] = "failover" if place else "first"
        if place and told:
            line |= {"previous_provider": asked[place - 1], "previous_error_type": kinds[place - 1]}
        lines.append(line)
    request = {**draw(_request), "request_id": request_id, "source": source, "route": route, "outcome": "ok"}
    request |= instance | {
        "provider": asked[-1],
        "first_provider": asked[0],
        "attempts": count,
        "failovers": count - 1,
    }
    return [*lines, request | {"rescued": asked[0] != asked[-1], "drill": False}]


@st.composite
def _spoiled(draw: st.DrawFn) -> dict[str, Any]:
    """A line some of whose fields are missing or of a wrong type."""
    line: dict[str, Any] = dict(draw(st.one_of(_request, _attempt, _failover, _change, _unheard_of)))
    for name in draw(st.lists(st.sampled_from(sorted(set(line) - set(_TOLD))), max_size=2)):
        if draw(st.booleans()):
            line.pop(name, None)
        else:
            odd = draw(_odd)
            # How a number is written where a text is meant is left open for long ones.
            if not isinstance(line.get(name), str) or _is_short(odd):
                line[name] = odd
    return line


def _encoded(line: Mapping[str, Any], ts: object) -> bytes:
    # Python's own encoder, because it writes numbers beyond 64 bits as well.
    return json.dumps({"schema": 1, "ts": ts, **line}, separators=(",", ":"), ensure_ascii=False).encode()


_NO_LINES = (
    b'{"kind":"request","outcome":"ok","ts":"2026-11-21T12:00:00.000Z"}',
    b'{"schema":2,"ts":"2026-11-21T12:00:00.000Z","kind":"request","outcome":"ok"}',
    b"",
    b"   ",
    b"\0\0\0\0",
    b"{}",
    b"[]",
    b"7",
    b'{"schema":1,"ts":"2026-11-21T10:00:00.000Z","kind":"requ',
    b'{"schema":1,"ts":"2026-11-2{"schema":1,"ts":"2026-11-21T10:00:00.000Z","kind":"request","outcome":"ok","source":"glued"}',
    b'\0\0\0{"schema":1,"ts":"2026-11-21T11:00:00.000Z","kind":"request","outcome":"ok","source":"after NULs"}',
    b'{"schema":1,"ts":"2026-11-21T10:00:00.000Z","kind":"request","outcome":"ok","source":"\\ud800"}',
    b'{"schema":1,"ts":"2026-11-21T10:00:00.000Z","kind":"request","outcome":"ok","duration_s":NaN}',
    b'{"schema":1,"ts":"2026-11-21T10:00:00.000Z","kind":"request","outcome":"ok"} {"schema":1}',
    b'{"schema":1,"ts":"2026-11-21T10:00:00.000","kind":"request","outcome":"ok"}',
    b'{"schema":1,"ts":1795000000,"kind":"request","outcome":"ok"}',
    b"\xff\xfe\x00 not text",
    b'{"schema":1,"ts":"2026-11-21T10:00:00.000Z","kind":"request","outcome":"ok","source":"\xff"}',
    b"Traceback (most recent call last):",
    b'{"schema":1,"ts":"2026-11-21T10:00:00.000Z","kind":"request","outcome":"ok"}\r',
)

_LEGACY = (
    "Attempting invocation with {a}...",
    "Using {a} (m/1)",
    "Error with {a}: 429 Client Error: Too Many Requests",
    "Error with {a}: HTTPSConnectionPool(host='api'): Read timed out.",
    "{a} is disabled for 5.0 minutes",
    "Invoking {b} as fallback...",
    "Using fallback {b} (m/2)",
    "Successfully generated response using fallback {b}",
    "Successfully generated response using {a}",
    "Server started",
)


@st.composite
def _legacy(draw: st.DrawFn) -> bytes:
    moment = datetime.fromtimestamp(draw(st.floats(BEGIN, LAST)), UTC)
    message = draw(st.sampled_from(_LEGACY)).format(
        a=draw(st.sampled_from(PROVIDERS[:2])), b=draw(st.sampled_from(PROVIDERS[1:4]))
    )
    stamp = moment.strftime("%Y-%m-%d %H:%M:%S")
    return f"{stamp},{moment.microsecond // 1000:03d} - root - INFO - {message}".encode()


@st.composite
def _lines(draw: st.DrawFn, name: str, *, legacy: bool) -> list[bytes]:
    """What one writer wrote."""
    sorts = [
        _story(),
        st.builds(lambda line: [line], _spoiled()),
        st.sampled_from([[raw] for raw in _NO_LINES]),
    ]
    if legacy:
        sorts.append(st.builds(lambda line: [line], _legacy()))
    written: list[bytes] = []
    now = draw(st.floats(BEGIN, LAST))
    for block in draw(st.lists(st.one_of(sorts), max_size=12)):
        # Blocks follow each other closely, but now and then the clock is set.
        now = draw(_instants) if draw(st.integers(0, 7)) == 0 else min(now + draw(st.floats(0, 9000)), LAST)
        for place, line in enumerate(block):
            if isinstance(line, bytes):
                written.append(line)
                continue
            now += draw(st.floats(0, 900))
            told = (
                {"request_id": f"{name} {len(written) - place}"} if line.get("request_id") == "story" else {}
            )
            written.append(
                _encoded({**line, **told}, _ts(now, draw(st.sampled_from((0, 0, 0, 1, *_OFFSETS)))))
            )
    return written


@st.composite
def logs(draw: st.DrawFn, *, legacy: bool = False) -> bytes:
    """The bytes of a log that two programs wrote at once; its last line may have no end."""
    one, two = draw(_lines("one", legacy=legacy)), draw(_lines("two", legacy=False))
    mixed: list[bytes] = []
    while one or two:
        source = (one or two) if draw(st.booleans()) else (two or one)
        mixed.append(source.pop(0))
    content = b"".join(line + b"\n" for line in mixed)
    return content[:-1] if draw(st.booleans()) and content else content
