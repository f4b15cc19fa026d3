"""The switchboard: what people do to providers holds in every process on the machine, and after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer

from fallback.config import LogSettings, Settings
from fallback.core.errors import NoAnswerError, ProvidersFailedError
from fallback.core.learned import LEAST_SUCCESSES
from fallback.core.policy import RoutingPolicy
from fallback.core.roster import ProviderStatus
from fallback.drills import AsyncDrillTransport, DrillTransport
from fallback.lessons import SHARE_S, STALE_S
from fallback.providers.settings import ModelSettings, ProviderSettings
from fallback.router import AsyncModelRouter, ModelRouter
from fallback.state import Entry, MemoryStateStore, SQLiteStateStore, StateStore
from fallback.state.entry import JSON, Value
from fallback.switchboard import settled
from fallback.testing import EPOCH, AsyncScriptedTransport, FakeClock, Reply, Script, ScriptedTransport
from fallback.wiring import Wiring, assemble

PREFIXES = itertools.count()
ROOT = Path(__file__).resolve().parent.parent
WAIT_S = 10.0
"""A generous limit for what takes a fraction of a second."""


def until(condition: Callable[[], object]) -> None:
    """Wait for another thread or process."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def provider(name: str, **settings: Any) -> ProviderSettings:
    return ProviderSettings(
        **{
            "name": name,
            "type": "groq" if name == "a" else "openai",
            "endpoint": f"http://{name}.invalid/v1/chat/completions",
            "models": (ModelSettings(name=f"{name}-model"),),
            "needs_key": False,
        }
        | settings
    )


ABC = (provider("a"), provider("b"), provider("c"))


