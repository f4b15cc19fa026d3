"""From a failure to what happens next.

Theory of operation: `judge` is the table of design section 5 as a function. It looks at one failure of one attempt
and says three things: where the request goes next, how long (and how widely) the failed party is left alone, and
whether it counts as a strike. It holds no state; what has been tried already is `plan`'s to know, and what the
cooldown does to later requests is `breaker`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from fallback.core.errors import FailureKind
from fallback.core.models import Failure

__all__ = [
    "Cooldown",
    "Disable",
    "Next",
    "RoutingPolicy",
    "Scope",
    "Verdict",
    "judge",
    "proves_model_serves",
    "proves_provider_serves",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingPolicy:
    """The `routing:` block of providers.yaml. Durations in seconds."""

    deadline_s: float = 60.0
    """For a whole request, unless the caller lowers it."""
    connect_timeout_s: float = 3.0
    first_token_timeout_s: float = 10.0
    idle_timeout_s: float = 10.0
    """Silence inside a stream."""
    retries: int = 1
    """Times the same candidate is asked again where that may help at once; 0: never."""
    retry_delay_s: float = 0.2
    """Before a retry; up to half of it is added at random."""
    max_retry_wait_s: float = 0.5
    """A provider that asks for no longer a wait than this is asked again after it, within `retries`; after a longer
    one, the next candidate at once. 0: never wait for a provider."""
    on_stream_break: Literal["continue", "error"] = "continue"
    """Whether the next candidate goes on with an answer whose stream broke, or the caller gets an error."""
    cooldown_s: float | None = None
    """The base of a cooldown whose length nobody announced; None: 10, twice 20, then 30 s."""
    strikes: int = 3
    """Failures in a row without a cooldown of their own (an empty answer, say) that bring one."""
    quota_recheck_s: float = 900.0
    """How long a provider without credit is left alone before one request looks again."""
    content_policy: Literal["error", "fail_over"] = "error"
    """Whether a refusal on grounds of content is the caller's error or sends the request to the next provider."""
    max_response_bytes: int = 8 * 1024 * 1024
    """Of one answer, after decompression; a longer one is refused and the connection closed."""
    routes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other orders: a request's `model` may name one of them."""


class Scope(StrEnum):
    """How far a cooldown reaches."""

    MODEL = "model"
    """This model of this provider."""
    PROVIDER = "provider"
    """Every model of this provider."""


