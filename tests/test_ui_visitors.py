"""The pages for operators, viewers, and those whose sign-in is over, driven as a browser would drive them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from cheap_passwords import cheap_hash
from itsdangerous import URLSafeTimedSerializer
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Button

from fallback.config import load
from fallback.router import ModelRouter, set_router
from fallback.signin import COOKIE, OIDC_COOKIE
from fallback.standin import StandInThread
from fallback.ui.providers import controls, drill_menu
from fallback.ui.providers.controls import trials
from fallback.ui.visitors import NOT_FOR_VIEWERS
from fallback.wiring import assemble

FRAME = str(Path(__file__).resolve().parents[1] / "fallback/ui/frame.py")
BOUND_S = 20.0
PASSWORD, LOOKING = "correct horse", "only looking"
PASSWORDS = {
    "DASHBOARD_PASSWORD": cheap_hash(PASSWORD).text(),
    "DASHBOARD_VIEWER_PASSWORD": cheap_hash(LOOKING).text(),
}
LISTS = {"DASHBOARD_OPERATORS": "alice@example.com", "DASHBOARD_VIEWERS": "@example.com"}
SECRET, ORIGIN = "a secret for these tests", "http://localhost"
SECRETS_TOML = f"""
[auth]
redirect_uri = "{ORIGIN}/oauth2callback"
cookie_secret = "{SECRET}"
client_id = "x"
client_secret = "y"
server_metadata_url = "http://localhost/openid"
"""


@pytest.fixture
def cookies(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Give the cookies of the browser, to be filled; AppTest knows of none."""
    found: dict[str, str] = {}
    context = SimpleNamespace(cookies=found, headers=[], remote_ip=None)
    monkeypatch.setattr("streamlit.runtime.context._get_client_context", lambda: context)
    return found


Start = Callable[..., ModelRouter]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    routers: list[ModelRouter] = []
    with StandInThread() as standin:
        endpoint = standin.tenant("groq_llama", dialect="groq", text="Tokyo.").url

        def begin(environ: Mapping[str, str], *, openid: bool = False) -> ModelRouter:
            file = tmp_path / "providers.yaml"
            entry = f"name: groq_llama, type: groq, endpoint: '{endpoint}', model: small"
            other = f"name: second, type: groq, endpoint: '{endpoint}', model: large"
            file.write_text(f"providers: [{{{entry}}}, {{{other}}}]\n")
            if openid:
                (tmp_path / ".streamlit").mkdir()
                (tmp_path / ".streamlit" / "secrets.toml").write_text(SECRETS_TOML)
            router = ModelRouter(
                assemble(load(file, environ={"GROQ_API_KEY": "test-key-not-real", **environ}))
            )
            routers.append(router)
            set_router(router)
            return router

        trials.clear()
        yield begin
        set_router(None)
        for router in routers:
            assert trials().wait("groq_llama", BOUND_S)
            router.close()
            router.wiring.close()


def signed_in(router: ModelRouter, password: str) -> str:
    text = router.wiring.door.sign_in(password)
    assert text is not None
    return text


def of_provider(email: str) -> str:
    """Return the cookie that Streamlit sets for somebody."""
    claims = {"email": email, "is_logged_in": True, "origin": ORIGIN}
    return str(URLSafeTimedSerializer(SECRET, salt=OIDC_COOKIE).dumps(json.dumps(claims)))


def opened(page: AppTest | None = None) -> AppTest:
    page = AppTest.from_file(FRAME, default_timeout=BOUND_S) if page is None else page
    page.switch_page("../../pages/providers.py").run()
    assert not page.exception
    return page


def buttons(page: AppTest) -> dict[str, Button]:
    return {str(button.key): button for button in page.button}


def changes(router: ModelRouter) -> list[tuple[str, str]]:
    file = router.wiring.settings.log.folder / "usage.log"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [(line["to"], line["by"]) for line in lines if line["kind"] == "state"]


def shown(page: AppTest) -> str:
    return "\n".join(str(element.value) for element in (*page.markdown, *page.caption, *page.warning))


def test_without_a_password_everything_is_as_it_was(start: Start, cookies: dict[str, str]) -> None:
    start({})
    page = opened()
    assert NOT_FOR_VIEWERS not in shown(page)
    assert not buttons(page)["providers_test_groq_llama"].disabled
    assert "Sign out" not in "".join(str(element) for element in page.get("html"))


def test_an_operator_finds_every_control_and_the_way_out(start: Start, cookies: dict[str, str]) -> None:
    router = start(PASSWORDS)
    cookies[COOKIE] = signed_in(router, PASSWORD)
    page = opened()
    assert not buttons(page)["providers_test_groq_llama"].disabled
    assert not any(toggle.disabled for toggle in page.toggle)
    page.toggle[0].set_value(False).run()
    assert changes(router) == [("off", "dashboard")]
    html = "".join(str(element.proto.body) for element in page.get("html"))
    assert "<form class='account' method='post' action='/sign-out'>" in html
    assert "Operator" in html


