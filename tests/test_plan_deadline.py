"""One deadline covers every attempt and wait of a request."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from planning import Course, failure, roster

from fallback.core.errors import FailureKind
from fallback.core.plan import MIN_ATTEMPT_S, GiveUpReason, Try
from fallback.core.policy import RoutingPolicy

K = FailureKind
SLOW = failure(K.TIMEOUT)
BROKEN = failure(K.SERVER_ERROR, status=500)


@pytest.mark.parametrize(("asked_s", "given_s"), [(5.0, 5.0), (60.0, 60.0), (600.0, 60.0), (math.inf, 60.0)])
def test_the_caller_may_lower_the_deadline_and_not_raise_it(asked_s: float, given_s: float) -> None:
    step = Course(roster("a"), now=100.0, deadline_s=asked_s).plan.next_step(100.0)
    assert isinstance(step, Try)
    assert step.timeouts.total_s == given_s


def test_the_limits_of_every_attempt_are_cut_to_what_is_left() -> None:
    course = Course(roster("a", "b", "c"), deadline_s=12.5)
    course.run(lambda _: SLOW, takes_s=5.0)
    limits = [(s.timeouts.connect_s, s.timeouts.first_token_s, s.timeouts.idle_s) for s in course.tries]
    # As long as somebody else could answer, one that is silent gets half of what is left, whenever it falls silent.
    assert limits == [(3.0, 6.25, 6.25), (3.0, 3.75, 3.75), (2.5, 2.5, 2.5)]
    assert [step.timeouts.total_s for step in course.tries] == [12.5, 7.5, 2.5]
    assert {step.timeouts.patience_s for step in course.tries} == {10.0}


@pytest.mark.parametrize("missing", ["off", "no key", "cooling down", "nobody"])
def test_nothing_is_kept_back_for_others_that_cannot_be_asked(missing: str) -> None:
    whom = roster("a") if missing == "nobody" else roster("a", "b")
    if missing == "off":
        whom.set_enabled("b", False, by="test")
    elif missing == "no key":
        whom.set_unavailable("b", "no key")
    elif missing == "cooling down":
        whom.set_enabled("a", False, by="test")
        Course(whom).run(lambda _: failure(K.CONNECTION))
        whom.set_enabled("a", True, by="test")
    step = Course(whom, deadline_s=5.0).plan.next_step(0.0)
    assert isinstance(step, Try)
    assert (step.candidate.provider, step.timeouts.first_token_s) == ("a", 5.0)


def test_nothing_is_started_that_cannot_fit() -> None:
    course = Course(roster("a", "b"), deadline_s=10.0)
    assert course.run(lambda _: SLOW, takes_s=10.0 - MIN_ATTEMPT_S / 2) == ["a1"]
    assert course.end.reason is GiveUpReason.DEADLINE
    assert course.end.provider == "a"
    course = Course(roster("a", "b"), deadline_s=10.0)
    assert course.run(lambda _: SLOW, takes_s=10.0 - MIN_ATTEMPT_S * 2) == ["a1", "b1"]


def test_a_deadline_of_nothing_ends_it_without_an_attempt() -> None:
    course = Course(roster("a"), deadline_s=0.01)
    assert course.run(lambda _: None) == []
    assert course.end.reason is GiveUpReason.DEADLINE


def test_a_deadline_that_passed_during_a_wait_ends_it() -> None:
    course = Course(roster("a", "b"), deadline_s=10.0)
    step = course.plan.next_step(0.0)
    assert isinstance(step, Try)
    course.plan.record(step, BROKEN, 0.0)
    course.now = 20.0
    assert course.run(lambda _: None) == []
    assert course.end.reason is GiveUpReason.DEADLINE


@pytest.mark.parametrize("takes_s", [9.9, 9.99])
def test_a_retry_that_does_not_fit_is_neither_waited_for_nor_made(takes_s: float) -> None:
    whom = roster("a", "b")
    course = Course(whom, deadline_s=10.0)
    course.run(lambda step: BROKEN if step.candidate.provider == "a" else None, takes_s=takes_s)
    assert course.waits == []
    # Where there is still time for somebody, it is for the next provider and not for waiting.
    assert course.asked == (["a1", "b1"] if takes_s == 9.9 else ["a1"])


@pytest.mark.parametrize("delivered", [False, True])
def test_what_the_deadline_of_the_request_ended_punishes_nobody(delivered: bool) -> None:
    whom = roster("a", "b")
    course = Course(whom, deadline_s=2.0)
    late = replace(failure(K.TIMEOUT, delivered=delivered), overdue=True)
    assert course.run(lambda _: late, takes_s=2.0) == ["a1"]
    assert course.end.reason is (GiveUpReason.BROKEN if delivered else GiveUpReason.DEADLINE)
    assert whom.status(course.now)[0].state == "ready"
    assert whom.permits_open == 0


def test_a_provider_that_is_slow_by_the_providers_own_limit_is_punished() -> None:
    whom = roster("a", "b")
    Course(whom, deadline_s=25.0).run(lambda _: SLOW, takes_s=10.0)
    assert whom.status(10.0)[0].state == "cooling_down"


def test_a_provider_whose_own_limit_ended_with_the_deadline_is_punished() -> None:
    whom = roster("a", policy=RoutingPolicy(first_token_timeout_s=60.0))
    course = Course(whom)
    course.run(lambda _: SLOW, takes_s=60.0)
    assert course.end.reason is GiveUpReason.DEADLINE
    assert whom.status(60.0)[0].state == "cooling_down"


@pytest.mark.parametrize("kind", [K.OVERLOADED, K.RATE_LIMITED, K.CONNECTION])
def test_a_plain_refusal_at_the_last_moment_is_punished_as_ever(kind: FailureKind) -> None:
    whom = roster("a")
    Course(whom, deadline_s=2.0).run(lambda _: failure(kind, retry_after_s=60.0), takes_s=2.0)
    assert whom.status(2.0)[0].state == "cooling_down"


def test_a_passing_fault_at_the_last_moment_is_punished_since_no_retry_follows() -> None:
    whom = roster("a")
    Course(whom, deadline_s=2.0).run(lambda _: BROKEN, takes_s=2.0)
    assert whom.status(2.0)[0].state == "cooling_down"
