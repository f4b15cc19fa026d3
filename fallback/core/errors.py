"""What can go wrong, and the exceptions that callers see.

    FallbackError
    ├── ConfigError               providers.yaml or the environment is wrong; lists every problem
    ├── RequestError              the caller's arguments are wrong; nothing was sent anywhere
    │   └── UnknownModelError     `model` names no route, provider or model
    └── NoAnswerError             providers were asked, or none could be; carries the account of it
        ├── RequestRejectedError  the request itself is at fault (invalid, against policy, too long for every window)
        ├── RateLimitedError      every candidate is rate limited; says when to come back
        ├── DeadlineExceededError the deadline came first
        ├── ProvidersFailedError  all candidates failed, or none is switched on and configured
        └── StreamBrokenError     text had been delivered when the stream broke; the answer is not whole

`TransportError` stands apart: the transport raises it towards the loop, and no caller ever sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from fallback.core.kinds import FailureKind
from fallback.core.models import AttemptReport

__all__ = [
    "ConfigError",
    "DeadlineExceededError",
    "FailureKind",
    "FallbackError",
    "NoAnswerError",
    "Phase",
    "Problem",
    "ProvidersFailedError",
    "RateLimitedError",
    "RequestError",
    "RequestRejectedError",
    "StreamBrokenError",
    "TransportError",
    "UnknownModelError",
    "not_installed",
]


def not_installed(error: ModuleNotFoundError) -> str:
    """Return what to tell whoever started the program without its requirements. Raises `error` where it is a defect of ours."""
    if (error.name or "fallback").partition(".")[0] == "fallback":
        raise error
    return (
        f"the requirements are not installed here ({error.name} is missing): "
        ". .venv/bin/activate, or pip install -r requirements.txt"
    )


class Phase(StrEnum):
    """How far a call had come when the transport gave up."""

    CONNECT = "connect"
    """No connection yet: refused, DNS, TLS, or the connect timeout."""
    HEADERS = "headers"
    """Connected, and no response line yet."""
    BODY = "body"
    """The response had begun."""


class TransportError(Exception):
    """A call that the transport could not finish.

    `kind` is TIMEOUT, CONNECTION, MALFORMED_RESPONSE or CANCELLED (it was ended from here); `phase` says how far the call had come; `detail` is a short
    text of our own making that holds no address, key or provider text.
    """

    def __init__(self, kind: FailureKind, phase: Phase, detail: str) -> None:
        super().__init__(f"{kind} in phase {phase}: {detail}")
        self.kind = kind
        self.phase = phase
        self.detail = detail


class FallbackError(Exception):
    """The base of every exception that this package raises towards a caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong in the configuration: where, and what to change."""

    path: str
    message: str
    source: str = ""
    """What has to be changed, where that is not the file of settings."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(FallbackError):
    """The configuration cannot be used. `problems` holds everything that is wrong with it, not just the first."""

    def __init__(self, problems: Sequence[Problem], *, source: str = "providers.yaml") -> None:
        self.problems = tuple(problems)
        self.source = source
        sources = dict.fromkeys(problem.source for problem in self.problems)
        super().__init__("\n".join(self._told(each) for each in sources))

    def _told(self, source: str) -> str:
        lines = [f"  {problem}" for problem in self.problems if problem.source == source]
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        return "\n".join((f"{source or self.source}: {count}", *lines))


class RequestError(FallbackError):
    """The caller's arguments are wrong. `param` names the argument; the message says what to change."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnknownModelError(RequestError):
    """`model` names no route, provider or model. `known` lists what exists."""

    def __init__(self, model: str, known: Sequence[str]) -> None:
        super().__init__(
            f"model {model!r} does not exist here; choose one of: {', '.join(known)}", param="model"
        )
        self.known = tuple(known)


class NoAnswerError(FallbackError):
    """No answer, and why.

    `request_id` is the request's id in the usage log, `activity_log` the account in plain words, `kind` the failure
    kind that decided, `status` the HTTP status of that failure where there was one.
    """

    def __init__(
        self,
        message: str,
        *,
        request_id: str,
        kind: FailureKind | None = None,
        status: int | None = None,
        activity_log: Sequence[str] = (),
        attempts: Sequence[AttemptReport] = (),
    ) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.kind = kind
        self.status = status
        self.activity_log = tuple(activity_log)
        self.attempts = tuple(attempts)


class RequestRejectedError(NoAnswerError):
    """The request itself is at fault: another provider would refuse it as well."""


class RateLimitedError(NoAnswerError):
    """Every candidate is rate limited. `retry_after_s` is when the first of them recovers, in seconds from now."""

    retry_after_s: float = 1.0


class DeadlineExceededError(NoAnswerError):
    """The deadline came before an answer."""


class ProvidersFailedError(NoAnswerError):
    """All candidates failed, or none is switched on and configured."""


class StreamBrokenError(NoAnswerError):
    """The stream broke after text had been delivered. `partial_text` is what the caller has so far."""

    partial_text: str = ""
