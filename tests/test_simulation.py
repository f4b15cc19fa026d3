"""The whole router in simulated time, under outages of every kind: see simulation, weather and watch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import Asked, Provider, World, in_order
from weather import Habits, Weather

from fallback.core.errors import FailureKind
from fallback.core.policy import RoutingPolicy

PASSING = (
    "up", "json", "garbage", "comments", "slow", "trickle",
    "refused", "unroutable", "reset", "silent", "mute", "keep_alive", "flood", "page", "edge", "elsewhere", "half",
    "empty", "cut", "torn", "stall", "error_event", "late_error", "no_finish", "withheld",
    "limited", "limited", "limited", "too_large", "window", "filtered", "invalid", "rejected", "busy", "error", "late",
)  # fmt: skip
LASTING = ("gone", "forbidden_model", "unauthorised", "forbidden", "no_credit")
"""What disables a model or a provider: seldom, because nothing happens there any more."""
POLICY = RoutingPolicy(max_response_bytes=100_000)
SETTLED_S = 75.0
"""Every cooldown that nobody announced is over by then, and every window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Requests of a scenario: a crowd at once, and so often again with the same pause before each."""

    pause_s: float
    times: int
    crowd: int
    deadline_s: float
    live: bool
    json: bool
    leaves: tuple[str, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What providers do, who asks, and what people do by hand: (instant, what, place of the provider)."""

    providers: tuple[Provider, ...]
    asks: tuple[Ask, ...]
    by_hand: tuple[tuple[float, str, int], ...]
    seed: int


def a_weather(draw: Random) -> tuple[float, Weather]:
    weather = Weather(
        kind=draw.choice(PASSING if draw.random() < 0.97 else LASTING),
        words=draw.choice((0, 1, 2, 7, 40, 59)),
        wait_s=draw.choice((0.3, 1.0, 2.5, 6.0, 8.0, 9.5, 20.0, 45.0)),
        head_s=draw.choice((0.02, 0.02, 0.02, 0.5, 3.0)),
    )
    return draw.choice((0.5, 3.0, 8.0, 15.0, 30.0, 60.0)), weather


def a_provider(draw: Random, outages: int) -> Provider:
    habits = Habits(
        prefill=draw.choice(("continue", "continue", "ignore", "refuse")),
        asked=draw.choice(("continue", "continue", "ignore")),
        overlap_words=draw.choice((0, 1, 3)),
        pieces=draw.choice(("leading", "trailing", "letters")),
        usual_s=draw.choice((0.0, 0.05, 0.4)),
        limit=draw.choice((None, None, None, (2, 8.0), (5, 3.0))),
        tells_limit=draw.choice((False, True)),
    )
    return Provider(
        schedule=tuple(a_weather(draw) for _ in range(outages)),
        habits=habits,
        models=draw.choice((1, 1, 2)),
        prefills=draw.choice((False, True)),
        streams=draw.choice((True, True, True, False)),
    )


def an_ask(draw: Random) -> Ask:
    how = draw.choice((None,) * 9 + ("after", "close", "event"))
    when = draw.randrange(1, 20) if how == "event" else draw.choice((0.0, 0.01, 0.06, 0.2, 3.0, 12.0))
    return Ask(
        pause_s=draw.choice((0.0, 0.1, 1.0, 2.0, 4.0, 4.0, 11.0)),
        times=draw.choice((1, 1, 1, 2, 4)),
        crowd=draw.choice((1, 1, 1, 1, 4)),
        deadline_s=draw.choice((60.0, 60.0, 60.0, 60.0, 20.0, 5.0, 1.0, 0.2)),
        live=draw.random() < 0.7,
        json=draw.random() < 0.1,
        leaves=(how, when) if how else None,
    )


def a_scenario(seed: int, providers: int, outages: int, asks: int, hands: int, last: str) -> Scenario:
    """Return the scenario of `seed`. Each part has a generator of its own, so that fewer parts are the first of them."""
    by_hand = []
    for place in range(hands):
        draw = Random(f"{seed} hand {place}")
        by_hand.append(
            (draw.uniform(0.0, 100.0), draw.choice(("ready", "off", "on", "test")), draw.randrange(3))
        )
    return Scenario(
        providers=(
            *(a_provider(Random(f"{seed} provider {place}"), outages) for place in range(providers)),
            *LASTS[last],
        ),
        asks=tuple(an_ask(Random(f"{seed} ask {place}")) for place in range(asks)),
        by_hand=tuple(by_hand),
        seed=seed,
    )


LASTS = {
    "nobody": (),
    "a healthy one": (Provider(),),
    "the embedded one": (Provider(embedded=True, habits=Habits(usual_s=0.4)),),
}
scenarios = st.builds(
    a_scenario,
    seed=st.integers(min_value=0, max_value=2**32 - 1),
    providers=st.integers(min_value=1, max_value=3),
    outages=st.integers(min_value=1, max_value=8),
    asks=st.integers(min_value=1, max_value=16),
    hands=st.integers(min_value=0, max_value=2),
    last=st.sampled_from(tuple(LASTS)),
)


