"""Chatting in a real browser: failover, Stop, reload, hostile answers."""

from __future__ import annotations

from typing import Any

import pytest

from fallback.standin import Fault

pytestmark = [pytest.mark.browser, pytest.mark.program]
LIMITED = Fault(kind="status", status=429, retry_after="300")

HOSTILE = (
    "![steal](http://evil.invalid/a.png) <img src=http://evil.invalid/b.png> "
    "<script>fetch('http://evil.invalid/c')</script> [![x](http://evil.invalid/d.png)](http://evil.invalid/e)\n\n"
    "```\n![code](http://evil.invalid/f.png)\n```\n\n<style>@import url(http://evil.invalid/g.css)</style> done"
)


def say(running: Any, tenant: str, text: str, **settings: Any) -> None:
    running.standin.tenant(tenant).configure(text=text, **settings)


def test_a_failover_is_seen_as_it_happens_and_the_answer_names_its_provider(running: Any, visit: Any) -> None:
    say(running, "together_llama", "The capital of Japan is Tokyo.")
    running.standin.tenant("groq_llama").always(LIMITED)
    visitor = visit(running.url)
    visitor.ask("What is the capital of Japan?")
    visitor.answered()
    page = visitor.page
    page.get_by_text("The capital of Japan is Tokyo.").wait_for()
    assert page.get_by_text("rate limited").first.is_visible()
    assert page.get_by_text("together_llama").first.is_visible()
    visitor.picture("chat-failover")
    page.get_by_text("Activity log").click()
    page.get_by_text("Invoking together_llama as fallback...").wait_for()


def test_stop_ends_the_answer_keeps_what_was_said_and_tells_the_provider(running: Any, visit: Any) -> None:
    tenant = running.standin.tenant("groq_llama")
    say(running, "groq_llama", " ".join(f"word{n}" for n in range(400)), per_token_s=0.1)
    visitor = visit(running.url)
    visitor.ask("Tell me a long story.")
    visitor.page.get_by_text("word3").wait_for()
    visitor.page.get_by_test_id("stChatInput").get_by_role("button").last.click()
    visitor.answered()
    assert tenant.wait_for(lambda counters: counters.aborted == 1), "the provider was not told"
    shown = visitor.page.inner_text("body")
    assert "word3" in shown
    assert "word399" not in shown
    assert "topped" in shown


def test_a_reload_keeps_the_conversation(running: Any, visit: Any) -> None:
    say(running, "groq_llama", "Forty-two, of course.")
    visitor = visit(running.url)
    visitor.ask("What is the answer?")
    visitor.answered()
    visitor.page.reload()
    visitor.page.get_by_text("Forty-two, of course.").wait_for()
    assert visitor.page.get_by_text("What is the answer?").is_visible()


def test_a_hostile_answer_loads_nothing_and_runs_nothing(running: Any, visit: Any) -> None:
    say(running, "groq_llama", HOSTILE)
    visitor = visit(running.url)
    visitor.ask("Be hostile.")
    visitor.answered()
    visitor.page.get_by_text("done").first.wait_for()
    visitor.page.wait_for_timeout(500)
    assert visitor.page.locator("img[src*='evil']").count() == 0
    # That no other host was called is checked for every test, by the fixture.


@pytest.mark.parametrize("size", ["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_empty_chat_and_an_answer_fit_every_screen(
    running: Any, visit: Any, size: str, scheme: str
) -> None:
    say(running, "groq_llama", "A short answer with `code`, **weight** and a list:\n\n- one\n- two\n")
    visitor = visit(running.url, size=size, scheme=scheme)
    visitor.page.get_by_text("What would you like to know?").wait_for()
    visitor.picture(f"chat-empty-{scheme}-{size}")
    visitor.ask("Say something short.")
    visitor.answered()
    visitor.page.get_by_text("A short answer with").wait_for()
    visitor.picture(f"chat-answer-{scheme}-{size}")
    wide = visitor.page.evaluate(
        "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )
    assert not wide, "the page scrolls sideways"


@pytest.mark.parametrize("path", ["/", "/chat"])
def test_a_deep_link_as_the_first_session_of_a_fresh_program(running: Any, visit: Any, path: str) -> None:
    visitor = visit(running.url + path)
    visitor.page.get_by_text("What would you like to know?").wait_for()
    assert visitor.page.get_by_text("Page not found").count() == 0


def below_the_fold(page: Any) -> int:
    """Return how many pixels of the page are below what is seen."""
    hidden: int = page.evaluate(
        "() => {const main = document.getElementById('stMain');"
        " return Math.round(main.scrollHeight - main.clientHeight - main.scrollTop)}"
    )
    return hidden


def at_the_end(page: Any) -> bool:
    """Return whether the page is seen to its end once nothing moves any more."""
    page.wait_for_timeout(2000)
    return below_the_fold(page) < 5


def test_the_chat_follows_every_question_and_lets_its_reader_leave(running: Any, visit: Any) -> None:
    story = "\n\n".join(f"Line {n}." for n in range(40))
    say(running, "groq_llama", story)
    visitor = visit(running.url)
    page = visitor.page
    for question in ("A story?", "Another?"):
        visitor.ask(question)
        page.get_by_test_id("stChatMessage").get_by_text(question).wait_for()
        visitor.answered()
        assert at_the_end(page), question
        # Away from the end, where the next question has to come back to.
        page.mouse.move(700, 400)
        page.mouse.wheel(0, -600)
        page.wait_for_timeout(1000)
        assert below_the_fold(page) > 300
    for tenant in ("groq_llama", "together_llama"):
        running.standin.tenant(tenant).always(Fault(kind="status", status=500))
    visitor.ask("And now?")
    page.get_by_text("No answer").first.wait_for()
    visitor.answered()
    assert at_the_end(page), "a failed answer is not followed"
    running.standin.tenant("groq_llama").reset()
    say(running, "groq_llama", " ".join(f"word{n}" for n in range(2000)), per_token_s=0.005)
    visitor.ask("At length, please.")
    page.get_by_text("word300 ").wait_for()
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(1000)
    assert below_the_fold(page) > 200, "the page takes its reader back to the end"


def test_the_start_page_begins_at_its_top_on_the_smallest_screen(running: Any, visit: Any) -> None:
    visitor = visit(f"{running.url}/healthz", size="phone")
    visitor.page.set_viewport_size({"width": 390, "height": 500})
    visitor.page.goto(running.url)
    title = visitor.page.get_by_text("What would you like to know?")
    title.wait_for()
    visitor.page.wait_for_timeout(1500)
    assert below_the_fold(visitor.page) > 0, "the page has to be longer than the screen"
    assert title.bounding_box()["y"] > 0


def test_the_side_menu_of_a_narrow_screen_closes_behind_a_link(running: Any, visit: Any) -> None:
    visitor = visit(running.url, size="phone")
    visitor.page.get_by_text("What would you like to know?").wait_for()
    visitor.page.get_by_test_id("stExpandSidebarButton").click()
    visitor.page.get_by_test_id("stSidebarNavLink").filter(has_text="Providers").click()
    visitor.page.wait_for_url("**/providers")
    closed = visitor.page.locator("[data-testid=stSidebar][data-collapsed=true]")
    closed.wait_for(state="attached")
