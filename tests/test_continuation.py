"""An answer whose stream broke: the next provider goes on with it, and the caller gets every word once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from asking import DRIVERS, Asking, provider

from fallback.core.errors import FailureKind, RequestRejectedError, StreamBrokenError
from fallback.core.models import Answer, AttemptFailed, AttemptStarted, Delta, Event, Finished, Role
from fallback.core.policy import RoutingPolicy
from fallback.providers.settings import ModelSettings, Price
from fallback.standin import Fault, StandInThread, Tenant
from fallback.testing import FakeClock, scripted_wiring
from fallback.wiring import Wiring

WHOLE = " ".join(f"w{number}" for number in range(1, 61))
CUT = Fault(kind="cut", after_words=40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Three tenants in this order, and one driver that asks them."""

    asking: Asking
    wiring: Wiring
    lines: list[Mapping[str, object]]
    a: Tenant
    b: Tenant
    c: Tenant

    def stream(self, **options: Any) -> tuple[str, Answer, list[Event]]:
        events = self.asking.stream(**options)
        last = events[-1]
        assert isinstance(last, Finished)
        return text_of(events), last.answer, events

    def of_kind(self, kind: str) -> list[Mapping[str, object]]:
        return [line for line in self.lines if line["kind"] == kind]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        yield server


@pytest.fixture(params=DRIVERS)
def scene(request: pytest.FixtureRequest, standin: StandInThread) -> Scene:
    tenants = [standin.tenant(name) for name in "abc"]
    for tenant in tenants:
        tenant.reset()
        tenant.configure(prefill="continue", on_ask="continue", overlap_words=0, text=None, words=60)
    price = Price(input_usd_per_1m=1.0, output_usd_per_1m=2.0)
    wiring, lines = scripted_wiring(
        [
            provider(
                tenant.name,
                tenant.url,
                supports_prefill=True,
                models=(ModelSettings(name=f"{tenant.name}-model", price=price),),
            )
            for tenant in tenants
        ],
        clock=FakeClock(),
        policy=RoutingPolicy(idle_timeout_s=0.3, retry_delay_s=0.0),
    )
    a, b, c = tenants
    return Scene(asking=Asking(request.param, wiring), wiring=wiring, lines=lines, a=a, b=b, c=c)


