"""How well the router does in single outages, to the second, in simulated time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from simulation import Asked, Provider, World, in_order
from weather import WHOLE, Habits, Weather

BEGINS_S = 12.0
LASTS_S = 60.0
ALONE_S = 0.45
"""What the healthy provider takes for an answer by itself."""


def world(*providers: Provider, jitter: float = 0.0) -> World:
    return World(in_order(*providers), jitter=lambda: jitter)


def ask_every(whom: World, gap_s: float, until_s: float, *, phase_s: float = 0.0) -> None:
    for number in range(int((until_s - phase_s) / gap_s) + 1):
        whom.at(phase_s + gap_s * number, whom.ask)
    whom.run()


def calls(whom: World, provider: str, since_s: float, until_s: float) -> list[float]:
    """Return the instants of the calls to `provider` in a span, in seconds since the world began."""
    instants = [visit.began - whom.began for visit in whom.watch.visits if visit.provider == provider]
    return [instant for instant in instants if since_s <= instant < until_s]


def during(whom: World, since_s: float, until_s: float) -> list[Asked]:
    return [asked for asked in whom.asked if since_s <= asked.began - whom.began < until_s]


def took_s(asked: Asked) -> float:
    assert asked.ended is not None
    return asked.ended - asked.began


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["refused", "reset", "busy", "error", "late", "half", "page"])
def test_who_is_down_for_a_minute_is_hardly_asked_and_soon_back(kind: str, jitter: float) -> None:
    ends_s = BEGINS_S + LASTS_S
    for phase in range(0, 40, 7):
        down = ((BEGINS_S, Weather()), (LASTS_S, Weather(kind=kind)))
        whom = world(Provider(schedule=down), Provider(), jitter=jitter)
        ask_every(whom, 4.0, ends_s + 40.0, phase_s=phase / 10)
        assert [asked.answer and asked.answer.text for asked in whom.asked] == [WHOLE] * len(whom.asked)
        assert len(calls(whom, "a", BEGINS_S, ends_s)) <= 4, f"phase {phase / 10} s"
        affected = during(whom, BEGINS_S, ends_s)
        slowest_s = max(took_s(asked) for asked in affected[1:])
        assert slowest_s <= ALONE_S + 0.5
        if kind == "page":
            continue  # an edge that answers in place of the provider is left alone for a minute
        back = [asked for asked in during(whom, ends_s, ends_s + 60.0) if asked.visits[0].provider == "a"]
        assert back[0].began - whom.began <= ends_s + 8.0, f"phase {phase / 10} s"


@pytest.mark.parametrize("kind", ["silent", "mute", "keep_alive"])
def test_silence_costs_ten_seconds_until_the_usual_time_is_known(kind: str) -> None:
    for before, limit_s in ((3, 10.5), (25, 2.5)):
        begins_s = before * 4.0 - 2.0
        whom = world(Provider(schedule=((begins_s, Weather()), (60.0, Weather(kind=kind)))), Provider())
        ask_every(whom, 4.0, begins_s + 60.0)
        waited = [took_s(asked) for asked in during(whom, begins_s, begins_s + 60.0)]
        assert max(waited) <= limit_s + ALONE_S
        assert waited[-1] <= ALONE_S + 0.5
        assert all(asked.answer is not None for asked in whom.asked)


@pytest.mark.parametrize("deadline_s", [8.0, 20.0, 60.0])
def test_who_is_silent_before_and_who_is_silent_in_the_middle_leave_time_for_the_third(
    deadline_s: float,
) -> None:
    silent, stalled = Weather(kind="silent"), Weather(kind="stall", words=1)
    whom = world(Provider(schedule=((60.0, silent),)), Provider(schedule=((60.0, stalled),)), Provider())
    whom.ask(deadline_s=deadline_s)
    whom.run()
    answer = whom.asked[0].answer
    assert answer is not None
    assert answer.providers == ("b", "c")


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("phase_s", [0.0, 0.3, 0.7])
def test_a_rate_limit_of_eight_seconds_is_kept_to_and_no_longer(jitter: float, phase_s: float) -> None:
    limited = ((5.0, Weather()), (8.0, Weather(kind="limited")))
    whom = world(Provider(schedule=limited), Provider(), jitter=jitter)
    ask_every(whom, 1.0, 30.0, phase_s=phase_s)
    refused_s, *later = calls(whom, "a", 5.0, 30.0)
    announced_s = 13.0 - refused_s
    assert later[0] >= refused_s + announced_s, "asked before the end that was announced"
    assert later[0] <= 13.0 + 2.0
    assert not any(visit.background for visit in whom.watch.visits), "the next request is the probe"
    assert all(asked.answer is not None for asked in whom.asked)


def test_a_limit_that_is_used_up_is_kept_to_without_asking() -> None:
    habits = Habits(limit=(3, 8.0), tells_limit=True)
    whom = world(Provider(habits=habits), Provider())
    ask_every(whom, 0.5, 40.0)
    assert not any(line.get("outcome") == "rate_limited" for line in whom.watch.lines)
    asked = calls(whom, "a", 0.0, 40.0)
    assert len(asked) >= 12, "it is asked again as soon as the limit is full"
    assert all(fourth - first >= 8.0 for first, fourth in zip(asked, asked[3:], strict=False))


@pytest.mark.parametrize("kind", ["refused", "busy", "cut", "stall", "silent", "limited"])
def test_a_hundred_requests_at_once_lose_nothing_while_a_provider_flaps(kind: str) -> None:
    flapping = tuple((3.0, Weather(kind=kind if turn % 2 else "up", wait_s=2.0)) for turn in range(20))
    whom = world(Provider(schedule=flapping), Provider(), jitter=0.5)
    for number in range(100):
        for turn in range(6):
            whom.at(turn * 11.0 + number * 0.01, whom.ask)
    whom.run()
    assert len(whom.asked) == 600
    assert all(asked.answer is not None for asked in whom.asked)
    assert whom.watch.most_probes == 1
    assert whom.roster.permits_open == 0
    probes = [visit.began for visit in whom.watch.visits if visit.probe]
    assert probes, "nobody looked whether it is back"
    assert all(second > first for first, second in pairwise(probes))


def test_without_traffic_there_are_no_probes() -> None:
    whom = world(Provider(schedule=((5.0, Weather(kind="refused")),)), Provider())
    whom.at(0.0, whom.ask)
    whom.at(600.0, whom.ask)
    whom.run()
    assert calls(whom, "a", 1.0, 600.0) == []
    assert len(calls(whom, "a", 600.0, 601.0)) == 1


def test_of_two_ends_announced_to_calls_under_way_at_once_the_later_one_counts() -> None:
    limited = ((60.0, Weather(kind="limited", wait_s=8.0, head_s=3.0)),)
    whom = world(Provider(schedule=limited), Provider())
    for instant in (0.0, 1.0, 11.5, 12.5):
        whom.at(instant, whom.ask)
    whom.run()
    assert calls(whom, "a", 0.0, 20.0) == [0.0, 1.0, 12.5]
    assert whom.watch.announced == 3
