"""The figures that Prometheus reads at /metrics. docs/operations.md names every one.

Theory of operation: what happened is counted from the very lines that go to the usage log, so that API, chat and every
other caller of this process are counted in one place, and a figure and the log never disagree. What is only true now (the
state of a provider, what is under way) is asked for when somebody scrapes, and costs nothing before. The counters that a line
moves are looked up once for each combination of labels and kept; labels come from the configuration and from closed lists,
and whatever is neither counts as `other`, so that no caller can make series.

What may not live here: global state (the registry is this object's own), and anything that raises on a line it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric

from fallback.api.middleware import Rules
from fallback.api.tallies import Count, Spread, Tallies
from fallback.core.kinds import FailureKind
from fallback.core.plan import GiveUpReason
from fallback.wiring import Wiring

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
OTHER, NONE = "other", "none"
STATES = ("ready", "cooling_down", "probing", "off", "disabled", "not_configured")
_SOURCES = frozenset({"python", "api", "openai", "chat", "cli", "test", "probe", "demo"})
_ROLES = frozenset({"first", "retry", "failover"})
_KINDS = frozenset({*map(str, FailureKind), *map(str, GiveUpReason), "deadline_exceeded"})
_LATENCIES_S = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60)
_FIRST_TOKENS_S = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 20, 30)

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """What one kind of attempt line moves."""

    attempts: Count
    duration: Spread
    first_token: Spread
    input_tokens: Count
    output_tokens: Count
    cost: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What one kind of request line moves."""

    requests: Count
    duration: Spread
    first_token: Spread


