"""From what came back to a failure kind.

Theory of operation: evidence is weighed in a fixed order, the strongest first: the transport; a page where JSON was
due; the code, the type and the message of the error object, whatever its shape; the status. Words are matched in the
error's message alone, never in the whole body: generated text inside an error body says "rate limit" too. A status of
200 that holds an error takes the numeric code in it as its status.

Sources: https://console.groq.com/docs/errors, https://docs.together.ai/docs/error-codes,
https://platform.openai.com/docs/guides/error-codes, and the recorded cases in tests/wire_cases.yaml.

What may not live here: what follows from a kind (core/policy), and bytes (decode).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.core.models import Failure
from fallback.providers.redact import redact, without_key
from fallback.providers.waits import retry_after_s

__all__ = ["ErrorFields", "classify_error", "classify_page", "classify_transport", "error_fields"]

_KIND = FailureKind

_CODES: Mapping[str, FailureKind] = {
    "invalid_api_key": _KIND.AUTHENTICATION,
    "incorrect_api_key": _KIND.AUTHENTICATION,
    "authentication_error": _KIND.AUTHENTICATION,
    "insufficient_quota": _KIND.QUOTA_EXHAUSTED,
    "billing_hard_limit_reached": _KIND.QUOTA_EXHAUSTED,
    "billing_not_active": _KIND.QUOTA_EXHAUSTED,
    "context_length_exceeded": _KIND.CONTEXT_WINDOW_EXCEEDED,
    "exceed_context_size_error": _KIND.CONTEXT_WINDOW_EXCEEDED,
    "content_filter": _KIND.CONTENT_POLICY,
    "content_policy_violation": _KIND.CONTENT_POLICY,
    "model_not_found": _KIND.MODEL_UNAVAILABLE,
    "model_decommissioned": _KIND.MODEL_UNAVAILABLE,
    "model_not_available": _KIND.MODEL_UNAVAILABLE,
    "json_validate_failed": _KIND.OUTPUT_REJECTED,
    "tool_use_failed": _KIND.OUTPUT_REJECTED,
    "rate_limit_exceeded": _KIND.RATE_LIMITED,
    "rate_limit_error": _KIND.RATE_LIMITED,
    "dynamic_request_limited": _KIND.RATE_LIMITED,
    "dynamic_token_limited": _KIND.RATE_LIMITED,
    "capacity_exceeded": _KIND.OVERLOADED,
    "engine_overloaded": _KIND.OVERLOADED,
    "overloaded_error": _KIND.OVERLOADED,
}

_STATUSES: Mapping[int, FailureKind] = {
    401: _KIND.AUTHENTICATION,
    402: _KIND.QUOTA_EXHAUSTED,
    403: _KIND.PERMISSION_DENIED,
    404: _KIND.MODEL_UNAVAILABLE,
    407: _KIND.BLOCKED_BY_EDGE,
    408: _KIND.TIMEOUT,
    410: _KIND.MODEL_UNAVAILABLE,
    413: _KIND.REQUEST_TOO_LARGE,
    429: _KIND.RATE_LIMITED,
    498: _KIND.OVERLOADED,
    503: _KIND.OVERLOADED,
    504: _KIND.TIMEOUT,
    524: _KIND.TIMEOUT,
    529: _KIND.OVERLOADED,
}

_TOO_LARGE = re.compile(r"request too large", re.IGNORECASE)
_BAD_KEY = re.compile(r"(incorrect|invalid) api key", re.IGNORECASE)
_BALANCE = re.compile(
    r"credit balance|insufficient (balance|credits?|funds|quota)|exceeded your current quota|out of credits?",
    re.IGNORECASE,
)
_WINDOW = re.compile(
    r"context (length|window|size)|maximum context|reduce the length of the messages"
    r"|`?inputs`? tokens \+ `?max_new_tokens`? must be",
    re.IGNORECASE,
)
_GONE = re.compile(
    r"model .{0,120}(does not exist|decommissioned|not found|no longer (supported|available))|non-serverless model",
    re.IGNORECASE,
)
_CAPACITY = re.compile(r"over capacity|capacity exceeded|overloaded", re.IGNORECASE)
_ABOUT_A_MODEL = re.compile(r"\bmodel\b", re.IGNORECASE)

_WAITS_COUNT_FOR = frozenset({_KIND.RATE_LIMITED, _KIND.OVERLOADED, _KIND.SERVER_ERROR, _KIND.TIMEOUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorFields:
    """What an error object says, whatever its shape. Absent fields are ""; `status` is a numeric code inside it."""

    message: str = ""
    code: str = ""
    type: str = ""
    status: int | None = None


def error_fields(body: Any) -> ErrorFields | None:
    """Return the error that `body` (parsed JSON) holds, or None where it holds none.

    Knows {"error": {...}}, {"error": "text"}, {"detail": ...}, and the flat {"message": ..., "code": ...} of a body
    that has no choices.
    """
    if not isinstance(body, dict):
        return None
    error = body.get("error")
    if isinstance(error, dict):
        return _fields(error)
    if isinstance(error, str) and error:
        return _fields({**body, "message": error})
    if "choices" in body or "output" in body:
        return None
    if body.get("detail"):
        return _fields({**body, "message": body["detail"]})
    if body.get("message") or error:
        return _fields(body)
    return None


def _fields(error: Mapping[str, Any]) -> ErrorFields:
    code = error.get("code")
    numbers = (error.get("status_code"), code, error.get("status"))
    status = next((found for n in numbers if (found := _status(n)) is not None), None)
    return ErrorFields(
        message=_text(error.get("message")),
        code="" if isinstance(code, bool) or _status(code) is not None else _text(code),
        type=_text(error.get("type") or error.get("error_type")),
        status=status,
    )


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return "" if value is None else str(value)
    except RecursionError:  # the parser takes deeper nesting than Python prints
        return ""


def _status(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
        value = int(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 400 <= value <= 599 else None


def classify_error(
    status: int | None,
    headers: Mapping[str, str],
    fields: ErrorFields,
    *,
    key: str = "",
    wall: float | None = None,
) -> Failure:
    """Return the failure behind an error object.

    `status` is that of the response (None inside a stream), `headers` have lower-case names, `key` is the key in use
    and `wall` the Unix time for HTTP dates.
    """
    seen = status if status is not None and status >= 400 else fields.status
    kind = _kind(seen, fields)
    wait_s = _wait_s(kind, headers if seen is not None else {}, fields.message, wall)
    return Failure(
        kind=kind,
        status=seen if seen is not None else status,
        code=redact(fields.code or fields.type, key, limit=80) or None,
        message=redact(fields.message, key) or _bare(seen),
        retry_after_s=wait_s,
        provider_request_id=without_key(headers.get("x-request-id", ""), key, limit=100) or None,
        account_wide=not _ABOUT_A_MODEL.search(fields.message),
    )


def _wait_s(kind: FailureKind, headers: Mapping[str, str], message: str, wall: float | None) -> float | None:
    if kind not in _WAITS_COUNT_FOR:
        return None
    if kind is not _KIND.RATE_LIMITED:
        # Together sends this one with every response: it tells when a window of requests ends, not an outage.
        headers = {name: value for name, value in headers.items() if name != "x-ratelimit-reset"}
    return retry_after_s(headers, message, wall=wall)


def _kind(status: int | None, fields: ErrorFields) -> FailureKind:
    message = fields.message
    refused = status is None or 400 <= status < 500
    if status == 413 or (refused and _TOO_LARGE.search(message)):
        return _KIND.REQUEST_TOO_LARGE
    for word in (fields.code, fields.type):
        kind = _CODES.get(word.lower())
        if kind is not None:
            return kind
    if refused and _BAD_KEY.search(message):
        return _KIND.AUTHENTICATION
    if refused and _BALANCE.search(message):
        return _KIND.QUOTA_EXHAUSTED
    if status in {None, 400, 403, 422} and _WINDOW.search(message):
        return _KIND.CONTEXT_WINDOW_EXCEEDED
    if status in {None, 400} and _GONE.search(message):
        return _KIND.MODEL_UNAVAILABLE
    if status != 429 and _CAPACITY.search(message):
        return _KIND.OVERLOADED
    if status is None:
        return _KIND.SERVER_ERROR
    if status in _STATUSES:
        return _STATUSES[status]
    return _KIND.SERVER_ERROR if status >= 500 else _KIND.INVALID_REQUEST


def classify_page(
    status: int, headers: Mapping[str, str], content_type: str, *, wall: float | None = None
) -> Failure:
    """Return the failure behind a body that is not JSON: a page of an edge or proxy, plain text, or nothing."""
    page = content_type in {"text/html", "application/xhtml+xml"}
    failure = classify_error(status, headers, ErrorFields(), wall=wall)
    if 300 <= status < 400:
        return replace(
            failure, kind=_KIND.MALFORMED_RESPONSE, message="redirected elsewhere; redirects are not followed"
        )
    if status in {401, 403, 407}:
        text = "no answer of the provider's own: something between here and it blocks the call"
        return replace(failure, kind=_KIND.BLOCKED_BY_EDGE, message=text)
    if status < 400 or status == 404 or (page and failure.kind is _KIND.INVALID_REQUEST):
        what = "a page" if page else f"a body of type {redact(content_type, '', limit=60) or 'unknown'}"
        text = f"{what} instead of an answer: is the endpoint right?"
        return replace(failure, kind=_KIND.MALFORMED_RESPONSE, message=text)
    return failure


def classify_transport(error: TransportError, *, streaming: bool, begun: bool) -> Failure:
    """Return the failure behind a call that the transport could not finish.

    `streaming` says whether a stream of events was coming, `begun` whether a token of it had come.
    """
    match error.kind, error.phase:
        case _KIND.TIMEOUT, Phase.CONNECT:
            return Failure(kind=_KIND.CONNECTION, message=error.detail)
        case _KIND.TIMEOUT, Phase.BODY if streaming and begun:
            return Failure(kind=_KIND.STREAM_STALLED, message=error.detail)
        case _KIND.CONNECTION, Phase.HEADERS:
            return Failure(kind=_KIND.CONNECTION, message=error.detail, retryable=True)
        case _KIND.CONNECTION, Phase.BODY if streaming:
            return Failure(kind=_KIND.STREAM_TRUNCATED, message=error.detail)
        case _KIND.CONNECTION, Phase.BODY:
            return Failure(kind=_KIND.MALFORMED_RESPONSE, message="the body was cut short", retryable=True)
        case _:
            return Failure(kind=error.kind, message=error.detail)


def _bare(status: int | None) -> str:
    return "an error without words" if status is None else f"HTTP {status}"
