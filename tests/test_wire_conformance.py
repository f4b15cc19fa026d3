"""Every recorded response of a real provider leads to the kind and the action that the case file names.

Over real sockets, through both routers: the stand-in replays the case byte for byte, a healthy provider stands behind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from asking import DRIVERS, Asking, provider

from fallback.core.errors import FailureKind, NoAnswerError, RequestRejectedError, StreamBrokenError
from fallback.core.models import Answer, Delta, Event, Finished
from fallback.core.policy import RoutingPolicy
from fallback.core.roster import ProviderStatus
from fallback.providers.settings import ModelSettings, ProviderType, Secret
from fallback.standin import Case, Fault, StandInThread, Tenant, load_cases, refused_port
from fallback.testing import FakeClock, scripted_wiring
from fallback.wiring import Wiring

CASES = load_cases(Path(__file__).with_name("wire_cases.yaml"))
ALL = sorted(CASES)
TYPES: dict[str, ProviderType] = {"groq": "groq", "together": "together"}
UNANNOUNCED_S = 10.0
"""First step of a cooldown whose length no provider announced (docs/faults.md)."""
KEY = "test-key-that-is-not-real-0000"


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        yield server


@dataclass(kw_only=True)
class Scene:
    """A provider that plays one case, and a healthy one behind it."""

    case: Case
    asking: Asking
    wiring: Wiring
    faulty: Tenant

    def answer(self) -> Answer:
        if not self.case.stream:
            return self.asking.invoke()
        last = self.asking.stream()[-1]
        assert isinstance(last, Finished)
        return last.answer

    def status(self) -> ProviderStatus:
        now = self.wiring.context.clock()
        return next(s for s in self.wiring.context.roster.status(now) if s.name == "faulty")


def stage(
    standin: StandInThread, case: Case, driver: str, *, window: int | None = None, both: bool = False
) -> Scene:
    faulty, healthy = standin.tenant(f"faulty-{case.id}"), standin.tenant(f"healthy-{case.id}")
    for tenant in (faulty, healthy):
        tenant.reset()
    if case.transport != "refuse":
        faulty.always(Fault(kind="case", case=case))
    if both:
        healthy.always(Fault(kind="case", case=case))
    with refused_port() as port:
        refused = f"http://127.0.0.1:{port}/v1/chat/completions"
    clock = FakeClock()
    limit_s = 0.3 if case.transport else 5.0
    wiring, _ = scripted_wiring(
        [
            provider(
                "faulty",
                refused if case.transport == "refuse" else faulty.url,
                type=TYPES.get(case.provider, "openai"),
                models=(ModelSettings(name="m", context_window=4000),),
                stream_upstream=case.stream or case.status is None,
                response_timeout_s=limit_s,
                api_key=Secret(KEY),
            ),
            provider(
                "healthy",
                healthy.url,
                models=(ModelSettings(name="h", context_window=window),),
                supports_prefill=True,
            ),
        ],
        clock=clock,
        policy=RoutingPolicy(first_token_timeout_s=limit_s, idle_timeout_s=limit_s, retry_delay_s=0.0),
    )
    # Retry-After as a date is a date of today.
    wiring = replace(wiring, context=replace(wiring.context, wall=time.time))
    return Scene(case=case, asking=Asking(driver, wiring), wiring=wiring, faulty=faulty)


def expected_kind(case: Case) -> str:
    # The case file calls an error inside a stream by where it stands; the kind is that of the error itself.
    return "overloaded" if case.expect_class == "stream_error" else case.expect_class


def of_action(*actions: str) -> list[str]:
    return [name for name in ALL if CASES[name].expect_action in actions]


def check_failed_over(scene: Scene, *, asked: int) -> ProviderStatus:
    answer = scene.answer()
    assert answer.provider == "healthy"
    assert answer.rescued
    assert answer.attempts[0].outcome == expected_kind(scene.case)
    assert [report.provider for report in answer.attempts] == ["faulty"] * asked + ["healthy"]
    if scene.case.transport != "refuse":
        assert scene.faulty.counters.requests == asked
    return scene.status()


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", of_action("return", "return_flagged"))
def test_an_answer_is_returned_as_it_is(standin: StandInThread, name: str, driver: str) -> None:
    scene = stage(standin, CASES[name], driver)
    answer = scene.answer()
    assert answer.provider == "faulty"
    assert len(answer.attempts) == 1
    assert answer.truncated == (scene.case.expect_action == "return_flagged")
    if scene.case.expect_text is not None:
        assert answer.text == scene.case.expect_text
    if scene.case.expect_usage is not None:
        usage = answer.usage
        assert [usage.input_tokens, usage.output_tokens, usage.total_tokens] == list(scene.case.expect_usage)
    assert scene.status().state == "ready"


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", of_action("retry_same_then_fail_over"))
def test_the_same_provider_is_asked_once_more_before_the_next(
    standin: StandInThread, name: str, driver: str
) -> None:
    scene = stage(standin, CASES[name], driver)
    status = check_failed_over(scene, asked=2)
    rests = expected_kind(scene.case) != FailureKind.OUTPUT_REJECTED
    assert status.state == ("cooling_down" if rests else "ready")


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", of_action("retry_same_then_fail_over"))
def test_a_retry_that_succeeds_leaves_no_cooldown(standin: StandInThread, name: str, driver: str) -> None:
    scene = stage(standin, CASES[name], driver)
    scene.faulty.reset()
    scene.faulty.play(Fault(kind="case", case=scene.case))
    answer = scene.answer()
    assert [report.provider for report in answer.attempts] == ["faulty", "faulty"]
    assert scene.status().state == "ready"


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", of_action("fail_over_cooldown"))
def test_the_provider_cools_down_and_the_next_one_answers(
    standin: StandInThread, name: str, driver: str
) -> None:
    scene = stage(standin, CASES[name], driver)
    status = check_failed_over(scene, asked=1)
    assert status.state == "cooling_down"
    assert status.until_s is not None
    case = scene.case
    announced = case.cooldown_s if _announced(case) else None
    if announced is not None:
        assert status.until_s == pytest.approx(announced, abs=1.5 if "date" in case.id else 0.001)
    else:
        # Where nobody announced a length the case file names a floor; the first step of the ladder is above it.
        assert status.until_s == pytest.approx(UNANNOUNCED_S)
        assert status.until_s >= (case.cooldown_s or 0.0)


def _announced(case: Case) -> bool:
    names = {name.lower() for name, _ in case.headers}
    page = case.expect_class in {FailureKind.BLOCKED_BY_EDGE, FailureKind.MALFORMED_RESPONSE}
    return page or bool(names & {"retry-after", "x-ratelimit-reset"}) or b"try again in" in case.body


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", of_action("fail_over_no_cooldown"))
def test_the_next_one_answers_and_nobody_cools_down(standin: StandInThread, name: str, driver: str) -> None:
    assert check_failed_over(stage(standin, CASES[name], driver), asked=1).state == "ready"


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", of_action("fail_over_once_then_error"))
def test_one_other_provider_is_asked_and_then_the_first_error_returned(
    standin: StandInThread, name: str, driver: str
) -> None:
    assert check_failed_over(stage(standin, CASES[name], driver), asked=1).state == "ready"
    scene = stage(standin, CASES[name], driver, both=True)
    with pytest.raises(RequestRejectedError) as caught:
        scene.answer()
    assert caught.value.kind == expected_kind(scene.case)
    assert caught.value.status == scene.case.status
    assert "faulty refused" in str(caught.value)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", of_action("fail_over_if_larger_window"))
def test_only_a_larger_or_unknown_window_is_asked_next(
    standin: StandInThread, name: str, driver: str
) -> None:
    for window in (None, 8000):
        assert check_failed_over(stage(standin, CASES[name], driver, window=window), asked=1).state == "ready"
    scene = stage(standin, CASES[name], driver, window=4000)
    with pytest.raises(RequestRejectedError) as caught:
        scene.answer()
    assert caught.value.kind is FailureKind.CONTEXT_WINDOW_EXCEEDED
    assert len(caught.value.attempts) == 1


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", of_action("fail_over_disable_model", "fail_over_disable_provider"))
def test_the_model_or_provider_is_disabled(standin: StandInThread, name: str, driver: str) -> None:
    scene = stage(standin, CASES[name], driver)
    status = check_failed_over(scene, asked=1)
    assert status.state == "disabled"
    assert status.retired == (("m",) if scene.case.expect_action == "fail_over_disable_model" else ())
    quota = expected_kind(scene.case) == FailureKind.QUOTA_EXHAUSTED
    assert status.until_s == (900.0 if quota else None)
    assert scene.answer().attempts[0].provider == "healthy"


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", of_action("rescue_mid_stream"))
def test_after_text_was_delivered_the_next_one_goes_on_with_it(
    standin: StandInThread, name: str, driver: str
) -> None:
    scene = stage(standin, CASES[name], driver)
    standin.tenant(f"healthy-{name}").configure(text="Hello, world")
    events = scene.asking.stream()
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "Hello, world"
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.answer.text, last.answer.providers, last.answer.seams) == (
        "Hello, world",
        ("faulty", "healthy"),
        (3,),
    )
    assert last.answer.attempts[0].outcome == expected_kind(scene.case)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", of_action("rescue_mid_stream"))
def test_after_text_was_delivered_a_clean_error_ends_the_stream_where_nobody_can_go_on(
    standin: StandInThread, name: str, driver: str
) -> None:
    scene = stage(standin, CASES[name], driver)
    scene.wiring.context.roster.set_enabled("healthy", False, by="test")
    events: list[Event] = []
    with pytest.raises(StreamBrokenError) as caught:
        scene.asking.stream(into=events)
    assert caught.value.partial_text == "Hel"
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "Hel"
    assert caught.value.kind == expected_kind(scene.case)
    assert not any(isinstance(event, Finished) for event in events)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", of_action("rescue_mid_stream"))
def test_where_nothing_was_delivered_a_broken_stream_is_a_failover(
    standin: StandInThread, name: str, driver: str
) -> None:
    scene = stage(standin, CASES[name], driver)
    answer = scene.asking.invoke()
    assert answer.provider == "healthy"
    assert answer.attempts[0].outcome == expected_kind(scene.case)


def test_every_case_is_covered_by_an_action() -> None:
    known = of_action(
        "return",
        "return_flagged",
        "retry_same_then_fail_over",
        "fail_over_cooldown",
        "fail_over_no_cooldown",
        "fail_over_once_then_error",
        "fail_over_if_larger_window",
        "fail_over_disable_model",
        "fail_over_disable_provider",
        "rescue_mid_stream",
    )
    assert len(CASES) == 44
    assert sorted(known) == ALL


def test_no_part_of_a_key_or_account_is_shown(standin: StandInThread) -> None:
    for name in ("openai_401_key_echo", "groq_429_tpm", "groq_413_tpm_ceiling"):
        scene = stage(standin, CASES[name], "sync", both=True)
        with pytest.raises(NoAnswerError) as caught:
            scene.answer()
        shown = repr(caught.value.attempts) + str(caught.value) + repr(caught.value.activity_log)
        for part in ("sk-EXAMP", "0000.", "org_01EXAMPLE", KEY[:6]):
            assert part not in shown