def play(scenario: Scenario) -> World:
    """Let a scenario happen, and a quiet time after it in which everybody is well and a few more ask."""
    world = World(in_order(*scenario.providers), policy=POLICY, jitter=Random(scenario.seed).random)
    instant = 0.0
    for ask in scenario.asks:
        for _ in range(ask.times):
            instant += ask.pause_s
            for _ in range(ask.crowd):
                world.at(instant, partial(begin, world, ask))
    names = list(world.providers)
    for when, what, place in scenario.by_hand:
        world.at(when, partial(by_hand, world, what, names[place % len(names)]))
    world.run()
    return world


def begin(world: World, ask: Ask) -> None:
    how, when = ask.leaves or ("", 0.0)
    world.ask(
        deadline_s=ask.deadline_s,
        live=ask.live,
        leave_after_s=when if how == "after" else None,
        close_after_s=when if how == "close" else None,
        leave_at_event=int(when) if how == "event" else None,
        extra={"response_format": {"type": "json_object"}} if ask.json else None,
    )


def by_hand(world: World, what: str, provider: str) -> None:
    match what:
        case "ready":
            world.end_by_hand(provider)
        case "test":
            world.ask(only=provider, deadline_s=20.0, live=False)
        case _:
            world.switch(provider, on=what == "on")


def check_nothing_is_left(world: World) -> None:
    assert world.roster.permits_open == 0, "a permit was not given back"
    assert world.open_replies == 0, "a response was not closed"
    assert all(asked.ended is not None for asked in world.asked), "a request hangs"


def check_recovery(world: World) -> None:
    """Everybody is well again: whoever is asked first and is not disabled must soon answer."""
    start = max([world.now, *(provider.over for provider in world.providers.values())]) + SETTLED_S
    for name in world.providers:
        world.at(start, partial(world.switch, name, on=True))
    late: list[Asked] = []
    for place in range(3):
        world.at(start + 9.0 * place, lambda: late.append(world.ask()))
    world.run()
    first = next(
        (status for status in world.roster.status(world.clock.now) if status.state != "disabled"), None
    )
    if first is None:
        return
    assert first.state == "ready", f"{first.name} is well and {first.text}"
    assert late[-1].answer is not None
    assert late[-1].answer.provider == first.name
    assert len(late[-1].visits) == 1


def check_lines(world: World) -> None:
    kinds = [line["kind"] for line in world.watch.lines]
    assert kinds.count("attempt") == len(world.watch.visits), "log lines are not the attempts made"
    told = sum(asked.told for asked in world.asked)
    assert kinds.count("request") == told, "not one request line for each request"


def check_everything(scenario: Scenario) -> World:
    world = play(scenario)
    for _ in range(2):
        check_nothing_is_left(world)
        check_lines(world)
        check_recovery(world)
    return world


@pytest.mark.timeout(600)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(scenarios)
def test_whatever_providers_do_the_rules_hold(scenario: Scenario) -> None:
    check_everything(scenario)


@pytest.mark.timeout(600)  # twenty seconds of work, on a machine that may be busy
def test_thousands_of_outages_of_every_kind_and_the_rules_hold() -> None:
    seen: Counter[str] = Counter()
    for seed in range(170):
        draw = Random(seed)
        scenario = a_scenario(
            seed,
            providers=draw.choice((1, 2, 2, 3)),
            outages=8,
            asks=draw.randrange(8, 24),
            hands=draw.choice((0, 0, 1)),
            last=draw.choice(tuple(LASTS)),
        )
        try:
            world = check_everything(scenario)
        except AssertionError as error:
            error.add_note(f"in {scenario}")
            raise
        seen += tally(world)
    assert seen["outage"] > 2000
    missing = [kind for kind in (*FailureKind, *EVENTS) if not seen[kind]]
    assert not missing, "the scenarios have become too tame to find anything"


EVENTS = (
    "seam",
    "background probe",
    "foreground probe",
    "retired",
    "ok",
    "answer",
    "left",
    "announced",
    "panic",
)


def tally(world: World) -> Counter[str]:
    """Count what happened, so that nobody relies on a simulation in which nothing does."""
    watch = world.watch
    attempts = [line for line in watch.lines if line["kind"] == "attempt"]
    seen = Counter(str(line["outcome"]) for line in attempts)
    seen["outage"] = sum(provider.outages for provider in world.providers.values())
    seen["seam"] = sum(bool(line.get("seams")) for line in watch.lines)
    seen["background probe"] = sum(visit.background for visit in watch.visits)
    seen["foreground probe"] = sum(visit.probe and not visit.background for visit in watch.visits)
    seen["retired"] = sum(line.get("to") == "retired" for line in watch.lines)
    seen["answer"] = sum(asked.answer is not None for asked in world.asked)
    seen["left"] = sum(asked.left for asked in world.asked)
    seen["announced"] = watch.announced
    seen["panic"] = watch.panics
    return seen
