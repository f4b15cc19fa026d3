"""Logs for the tests of the analytics: lines as the program writes them, and folders of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

Line = dict[str, object]

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()


def stamp(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def request(ts: float, request_id: str, *, provider: str | None = "groq", **fields: object) -> Line:
    line: Line = {
        "schema": 1,
        "ts": stamp(ts),
        "kind": "request",
        "request_id": request_id,
        "source": "api",
        "route": "auto",
        "outcome": "ok" if provider else "error",
        "provider": provider,
        "first_provider": provider,
        "attempts": 1,
        "failovers": 0,
        "rescued": False,
        "degraded": False,
        "duration_s": 1.0,
        "drill": False,
        **fields,
    }
    return {name: value for name, value in line.items() if value is not None}


def attempt(ts: float, request_id: str, *, provider: str = "groq", **fields: object) -> Line:
    line: Line = {
        "schema": 1,
        "ts": stamp(ts),
        "kind": "attempt",
        "request_id": request_id,
        "source": "api",
        "route": "auto",
        "attempt": 1,
        "role": "first",
        "provider": provider,
        "request_model": "m",
        "outcome": "ok",
        "started_s": 0.0,
        "duration_s": 1.0,
        "probe": False,
        "drill": False,
        **fields,
    }
    return {name: value for name, value in line.items() if value is not None}


def change(ts: float, provider: str, before: str, after: str, **fields: object) -> Line:
    return {
        "schema": 1,
        "ts": stamp(ts),
        "kind": "state",
        "provider": provider,
        "from": before,
        "to": after,
        "by": "router",
        **fields,
    }


def rescue(
    ts: float, request_id: str, *, failed: str, answered: str, kind: str = "rate_limited"
) -> list[Line]:
    """A request that `failed` refused and `answered` answered."""
    return [
        attempt(ts - 1, request_id, provider=failed, outcome=kind, error_type=kind, duration_s=0.25),
        attempt(
            ts,
            request_id,
            provider=answered,
            attempt=2,
            role="failover",
            previous_provider=failed,
            previous_error_type=kind,
            duration_s=0.75,
        ),
        request(
            ts, request_id, provider=answered, first_provider=failed, attempts=2, failovers=1, rescued=True
        ),
    ]


def encoded(line: Line) -> bytes:
    return json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def append(path: Path, lines: Iterable[Line]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.writelines(encoded(line) for line in lines)
