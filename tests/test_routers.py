"""Every scenario through both drivers: the same answers, the same errors, the same account, the same log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from asking import DRIVERS, Asking

from fallback.core.errors import (
    DeadlineExceededError,
    FailureKind,
    NoAnswerError,
    Phase,
    ProvidersFailedError,
    RateLimitedError,
    RequestError,
    StreamBrokenError,
    TransportError,
    UnknownModelError,
)
from fallback.core.models import (
    AttemptFailed,
    AttemptStarted,
    CandidateSkipped,
    Delta,
    Event,
    Finished,
    Role,
)
from fallback.core.policy import RoutingPolicy
from fallback.providers.settings import ModelSettings, Price, ProviderSettings
from fallback.router import ModelRouter
from fallback.testing import (
    AsyncScriptedTransport,
    FakeClock,
    Reply,
    Script,
    ScriptedTransport,
    scripted_wiring,
)

RESET = TransportError(FailureKind.CONNECTION, Phase.BODY, "scripted")
Stage = Callable[..., "Scene"]


class Scene:
    """Two scripted providers, `a` before `b`, and one driver that asks them."""

    def __init__(
        self, driver: str, policy: RoutingPolicy | None, providers: list[str | ProviderSettings]
    ) -> None:
        self.clock = FakeClock()
        self.script = Script(self.clock)
        self.wiring, self.lines = scripted_wiring(providers, clock=self.clock, policy=policy)
        self.asking = Asking(
            driver,
            self.wiring,
            transport=ScriptedTransport(self.script),
            async_transport=AsyncScriptedTransport(self.script),
            sleep=self.clock.advance,
        )

    def of_kind(self, kind: str) -> list[Mapping[str, object]]:
        return [line for line in self.lines if line["kind"] == kind]

    def state(self, name: str) -> str:
        return next(s.state for s in self.wiring.context.roster.status(self.clock()) if s.name == name)


@pytest.fixture(params=DRIVERS)
def stage(request: pytest.FixtureRequest) -> Stage:
    def make(
        *replies: Reply,
        policy: RoutingPolicy | None = None,
        providers: list[str | ProviderSettings] | None = None,
    ) -> Scene:
        scene = Scene(request.param, policy, providers or ["a", "b"])
        if replies:
            scene.script.add("a", *replies)
        return scene

    return make


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def test_the_first_provider_answers_and_the_account_says_so(stage: Stage) -> None:
    scene = stage(Reply.text("Hel", "lo", after_s=0.25))
    answer = scene.asking.invoke("Hi")
    assert (answer.text, answer.provider, answer.model) == ("Hello", "a", "a-model")
    assert answer.finish_reason == "stop"
    assert answer.latency_s == pytest.approx(0.25)
    assert answer.time_to_first_token_s == pytest.approx(0.25)
    assert answer.activity_log == (
        "Attempting invocation with a...",
        "Using a (a-model)",
        "Successfully generated response using a",
    )
    assert not answer.rescued
    assert scene.script.calls[0][1]["messages"] == [{"role": "user", "content": "Hi"}]
    assert scene.script.open == 0


def test_the_account_of_a_failover_is_told_in_the_original_words(stage: Stage) -> None:
    scene = stage(Reply.error_body(429, {"retry-after": "300"}))
    scene.script.add("b", Reply.text("Hello"))
    answer = scene.asking.invoke()
    assert answer.activity_log == (
        "Attempting invocation with a...",
        "Using a (a-model)",
        "Error with a: rate_limited (HTTP 429)",
        "a is disabled for 5.0 minutes",
        "Invoking b as fallback...",
        "Using fallback b (b-model)",
        "Successfully generated response using fallback b",
    )
    assert answer.rescued
    again = scene.asking.invoke()
    assert again.activity_log[0] == "Skipping a: cooling down for 5.0 minutes (rate_limited)"
    assert scene.script.asked() == ["a", "b", "b"]


def test_a_stream_delivers_each_piece_and_then_the_whole(stage: Stage) -> None:
    scene = stage(Reply.text("one ", "two ", "three"))
    events = scene.asking.stream()
    assert [event.text for event in events if isinstance(event, Delta) and event.text] == [
        "one ",
        "two ",
        "three",
    ]
    assert isinstance(events[0], AttemptStarted)
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.answer.text == "one two three"


def test_blank_pieces_are_held_until_there_is_text_so_that_a_failover_shows_nothing_twice(
    stage: Stage,
) -> None:
    scene = stage(Reply.text("\n", " ", finish=None, done=False).then(error=RESET))
    scene.script.add("b", Reply.text("\n", "Hello"))
    events = scene.asking.stream()
    assert text_of(events) == "\nHello"
    failed = next(event for event in events if isinstance(event, AttemptFailed))
    assert failed.failure.kind is FailureKind.STREAM_TRUNCATED
    assert not failed.failure.delivered


def test_a_stream_that_breaks_after_text_ends_with_an_error_where_that_is_configured(stage: Stage) -> None:
    scene = stage(
        Reply.text("Hel", finish=None, done=False).then(error=RESET),
        policy=RoutingPolicy(on_stream_break="error"),
    )
    scene.script.add("b", Reply.text("Hello"))
    events: list[Event] = []
    with pytest.raises(StreamBrokenError) as caught:
        scene.asking.stream(into=events)
    assert caught.value.partial_text == text_of(events) == "Hel"
    assert scene.script.asked() == ["a"]
    assert scene.of_kind("request")[0]["outcome"] == "error"


def test_a_plain_call_is_rescued_where_a_stream_could_not_be(stage: Stage) -> None:
    scene = stage(Reply.text("Hel", finish=None, done=False).then(error=RESET))
    scene.script.add("b", Reply.text("Hello"))
    assert scene.asking.invoke().text == "Hello"


def test_silence_inside_a_stream_is_a_stall(stage: Stage) -> None:
    scene = stage(Reply.text("Hel", finish=None, done=False).then(11.0))
    scene.script.add("b", Reply.text("Hello"))
    answer = scene.asking.invoke()
    assert answer.attempts[0].outcome == FailureKind.STREAM_STALLED
    assert answer.attempts[0].duration_s == pytest.approx(10.0)


def test_keep_alives_count_for_silence_and_not_for_the_first_token(stage: Stage) -> None:
    comments: list[bytes | float] = [b": ping\n\n", 4.0] * 5
    scene = stage(Reply(headers={"content-type": "text/event-stream"}, body=comments))
    scene.script.add("b", Reply.text("Hello"))
    answer = scene.asking.invoke()
    assert answer.attempts[0].outcome == FailureKind.TIMEOUT
    assert answer.attempts[0].duration_s == pytest.approx(10.0)
    words = Reply.text("Hel", finish=None, done=False).then(*comments, *Reply.text("lo").body)
    patient = stage(words)
    assert patient.asking.invoke().text == "Hello"


def test_once_every_choice_has_its_finish_reason_a_broken_line_does_no_harm(stage: Stage) -> None:
    for ending in (
        Reply.text("Hello", done=False).then(error=RESET),
        Reply.text("Hello", done=False).then(30.0),
    ):
        scene = stage(ending)
        answer = scene.asking.invoke()
        assert (answer.text, answer.provider) == ("Hello", "a")
        assert answer.latency_s <= 1.0


def test_of_several_answers_one_that_ended_does_not_end_the_others(stage: Stage) -> None:
    first = b'data: {"choices":[{"index":0,"delta":{"content":"One"},"finish_reason":"stop"}]}\n\n'
    second = b'data: {"choices":[{"index":1,"delta":{"content":"Two"},"finish_reason":"stop"}]}\n\n'
    reply = Reply(
        headers={"content-type": "text/event-stream"}, body=[first, 5.0, second, b"data: [DONE]\n\n"]
    )
    scene = stage(reply)
    answer = scene.asking.invoke(extra={"n": 2})
    assert [choice.message["content"] for choice in answer.choices] == ["One", "Two"]
    assert scene.script.calls[0][1]["n"] == 2


def test_the_deadline_covers_every_attempt_and_wait(stage: Stage) -> None:
    scene = stage(Reply.silent())
    scene.script.add("b", Reply.silent())
    with pytest.raises(DeadlineExceededError) as caught:
        scene.asking.invoke(deadline_s=12.0)
    assert scene.clock() == pytest.approx(1012.0)
    assert [report.duration_s for report in caught.value.attempts] == [
        pytest.approx(6.0),
        pytest.approx(6.0),
    ]
    assert [scene.state(name) for name in ("a", "b")] == ["ready", "ready"]
    assert str(caught.value) == "no answer within 12 s"


def in_pieces(pause_s: float, *pieces: bytes | float) -> Reply:
    """Return a stream of `pieces` with a pause after each."""
    body = [part for piece in pieces for part in (piece, pause_s)]
    return Reply(headers={"content-type": "text/event-stream"}, body=body)


KEEP_ALIVE = b": keep-alive\n\n"
NO_TEXT = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":null}]}\n\n'
WORDS = Reply.text(*(f"w{number} " for number in range(100)))


def test_a_trickle_of_text_cannot_outlast_the_deadline(stage: Stage) -> None:
    scene = stage(in_pieces(5.0, *WORDS.body))
    scene.wiring.switchboard.set_enabled("b", False, by="test")
    with pytest.raises(DeadlineExceededError):
        scene.asking.invoke()
    assert scene.clock() == pytest.approx(1060.0)


@pytest.mark.parametrize("sign", [KEEP_ALIVE, NO_TEXT], ids=["comments", "events without text"])
@pytest.mark.parametrize("live", [False, True])
def test_signs_of_life_without_a_token_are_a_stall_in_the_end(stage: Stage, sign: bytes, live: bool) -> None:
    scene = stage(in_pieces(1.0, *WORDS.body[:2], *[sign] * 100))
    scene.script.add("b", Reply.text("w0 w1 ", "w2"))
    events = scene.asking.stream() if live else None
    answer = events[-1].answer if events else scene.asking.invoke()  # type: ignore[union-attr]
    assert answer.text == "w0 w1 w2"
    assert answer.attempts[0].outcome == FailureKind.STREAM_STALLED
    # The second word, a second after the first, has the whole allowance of 20 s behind it.
    assert scene.clock() == pytest.approx(1021.0)
    assert scene.state("a") == "cooling_down"


def test_a_stream_that_falls_far_behind_one_token_a_second_is_left_in_time(stage: Stage) -> None:
    scene = stage(in_pieces(5.0, *WORDS.body))
    scene.script.add("b", Reply.text("w0 w1 ", "w2"))
    answer = scene.asking.invoke()
    assert answer.provider == "b"
    # 20 s in hand, five spent and one earned by each word.
    assert 1020.0 < scene.clock() <= 1030.0


@pytest.mark.parametrize("pause_s", [0.5, 1.0, 9.7])
def test_a_stream_that_keeps_up_may_pause_as_long_as_the_silence_limit_allows(
    stage: Stage, pause_s: float
) -> None:
    words = [*WORDS.body[:10], pause_s, *WORDS.body[-2:]]
    scene = stage(in_pieces(0.1, *words))
    answer = scene.asking.invoke()
    assert (answer.provider, answer.text) == ("a", "".join(f"w{number} " for number in range(10)))


def test_long_pieces_are_worth_their_tokens(stage: Stage) -> None:
    scene = stage(in_pieces(4.0, *Reply.text(*["four words in each"] * 12).body))
    assert scene.asking.invoke().provider == "a"


def test_a_caller_who_takes_its_time_makes_nobody_late() -> None:
    scene = Scene("sync", None, ["a", "b"])
    scene.script.add("a", in_pieces(0.1, *WORDS.body[:10], *WORDS.body[-2:]))
    router = ModelRouter(scene.wiring, transport=ScriptedTransport(scene.script), sleep=scene.clock.advance)
    with router, router.stream("Hi") as stream:
        for event in stream:
            if isinstance(event, Delta):
                scene.clock.advance(5.5)
    assert isinstance(event, Finished)
    assert event.answer.provider == "a"


def test_with_a_short_deadline_a_stream_that_stops_leaves_time_for_the_next_one_and_nobody_is_to_blame(
    stage: Stage,
) -> None:
    scene = stage(in_pieces(0.0, *WORDS.body[:2], 100.0))
    scene.script.add("b", Reply.text("w0 w1 ", "w2"))
    events = scene.asking.stream(deadline_s=8.0)
    assert text_of(events) == "w0 w1 w2"
    assert scene.clock() == pytest.approx(1004.0)
    assert scene.state("a") == "ready"


def test_a_short_deadline_of_one_caller_punishes_nobody(stage: Stage) -> None:
    scene = stage(Reply.silent())
    scene.script.add("b", Reply.text("Hello"))
    answer = scene.asking.invoke(deadline_s=0.5)
    assert answer.provider == "b"
    assert answer.latency_s == pytest.approx(0.25)
    assert scene.state("a") == "ready"


@pytest.mark.parametrize("live", [False, True])
def test_a_deadline_in_the_middle_of_the_text_punishes_nobody(stage: Stage, live: bool) -> None:
    body: list[bytes | float] = []
    for piece in Reply.text(*["w "] * 100).body:
        body += [piece, 0.3]
    scene = stage(Reply(headers={"content-type": "text/event-stream"}, body=body))
    with pytest.raises(StreamBrokenError if live else DeadlineExceededError):
        (scene.asking.stream if live else scene.asking.invoke)(deadline_s=1.0)
    assert scene.state("a") == "ready"


def test_a_connection_that_a_short_deadline_cut_off_punishes_nobody(stage: Stage) -> None:
    scene = stage(replace(Reply.broken(FailureKind.TIMEOUT), after_s=0.2), providers=["a"])
    with pytest.raises(DeadlineExceededError):
        scene.asking.invoke(deadline_s=0.2)
    assert scene.state("a") == "ready"


def test_an_error_body_that_trickles_is_not_waited_for(stage: Stage) -> None:
    body: list[bytes | float] = [b" ", 0.5] * 100
    scene = stage(Reply(status=503, headers={"content-type": "application/json"}, body=body))
    scene.script.add("b", Reply.text("Hello"))
    answer = scene.asking.invoke()
    assert answer.attempts[0].outcome == FailureKind.OVERLOADED
    assert answer.latency_s <= 2.0


def test_keep_alives_after_the_last_word_do_not_hold_the_answer_back(stage: Stage) -> None:
    pings: list[bytes | float] = [b": ping\n\n", 0.4] * 50
    scene = stage(Reply.text("Hello", done=False).then(*pings))
    answer = scene.asking.invoke()
    assert answer.text == "Hello"
    assert answer.latency_s <= 1.0


def test_a_refusal_is_streamed_and_is_the_text(stage: Stage) -> None:
    refusal = b'data: {"choices":[{"index":0,"delta":{"refusal":"I will not."},"finish_reason":"stop"}]}\n\n'
    scene = stage(Reply(headers={"content-type": "text/event-stream"}, body=[refusal, b"data: [DONE]\n\n"]))
    events = scene.asking.stream()
    assert text_of(events) == "I will not."
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.answer.text == "I will not."


def test_an_answer_cut_before_its_first_word_still_delivers_its_last_chunk(stage: Stage) -> None:
    scene = stage(Reply.text(finish="length"))
    events = scene.asking.stream()
    deltas = [event for event in events if isinstance(event, Delta)]
    assert deltas[-1].choices[0]["finish_reason"] == "length"


def endings(events: list[Event]) -> list[str]:
    deltas = [event for event in events if isinstance(event, Delta)]
    return [
        choice["finish_reason"] for delta in deltas for choice in delta.choices if choice["finish_reason"]
    ]


def test_the_end_of_an_answer_is_told_once_by_whoever_brought_it_to_a_good_end(stage: Stage) -> None:
    scene = stage(Reply.text("Good", done=False).then(b'data: {"error": {"message": "broke"}}\n\n'))
    scene.script.add("b", Reply.text("day"))
    events = scene.asking.stream()
    assert text_of(events) == "Good day"
    assert endings(events) == ["stop"]
    assert isinstance(events[-2], Delta)
    assert endings(events[-2:]) == ["stop"]


def test_no_end_is_told_of_an_answer_that_comes_to_none(stage: Stage) -> None:
    scene = stage(Reply.text("Hel", finish="content_filter"))
    events: list[Event] = []
    with pytest.raises(StreamBrokenError):
        scene.asking.stream(into=events)
    assert text_of(events) == "Hel"
    assert endings(events) == []


def test_the_last_words_do_not_wait_for_the_end_that_came_with_them(stage: Stage) -> None:
    last = b'data: {"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}\n\n'
    scene = stage(Reply.text("Hel", finish=None, done=False).then(last, 0.5, b"data: [DONE]\n\n"))
    events = ModelRouter(scene.wiring, transport=ScriptedTransport(scene.script)).stream("Hi")
    told = [(event.text, scene.clock()) for event in events if isinstance(event, Delta)]
    assert told == [("Hel", 1000.0), ("lo", 1000.0), ("", 1000.5)]


def test_the_embedded_model_is_asked_even_after_a_panic_choice_failed(stage: Stage) -> None:
    local = ProviderSettings(
        name="local", type="local", endpoint="", models=(ModelSettings(name="small"),), needs_key=False
    )
    scene = stage(Reply.broken(), providers=["a", local])
    scene.script.add("local", Reply.broken(), Reply.text("Hello"))
    with pytest.raises(ProvidersFailedError):
        scene.asking.invoke()
    scene.clock.advance(1.0)
    answer = scene.asking.invoke()
    assert answer.provider == "local"
    assert answer.degraded


def test_silence_in_the_middle_leaves_half_of_the_time_to_whoever_can_go_on(stage: Stage) -> None:
    scene = stage(Reply.text("Good", finish=None, done=False).then(1e9))
    scene.script.add("b", Reply.text("day"))
    events = scene.asking.stream(deadline_s=8.0)
    assert text_of(events) == "Good day"
    assert scene.clock() == pytest.approx(1004.0)
    assert scene.state("a") == "ready", "the deadline cut it short, and not its own limit"


def test_every_attempt_request_and_change_is_in_the_log(stage: Stage) -> None:
    scene = stage(Reply.error_body(500))
    scene.script.add("b", Reply.text("Hello"))
    answer = scene.asking.invoke()
    attempts = scene.of_kind("attempt")
    assert [(line["provider"], line["role"], line["outcome"]) for line in attempts] == [
        ("a", "first", "server_error"),
        ("a", "retry", "server_error"),
        ("b", "failover", "ok"),
    ]
    assert {line["request_id"] for line in attempts} == {answer.request_id}
    (request,) = scene.of_kind("request")
    assert request["outcome"] == "ok"
    assert request["rescued"] is True
    assert request["attempts"] == 3
    (state,) = scene.of_kind("state")
    assert (state["provider"], state["from"], state["to"], state["reason"]) == (
        "a",
        "ready",
        "cooling_down",
        "server_error",
    )
    assert "prompt" not in request


def test_a_provider_that_is_switched_off_gets_no_request_from_the_next_one_on(stage: Stage) -> None:
    scene = stage(Reply.text("a"))
    scene.script.add("b", Reply.text("b"))
    scene.wiring.context.roster.set_enabled("a", False, by="test")
    events = scene.asking.stream()
    assert scene.script.asked() == ["b"]
    assert events[0] == CandidateSkipped(provider="a", model=None, reason="switched off")
    scene.wiring.context.roster.set_enabled("b", False, by="test")
    with pytest.raises(ProvidersFailedError, match="every provider is switched off"):
        scene.asking.invoke()


def test_when_every_provider_is_rate_limited_the_error_says_when_to_come_back(stage: Stage) -> None:
    scene = stage(Reply.error_body(429, {"retry-after": "40"}))
    scene.script.add("b", Reply.error_body(429, {"retry-after": "25"}))
    with pytest.raises(RateLimitedError) as caught:
        scene.asking.invoke()
    assert caught.value.retry_after_s == pytest.approx(25.0)


def test_a_retired_model_is_followed_by_its_successor_on_the_same_provider(stage: Stage) -> None:
    settings = ProviderSettings(
        name="a",
        type="openai",
        endpoint="http://a.invalid/v1/chat/completions",
        models=(ModelSettings(name="old"), ModelSettings(name="new")),
        needs_key=False,
    )
    scene = stage(
        Reply.error_body(404, code="model_not_found"), Reply.text("Hello"), providers=[settings, "b"]
    )
    answer = scene.asking.invoke()
    assert (answer.provider, answer.model) == ("a", "new")
    assert [body["model"] for _, body in scene.script.calls] == ["old", "new"]
    assert "old of a is retired" in answer.activity_log
    assert scene.asking.invoke().attempts[0].model == "new"
    assert scene.of_kind("state")[0]["to"] == "retired"


def test_an_error_of_the_callers_own_goes_to_the_caller(stage: Stage) -> None:
    scene = stage(Reply.error_body(400, code="content_policy_violation", message="no"))
    with pytest.raises(NoAnswerError) as caught:
        scene.asking.invoke()
    assert caught.value.kind is FailureKind.CONTENT_POLICY
    assert scene.script.asked() == ["a"]
    lenient = stage(
        Reply.error_body(400, code="content_policy_violation"),
        policy=RoutingPolicy(content_policy="fail_over"),
    )
    lenient.script.add("b", Reply.text("Hello"))
    assert lenient.asking.invoke().provider == "b"


def test_when_everything_fails_the_error_names_each_provider_and_its_failure(stage: Stage) -> None:
    scene = stage(Reply.broken())
    scene.script.add("b", Reply.error_body(503))
    with pytest.raises(ProvidersFailedError) as caught:
        scene.asking.invoke()
    assert str(caught.value) == "all providers failed (a: connection; b: overloaded (HTTP 503))"
    assert [report.role for report in caught.value.attempts] == [Role.FIRST, Role.FAILOVER]
    assert caught.value.activity_log[-1].startswith("No answer: all providers failed")
    assert scene.script.open == 0


def test_when_all_cool_down_the_one_that_recovers_soonest_is_tried_anyway(stage: Stage) -> None:
    scene = stage(Reply.error_body(503, {"retry-after": "100"}))
    scene.script.add("b", Reply.error_body(503, {"retry-after": "50"}), Reply.text("Hello"))
    with pytest.raises(ProvidersFailedError):
        scene.asking.invoke()
    assert scene.asking.invoke().provider == "b"


def test_cost_and_usage_come_from_the_provider_that_answered(stage: Stage) -> None:
    usage = (
        b'data: {"choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":500,"total_tokens":1500}}\n\n'
    )
    whole = Reply.text("Hello").body
    price = Price(input_usd_per_1m=1.0, output_usd_per_1m=2.0)
    settings = ProviderSettings(
        name="a",
        type="openai",
        endpoint="http://a.invalid/",
        models=(ModelSettings(name="m", price=price),),
        needs_key=False,
    )
    reply = Reply(headers={"content-type": "text/event-stream"}, body=[*whole[:-1], usage, whole[-1]])
    answer = stage(reply, providers=[settings]).asking.invoke()
    assert answer.usage.total_tokens == 1500
    assert answer.cost_usd == pytest.approx(0.002)
    unknown = stage(Reply.text("Hello")).asking.invoke()
    assert unknown.cost_usd is None


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "  \n"}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "\ud800"}, "messages"),
        ({"prompt": None}, "prompt"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "alien", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "system", "content": "x"}], "prompt": None}, "prompt"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"deadline_s": float("inf")}, "deadline_s"),
        ({"system": 1}, "system"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": "x"}], "prompt": None}, "prompt"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": b"x"}]}]}, "messages"),
        ({"extra": {"a": float("nan")}}, "extra"),
        ({"extra": {"a": {1, 2}}}, "extra"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
    ],
)
def test_wrong_arguments_are_refused_before_anybody_is_asked(
    stage: Stage, arguments: dict[str, Any], names: str
) -> None:
    scene = stage(Reply.text("Hello"))
    with pytest.raises(RequestError) as caught:
        scene.asking.invoke(**{"prompt": None if "messages" in arguments else "Hi", **arguments})
    assert caught.value.param == names
    assert scene.script.calls == []
    assert scene.lines == []


def test_a_closed_router_says_so() -> None:
    wiring, _ = scripted_wiring(["a"], clock=FakeClock())
    router = ModelRouter(wiring)
    router.close()
    with pytest.raises(RuntimeError, match="closed"):
        router.invoke("Hi")


def test_an_unknown_model_is_refused_with_what_exists(stage: Stage) -> None:
    scene = stage(Reply.text("Hello"))
    with pytest.raises(UnknownModelError) as caught:
        scene.asking.invoke(model="gpt-9")
    assert caught.value.known == ("auto", "a", "b", "a-model", "b-model")


def test_a_named_provider_comes_first_and_the_others_follow(stage: Stage) -> None:
    scene = stage(Reply.text("Hello"))
    scene.script.add("b", Reply.broken())
    answer = scene.asking.invoke(model="b")
    assert scene.script.asked() == ["b", "a"]
    assert answer.provider == "a"


def test_what_is_left_of_a_rate_limit_is_known_after_an_answer(stage: Stage) -> None:
    whole = Reply.text("Hello")
    headers = {**whole.headers, "x-ratelimit-remaining-requests": "12", "x-ratelimit-reset-requests": "6s"}
    scene = stage(Reply(headers=headers, body=whole.body))
    scene.asking.invoke()
    scene.clock.advance(2.0)
    status = scene.wiring.context.roster.status(scene.clock())[0]
    assert status.headroom is not None
    assert (status.headroom.remaining_requests, status.headroom.reset_requests_s) == (12, 6.0)
    assert status.headroom_age_s == pytest.approx(2.0)


def test_a_provider_whose_last_answer_used_its_limit_up_is_skipped_until_the_reset(stage: Stage) -> None:
    used_up = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "8s"}
    last = replace(Reply.text("Hello"), headers={"content-type": "text/event-stream", **used_up})
    scene = stage(last, Reply.text("Hello again"))
    scene.script.add("b", Reply.text("Hi"))
    asked = []
    for at in (1000.0, 1000.1, 1007.9, 1008.1):
        scene.clock.now = at
        asked.append(scene.asking.invoke().provider)
    assert asked == ["a", "b", "b", "a"]
    assert scene.script.asked() == ["a", "b", "b", "a"], "it was asked and refused"
    skipped = [e for e in scene.asking.stream() if isinstance(e, CandidateSkipped)]
    assert skipped == []


def test_one_that_answers_at_once_as_a_rule_is_given_up_on_after_two_seconds(stage: Stage) -> None:
    scene = stage(*[Reply.text("Hello", after_s=0.2)] * 20, Reply.silent())
    scene.script.add("b", Reply.text("Hi"))
    for _ in range(20):
        assert scene.asking.invoke().provider == "a"
    answer = scene.asking.invoke()
    assert answer.provider == "b"
    assert answer.latency_s == pytest.approx(2.0)
    assert scene.state("a") == "cooling_down"


def test_with_nobody_else_to_ask_it_is_waited_for_as_long_as_configured(stage: Stage) -> None:
    scene = stage(*[Reply.text("Hello", after_s=0.2)] * 20, Reply.text("Hello at last", after_s=9.0))
    for _ in range(20):
        scene.asking.invoke()
    scene.wiring.switchboard.set_enabled("b", False, by="test")
    assert scene.asking.invoke().text == "Hello at last"


def test_nineteen_answers_are_too_few_to_know(stage: Stage) -> None:
    scene = stage(*[Reply.text("Hello", after_s=0.2)] * 19, Reply.silent())
    scene.script.add("b", Reply.text("Hi"))
    for _ in range(19):
        scene.asking.invoke()
    assert scene.asking.invoke().latency_s == pytest.approx(10.0)


def json_after(seconds: float) -> Reply:
    body = b'{"choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}]}'
    return Reply(
        headers={"content-type": "application/json"}, body=[seconds / 2, body[:20], seconds / 2, body[20:]]
    )


def test_a_plain_call_is_streamed_upstream_so_that_the_limits_of_a_stream_hold(stage: Stage) -> None:
    scene = stage(Reply.text("Hello"))
    scene.asking.invoke()
    scene.asking.stream()
    assert [body["stream"] for _, body in scene.script.calls] == [True, True]


def test_a_provider_that_is_asked_plainly_has_one_limit_for_the_whole_answer(stage: Stage) -> None:
    plain = ProviderSettings(
        name="a",
        type="openai",
        endpoint="http://a.invalid/v1/chat/completions",
        models=(ModelSettings(name="a-model"),),
        needs_key=False,
        stream_upstream=False,
    )
    scene = stage(json_after(29.0), json_after(31.0), providers=[plain, "b"])
    scene.script.add("b", Reply.text("Hi"))
    assert scene.asking.invoke().provider == "a"
    assert scene.script.calls[0][1]["stream"] is False
    answer = scene.asking.invoke()
    assert (answer.provider, answer.attempts[0].outcome) == ("b", FailureKind.TIMEOUT)
    assert answer.latency_s == pytest.approx(30.0)


def test_groq_is_asked_plainly_for_a_schema_and_that_teaches_nothing_about_streams(stage: Stage) -> None:
    groq = ProviderSettings(
        name="a",
        type="groq",
        endpoint="http://a.invalid/v1/chat/completions",
        models=(ModelSettings(name="a-model"),),
        needs_key=False,
    )
    quick, whole = Reply.text("Hello", after_s=0.2), json_after(25.0)
    scene = stage(*[quick] * 20, *[whole] * 5, Reply.silent(), json_after(31.0), providers=[groq, "b"])
    scene.script.add("b", Reply.text("Hi"), Reply.text("Hi"))
    schema = {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}}
    nothing: dict[str, Any] = {}
    for extra in [nothing] * 20 + [schema] * 5:
        assert scene.asking.invoke(extra=extra).provider == "a"
    assert [body["stream"] for _, body in scene.script.calls] == [True] * 20 + [False] * 5
    assert scene.asking.invoke().latency_s == pytest.approx(2.0)
    scene.wiring.switchboard.end_cooldown("a", by="test")
    assert scene.asking.invoke(extra=schema).latency_s == pytest.approx(30.0)


def test_a_malformed_event_of_a_good_stream_is_skipped_and_counted(stage: Stage) -> None:
    body = list(Reply.text("Hel", "lo").body)
    scene = stage(
        Reply(headers={"content-type": "text/event-stream"}, body=[body[0], b"data: {bad\n\n", *body[1:]])
    )
    events = scene.asking.stream()
    assert text_of(events) == "Hello"
    assert scene.of_kind("attempt")[0]["skipped_events"] == 1


def test_a_redirect_is_not_followed(stage: Stage) -> None:
    scene = stage(Reply(status=302, headers={"location": "http://elsewhere.invalid/"}))
    scene.script.add("b", Reply.text("Hello"))
    answer = scene.asking.invoke()
    assert answer.attempts[0].outcome == FailureKind.MALFORMED_RESPONSE
    assert scene.script.asked() == ["a", "b"]


def test_an_answer_beyond_every_measure_is_not_gone_on_with(stage: Stage) -> None:
    scene = stage(
        Reply.text(*["x" * 600_000] * 3, finish=None, done=False),
        policy=RoutingPolicy(max_response_bytes=1_500_000),
    )
    scene.script.add("b", Reply.text("Hello"))
    with pytest.raises(StreamBrokenError) as caught:
        scene.asking.stream()
    assert caught.value.kind == FailureKind.MALFORMED_RESPONSE
    assert scene.script.asked() == ["a"]
    assert scene.asking.invoke().provider == "b"


def test_an_answer_beyond_the_size_limit_is_not_taken(stage: Stage) -> None:
    scene = stage(Reply.text(*["x" * 1000] * 10), policy=RoutingPolicy(max_response_bytes=4096))
    scene.script.add("b", Reply.text("Hello"))
    answer = scene.asking.invoke()
    assert answer.attempts[0].outcome == FailureKind.MALFORMED_RESPONSE
    assert answer.provider == "b"