class Next(StrEnum):
    """Where the request goes after a failure."""

    RETRY = "retry"
    """The same candidate once more; the penalty falls due only if it fails again."""
    FAIL_OVER = "fail_over"
    LARGER_WINDOW = "larger_window"
    """Only candidates whose context window is larger or not known; else the failure is the caller's."""
    SECOND_OPINION = "second_opinion"
    """One other provider; if it refuses the request too, the first refusal goes to the caller."""
    CALLER_ERROR = "caller_error"
    STOP = "stop"
    """The caller is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cooldown:
    """Leave the failed party alone for a time."""

    scope: Scope
    length_s: float | None
    """None: nobody said how long; the breaker takes its next step (10, 20, 20, 30 s)."""
    announced: bool
    """True where the provider named the end: the first request after it may go straight there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disable:
    """Leave the failed party alone until the configuration changes, or for `recheck_s` where that is given."""

    scope: Scope
    recheck_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What happens after a failure."""

    next: Next
    penalty: Cooldown | Disable | None = None
    strike: bool = False
    """Whether it counts towards `RoutingPolicy.strikes`."""


EDGE_COOLDOWN_S = 60.0

_KIND = FailureKind
_RETRYABLE = frozenset({_KIND.OUTPUT_REJECTED, _KIND.SERVER_ERROR})
_WORTH_A_WAIT = frozenset({_KIND.RATE_LIMITED, _KIND.OVERLOADED, _KIND.SERVER_ERROR})
_WITHOUT_PENALTY = frozenset(
    {
        _KIND.REQUEST_TOO_LARGE,
        _KIND.CONTEXT_WINDOW_EXCEEDED,
        _KIND.CONTENT_POLICY,
        _KIND.OUTPUT_REJECTED,
        _KIND.INVALID_REQUEST,
        _KIND.CANCELLED,
    }
)
_STRIKES = frozenset({_KIND.EMPTY_RESPONSE, _KIND.STREAM_TRUNCATED})
_SERVED = frozenset(
    {
        _KIND.CONTEXT_WINDOW_EXCEEDED,
        _KIND.CONTENT_POLICY,
        _KIND.OUTPUT_REJECTED,
        _KIND.INVALID_REQUEST,
        _KIND.REQUEST_TOO_LARGE,
    }
)


def judge(failure: Failure, *, retries_left: int, policy: RoutingPolicy) -> Verdict:
    """Return what happens after `failure`, with `retries_left` more tries of the same candidate allowed."""
    if failure.kind is _KIND.CANCELLED:
        return Verdict(next=Next.STOP)
    if retries_left > 0 and not failure.delivered and _may_retry(failure, policy):
        return Verdict(next=Next.RETRY)
    return Verdict(
        next=_next(failure, policy), penalty=_penalty(failure, policy), strike=failure.kind in _STRIKES
    )


def _may_retry(failure: Failure, policy: RoutingPolicy) -> bool:
    wait_s = failure.retry_after_s
    if wait_s is not None and wait_s > policy.max_retry_wait_s:
        return False
    waits = wait_s is not None and failure.kind in _WORTH_A_WAIT
    return waits or failure.retryable or failure.kind in _RETRYABLE


def _next(failure: Failure, policy: RoutingPolicy) -> Next:
    match failure.kind:
        case _KIND.CONTENT_POLICY if policy.content_policy == "error":
            return Next.CALLER_ERROR
        case _KIND.CONTEXT_WINDOW_EXCEEDED:
            return Next.LARGER_WINDOW
        case _KIND.INVALID_REQUEST:
            return Next.SECOND_OPINION
        case _:
            return Next.FAIL_OVER


def _penalty(failure: Failure, policy: RoutingPolicy) -> Cooldown | Disable | None:
    kind = failure.kind
    if kind in _WITHOUT_PENALTY or kind in _STRIKES:
        return None
    match kind:
        case _KIND.AUTHENTICATION:
            return Disable(scope=Scope.PROVIDER)
        case _KIND.PERMISSION_DENIED:
            return Disable(scope=Scope.PROVIDER if failure.account_wide else Scope.MODEL)
        case _KIND.QUOTA_EXHAUSTED:
            return Disable(scope=Scope.PROVIDER, recheck_s=policy.quota_recheck_s)
        case _KIND.MODEL_UNAVAILABLE:
            return Disable(scope=Scope.MODEL)
        case _KIND.BLOCKED_BY_EDGE:
            return Cooldown(scope=Scope.PROVIDER, length_s=EDGE_COOLDOWN_S, announced=False)
        case _KIND.MALFORMED_RESPONSE:
            # A body cut short is a passing fault of the line; a page in place of an answer is a wrong address.
            length_s = None if failure.retryable else EDGE_COOLDOWN_S
            return Cooldown(scope=Scope.MODEL, length_s=length_s, announced=False)
        case _:
            return Cooldown(
                scope=Scope.PROVIDER if kind is _KIND.CONNECTION else Scope.MODEL,
                length_s=failure.retry_after_s,
                announced=failure.retry_after_s is not None,
            )


def proves_model_serves(failure: Failure) -> bool:
    """Return whether this failure shows the model at work: it refused or fumbled this request, and is up."""
    return failure.kind in _SERVED


def proves_provider_serves(failure: Failure) -> bool:
    """Return whether this failure shows the account at work, whatever is wrong with the model or the request."""
    return failure.kind in _SERVED or failure.kind in {
        FailureKind.RATE_LIMITED,
        FailureKind.MODEL_UNAVAILABLE,
        FailureKind.EMPTY_RESPONSE,
    }
