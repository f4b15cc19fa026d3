"""The Providers page: its words and values as functions, and the page driven as a browser would drive it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Toggle

from fallback.config import load
from fallback.core.errors import FailureKind, FallbackError
from fallback.core.models import Headroom
from fallback.core.roster import ProviderStatus
from fallback.drills import PRESETS, DrillKind
from fallback.recent import CallRecord, ChangeRecord, RecentActivity
from fallback.router import ModelRouter, set_router
from fallback.standin import Fault, StandInThread
from fallback.ui.providers.charts import last_calls_chart, medians_chart
from fallback.ui.providers.controls import trials
from fallback.ui.providers.feed import feed
from fallback.ui.providers.overview import PASSING, answering, overview
from fallback.ui.providers.page import FEED_SHOWN
from fallback.ui.providers.sparkline import sparkline
from fallback.ui.providers.states import ago, badge, clock, explanation, percent
from fallback.wiring import assemble

FRAME = str(Path(__file__).resolve().parents[1] / "fallback/ui/frame.py")
PAGE = "../../pages/providers.py"
BOUND_S = 20.0
"""How long anything may take before the test gives up."""

LIMITED = Fault(kind="status", status=429, retry_after="300")
WRONG_KEY = Fault(
    kind="status",
    status=401,
    body='{"error": {"message": "Invalid ![x](http://127.0.0.1:9/x.png) key", "code": "invalid_api_key"}}',
)
GONE = Fault(kind="status", status=404, body='{"error": {"message": "gone", "code": "model_not_found"}}')

Start = Callable[..., ModelRouter]


@pytest.fixture
def standin() -> Iterator[StandInThread]:
    with StandInThread() as running:
        running.tenant("groq_llama", dialect="groq", text="Tokyo, says Groq.")
        running.tenant("together_llama", dialect="together", text="Tokyo, says Together.")
        yield running


@pytest.fixture
def start(tmp_path: Path, standin: StandInThread) -> Iterator[Start]:
    """Give a function that sets the program's router up: the usual two providers, and these lines of `providers:`."""
    routers: list[ModelRouter] = []

    def begin(*lines: str) -> ModelRouter:
        groq, together = standin.tenant("groq_llama").url, standin.tenant("together_llama").url
        usual = (
            f"{{name: groq_llama, type: groq, endpoint: '{groq}', model: small, priority: 1}}",
            f"{{name: together_llama, type: together, endpoint: '{together}', model: large, priority: 2}}",
        )
        file = tmp_path / "providers.yaml"
        text = "".join(f"  - {line}\n" for line in (*usual, *lines))
        file.write_text(f"providers:\n{text}routing: {{retries: 0}}\n")
        router = ModelRouter(assemble(load(file, environ={})))
        routers.append(router)
        set_router(router)
        return router

    trials.clear()
    yield begin
    set_router(None)
    for router in routers:
        for name in router.context.roster.providers:
            assert trials().wait(name, BOUND_S)
        router.close()
        router.wiring.close()


def opened(page: AppTest | None = None) -> AppTest:
    page = page or AppTest.from_file(FRAME, default_timeout=BOUND_S)
    return checked(page.switch_page(PAGE).run())


def checked(page: AppTest) -> AppTest:
    assert not page.exception
    return page


def shown(page: AppTest) -> str:
    """Return every text on the page, without the marks that plain() puts before punctuation."""
    found = [str(getattr(element, "value", "")) for element in (*page.markdown, *page.caption, *page.warning)]
    return "\n".join(found).replace("\\", "")


def click(page: AppTest, key: str) -> AppTest:
    return checked(page.button(key=key).click().run())


def switch(page: AppTest, name: str) -> Toggle:
    (found,) = (toggle for toggle in page.toggle if str(toggle.key).startswith(f"providers_on_{name}_"))
    return found


def with_menu(page: AppTest, menu: str) -> AppTest:
    """Open a menu as a click on its button does."""
    closed = f"{menu}_closed"
    times = page.session_state[closed] if closed in page.session_state else 0  # noqa: SIM401 - it has no get()
    page.session_state[f"{menu}_{times}"] = True
    return checked(page.run())


