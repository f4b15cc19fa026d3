"""From the core's values to the lines of usage.log, as plain dicts.

Field names follow OpenTelemetry's conventions for generative AI, without their prefixes (gen_ai.request.model is
`request_model`); docs/usage-log.md lists all of them with their units. A field without a value is left out.
What may not live here: I/O, and the stamp (schema, ts, instance), which the writer sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from fallback.core.models import Answer, AttemptReport, Message, Role, Usage
from fallback.usage_log.encode import format_ts

__all__ = ["Line", "attempt_line", "request_line", "state_line"]

Line = dict[str, object]

_OK = "ok"


def attempt_line(
    *,
    request_id: str,
    source: str,
    route: str,
    report: AttemptReport,
    stream: bool,
    previous: AttemptReport | None = None,
    drill: bool = False,
    cooldown_s: float | None = None,
    disabled: str | None = None,
) -> Line:
    """One attempt, after it ended.

    `route` is what the caller asked for as `model`, `stream` whether the caller asked for a stream, `previous` the
    attempt that this one is the failover of, `drill` whether the failure was an injected one; `cooldown_s` and `disabled` ("provider", "model") are what it led to, as in
    AttemptFailed.
    """
    failure = report.failure
    return _without_none(
        {
            "kind": "attempt",
            "request_id": request_id,
            "source": source,
            "route": route,
            "attempt": report.number,
            "role": str(report.role),
            "previous_provider": previous.provider if previous else None,
            "previous_error_type": previous.outcome if previous else None,
            "provider": report.provider,
            "request_model": report.model,
            "response_model": report.response_model,
            "outcome": str(report.outcome),
            "error_type": None if report.outcome == _OK else str(failure.kind if failure else report.outcome),
            "http_status": failure.status if failure else None,
            "error_code": failure.code if failure else None,
            "error_message": (failure.message or None) if failure else None,
            "retry_after_s": _seconds(failure.retry_after_s) if failure else None,
            "cooldown_s": _seconds(cooldown_s),
            "disabled": disabled,
            "started_s": _seconds(report.started_s),
            "duration_s": _seconds(report.duration_s),
            "time_to_first_token_s": _seconds(report.time_to_first_token_s),
            "continues": report.continues,
            **_tokens(report.usage),
            "usage_estimated": report.usage_estimated or None,
            "cost_usd": _money(report.cost_usd),
            "finish_reason": report.finish_reason,
            "provider_request_id": report.provider_request_id
            or (failure.provider_request_id if failure else None),
            "stream": stream,
            "probe": report.probe,
            "drill": drill,
            "skipped_events": report.skipped_events,
        }
    )


def request_line(
    *,
    request_id: str,
    source: str,
    route: str,
    stream: bool,
    outcome: Literal["ok", "error", "cancelled"],
    duration_s: float,
    attempts: Sequence[AttemptReport],
    answer: Answer | None = None,
    error_type: str | None = None,
    error_message: str | None = None,
    http_status: int | None = None,
    drill: bool = False,
    log_content: bool = False,
    prompt: Sequence[Message] | None = None,
    api_key_name: str | None = None,
    traceparent: str | None = None,
) -> Line:
    """One request, after its last attempt.

    `answer` is given where the outcome is "ok"; `error_type` (a failure kind), `error_message` (redacted) and
    `http_status` where it is not, and are those of the failure that decided. `prompt` and the answer's text go into
    the line where `log_content` is True, and only there; `api_key_name` says whose key it was, `traceparent` what trace the caller is in. Tokens and cost are those of all attempts together.
    """
    answering = next((report for report in reversed(attempts) if report.outcome == _OK), None)
    usage, cost_usd = (answer.usage, answer.cost_usd) if answer else _sums(attempts)
    return _without_none(
        {
            "kind": "request",
            "request_id": request_id,
            "source": source,
            "route": route,
            "stream": stream,
            "outcome": outcome,
            "error_type": error_type,
            "error_message": error_message or None,
            "http_status": http_status,
            "provider": answer.provider if answer else None,
            "providers": list(answer.providers) if answer and answer.seams else None,
            "seams": len(answer.seams) if answer and answer.seams else None,
            "request_model": answer.model if answer else None,
            "response_model": answering.response_model if answer and answering else None,
            "api_key_name": api_key_name,
            "traceparent": traceparent,
            "first_provider": attempts[0].provider if attempts else None,
            "attempts": len(attempts),
            "failovers": sum(report.role is Role.FAILOVER for report in attempts),
            "rescued": answer.rescued if answer else False,
            "degraded": answer.degraded if answer else False,
            "duration_s": _seconds(duration_s),
            "time_to_first_token_s": _seconds(answer.time_to_first_token_s) if answer else None,
            **_tokens(usage),
            "usage_estimated": any(report.usage_estimated for report in attempts) or None,
            "cost_usd": _money(cost_usd),
            "finish_reason": answer.finish_reason if answer else None,
            "drill": drill,
            "prompt": _plain_messages(prompt) if log_content and prompt is not None else None,
            "response": answer.text if log_content and answer else None,
        }
    )


def state_line(
    *,
    provider: str,
    from_state: str,
    to_state: str,
    by: str,
    model: str | None = None,
    reason: str | None = None,
    until: float | None = None,
    length_s: float | None = None,
    request_id: str | None = None,
) -> Line:
    """One change of a provider, or of one `model` of it.

    The states are ready, cooling_down, probing, off, disabled, retired, not_configured; `by` is who changed it: router,
    dashboard, api, config. `until` is when it ends, in Unix seconds, and `length_s` how long that is from now.
    `request_id` names the request that brought it about.
    """
    return _without_none(
        {
            "kind": "state",
            "provider": provider,
            "model": model,
            "from": str(from_state),
            "to": str(to_state),
            "reason": reason,
            "until": _instant(until),
            "length_s": _seconds(length_s),
            "by": by,
            "request_id": request_id,
        }
    )


def _without_none(fields: Line) -> Line:
    return {name: value for name, value in fields.items() if value is not None}


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _money(value: float | None) -> float | None:
    # A token of the cheapest models costs some 10^-8 dollars.
    return None if value is None else round(value, 12)


def _instant(unix_s: float | None) -> str | None:
    if unix_s is None:
        return None
    try:
        return format_ts(unix_s)
    except (ValueError, OverflowError, OSError):
        return None  # "for ever" is said by a change without an end


def _tokens(usage: Usage | None) -> Line:
    if usage is None:
        return {}
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cached_tokens": usage.cached_tokens,
    }


def _sums(attempts: Sequence[AttemptReport]) -> tuple[Usage | None, float | None]:
    """Add up what attempts without an answer used; None where no provider told."""
    used = [report.usage for report in attempts if report.usage is not None]
    paid = [report.cost_usd for report in attempts if report.cost_usd is not None]
    return (sum(used, start=Usage()) if used else None), (sum(paid) if paid else None)


def _plain_messages(messages: Sequence[Message]) -> list[Mapping[str, object]]:
    return [dict(message) for message in messages]
