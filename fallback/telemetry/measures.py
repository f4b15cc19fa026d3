"""From lines of the usage log to the metrics of the GenAI conventions, and those of requests.

Theory of operation: attributes hold names of the configuration and words of closed lists; anything else counts as `other`, so that
neither a caller nor a provider can make series. For that reason the model that answered by a provider's own word is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opentelemetry.metrics import Meter

from fallback.core.kinds import FailureKind
from fallback.core.plan import GiveUpReason
from fallback.telemetry.peers import Peer

__all__ = ["Measures"]

Line = Mapping[str, object]

DURATIONS_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_CHUNKS_S: Final = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
)
TOKENS: Final = tuple(4**power for power in range(14))
"""The buckets that the conventions advise."""
OTHER = "other"
_OTHER_ERROR = "_OTHER"
_KINDS = frozenset({*map(str, FailureKind), *map(str, GiveUpReason), "deadline_exceeded"})


class Measures:
    """Adds up lines with instruments of `meter`."""

    def __init__(self, meter: Meter, peers: Mapping[str, Peer]) -> None:
        self._peers = peers

        make = meter.create_histogram
        self._duration = make(
            "gen_ai.client.operation.duration", unit="s", description="Calls of providers.",
            explicit_bucket_boundaries_advisory=DURATIONS_S,
        )  # fmt: skip
        self._first_chunk = make(
            "gen_ai.client.operation.time_to_first_chunk", unit="s", description="From call to first token.",
            explicit_bucket_boundaries_advisory=FIRST_CHUNKS_S,
        )  # fmt: skip
        self._tokens = make(
            "gen_ai.client.token.usage", unit="{token}", description="Tokens of calls of providers.",
            explicit_bucket_boundaries_advisory=TOKENS,
        )  # fmt: skip
        self._requests = make(
            "fallback.request.duration", unit="s", description="Whole requests, with all their attempts.",
            explicit_bucket_boundaries_advisory=DURATIONS_S,
        )  # fmt: skip
        self._failovers = meter.create_counter(
            "fallback.failovers",
            unit="{failover}",
            description="Calls that followed another provider's failure.",
        )
        self._cost = meter.create_counter(
            "fallback.cost", unit="{USD}", description="US dollars, by the prices configured."
        )

    def take(self, line: Line) -> None:
        """Count one line."""
        match line.get("kind"):
            case "attempt":
                self._take_attempt(line)
            case "request":
                self._take_request(line)

    def _take_attempt(self, line: Line) -> None:
        about = self._about(line)
        ended = about | _error(line)
        self._duration.record(_number(line, "duration_s"), ended)
        if line.get("stream") and "time_to_first_token_s" in line:
            self._first_chunk.record(_number(line, "time_to_first_token_s"), about)
        for direction in ("input", "output"):
            if (tokens := _number(line, f"{direction}_tokens")) > 0:
                self._tokens.record(int(tokens), about | {"gen_ai.token.type": direction})
        if (cost_usd := _number(line, "cost_usd")) > 0:
            self._cost.add(cost_usd, about)
        if line.get("role") == "failover":
            reason = line.get("previous_error_type")
            self._failovers.add(
                1,
                {
                    "fallback.provider": about["fallback.provider"],
                    "fallback.previous_provider": self._provider(line.get("previous_provider")),
                    "fallback.previous_error_type": str(reason) if reason in _KINDS else OTHER,
                },
            )

    def _take_request(self, line: Line) -> None:
        outcome = line.get("outcome")
        about: dict[str, str | bool | int] = {
            "fallback.outcome": str(outcome) if outcome in {"ok", "error", "cancelled"} else OTHER,
            "fallback.rescued": bool(line.get("rescued")),
            "fallback.degraded": bool(line.get("degraded")),
            "fallback.drill": bool(line.get("drill")),
        }
        self._requests.record(_number(line, "duration_s"), about | _error(line))

    def _about(self, line: Line) -> dict[str, str | bool | int]:
        name, model = line.get("provider"), line.get("request_model")
        peer = self._peers.get(str(name))
        about: dict[str, str | bool | int] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": peer.system if peer else OTHER,
            "gen_ai.request.model": str(model) if peer and model in peer.models else OTHER,
            "fallback.provider": self._provider(name),
            "fallback.drill": bool(line.get("drill")),
        }
        if peer is not None and peer.address is not None:
            about["server.address"] = peer.address
            about["server.port"] = peer.port or 0
        return about

    def _provider(self, name: object) -> str:
        return str(name) if name in self._peers else OTHER


def _error(line: Line) -> dict[str, str | bool | int]:
    kind = line.get("error_type")
    if kind is None:
        return {}
    return {"error.type": str(kind) if kind in _KINDS else _OTHER_ERROR}


def _number(line: Line, name: str) -> float:
    value = line.get(name)
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e12 else 0.0