def toasts(page: AppTest) -> list[str]:
    return [toast.value.replace("\\", "") for toast in page.toast]


def status_of(router: ModelRouter, name: str) -> ProviderStatus:
    return next(status for status in router.status() if status.name == name)


def ask(router: ModelRouter, model: str = "auto") -> None:
    """Ask something, whatever comes of it. It is in the log then."""
    with contextlib.suppress(FallbackError):
        router.invoke("hello", model=model)


# The page


def test_the_page_says_who_answers_and_who_would_after_that(start: Start) -> None:
    start()
    page = opened()
    assert [title.value for title in page.title] == ["Providers"]
    texts = [text.value.replace("\\", "").split("  \n") for text in page.markdown]
    mark = ":green[:material/check_circle:]"
    assert texts[:4] == [
        [":small[:gray[Answers now]]", f"**{mark} groq_llama**", ":small[:gray[small]]"],
        [":small[:gray[If that one fails]]", f"**{mark} together_llama**", ":small[:gray[large]]"],
        [":small[:gray[Requests answered, 15 min]]", "**—**", ":small[:gray[no requests yet]]"],
        [":small[:gray[Ready]]", "**2 of 2**", ":small[:gray[no drill running]]"],
    ]


def test_with_an_empty_log_every_part_says_so(start: Start) -> None:
    start()
    text = shown(opened())
    assert "no requests yet" in text
    assert "No error on record." in text
    assert "Nothing yet." in text


def test_the_page_is_the_first_one_of_a_session(start: Start) -> None:
    start()
    page = AppTest.from_file(FRAME, default_timeout=BOUND_S).switch_page(PAGE).run()
    assert "Answers now" in shown(checked(page))


def test_the_switch_turns_the_provider_off_and_on(start: Start) -> None:
    router = start()
    page = opened()
    checked(switch(page, "groq_llama").set_value(False).run())
    assert status_of(router, "groq_llama").state == "off"
    assert ":green[:material/check_circle:] together_llama" in shown(page)
    assert "gets no request until somebody switches it on" in shown(page)
    checked(switch(page, "groq_llama").set_value(True).run())
    assert status_of(router, "groq_llama").state == "ready"


def test_the_switch_follows_what_others_do(start: Start) -> None:
    router = start()
    page = opened()
    router.set_enabled("groq_llama", False, by="api")
    checked(page.run())
    assert switch(page, "groq_llama").value is False
    assert status_of(router, "groq_llama").state == "off"


def test_a_switch_sent_as_it_was_before_another_viewer_threw_it_changes_nothing(start: Start) -> None:
    router = start()
    page = opened()
    seen = page._tree
    switch(page, "groq_llama").set_value(True)
    router.set_enabled("groq_llama", False, by="api")
    checked(page.run())
    checked(seen.run())  # a refresh that was on its way, with the switches as this browser knew them
    assert switch(page, "groq_llama").value is False
    assert status_of(router, "groq_llama").state == "off"


def test_a_refresh_moves_no_switch(start: Start) -> None:
    # A browser that is told how a switch stands takes that for its own, over a click that is on its way.
    router = start()
    page = opened()
    checked(switch(page, "groq_llama").set_value(False).run())
    checked(page.run())
    for shown_switch in page.toggle:
        assert not shown_switch.proto.set_value
    router.set_enabled("groq_llama", True, by="api")
    checked(page.run())
    assert switch(page, "groq_llama").value is True
    assert not switch(page, "groq_llama").proto.set_value


def test_a_switch_can_be_thrown_right_after_somebody_else_threw_it(start: Start) -> None:
    router = start()
    page = opened()
    router.set_enabled("groq_llama", False, by="api")
    checked(page.run())
    checked(switch(page, "groq_llama").set_value(True).run())
    assert status_of(router, "groq_llama").state == "ready"


