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

    `route` is what the caller asked for as `model`, `stream` whether the caller asked for a stream, `previous` the attempt that
    this one is the failover of, `drill` whether the failure was an injected one; `cooldown_s` and `disabled` ("provider", "model")
    are what it led to, as in AttemptFailed.
    """
    usage, failure = report.usage, report.failure
    line: Line = {
        "kind": "attempt",
        "request_id": request_id,
        "source": source,
        "route": route,
        "attempt": report.number,
        "role": report.role.value,
    }
    if previous is not None:
        line["previous_provider"], line["previous_error_type"] = previous.provider, previous.outcome
    line["provider"], line["request_model"] = report.provider, report.model
    if report.response_model is not None:
        line["response_model"] = report.response_model
    line["outcome"] = str(report.outcome)
    if report.outcome != _OK:
        line |= _failed(report, cooldown_s, disabled)
    line["started_s"], line["duration_s"] = round(report.started_s, 6), round(report.duration_s, 6)
    if report.time_to_first_token_s is not None:
        line["time_to_first_token_s"] = round(report.time_to_first_token_s, 6)
    if report.continues is not None:
        line["continues"] = report.continues
    _put_usage(line, usage, report.cost_usd, estimated=report.usage_estimated)
    if report.finish_reason is not None:
        line["finish_reason"] = report.finish_reason
    provider_request_id = report.provider_request_id or (failure.provider_request_id if failure else None)
    if provider_request_id is not None:
        line["provider_request_id"] = provider_request_id
    line["stream"], line["probe"], line["drill"] = stream, report.probe, drill
    line["skipped_events"] = report.skipped_events
    return line


def _failed(report: AttemptReport, cooldown_s: float | None, disabled: str | None) -> Line:
    """Return what is told of an attempt that is no answer."""
    failure = report.failure
    return _without_none(
        {
            "error_type": str(failure.kind if failure else report.outcome),
            "http_status": failure.status if failure else None,
            "error_code": failure.code if failure else None,
            "error_message": (failure.message or None) if failure else None,
            "retry_after_s": _seconds(failure.retry_after_s) if failure else None,
            "cooldown_s": _seconds(cooldown_s),
            "disabled": disabled,
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
    the line where `log_content` is True, and only there; `api_key_name` says whose key it was, `traceparent` what trace the caller
    is in. Tokens and cost are those of all attempts together.
    """
    line: Line = {
        "kind": "request",
        "request_id": request_id,
        "source": source,
        "route": route,
        "stream": stream,
        "outcome": outcome,
    }
    if answer is None:
        line |= _without_none(
            {
                "error_type": error_type,
                "error_message": error_message or None,
                "http_status": http_status,
            }
        )
    else:
        _put_answer(line, answer, attempts)
    if api_key_name is not None:
        line["api_key_name"] = api_key_name
    if traceparent is not None:
        line["traceparent"] = traceparent
    if attempts:
        line["first_provider"] = attempts[0].provider
    line["attempts"] = len(attempts)
    line["failovers"] = [report.role for report in attempts].count(Role.FAILOVER)
    line["rescued"] = answer is not None and answer.rescued
    line["degraded"] = answer is not None and answer.degraded
    line["duration_s"] = round(duration_s, 6)
    if answer is not None and answer.time_to_first_token_s is not None:
        line["time_to_first_token_s"] = round(answer.time_to_first_token_s, 6)
    usage, cost_usd = (answer.usage, answer.cost_usd) if answer is not None else _sums(attempts)
    _put_usage(line, usage, cost_usd, estimated=any(report.usage_estimated for report in attempts))
    if answer is not None:
        line["finish_reason"] = answer.finish_reason
    line["drill"] = drill
    if log_content:
        if prompt is not None:
            line["prompt"] = _plain_messages(prompt)
        if answer is not None:
            line["response"] = answer.text
    return line


def _put_answer(line: Line, answer: Answer, attempts: Sequence[AttemptReport]) -> None:
    """Put into `line` who answered."""
    line["provider"] = answer.provider
    seams = answer.seams
    if seams:
        line["providers"], line["seams"] = list(answer.providers), len(seams)
    line["request_model"] = answer.model
    answering = next((report for report in reversed(attempts) if report.outcome == _OK), None)
    if answering is not None and answering.response_model is not None:
        line["response_model"] = answering.response_model


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


def _instant(unix_s: float | None) -> str | None:
    if unix_s is None:
        return None
    try:
        return format_ts(unix_s)
    except (ValueError, OverflowError, OSError):
        return None  # "for ever" is said by a change without an end


def _put_usage(line: Line, usage: Usage | None, cost_usd: float | None, *, estimated: bool) -> None:
    """Put into `line` what was used, as far as that is known."""
    if usage is not None:
        line["input_tokens"], line["output_tokens"] = usage.input_tokens, usage.output_tokens
        line["reasoning_tokens"], line["cached_tokens"] = usage.reasoning_tokens, usage.cached_tokens
    if estimated:
        line["usage_estimated"] = True
    if cost_usd is not None:
        # A token of the cheapest models costs some 10^-8 dollars.
        line["cost_usd"] = round(cost_usd, 12)


def _sums(attempts: Sequence[AttemptReport]) -> tuple[Usage | None, float | None]:
    """Add up what attempts without an answer used; None where no provider told."""
    used = [report.usage for report in attempts if report.usage is not None]
    paid = [report.cost_usd for report in attempts if report.cost_usd is not None]
    return (sum(used, start=Usage()) if used else None), (sum(paid) if paid else None)


def _plain_messages(messages: Sequence[Message]) -> list[Mapping[str, object]]:
    return [dict(message) for message in messages]
