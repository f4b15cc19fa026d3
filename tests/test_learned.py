"""What answers teach about a candidate: the limit for its first token."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning import roster

from fallback.core.learned import LEAST_LIMIT_S, LEAST_SUCCESSES, REMEMBERED, Learned
from fallback.core.models import Candidate
from fallback.core.policy import RoutingPolicy
from fallback.core.roster import Permit, Roster, SlotSpec


@given(st.lists(st.floats(0.0, 100.0), max_size=3 * REMEMBERED))
def test_the_limit_is_three_times_the_p95_of_the_recent_ones_and_two_seconds_at_least(
    times: list[float],
) -> None:
    learned = Learned()
    for seconds in times:
        learned.note_first_token(seconds)
    recent = sorted(times[-REMEMBERED:])
    if len(times) < LEAST_SUCCESSES:
        assert learned.first_token_limit_s is None
    else:
        assert learned.first_token_limit_s == max(LEAST_LIMIT_S, 3.0 * recent[ceil(0.95 * len(recent)) - 1])


TIMES = st.lists(st.floats(0.0, 100.0), max_size=2 * REMEMBERED)


@given(TIMES, TIMES, TIMES)
def test_what_others_learned_takes_the_place_of_what_they_know_of_and_of_nothing_newer(
    told: list[float], since: list[float], adopted: list[float]
) -> None:
    learned = Learned()
    for seconds in told:
        learned.note_first_token(seconds)
    assert learned.fresh() == tuple(told[-REMEMBERED:])
    assert learned.fresh() == ()
    for seconds in since:
        learned.note_first_token(seconds)
    learned.adopt(adopted)
    like = Learned()
    for seconds in (*adopted, *since[-REMEMBERED:]):
        like.note_first_token(seconds)
    assert learned.first_token_limit_s == like.first_token_limit_s
    assert learned.fresh() == tuple(since[-REMEMBERED:])


def teach(whom: Roster, provider: str, seconds: float, times: int) -> None:
    for _ in range(times):
        permit = whom.admit(provider, 0.0, usable=lambda _: True)
        assert isinstance(permit, Permit)
        whom.settle(permit, None, None, 0.0)
        whom.note_answer(permit, first_token_s=seconds, headroom=None, now=0.0)


@pytest.mark.parametrize(
    ("seconds", "times", "limit_s"),
    [(0.1, 19, 10.0), (0.1, 20, 2.0), (1.0, 20, 3.0), (9.0, 20, 10.0), (9.0, 200, 10.0)],
)
def test_a_learned_limit_shortens_the_configured_one_and_never_lengthens_it(
    seconds: float, times: int, limit_s: float
) -> None:
    whom = roster("a", "b")
    teach(whom, "a", seconds, times)
    assert whom.first_token_limit_s(whom.candidates("a")[0]) == pytest.approx(limit_s)
    assert whom.first_token_limit_s(whom.candidates("b")[0]) == 10.0


def test_the_last_resort_is_waited_for_as_long_as_configured() -> None:
    local = Candidate(provider="local", model="small", degraded=True, first_token_timeout_s=60.0)
    whom = Roster([SlotSpec(name="local", candidates=(local,))], RoutingPolicy(), jitter=lambda: 0.0)
    teach(whom, "local", 0.1, LEAST_SUCCESSES)
    assert whom.first_token_limit_s(local) == 60.0


def test_a_prefill_that_was_refused_is_not_sent_again() -> None:
    takes = Candidate(provider="a", model="a1", supports_prefill=True)
    other = Candidate(provider="a", model="a2", supports_prefill=True)
    never = Candidate(provider="b", model="b1")
    slots = [SlotSpec(name="a", candidates=(takes, other)), SlotSpec(name="b", candidates=(never,))]
    whom = Roster(slots, RoutingPolicy(), jitter=lambda: 0.0)
    assert [whom.takes_prefill(each) for each in (takes, other, never)] == [True, True, False]
    whom.note_prefill_refused(takes)
    assert [whom.takes_prefill(each) for each in (takes, other, never)] == [False, True, False]