def test_a_drill_is_set_with_value_share_and_length(start: Start) -> None:
    router = start()
    page = with_menu(opened(), "providers_drill_menu_groq_llama")
    checked(page.selectbox(key="providers_drill_kind_groq_llama").set_value(DrillKind.RATE_LIMITED).run())
    assert "The provider refuses with 429 and Retry-After." in shown(page)
    page.number_input(key="providers_drill_value_rate_limited_groq_llama").set_value(45.0)
    page.number_input(key="providers_drill_share_groq_llama").set_value(50)
    page.selectbox(key="providers_drill_length_groq_llama").set_value(60.0)
    click(page, "providers_drill_start_groq_llama")
    drill = router.switchboard.drills()["groq_llama"]
    assert (drill.kind, drill.value, drill.probability, drill.by) == (
        DrillKind.RATE_LIMITED,
        45.0,
        0.5,
        "dashboard",
    )
    assert drill.until is not None
    assert drill.until - drill.started == 60.0
    assert "Rate limited (429), Retry-After 45 s, 50 % of the calls" in shown(page)
    assert toasts(page) == ["groq_llama: Rate limited (429), Retry-After 45 s, 50 % of the calls"]
    assert not [box for box in page.selectbox if box.key == "providers_drill_kind_groq_llama"]


@pytest.mark.parametrize("kind", list(DrillKind))
def test_every_kind_of_drill_can_be_started_as_it_is_offered(start: Start, kind: DrillKind) -> None:
    router = start()
    page = with_menu(opened(), "providers_drill_menu_groq_llama")
    checked(page.selectbox(key="providers_drill_kind_groq_llama").set_value(kind).run())
    click(page, "providers_drill_start_groq_llama")
    assert router.switchboard.drills()["groq_llama"].kind is kind


def test_a_drill_until_ended_by_hand_has_no_end(start: Start) -> None:
    router = start()
    page = with_menu(opened(), "providers_drill_menu_groq_llama")
    page.selectbox(key="providers_drill_length_groq_llama").set_value(0.0)
    click(page, "providers_drill_start_groq_llama")
    assert router.switchboard.drills()["groq_llama"].until is None
    assert "until ended by hand" in shown(page)


def test_a_drill_is_ended_on_its_card(start: Start) -> None:
    router = start()
    router.switchboard.set_drill("groq_llama", {"kind": "off"}, by="api")
    page = opened()
    assert "Off by a drill" in shown(page)
    click(page, "providers_end_drill_groq_llama")
    assert not router.switchboard.drills()
    assert status_of(router, "groq_llama").state == "ready"


@pytest.mark.parametrize("number", range(len(PRESETS)))
def test_a_preset_starts_its_drills_and_all_are_ended_together(start: Start, number: int) -> None:
    router = start()
    page = opened()
    assert page.button(key="providers_end_drills").disabled
    with_menu(page, "providers_presets")
    click(page, f"providers_preset_{number}")
    assert "groq_llama" in router.switchboard.drills()
    assert {drill.by for drill in router.switchboard.drills().values()} == {"dashboard"}
    assert toasts(page)[0].startswith(list(PRESETS)[number])
    click(page, "providers_end_drills")
    assert not router.switchboard.drills()


def test_the_order_is_changed_and_set_back(start: Start) -> None:
    router = start()
    page = with_menu(opened(), "providers_order")
    assert page.button(key="providers_up_1").disabled
    assert page.button(key="providers_down_2").disabled
    assert page.button(key="providers_order_reset").disabled
    click(page, "providers_up_2")
    assert router.context.roster.providers == ("together_llama", "groq_llama")
    click(page, "providers_down_1")
    assert router.context.roster.providers == ("groq_llama", "together_llama")
    click(page, "providers_down_1")
    click(page, "providers_order_reset")
    assert router.context.roster.providers == ("groq_llama", "together_llama")


def test_the_end_of_a_cooldown_makes_the_provider_ready(start: Start, standin: StandInThread) -> None:
    router = start()
    standin.tenant("groq_llama").play(LIMITED)
    ask(router)
    page = opened()
    # Up to a tenth is added to what the provider said.
    assert "Cooling down 5:" in shown(page)
    assert "It is rate limited, and is left alone for a while." in shown(page)
    click(page, "providers_end_cooldown_groq_llama")
    assert status_of(router, "groq_llama").state == "ready"
    assert not [button for button in page.button if button.key == "providers_end_cooldown_groq_llama"]


