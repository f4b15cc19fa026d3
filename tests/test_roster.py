"""The roster under any sequence of requests and outcomes, and under many threads at once."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fallback.core.breaker import MAX_COOLDOWN_S
from fallback.core.errors import FailureKind
from fallback.core.learned import LEAST_SUCCESSES
from fallback.core.models import Candidate, Failure, Headroom
from fallback.core.policy import RoutingPolicy, judge
from fallback.core.roster import Permit, Refusal, Roster, Settlement, Simulation, SlotSpec, Why

KINDS = [kind for kind in FailureKind if kind is not FailureKind.CANCELLED]


def slot(name: str, models: int = 1, **options: Any) -> SlotSpec:
    candidates = tuple(Candidate(provider=name, model=f"{name}{n}") for n in range(1, models + 1))
    return SlotSpec(name=name, candidates=candidates, **options)


def roster(*slots: SlotSpec, jitter: float = 0.0, **policy: Any) -> Roster:
    return Roster(slots or (slot("a"),), RoutingPolicy(**policy), jitter=lambda: jitter)


def admit(
    whom: Roster, provider: str = "a", now: float = 0.0, *, probe: bool = True, **options: Any
) -> Permit:
    admitted = whom.admit(provider, now, usable=lambda _: True, probe=probe, **options)
    assert isinstance(admitted, Permit), admitted
    return admitted


def refuse(whom: Roster, provider: str = "a", now: float = 0.0, **options: Any) -> Refusal:
    refused = whom.admit(provider, now, usable=lambda _: True, **options)
    assert isinstance(refused, Refusal)
    return refused


def fail(whom: Roster, permit: Permit, kind: FailureKind, now: float, **failure: Any) -> Settlement:
    failed = Failure(kind=kind, **failure)
    return whom.settle(permit, judge(failed, retries_left=0, policy=whom.policy), failed, now)


def succeed(whom: Roster, permit: Permit, now: float = 0.0) -> Settlement:
    return whom.settle(permit, None, None, now)


def state(whom: Roster, now: float, provider: str = "a") -> str:
    return next(status.state for status in whom.status(now) if status.name == provider)


def test_whoever_passes_in_a_panic_is_no_probe_of_the_half_that_is_over() -> None:
    whom = roster(slot("a"))
    first, second = admit(whom), admit(whom)
    fail(whom, first, FailureKind.CONNECTION, 0.0)
    fail(whom, second, FailureKind.RATE_LIMITED, 0.0, retry_after_s=2.0)
    in_a_panic = admit(whom, now=5.0, panic=True)
    assert not in_a_panic.probe, "the model is over its rest, and the provider is not"
    probe = admit(whom, now=11.0)
    assert probe.probe
    assert not admit(whom, now=11.0, panic=True).probe


@pytest.mark.parametrize(("jitter", "length_s"), [(0.0, 30.0), (0.5, 31.5), (1.0, 33.0)])
def test_an_announced_wait_is_kept_to_the_second_with_at_most_a_tenth_more(
    jitter: float, length_s: float
) -> None:
    whom = roster(jitter=jitter)
    settled = fail(whom, admit(whom), FailureKind.RATE_LIMITED, 0.0, retry_after_s=30.0)
    assert settled.cooldown_s == pytest.approx(length_s)
    assert refuse(whom, now=29.99).why is Why.COOLING_DOWN
    assert admit(whom, now=length_s + 0.001, probe=False).probe


@pytest.mark.parametrize(("jitter", "length_s"), [(0.0, 10.0), (0.5, 10.25), (1.0, 10.5)])
def test_a_cooldown_nobody_announced_gets_at_most_a_twentieth_more(jitter: float, length_s: float) -> None:
    whom = roster(jitter=jitter)
    assert fail(whom, admit(whom), FailureKind.OVERLOADED, 0.0).cooldown_s == pytest.approx(length_s)


@pytest.mark.parametrize(
    "kind", [FailureKind.OVERLOADED, FailureKind.CONNECTION, FailureKind.QUOTA_EXHAUSTED]
)
def test_after_a_cooldown_nobody_announced_requests_are_refused_until_a_probe_has_looked(
    kind: FailureKind,
) -> None:
    whom = roster()
    fail(whom, admit(whom), kind, 0.0)
    late = 1000.0
    refused = refuse(whom, now=late)
    assert (refused.why, refused.due, refused.reason) == (Why.PROBING, True, kind)
    assert whom.permits_open == 0
    probe = admit(whom, now=late)
    assert probe.probe
    refused = refuse(whom, now=late)
    assert (refused.why, refused.due) == (Why.PROBING, False)
    succeed(whom, probe, late)
    assert not admit(whom, now=late, probe=False).probe


def test_a_provider_is_due_where_either_of_its_cooldowns_was_not_announced() -> None:
    whom = roster()
    other = admit(whom)
    fail(whom, admit(whom), FailureKind.CONNECTION, 0.0)
    fail(whom, other, FailureKind.RATE_LIMITED, 0.0, retry_after_s=5.0)
    assert refuse(whom, now=50.0).due


def test_panic_and_a_test_by_hand_are_the_probe_themselves() -> None:
    for panic in (True, False):
        whom = roster()
        fail(whom, admit(whom), FailureKind.OVERLOADED, 0.0)
        assert admit(whom, now=50.0, probe=False, panic=panic, force=not panic).probe


HEADROOM = Headroom(remaining_requests=0, reset_requests_s=7.0, remaining_tokens=500, reset_tokens_s=90.0)


def test_a_rate_limit_that_an_answer_says_is_used_up_is_waited_for_without_asking() -> None:
    whom = roster(slot("a", 2))
    permit = admit(whom)
    succeed(whom, permit)
    (change,) = whom.note_answer(permit, first_token_s=0.1, headroom=HEADROOM, now=0.0)
    assert (change.model, change.after, change.length_s) == ("a1", "cooling_down", 7.0)
    refused = refuse(whom, now=6.9)
    assert (refused.why, refused.reason) == (Why.COOLING_DOWN, FailureKind.RATE_LIMITED)
    assert admit(whom, now=7.1, probe=False).probe


@pytest.mark.parametrize(
    "headroom",
    [
        Headroom(remaining_requests=1, reset_requests_s=7.0),
        Headroom(remaining_requests=0),
        Headroom(remaining_tokens=0, reset_tokens_s=0.0),
        None,
    ],
)
def test_an_answer_that_names_no_limit_used_up_leaves_the_candidate_ready(headroom: Headroom | None) -> None:
    whom = roster()
    permit = admit(whom)
    succeed(whom, permit)
    assert whom.note_answer(permit, first_token_s=None, headroom=headroom, now=0.0) == ()
    assert state(whom, 0.0) == "ready"


def test_what_an_answer_says_of_its_limit_never_shortens_a_cooldown() -> None:
    whom = roster()
    slow, quick = admit(whom), admit(whom)
    fail(whom, quick, FailureKind.RATE_LIMITED, 0.0, retry_after_s=60.0)
    succeed(whom, slow, 1.0)
    assert whom.note_answer(slow, first_token_s=None, headroom=HEADROOM, now=1.0) == ()
    assert whom.status(1.0)[0].until_s == pytest.approx(59.0)


def test_an_answer_of_a_drill_teaches_nothing() -> None:
    whom = roster()
    whom.simulate("a", Simulation.FAULT)
    for _ in range(LEAST_SUCCESSES):
        permit = admit(whom)
        succeed(whom, permit)
        assert whom.note_answer(permit, first_token_s=0.1, headroom=HEADROOM, now=0.0) == ()
    assert whom.first_token_limit_s(permit.candidate) == 10.0


def test_failures_in_a_row_cool_down_for_longer_and_a_success_ends_that() -> None:
    whom, now, lengths = roster(), 0.0, []
    for _ in range(5):
        lengths.append(fail(whom, admit(whom, now=now), FailureKind.OVERLOADED, now).cooldown_s)
        now += 100.0
    assert lengths == [10, 20, 30, 30, 30]
    succeed(whom, admit(whom, now=now), now)
    assert fail(whom, admit(whom, now=now), FailureKind.OVERLOADED, now).cooldown_s == 10


def test_a_configured_cooldown_is_the_base() -> None:
    whom = roster(cooldown_s=300.0)
    assert fail(whom, admit(whom), FailureKind.OVERLOADED, 0.0).cooldown_s == 300.0


@pytest.mark.parametrize(
    ("kind", "failure"),
    [
        (FailureKind.BLOCKED_BY_EDGE, {"status": 403}),
        (FailureKind.CONNECTION, {}),
        (FailureKind.AUTHENTICATION, {"status": 401}),
        (FailureKind.QUOTA_EXHAUSTED, {"status": 402}),
        (FailureKind.PERMISSION_DENIED, {"status": 403}),
        (FailureKind.OVERLOADED, {"status": 503}),
        (FailureKind.EMPTY_RESPONSE, {"status": 200}),
        (FailureKind.STREAM_TRUNCATED, {}),
        (FailureKind.MALFORMED_RESPONSE, {"status": 200}),
    ],
)
@pytest.mark.parametrize("before", [FailureKind.CONNECTION, FailureKind.OVERLOADED])
def test_a_probe_that_fails_starts_the_next_cooldown(
    kind: FailureKind, failure: dict[str, Any], before: FailureKind
) -> None:
    whom = roster()
    fail(whom, admit(whom), before, 0.0)
    settled = fail(whom, admit(whom, now=20.0), kind, 20.0, **failure)
    if kind is FailureKind.EMPTY_RESPONSE and before is FailureKind.CONNECTION:
        # The provider is back; its model has one strike.
        assert state(whom, 20.0) == "ready"
        return
    if kind is FailureKind.STREAM_TRUNCATED and before is FailureKind.CONNECTION:
        assert admit(whom, now=20.0).probe
        return
    assert settled.cooldown_s or settled.disabled
    assert not isinstance(whom.admit("a", 20.1, usable=lambda _: True), Permit)


def test_a_refused_request_shows_the_model_at_work_and_ends_its_cooldown() -> None:
    whom = roster()
    fail(whom, admit(whom), FailureKind.OVERLOADED, 0.0)
    fail(whom, admit(whom, now=20.0), FailureKind.INVALID_REQUEST, 20.0, status=400)
    assert state(whom, 20.0) == "ready"


def test_a_rate_limit_of_a_model_shows_the_provider_reached_again() -> None:
    whom = roster(slot("a", 2))
    fail(whom, admit(whom), FailureKind.CONNECTION, 0.0)
    fail(whom, admit(whom, now=20.0), FailureKind.RATE_LIMITED, 20.0, status=429, retry_after_s=5.0)
    assert refuse(whom, now=20.0).why is Why.COOLING_DOWN
    assert admit(whom, now=20.0, model="a2").candidate.model == "a2"


def test_three_empty_answers_in_a_row_bring_a_cooldown_and_an_answer_between_them_none() -> None:
    whom = roster()
    told = [fail(whom, admit(whom), FailureKind.EMPTY_RESPONSE, 0.0).cooldown_s for _ in range(3)]
    assert told == [None, None, 10]
    whom = roster()
    for _ in range(5):
        fail(whom, admit(whom), FailureKind.EMPTY_RESPONSE, 0.0)
        succeed(whom, admit(whom))
    assert state(whom, 0.0) == "ready"


def test_a_permit_counts_once() -> None:
    whom = roster()
    permit = admit(whom)
    assert whom.permits_open == 1
    fail(whom, permit, FailureKind.OVERLOADED, 0.0)
    assert whom.permits_open == 0
    before = whom.status(5.0)
    assert fail(whom, permit, FailureKind.AUTHENTICATION, 5.0) == Settlement()
    assert succeed(whom, permit, 5.0) == Settlement()
    assert whom.status(5.0) == before
    assert whom.permits_open == 0


def test_a_cancelled_probe_gives_the_slot_back_and_blames_nobody() -> None:
    whom = roster()
    fail(whom, admit(whom), FailureKind.OVERLOADED, 0.0)
    probe = admit(whom, now=20.0)
    assert refuse(whom, now=20.0).why is Why.PROBING
    assert whom.settle(probe, None, Failure(kind=FailureKind.CANCELLED), 20.0) == Settlement()
    assert admit(whom, now=20.0).probe


def test_the_next_model_serves_when_one_is_gone_and_a_provider_without_models_is_disabled() -> None:
    whom = roster(slot("a", 2))
    fail(whom, admit(whom), FailureKind.MODEL_UNAVAILABLE, 0.0)
    assert admit(whom).candidate.model == "a2"
    assert refuse(whom, model="a1").why is Why.DISABLED
    assert whom.status(0.0)[0].retired == ("a1",)
    fail(whom, admit(whom), FailureKind.MODEL_UNAVAILABLE, 0.0)
    assert refuse(whom).why is Why.DISABLED
    assert refuse(whom, panic=True).why is Why.DISABLED
    assert state(whom, 0.0) == "disabled"


@pytest.mark.parametrize(
    ("options", "why"),
    [({"enabled": False}, Why.OFF), ({"unavailable": "no key"}, Why.NOT_CONFIGURED)],
)
@pytest.mark.parametrize("panic", [False, True])
def test_off_and_not_configured_are_never_admitted(options: dict[str, Any], why: Why, panic: bool) -> None:
    assert refuse(roster(slot("a", **options)), panic=panic).why is why


def test_panic_breaks_a_cooldown_and_nothing_stronger() -> None:
    whom = roster()
    fail(whom, admit(whom), FailureKind.RATE_LIMITED, 0.0, retry_after_s=100.0)
    assert not admit(whom, now=1.0, panic=True).probe
    whom = roster()
    fail(whom, admit(whom), FailureKind.QUOTA_EXHAUSTED, 0.0)
    assert refuse(whom, now=1.0, panic=True).why is Why.DISABLED
    probe = admit(whom, now=901.0)
    refuse(whom, now=901.0, panic=True)
    succeed(whom, probe, 901.0)
    assert state(whom, 901.0) == "ready"


def test_a_provider_without_credit_stays_out_of_panic_while_its_model_cools_down_for_longer() -> None:
    whom = roster()
    fail(whom, admit(whom), FailureKind.RATE_LIMITED, 0.0, retry_after_s=5000.0)
    fail(whom, admit(whom, now=1.0, panic=True), FailureKind.QUOTA_EXHAUSTED, 1.0, status=402)
    assert refuse(whom, now=2.0).why is Why.DISABLED
    assert refuse(whom, now=2.0, panic=True).why is Why.DISABLED


def test_the_switch_and_the_hand_take_effect_at_once_and_say_who_did_it() -> None:
    whom = roster()
    fail(whom, admit(whom), FailureKind.AUTHENTICATION, 0.0)
    (change,) = whom.end_cooldown("a", by="dashboard")
    assert (change.before, change.after, change.by) == ("disabled", "ready", "dashboard")
    permit = admit(whom)
    assert [change.by for change in whom.set_enabled("a", False, by="api")] == ["api"]
    assert whom.set_enabled("a", False, by="api") == ()
    assert refuse(whom).why is Why.OFF
    succeed(whom, permit)
    assert refuse(whom).why is Why.OFF


class AnyTraffic(RuleBasedStateMachine):
    """Two providers, one with two models; requests and outcomes in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.roster = roster(slot("a", 2), slot("b"))
        self.now = 0.0
        self.out: list[Permit] = []
        self.settled: list[Permit] = []
        self.off: set[str] = set()
        self.ends: dict[str, float] = {}
        self.dead: set[str] = set()

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(provider=st.sampled_from("ab"), panic=st.booleans())
    def someone_asks(self, provider: str, panic: bool) -> None:
        admitted = self.roster.admit(provider, self.now, usable=lambda _: True, panic=panic, probe=True)
        if isinstance(admitted, Permit):
            assert provider not in self.off
            assert provider not in self.dead
            assert panic or self.now >= self.ends.get(admitted.candidate.model, 0.0)
            self.out.append(admitted)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), kind=st.sampled_from(KINDS), wait_s=st.one_of(st.none(), st.floats(0, 1e5)))
    def an_attempt_fails(self, data: st.DataObject, kind: FailureKind, wait_s: float | None) -> None:
        permit = self.take(data)
        settled = fail(self.roster, permit, kind, self.now, retry_after_s=wait_s)
        model, provider = permit.candidate.model, permit.candidate.provider
        if settled.disabled == "provider" and kind is not FailureKind.QUOTA_EXHAUSTED:
            self.dead.add(provider)
        if kind is FailureKind.RATE_LIMITED and settled.cooldown_s is not None:
            asked_s = min(wait_s or 0.0, MAX_COOLDOWN_S)
            assert settled.cooldown_s >= asked_s - 1e-6
            self.ends[model] = max(self.ends.get(model, 0.0), self.now + asked_s)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def an_answer_comes(self, data: st.DataObject) -> None:
        permit = self.take(data)
        settled = succeed(self.roster, permit, self.now)
        if any(change.model == permit.candidate.model for change in settled.changes):
            self.ends.pop(permit.candidate.model, None)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def a_caller_goes_away(self, data: st.DataObject) -> None:
        before = self.roster.status(self.now)
        permit = self.take(data)
        gone = self.roster.settle(permit, None, Failure(kind=FailureKind.CANCELLED), self.now)
        assert gone == Settlement()
        if not permit.probe:
            assert self.roster.status(self.now) == before

    @precondition(lambda self: self.settled)
    @rule(data=st.data(), kind=st.sampled_from(KINDS))
    def settling_twice_changes_nothing(self, data: st.DataObject, kind: FailureKind) -> None:
        before = self.roster.status(self.now)
        assert fail(self.roster, data.draw(st.sampled_from(self.settled)), kind, self.now) == Settlement()
        assert self.roster.status(self.now) == before

    @rule(provider=st.sampled_from("ab"), on=st.booleans())
    def someone_throws_the_switch(self, provider: str, on: bool) -> None:
        self.roster.set_enabled(provider, on, by="test")
        (self.off.discard if on else self.off.add)(provider)

    @rule(provider=st.sampled_from("ab"))
    def someone_ends_the_cooldown(self, provider: str) -> None:
        self.roster.end_cooldown(provider, by="test")
        self.dead.discard(provider)
        self.ends = {model: end for model, end in self.ends.items() if not model.startswith(provider)}

    def take(self, data: st.DataObject) -> Permit:
        permit = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        self.settled.append(permit)
        return permit

    @invariant()
    def every_permit_given_is_counted_until_it_is_settled(self) -> None:
        assert self.roster.permits_open == len(self.out)

    @invariant()
    def at_most_one_probe_of_a_breaker_is_out(self) -> None:
        slots = self.roster._slots.values()
        holders = [b.probe for slot in slots for b in (slot.breakers.whole, *slot.breakers.models.values())]
        assert {holder for holder in holders if holder} == {p.id for p in self.out if p.probe}

    @invariant()
    def the_status_can_always_be_told(self) -> None:
        for status in self.roster.status(self.now):
            assert (status.state == "off") == (status.name in self.off)