@pytest.mark.parametrize(
    "breaking",
    [
        CUT,
        Fault(kind="cut", after_words=40, ending="close"),
        Fault(kind="cut", after_words=40, ending="reset"),
        Fault(kind="stall", after_words=40),
        Fault(kind="error_event", after_words=40),
        Fault(kind="error_event", after_words=40, shape="event"),
        Fault(kind="no_finish"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.ending}-{fault.shape}",
)
@pytest.mark.parametrize("habit", ["continues", "repeats the end", "ignores", "refuses", "ignores both"])
def test_every_word_comes_once_and_in_order(scene: Scene, breaking: Fault, habit: str) -> None:
    scene.a.always(breaking)
    match habit:
        case "repeats the end":
            scene.b.configure(overlap_words=3)
        case "ignores":
            scene.b.configure(prefill="ignore")
        case "refuses":
            scene.b.configure(prefill="refuse")
        case "ignores both":
            scene.b.configure(prefill="refuse", on_ask="ignore")
    text, answer, _ = scene.stream()
    assert text == answer.text == WHOLE
    assert answer.providers == ("a", "b")
    assert answer.finish_reason == "stop"
    assert answer.rescued


def test_a_refused_prefill_is_learned_and_the_same_provider_asked_in_words_at_once(scene: Scene) -> None:
    scene.a.always(CUT)
    scene.b.configure(prefill="refuse")
    _, answer, _ = scene.stream()
    assert [(report.provider, report.role) for report in answer.attempts] == [
        ("a", Role.FIRST),
        ("b", Role.FAILOVER),
        ("b", Role.RETRY),
    ]
    assert answer.attempts[1].outcome == FailureKind.INVALID_REQUEST
    _, answer, _ = scene.stream()
    assert [report.provider for report in answer.attempts] == ["a", "b"]


def test_a_continuation_that_breaks_is_gone_on_with_in_its_turn(scene: Scene) -> None:
    scene.a.always(Fault(kind="cut", after_words=20))
    scene.b.always(Fault(kind="cut", after_words=15))
    text, answer, _ = scene.stream()
    assert text == answer.text == WHOLE
    assert answer.providers == ("a", "b", "c")
    assert answer.seams == (len(" ".join(WHOLE.split()[:20])), len(" ".join(WHOLE.split()[:35])))
    assert sum(part.characters for part in answer.parts) == len(WHOLE)


@pytest.mark.parametrize("fault", [Fault(kind="status", status=500), Fault(kind="reset"), Fault(kind="html")])
def test_one_that_cannot_go_on_is_followed_by_the_next(scene: Scene, fault: Fault) -> None:
    scene.a.always(CUT)
    scene.b.always(fault)
    text, answer, _ = scene.stream()
    assert text == WHOLE
    assert answer.providers == ("a", "c")


def test_an_answer_that_was_whole_when_it_broke_off_is_an_answer(scene: Scene) -> None:
    scene.a.always(Fault(kind="cut", after_words=60))
    text, answer, _ = scene.stream()
    assert text == answer.text == WHOLE
    # Nothing said to a prefill may mean nothing to add, or a fault: in words it has to say something again.
    assert [(report.provider, report.outcome) for report in answer.attempts] == [
        ("a", "stream_truncated"),
        ("b", "empty_response"),
        ("b", "ok"),
    ]


def test_one_that_says_nothing_at_all_has_not_gone_on_with_it(scene: Scene) -> None:
    scene.a.always(CUT)
    scene.b.always(Fault(kind="empty"))
    text, answer, _ = scene.stream()
    assert text == answer.text == WHOLE
    assert [report.provider for report in answer.attempts] == ["a", "b", "b", "c"]
    scene.c.always(Fault(kind="empty"))
    with pytest.raises(StreamBrokenError):
        scene.stream()


def test_the_account_names_both_and_says_where(scene: Scene) -> None:
    scene.a.always(CUT)
    text, answer, events = scene.stream()
    begun = len(" ".join(WHOLE.split()[:40]))
    started = [event.continues for event in events if isinstance(event, AttemptStarted)]
    assert started == [None, begun]
    assert [event.provider for event in events if isinstance(event, Delta) and event.text][:1] == ["a"]
    assert f"b goes on with the answer after {begun} characters" in answer.activity_log
    line = scene.of_kind("request")[0]
    assert (line["provider"], line["providers"], line["seams"]) == ("b", ["a", "b"], 1)
    first, second = scene.of_kind("attempt")
    assert ("continues" in first, second["continues"]) == (False, begun)
    assert (second["previous_provider"], second["previous_error_type"]) == ("a", "stream_truncated")
    assert text[:begun].endswith("w40")


def test_usage_and_cost_of_all_parts_are_added_up(scene: Scene) -> None:
    scene.a.always(CUT)
    _, answer, _ = scene.stream()
    first, second = answer.attempts
    assert first.usage is not None
    assert second.usage is not None
    assert (first.usage.output_tokens, first.usage_estimated) == (40, True)
    assert (second.usage.output_tokens, second.usage_estimated) == (20, False)
    assert answer.usage == first.usage + second.usage
    assert answer.usage_estimated
    assert answer.cost_usd == pytest.approx((first.cost_usd or 0) + (second.cost_usd or 0))
    line = scene.of_kind("request")[0]
    assert (line["output_tokens"], line["usage_estimated"]) == (60, True)


def test_what_the_caller_has_comes_off_the_token_budget(scene: Scene) -> None:
    scene.a.always(Fault(kind="cut", after_words=40))
    scene.stream(max_tokens=500)
    begun = len(" ".join(WHOLE.split()[:40]))
    assert scene.b.last_requests[-1].body["max_tokens"] == 500 - begun // 4


def test_where_nobody_is_left_to_go_on_the_error_names_who_broke_off_and_who_could_not(scene: Scene) -> None:
    scene.a.always(CUT)
    scene.b.always(Fault(kind="status", status=503))
    scene.c.always(Fault(kind="status", status=429, retry_after="30"))
    events: list[Event] = []
    with pytest.raises(StreamBrokenError) as caught:
        scene.asking.stream(into=events)
    error = caught.value
    assert error.partial_text == text_of(events) == " ".join(WHOLE.split()[:40])
    assert error.kind == FailureKind.STREAM_TRUNCATED
    assert "the answer of a broke off" in str(error)
    assert "b: overloaded (HTTP 503)" in str(error)
    assert not any(isinstance(event, Finished) for event in events)
    assert scene.of_kind("request")[0]["outcome"] == "error"


@pytest.mark.parametrize(
    "extra", [{"response_format": {"type": "json_object"}}, {"n": 2}], ids=["JSON mode", "n"]
)
def test_json_and_several_answers_are_not_gone_on_with(scene: Scene, extra: dict[str, Any]) -> None:
    scene.a.always(CUT)
    with pytest.raises(StreamBrokenError):
        scene.stream(extra=extra)
    assert scene.b.counters.requests == 0


def test_json_that_broke_before_anything_was_delivered_is_asked_for_anew(scene: Scene) -> None:
    scene.a.always(Fault(kind="cut", after_words=0))
    text, answer, _ = scene.stream(extra={"response_format": {"type": "json_object"}})
    assert (text, answer.providers) == (WHOLE, ("b",))
    assert scene.b.last_requests[-1].body["messages"][-1]["role"] == "user"


TOOLS: dict[str, Any] = {
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "look_up",
                "parameters": {
                    "type": "object",
                    "properties": {"place": {"type": "string"}, "n": {"type": "integer"}},
                },
            },
        }
    ],
    "tool_choice": "required",
}