def test_a_test_call_runs_in_the_background_and_its_answer_is_told(
    start: Start, standin: StandInThread
) -> None:
    router = start()
    standin.tenant("groq_llama").play(LIMITED)
    ask(router)
    page = opened()
    click(page, "providers_test_groq_llama")
    assert trials().wait("groq_llama", BOUND_S)
    checked(page.run())
    assert status_of(router, "groq_llama").state == "ready"
    assert "**Test** It answered in" in shown(page)
    checked(page.run())
    assert "**Test** It answered in" in shown(page)
    assert not toasts(page), "told once"


def test_a_test_call_that_fails_says_why(start: Start, standin: StandInThread) -> None:
    start()
    standin.tenant("groq_llama").always(WRONG_KEY)
    page = opened()
    click(page, "providers_test_groq_llama")
    assert trials().wait("groq_llama", BOUND_S)
    checked(page.run())
    assert "**Test** It did not accept the API key. Check its key in .env, then restart." in shown(page)


def test_a_test_call_without_a_key_says_which_one_to_set(start: Start) -> None:
    start(
        "{name: no_key, type: groq, endpoint: 'https://api.groq.com/openai/v1/chat/completions', model: m, priority: 3}"
    )
    page = opened()
    click(page, "providers_test_no_key")
    assert trials().wait("no_key", BOUND_S)
    checked(page.run())
    told = "**Test** No answer: no key: set NO_KEY_API_KEY or GROQ_API_KEY in .env."
    assert told in shown(page).replace("\\", "")


def test_a_page_does_not_wait_for_the_provider_it_tests(start: Start, standin: StandInThread) -> None:
    router = start()
    standin.tenant("groq_llama").always(Fault(kind="hang"))
    page = opened()
    began = time.monotonic()
    click(page, "providers_test_groq_llama")
    checked(page.run())
    assert time.monotonic() - began < 5.0
    assert page.button(key="providers_test_groq_llama").disabled
    assert "Testing" in shown(page)
    first = trials().latest("groq_llama")
    assert first is not None
    assert trials().start(router, "groq_llama") == first.number, "a second viewer joins the trial under way"
    standin.stop()


def test_every_state_is_drawn(start: Start, standin: StandInThread) -> None:
    url = standin.tenant("third", dialect="groq").url
    old = standin.tenant("old", dialect="groq").url
    router = start(
        f"{{name: wrong_key, type: groq, endpoint: '{url}', model: small, priority: 3}}",
        "{name: no_key, type: groq, endpoint: 'https://api.groq.com/openai/v1/chat/completions', model: m, priority: 4}",
        f"{{name: old_model, type: groq, endpoint: '{old}', model: was, fallback_models: [now], priority: 5}}",
    )
    standin.tenant("groq_llama").play(LIMITED)
    standin.tenant("third").play(WRONG_KEY)
    standin.tenant("old").play(GONE)
    for model in ("auto", "wrong_key", "old_model"):
        ask(router, model)
    router.set_enabled("together_llama", False, by="api")
    text = shown(opened())
    for words in (
        ":orange-badge[:material/timer: Cooling down 5:",
        ":red-badge[:material/block: Disabled: wrong key]",
        ":gray-badge[:material/key_off: Not configured]",
        "No key: set NO_KEY_API_KEY or GROQ_API_KEY in .env.",
        ":gray-badge[:material/power_settings_new: Off]",
        ":violet-badge[:material/published_with_changes: Model retired] was; serving now]",
        "**Last error** just now",
    ):
        assert words in text


def test_a_providers_message_loads_nothing(start: Start, standin: StandInThread) -> None:
    router = start()
    standin.tenant("groq_llama").play(WRONG_KEY)
    ask(router)
    page = opened()
    (message,) = [text.value for text in page.markdown if "Invalid" in text.value]
    assert "![" not in message


