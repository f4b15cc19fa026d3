"""After a cooldown that nobody announced: small probes beside the requests, one at a time, through both drivers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace

import pytest
from asking import DRIVERS, Asking

from fallback.core.breaker import AHEAD_S
from fallback.core.errors import FailureKind, Phase
from fallback.core.models import Role
from fallback.core.policy import RoutingPolicy
from fallback.core.standing import Simulation
from fallback.loop import Aside, ProbeCourse, Send, Sleep
from fallback.loop.probe import LAST_TURN_S, TURN_S
from fallback.router import AsyncModelRouter
from fallback.testing import (
    AsyncScriptedTransport,
    FakeClock,
    Reply,
    Script,
    ScriptedTransport,
    scripted_wiring,
)

DOWN = Reply.error_body(503)
REFUSED = Reply.broken(FailureKind.CONNECTION, Phase.CONNECT)


class Scene:
    """Two scripted providers, `a` before `b`, and one driver that asks them."""

    def __init__(self, driver: str, *names: str, policy: RoutingPolicy | None = None) -> None:
        self.clock = FakeClock(0.0)
        self.script = Script(self.clock)
        self.wiring, self.lines = scripted_wiring(names, clock=self.clock, policy=policy)
        self.roster = self.wiring.context.roster
        self.asking = Asking(
            driver,
            self.wiring,
            transport=ScriptedTransport(self.script),
            async_transport=AsyncScriptedTransport(self.script),
            sleep=self.clock.advance,
        )

    def ask(self, at: float) -> str:
        self.clock.now = at
        return self.asking.invoke().provider

    def attempts(self, source: str) -> list[Mapping[str, object]]:
        return [line for line in self.lines if line["kind"] == "attempt" and line["source"] == source]

    def state(self, name: str = "a") -> str:
        return next(s.state for s in self.roster.status(self.clock()) if s.name == name)


@pytest.fixture(params=DRIVERS)
def scene(request: pytest.FixtureRequest) -> Scene:
    scene = Scene(request.param, "a", "b")
    scene.script.add("b", Reply.text("Hello"))
    return scene


def test_nobody_pays_twice_for_a_dead_provider_and_the_first_good_probe_brings_it_back(scene: Scene) -> None:
    scene.script.add("a", DOWN, DOWN, Reply.text("OK"))
    assert [scene.ask(0.0), scene.ask(4.0), scene.ask(12.0)] == ["b", "b", "b"]
    assert (len(scene.attempts("python")), len(scene.attempts("probe"))) == (4, 1)
    # The probe at 12 failed, and the next cooldown is 20 s.
    assert (scene.ask(20.0), scene.state()) == ("b", "cooling_down")
    assert (scene.ask(40.0), scene.state()) == ("b", "ready")
    assert scene.ask(41.0) == "a"
    assert scene.script.asked().count("a") == 4


def test_a_probe_asks_for_one_token_and_its_line_in_the_log_says_what_it_is(scene: Scene) -> None:
    scene.script.add("a", DOWN, Reply.text("OK", finish="length"))
    scene.ask(0.0)
    scene.ask(15.0)
    (body,) = [body for provider, body in scene.script.calls if provider == "a"][1:]
    assert (body["max_tokens"], len(body["messages"])) == (1, 1)
    (line,) = scene.attempts("probe")
    assert (line["provider"], line["outcome"], line["probe"], line["role"]) == ("a", "ok", True, Role.FIRST)
    requests = [line for line in scene.lines if line["kind"] == "request"]
    assert [line["source"] for line in requests] == ["python", "python"]


def test_without_requests_there_are_no_probes(scene: Scene) -> None:
    scene.script.add("a", DOWN)
    scene.ask(0.0)
    scene.clock.advance(3600.0)
    assert scene.script.asked() == ["a", "b"]
    assert scene.state() == "probing"


def test_a_request_shortly_before_the_end_has_the_probe_made_at_the_end(scene: Scene) -> None:
    scene.script.add("a", DOWN, Reply.text("OK"))
    scene.ask(0.0)
    assert scene.ask(10.0 - AHEAD_S - 0.1) == "b"
    assert scene.attempts("probe") == []
    assert scene.ask(8.0) == "b"
    (line,) = scene.attempts("probe")
    assert line["outcome"] == "ok"
    assert scene.clock() == 10.0
    assert scene.ask(10.0) == "a"


def test_where_the_end_was_announced_nothing_looks_ahead_and_the_next_request_is_the_probe(
    scene: Scene,
) -> None:
    scene.script.add("a", Reply.error_body(429, {"retry-after": "10"}), Reply.text("Hi"))
    assert [scene.ask(0.0), scene.ask(8.0), scene.ask(9.99)] == ["b", "b", "b"]
    assert scene.script.asked().count("a") == 1
    assert scene.ask(10.01) == "a"
    assert scene.attempts("probe") == []
    assert scene.attempts("python")[-1]["probe"] is True


def test_a_probe_that_hangs_is_given_up_at_the_first_token_limit_and_delays_nobody(scene: Scene) -> None:
    scene.script.add("a", DOWN, Reply.silent())
    scene.ask(0.0)
    scene.ask(15.0)
    (line,) = scene.attempts("probe")
    assert (line["outcome"], line["duration_s"]) == (FailureKind.TIMEOUT, 10.0)
    assert scene.state() == "cooling_down"


def booked(scene: Scene) -> ProbeCourse:
    """Let `a` fail and return the course of the probe that a request at 8 s books for the end at 10 s."""
    scene.script.add("a", DOWN)
    scene.ask(0.0)
    scene.clock.now = 8.0
    permit = scene.roster.book("a", 8.0, usable=lambda _: True)
    assert permit is not None
    assert (permit.probe, permit.not_before) == (True, 10.0)
    return ProbeCourse(permit, scene.wiring.context, "r")


def test_of_many_requests_one_books_the_probe(scene: Scene) -> None:
    course = booked(scene)
    assert scene.roster.book("a", 8.5, usable=lambda _: True) is None
    assert scene.state() == "cooling_down"
    scene.clock.now = 10.5
    assert scene.ask(10.5) == "b"
    assert scene.attempts("probe") == []
    course.abandon()
    assert scene.roster.permits_open == 0
    scene.ask(11.0)
    assert len(scene.attempts("probe")) == 1


def test_a_booked_probe_waits_until_the_end_and_then_looks(scene: Scene) -> None:
    course = booked(scene).run()
    assert next(course) == Sleep(2.0)
    scene.clock.now = 10.0
    turn = next(course)
    assert isinstance(turn, Aside)
    assert isinstance(course.send(turn.work()), Send)
    course.close()
    assert scene.roster.permits_open == 0


@pytest.mark.parametrize("event", ["switched off", "ended by hand", "rests longer"])
def test_a_booked_probe_is_not_made_where_things_have_changed_meanwhile(scene: Scene, event: str) -> None:
    course = booked(scene).run()
    next(course)
    match event:
        case "switched off":
            scene.roster.set_enabled("a", False, by="test")
        case "ended by hand":
            scene.roster.end_cooldown("a", by="test")
        case "rests longer":
            scene.roster.adopt("a", "a-model", scene.roster.export("a", "a-model", 0.0), 9.0)
    scene.clock.now = 10.0
    assert list(course) == []
    assert scene.attempts("probe") == []


def test_a_router_that_is_closed_gives_the_booked_probe_back(scene: Scene) -> None:
    course = booked(scene).run()
    next(course)
    course.close()
    assert scene.roster.permits_open == 0
    assert scene.attempts("probe") == []
    assert scene.roster.book("a", 9.0, usable=lambda _: True) is not None


def test_while_another_process_looks_nobody_else_does(scene: Scene) -> None:
    scene.script.add("a", DOWN, Reply.text("OK"))
    scene.ask(0.0)
    elsewhere = scene.wiring.switchboard.turn("a")
    assert elsewhere.take()
    assert scene.ask(12.0) == "b"
    assert scene.clock() == 12.0 + LAST_TURN_S, "it was waited for, and then given up"
    assert scene.attempts("probe") == []
    assert scene.roster.permits_open == 0
    elsewhere.give_back()
    assert scene.ask(80.0) == "b"
    assert [line["outcome"] for line in scene.attempts("probe")] == ["ok"]
    assert elsewhere.take(), "the turn was given back"


def test_what_another_process_found_out_meanwhile_is_not_looked_at_again(scene: Scene) -> None:
    elsewhere = scene.wiring.switchboard.turn("a")
    assert elsewhere.take()
    course = booked(scene).run()
    next(course)
    scene.clock.now = 10.0
    turn = next(course)
    assert isinstance(turn, Aside)
    assert course.send(turn.work()) == Sleep(TURN_S)
    assert scene.roster.book("a", 10.0, usable=lambda _: True) is None, "no request begins another one"
    scene.roster.adopt("a", "a-model", None, 11.0)
    assert list(course) == []
    assert scene.attempts("probe") == []
    assert scene.roster.permits_open == 0


def test_what_was_found_out_just_before_the_turn_came_is_not_looked_at_again(scene: Scene) -> None:
    course = booked(scene).run()
    next(course)
    scene.clock.now = 10.0
    turn = next(course)
    assert isinstance(turn, Aside)
    answer = turn.work()
    scene.roster.adopt("a", "a-model", None, 10.0)
    with pytest.raises(StopIteration):
        course.send(answer)
    assert scene.wiring.switchboard.turn("a").take(), "and the turn is given back"


def test_a_turn_that_is_asked_for_only_after_the_probe_was_abandoned_is_given_back(scene: Scene) -> None:
    course = booked(scene).run()
    next(course)
    scene.clock.now = 10.0
    turn = next(course)
    assert isinstance(turn, Aside)
    course.close()
    turn.work()
    assert scene.wiring.switchboard.turn("a").take(), "others may look"


def test_a_probe_under_a_drill_waits_for_nobody(scene: Scene) -> None:
    assert scene.wiring.switchboard.turn("a").take()
    scene.roster.simulate("a", Simulation.FAULT)
    scene.script.add("a", DOWN, Reply.text("OK"))
    scene.ask(0.0)
    scene.ask(12.0)
    assert [line["outcome"] for line in scene.attempts("probe")] == ["ok"]


class SlowTurn:
    """A turn whose server takes its time."""

    def __init__(self) -> None:
        self.asked, self.answer, self.given_back = threading.Event(), threading.Event(), threading.Event()

    def take(self) -> bool:
        self.asked.set()
        assert self.answer.wait(10)
        return True

    def give_back(self) -> None:
        self.given_back.set()


def slow_scene() -> tuple[Scene, SlowTurn, AsyncModelRouter]:
    scene, turn = Scene("async", "a", "b"), SlowTurn()
    scene.script.add("a", DOWN, Reply.text("OK")).add("b", Reply.text("Hello"))
    context = replace(scene.wiring.context, turn=lambda _: turn)
    router = AsyncModelRouter(
        replace(scene.wiring, context=context),
        transport=AsyncScriptedTransport(scene.script),
        sleep=scene.clock.advance_async,
    )
    return scene, turn, router


def test_an_event_loop_goes_on_while_the_turn_is_asked_for() -> None:
    scene, turn, router = slow_scene()

    async def course() -> None:
        async with router:
            await router.invoke("Hello")
            scene.clock.now = 12.0
            await router.invoke("Hello")
            assert await asyncio.to_thread(turn.asked.wait, 10)
            assert (await router.invoke("Hello")).provider == "b"
            assert scene.attempts("probe") == []
            turn.answer.set()
            await router.wait_for_probes()

    asyncio.run(course())
    assert [line["outcome"] for line in scene.attempts("probe")] == ["ok"]
    assert turn.given_back.is_set()


def test_a_router_that_is_closed_while_the_turn_is_asked_for_gives_it_back() -> None:
    scene, turn, router = slow_scene()

    async def course() -> None:
        async with router:
            await router.invoke("Hello")
            scene.clock.now = 12.0
            await router.invoke("Hello")
            assert await asyncio.to_thread(turn.asked.wait, 10)
        assert turn.given_back.is_set()
        turn.answer.set()

    asyncio.run(course())
    assert scene.attempts("probe") == []
    assert scene.roster.permits_open == 0


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_probe_is_of_use_to_the_whole_provider_where_the_connection_failed(driver: str) -> None:
    scene = Scene(driver, "a", "b")
    scene.script.add("a", REFUSED, Reply.text("OK")).add("b", Reply.text("Hello"))
    assert [scene.ask(0.0), scene.ask(7.0), scene.ask(10.0)] == ["b", "b", "a"]
    assert [line["outcome"] for line in scene.attempts("probe")] == ["ok"]
