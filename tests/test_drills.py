"""Drills: every fault through both routers and the real parser, as a provider would bring it about."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import DRIVERS, Asking
from hypothesis import given
from hypothesis import strategies as st

from fallback.core.errors import FailureKind, Phase, StreamBrokenError, TransportError
from fallback.core.models import Answer, AttemptFailed, Delta, Event, Finished
from fallback.core.policy import RoutingPolicy
from fallback.drills import (
    KINDS,
    PRESETS,
    AsyncDrillTransport,
    Drill,
    DrillBoard,
    DrilledError,
    DrilledHead,
    DrillKind,
    DrillTransport,
    drill_from_json,
    drill_of,
    preset,
)
from fallback.drills.opening import announced, opening
from fallback.drills.scenes import ANSWER
from fallback.providers.base import WireRequest
from fallback.providers.settings import ModelSettings, ProviderSettings
from fallback.router import AsyncModelRouter, ModelRouter
from fallback.standin import Fault, StandInThread
from fallback.testing import (
    AsyncScriptedTransport,
    FakeClock,
    Reply,
    Script,
    ScriptedTransport,
    scripted_wiring,
)
from fallback.transport.asynchronous import AiohttpTransport
from fallback.transport.base import AsyncResponse, Cancellation, Head
from fallback.transport.sync import RequestsTransport

DOCS = Path(__file__).parent.parent / "docs" / "drills.md"
Stage = Callable[..., "Scene"]
K = DrillKind


def drill(kind: DrillKind, value: float | None = None, **fields: Any) -> Drill:
    return Drill(kind=kind, value=value, **{"by": "test", "started": 0.0, **fields})


class Scene:
    """Providers `a` and `b`, real ones scripted, and drills in front of them."""

    def __init__(self, driver: str, **settings: Any) -> None:
        self.clock = FakeClock()
        self.board = DrillBoard()
        self.unreachable: set[str] = set()
        self.script = Script(self.clock).add("a", Reply.text("real ", "a"))
        self.script.add("b", Reply.text("real ", "b"))
        self._driver = driver
        first = ProviderSettings(
            name="a",
            type="openai",
            endpoint="http://a.invalid/v1/chat/completions",
            models=(ModelSettings(name="a-model"),),
            needs_key=False,
            **settings,
        )
        self.wiring, self.lines = scripted_wiring(
            [first, replace(first, name="b", models=(ModelSettings(name="b-model"),), stream_upstream=True)],
            clock=self.clock,
            policy=RoutingPolicy(retry_delay_s=0.2),
        )

    @property
    def asking(self) -> Asking:
        """A new transport for each router: closing a router closes its transport."""
        hooks: dict[str, Any] = {"can_reach": lambda name: name not in self.unreachable}
        hooks["wall"] = self.clock.wall
        return Asking(
            self._driver,
            self.wiring,
            transport=DrillTransport(
                ScriptedTransport(self.script), self.board, sleep=self.clock.advance, **hooks
            ),
            async_transport=AsyncDrillTransport(
                AsyncScriptedTransport(self.script), self.board, sleep=self.clock.advance_async, **hooks
            ),
            sleep=self.clock.advance,
        )

    def state(self, name: str) -> tuple[str, float | None]:
        """Return the state of a provider and the seconds until it ends."""
        status = next(s for s in self.wiring.context.roster.status(self.clock()) if s.name == name)
        return status.state, status.until_s


@pytest.fixture(params=DRIVERS)
def stage(request: pytest.FixtureRequest) -> Stage:
    return lambda **settings: Scene(request.param, **settings)


def outcomes(answer: Answer) -> list[tuple[str, str]]:
    return [(report.provider, report.outcome) for report in answer.attempts]


FAILING = {
    # kind: the attempts with `a` where its answers are streamed, those where they are not, its state, for how long
    K.OFF: (["connection"], ["connection"], "cooling_down", 10),
    K.UNAUTHORIZED: (["authentication"], ["authentication"], "disabled", None),
    K.RATE_LIMITED: (["rate_limited"], ["rate_limited"], "cooling_down", 30),
    K.SERVER_ERROR: (["server_error"] * 2, ["server_error"] * 2, "cooling_down", 10),
    K.OVERLOADED: (["overloaded"], ["overloaded"], "cooling_down", 10),
    K.REFUSED: (["connection"], ["connection"], "cooling_down", 10),
    K.RESET: (["connection"] * 2, ["connection"] * 2, "cooling_down", 10),
    K.SILENT: (["timeout"], ["timeout"], "cooling_down", 10),
    K.HTML: (["malformed_response"], ["malformed_response"], "cooling_down", 60),
    K.EMPTY_ANSWER: (["empty_response"], ["empty_response"], "ready", None),
}


@pytest.mark.parametrize("kind", FAILING)
@pytest.mark.parametrize("streamed", [True, False])
def test_a_failing_drill_fails_as_the_provider_would_and_the_next_one_answers(
    stage: Stage, kind: DrillKind, streamed: bool
) -> None:
    scene = stage(stream_upstream=streamed)
    scene.board.set("a", drill(kind))
    answer = scene.asking.invoke()
    events, whole, state, length_s = FAILING[kind]
    failures = events if streamed else whole
    assert outcomes(answer) == [*(("a", failure) for failure in failures), ("b", "ok")]
    assert answer.text == "real b"
    assert scene.state("a") == (state, length_s)
    assert scene.script.asked() == ["b"], "nothing is sent to the drilled provider"


@pytest.mark.parametrize(
    ("kind", "streamed", "failures", "state"),
    [
        (K.STALL, True, ["stream_stalled"], "cooling_down"),
        (K.STALL, False, ["timeout"], "cooling_down"),
        (K.CUT, True, ["stream_truncated"], "ready"),
        (K.CUT, False, ["malformed_response"] * 2, "cooling_down"),
        (K.NO_FINISH, True, ["stream_truncated"], "ready"),
        (K.MALFORMED_EVENT, False, ["malformed_response"] * 2, "cooling_down"),
    ],
)
def test_an_answer_broken_in_the_middle_is_no_answer(
    stage: Stage, kind: DrillKind, streamed: bool, failures: list[str], state: str
) -> None:
    scene = stage(stream_upstream=streamed)
    scene.board.set("a", drill(kind))
    answer = scene.asking.invoke()
    assert outcomes(answer) == [*(("a", failure) for failure in failures), ("b", "ok")]
    assert scene.state("a")[0] == state
    assert scene.script.asked() == ["b"]


@pytest.mark.parametrize(
    ("kind", "streamed", "skipped"), [(K.MALFORMED_EVENT, True, 1), (K.NO_FINISH, False, 0)]
)
def test_what_a_parser_can_forgive_is_an_answer(
    stage: Stage, kind: DrillKind, streamed: bool, skipped: int
) -> None:
    scene = stage(stream_upstream=streamed)
    scene.board.set("a", drill(kind))
    answer = scene.asking.invoke()
    assert (answer.provider, answer.text) == ("a", ANSWER)
    assert answer.attempts[0].skipped_events == skipped
    assert answer.attempts[0].response_model == "a-model"
    assert scene.script.asked() == []


@pytest.mark.parametrize(
    ("kind", "failure"),
    [(K.STALL, FailureKind.STREAM_STALLED), (K.CUT, FailureKind.STREAM_TRUNCATED)],
)
@pytest.mark.parametrize("words", [1, 3, 40])
def test_a_stream_breaks_after_so_many_words(
    stage: Stage, kind: DrillKind, failure: FailureKind, words: int
) -> None:
    scene = stage()
    scene.board.set("a", drill(kind, words))
    scene.wiring.switchboard.set_enabled("b", False, by="test")  # who would go on with it
    events: list[Event] = []
    with pytest.raises(StreamBrokenError) as caught:
        scene.asking.stream(into=events)
    text = "".join(event.text for event in events if isinstance(event, Delta))
    assert len(text.split()) == words
    assert caught.value.partial_text == text
    assert text == opening(words)
    assert [event.failure.kind for event in events if isinstance(event, AttemptFailed)] == [failure]


@pytest.mark.parametrize("kind", [K.CUT, K.STALL, K.NO_FINISH])
def test_what_another_provider_goes_on_with_says_nothing_of_its_own(stage: Stage, kind: DrillKind) -> None:
    scene = stage()
    scene.script = Script(scene.clock).add("b", Reply.text(" your question: ", "42"))
    scene.board.set("a", drill(kind))
    events = scene.asking.stream()
    text = "".join(event.text for event in events if isinstance(event, Delta))
    begun = "Here is the answer to" + (" your question:" if kind is K.NO_FINISH else "")
    assert text.startswith(begun)
    assert text.endswith("42")
    assert "simulated" not in text
    assert isinstance(events[-1], Finished)
    assert outcomes(events[-1].answer)[-1] == ("b", "ok")


@pytest.mark.parametrize("words", [1, 5, 7, 8, 24, 25, 1000])
def test_an_announcement_ends_where_the_answer_is_due(words: int) -> None:
    whole = announced(opening(words))
    assert whole is not None
    assert whole.startswith(opening(words))
    assert whole[-1] in ":."
    assert announced(whole) == whole
    assert announced(opening(words)[:-1] + "@") is None


def test_what_no_drill_began_has_no_announcement() -> None:
    assert announced("") is None
    assert announced("Tokyo is the") is None


def test_a_break_before_the_first_word_is_a_plain_failover(stage: Stage) -> None:
    scene = stage()
    scene.board.set("a", drill(K.CUT, 0))
    events = scene.asking.stream()
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "real b"


def test_silence_lasts_as_long_as_the_router_waits(stage: Stage) -> None:
    scene = stage()
    scene.board.set("a", drill(K.SILENT))
    began = scene.clock()
    scene.asking.invoke()
    assert scene.clock() - began == pytest.approx(10.0)


@pytest.mark.parametrize("value", [7.0, 0.5, 3600.0])
def test_a_rate_limit_lasts_as_long_as_its_retry_after(stage: Stage, value: float) -> None:
    scene = stage()
    scene.board.set("a", drill(K.RATE_LIMITED, value))
    scene.asking.invoke()
    assert scene.state("a") == ("cooling_down", value)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("kind", [K.SLOW_FIRST_TOKEN, K.TRICKLE])
def test_a_slow_provider_gives_its_real_answer_late(stage: Stage, kind: DrillKind, streamed: bool) -> None:
    scene = stage(stream_upstream=streamed)
    if not streamed:
        body = {"choices": [{"message": {"content": "real a"}, "finish_reason": "stop"}]}
        whole = Reply(headers={"content-type": "application/json"}, body=[json.dumps(body).encode()])
        scene.script = Script(scene.clock).add("a", whole)
    scene.board.set("a", drill(kind, 0.5))
    answer = scene.asking.invoke()
    assert (answer.provider, answer.text) == ("a", "real a")
    assert scene.script.asked() == ["a"]
    assert scene.script.open == 0, "the real response is closed"
    if kind is K.SLOW_FIRST_TOKEN:
        assert answer.latency_s == pytest.approx(0.5)
        if streamed:
            assert answer.time_to_first_token_s == pytest.approx(0.5)
    else:
        # Four events, the last of which is [DONE]; or three slices of 32 bytes at most, and the end.
        assert answer.latency_s == pytest.approx(2.0)


def test_a_first_token_slower_than_the_limit_is_a_timeout(stage: Stage) -> None:
    scene = stage()
    scene.board.set("a", drill(K.SLOW_FIRST_TOKEN, 11.0))
    assert outcomes(scene.asking.invoke()) == [("a", "timeout"), ("b", "ok")]
    assert scene.script.open == 0


def test_a_stream_that_comes_all_at_once_trickles_event_by_event(stage: Stage) -> None:
    scene = stage()
    at_once = Reply.text("one ", "two ", "three")
    body = b"".join(piece for piece in at_once.body if isinstance(piece, bytes))
    scene.script = Script(scene.clock).add("a", replace(at_once, body=[body]))
    scene.board.set("a", drill(K.TRICKLE, 1.0))
    answer = scene.asking.invoke()
    assert answer.text == "one two three"
    assert answer.latency_s == pytest.approx(5.0)


def test_a_slow_provider_refuses_without_delay(stage: Stage) -> None:
    scene = stage()
    scene.script = Script(scene.clock).add("a", Reply.error_body(429, {"retry-after": "9"}))
    scene.script.add("b", Reply.text("real b"))
    scene.board.set("a", drill(K.SLOW_FIRST_TOKEN, 5.0))
    answer = scene.asking.invoke()
    assert outcomes(answer) == [("a", "rate_limited"), ("b", "ok")]
    assert answer.latency_s == 0.0


@pytest.mark.parametrize("kind", list(DrillKind))
@pytest.mark.parametrize("streamed", [True, False])
def test_a_provider_without_a_key_has_drills_and_gets_no_request(
    stage: Stage, kind: DrillKind, streamed: bool
) -> None:
    scene = stage(stream_upstream=streamed)
    scene.unreachable.add("a")
    scene.board.set("a", drill(kind))
    answer = scene.asking.invoke()
    assert answer.attempts[0].provider == "a"
    assert "a" not in scene.script.asked()
    if kind in {K.SLOW_FIRST_TOKEN, K.TRICKLE}:
        assert answer.text == ANSWER
        assert answer.latency_s >= 0.5


@pytest.mark.parametrize("streamed", [True, False])
def test_a_call_that_is_not_struck_gets_the_real_answer_or_a_simulated_one(
    stage: Stage, streamed: bool
) -> None:
    scene = stage(stream_upstream=streamed)
    scene.board.set("a", drill(K.OVERLOADED, probability=0.0))
    if streamed:
        assert scene.asking.invoke().text == "real a"
    scene.unreachable.add("a")
    assert scene.asking.invoke().text == ANSWER


def test_without_its_drill_a_provider_without_a_key_gets_no_request(stage: Stage) -> None:
    scene = stage()
    scene.unreachable.add("a")
    assert outcomes(scene.asking.invoke()) == [("a", "connection"), ("b", "ok")]
    assert scene.script.asked() == ["b"]


def test_a_drill_ends_by_itself_and_its_end_is_told_once(stage: Stage) -> None:
    scene = stage()
    now = scene.clock.wall()
    ending = drill_from_json({"kind": "empty_answer", "for_s": 60}, now=now, by="test")
    scene.board.set("a", ending)
    assert scene.asking.invoke().provider == "b"
    scene.clock.advance(59.5)
    assert scene.board.active("a", scene.clock.wall()) == ending
    assert ending.left_s(scene.clock.wall()) == pytest.approx(0.5)
    assert scene.board.sweep(scene.clock.wall()) == ()
    scene.clock.advance(0.5)
    assert scene.board.active("a", scene.clock.wall()) is None
    assert scene.board.all(scene.clock.wall()) == {}
    assert ending.left_s(scene.clock.wall()) == 0.0
    assert scene.asking.invoke().text == "real a"
    assert scene.board.sweep(scene.clock.wall()) == (("a", ending),)
    assert scene.board.sweep(scene.clock.wall()) == ()


# The board and the drills themselves


def test_the_same_seed_strikes_the_same_calls() -> None:
    def struck(seed: int | None) -> list[bool]:
        board = DrillBoard()
        board.set("a", drill(K.RESET, probability=0.5, seed=seed))
        return [board.draw("a", 0.0) is not None for _ in range(200)]

    assert struck(7) == struck(7)
    assert struck(7) != struck(8)
    assert struck(None) != struck(None)
    assert 60 < sum(struck(7)) < 140


def test_setting_the_same_drill_again_does_not_begin_its_seed_anew() -> None:
    board, other = DrillBoard(), DrillBoard()
    half = drill(K.RESET, probability=0.5, seed=3)
    other.set("a", half)
    calls = []
    for _ in range(50):
        board.set("a", replace(half))
        calls.append(board.draw("a", 0.0) is not None)
    assert calls == [other.draw("a", 0.0) is not None for _ in range(50)]


def test_the_board_tells_what_it_holds() -> None:
    board = DrillBoard()
    off, cut = drill(K.OFF), drill(K.CUT, 2, until=50.0)
    assert board.set("a", off) is None
    assert board.set("b", cut) is None
    assert board.all(10.0) == {"a": off, "b": cut}
    assert (board.is_off("a", 10.0), board.is_off("b", 10.0), board.is_off("c", 10.0)) == (True, False, False)
    assert board.draw("b", 50.0) is None
    assert board.set("a", None) == off
    assert board.set("a", None) is None
    assert not board.is_off("a", 10.0)


@pytest.mark.parametrize("kind", list(DrillKind))
def test_a_drill_survives_json(kind: DrillKind) -> None:
    original = drill(kind, until=1_790_000_300.5, seed=5, started=1_790_000_000.25)
    assert Drill.from_json(json.loads(json.dumps(original.to_json()))) == original


def test_a_script_names_no_more_than_the_kind() -> None:
    made = drill_from_json({"kind": "rate_limited"}, now=1000.0, by="api")
    assert made == Drill(kind=K.RATE_LIMITED, value=30.0, until=1300.0, by="api", started=1000.0)
    assert made.text == "Rate limited (429), Retry-After 30 s"
    endless = drill_from_json({"kind": "cut", "for_s": None, "probability": 0.25}, now=1000.0, by="cli")
    assert (endless.until, endless.left_s(1e9)) == (None, None)
    assert endless.text == "Cut, after 5 words, 25 % of the calls"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, 'expected an object such as {"kind": "overloaded"}, got null'),
        ({}, "kind: is missing"),
        ({"kind": "stal"}, "kind: no drill 'stal'; did you mean \"stall\"?"),
        ({"kind": ["stall"]}, "kind: no drill a list"),
        ({"kind": "stall", "vaule": 3}, "'vaule': no such setting of a drill; did you mean \"value\"?"),
        ({"kind": "refused", "value": 3}, "value: refused takes none"),
        ({"kind": "stall", "value": 2.5}, "value: expected a whole number from 0 to 1000, got 2.5"),
        ({"kind": "rate_limited", "value": -1}, "value: expected a number from 0 to 86400, got -1"),
        ({"kind": "rate_limited", "value": True}, "value: expected a number from 0 to 86400, got true"),
        ({"kind": "rate_limited", "value": float("nan")}, "got nan"),
        ({"kind": "rate_limited", "value": 10**5000}, "got a number far larger"),
        ({"kind": "html", "probability": 1.5}, "probability: expected a number from 0 to 1, got 1.5"),
        ({"kind": "off", "probability": 0.5}, "probability: off strikes every call"),
        ({"kind": "html", "for_s": 0}, "for_s: expected a number above 0"),
        ({"kind": "html", "for_s": "1h"}, "for_s: expected a number from 0 to 604800, got '1h'"),
        ({"kind": "html", "seed": 1.5}, "seed: expected a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(value: object, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        drill_from_json(value, now=1000.0, by="api")
    assert sentence in str(caught.value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
SPECS = st.dictionaries(
    st.sampled_from(["kind", "value", "probability", "for_s", "seed"]),
    st.sampled_from([*DrillKind, 0, 1, 0.5, 3.0, 300, None]) | ANYTHING,
)


@given(ANYTHING | SPECS)
def test_any_json_gives_a_drill_or_a_value_error(value: Any) -> None:
    try:
        made = drill_from_json(value, now=1_790_000_000.0, by="api")
    except ValueError:
        return
    assert Drill.from_json(made.to_json()) == made


@given(ANYTHING | SPECS.map(lambda spec: {"by": "x", "started": 1.0, **spec}))
def test_a_stored_drill_that_is_damaged_gives_a_value_error(value: Any) -> None:
    try:
        made = Drill.from_json(value)
    except ValueError:
        return
    assert made.to_json()["kind"] == value["kind"]


def test_presets_concern_the_right_providers() -> None:
    def named(name: str, type_: Any) -> ProviderSettings:
        return ProviderSettings(name=name, type=type_, endpoint="", models=())

    providers = [named("g", "groq"), named("t", "together"), named("o", "openai"), named("l", "local")]
    concerned = {name: "".join(preset(name, providers)) for name in PRESETS}
    assert concerned == {
        "Groq outage": "g",
        "Rate-limit storm": "gto",
        "Everything slow": "gtol",
        "All clouds down": "gto",
    }
    for name in PRESETS:
        for spec in preset(name, providers).values():
            drill_from_json(spec, now=0.0, by="preset")
    with pytest.raises(ValueError, match="no preset 'Flood'; there are Groq outage"):
        preset("Flood", providers)


def test_a_preset_is_survived_by_the_embedded_model(stage: Stage) -> None:
    scene = stage()
    concerned = preset("All clouds down", [scene.wiring.settings.providers[0]])
    for name, spec in concerned.items():
        scene.board.set(name, drill_from_json(spec, now=scene.clock.wall(), by="preset"))
    assert outcomes(scene.asking.invoke()) == [("a", "connection"), ("b", "ok")]


def test_every_kind_is_described_for_people_and_in_the_documentation() -> None:
    rows = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    told = {row.split("`")[1]: row for row in rows}
    for kind in DrillKind:
        spec = KINDS[kind]
        assert spec.label
        assert spec.text
        assert kind in told, f"{kind} has no row in docs/drills.md"
        if spec.value is not None:
            range_ = f"{spec.value.default:g} ({spec.value.low:g} to {spec.value.high:g} {spec.value.unit})"
            assert range_ in told[kind]
    for name in PRESETS:
        assert name in DOCS.read_text(encoding="utf-8")


# The transports, in real time


def wire(provider: str = "a", url: str = "http://a.invalid/", streamed: bool = True) -> WireRequest:
    return WireRequest(provider=provider, url=url, headers=(), body=b'{"model": "m"}', streamed=streamed)


def drilled(kind: DrillKind, value: float | None = None) -> DrillBoard:
    board = DrillBoard()
    board.set("a", drill(kind, value))
    return board


REAL: Mapping[str, Any] = {"can_reach": lambda _name: False, "wall": lambda: 0.0}


def transport(board: DrillBoard) -> DrillTransport:
    return DrillTransport(ScriptedTransport(Script(FakeClock())), board, **REAL)


def async_transport(board: DrillBoard) -> AsyncDrillTransport:
    return AsyncDrillTransport(AsyncScriptedTransport(Script(FakeClock())), board, **REAL)


def test_the_limits_are_kept_before_the_headers_and_inside_the_body() -> None:
    began = time.monotonic()
    with pytest.raises(DrilledError) as caught:
        transport(drilled(K.SILENT)).send(wire(), connect_s=0.01, limit_s=0.1)
    assert (caught.value.kind, caught.value.phase) == (FailureKind.TIMEOUT, Phase.HEADERS)
    assert 0.1 <= time.monotonic() - began < 0.5
    response = transport(drilled(K.STALL, 0)).send(wire(), connect_s=0.1, limit_s=0.1)
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(DrilledError) as caught:
            response.read(0.05)
        assert (caught.value.kind, caught.value.phase) == (FailureKind.TIMEOUT, Phase.BODY)
    assert 0.1 <= time.monotonic() - began < 0.5
    response.close()


def test_the_limits_are_kept_on_an_event_loop() -> None:
    async def scenario() -> None:
        began = time.monotonic()
        with pytest.raises(DrilledError) as caught:
            await async_transport(drilled(K.SILENT)).send(wire(), connect_s=0.01, limit_s=0.1)
        assert (caught.value.kind, caught.value.phase) == (FailureKind.TIMEOUT, Phase.HEADERS)
        response = await async_transport(drilled(K.STALL, 0)).send(wire(), connect_s=0.1, limit_s=0.1)
        with pytest.raises(DrilledError) as caught:
            await response.read(0.05)
        assert (caught.value.kind, caught.value.phase) == (FailureKind.TIMEOUT, Phase.BODY)
        await response.close()
        assert 0.15 <= time.monotonic() - began < 0.6

    asyncio.run(scenario())


def test_a_wait_longer_than_one_read_goes_on_with_the_next() -> None:
    clock = FakeClock()
    slow = DrillTransport(
        ScriptedTransport(Script(clock)), drilled(K.SLOW_FIRST_TOKEN, 5.0), sleep=clock.advance, **REAL
    )
    response = slow.send(wire(), connect_s=1.0, limit_s=1.0)
    with pytest.raises(DrilledError):
        response.read(3.0)
    assert clock() == 1003.0
    assert response.read(3.0).startswith(b"data: ")
    assert clock() == 1005.0


@pytest.mark.parametrize("kind", [K.SILENT, K.STALL])
def test_closing_a_stream_from_another_thread_ends_a_drilled_wait_at_once(kind: DrillKind) -> None:
    scene = Scene("sync")
    router = ModelRouter(scene.wiring, transport=transport(drilled(kind)))
    stream = router.stream("Hi")
    waiting = threading.Event()

    def read() -> None:
        for event in stream:
            if kind is K.SILENT or isinstance(event, Delta):
                waiting.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert waiting.wait(5.0)
    began = time.monotonic()
    stream.close()
    reader.join(timeout=5.0)
    assert not reader.is_alive()
    assert time.monotonic() - began < 1.0
    router.close()
    check_nobody_is_blamed(scene)


@pytest.mark.parametrize("kind", [K.SILENT, K.STALL])
def test_cancelling_the_task_ends_a_drilled_wait_at_once(kind: DrillKind) -> None:
    scene = Scene("async")

    async def scenario() -> None:
        async with AsyncModelRouter(scene.wiring, transport=async_transport(drilled(kind))) as router:
            task = asyncio.create_task(router.invoke("Hi"))
            await asyncio.sleep(0.01)
            assert scene.wiring.context.roster.permits_open == 1
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - began < 1.0

    asyncio.run(scenario())
    check_nobody_is_blamed(scene)


def check_nobody_is_blamed(scene: Scene) -> None:
    assert scene.wiring.context.roster.permits_open == 0
    assert [line["outcome"] for line in scene.lines] == ["cancelled", "cancelled"]
    assert [scene.state(name)[0] for name in ("a", "b")] == ["ready", "ready"]


def test_closing_the_transport_ends_drilled_waits() -> None:
    silent = transport(drilled(K.SILENT))
    failures: list[TransportError] = []

    def ask() -> None:
        try:
            silent.send(wire(), connect_s=1.0, limit_s=30.0)
        except TransportError as error:
            failures.append(error)

    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    asker.join(timeout=0.05)
    assert asker.is_alive()
    silent.close()
    asker.join(timeout=5.0)
    assert [failure.kind for failure in failures] == [FailureKind.CANCELLED]
    with pytest.raises(TransportError, match="cancelled"):
        silent.send(wire(), connect_s=1.0, limit_s=30.0)


def test_closing_the_transport_of_an_event_loop_ends_drilled_waits() -> None:
    async def scenario() -> None:
        silent = async_transport(drilled(K.SILENT))
        task = asyncio.create_task(silent.send(wire(), connect_s=1.0, limit_s=30.0))
        await asyncio.sleep(0.01)
        await silent.close()
        with pytest.raises(TransportError, match="cancelled"):
            await asyncio.wait_for(task, 5.0)

    asyncio.run(scenario())


def test_a_call_cancelled_before_it_begins_does_not_wait() -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(TransportError, match="cancelled"):
        transport(drilled(K.SILENT)).send(wire(), connect_s=1.0, limit_s=30.0, cancellation=cancellation)


def test_head_and_error_name_the_drill_and_those_of_a_provider_do_not() -> None:
    response = transport(drilled(K.HTML)).send(wire(), connect_s=1.0, limit_s=1.0)
    assert isinstance(response.head, DrilledHead)
    assert drill_of(response.head) is K.HTML
    response.close()
    with pytest.raises(TransportError) as caught:
        transport(drilled(K.RESET)).send(wire(), connect_s=1.0, limit_s=1.0)
    assert drill_of(caught.value) is K.RESET
    assert drill_of(Head(status=200, headers={"x-fallback-drill": "html"})) is None
    assert drill_of(TransportError(FailureKind.CONNECTION, Phase.CONNECT, "refused")) is None


# Around the real transports


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        yield server


@pytest.mark.parametrize("kind", [K.SLOW_FIRST_TOKEN, K.TRICKLE])
def test_a_real_answer_is_passed_on_slowly_and_whole(standin: StandInThread, kind: DrillKind) -> None:
    request = _real_request(standin, kind)
    hooks: dict[str, Any] = {"can_reach": lambda _name: True, "wall": lambda: 0.0}
    slow = DrillTransport(RequestsTransport(), drilled(kind, 0.1), **hooks)
    began = time.monotonic()
    response = slow.send(request, connect_s=1.0, limit_s=5.0)
    assert drill_of(response.head) is kind
    body = b""
    while data := response.read(5.0):
        body += data
    assert time.monotonic() - began >= 0.1
    assert body.rstrip().endswith(b"[DONE]")
    response.close()
    slow.close()

    async def scenario() -> bytes:
        slow = AsyncDrillTransport(AiohttpTransport(), drilled(kind, 0.1), **hooks)
        response: AsyncResponse = await slow.send(request, connect_s=1.0, limit_s=5.0)
        body = b""
        while data := await response.read(5.0):
            body += data
        await response.close()
        await slow.close()
        return body

    assert asyncio.run(scenario()).rstrip().endswith(b"[DONE]")


def test_cancelling_a_slowed_call_tells_the_real_provider(standin: StandInThread) -> None:
    kind = K.SLOW_FIRST_TOKEN
    request = _real_request(standin, kind)
    tenant = standin.tenant(f"slow_{kind}")
    tenant.reset()
    tenant.always(Fault(kind="hang"))
    slow = DrillTransport(RequestsTransport(), drilled(kind, 30.0), can_reach=bool, wall=lambda: 0.0)
    cancellation = Cancellation()
    failures: list[TransportError] = []

    def ask() -> None:
        try:
            slow.send(request, connect_s=1.0, limit_s=30.0, cancellation=cancellation)
        except TransportError as error:
            failures.append(error)

    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    assert tenant.wait_for(lambda counters: counters.in_flight == 1)
    cancellation.cancel()
    asker.join(timeout=5.0)
    assert [failure.kind for failure in failures] == [FailureKind.CANCELLED]
    assert tenant.wait_for(lambda counters: counters.aborted == 1)
    slow.close()


def _real_request(standin: StandInThread, kind: DrillKind) -> WireRequest:
    tenant = standin.tenant(f"slow_{kind}")
    tenant.reset()
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 5}
    return WireRequest(
        provider="a",
        url=tenant.url,
        headers=(("Content-Type", "application/json"),),
        body=json.dumps(body).encode(),
        streamed=True,
    )


def test_a_drill_with_an_end_is_over_where_the_clock_was_set_back_before_its_beginning() -> None:
    drill = drill_from_json({"kind": "overloaded", "for_s": 300}, now=10_000.0, by="test")
    assert [drill.ended(wall) for wall in (10_000.0, 9_950.0, 10_299.0)] == [False] * 3
    assert [drill.ended(wall) for wall in (9_900.0, 2_800.0, 10_300.0)] == [True] * 3
    endless = drill_from_json({"kind": "overloaded", "for_s": None}, now=10_000.0, by="test")
    assert not endless.ended(2_800.0)