def test_the_calls_are_drawn_and_the_changes_listed(start: Start, standin: StandInThread) -> None:
    router = start()
    standin.tenant("groq_llama").play(LIMITED)
    ask(router)
    router.switchboard.set_drill("together_llama", {"kind": "stall"}, by="cli")
    page = opened()
    text = shown(page)
    assert len(page.get("vega_lite_chart") or page.get("arrow_vega_lite_chart")) == 2
    assert "is cooling down for 5 min: it is rate limited" in text
    assert "has a drill for 5 min: Stall, after 5 words :orange-badge[drill] :gray[· by cli]" in text


def test_what_is_wrong_with_the_store_is_said(tmp_path: Path, start: Start) -> None:
    router = start()
    (tmp_path / "logs").mkdir(exist_ok=True)
    (tmp_path / "logs/state.sqlite").mkdir()
    router.wiring.start()
    warning = router.switchboard.warning
    assert warning
    assert warning in shown(opened())


def test_every_control_has_a_key_a_label_and_help(start: Start) -> None:
    router = start()
    router.switchboard.set_drill("groq_llama", {"kind": "cut"}, by="api")
    page = opened()
    for menu in ("providers_presets", "providers_order", "providers_drill_menu_groq_llama"):
        with_menu(page, menu)
    controls: list[Any] = [*page.button, *page.toggle, *page.selectbox, *page.number_input]
    assert len(controls) > 15
    for control in controls:
        assert control.key, control
        assert control.label, control.key
        assert control.help, control.key


# Its words and values


def state(name: str, value: str = "ready", **more: Any) -> ProviderStatus:
    return ProviderStatus(name=name, state=value, model=f"model of {name}", text=value, **more)


def test_the_first_that_may_be_asked_answers() -> None:
    waiting = state("c", "probing")
    assert answering([state("a", "off"), state("b", "disabled"), waiting, state("d")]).name == "c"
    probed = state("c", "probing", until_s=0.0)
    assert answering([state("a", "cooling_down", until_s=5.0), probed, state("d")]).name == "d"


def test_where_all_are_resting_the_one_that_recovers_soonest_answers() -> None:
    found = answering([state("a", "cooling_down", until_s=9.0), state("b", "cooling_down", until_s=4.0)])
    assert (found.name, found.ready) == ("b", False)


def test_where_nobody_may_be_asked_it_says_why() -> None:
    assert answering([state("a", "off"), state("b", "off")]).note == "every provider is switched off"
    assert answering([state("a", "off"), state("b", "disabled")]).name is None
    assert answering([state("b", "off")], others=True).note == "every other provider is switched off"
    assert answering([], others=True).note == "there is no other provider"


@pytest.mark.parametrize(
    ("status", "label"),
    [
        (state("a"), "Ready"),
        (state("a", "cooling_down", until_s=23.2), "Cooling down 0:24"),
        (state("a", "probing"), "Probing"),
        (state("a", "off", enabled=False), "Off"),
        (state("a", "off"), "Off by a drill"),
        (state("a", "not_configured"), "Not configured"),
        (state("a", "disabled", reason="authentication"), "Disabled: wrong key"),
        (state("a", "disabled", reason="quota_exhausted", until_s=9.0), "Disabled: out of credit"),
        (state("a", "disabled", reason="what an older version wrote"), "Disabled"),
    ],
)
def test_a_state_is_said_in_words(status: ProviderStatus, label: str) -> None:
    assert badge(status).label == label
    assert badge(status).icon.startswith(":material/")
    assert bool(explanation(status)) == (status.state != "ready")


def test_lengths_and_shares_read_as_people_write_them() -> None:
    assert [clock(value) for value in (0.0, 0.2, 59.5, 899.0, 3600.0)] == [
        "0:00",
        "0:01",
        "1:00",
        "14:59",
        "1:00:00",
    ]
    assert [ago(value) for value in (-5.0, 45.0, 3599.0, 7200.0, 200_000.0)] == [
        "just now",
        "40 s ago",
        "59 min ago",
        "2 h ago",
        "2 days ago",
    ]
    assert [percent(value) for value in (1.0, 0.9999, 0.914, 0.001, 0.0)] == [
        "100 %",
        "99.9 %",
        "91 %",
        "1 %",
        "0 %",
    ]


