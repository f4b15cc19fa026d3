"""From an exception to the error that a caller of the HTTP API reads."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fallback.core.errors import (
    DeadlineExceededError,
    NoAnswerError,
    ProvidersFailedError,
    RateLimitedError,
    RequestError,
    RequestRejectedError,
    StreamBrokenError,
    UnknownModelError,
)
from fallback.core.models import AttemptReport

__all__ = ["ErrorReply", "Refusal", "error_reply", "settle"]

_LOG = logging.getLogger(__name__)
T = TypeVar("T")


class Refusal(Exception):  # noqa: N818 - it is an answer, not an accident
    """A request that is turned down before the router sees it. The message says what to change."""

    def __init__(
        self,
        status: int,
        error_type: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        *,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.param = param
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReply:
    """What a caller is told instead of an answer."""

    status: int
    error: str
    error_type: str
    request_id: str
    activity_log: tuple[str, ...] = ()
    attempts: tuple[AttemptReport, ...] = ()
    """Every call that was made."""
    param: str | None = None
    """The argument that is wrong, where it is one."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return the JSON object of the routes under /api."""
        return {
            "error": self.error,
            "error_type": self.error_type,
            "request_id": self.request_id,
            "activity_log": list(self.activity_log),
        }


async def settle(work: Awaitable[T], request_id: str) -> T | ErrorReply:
    """Return what `work` comes to, or the reply that its exception stands for."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - the top of the API: whatever went wrong, the caller gets JSON
        return error_reply(error, request_id)


def error_reply(error: Exception, request_id: str) -> ErrorReply:
    """Return the reply that `error` stands for."""
    match error:
        case Refusal():
            return ErrorReply(
                status=error.status,
                error=str(error),
                error_type=error.error_type,
                request_id=request_id,
                param=error.param,
                headers=error.headers,
            )
        case RequestError():
            status, kind = (
                (404, "unknown_model") if isinstance(error, UnknownModelError) else (400, "invalid_request")
            )
            return ErrorReply(
                status=status, error=str(error), error_type=kind, request_id=request_id, param=error.param
            )
        case NoAnswerError():
            return _no_answer(error)
        case _:
            return _accident(error, request_id)


def _no_answer(error: NoAnswerError) -> ErrorReply:
    headers: dict[str, str] = {}
    match error:
        case RequestRejectedError():
            status, kind = 400, str(error.kind or "invalid_request")
        case RateLimitedError():
            status, kind = 429, "rate_limited"
            headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
        case DeadlineExceededError():
            status, kind = 504, "deadline_exceeded"
        case StreamBrokenError():
            # Only ever inside a stream, where the status has gone out already.
            status, kind = 503, "stream_broken"
        case ProvidersFailedError() | _:
            status, kind = 503, "providers_failed"
    return ErrorReply(
        status=status,
        error=str(error),
        error_type=kind,
        request_id=error.request_id,
        activity_log=error.activity_log,
        attempts=error.attempts,
        headers=headers,
    )


def _accident(error: Exception, request_id: str) -> ErrorReply:
    # The text of an exception may hold a prompt or a key, so the log gets its type and where it came from.
    where = "".join(traceback.format_tb(error.__traceback__))
    _LOG.error("%s failed with %s\n%s", request_id, type(error).__name__, where)
    return ErrorReply(
        status=500,
        error="something went wrong inside the program; its log names this request's id",
        error_type="internal_error",
        request_id=request_id,
    )
