"""What went wrong, in OpenAI's words: {"error": {"message", "type", "param", "code"}}.

https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

from typing import Any

from fallback.api.encode import attempt_object
from fallback.api.errors import ErrorReply
from fallback.api.openai.reply import Reply, json_bytes

__all__ = ["error_object", "error_reply_of"]

_CODES = {
    "unknown_model": "model_not_found",
    "invalid_request": "invalid_value",
    "context_window_exceeded": "context_length_exceeded",
    "content_policy": "content_policy_violation",
    "rate_limited": "rate_limit_exceeded",
    "not_found": "unknown_url",
    "method_not_allowed": "method_not_supported",
}
"""Where OpenAI has a code of its own for it; ours stand for the rest."""

_TYPES = {403: "permission_error", 429: "rate_limit_error"}

_FINAL = frozenset({"providers_failed", "deadline_exceeded"})
"""What OpenAI's clients would ask again at once, twice, though everything that helps has been tried."""


def error_object(reply: ErrorReply) -> dict[str, Any]:
    """Return the body of an error. Where providers were asked it holds the account of that."""
    error: dict[str, Any] = {
        "message": reply.error,
        "type": _TYPES.get(reply.status)
        or ("server_error" if reply.status >= 500 else "invalid_request_error"),
        "param": reply.param,
        "code": _CODES.get(reply.error_type, reply.error_type),
    }
    if reply.activity_log or reply.attempts:
        error["fallback"] = {
            "request_id": reply.request_id,
            "attempts": [attempt_object(report) for report in reply.attempts],
            "activity_log": list(reply.activity_log),
        }
    return {"error": error}


def error_reply_of(reply: ErrorReply) -> Reply:
    """Return what a caller under /v1 is sent for `reply`."""
    headers = dict(reply.headers)
    if reply.attempts:
        headers["x-fallback-attempts"] = str(len(reply.attempts))
    if reply.error_type in _FINAL:
        # https://github.com/openai/openai-python: "If the server explicitly says whether or not to retry, obey."
        headers["x-should-retry"] = "false"
    return Reply(status=reply.status, body=json_bytes(error_object(reply)), headers=headers)