class Metrics:
    """The figures of one process. `count` is called from any thread, and takes lines of the usage log."""

    def __init__(self, wiring: Wiring, rules: Callable[[], Rules | None] = lambda: None) -> None:
        """Count for the providers of `wiring`; `rules` gives those of the server, where one runs."""
        self._known = {
            name: frozenset(candidate.model for candidate in provider.candidates())
            for name, provider in wiring.context.providers.items()
        }
        self._registry = CollectorRegistry(auto_describe=False)
        self._tallies = Tallies("fallback")
        ProcessCollector(registry=self._registry)
        self._registry.register(_Now(wiring, rules))
        self._registry.register(self._tallies)
        self._define()
        self._attempts: dict[tuple[object, ...], _Attempt] = {}
        self._requests: dict[tuple[object, ...], _Request] = {}

    def _define(self) -> None:
        counter, histogram = self._tallies.counts, self._tallies.spreads
        self._request_count = counter(
            "requests", "Requests that ended.", "source", "provider", "outcome", "kind", "drill"
        )
        self._request_duration = histogram(
            "request_duration_seconds", "Whole requests.", _LATENCIES_S, "provider", "outcome"
        )
        self._request_first_token = histogram(
            "request_first_token_seconds", "From request to first token.", _FIRST_TOKENS_S, "provider"
        )
        self._attempt_count = counter(
            "attempts", "Calls of providers.", "provider", "model", "outcome", "kind", "role", "drill"
        )
        self._attempt_duration = histogram(
            "attempt_duration_seconds", "Calls of providers.", _LATENCIES_S, "provider", "outcome"
        )
        self._attempt_first_token = histogram(
            "attempt_first_token_seconds", "From call to first token.", _FIRST_TOKENS_S, "provider"
        )
        self._failovers = counter(
            "failovers",
            "Calls that followed another provider's failure.",
            "from_provider",
            "to_provider",
            "kind",
        )
        self._rescues = counter("rescues", "Answers that a failover saved.", "first_provider", "provider")
        self._degraded = counter("degraded_answers", "Answers of the embedded model.").of()
        self._seams = counter("seams", "Times that a provider went on with another's answer.", "provider")
        self._probes = counter("probes", "Calls that tried a provider after a rest.", "provider", "outcome")
        self._tokens = counter("tokens", "Tokens.", "provider", "model", "direction")
        self._cost = counter("cost_usd", "US dollars, by the prices configured.", "provider", "model")
        self._changes = counter("provider_changes", "Changes of state.", "provider", "to_state")

    def count(self, line: Line) -> None:
        """Count one line of the usage log."""
        with self._tallies.lock:
            match line.get("kind"):
                case "attempt":
                    self._count_attempt(line)
                case "request":
                    self._count_request(line)
                case "state":
                    to_state = line.get("to")
                    state = to_state if to_state in {*STATES, "retired"} else OTHER
                    self._changes.of(self._provider(line.get("provider")), state).value += 1

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats)."""
        return generate_latest(self._registry)

    def _count_attempt(self, line: Line) -> None:
        key = tuple(map(line.get, ("provider", "request_model", "outcome", "role", "source", "drill")))
        moved = self._attempts.get(key) or self._attempt(line, key)
        moved.attempts.value += 1
        moved.duration.add(line.get("duration_s", 0.0))
        if (first_token_s := line.get("time_to_first_token_s")) is not None:
            moved.first_token.add(first_token_s)
        if tokens := line.get("input_tokens"):
            moved.input_tokens.value += tokens
        if tokens := line.get("output_tokens"):
            moved.output_tokens.value += tokens
        if cost_usd := line.get("cost_usd"):
            moved.cost.value += cost_usd
        if line.get("role") == "failover":
            self._failovers.of(
                self._provider(line.get("previous_provider")),
                self._provider(line.get("provider")),
                _kind(line.get("previous_error_type")),
            ).value += 1
        if line.get("probe") or line.get("source") == "probe":
            self._probes.of(self._provider(line.get("provider")), _outcome(line.get("outcome"))).value += 1

    def _attempt(self, line: Line, key: tuple[object, ...]) -> _Attempt:
        provider = self._provider(line.get("provider"))
        model = self._model(line.get("provider"), line.get("request_model"))
        outcome = _outcome(line.get("outcome"))
        kind = NONE if outcome == "ok" else _kind(line.get("outcome"))
        role = _known(line.get("role"), _ROLES)
        if line.get("source") == "probe":
            role = "probe"
        made = _Attempt(
            attempts=self._attempt_count.of(provider, model, outcome, kind, role, _flag(line.get("drill"))),
            duration=self._attempt_duration.of(provider, outcome),
            first_token=self._attempt_first_token.of(provider),
            input_tokens=self._tokens.of(provider, model, "input"),
            output_tokens=self._tokens.of(provider, model, "output"),
            cost=self._cost.of(provider, model),
        )
        if OTHER not in {provider, model, kind, role} and line.get("source") in _SOURCES:
            # Only what comes from closed lists is kept: the rest could grow without end.
            self._attempts[key] = made
        return made

    def _count_request(self, line: Line) -> None:
        key = tuple(map(line.get, ("source", "provider", "outcome", "error_type", "drill")))
        moved = self._requests.get(key) or self._request(line, key)
        moved.requests.value += 1
        moved.duration.add(line.get("duration_s", 0.0))
        if (first_token_s := line.get("time_to_first_token_s")) is not None:
            moved.first_token.add(first_token_s)
        if line.get("rescued"):
            self._rescues.of(
                self._provider(line.get("first_provider")), self._provider(line.get("provider"))
            ).value += 1
        if line.get("degraded"):
            self._degraded.value += 1
        if seams := line.get("seams"):
            self._seams.of(self._provider(line.get("provider"))).value += seams

    def _request(self, line: Line, key: tuple[object, ...]) -> _Request:
        provider, outcome = self._provider(line.get("provider")), line.get("outcome")
        outcome = outcome if outcome in {"ok", "error", "cancelled"} else OTHER
        kind = NONE if line.get("error_type") is None else _kind(line.get("error_type"))
        source = _known(line.get("source"), _SOURCES)
        made = _Request(
            requests=self._request_count.of(source, provider, outcome, kind, _flag(line.get("drill"))),
            duration=self._request_duration.of(provider, outcome),
            first_token=self._request_first_token.of(provider),
        )
        if OTHER not in {provider, outcome, kind, source}:
            self._requests[key] = made
        return made

    def _provider(self, name: object) -> str:
        if name is None:
            return NONE
        return name if isinstance(name, str) and name in self._known else OTHER

    def _model(self, provider: object, model: object) -> str:
        known = self._known.get(provider, frozenset()) if isinstance(provider, str) else frozenset()
        return model if isinstance(model, str) and model in known else OTHER


def _kind(value: object) -> str:
    text = str(value) if value is not None else NONE
    return text if text in _KINDS or text == NONE else OTHER


def _outcome(value: object) -> str:
    match value:
        case "ok":
            return "ok"
        case "cancelled":
            return "cancelled"
        case _:
            return "error"


def _known(value: object, names: frozenset[str]) -> str:
    return value if isinstance(value, str) and value in names else OTHER


def _flag(value: object) -> str:
    return "true" if value else "false"


class _Now:
    """What is true at the moment of a scrape."""

    def __init__(self, wiring: Wiring, rules: Callable[[], Rules | None]) -> None:
        self._wiring = wiring
        self._rules = rules

    def collect(self) -> Iterable[Metric]:
        wiring = self._wiring
        states = GaugeMetricFamily(
            "fallback_provider_state", "1 for the state that a provider is in.", labels=("provider", "state")
        )
        for status in wiring.context.roster.status(wiring.context.clock()):
            for state in STATES:
                states.add_metric((status.name, state), float(status.state == state))
        yield states
        yield GaugeMetricFamily(
            "fallback_ready",
            "Whether some provider can be asked.",
            value=float(wiring.context.roster.ready(wiring.context.clock())),
        )
        yield GaugeMetricFamily(
            "fallback_shared_state_ok",
            "Whether what all processes share can be read and written.",
            value=float(wiring.switchboard.warning is None),
        )
        yield CounterMetricFamily(
            "fallback_log_lines", "Lines written to usage.log.", value=wiring.log.lines_written
        )
        yield CounterMetricFamily(
            "fallback_log_failures", "Lines that could not be written.", value=wiring.log.failures
        )
        telemetry = wiring.exporting.telemetry
        exported = CounterMetricFamily(
            "fallback_telemetry", "What became of what was to be exported.", labels=("fate",)
        )
        for fate in ("exported", "lost", "dropped"):
            exported.add_metric((fate,), 0 if telemetry is None else getattr(telemetry, fate))
        yield exported
        rules = self._rules()
        if rules is not None:
            yield from _server(rules)


def _server(rules: Rules) -> Iterable[Metric]:
    yield GaugeMetricFamily(
        "fallback_http_requests_in_flight",
        "Requests under /api and /v1 that are under way.",
        value=rules.admission.in_flight,
    )
    yield GaugeMetricFamily("fallback_http_connections", "Open connections.", value=len(rules.connections))
    yield CounterMetricFamily(
        "fallback_http_connections_cut", "Connections that met a limit.", value=rules.connections.cut_off
    )
    refused = CounterMetricFamily(
        "fallback_http_refused", "Requests that were turned down before any provider.", labels=("reason",)
    )
    for reason, count in sorted(rules.refused.items()):
        refused.add_metric((reason,), count)
    yield refused
