"""A request that is turned down before any route sees it, told in the manner of the route that it asked for."""

from __future__ import annotations

from typing import Any

from starlette.responses import PlainTextResponse, Response

from fallback.api.encode import JsonResponse
from fallback.api.errors import ErrorReply, Refusal

__all__ = ["family_of", "refusal_response"]

_CODES = {
    "no_api_key": "invalid_api_key",
    "wrong_api_key": "invalid_api_key",
    "too_many_requests": "rate_limit_exceeded",
}
"""Where OpenAI has a code of its own for it."""


def family_of(path: str) -> str:
    """Return `v1`, `api`, `probe` (health and metrics) or `page` for a path without its query."""
    if path.startswith("/v1/") or path == "/v1":
        return "v1"
    if path.startswith("/api/") or path == "/api":
        return "api"
    return "probe" if path in {"/healthz", "/readyz", "/metrics"} else "page"


def refusal_response(refusal: Refusal, path: str, request_id: str) -> Response:
    """Return what a caller of `path` is told: OpenAI's shape under /v1, ours elsewhere, a sentence for a browser."""
    family = family_of(path)
    if family == "page":
        headers = {"cache-control": "no-store", **refusal.headers}
        return PlainTextResponse(f"{refusal}\n", refusal.status, headers)
    if family == "v1":
        return JsonResponse(_openai(refusal), refusal.status, refusal.headers)
    reply = ErrorReply(
        status=refusal.status, error=str(refusal), error_type=refusal.error_type, request_id=request_id
    )
    return JsonResponse(reply.body(), refusal.status, refusal.headers)


def _openai(refusal: Refusal) -> dict[str, Any]:
    # https://platform.openai.com/docs/guides/error-codes
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": str(refusal),
            "type": {403: "permission_error", 429: "rate_limit_error"}.get(refusal.status, kind),
            "param": None,
            "code": _CODES.get(refusal.error_type, refusal.error_type),
        }
    }
