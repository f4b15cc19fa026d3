"""Breakers by themselves: any sequence of events keeps their promises. The roster around them: test_roster.py."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fallback.core.breaker import MAX_COOLDOWN_S, Admission, Breaker, Phase, Transition


def cool(
    breaker: Breaker, length_s: float, now: float, *, announced: bool = True, reason: str = "rate_limited"
) -> Transition | None:
    return breaker.cool_down(
        breaker.generation, length_s=length_s, announced=announced, reason=reason, now=now
    )


def unannounced(breaker: Breaker, now: float, base_s: float | None = None) -> float:
    length_s = breaker.next_length_s(base_s)
    cool(breaker, length_s, now, announced=False)
    return length_s


def test_a_new_breaker_is_open_to_everyone() -> None:
    breaker = Breaker()
    assert breaker.admission(0.0) is Admission.OPEN
    assert not breaker.reserve(1, 0.0)
    assert breaker.admission(0.0) is Admission.OPEN


def test_lengths_that_nobody_announced_climb_to_thirty_seconds_and_stay() -> None:
    breaker, now, lengths = Breaker(), 0.0, []
    for _ in range(6):
        lengths.append(unannounced(breaker, now))
        now += 100
    assert lengths == [10, 20, 30, 30, 30, 30]


def test_a_success_brings_the_lengths_back_to_ten_seconds() -> None:
    breaker = Breaker()
    unannounced(breaker, 0.0)
    unannounced(breaker, 100.0)
    breaker.succeed(breaker.generation)
    assert breaker.next_length_s(None) == 10
    unannounced(breaker, 200.0)
    breaker.reset("ended by hand")
    assert breaker.next_length_s(None) == 10


def test_a_configured_base_is_the_length_every_time() -> None:
    breaker = Breaker()
    assert [unannounced(breaker, now, 300.0) for now in (0.0, 1000.0, 2000.0)] == [300, 300, 300]


def test_an_announced_cooldown_does_not_climb() -> None:
    breaker = Breaker()
    for now in (0.0, 100.0, 200.0):
        cool(breaker, 7.0, now)
        assert breaker.until == now + 7.0
    assert breaker.next_length_s(None) == 10


@pytest.mark.parametrize(
    ("asked", "kept"), [(0.0, 0.0), (-5.0, 0.0), (1e9, MAX_COOLDOWN_S), (86_400.0, 86_400.0)]
)
def test_a_length_is_kept_within_a_day(asked: float, kept: float) -> None:
    breaker = Breaker()
    cool(breaker, asked, 50.0)
    assert breaker.until == 50.0 + kept


def test_a_cooldown_ends_at_its_instant_and_then_one_probe_passes_at_a_time() -> None:
    breaker = Breaker()
    cool(breaker, 10.0, 0.0)
    assert breaker.admission(9.999) is Admission.CLOSED
    assert not breaker.reserve(1, 9.999)
    assert breaker.admission(10.0) is Admission.PROBE
    assert breaker.reserve(1, 10.0)
    assert breaker.admission(10.0) is Admission.CLOSED
    assert not breaker.reserve(2, 10.0)
    breaker.release(2)
    assert breaker.admission(10.0) is Admission.CLOSED
    breaker.release(1)
    assert breaker.reserve(3, 10.0)


def test_a_later_shorter_cooldown_changes_neither_the_end_nor_the_reason() -> None:
    breaker = Breaker()
    cool(breaker, 100.0, 0.0, announced=True, reason="rate_limited")
    cool(breaker, 5.0, 1.0, announced=False, reason="timeout")
    assert (breaker.until, breaker.reason, breaker.announced) == (100.0, "rate_limited", True)
    cool(breaker, 100.0, 2.0, announced=False, reason="timeout")
    assert (breaker.until, breaker.reason, breaker.announced) == (102.0, "timeout", False)


def test_a_slow_call_of_before_the_outage_cannot_end_it() -> None:
    breaker = Breaker()
    before = breaker.generation
    cool(breaker, 100.0, 0.0)
    assert breaker.succeed(before) is None
    assert breaker.phase is Phase.COOLING_DOWN


def test_strikes_in_a_row_reach_the_limit_and_a_success_forgets_them() -> None:
    breaker = Breaker()
    assert [breaker.strike(breaker.generation, 3) for _ in range(3)] == [False, False, True]
    breaker = Breaker()
    breaker.strike(breaker.generation, 3)
    breaker.strike(breaker.generation, 3)
    breaker.succeed(breaker.generation)
    assert not breaker.strike(breaker.generation, 3)


def test_a_strike_of_a_probe_is_enough_for_the_next_cooldown() -> None:
    breaker = Breaker()
    unannounced(breaker, 0.0)
    assert breaker.reserve(1, 10.0)
    assert breaker.strike(breaker.generation, 3)


def test_disabled_lasts_until_it_is_reset() -> None:
    breaker = Breaker()
    breaker.disable(breaker.generation, reason="authentication", now=0.0)
    assert breaker.admission(1e12) is Admission.CLOSED
    cool(breaker, 1.0, 5.0)
    breaker.disable(breaker.generation, reason="quota_exhausted", now=5.0, recheck_s=1.0)
    assert (breaker.phase, breaker.until, breaker.reason) == (Phase.DISABLED, None, "authentication")
    breaker.reset("new key")
    assert breaker.admission(5.0) is Admission.OPEN


def test_disabled_with_a_recheck_lets_one_request_look_after_it() -> None:
    breaker = Breaker()
    breaker.disable(breaker.generation, reason="quota_exhausted", now=0.0, recheck_s=900.0)
    assert breaker.admission(899.9) is Admission.CLOSED
    assert breaker.reserve(1, 900.0)
    assert not breaker.reserve(2, 900.0)
    breaker.disable(breaker.generation, reason="quota_exhausted", now=901.0, recheck_s=900.0)
    breaker.release(1)
    assert breaker.admission(1800.0) is Admission.CLOSED
    assert breaker.admission(1801.0) is Admission.PROBE


def test_a_cooldown_does_not_make_less_of_what_is_disabled_for_longer() -> None:
    breaker = Breaker()
    breaker.disable(breaker.generation, reason="quota_exhausted", now=0.0, recheck_s=900.0)
    assert cool(breaker, 10.0, 5.0) is None
    assert (breaker.phase, breaker.until) == (Phase.DISABLED, 900.0)
    cool(breaker, 3600.0, 5.0)
    assert (breaker.phase, breaker.until) == (Phase.COOLING_DOWN, 3605.0)


def test_of_several_calls_at_once_the_latest_end_that_was_announced_counts() -> None:
    breaker = Breaker()
    generation = breaker.generation

    def announced(length_s: float, now: float) -> Transition | None:
        return breaker.cool_down(generation, length_s=length_s, announced=True, reason="late", now=now)

    unannounced(breaker, 0.0)
    prolonged = announced(60.0, 1.0)
    assert prolonged is not None
    assert prolonged.length_s == 60.0
    assert (breaker.until, breaker.announced, breaker.reason) == (61.0, True, "late")
    assert announced(5.0, 2.0) is None, "never shortened"
    assert breaker.reserve(1, 61.0)
    assert announced(60.0, 62.0) is None, "a probe is finding out"
    breaker.succeed(breaker.generation)
    assert announced(60.0, 63.0) is None, "it has answered since"


class AnyHistory(RuleBasedStateMachine):
    """Requests come, go and end in any way, at any time, with results of any age."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now = 0.0
        self.permits = 0
        self.probes: list[int] = []
        self.ages: list[int] = [0]
        self.until = 0.0
        self.forever = False

    def look(self) -> tuple[object, ...]:
        b = self.breaker
        return (b.phase, b.generation, b.until, b.announced, b.reason, b.strikes, b.next_length_s(None))

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def someone_asks(self) -> None:
        self.permits += 1
        admission = self.breaker.admission(self.now)
        taken = self.breaker.reserve(self.permits, self.now)
        assert taken == (admission is Admission.PROBE)
        if taken:
            self.probes.append(self.permits)

    @precondition(lambda self: self.probes)
    @rule()
    def a_probe_ends(self) -> None:
        self.breaker.release(self.probes.pop())

    @rule()
    def a_success_counts(self) -> None:
        self.breaker.succeed(self.breaker.generation)
        self.forever = False
        self.until = 0.0
        assert self.breaker.phase is Phase.READY
        assert self.breaker.next_length_s(None) == 10
        assert self.breaker.strikes == 0

    @rule(length_s=st.floats(-10, 1e6), announced=st.booleans())
    def a_failure_cools_it_down(self, length_s: float, announced: bool) -> None:
        ends = self.now + min(max(length_s, 0.0), MAX_COOLDOWN_S)
        disabled = self.breaker.phase is Phase.DISABLED and (self.forever or self.until > ends)
        move = self.breaker.cool_down(
            self.breaker.generation, length_s=length_s, announced=announced, reason="timeout", now=self.now
        )
        assert (move is None) == disabled
        if move is not None:
            assert self.breaker.until is not None
            assert self.breaker.until >= self.now + min(max(length_s, 0.0), MAX_COOLDOWN_S)
            assert move.length_s == self.breaker.until - self.now
            self.until = self.breaker.until

    @rule(recheck_s=st.one_of(st.none(), st.floats(1, 1000)))
    def a_failure_disables_it(self, recheck_s: float | None) -> None:
        self.breaker.disable(self.breaker.generation, reason="x", now=self.now, recheck_s=recheck_s)
        assert self.breaker.phase is Phase.DISABLED
        self.forever = self.forever or recheck_s is None
        self.until = self.breaker.until or 0.0

    @rule(limit=st.integers(1, 5))
    def a_strike(self, limit: int) -> None:
        self.breaker.strike(self.breaker.generation, limit)

    @rule()
    def someone_resets_it(self) -> None:
        self.breaker.reset("by hand")
        self.forever = False
        self.until = 0.0
        assert self.breaker.admission(self.now) is Admission.OPEN

    @precondition(lambda self: len(set(self.ages)) > 1)
    @rule(data=st.data(), length_s=st.floats(0, 1e5))
    def a_result_of_an_older_generation_changes_nothing(self, data: st.DataObject, length_s: float) -> None:
        old = data.draw(st.sampled_from([age for age in self.ages if age != self.breaker.generation]))
        before = self.look()
        assert self.breaker.succeed(old) is None
        assert not self.breaker.strike(old, 1)
        assert self.breaker.disable(old, reason="y", now=self.now) is None
        assert (
            self.breaker.cool_down(old, length_s=length_s, announced=False, reason="y", now=self.now) is None
        )
        assert self.look() == before

    @precondition(lambda self: len(set(self.ages)) > 1)
    @rule(length_s=st.floats(0, 1e5))
    def a_wait_announced_to_an_older_generation_only_prolongs(self, length_s: float) -> None:
        old = next(age for age in self.ages if age != self.breaker.generation)
        phase, probed = self.breaker.phase, self.breaker.probe is not None
        move = self.breaker.cool_down(old, length_s=length_s, announced=True, reason="y", now=self.now)
        ends = self.now + min(length_s, MAX_COOLDOWN_S)
        assert (move is not None) == (phase is Phase.COOLING_DOWN and not probed and ends > self.until)
        if move is not None:
            self.until = ends
        assert self.breaker.phase is phase

    @invariant()
    def its_generation_never_goes_back(self) -> None:
        assert self.breaker.generation >= self.ages[-1]
        if self.breaker.generation != self.ages[-1]:
            self.ages.append(self.breaker.generation)

    @invariant()
    def at_most_one_probe_is_out(self) -> None:
        assert len(self.probes) <= 1

    @invariant()
    def no_cooldown_ends_before_its_time(self) -> None:
        if self.forever:
            assert self.breaker.admission(self.now + 1e12) is Admission.CLOSED
        elif self.now < self.until:
            assert self.breaker.admission(self.now) is Admission.CLOSED
        elif not self.probes:
            assert self.breaker.admission(self.now) is not Admission.CLOSED


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
