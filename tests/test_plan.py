"""The course of one request: who is asked, in which order, and when it ends. Its limits in time: test_plan_deadline.py."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning import Course, candidate, failure, roster

from fallback.core.errors import FailureKind, UnknownModelError
from fallback.core.models import Candidate, ChatRequest, Role
from fallback.core.plan import CANCELLED, MIN_ATTEMPT_S, GiveUp, GiveUpReason, Try, Wait, known_models, start
from fallback.core.policy import RoutingPolicy, judge
from fallback.core.roster import Roster, SlotSpec, Why

K = FailureKind
DOWN = failure(K.OVERLOADED, status=503)
REFUSED = failure(K.INVALID_REQUEST, status=400)
LIMITED = failure(K.RATE_LIMITED, status=429, retry_after_s=30.0)
GONE = failure(K.MODEL_UNAVAILABLE, status=404)
BROKEN = failure(K.SERVER_ERROR, status=500)
TOO_LONG = failure(K.CONTEXT_WINDOW_EXCEEDED, status=400)


def test_providers_are_asked_in_their_order_each_once() -> None:
    course = Course(roster("a", "b", "c"))
    assert course.run(lambda _: DOWN) == ["a1", "b1", "c1"]
    assert [step.role for step in course.tries] == [Role.FIRST, Role.FAILOVER, Role.FAILOVER]
    assert [step.number for step in course.tries] == [1, 2, 3]
    assert course.end.reason is GiveUpReason.FAILED
    assert (course.end.failure, course.end.provider) == (DOWN, "c")


def test_an_answer_ends_it_and_leaves_everything_ready() -> None:
    whom = roster("a", "b")
    course = Course(whom)
    assert course.run(lambda _: None) == ["a1"]
    assert {status.state for status in whom.status(0.0)} == {"ready"}
    assert whom.permits_open == 0


@pytest.mark.parametrize(
    ("model", "order"),
    [
        ("auto", ["a1", "b1", "c1"]),
        ("cheap", ["c1", "a1"]),
        ("b", ["b1", "a1", "c1"]),
        ("c1", ["c1", "a1", "b1"]),
        ("b2", ["b2", "b1", "a1", "c1"]),
    ],
)
def test_a_route_a_provider_or_a_model_may_be_named(model: str, order: list[str]) -> None:
    whom = roster("a", "b", "c", models={"b": 2}, policy=RoutingPolicy(routes={"cheap": ("c", "a")}))
    assert Course(whom, model=model).run(lambda _: DOWN) == order


def test_a_model_that_two_providers_have_is_asked_of_both_first() -> None:
    def spec(name: str, *models: str) -> SlotSpec:
        return SlotSpec(
            name=name, candidates=tuple(Candidate(provider=name, model=model) for model in models)
        )

    whom = Roster(
        [spec("a", "x"), spec("b", "y", "shared"), spec("c", "shared")], RoutingPolicy(), jitter=lambda: 0.0
    )
    course = Course(whom, model="shared")
    course.run(lambda _: DOWN)
    assert [step.candidate.key for step in course.tries] == [
        ("b", "shared"),
        ("b", "y"),
        ("c", "shared"),
        ("a", "x"),
    ]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    whom = roster("a", "b", policy=RoutingPolicy(routes={"cheap": ("b",)}))
    with pytest.raises(UnknownModelError) as caught:
        start(ChatRequest(request_id="r", messages=(), model="nobody"), whom, 0.0)
    assert caught.value.known == known_models(whom) == ("auto", "cheap", "a", "b", "a1", "b1")


def test_a_passing_fault_is_tried_again_once_after_a_pause_and_costs_nothing_if_that_helps() -> None:
    whom = roster("a", "b", jitter=0.5)
    course = Course(whom)
    outcomes = iter([BROKEN, None])
    assert course.run(lambda _: next(outcomes)) == ["a1", "a1"]
    assert [step.role for step in course.tries] == [Role.FIRST, Role.RETRY]
    assert course.waits == [pytest.approx(0.25)]
    assert whom.status(course.now)[0].state == "ready"


def test_a_fault_that_stays_is_failed_over_after_the_retry_and_then_punished() -> None:
    whom = roster("a", "b")
    course = Course(whom)
    assert course.run(lambda step: BROKEN if step.candidate.provider == "a" else None) == ["a1", "a1", "b1"]
    assert [step.role for step in course.tries] == [Role.FIRST, Role.RETRY, Role.FAILOVER]
    assert whom.status(course.now)[0].state == "cooling_down"


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_candidate_is_asked_again_as_often_as_configured(retries: int) -> None:
    course = Course(roster("a", policy=RoutingPolicy(retries=retries)))
    assert course.run(lambda _: BROKEN) == ["a1"] * (1 + retries)


def test_a_retry_is_dropped_where_the_provider_was_switched_off_meanwhile() -> None:
    whom = roster("a", "b")

    def outcome(step: Try) -> Any:
        whom.set_enabled("a", False, by="test")
        return BROKEN if step.candidate.provider == "a" else None

    assert Course(whom).run(outcome) == ["a1", "b1"]


def test_the_next_model_follows_in_the_same_request_and_serves_the_next_one() -> None:
    whom = roster("a", "b", models={"a": 3})
    gone = {"a1", "a2"}
    course = Course(whom)
    assert course.run(lambda step: GONE if step.candidate.model in gone else None) == ["a1", "a2", "a3"]
    assert Course(whom).run(lambda _: None) == ["a3"]
    assert whom.status(0.0)[0].retired == ("a1", "a2")


def test_the_next_model_is_not_for_other_failures() -> None:
    assert Course(roster("a", "b", models={"a": 2})).run(lambda _: LIMITED) == ["a1", "b1"]


@pytest.mark.parametrize(
    ("windows", "asked"),
    [
        ((8, 16, 8), ["a1", "b1"]),
        ((8, 8, None), ["a1", "c1"]),
        ((8, None, 32), ["a1", "b1", "c1"]),
        ((8, 4, 8), ["a1"]),
        ((None, 4, 8), ["a1", "b1", "c1"]),
    ],
)
def test_a_question_too_long_goes_to_larger_or_unknown_windows_only(windows: Any, asked: list[str]) -> None:
    whom = roster("a", "b", "c", windows=dict(zip("abc", windows, strict=True)))
    course = Course(whom)
    assert course.run(lambda _: TOO_LONG) == asked
    assert course.end.reason is GiveUpReason.REJECTED
    assert course.end.provider == "a"
    assert {status.state for status in whom.status(0.0)} == {"ready"}


def test_a_refused_request_gets_one_second_opinion_and_then_the_first_refusal() -> None:
    whom = roster("a", "b", "c", models={"a": 2})
    course = Course(whom)
    assert course.run(lambda _: REFUSED) == ["a1", "b1"]
    assert (course.end.reason, course.end.provider) == (GiveUpReason.REJECTED, "a")
    assert {status.state for status in whom.status(0.0)} == {"ready"}


def test_a_provider_that_fails_in_between_is_no_second_opinion() -> None:
    course = Course(roster("a", "b", "c", "d"))
    outcomes = {"a": REFUSED, "b": DOWN, "c": REFUSED}
    assert course.run(lambda step: outcomes[step.candidate.provider]) == ["a1", "b1", "c1"]
    assert (course.end.reason, course.end.provider) == (GiveUpReason.REJECTED, "a")


def test_the_refusal_is_told_where_nobody_else_can_give_an_opinion() -> None:
    course = Course(roster("a", "b"))
    assert course.run(lambda step: REFUSED if step.candidate.provider == "a" else DOWN) == ["a1", "b1"]
    assert (course.end.reason, course.end.failure) == (GiveUpReason.REJECTED, REFUSED)


def test_a_second_opinion_that_answers_is_the_answer() -> None:
    assert Course(roster("a", "b")).run(lambda step: REFUSED if step.candidate.provider == "a" else None) == [
        "a1",
        "b1",
    ]


def test_a_refusal_on_grounds_of_content_ends_it_or_fails_over_as_configured() -> None:
    withheld = failure(K.CONTENT_POLICY)
    course = Course(roster("a", "b"))
    assert course.run(lambda _: withheld) == ["a1"]
    assert (course.end.reason, course.end.failure) == (GiveUpReason.REJECTED, withheld)
    course = Course(roster("a", "b", policy=RoutingPolicy(content_policy="fail_over")))
    assert course.run(lambda step: withheld if step.candidate.provider == "a" else DOWN) == ["a1", "b1"]
    assert (course.end.reason, course.end.failure) == (GiveUpReason.REJECTED, withheld)


def test_a_request_too_large_is_skipped_for_this_request_alone() -> None:
    whom = roster("a", "b")
    too_large = failure(K.REQUEST_TOO_LARGE, status=413, retry_after_s=1.0)
    assert Course(whom).run(lambda step: too_large if step.candidate.provider == "a" else None) == [
        "a1",
        "b1",
    ]
    assert whom.status(0.0)[0].state == "ready"
    assert Course(whom).run(lambda _: None) == ["a1"]


def test_who_recovers_soonest_is_asked_anyway_once_where_all_are_cooling_down() -> None:
    whom = roster("a", "b", "c")
    waits = {"a": 300.0, "b": 20.0, "c": 100.0}
    course = Course(whom)
    course.run(lambda step: failure(K.RATE_LIMITED, retry_after_s=waits[step.candidate.provider]))
    assert course.asked == ["a1", "b1", "c1"]
    course = Course(whom, now=course.now + 1.0)
    assert course.run(lambda _: DOWN) == ["b1"]
    assert course.tries[0].role is Role.FIRST
    assert [(refusal.provider, refusal.why) for refusal in course.tries[0].skipped] == [
        ("a", Why.COOLING_DOWN),
        ("c", Why.COOLING_DOWN),
    ]
    assert Course(whom, now=course.now).run(lambda _: None) == ["b1"]
    assert {status.name: status.state for status in whom.status(course.now)}["b"] == "ready"


def test_where_all_are_cooling_down_a_guess_of_ours_keeps_nobody_from_being_asked() -> None:
    whom = roster("a", "b", "c", "d")
    announced = {"c": 5.0}
    Course(whom).run(lambda step: failure(K.OVERLOADED, retry_after_s=announced.get(step.candidate.provider)))
    course = Course(whom, now=1.0)
    answers = {"a": DOWN, "b": DOWN, "c": DOWN}
    # c recovers soonest; after it those are asked of which nobody said how long they rest, each once.
    assert course.run(lambda step: answers.get(step.candidate.provider)) == ["c1", "a1", "b1", "d1"]
    assert whom.status(1.0)[3].state == "ready"
    everybody = Course(whom, now=2.0)
    whom.set_enabled("d", False, by="test")
    assert sorted(everybody.run(lambda _: DOWN)) == ["a1", "b1", "c1"]


def test_all_rate_limited_says_when_to_come_back() -> None:
    whom = roster("a", "b")
    course = Course(whom, now=100.0)
    course.run(
        lambda step: failure(K.RATE_LIMITED, retry_after_s=50.0 if step.candidate.provider == "a" else 20.0)
    )
    assert course.end.reason is GiveUpReason.RATE_LIMITED
    assert course.end.retry_after_s == pytest.approx(20.0)
    course = Course(whom, now=105.0)
    assert course.run(lambda _: failure(K.RATE_LIMITED, retry_after_s=2.0)) == ["b1"]
    assert course.end.reason is GiveUpReason.RATE_LIMITED
    assert course.end.retry_after_s == pytest.approx(15.0)


def test_the_last_failure_of_each_tells_whether_all_are_rate_limited() -> None:
    outcomes = iter([BROKEN, LIMITED, LIMITED])
    course = Course(roster("a", "b"))
    assert course.run(lambda _: next(outcomes)) == ["a1", "a1", "b1"]
    assert course.end.reason is GiveUpReason.RATE_LIMITED


def test_one_that_failed_otherwise_makes_it_a_failure_of_providers() -> None:
    course = Course(roster("a", "b"))
    course.run(lambda step: LIMITED if step.candidate.provider == "a" else DOWN)
    assert course.end.reason is GiveUpReason.FAILED


@pytest.mark.parametrize("how", ["off", "no key"])
def test_nobody_to_ask_is_said_without_an_attempt(how: str) -> None:
    whom = roster("a", "b")
    for name in ("a", "b"):
        if how == "off":
            whom.set_enabled(name, False, by="test")
        else:
            whom.set_unavailable(name, how)
    course = Course(whom)
    assert course.run(lambda _: None) == []
    assert course.end.reason is GiveUpReason.NONE_AVAILABLE
    assert [refusal.provider for refusal in course.end.skipped] == ["a", "b"]


PICTURE = ({"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image_url"}]},)


def with_embedded(*names: str) -> Roster:
    slots = [SlotSpec(name=name, candidates=(candidate(name, degraded=name == "e"),)) for name in names]
    return Roster(slots, RoutingPolicy(), jitter=lambda: 0.0)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"messages": PICTURE}, "cannot see pictures"),
        ({"extra": {"n": 2}}, "cannot give several answers (n)"),
        ({"extra": {"tool_choice": "required"}}, "cannot call tools"),
    ],
)
def test_what_is_beyond_the_embedded_model_is_not_asked_of_it_and_the_reason_told(
    asked: dict[str, Any], why: str
) -> None:
    whom = with_embedded("a", "e")
    whom.set_unavailable("a", "no key")
    course = Course(whom, **asked)
    assert course.run(lambda _: None) == []
    assert course.end.reason is GiveUpReason.NONE_AVAILABLE
    assert [(r.provider, r.why, r.text) for r in course.end.skipped] == [
        ("a", Why.NOT_CONFIGURED, "no key"),
        ("e", Why.BEYOND, why),
    ]


def test_others_are_asked_for_what_is_beyond_the_embedded_model_wherever_it_stands() -> None:
    course = Course(with_embedded("e", "a", "b"), messages=PICTURE)
    assert course.run(lambda step: DOWN if step.candidate.provider == "a" else None) == ["a1", "b1"]
    assert [[r.text for r in step.skipped] for step in course.tries] == [["cannot see pictures"], []]
    limited = Course(with_embedded("a", "e"), extra={"n": 2})
    assert limited.run(lambda _: LIMITED) == ["a1"]
    assert limited.end.reason is GiveUpReason.RATE_LIMITED
    assert [r.why for r in limited.end.skipped] == [Why.BEYOND]


def test_no_time_is_kept_for_an_embedded_model_that_could_not_answer() -> None:
    def limit_s(**asked: Any) -> float:
        course = Course(with_embedded("a", "e"), deadline_s=8.0, **asked)
        course.run(lambda _: None)
        return course.tries[0].timeouts.first_token_s

    assert limit_s(messages=PICTURE) > limit_s()


def test_an_embedded_model_that_is_off_is_off_whatever_is_asked() -> None:
    whom = with_embedded("e")
    whom.set_enabled("e", False, by="test")
    course = Course(whom, messages=PICTURE)
    course.run(lambda _: None)
    assert [r.why for r in course.end.skipped] == [Why.OFF]


def test_only_disabled_ones_left_is_a_failure_and_no_attempt() -> None:
    whom = roster("a")
    Course(whom).run(lambda _: failure(K.AUTHENTICATION, status=401))
    course = Course(whom)
    assert course.run(lambda _: None) == []
    assert course.end.reason is GiveUpReason.FAILED


def test_who_is_skipped_is_named_once_and_who_was_asked_never() -> None:
    whom = roster("a", "b", "c", "d")
    whom.set_enabled("a", False, by="test")
    course = Course(whom)
    denied = failure(K.AUTHENTICATION, status=401)
    assert course.run(lambda step: denied if step.candidate.provider != "d" else None) == ["b1", "c1", "d1"]
    assert [[r.provider for r in step.skipped] for step in course.tries] == [["a"], [], []]


def test_a_caller_who_goes_away_ends_it_and_harms_nobody() -> None:
    whom = roster("a", "b")
    course = Course(whom)
    assert course.run(lambda _: CANCELLED) == ["a1"]
    assert course.end.failure is CANCELLED
    assert whom.permits_open == 0
    assert {status.state for status in whom.status(0.0)} == {"ready"}


ENDS_IT = {K.CANCELLED, K.CONTENT_POLICY}


@pytest.mark.parametrize("kind", [kind for kind in K if kind not in ENDS_IT])
def test_once_text_was_delivered_the_next_candidate_goes_on_and_nothing_is_retried(kind: FailureKind) -> None:
    course = Course(roster("a", "b", "c"))
    broken = failure(kind, delivered=True, retryable=True, retry_after_s=0.1)
    assert course.run(lambda step: None if step.candidate.provider == "c" else broken) == ["a1", "b1", "c1"]
    assert [step.role for step in course.tries] == [Role.FIRST, Role.FAILOVER, Role.FAILOVER]


@pytest.mark.parametrize("kind", [kind for kind in K if kind is not K.CANCELLED])
def test_an_answer_that_nobody_goes_on_with_is_broken_whatever_the_others_failed_of(
    kind: FailureKind,
) -> None:
    broke = failure(K.STREAM_TRUNCATED, delivered=True)
    course = Course(roster("a", "b"))
    course.run(lambda step: broke if step.candidate.provider == "a" else failure(kind, delivered=True))
    assert (course.end.reason, course.end.provider) == (GiveUpReason.BROKEN, "a")
    assert course.end.failure is broke
    assert course.plan.next_step(course.now) == course.end


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (RoutingPolicy(on_stream_break="error"), {}),
        (RoutingPolicy(), {"final": True}),
        (RoutingPolicy(), {"kind": K.CONTENT_POLICY}),
    ],
)
def test_what_nobody_may_go_on_with_ends_the_request(policy: RoutingPolicy, said: dict[str, Any]) -> None:
    course = Course(roster("a", "b", policy=policy))
    broke = failure(**{"kind": K.STREAM_TRUNCATED, "delivered": True, **said})
    assert course.run(lambda _: broke) == ["a1"]
    assert course.end.reason is GiveUpReason.BROKEN


def test_a_candidate_that_refused_a_prefill_is_asked_again_at_once_in_another_way_and_only_once() -> None:
    whom = roster("a", "b", "c")
    broke = failure(K.STREAM_TRUNCATED, delivered=True)
    refused = failure(K.INVALID_REQUEST, status=400, delivered=True, adapted=True)
    course = Course(whom)
    outcomes = iter([broke, refused, refused, None])
    assert course.run(lambda _: next(outcomes)) == ["a1", "b1", "b1", "c1"]
    assert course.waits == []
    assert [step.role for step in course.tries][2] is Role.RETRY
    assert {status.state for status in whom.status(course.now)} == {"ready"}


def test_a_wait_that_the_provider_asks_for_is_kept_where_it_is_short_enough() -> None:
    whom = roster("a", "b", jitter=0.5)
    soon = failure(K.RATE_LIMITED, status=429, retry_after_s=0.4)
    course = Course(whom)
    outcomes = iter([soon, None])
    assert course.run(lambda _: next(outcomes)) == ["a1", "a1"]
    assert course.waits == [pytest.approx(0.42)]
    course = Course(whom)
    assert course.run(lambda step: soon if step.candidate.provider == "a" else None) == ["a1", "a1", "b1"]
    assert whom.status(course.now)[0].state == "cooling_down"
    longer = failure(K.RATE_LIMITED, status=429, retry_after_s=0.6)
    course = Course(roster("a", "b"))
    assert course.run(lambda step: longer if step.candidate.provider == "a" else None) == ["a1", "b1"]
    assert course.waits == []


def test_a_wait_that_would_outlast_the_deadline_is_not_begun() -> None:
    whom = roster("a", "b", policy=RoutingPolicy(max_retry_wait_s=100.0))
    course = Course(whom, deadline_s=5.0)
    limited = failure(K.RATE_LIMITED, status=429, retry_after_s=6.0)
    assert course.run(lambda step: limited if step.candidate.provider == "a" else None) == ["a1", "b1"]
    assert (course.waits, course.now) == ([], 0.0)
    assert whom.status(0.0)[0].until_s == pytest.approx(6.0)


def test_a_request_that_finds_a_cooldown_over_sends_a_probe_beside_itself() -> None:
    whom = roster("a", "b")
    Course(whom).run(lambda step: DOWN if step.candidate.provider == "a" else None)
    first, second = (Course(whom, now=50.0).plan.next_step(50.0) for _ in range(2))
    assert isinstance(first, Try)
    assert isinstance(second, Try)
    assert (first.candidate.provider, first.permit.probe) == ("b", False)
    assert [(probe.candidate.provider, probe.probe) for probe in first.probes] == [("a", True)]
    assert (second.candidate.provider, second.probes) == ("b", ())
    assert [refusal.why for refusal in second.skipped] == [Why.PROBING]
    whom.settle(first.probes[0], None, None, 50.0)
    assert Course(whom, now=51.0).run(lambda _: None) == ["a1"]


def test_a_request_shortly_before_the_end_books_the_probe_for_the_end() -> None:
    whom = roster("a", "b")
    Course(whom).run(lambda step: DOWN if step.candidate.provider == "a" else None)
    early, first, second = (Course(whom, now=at).plan.next_step(at) for at in (4.9, 5.1, 9.0))
    assert isinstance(early, Try)
    assert isinstance(first, Try)
    assert isinstance(second, Try)
    assert (early.probes, second.probes) == ((), ())
    assert [(probe.candidate.provider, probe.not_before) for probe in first.probes] == [("a", 10.0)]
    assert [refusal.why for refusal in first.skipped] == [Why.COOLING_DOWN]
    late = Course(whom, now=11.0).plan.next_step(11.0)
    assert isinstance(late, Try)
    assert (late.candidate.provider, late.probes) == ("b", ())
    assert [refusal.why for refusal in late.skipped] == [Why.PROBING]


def test_a_model_that_is_asked_by_name_alone_is_looked_after_too() -> None:
    whom = roster("a", "b", models={"a": 2})
    busy = failure(K.OVERLOADED, status=503)
    Course(whom, model="a2").run(lambda step: busy if step.candidate.model == "a2" else None)
    step = Course(whom, model="a2", now=50.0).plan.next_step(50.0)
    assert isinstance(step, Try)
    assert (step.candidate.model, step.skipped) == ("a1", ())
    assert [(probe.candidate.model, probe.probe) for probe in step.probes] == [("a2", True)]
    whom.settle(step.probes[0], None, None, 50.0)
    assert Course(whom, model="a2", now=51.0).run(lambda _: None) == ["a2"]


def test_where_an_end_was_announced_the_next_request_is_the_probe() -> None:
    whom = roster("a", "b")
    Course(whom).run(lambda step: LIMITED if step.candidate.provider == "a" else None)
    step = Course(whom, now=1000.0).plan.next_step(1000.0)
    assert isinstance(step, Try)
    assert (step.candidate.provider, step.permit.probe, step.probes) == ("a", True, ())


def test_where_only_the_embedded_model_follows_the_request_looks_for_itself() -> None:
    local = Candidate(provider="local", model="small", degraded=True)
    slots = [SlotSpec(name=name, candidates=(candidate(name),)) for name in ("a", "b")]
    whom = Roster([*slots, SlotSpec(name="local", candidates=(local,))], RoutingPolicy(), jitter=lambda: 0.0)
    Course(whom).run(lambda step: DOWN if step.candidate.provider != "local" else None)
    course = Course(whom, now=50.0)
    assert course.run(lambda _: None) == ["a1"]
    step = course.tries[0]
    assert (step.permit.probe, [probe.candidate.provider for probe in step.probes]) == (True, ["b"])
    whom.settle(step.probes[0], None, DOWN, 50.0)
    # One that is known to rest still is not waited for.
    resting = Roster(
        [slots[0], SlotSpec(name="local", candidates=(local,))], RoutingPolicy(), jitter=lambda: 0.0
    )
    Course(resting).run(lambda step: DOWN if step.candidate.provider != "local" else None)
    assert Course(resting, now=5.0).run(lambda _: None) == ["small"]


def test_where_nobody_else_is_left_the_request_is_the_probe() -> None:
    whom = roster("a")
    Course(whom).run(lambda _: DOWN)
    course = Course(whom, now=50.0)
    assert course.run(lambda _: None) == ["a1"]
    assert (course.tries[0].permit.probe, course.tries[0].probes) == (True, ())


FAILURES = st.builds(
    failure,
    st.sampled_from(list(K)),
    status=st.sampled_from([None, 200, 400, 429, 503]),
    retry_after_s=st.one_of(st.none(), st.floats(0, 1000)),
    account_wide=st.booleans(),
    retryable=st.booleans(),
    delivered=st.sampled_from([False, False, False, True]),
    final=st.booleans(),
    adapted=st.sampled_from([False, False, True]),
    overdue=st.sampled_from([False, False, True]),
)
OUTCOMES = st.one_of(FAILURES, FAILURES, FAILURES, st.none())


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    deadline_s=st.floats(0.01, 90),
    retries=st.integers(0, 3),
    jitter=st.floats(0, 1),
    model=st.sampled_from(["auto", "b", "a2", "c1"]),
)
def test_any_course_of_any_requests_ends_in_time_and_leaks_nothing(
    data: st.DataObject, deadline_s: float, retries: int, jitter: float, model: str
) -> None:
    policy = RoutingPolicy(retries=retries)
    whom = roster("a", "b", "c", models={"a": 2, "b": 2}, policy=policy, jitter=jitter)
    now = 0.0
    for _ in range(3):
        request = ChatRequest(request_id="r", messages=(), model=model, deadline_s=deadline_s)
        plan = start(request, whom, now)
        attempts = 0
        while True:
            step = plan.next_step(now)
            if isinstance(step, GiveUp):
                break
            if isinstance(step, Wait):
                assert 0 < step.seconds <= policy.max_retry_wait_s * 1.1 + 1e-9
                assert now + step.seconds < plan.deadline
                now += step.seconds
                continue
            attempts += 1
            check_try(step, plan.deadline, now)
            assert whom.permits_open == 1 + len(step.probes)
            for probe in step.probes:
                assert probe.probe
                looked = data.draw(OUTCOMES)
                verdict = None if looked is None else judge(looked, retries_left=0, policy=policy)
                whom.settle(probe, verdict, looked, now)
            now += data.draw(st.floats(0, step.timeouts.total_s * 1.01))
            outcome = data.draw(OUTCOMES)
            plan.record(step, outcome, now)
            assert whom.permits_open == 0
            if outcome is None:
                break
        assert attempts == plan.attempts <= 5 * (2 + retries) + 1
        now += data.draw(st.floats(0, 100))


def check_try(step: Try, deadline: float, now: float) -> None:
    left_s = deadline - now
    assert left_s >= MIN_ATTEMPT_S
    limits = step.timeouts
    assert limits.total_s == left_s
    assert max(limits.connect_s, limits.first_token_s, limits.idle_s) <= left_s


def test_a_candidate_of_its_own_limits_is_given_them() -> None:
    own = candidate("a", stream_upstream=False, response_timeout_s=25.0)
    quick = candidate("b", first_token_timeout_s=4.0)
    whom = Roster(
        [SlotSpec(name="a", candidates=(own,)), SlotSpec(name="b", candidates=(quick,))],
        RoutingPolicy(),
        jitter=lambda: 0.0,
    )
    course = Course(whom)
    course.run(lambda _: DOWN)
    assert [step.timeouts.first_token_s for step in course.tries] == [25.0, 4.0]
    assert [step.timeouts.idle_s for step in course.tries] == [10.0, 10.0]