def test_a_tool_call_of_which_a_part_was_delivered_ends_with_an_error(scene: Scene) -> None:
    scene.a.always(Fault(kind="cut", after_words=1))
    events: list[Event] = []
    with pytest.raises(StreamBrokenError):
        scene.asking.stream(into=events, extra=TOOLS)
    assert any(isinstance(event, Delta) for event in events)
    assert scene.b.counters.requests == 0


def test_a_tool_call_of_which_nothing_was_delivered_is_made_anew(scene: Scene) -> None:
    scene.a.always(Fault(kind="cut", after_words=0))
    _, answer, events = scene.stream(extra=TOOLS)
    assert answer.provider == "b"
    assert answer.choices[0].message["tool_calls"][0]["function"]["name"] == "look_up"
    assert [type(event) for event in events].count(AttemptFailed) == 1


def test_content_that_is_withheld_in_the_middle_is_the_callers_error_and_nobody_goes_on(scene: Scene) -> None:
    scene.a.always(Fault(kind="content_filter", after_words=40))
    with pytest.raises(StreamBrokenError) as caught:
        scene.stream()
    assert caught.value.kind == FailureKind.CONTENT_POLICY
    with pytest.raises(RequestRejectedError):
        scene.asking.invoke()
    assert scene.b.counters.requests == 0


def test_a_plain_call_gets_the_whole_answer_of_the_next_one(scene: Scene) -> None:
    scene.a.always(CUT)
    answer = scene.asking.invoke()
    assert (answer.text, answer.providers, answer.seams) == (WHOLE, ("b",), ())
    assert scene.b.last_requests[-1].body["messages"] == [{"role": "user", "content": "Say hello."}]