TestAnyTraffic = AnyTraffic.TestCase
TestAnyTraffic.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_many_threads_never_probe_twice_at_once_and_leak_no_permit() -> None:
    whom = roster()
    probing, probes = threading.Lock(), [0]
    overlaps: list[str] = []
    clock = [0.0]

    def work(seed: int) -> None:
        for turn in range(300):
            now = clock[0] = clock[0] + 0.5
            admitted = whom.admit("a", now, usable=lambda _: True)
            if not isinstance(admitted, Permit):
                continue
            if admitted.probe:
                if not probing.acquire(blocking=False):
                    overlaps.append(f"thread {seed}, turn {turn}")
                    return
                probes[0] += 1
                time.sleep(0)  # lets the other threads in
                probing.release()
            match (seed + turn) % 3:
                case 0:
                    succeed(whom, admitted, now)
                case 1:
                    fail(whom, admitted, FailureKind.RATE_LIMITED, now, retry_after_s=3.0)
                case _:
                    whom.settle(admitted, None, Failure(kind=FailureKind.CANCELLED), now)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert overlaps == []
    assert probes[0] > 0
    assert whom.permits_open == 0


def test_of_many_threads_at_the_end_of_a_cooldown_exactly_one_is_the_probe() -> None:
    for _ in range(50):
        whom = roster()
        fail(whom, admit(whom), FailureKind.OVERLOADED, 0.0)
        line = threading.Barrier(8)
        given: list[Permit] = []

        def ask(whom: Roster = whom, line: threading.Barrier = line, given: list[Permit] = given) -> None:
            line.wait(10)
            admitted = whom.admit("a", 50.0, usable=lambda _: True, probe=True)
            if isinstance(admitted, Permit):
                given.append(admitted)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert [permit.probe for permit in given] == [True]
