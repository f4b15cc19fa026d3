"""From the router's values to the JSON that callers of the HTTP API read. docs/http.md names every field."""

from __future__ import annotations

import json
from typing import Any, assert_never

from starlette.responses import Response

from fallback import activity
from fallback.core.models import (
    Answer,
    AttemptFailed,
    AttemptReport,
    AttemptStarted,
    CandidateSkipped,
    Delta,
    Event,
    Finished,
    Waiting,
)
from fallback.core.roster import ProviderStatus

__all__ = [
    "JsonResponse",
    "answer_account",
    "answer_object",
    "attempt_object",
    "event_object",
    "json_text",
    "provider_object",
]


def json_text(value: object) -> str:
    """Return `value` as JSON in one line, its characters as they are."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class JsonResponse(Response):
    """A JSON answer that nobody is to keep."""

    media_type = "application/json"

    def __init__(self, value: object, status_code: int = 200, headers: dict[str, str] | None = None) -> None:
        super().__init__(value, status_code, {"cache-control": "no-store", **(headers or {})})

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json_text(content).encode("utf-8", "replace")


def answer_object(answer: Answer) -> dict[str, Any]:
    """Return the whole answer of POST /api/generate."""
    made: dict[str, Any] = {
        "response": answer.text,
        "provider": answer.provider,
        "model": answer.model,
        "activity_log": list(answer.activity_log),
        "request_id": answer.request_id,
        "usage": {
            "input_tokens": answer.usage.input_tokens,
            "output_tokens": answer.usage.output_tokens,
            "total_tokens": answer.usage.total_tokens,
        },
        "cost_usd": _money(answer.cost_usd),
        "attempts": [attempt_object(report) for report in answer.attempts],
        "degraded": answer.degraded,
        "providers": list(answer.providers),
        "seams": list(answer.seams),
        "usage_estimated": answer.usage_estimated,
        "latency_s": _seconds(answer.latency_s),
        "time_to_first_token_s": _seconds(answer.time_to_first_token_s),
        "finish_reason": answer.finish_reason,
    }
    if answer.degraded:
        made["note"] = activity.DEGRADED_NOTE
    return made


def answer_account(answer: Answer) -> dict[str, Any]:
    """Return how an answer came about: what OpenAI's shape has no place for."""
    made: dict[str, Any] = {
        "request_id": answer.request_id,
        "provider": answer.provider,
        "model": answer.model,
        "providers": list(answer.providers),
        "parts": [
            {"provider": part.provider, "model": part.model, "characters": part.characters}
            for part in answer.parts
        ],
        "seams": list(answer.seams),
        "degraded": answer.degraded,
        "attempts": [attempt_object(report) for report in answer.attempts],
        "activity_log": list(answer.activity_log),
        "cost_usd": _money(answer.cost_usd),
        "usage_estimated": answer.usage_estimated,
        "latency_s": _seconds(answer.latency_s),
        "time_to_first_token_s": _seconds(answer.time_to_first_token_s),
    }
    if answer.degraded:
        made["note"] = activity.DEGRADED_NOTE
    return made


def attempt_object(report: AttemptReport) -> dict[str, Any]:
    """Return one call as the answer tells of it."""
    failure, usage = report.failure, report.usage
    return {
        "number": report.number,
        "role": report.role.value,
        "provider": report.provider,
        "model": report.model,
        "outcome": report.outcome,
        "status": failure.status if failure else 200,
        "message": failure.message if failure else None,
        "started_s": _seconds(report.started_s),
        "duration_s": _seconds(report.duration_s),
        "time_to_first_token_s": _seconds(report.time_to_first_token_s),
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "usage_estimated": report.usage_estimated,
        "cost_usd": _money(report.cost_usd),
        "continues": report.continues,
    }


def event_object(event: Event) -> tuple[str, dict[str, Any]]:
    """Return name and data of the server-sent event that tells of `event`."""
    told = {"activity_log": list(activity.lines(event))}
    match event:
        case Delta():
            return "delta", {"text": event.text}
        case AttemptStarted():
            return "attempt", {
                "number": event.number,
                "role": event.role.value,
                "provider": event.provider,
                "model": event.model,
                "degraded": event.degraded,
                "continues": event.continues,
                **told,
            }
        case AttemptFailed():
            return "attempt_failed", {
                "number": event.number,
                "provider": event.provider,
                "model": event.model,
                "outcome": event.failure.kind.value,
                "status": event.failure.status,
                "message": event.failure.message,
                "duration_s": _seconds(event.duration_s),
                "cooldown_s": _seconds(event.cooldown_s),
                "disabled": event.disabled,
                **told,
            }
        case CandidateSkipped():
            return "skipped", {
                "provider": event.provider,
                "model": event.model,
                "reason": event.reason,
                **told,
            }
        case Waiting():
            return "waiting", {"provider": event.provider, "seconds": _seconds(event.seconds), **told}
        case Finished():
            return "done", answer_object(event.answer)
        case _:
            assert_never(event)


def provider_object(status: ProviderStatus) -> dict[str, Any]:
    """Return one provider as GET /readyz shows it."""
    return {
        "name": status.name,
        "state": status.state,
        "model": status.model,
        "text": status.text,
        "until_s": _seconds(status.until_s),
    }


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _money(value: float | None) -> float | None:
    return None if value is None else round(value, 9)