def test_a_viewer_finds_every_control_greyed_out_with_a_word_of_why(
    start: Start, cookies: dict[str, str]
) -> None:
    router = start(PASSWORDS)
    router.switchboard.set_drill("groq_llama", {"kind": "overloaded"}, by="test")
    cookies[COOKIE] = signed_in(router, LOOKING)
    page = opened()
    assert NOT_FOR_VIEWERS in shown(page)
    found = buttons(page)
    for key in ("providers_test_groq_llama", "providers_end_drill_groq_llama", "providers_end_drills"):
        assert (found[key].disabled, found[key].help) == (True, NOT_FOR_VIEWERS)
    assert [(toggle.disabled, toggle.help) for toggle in page.toggle] == [(True, NOT_FOR_VIEWERS)] * 2
    # Looking is not forbidden.
    assert "groq" in shown(page)


ACTS: Mapping[str, Callable[[ModelRouter], object]] = {
    "switch": lambda router: controls._switch(router, "groq_llama", 0),
    "trial": lambda router: controls.start_trial(router, "groq_llama"),
    "cooldown": lambda router: controls.end_cooldown(router, "groq_llama"),
    "drill": lambda router: controls.end_drill(router, "groq_llama"),
    "drills": controls._end_drills,
    "preset": lambda router: controls._start_preset(router, "Groq outage"),
    "order": lambda router: controls._set_order(router, ["second", "groq_llama"]),
    "start": lambda router: drill_menu._start(router, "groq_llama"),
}
"""What each control calls, without the control: an event that somebody sends by hand reaches these too."""


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("whose", ["viewer", "nobody", "over"])
def test_what_a_control_calls_does_nothing_for_those_who_may_not(
    start: Start, cookies: dict[str, str], act: str, whose: str
) -> None:
    router = start(PASSWORDS)
    router.switchboard.set_drill("groq_llama", {"kind": "off"}, by="test")
    if whose != "nobody":
        cookies[COOKIE] = signed_in(router, LOOKING if whose == "viewer" else PASSWORD)
    if whose == "over":
        someone = router.wiring.door.visitor(cookies)
        assert someone is not None
        router.wiring.door.sign_out(someone)
    before = changes(router)
    ACTS[act](router)
    assert changes(router) == before == [("drill", "test")]
    assert trials().latest("groq_llama") is None
    assert router.status()[0].name == "groq_llama"
    assert set(router.switchboard.drills()) == {"groq_llama"}


def test_for_an_operator_the_same_calls_do_something(start: Start, cookies: dict[str, str]) -> None:
    router = start(PASSWORDS)
    cookies[COOKIE] = signed_in(router, PASSWORD)
    for act in ("preset", "drills", "order"):
        ACTS[act](router)
    found = changes(router)
    assert {to for to, _ in found} >= {"drill", "no_drill"}
    assert {by for _, by in found} == {"dashboard"}
    assert router.context.roster.providers == ("second", "groq_llama")


def test_a_page_whose_sign_in_is_over_shows_nothing_and_the_way_in(
    start: Start, cookies: dict[str, str]
) -> None:
    router = start(PASSWORDS)
    cookies[COOKIE] = signed_in(router, PASSWORD)
    page = opened()
    assert page.title
    someone = router.wiring.door.visitor(cookies)
    assert someone is not None
    router.wiring.door.sign_out(someone)
    page.run()
    assert [warning.value for warning in page.warning] == ["Your sign-in is over."]
    assert not page.title
    assert not page.button


@pytest.mark.parametrize(
    ("email", "by"), [("alice@example.com", "dashboard (alice@example.com)"), ("bob@example.com", None)]
)
def test_whom_a_provider_signed_in_is_named_in_the_log(
    start: Start, cookies: dict[str, str], email: str, by: str | None
) -> None:
    router = start(LISTS, openid=True)
    cookies[OIDC_COOKIE] = of_provider(email)
    page = AppTest.from_file(FRAME, default_timeout=BOUND_S)
    page.user = {"is_logged_in": True, "email": email}
    opened(page)
    html = "".join(str(element.proto.body) for element in page.get("html"))
    assert email in html
    assert page.toggle[0].disabled is (by is None)
    if by is not None:
        page.toggle[0].set_value(False).run()
    assert changes(router) == ([("off", by)] if by else [])


def test_a_cookie_that_streamlit_itself_does_not_accept_opens_no_page(
    start: Start, cookies: dict[str, str]
) -> None:
    start(LISTS, openid=True)
    cookies[OIDC_COOKIE] = of_provider("alice@example.com")
    page = AppTest.from_file(FRAME, default_timeout=BOUND_S)
    page.user = {"is_logged_in": False}
    opened(page)
    assert not page.title
    assert [warning.value for warning in page.warning] == ["Your sign-in is over."]