@dataclass(kw_only=True)
class Program:
    """One program: its wiring, what it logged, and its providers, which are scripted."""

    wiring: Wiring
    clock: FakeClock
    script: Script
    lines: list[Mapping[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.router = ModelRouter(self.wiring, transport=self._transport(), sleep=self.clock.advance)

    def _transport(self) -> DrillTransport:
        return DrillTransport(
            ScriptedTransport(self.script),
            self.wiring.board,
            can_reach=self.wiring._can_reach,
            wall=self.clock.wall,
            sleep=self.clock.advance,
        )

    @property
    def board(self) -> Any:
        return self.wiring.switchboard

    def asked(self, **options: Any) -> list[tuple[str, str]]:
        """Ask, and return who was asked with which outcome."""
        try:
            attempts: Sequence[Any] = self.router.invoke("Hello", **options).attempts
        except NoAnswerError as error:
            attempts = error.attempts
        return [(report.provider, report.outcome) for report in attempts]

    def status(self, name: str) -> ProviderStatus:
        return next(status for status in self.router.status() if status.name == name)

    def changes(self) -> list[tuple[str, str, str]]:
        return [(line["provider"], line["to"], line["by"]) for line in self.lines if line["kind"] == "state"]

    def end(self) -> None:
        self.router.close()
        self.wiring.close()


class Machine:
    """Programs that share one kind of store, and one clock."""

    def __init__(self, kind: str, folder: Path, server: RedisServer | None = None) -> None:
        self.kind = kind
        self._server = server
        self._prefix = f"switchboard{next(PREFIXES)}:"
        self.folder = folder
        self.clock = FakeClock()
        self.file = folder / "state.sqlite"
        self._memory = MemoryStateStore(merge=settled, wall=self.clock.wall)
        self._programs: list[Program] = []

    def store(self) -> StateStore:
        if self.kind == "memory":
            return MemoryStateStore(
                merge=settled,
                wall=self.clock.wall,
                shared_with=self._memory,
                instance=str(len(self._programs)),
            )
        if self._server is not None:
            return self._server.store(
                str(len(self._programs)), prefix=self._prefix, merge=settled, wall=self.clock.wall
            )
        return SQLiteStateStore(self.file, merge=settled, wall=self.clock.wall, poll_s=0.02)

    def program(self, *providers: ProviderSettings) -> Program:
        lines: list[Mapping[str, Any]] = []
        settings = Settings(
            providers=providers or ABC,
            routing=RoutingPolicy(retries=0),
            log=LogSettings(folder=self.folder),
            source=self.folder / "providers.yaml",
        )
        wiring = assemble(
            settings,
            clock=self.clock,
            wall=self.clock.wall,
            jitter=lambda: 0.0,
            record=lines.append,
            store=self.store(),
        )
        wiring.start()
        script = Script(self.clock)
        for each in settings.providers:
            script.add(each.name, Reply.text("hello"))
        made = Program(wiring=wiring, clock=self.clock, script=script, lines=lines)
        self._programs.append(made)
        return made

    def end(self, program: Program) -> None:
        program.end()
        self._programs.remove(program)

    def end_all(self) -> None:
        for program in list(self._programs):
            self.end(program)


@pytest.fixture(params=["memory", "sqlite", "redis"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    server = request.getfixturevalue("shared_redis") if request.param == "redis" else None
    made = Machine(request.param, tmp_path, server)
    yield made
    made.end_all()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Machine]:
    made = Machine("sqlite", tmp_path)
    yield made
    made.end_all()


RATE_LIMITED = Reply.error_body(429, {"retry-after": "600"})
WRONG_KEY = Reply.error_body(401, code="invalid_api_key")


def limit_s(program: Program) -> float:
    """Return how long the first token of `a` is waited for."""
    roster = program.wiring.context.roster
    return roster.first_token_limit_s(roster.candidates("a")[0])


def only(program: Program, name: str, *replies: Reply) -> None:
    """Let the provider `name` of `program` answer so from now on."""
    program.script._replies[name].clear()
    program.script.add(name, *replies)


# One program


def test_a_provider_that_is_switched_off_gets_no_request_from_the_next_one_on(machine: Machine) -> None:
    program = machine.program()
    program.board.set_enabled("a", False, by="test")
    assert program.asked() == [("b", "ok")]
    assert program.status("a").state == "off"
    program.board.set_enabled("a", True, by="test")
    assert program.asked() == [("a", "ok")]
    assert program.changes() == [("a", "off", "test"), ("a", "on", "test")]


def test_every_router_of_a_program_obeys_a_switch(machine: Machine) -> None:
    program = machine.program()
    program.board.set_enabled("a", False, by="test")

    async def ask() -> list[str]:
        hooks: dict[str, Any] = {"can_reach": lambda _: True, "wall": machine.clock.wall}
        transport = AsyncDrillTransport(AsyncScriptedTransport(program.script), program.wiring.board, **hooks)
        async with AsyncModelRouter(program.wiring, transport=transport) as router:
            return [report.provider for report in (await router.invoke("Hello")).attempts]

    assert asyncio.run(ask()) == ["b"]
    assert program.asked() == [("b", "ok")]
    assert "a" not in program.script.asked()


def test_a_provider_switched_off_in_the_middle_of_a_request_is_not_asked_any_more(machine: Machine) -> None:
    program = machine.program()
    only(program, "a", RATE_LIMITED)
    seen = []
    for event in program.router.stream("Hello"):
        seen.append(type(event).__name__)
        if seen[-1] == "AttemptFailed":
            program.board.set_enabled("b", False, by="test")
    assert program.script.asked() == ["a", "c"]


def test_switching_the_last_one_off_is_an_error_that_says_so(machine: Machine) -> None:
    program = machine.program()
    for name in "abc":
        program.board.set_enabled(name, False, by="test")
    with pytest.raises(ProvidersFailedError, match="every provider is switched off; switch one on"):
        program.router.invoke("Hello")
    assert program.script.asked() == []


def test_a_drill_fails_its_provider_and_ends(machine: Machine) -> None:
    program = machine.program()
    program.board.set_drill("a", {"kind": "overloaded"}, by="test")
    assert program.asked() == [("a", "overloaded"), ("b", "ok")]
    assert program.script.asked() == ["b"]
    program.board.set_drill("a", None, by="test")
    assert program.asked() == [("a", "ok")]
    assert [change for change in program.changes() if "drill" in change[1]] == [
        ("a", "drill", "test"),
        ("a", "no_drill", "test"),
    ]


@pytest.mark.parametrize("by_hand", [True, False])
def test_what_a_wrong_key_drill_disabled_is_ready_once_it_ends(machine: Machine, by_hand: bool) -> None:
    program = machine.program()
    program.board.set_drill("a", {"kind": "unauthorized", "for_s": 60}, by="test")
    assert program.asked() == [("a", "authentication"), ("b", "ok")]
    assert program.status("a").state == "disabled"
    if by_hand:
        program.board.set_drill("a", None, by="test")
    else:
        machine.clock.advance(61)
        until(lambda: program.status("a").state == "ready")
        assert program.board.drills() == {}
    assert program.asked() == [("a", "ok")]


def test_a_real_wrong_key_stays_disabled_when_a_drill_ends(machine: Machine) -> None:
    program = machine.program()
    only(program, "a", WRONG_KEY)
    program.asked()
    program.board.set_drill("a", {"kind": "overloaded"}, by="test")
    program.board.set_drill("a", None, by="test")
    assert program.status("a").state == "disabled"


def test_a_drill_replaced_by_another_one_leaves_nothing_behind_either(machine: Machine) -> None:
    program = machine.program()
    program.board.set_drill("a", {"kind": "unauthorized"}, by="test")
    program.asked()
    program.board.set_drill("a", {"kind": "slow_first_token", "value": 0}, by="test")
    program.board.set_drill("a", None, by="test")
    assert program.status("a").state == "ready"


def test_the_off_drill_counts_as_switched_off_and_leaves_the_switch_alone(machine: Machine) -> None:
    program = machine.program()
    program.board.set_drill("a", {"kind": "off"}, by="test")
    assert (program.status("a").state, program.status("a").enabled) == ("off", True)
    assert program.asked() == [("b", "ok")]
    program.board.set_drill("a", None, by="test")
    assert program.status("a").state == "ready"


def test_a_provider_without_a_key_has_drills_and_goes_back_to_not_configured(machine: Machine) -> None:
    program = machine.program(provider("a", needs_key=True), provider("b"))
    assert program.status("a").state == "not_configured"
    program.board.set_drill("a", {"kind": "overloaded"}, by="test")
    assert program.status("a").state == "ready"
    assert program.asked() == [("a", "overloaded"), ("b", "ok")]
    program.board.set_drill("a", None, by="test")
    assert program.status("a").state == "not_configured"
    assert program.asked() == [("b", "ok")]
    assert program.script.asked() == ["b", "b"]  # nothing ever left for the one without a key


def test_a_preset_starts_its_drills_and_ends_all_others(machine: Machine) -> None:
    program = machine.program()
    program.board.set_drill("b", {"kind": "reset"}, by="test")
    assert program.board.start_preset("Groq outage", by="test") == ("a",)
    assert {name: drill.kind for name, drill in program.board.drills().items()} == {"a": "overloaded"}
    assert program.asked() == [("a", "overloaded"), ("b", "ok")]
    program.board.end_drills(by="test")
    assert program.board.drills() == {}


def test_an_unknown_preset_or_provider_or_order_changes_nothing(machine: Machine) -> None:
    program = machine.program()
    with pytest.raises(ValueError, match="there are Groq outage"):
        program.board.start_preset("Flood", by="test")
    with pytest.raises(KeyError):
        program.board.set_enabled("x", False, by="test")
    with pytest.raises(KeyError):
        program.board.set_drill("x", {"kind": "off"}, by="test")
    with pytest.raises(KeyError):
        program.board.end_cooldown("x", by="test")
    with pytest.raises(ValueError, match="names every provider once"):
        program.board.set_order(["a", "b"], by="test")
    with pytest.raises(ValueError, match="no drill"):
        program.board.set_drill("a", {"kind": "flood"}, by="test")
    assert (program.lines, program.board.drills()) == ([], {})


# After a restart


def test_switch_drill_order_and_cooldown_survive_a_restart(machine: Machine) -> None:
    first = machine.program()
    only(first, "c", RATE_LIMITED)
    first.asked(model="c")
    first.board.set_enabled("a", False, by="test")
    first.board.set_drill("b", {"kind": "overloaded", "for_s": None, "seed": 3}, by="test")
    first.board.set_order(["c", "b", "a"], by="test")
    machine.end(first)
    machine.clock.advance(100)
    second = machine.program()
    assert second.wiring.context.roster.providers == ("c", "b", "a")
    assert second.status("a").state == "off"
    assert second.board.drills()["b"].seed == 3
    cooling = second.status("c")
    assert (cooling.state, cooling.reason) == ("cooling_down", "rate_limited")
    assert cooling.until_s == pytest.approx(500)
    assert second.asked() == [("b", "overloaded"), ("c", "ok")]  # the cooldown is broken only in need
    assert second.lines[0]["kind"] == "attempt"  # what was taken over is told by nobody a second time


def test_a_real_wrong_key_is_looked_at_anew_after_a_restart(machine: Machine) -> None:
    first = machine.program()
    only(first, "a", WRONG_KEY)
    first.asked()
    assert first.status("a").state == "disabled"
    machine.end(first)
    assert machine.program().status("a").state == "ready"


def test_a_drill_that_ended_while_no_program_ran_has_left_nothing_behind(machine: Machine) -> None:
    first = machine.program()
    first.board.set_drill("a", {"kind": "rate_limited", "value": 86400, "for_s": 60}, by="test")
    first.asked()
    assert first.status("a").state == "cooling_down"
    machine.end(first)
    machine.clock.advance(61)
    second = machine.program()
    assert second.board.drills() == {}
    assert second.asked() == [("a", "ok")]
    machine.end(second)
    assert machine.program().status("a").state == "ready"


def test_what_a_drill_led_to_ends_with_it_in_the_program_after_a_restart_too(machine: Machine) -> None:
    first = machine.program()
    first.board.set_drill("a", {"kind": "rate_limited", "value": 86400}, by="test")
    first.asked()
    assert first.status("a").state == "cooling_down"
    machine.end(first)
    second = machine.program()
    assert second.board.drills(), "the drill goes on"
    assert second.status("a").state == "ready", "what it led to does not"
    second.board.set_drill("a", None, by="test")
    assert second.status("a").state == "ready"


def test_a_drill_leaves_a_real_cooldown_and_a_retired_model_as_they_were(machine: Machine) -> None:
    program = machine.program()
    only(program, "a", RATE_LIMITED)
    program.asked()
    before = program.status("a")
    program.board.set_drill("a", {"kind": "unauthorized"}, by="test")
    assert program.status("a").state == "ready"
    program.asked()
    assert program.status("a").state == "disabled"
    program.board.set_drill("a", {"kind": "empty_answer"}, by="test")
    assert program.status("a").state == "ready", "a new drill begins anew"
    program.board.set_drill("a", None, by="test")
    assert (program.status("a").state, program.status("a").reason) == ("cooling_down", before.reason)


def ends_told(*programs: Program) -> list[str]:
    """Return which drills were told to have ended by themselves, by all the programs together."""
    lines = [line for program in programs for line in program.lines]
    return [line["provider"] for line in lines if line.get("to") == "no_drill" and line["by"] == "drill"]


def test_the_end_of_a_drill_is_told_once_whoever_notices_it(machine: Machine) -> None:
    programs = [machine.program() for _ in range(3)]
    programs[0].board.set_drill("a", {"kind": "overloaded", "for_s": 60}, by="test")
    until(lambda: all(program.board.drills() for program in programs))
    machine.clock.advance(61)
    sweeps = [threading.Thread(target=program.board.sweep) for program in programs]
    for sweep in sweeps:
        sweep.start()
    for sweep in sweeps:
        sweep.join()
    until(lambda: ends_told(*programs))
    assert ends_told(*programs) == ["a"]
    assert programs[0].asked() == [("a", "ok")]


def test_the_end_of_a_drill_is_told_where_the_program_that_began_it_is_gone(machine: Machine) -> None:
    first, second = machine.program(), machine.program()
    first.board.set_drill("a", {"kind": "overloaded", "for_s": 60}, by="cli")
    until(lambda: second.board.drills())
    machine.end(first)
    machine.clock.advance(61)
    until(lambda: ends_told(second))
    second.board.sweep()
    assert ends_told(second) == ["a"]


def test_the_end_of_a_drill_that_no_program_saw_is_told_by_the_next_one(machine: Machine) -> None:
    first = machine.program()
    first.board.set_drill("a", {"kind": "off", "for_s": 60}, by="cli")
    machine.end(first)
    machine.clock.advance(61)
    second = machine.program()
    assert second.status("a").state == "ready"
    until(lambda: ends_told(second))
    machine.end(second)
    third = machine.program()
    third.board.sweep()
    assert (ends_told(second), ends_told(third)) == (["a"], [])


def test_the_end_of_a_drill_does_not_end_the_one_that_followed_it_elsewhere() -> None:
    over: dict[str, JSON] = {"kind": "cut", "until": 10.0}
    next_one: dict[str, JSON] = {"kind": "html", "until": 90.0}
    ours: dict[str, JSON] = {"over": over, "told_by": "us"}
    theirs: dict[str, JSON] = {"over": over, "told_by": "them"}
    assert settled(entry(over), ours) == ours
    assert settled(entry(theirs), ours) == theirs
    assert settled(entry(next_one), ours) == next_one
    assert settled(entry(None), ours) is None
    assert settled(None, ours) is None
    assert settled(entry(theirs), next_one) == next_one


def entry(value: Value) -> Entry:
    return Entry(key="drill/a", value=value, by="test", at=0.0, revision=1, origin="test")


def test_a_real_cooldown_outlives_the_end_of_a_drill_in_another_program(machine: Machine) -> None:
    first = machine.program()
    only(first, "a", RATE_LIMITED)
    first.asked()
    second = machine.program()
    until(lambda: second.status("a").state == "cooling_down")
    second.board.set_drill("a", {"kind": "overloaded"}, by="test")
    second.board.set_drill("a", None, by="test")
    assert second.status("a").state == "cooling_down"


def test_providers_that_the_configuration_does_not_have_any_more_are_ignored(machine: Machine) -> None:
    first = machine.program()
    only(first, "c", RATE_LIMITED)
    first.asked(model="c")
    first.board.set_enabled("c", False, by="test")
    first.board.set_drill("b", {"kind": "overloaded"}, by="test")
    first.board.set_order(["c", "b", "a"], by="test")
    first.board.end_cooldown("c", by="test")
    machine.end(first)
    second = machine.program(provider("a"), provider("d"))
    assert second.wiring.context.roster.providers == ("a", "d")
    assert [status.state for status in second.router.status()] == ["ready", "ready"]
    assert second.board.drills() == {}
    assert second.asked() == [("a", "ok")]


@pytest.mark.parametrize(
    "entry",
    [
        ("order", {"names": 7}),
        ("order", {"names": ["a", "a", "b"]}),
        ("drill/a", {"kind": "flood", "by": "x", "started": 1.0}),
        ("breaker/a", {"until": "soon", "step": 1}),
        ("breaker/a/none-such", {"until": 1e12, "step": 1}),
        ("breaker/", {"until": 1e12, "step": 1}),
        ("reset/none", {"at": 1.0}),
        ("something", {"new": True}),
        ("learned/a/a-model", {"at": EPOCH, "first_tokens_s": "quick"}),
        ("learned/a/a-model", {"at": EPOCH, "first_tokens_s": [None, True, -1, "1", [1]] * 10}),
        ("learned/a/none-such", {"at": EPOCH, "first_tokens_s": [0.1] * 30}),
        ("learned/a/a-model", {"first_tokens_s": [0.1] * 30}),
        ("headroom/a", {"at": EPOCH, "remaining_requests": "few"}),
        ("headroom/a", {"remaining_requests": 1}),
        ("headroom/none-such", {"at": EPOCH, "remaining_requests": 1}),
    ],
)
def test_entries_that_make_no_sense_are_passed_over(machine: Machine, entry: tuple[str, Any]) -> None:
    store = machine.store()
    store.start(lambda _: None)
    store.put(entry[0], entry[1], by="a newer version")
    store.close()
    program = machine.program()
    assert program.asked() == [("a", "ok")]
    assert limit_s(program) == 10.0
    assert program.status("a").headroom is None


# Two programs


def test_another_program_follows_switch_drill_and_order(machine: Machine) -> None:
    one, two = machine.program(), machine.program()
    one.board.set_enabled("a", False, by="test")
    until(lambda: two.status("a").state == "off")
    one.board.set_drill("b", {"kind": "overloaded"}, by="test")
    until(lambda: two.board.drills())
    one.board.set_order(["c", "b", "a"], by="test")
    until(lambda: two.wiring.context.roster.providers == ("c", "b", "a"))
    assert two.asked(model="b") == [("b", "overloaded"), ("c", "ok")]
    two.board.set_enabled("a", True, by="test")
    two.board.set_order(None, by="test")
    two.board.set_drill("b", None, by="test")
    until(lambda: one.wiring.context.roster.providers == ("a", "b", "c") and not one.board.drills())
    assert one.asked() == [("a", "ok")]
    assert [change[2] for change in one.changes()] == ["test"] * 3  # each change is told once, by who made it


def test_a_cooldown_of_one_program_holds_in_the_other_and_ends_in_both(machine: Machine) -> None:
    one, two = machine.program(), machine.program()
    only(one, "a", RATE_LIMITED, Reply.text("hello"))
    one.asked()
    until(lambda: two.status("a").state == "cooling_down")
    assert two.asked() == [("b", "ok")]
    assert two.status("a").until_s == pytest.approx(600)
    machine.clock.advance(601)
    assert one.asked() == [("a", "ok")]
    until(lambda: two.status("a").state == "ready")


def test_no_program_shortens_a_cooldown_of_another(machine: Machine) -> None:
    one, two = machine.program(), machine.program()
    only(one, "a", RATE_LIMITED)
    only(two, "a", Reply.error_body(429, {"retry-after": "30"}))
    # Both find out at the same time: neither has heard of the other's cooldown.
    one.board.set_enabled("b", True, by="test")
    first, second = iter(one.router.stream("Hello")), iter(two.router.stream("Hello"))
    next(first), next(second)
    for stream in (first, second):
        for _ in stream:
            pass
    until(lambda: two.status("a").until_s == pytest.approx(600))
    assert one.status("a").until_s == pytest.approx(600)
    machine.end(one)
    machine.end(two)
    assert machine.program().status("a").until_s == pytest.approx(600)


def test_a_clock_that_was_set_back_makes_no_cooldown_longer(machine: Machine) -> None:
    one = machine.program()
    only(one, "a", RATE_LIMITED)
    one.asked()
    assert one.board.flush(WAIT_S)
    machine.end(one)
    machine.clock.now -= 7200
    two = machine.program()
    assert two.status("a").until_s == pytest.approx(600)


def test_a_cooldown_put_by_a_clock_that_was_set_back_since_gives_way() -> None:
    before, now = {"until": 9600.0}, {"until": 30.0}
    stands = replace(entry(before), key="breaker/a")
    assert settled(replace(stands, at=9000.0), now) == now
    assert settled(replace(stands, at=0.0), now) == before


def test_ending_a_cooldown_by_hand_reaches_the_others(machine: Machine) -> None:
    one, two = machine.program(), machine.program()
    only(one, "a", RATE_LIMITED, Reply.text("hello"))
    one.asked()
    until(lambda: two.status("a").state == "cooling_down")
    two.board.end_cooldown("a", by="test")
    until(lambda: one.status("a").state == "ready")
    assert one.asked() == [("a", "ok")]


def test_ending_by_hand_reaches_what_only_another_program_knows_to_be_disabled(machine: Machine) -> None:
    one, two = machine.program(), machine.program()
    only(one, "a", WRONG_KEY, Reply.text("hello"))
    one.asked()
    assert (one.status("a").state, two.status("a").state) == ("disabled", "ready")
    two.board.end_cooldown("a", by="test")
    until(lambda: one.status("a").state == "ready")
    machine.end(two)
    assert one.asked() == [("a", "ok")]


def test_a_cooldown_after_the_end_by_hand_survives_a_restart(machine: Machine) -> None:
    one = machine.program()
    only(one, "a", RATE_LIMITED)
    one.board.end_cooldown("a", by="test")
    one.asked()
    machine.end(one)
    assert machine.program().status("a").state == "cooling_down"


def test_what_a_drill_led_to_in_one_program_ends_with_it_wherever_it_is_ended(machine: Machine) -> None:
    one, two = machine.program(), machine.program()
    one.board.set_drill("a", {"kind": "rate_limited", "value": 3600}, by="test")
    until(lambda: two.board.drills())
    two.asked()
    assert two.status("a").state == "cooling_down"
    one.board.set_drill("a", None, by="test")
    until(lambda: two.status("a").state == "ready")
    assert one.status("a").state == "ready"


# What answers teach


def share(program: Program) -> None:
    program.wiring.switchboard._lessons.share(at_once=True)
    assert program.wiring.switchboard.flush(20)


def test_all_programs_learn_from_the_answers_of_all(machine: Machine) -> None:
    one, two = machine.program(), machine.program()
    for _ in range(LEAST_SUCCESSES // 2):
        assert one.asked() == two.asked() == [("a", "ok")]
    assert limit_s(one) == limit_s(two) == 10.0
    share(one)
    until(lambda: "learned/a/a-model" in two.board._store.entries())
    share(two)
    assert limit_s(two) == 2.0
    until(lambda: limit_s(one) == 2.0)


def test_what_was_learned_a_while_ago_is_not_taken_over(machine: Machine) -> None:
    one = machine.program()
    for _ in range(LEAST_SUCCESSES):
        one.asked()
    assert limit_s(one) == 2.0
    machine.end(one)
    assert limit_s(machine.program()) == 2.0, "a restart keeps it"
    machine.end_all()
    machine.clock.advance(STALE_S + 1)
    assert limit_s(machine.program()) == 10.0


def test_a_prefill_that_one_program_saw_refused_is_sent_by_none(machine: Machine) -> None:
    prefilled = provider("p", models=(ModelSettings(name="p-model"),), supports_prefill=True)
    one, two = machine.program(prefilled), machine.program(prefilled)
    rosters = [program.wiring.context.roster for program in (one, two)]
    (candidate,) = rosters[0].candidates("p")
    assert rosters[1].takes_prefill(candidate)
    rosters[0].note_prefill_refused(candidate)
    share(one)
    until(lambda: not rosters[1].takes_prefill(candidate))


def test_what_is_left_of_a_rate_limit_is_known_to_all(machine: Machine) -> None:
    one, two = machine.program(), machine.program()
    answer = Reply.text("hello")
    told = {"x-ratelimit-limit-requests": "100", "x-ratelimit-remaining-requests": "7"}
    only(one, "a", replace(answer, headers={**answer.headers, **told}))
    one.asked()
    share(one)
    until(lambda: two.status("a").headroom is not None)
    assert two.status("a").headroom == one.status("a").headroom
    machine.clock.advance(60)
    assert two.status("a").headroom_age_s == one.status("a").headroom_age_s == pytest.approx(60)
    older = two.status("a").headroom
    only(two, "a", replace(answer, headers={**answer.headers, **told, "x-ratelimit-remaining-requests": "5"}))
    two.asked()
    share(one)
    assert two.status("a").headroom != older, "what is older does not take the place of what is newer"


def test_a_rate_limit_that_one_program_used_up_rests_in_all(machine: Machine) -> None:
    one, two = machine.program(), machine.program()
    answer = Reply.text("hello")
    told = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2m"}
    only(one, "a", replace(answer, headers={**answer.headers, **told}))
    assert one.asked() == [("a", "ok")]
    until(lambda: two.status("a").state == "cooling_down")
    assert two.asked() == [("b", "ok")]


def test_what_answers_teach_is_no_change_of_what_people_see(machine: Machine) -> None:
    one, two = machine.program(), machine.program()
    version = two.board.version
    one.asked()
    share(one)
    until(lambda: "learned/a/a-model" in two.board._store.entries())
    assert two.board.version == version


def test_lessons_are_told_every_few_seconds_and_only_where_there_are_any(machine: Machine) -> None:
    one = machine.program()
    lessons = one.wiring.switchboard._lessons
    one.asked()
    lessons.share()
    assert "learned/a/a-model" not in one.board._store.entries()
    machine.clock.advance(SHARE_S)
    lessons.share()
    entry = one.board._store.entries()["learned/a/a-model"]
    machine.clock.advance(SHARE_S)
    lessons.share()
    assert one.board._store.entries()["learned/a/a-model"].at == entry.at


# Another process

PROVIDERS = """
providers:
  - {{name: a, type: groq, endpoint: "http://127.0.0.1:9/a/v1/chat/completions", model: a-model}}
  - {{name: b, endpoint: "http://127.0.0.1:9/b/v1/chat/completions", model: b-model}}
log: {{folder: "{folder}"}}
"""


def elsewhere(config: Path, *arguments: str) -> str:
    """Run the command line on the same folder, as another process."""
    environment = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "fallback", "providers", "--config", str(config), *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip


def test_another_process_and_this_one_see_each_others_changes(tmp_path: Path) -> None:
    config = tmp_path / "providers.yaml"
    config.write_text(PROVIDERS.format(folder=tmp_path))
    with ModelRouter(config) as router:
        elsewhere(config, "off", "a")
        until(lambda: router.status()[0].state == "off")
        elsewhere(config, "drill", "b", "overloaded")
        until(lambda: "b" in router.switchboard.drills())
        router.switchboard.set_enabled("a", True, by="test")
        router.switchboard.set_order(["b", "a"], by="test")
        assert router.switchboard.flush()
        seen = json.loads(elsewhere(config, "--json"))
        assert seen["order"] == ["b", "a"]
        assert {each["name"]: each["enabled"] for each in seen["providers"]} == {"a": True, "b": True}
        assert seen["providers"][0]["drill"]["kind"] == "overloaded"


def test_a_change_is_seen_by_another_program_within_a_second(tmp_path: Path) -> None:
    settings = Settings(
        providers=ABC,
        routing=RoutingPolicy(),
        log=LogSettings(folder=tmp_path),
        source=tmp_path / "providers.yaml",
    )
    with contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(contextlib.closing(assemble(settings))) for _ in range(2))
        one.start()
        two.start()
        took_s = []
        for enabled in (False, True, False):
            began = time.monotonic()
            one.switchboard.set_enabled("a", enabled, by="test")
            until(lambda: two.context.roster.status(0.0)[0].enabled is enabled)  # noqa: B023 - waited for here
            took_s.append(time.monotonic() - began)
        assert min(took_s) < 1.0  # the best of three: the machine may be busy


# A store that cannot be used


def test_a_store_that_cannot_be_used_leaves_everything_working_and_a_warning(disk: Machine) -> None:
    disk.file.mkdir()
    program = disk.program()
    until(lambda: program.board.warning)
    assert "last until the program ends" in program.board.warning
    program.board.set_enabled("a", False, by="test")
    program.board.set_drill("b", {"kind": "overloaded"}, by="test")
    assert program.asked() == [("b", "overloaded"), ("c", "ok")]
    program.board.end_cooldown("b", by="test")
    program.board.set_order(["c", "b", "a"], by="test")
    assert program.asked() == [("c", "ok")]
    assert not program.board.flush(0.05)


def test_a_damaged_store_is_begun_anew_and_says_so(disk: Machine) -> None:
    disk.file.write_bytes(b"this is no database" * 1000)
    program = disk.program()
    assert "damaged" in program.board.warning
    program.board.set_enabled("a", False, by="test")
    assert program.asked() == [("b", "ok")]
    assert program.board.flush()
    disk.end(program)
    assert disk.program().status("a").state == "off"


def test_the_drills_of_a_machine_without_a_store_still_end_by_themselves(disk: Machine) -> None:
    disk.file.mkdir()
    program = disk.program()
    program.board.set_drill("a", {"kind": "unauthorized", "for_s": 30}, by="test")
    program.asked()
    disk.clock.advance(31)
    until(lambda: program.status("a").state == "ready")
    until(lambda: ("a", "no_drill", "drill") in program.changes())


def test_a_provider_that_the_file_switches_off_can_be_switched_on(machine: Machine) -> None:
    off = (replace(ABC[0], enabled=False), ABC[1])
    first = machine.program(*off)
    assert first.status("a").state == "off"
    first.board.set_enabled("a", True, by="test")
    assert first.asked() == [("a", "ok")]
    machine.end(first)
    assert machine.program(*off).status("a").state == "ready"


@pytest.mark.parametrize("number", [10**400, 1e300], ids=["endless", "far"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("breaker/a", {"until": ..., "step": 0}),
        ("learned/a/a-model", {"at": ..., "first_tokens_s": [0.1]}),
        ("learned/a/a-model", {"at": EPOCH, "first_tokens_s": [..., 0.1]}),
        ("headroom/a", {"at": EPOCH, "remaining_requests": ...}),
    ],
)
def test_a_number_that_makes_no_sense_keeps_nothing_else_from_being_taken_over(
    disk: Machine, key: str, value: dict[str, Any], number: float
) -> None:
    def filled(part: Any) -> Any:
        if isinstance(part, list):
            return [filled(each) for each in part]
        return number if part is ... else part

    store = disk.store()
    store.start(lambda _: None)
    store.put(key, {name: filled(part) for name, part in value.items()}, by="test")
    store.put("switch/b", {"enabled": False}, by="test")
    assert store.flush()
    store.close()
    program = disk.program()
    assert program.status("b").state == "off"
    assert program.status("a").state == "ready"
    program.script._replies["a"].clear()
    program.script.add("a", RATE_LIMITED)
    assert program.asked() == [("a", "rate_limited"), ("c", "ok")]
    assert program.board.flush()
    assert disk.program().status("a").state == "cooling_down", "what makes no sense is overwritten"