def change(to_state: str, **more: Any) -> ChangeRecord:
    usual: Mapping[str, Any] = {
        "ts": 1_800_000_000.0,
        "provider": "groq",
        "model": None,
        "from_state": "ready",
        "reason": None,
        "length_s": None,
        "by": "router",
    }
    return ChangeRecord(**{**usual, "to_state": to_state, **more})


def test_the_feed_says_what_when_why_and_by_whom() -> None:
    zone = timezone(timedelta(hours=2))
    today = datetime.fromtimestamp(1_800_000_000.0, UTC).astimezone(zone)
    line = feed([change("cooling_down", reason="overloaded", length_s=30.0)], zone=zone, today=today)
    assert f"`{today:%H:%M:%S}`" in line
    assert line.replace("\\", "").endswith(
        "**groq** is cooling down for 30 s: it is overloaded :gray[· by router]]"
    )
    earlier = feed([change("on")], zone=zone, today=today + timedelta(days=1))
    assert f"`{today:%d %b %H:%M}`" in earlier


def test_the_feed_shows_strange_lines_of_the_log_as_text() -> None:
    hostile = change("![a](http://x)", ts=1e15, provider=":red[x]", reason="![b](http://y)", by="$x$")
    line = feed([hostile], zone=UTC, today=datetime.now(UTC))
    assert "![" not in line
    assert "some time" in line


def call(provider: str, outcome: str = "ok", **more: Any) -> CallRecord:
    usual: Mapping[str, Any] = {
        "ts": 1_800_000_000.0,
        "request_id": None,
        "model": "m",
        "role": "first",
        "status": None,
        "duration_s": 0.4,
        "ttft_s": 0.1,
        "drill": False,
        "probe": False,
    }
    return CallRecord(**{**usual, "provider": provider, "outcome": outcome, **more})


def test_the_chart_of_calls_keeps_its_scales_whatever_happened() -> None:
    names = ("a\"b'", "c")
    small = last_calls_chart(names, [call("c")])
    large = last_calls_chart(
        names,
        [
            call("a\"b'", "timeout", drill=True),
            call("c", "cancelled", duration_s=None),
            call("gone"),
            *[call("c")] * 40,
        ],
    )
    assert small is not None
    assert large is not None
    for drawn in (small, large):
        bars = drawn.spec["layer"][0]["encoding"]
        assert bars["x"]["scale"]["domain"] == [0, 31]
        assert bars["y"]["scale"]["domain"] == [0, 2]
        assert bars["color"]["scale"]["domain"] == ["answered", "failed", "failed in a drill", "cancelled"]
    assert large.alt == "The last 30 calls: 1 of them failed, by 2 providers, newest right"
    assert last_calls_chart(names, [call("gone")]) is None


def test_the_chart_of_medians_shows_those_who_answered(start: Start) -> None:
    router = start()
    assert medians_chart(["groq_llama"], router.wiring.recent.snapshot()) is None
    ask(router)
    router.wiring.recent.refresh()
    drawn = medians_chart(["together_llama", "groq_llama"], router.wiring.recent.snapshot())
    assert drawn is not None
    assert "groq_llama 0." in drawn.alt
    assert "together_llama" not in drawn.alt
    color = drawn.spec["layer"][0]["encoding"]["color"]
    assert color["scale"]["domain"] == ["together_llama", "groq_llama"]
    assert color["legend"]["values"] == ["groq_llama"]


def test_an_error_that_the_state_explains_is_not_explained_twice(
    tmp_path: Path, start: Start, standin: StandInThread
) -> None:
    router = start()
    standin.tenant("groq_llama").play(WRONG_KEY)
    ask(router)
    with RecentActivity(tmp_path / "logs") as recent:
        recent.refresh()
        snapshot = recent.snapshot()
    disabled = overview(router.status(), {}, snapshot, time.time()).cards[0]
    assert disabled.error is not None
    assert disabled.explanation.startswith("It did not accept the API key.")
    assert disabled.error.text == ""
    assert disabled.error.message.startswith("HTTP 401: Invalid")
    ready = overview([state("groq_llama")], {}, snapshot, time.time()).cards[0]
    assert ready.error is not None
    assert ready.error.text == "It did not accept the API key. Check its key in .env, then restart."


