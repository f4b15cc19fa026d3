"""The table of failure kinds: what follows from each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fallback.core.errors import FailureKind
from fallback.core.models import Failure
from fallback.core.policy import (
    EDGE_COOLDOWN_S,
    Cooldown,
    Disable,
    Next,
    RoutingPolicy,
    Scope,
    Verdict,
    judge,
    proves_model_serves,
    proves_provider_serves,
)

K = FailureKind
POLICY = RoutingPolicy()


def cooldown(scope: Scope, length_s: float | None = None, *, announced: bool = False) -> Cooldown:
    return Cooldown(scope=scope, length_s=length_s, announced=announced)


UNKNOWN = cooldown(Scope.MODEL)
TOLD = cooldown(Scope.MODEL, 7.5, announced=True)

# kind, what else the failure says -> where the request goes, the penalty, whether it is a strike, whether it is retried
ROWS: list[tuple[FailureKind, dict[str, Any], Next, Cooldown | Disable | None, bool, bool]] = [
    (K.AUTHENTICATION, {}, Next.FAIL_OVER, Disable(scope=Scope.PROVIDER), False, False),
    (K.PERMISSION_DENIED, {}, Next.FAIL_OVER, Disable(scope=Scope.PROVIDER), False, False),
    (
        K.PERMISSION_DENIED,
        {"account_wide": False},
        Next.FAIL_OVER,
        Disable(scope=Scope.MODEL),
        False,
        False,
    ),
    (
        K.QUOTA_EXHAUSTED,
        {"retry_after_s": 3.0},
        Next.FAIL_OVER,
        Disable(scope=Scope.PROVIDER, recheck_s=900.0),
        False,
        False,
    ),
    (K.RATE_LIMITED, {}, Next.FAIL_OVER, UNKNOWN, False, False),
    (K.RATE_LIMITED, {"retry_after_s": 7.5}, Next.FAIL_OVER, TOLD, False, False),
    (
        K.RATE_LIMITED,
        {"retry_after_s": 0.0},
        Next.FAIL_OVER,
        cooldown(Scope.MODEL, 0.0, announced=True),
        False,
        True,
    ),
    (
        K.RATE_LIMITED,
        {"retry_after_s": 0.5},
        Next.FAIL_OVER,
        cooldown(Scope.MODEL, 0.5, announced=True),
        False,
        True,
    ),
    (
        K.RATE_LIMITED,
        {"retry_after_s": 0.51},
        Next.FAIL_OVER,
        cooldown(Scope.MODEL, 0.51, announced=True),
        False,
        False,
    ),
    (K.REQUEST_TOO_LARGE, {}, Next.FAIL_OVER, None, False, False),
    (K.CONTEXT_WINDOW_EXCEEDED, {}, Next.LARGER_WINDOW, None, False, False),
    (K.CONTENT_POLICY, {}, Next.CALLER_ERROR, None, False, False),
    (K.MODEL_UNAVAILABLE, {}, Next.FAIL_OVER, Disable(scope=Scope.MODEL), False, False),
    (K.OUTPUT_REJECTED, {}, Next.FAIL_OVER, None, False, True),
    (K.INVALID_REQUEST, {}, Next.SECOND_OPINION, None, False, False),
    (K.OVERLOADED, {}, Next.FAIL_OVER, UNKNOWN, False, False),
    (K.OVERLOADED, {"retry_after_s": 7.5}, Next.FAIL_OVER, TOLD, False, False),
    (
        K.OVERLOADED,
        {"retry_after_s": 0.5},
        Next.FAIL_OVER,
        cooldown(Scope.MODEL, 0.5, announced=True),
        False,
        True,
    ),
    (K.SERVER_ERROR, {}, Next.FAIL_OVER, UNKNOWN, False, True),
    (K.SERVER_ERROR, {"retry_after_s": 7.5}, Next.FAIL_OVER, TOLD, False, False),
    (K.TIMEOUT, {}, Next.FAIL_OVER, UNKNOWN, False, False),
    (
        K.TIMEOUT,
        {"retry_after_s": 0.5},
        Next.FAIL_OVER,
        cooldown(Scope.MODEL, 0.5, announced=True),
        False,
        False,
    ),
    (K.CONNECTION, {}, Next.FAIL_OVER, cooldown(Scope.PROVIDER), False, False),
    (K.CONNECTION, {"retryable": True}, Next.FAIL_OVER, cooldown(Scope.PROVIDER), False, True),
    (K.BLOCKED_BY_EDGE, {}, Next.FAIL_OVER, cooldown(Scope.PROVIDER, 60.0), False, False),
    (K.MALFORMED_RESPONSE, {}, Next.FAIL_OVER, cooldown(Scope.MODEL, 60.0), False, False),
    (K.MALFORMED_RESPONSE, {"retryable": True}, Next.FAIL_OVER, UNKNOWN, False, True),
    (K.EMPTY_RESPONSE, {}, Next.FAIL_OVER, None, True, False),
    (K.STREAM_TRUNCATED, {}, Next.FAIL_OVER, None, True, False),
    (K.STREAM_STALLED, {}, Next.FAIL_OVER, UNKNOWN, False, False),
    (K.CANCELLED, {}, Next.STOP, None, False, False),
]


def row_id(row: Any) -> str:
    return f"{row[0]}-{'-'.join(row[1])}"


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_a_failure_leads_to_what_the_table_says(row: Any) -> None:
    kind, said, where, penalty, strike, _ = row
    verdict = judge(Failure(kind=kind, **said), retries_left=0, policy=POLICY)
    assert verdict == Verdict(next=where, penalty=penalty, strike=strike)


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_only_what_may_help_at_once_is_asked_again_and_without_penalty_so_far(row: Any) -> None:
    kind, said, where, penalty, strike, retried = row
    verdict = judge(Failure(kind=kind, **said), retries_left=1, policy=POLICY)
    assert verdict == (
        Verdict(next=Next.RETRY) if retried else Verdict(next=where, penalty=penalty, strike=strike)
    )


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_nothing_is_asked_again_once_text_was_delivered(row: Any) -> None:
    kind, said, *_ = row
    failure = Failure(kind=kind, delivered=True, **said)
    assert judge(failure, retries_left=9, policy=POLICY).next is not Next.RETRY


def test_every_kind_has_its_row() -> None:
    assert {row[0] for row in ROWS} == set(FailureKind)


def test_content_policy_may_be_set_to_fail_over() -> None:
    verdict = judge(
        Failure(kind=K.CONTENT_POLICY), retries_left=1, policy=replace(POLICY, content_policy="fail_over")
    )
    assert verdict == Verdict(next=Next.FAIL_OVER)


def test_the_pause_of_a_provider_without_credit_is_the_configured_one() -> None:
    verdict = judge(
        Failure(kind=K.QUOTA_EXHAUSTED), retries_left=0, policy=replace(POLICY, quota_recheck_s=5.0)
    )
    assert verdict.penalty == Disable(scope=Scope.PROVIDER, recheck_s=5.0)


def test_an_edge_that_blocks_is_left_alone_for_a_minute() -> None:
    assert EDGE_COOLDOWN_S == 60.0


REFUSALS = {
    K.CONTEXT_WINDOW_EXCEEDED,
    K.CONTENT_POLICY,
    K.OUTPUT_REJECTED,
    K.INVALID_REQUEST,
    K.REQUEST_TOO_LARGE,
}


@pytest.mark.parametrize("kind", list(FailureKind))
def test_a_refused_request_shows_the_model_at_work_and_an_outage_does_not(kind: FailureKind) -> None:
    failure = Failure(kind=kind)
    assert proves_model_serves(failure) == (kind in REFUSALS)
    of_the_provider = REFUSALS | {K.RATE_LIMITED, K.MODEL_UNAVAILABLE, K.EMPTY_RESPONSE}
    assert proves_provider_serves(failure) == (kind in of_the_provider)


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_what_shows_a_provider_at_work_never_punishes_it(row: Any) -> None:
    kind, said, _, penalty, *_ = row
    if proves_provider_serves(Failure(kind=kind, **said)) and penalty is not None:
        assert penalty.scope is Scope.MODEL
