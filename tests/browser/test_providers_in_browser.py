"""The Providers page in a real browser: switches that everybody sees, drills and their end, every screen."""

from __future__ import annotations

import json
import re
import urllib.request
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.program]


def generate(running: Any) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310 - our own program
        f"{running.url}/api/generate",
        data=json.dumps({"prompt": "Hello"}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as reply:  # noqa: S310 - our own program
        answer: dict[str, Any] = json.load(reply)
        return answer


def card(visitor: Any, name: str) -> Any:
    return visitor.page.locator(f".st-key-providers_card_{name}")


def throw_switch(visitor: Any) -> None:
    from playwright.sync_api import expect

    switch = card(visitor, "groq_llama").locator("[data-testid=stCheckbox] label")
    expect(switch).to_have_count(1)  # the page may just be drawing it anew
    switch.click()


def test_a_switch_thrown_in_one_browser_shows_in_another_and_in_the_api(running: Any, visit: Any) -> None:
    one, two = visit(f"{running.url}/providers"), visit(f"{running.url}/providers")
    card(one, "groq_llama").get_by_text("Ready").wait_for()
    card(two, "groq_llama").get_by_text("Ready").wait_for()
    assert generate(running)["provider"] == "groq_llama"
    before = running.standin.tenant("groq_llama").counters.requests
    throw_switch(one)
    card(two, "groq_llama").get_by_text("It gets no request until somebody switches it on.").wait_for()
    answer = generate(running)
    assert answer["provider"] == "together_llama"
    assert "Skipping groq_llama: switched off" in answer["activity_log"]
    assert running.standin.tenant("groq_llama").counters.requests == before
    two.page.locator(".st-key-providers_feed").get_by_text("dashboard").first.wait_for()
    two.picture("providers-switched-off")
    throw_switch(two)
    card(one, "groq_llama").get_by_text("Ready").wait_for()
    assert generate(running)["provider"] == "groq_llama"


def test_what_stands_beside_a_switch_is_how_it_stands_and_its_name_stays(running: Any, visit: Any) -> None:
    from playwright.sync_api import expect

    visitor = visit(f"{running.url}/providers")
    switch = card(visitor, "groq_llama").get_by_role("switch", name="Gets requests")
    beside = "label => getComputedStyle(label.querySelector('p'), '::after').content"
    for on in (True, False, True):
        expect(switch).to_be_checked(checked=on)
        label = card(visitor, "groq_llama").locator("[data-testid=stCheckbox] label")
        assert label.evaluate(beside).startswith('"On"' if on else '"Off"')
        label.click()


def test_a_preset_makes_the_chat_fail_over_and_its_end_brings_the_provider_back(
    running: Any, visit: Any
) -> None:
    visitor = visit(f"{running.url}/providers")
    card(visitor, "groq_llama").get_by_text("Ready").wait_for()
    visitor.page.get_by_role("button", name="Simulate an outage").click()
    visitor.page.get_by_role("button", name="Groq outage").click()
    # The badge, and not the button of the same name, which is always there.
    card(visitor, "groq_llama").get_by_text(re.compile(r"Drill \d+:\d\d left|Drill until")).first.wait_for()
    assert generate(running)["provider"] == "together_llama"
    visitor.picture("providers-drill")
    other = visit(running.url)
    other.ask("Hello?")
    other.answered()
    assert other.page.get_by_text("together_llama").first.is_visible()
    visitor.page.get_by_role("button", name="End all drills").click()
    card(visitor, "groq_llama").get_by_text("Ready").wait_for()
    assert generate(running)["provider"] == "groq_llama"


def test_the_menu_of_drills_opens_where_there_is_room_for_it(running: Any, visit: Any) -> None:
    visitor = visit(f"{running.url}/providers")
    button = card(visitor, "groq_llama").get_by_role("button", name="Drill").first
    button.wait_for()
    # So that nothing fits below the button.
    visitor.page.set_viewport_size({"width": 1400, "height": int(button.bounding_box()["y"]) + 120})
    button.click()
    menu = visitor.page.get_by_test_id("stPopoverBody").filter(has_text="Let groq_llama fail on purpose")
    menu.wait_for()
    visitor.page.wait_for_timeout(1000)
    told = visitor.page.get_by_role("tooltip").get_by_test_id("stTooltipContent")
    assert menu.bounding_box()["y"] < button.bounding_box()["y"], "the menu has to open upwards"
    assert not told.is_visible(), "the button's tooltip lies over its menu"
    visitor.page.get_by_role("combobox", name="What goes wrong").click()
    visitor.page.get_by_role("option", name="Rate limited (429)").click()
    visitor.page.get_by_role("spinbutton", name="Retry-After, s").fill("7")
    visitor.picture("providers-drill-menu")
    visitor.page.get_by_role("button", name="Start the drill").click()
    card(visitor, "groq_llama").get_by_text("Rate limited (429), Retry-After 7 s").wait_for()
    assert generate(running)["provider"] == "together_llama"
    card(visitor, "groq_llama").get_by_text("Cooling down 0:0").wait_for()


def test_test_now_asks_the_provider_once(running: Any, visit: Any) -> None:
    visitor = visit(f"{running.url}/providers")
    card(visitor, "together_llama").get_by_role("button", name="Test now").click()
    tenant = running.standin.tenant("together_llama")
    assert tenant.wait_for(lambda counters: counters.requests == 1)
    visitor.page.wait_for_timeout(2500)
    assert tenant.counters.requests == 1


@pytest.mark.parametrize("size", ["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_the_first_session_of_a_fresh_program_and_fits_every_screen(
    running: Any, visit: Any, size: str, scheme: str
) -> None:
    for _ in range(5):
        generate(running)
    visitor = visit(f"{running.url}/providers", size=size, scheme=scheme)
    card(visitor, "groq_llama").get_by_text("Ready").wait_for()
    visitor.page.wait_for_timeout(1500)
    visitor.picture(f"providers-{scheme}-{size}")
    wide = visitor.page.evaluate(
        "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )
    assert not wide, "the page scrolls sideways"
