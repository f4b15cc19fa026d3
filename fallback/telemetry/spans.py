"""From lines of the usage log to spans: one for each request, with a child for each of its attempts.

Theory of operation: the lines of the attempts come before that of their request, and wait for it; a probe beside the requests is a span
of its own. A line is told at its end, and says how long it took, so that a span gets the times that it had. Which fields become
attributes stands in tables; what is in none of them is not exported.

What may not live here: I/O, and the clock.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from fallback.telemetry.peers import Peer
from fallback.usage_log.encode import as_text

__all__ = ["Assembly"]

Line = Mapping[str, object]
Value = str | bool | int | float

MOST_CHARACTERS = 256
"""Of one text: names of models and the like come from callers and providers."""
_OPERATION = "chat"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

_BOTH: Final = {
    "request_model": "gen_ai.request.model",
    "response_model": "gen_ai.response.model",
    "stream": "gen_ai.request.stream",
    "time_to_first_token_s": "gen_ai.response.time_to_first_chunk",
    "error_type": "error.type",
    "http_status": "http.response.status_code",
    "request_id": "fallback.request_id",
    "source": "fallback.source",
    "route": "fallback.route",
    "provider": "fallback.provider",
    "cost_usd": "fallback.cost_usd",
    "usage_estimated": "fallback.usage_estimated",
    "drill": "fallback.drill",
}
_ATTEMPT: Final = {
    **_BOTH,
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "attempt": "fallback.attempt",
    "role": "fallback.role",
    "previous_provider": "fallback.previous_provider",
    "previous_error_type": "fallback.previous_error_type",
    "continues": "fallback.continues",
    "retry_after_s": "fallback.retry_after_s",
    "cooldown_s": "fallback.cooldown_s",
    "disabled": "fallback.disabled",
    "probe": "fallback.probe",
    "skipped_events": "fallback.skipped_events",
}
_REQUEST: Final = {
    **_BOTH,
    "outcome": "fallback.outcome",
    "first_provider": "fallback.first_provider",
    "attempts": "fallback.attempts",
    "failovers": "fallback.failovers",
    "rescued": "fallback.rescued",
    "seams": "fallback.seams",
    "degraded": "fallback.degraded",
    "api_key_name": "fallback.api_key_name",
    # Under a name of its own: whoever adds up the tokens of all spans would count those of the attempts twice.
    "input_tokens": "fallback.usage.input_tokens",
    "output_tokens": "fallback.usage.output_tokens",
}


class Assembly:
    """Makes spans with `tracer`. Attempts of at most `most_open` requests wait for the end of theirs."""

    def __init__(self, tracer: Tracer, peers: Mapping[str, Peer], *, most_open: int) -> None:
        self.dropped = 0
        """Attempts that were given up, because their request did not end and others came."""
        self._tracer = tracer
        self._peers = peers
        self._most_open = most_open
        self._waiting: OrderedDict[object, list[tuple[float, Line]]] = OrderedDict()

    def take(self, wall_s: float, line: Line) -> None:
        """Take one line that was told at `wall_s`, Unix seconds. Lines without sense are passed over."""
        kind, request_id = line.get("kind"), line.get("request_id")
        if kind == "attempt" and line.get("source") == "probe":
            self._attempt(line, wall_s - _seconds(line, "duration_s"), None)
        elif kind == "attempt":
            self._waiting.setdefault(request_id, []).append((wall_s, line))
            if len(self._waiting) > self._most_open:
                self.dropped += len(self._waiting.popitem(last=False)[1])
        elif kind == "request":
            self._request(wall_s, line, self._waiting.pop(request_id, []))

    def _request(self, wall_s: float, line: Line, attempts: list[tuple[float, Line]]) -> None:
        begin = wall_s - _seconds(line, "duration_s")
        attributes = self._attributes(line, _REQUEST)
        span = self._tracer.start_span(
            _OPERATION,
            context=_parent(line.get("traceparent")),
            kind=SpanKind.SERVER if line.get("source") == "api" else SpanKind.INTERNAL,
            attributes=attributes,
            start_time=_nanoseconds(begin),
        )
        if span.is_recording():
            within = set_span_in_context(span, Context())
            for _, attempt in attempts:
                self._attempt(attempt, begin + _seconds(attempt, "started_s"), within)
        if line.get("outcome") == "error":
            span.set_status(Status(StatusCode.ERROR))
        span.end(_nanoseconds(wall_s))

    def _attempt(self, line: Line, begin: float, within: Context | None) -> None:
        span = self._tracer.start_span(
            f"{_OPERATION} {_text(str(line.get('request_model', '')))}".rstrip(),
            context=within or Context(),
            kind=SpanKind.CLIENT,
            attributes=self._attributes(line, _ATTEMPT),
            start_time=_nanoseconds(begin),
        )
        if line.get("outcome") not in {"ok", "cancelled"}:
            span.set_status(Status(StatusCode.ERROR))
        span.end(_nanoseconds(begin + _seconds(line, "duration_s")))

    def _attributes(self, line: Line, table: Mapping[str, str]) -> dict[str, Value | list[str]]:
        found: dict[str, Value | list[str]] = {"gen_ai.operation.name": _OPERATION}
        for name, attribute in table.items():
            value = line.get(name)
            if isinstance(value, str):
                found[attribute] = _text(value)
            elif isinstance(value, bool | int | float) and value is not False:
                # A flag that is down says nothing, and every attribute costs some microseconds to encode.
                found[attribute] = value
        finish_reason = line.get("finish_reason")
        if isinstance(finish_reason, str):
            found["gen_ai.response.finish_reasons"] = [_text(finish_reason)]
        peer = self._peers.get(str(line.get("provider")))
        if peer is not None:
            found["gen_ai.provider.name"] = peer.system
            if table is _ATTEMPT and peer.address is not None:
                found["server.address"] = peer.address
                found["server.port"] = peer.port or 0
        return found


def _parent(traceparent: object) -> Context:
    """Return the context that a W3C traceparent names; an empty one where there is none."""
    match = _TRACEPARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
    if match is None:
        return Context()
    context = SpanContext(
        trace_id=int(match[1], 16),
        span_id=int(match[2], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(match[3], 16)),
    )
    parent: Span = NonRecordingSpan(context)
    return set_span_in_context(parent, Context()) if context.is_valid else Context()


def _text(value: str) -> str:
    # One lone surrogate in a name that came over the wire would cost the whole batch.
    return (value if value.isascii() else as_text(value))[:MOST_CHARACTERS]


def _seconds(line: Line, name: str) -> float:
    value = line.get(name)
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e9 else 0.0


def _nanoseconds(unix_s: float) -> int:
    return max(round(unix_s * 1e9), 0)