@pytest.mark.parametrize("kind", ["overloaded", "unauthorized"])
def test_an_error_is_told_with_what_to_do_about_it_unless_a_drill_made_it_up(
    tmp_path: Path, start: Start, standin: StandInThread, kind: str
) -> None:
    router = start()
    standin.tenant("together_llama").play(Fault(kind="status", status=503))
    ask(router, "together_llama")
    router.switchboard.set_drill("groq_llama", {"kind": kind}, by="api")
    ask(router, "groq_llama")
    with RecentActivity(tmp_path / "logs") as recent:
        recent.refresh()
        snapshot = recent.snapshot()
    statuses, drills = router.status(), router.switchboard.drills()
    disabled = overview(statuses, drills, snapshot, time.time()).cards[0]
    drilled, real = overview([state("groq_llama"), state("together_llama")], {}, snapshot, time.time()).cards
    assert real.error is not None
    assert real.error.text == f"It is overloaded. {PASSING}"
    assert drilled.error is not None
    assert drilled.error.text in {"It is overloaded.", "It did not accept the API key."}
    assert ".env" not in disabled.explanation


def test_requests_that_a_failover_saved_count_as_answered(start: Start, standin: StandInThread) -> None:
    router = start()
    ask(router)
    standin.tenant("groq_llama").play(LIMITED)
    ask(router)
    page = opened()
    assert "**100 %**  \n:small[:gray[2 of 2, 1 of them by a failover]]" in shown(page)


def test_the_older_changes_are_shown_on_request(start: Start) -> None:
    router = start()
    for _ in range(FEED_SHOWN // 2):
        router.set_enabled("groq_llama", False, by="api")
        router.set_enabled("groq_llama", True, by="api")
    router.set_enabled("together_llama", False, by="api")
    (older,) = opened().expander
    assert len(older.markdown[0].value.split("\n\n")) == 1


def test_a_sparkline_leaves_minutes_without_a_value_open() -> None:
    drawn = sparkline((None, 0.5, 1.0, None, 2.0))
    assert drawn is not None
    assert drawn.alt == "Median time minute by minute, 0.50 s to 2.0 s"
    assert drawn.svg.count(" L") == 1  # one line of two minutes, and one minute by itself
    assert drawn.svg.count("<circle") == 1
    assert '<circle cx="133.0" cy="3.0"' in drawn.svg
    assert sparkline((None, None)) is None
    assert sparkline((0.0,)) is not None


def test_what_is_left_of_a_rate_limit_is_told_until_its_reset(tmp_path: Path) -> None:
    left = Headroom(
        limit_requests=30,
        remaining_requests=29,
        reset_requests_s=60.0,
        remaining_tokens=5900,
        reset_tokens_s=5.0,
    )
    with RecentActivity(tmp_path) as recent:
        told = [
            overview([state("a", headroom=left, headroom_age_s=age_s)], {}, recent.snapshot(), 0.0)
            .cards[0]
            .headroom
            for age_s in (1.0, 10.0, 60.0)
        ]
        assert overview([state("a")], {}, recent.snapshot(), 0.0).cards[0].headroom == ""
    assert told == ["29 of 30 requests, 5,900 tokens", "29 of 30 requests", ""]


def test_the_banner_of_a_demo_is_shown(start: Start) -> None:
    usual = start()
    assert not opened().info
    settings = replace(usual.wiring.settings, banner="demo: simulated providers")
    with contextlib.closing(ModelRouter(assemble(settings))) as router:
        set_router(router)
        assert opened().info[0].value == "demo: simulated providers".replace(":", "\\:")
        router.wiring.close()


def test_every_failure_kind_can_be_explained() -> None:
    for kind in FailureKind:
        assert explanation(state("a", "disabled", reason=kind.value))
