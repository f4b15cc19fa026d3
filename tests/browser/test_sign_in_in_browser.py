"""Signing in and out in a real browser: by a password, by an OpenID provider, as an operator and as a viewer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from cheap_passwords import cheap_hash
from oidc_provider import OidcProvider

pytestmark = [pytest.mark.browser, pytest.mark.program]

PASSWORD, LOOKING = "correct horse", "only looking"
WHY = "You are signed in as a viewer: only operators change providers and test them."


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, start: Any) -> Any:
    guards = {
        "DASHBOARD_PASSWORD": cheap_hash(PASSWORD).text(),
        "DASHBOARD_VIEWER_PASSWORD": cheap_hash(LOOKING).text(),
    }
    return start(tmp_path_factory.mktemp("guarded"), **guards)


@pytest.fixture(scope="module")
def openid() -> Iterator[OidcProvider]:
    with OidcProvider() as running:
        yield running


@pytest.fixture(scope="module")
def federated(tmp_path_factory: pytest.TempPathFactory, start: Any, openid: OidcProvider) -> Any:
    folder = tmp_path_factory.mktemp("federated")
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    (folder / ".streamlit").mkdir()
    (folder / ".streamlit" / "secrets.toml").write_text(openid.secrets_toml(f"http://127.0.0.1:{port}"))
    people = {"DASHBOARD_OPERATORS": "alice@example.com", "DASHBOARD_VIEWERS": "@example.com"}
    return start(folder, port=port, **people)


def card(page: Any, name: str) -> Any:
    return page.locator(f".st-key-providers_card_{name}")


def forget_the_end(visitor: Any) -> None:
    """Forget what a page says that was left by a sign-out: that its WebSocket is gone, that it has something to send
    all the same (it looks for changes every second), and that nobody answers any more."""
    expected = ("signed out", "WebSocket", "status of 401", "/_stcore/", "when disconnected from server")
    visitor.troubles[:] = [
        trouble for trouble in visitor.troubles if not any(word in trouble for word in expected)
    ]


def wide(page: Any) -> bool:
    found: bool = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    return found


@pytest.mark.parametrize("size", ["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_viewer_signs_in_by_keyboard_and_sees_what_is_not_for_viewers(
    guarded: Any, visit: Any, size: str, scheme: str
) -> None:
    visitor = visit(f"{guarded.url}/providers", size=size, scheme=scheme)
    page = visitor.page
    page.get_by_role("heading", name="Sign in").wait_for()
    assert page.title() == "Sign in · LLM Fallback"
    visitor.picture(f"sign-in-{scheme}-{size}")
    assert not wide(page)
    # The field has the focus as the page opens.
    page.keyboard.type(LOOKING)
    page.keyboard.press("Enter")
    card(page, "groq_llama").get_by_text("Ready").wait_for()
    assert page.url == f"{guarded.url}/providers"
    page.get_by_text(WHY).wait_for()
    page.get_by_role("button", name="Sign out").wait_for()
    for name in ("Test now", "Drill"):
        assert card(page, "groq_llama").get_by_role("button", name=name).first.is_disabled()
    for name in ("Simulate an outage", "End all drills", "Order"):
        assert page.get_by_role("button", name=name).is_disabled()
    assert card(page, "groq_llama").locator("[data-testid=stCheckbox] input").is_disabled()
    visitor.picture(f"viewer-{scheme}-{size}")
    assert not wide(page)
    # Nothing of the page lies under what stands in its top bar.
    assert page.get_by_role("button", name="Sign out").bounding_box()["x"] > 0
    page.goto(guarded.url)
    visitor.ask("Hello?")
    visitor.answered()


def test_a_wrong_password_is_told_and_read_out(guarded: Any, visit: Any) -> None:
    visitor = visit(guarded.url)
    visitor.page.get_by_label("Password").fill("not this one")
    visitor.page.get_by_role("button", name="Sign in").click()
    visitor.page.get_by_role("alert").get_by_text("That is not the password.").wait_for()
    assert visitor.page.get_by_label("Password").get_attribute("aria-describedby") == "problem"
    visitor.picture("sign-in-wrong")
    # That the form was answered with 401 stands in the console, and nothing else does.
    assert [trouble for trouble in visitor.troubles if "401" not in trouble] == []
    visitor.troubles.clear()


def test_a_sign_in_holds_in_every_tab_and_a_sign_out_ends_it_there(guarded: Any, visit: Any) -> None:
    visitor = visit(f"{guarded.url}/providers")
    visitor.page.get_by_label("Password").fill(PASSWORD)
    visitor.page.get_by_role("button", name="Sign in").click()
    card(visitor.page, "groq_llama").get_by_text("Ready").wait_for()
    visitor.page.reload()
    card(visitor.page, "groq_llama").get_by_text("Ready").wait_for()
    assert card(visitor.page, "groq_llama").get_by_role("button", name="Test now").is_enabled()
    other = visitor.context.new_page()
    other.goto(f"{guarded.url}/analytics")
    other.get_by_role("button", name="Sign out").wait_for()
    visitor.page.get_by_role("button", name="Sign out").click()
    visitor.page.get_by_role("heading", name="Sign in").wait_for()
    other.get_by_text("You are not signed in, or not any more").wait_for()
    other.reload()
    other.get_by_role("heading", name="Sign in").wait_for()
    assert other.url == f"{guarded.url}/sign-in?next=/analytics"
    forget_the_end(visitor)


def test_an_operator_comes_in_through_a_provider_and_leaves_through_it(
    federated: Any, openid: OidcProvider, visit: Any
) -> None:
    visitor = visit(f"{federated.url}/providers", size="phone", scheme="dark")
    page = visitor.page
    page.get_by_role("link", name="Sign in with single sign-on").wait_for()
    visitor.picture("sign-in-openid")
    page.get_by_role("link", name="Sign in with single sign-on").click()
    page.get_by_label("E-mail").fill("alice@example.com")
    page.get_by_role("button", name="Continue").click()
    card(page, "together_llama").get_by_text("Ready").wait_for()
    assert page.url == f"{federated.url}/providers"
    page.set_viewport_size({"width": 1400, "height": 900})
    page.get_by_text("alice@example.com").wait_for()
    card(page, "together_llama").locator("[data-testid=stCheckbox] label").click()
    page.locator(".st-key-providers_feed").get_by_text("dashboard (alice@example.com)").first.wait_for()
    visitor.picture("operator-openid")
    card(page, "together_llama").locator("[data-testid=stCheckbox] label").click()
    card(page, "together_llama").get_by_text("Ready").wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{federated.url}/sign-in")
    assert openid.ended[-1]["post_logout_redirect_uri"] == f"{federated.url}/oauth2callback"
    page.goto(f"{federated.url}/providers")
    page.get_by_role("link", name="Sign in with single sign-on").wait_for()
    forget_the_end(visitor)


def test_somebody_on_no_list_is_told_so(federated: Any, visit: Any) -> None:
    visitor = visit(federated.url)
    page = visitor.page
    page.get_by_role("link", name="Sign in with single sign-on").click()
    page.get_by_label("E-mail").fill("eve@evil.example")
    page.get_by_role("button", name="Continue").click()
    page.get_by_text("You are signed in as eve@evil.example").wait_for()
    visitor.picture("sign-in-stranger")
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("link", name="Sign in with single sign-on").wait_for()
    visitor.troubles[:] = [trouble for trouble in visitor.troubles if "403" not in trouble]
