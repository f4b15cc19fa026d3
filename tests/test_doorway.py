"""The door of the real program: whoever has not signed in gets nothing of the dashboard, and a viewer changes nothing."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cheap_passwords import cheap_hash
from dashboard_socket import dashboard_socket, rerun, widgets_of
from oidc_provider import OidcProvider
from ports import free_port
from raw_browser import RawBrowser, Reply
from streamlit.proto.WidgetStates_pb2 import WidgetState
from test_main import Running, configured, program, refused_start
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from fallback.api.forms import local_target
from fallback.config import load
from fallback.providers.settings import Secret
from fallback.signin import COOKIE, OIDC_COOKIE, Door
from fallback.standin import StandInThread

pytestmark = pytest.mark.program

PASSWORD, VIEWERS = "correct horse", "only looking"
GUARDS = {
    "DASHBOARD_PASSWORD": cheap_hash(PASSWORD).text(),
    "DASHBOARD_VIEWER_PASSWORD": cheap_hash(VIEWERS).text(),
}
PATHS = (
    "/",
    "/chat",
    "/providers",
    "/analytics",
    "/index.html",
    "/_stcore/health",
    "/_stcore/host-config",
    "/_stcore/metrics",
    "/_stcore/stream",
    "/_stcore/upload_file/a/b",
    "/_stcore/bidi-components/x",
    "/_stcore/agent",
    "/media/0123456789abcdef.csv",
    "/component/x/index.html",
    "/app/static/x",
    "/static/js/index.js",
    "/favicon.png",
    "/manifest.json",
    "/auth/login",
    "/auth/logout",
    "/oauth2callback",
    "/sign-in/",
    "/sign-inx",
    "//providers",
    "/healthz/../providers",
    "/%5fstcore/health",
    "/nothing-there",
)


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        server.tenant("groq_llama", dialect="groq", text="Tokyo is the capital.")
        server.tenant("together_llama", dialect="together", text="It is Tokyo.")
        yield server


@pytest.fixture(scope="module")
def guarded(standin: StandInThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with program(tmp_path_factory.mktemp("guarded"), standin, port=None, **GUARDS) as started:
        yield started


class Browser(RawBrowser):
    """One who knows the way in."""

    def sign_in(self, password: str = PASSWORD, **fields: str) -> Reply:
        return self.post("/sign-in", {"password": password, **fields})


@pytest.fixture
def browser(guarded: Running) -> Iterator[Browser]:
    with Browser(guarded.port) as made:
        yield made


@pytest.fixture
def federated_browser(federated: Running) -> Iterator[Browser]:
    with Browser(federated.port) as made:
        yield made


# Without a sign-in


@pytest.mark.parametrize("path", PATHS)
def test_nothing_of_the_dashboard_is_there_for_whoever_has_not_signed_in(browser: Browser, path: str) -> None:
    reply = browser.get(path)
    assert reply.status == 401
    assert reply.json().startswith("You are not signed in")
    assert reply.headers["cache-control"] == "no-store"
    assert browser.send("POST", path, b"x").status == 401
    assert browser.send("DELETE", path).status == 401
    page = browser.page(path)
    assert page.status == 303
    assert re.fullmatch(r"/sign-in(\?next=/[^/].*)?", str(page.location))
    assert page.headers["cache-control"] == "no-store"
    assert (browser.cookies, page.content) == ({}, b"")


@pytest.mark.parametrize(
    "path", ["/api%2F..%2Fproviders", "/api/../providers", "/v1/..%2f_stcore/health", "/v1/", "/api"]
)
def test_a_path_that_begins_like_the_api_leads_to_nothing_of_the_dashboard(
    browser: Browser, path: str
) -> None:
    reply = browser.page(path)
    assert reply.status in {400, 404}
    assert reply.content == b"Bad Request" or "error" in reply.json()


def test_the_websocket_is_refused_before_it_is_accepted(guarded: Running) -> None:
    for cookies in (
        "",
        f"{COOKIE}=",
        f"{COOKIE}=operator.9999999999.aaaaaaaaaaaaaaaaaaaaaa.x",
        f"{OIDC_COOKIE}=x",
    ):
        with pytest.raises(InvalidStatus) as caught, dashboard_socket(guarded.port, cookies):
            pass
        assert caught.value.response.status_code == 403


def test_the_api_and_its_health_need_no_sign_in_and_the_cookie_opens_nothing_there(browser: Browser) -> None:
    assert browser.get("/healthz").json() == {"status": "ok"}
    assert browser.get("/api/providers").status == 200
    assert browser.get("/v1/models").status == 200


def test_the_sign_in_page_needs_nothing_else_and_may_not_be_kept_or_framed(browser: Browser) -> None:
    page = browser.get("/sign-in?next=/providers")
    assert page.status == 200
    assert page.headers["cache-control"] == "no-store"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src" not in policy
    assert 'value="/providers"' in page.text
    assert not re.search(r'(?:src|href)="(?!data:)', page.text)
    assert "<script" not in page.text
    assert '<label for="password">' in page.text


def test_the_sign_in_page_shows_nothing_of_a_foreign_target(browser: Browser) -> None:
    page = browser.get('/sign-in?next="><script>alert(1)</script>')
    assert "script" not in page.text
    assert 'value="/"' in page.text


# In and out


def read_to_the_end(socket: ClientConnection) -> None:
    while True:
        socket.recv(timeout=20)


def test_a_password_opens_everything_until_it_is_signed_out(browser: Browser, guarded: Running) -> None:
    reply = browser.sign_in(next="/providers?x=1")
    assert (reply.status, reply.location) == (303, "/providers?x=1")
    cookie = reply.headers["set-cookie"]
    for part in ("HttpOnly", "SameSite=lax", "Path=/", "Max-Age=43200"):
        assert part in cookie
    assert "Secure" not in cookie
    assert browser.page("/providers").status == 200
    assert browser.page("/").headers["cache-control"] == "no-store"
    assert browser.get("/_stcore/health").text == "ok"
    assert browser.get("/sign-in?next=/chat").location == "/chat"
    assert browser.get("/sign-out").location == "/"
    assert browser.get("/_stcore/health").status == 200
    assert browser.get("/auth/logout").status == 404
    with dashboard_socket(guarded.port, browser.cookie_header) as socket:
        kept = browser.cookie_header
        left = browser.post("/sign-out", Origin="null")
        assert (left.status, left.location) == (303, "/sign-in")
        assert "Max-Age=0" in left.headers["set-cookie"]
        with pytest.raises(ConnectionClosed) as caught:
            read_to_the_end(socket)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1008
    assert browser.get("/_stcore/health").status == 401
    assert browser.get("/_stcore/health", {"Cookie": kept}).status == 401
    with pytest.raises(InvalidStatus), dashboard_socket(guarded.port, kept):
        pass


def test_a_sign_out_ends_no_other_session(browser: Browser, guarded: Running) -> None:
    browser.sign_in()
    with Browser(guarded.port) as other:
        other.sign_in(VIEWERS)
        other.post("/sign-out")
        assert other.get("/_stcore/health").status == 401
    assert browser.get("/_stcore/health").status == 200


def test_over_https_the_cookie_is_for_https_alone_where_the_proxy_is_trusted(browser: Browser) -> None:
    browser.headers["X-Forwarded-Proto"] = "https"
    assert "Secure" in browser.sign_in().headers["set-cookie"]


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "https://evil.example/",
        "http:evil.example",
        "javascript:alert(1)",
        "evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "/x\r\nSet-Cookie: a=b",
        " /providers",
        "/sign-out",
        "/sign-in",
        "/auth/logout",
        "/oauth2callback?x",
        "/ä",
        "",
        "/" + "x" * 5000,
    ],
)
def test_a_sign_in_leads_nowhere_else(target: str) -> None:
    assert local_target(target) == "/"


@pytest.mark.parametrize("target", ["/", "/providers", "/analytics?since=7d&provider=a%20b", "/chat?c=1#x"])
def test_a_sign_in_leads_to_where_one_wanted_to_go(target: str) -> None:
    assert local_target(target) == target


def test_a_redirect_of_the_real_program_stays_there(browser: Browser) -> None:
    reply = browser.sign_in(next="//evil.example")
    assert reply.location == "/"
    # And for whoever is signed in already.
    assert browser.get("/sign-in?next=//evil.example").location == "/"
    assert browser.page("//evil.example/x").status in {200, 400, 404}


# What does not open it


def test_a_wrong_password_is_told_so_and_sets_no_cookie(browser: Browser) -> None:
    reply = browser.sign_in("wrong <b>")
    assert reply.status == 401
    assert 'role="alert">That is not the password.</p>' in reply.text
    assert "set-cookie" not in reply.headers
    assert "wrong" not in reply.text


def test_forged_expired_and_changed_cookies_are_refused(browser: Browser, guarded: Running) -> None:
    settings = load(guarded.folder / "providers.yaml", environ=GUARDS)
    good = Door(settings.dashboard, settings.session_secret, wall=time.time).sign_in(VIEWERS)
    late = Door(settings.dashboard, settings.session_secret, wall=lambda: time.time() - 43_201).sign_in(
        VIEWERS
    )
    other = Door(settings.dashboard, Secret("not the program's"), wall=time.time).sign_in(VIEWERS)
    assert good
    assert late
    assert other

    def status(cookie: str) -> int:
        return browser.get("/_stcore/health", {"Cookie": f"{COOKIE}={cookie}"}).status

    # What is made with the program's own secret is good, or the rest would show nothing.
    assert status(good) == 200
    assert status(late) == 401
    assert status(other) == 401
    assert status(good.replace("viewer", "operator")) == 401
    assert status(re.sub(r"\.\d+\.", ".9999999999.", good)) == 401
    assert status(good[:-2]) == 401
    assert status(good.rpartition(".")[0]) == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:9"},
    ],
)
def test_a_form_of_another_site_signs_nobody_in_or_out(browser: Browser, headers: dict[str, str]) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    reply = browser.send("POST", "/sign-in", f"password={PASSWORD}".replace(" ", "+").encode(), form)
    assert reply.status == 403
    assert "set-cookie" not in reply.headers
    browser.sign_in()
    if headers != {"Origin": "null"}:  # the dashboard's own pages hide where they are
        assert browser.send("POST", "/sign-out", b"", form).status == 403
    assert browser.get("/_stcore/health").status == 200


def test_a_body_that_is_no_small_form_is_refused(browser: Browser) -> None:
    assert browser.send("POST", "/sign-in", b"{}", {"Content-Type": "application/json"}).status == 415
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert browser.send("POST", "/sign-in", b"password=" + b"x" * 9000, form).status == 413
    assert browser.send("POST", "/sign-in", b"password=%ff\xff", form).status == 400
    assert browser.send("POST", "/sign-in", b"&".join([b"a=b"] * 20), form).status == 400
    assert browser.send("POST", "/sign-in", b"", form).status == 401
    assert browser.send("PUT", "/sign-in", b"x").status == 405


def test_an_address_that_tries_too_often_has_to_wait_and_is_told_how_long(
    browser: Browser, guarded: Running
) -> None:
    replies = [browser.sign_in(f"wrong {number}") for number in range(6)]
    assert [reply.status for reply in replies] == [401] * 5 + [429]
    wait_s = int(replies[-1].headers["retry-after"])
    assert 0 < wait_s <= 30
    assert f"Too many attempts: try again in {wait_s} s." in replies[-1].text
    # The right one too, or whoever guesses would only have to go on.
    assert browser.sign_in().status == 429
    with Browser(guarded.port) as other:
        assert other.sign_in().status == 303
    figures = browser.get("/metrics").text
    counted = {
        reason: float(number)
        for reason, number in re.findall(
            r'^fallback_http_refused_total\{reason="(\w+)"\} (\S+)$', figures, re.MULTILINE
        )
    }
    assert counted["wrong_password"] >= 5
    assert counted["too_many_attempts"] >= 2


# Viewers and operators


def provider(guarded: Running, name: str) -> dict[str, Any]:
    connection, reply = guarded.request("GET", f"/api/providers/{name}")
    found: dict[str, Any] = json.loads(reply.read())
    connection.close()
    return found


def flip(guarded: Running, browser: Browser) -> bool:
    """Throw the switch of groq_llama by the event of a click; return whether it was drawn as one that can be thrown."""
    with dashboard_socket(guarded.port, browser.cookie_header) as socket:
        rerun(socket, "providers")
        shown = widgets_of(socket, "providers_on_groq_llama")["providers_on_groq_llama"]
        event = WidgetState(id=shown.id, bool_value=not shown.default)
        rerun(socket, "providers", event)
        # The next run has ended, and with it the callback.
        widgets_of(socket, "providers_on_together_llama")
        return not shown.disabled


def test_a_viewer_throws_no_switch_by_a_forged_event_and_an_operator_does(
    browser: Browser, guarded: Running
) -> None:
    browser.sign_in(VIEWERS)
    assert flip(guarded, browser) is False
    assert provider(guarded, "groq_llama")["enabled"] is True
    browser.post("/sign-out")
    browser.sign_in()
    assert flip(guarded, browser) is True
    assert provider(guarded, "groq_llama")["enabled"] is False
    assert flip(guarded, browser) is True
    log = (guarded.folder / "logs" / "usage.log").read_text()
    changes = [line for line in map(json.loads, log.splitlines()) if line["kind"] == "state"]
    assert [(line["to"], line["by"]) for line in changes if line["to"] in {"on", "off"}] == [
        ("off", "dashboard"),
        ("on", "dashboard"),
    ]


# The start


def test_no_password_is_told_anywhere_and_that_the_api_is_open_is(guarded: Running) -> None:
    told = guarded.output() + "".join(path.read_text() for path in (guarded.folder / "logs").glob("*.log"))
    assert "The dashboard asks who is there, and the HTTP API asks nobody: set API_KEYS as well." in told
    assert PASSWORD not in told
    assert VIEWERS not in told


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "others could use your providers: set API_KEYS and DASHBOARD_PASSWORD in .env"),
        ({"DASHBOARD_PASSWORD": PASSWORD}, "others could use your providers: set API_KEYS in .env"),
        (
            {"API_KEYS": "the-key-of-a-caller-1"},
            "others could use the dashboard: set DASHBOARD_PASSWORD in .env",
        ),
    ],
)
def test_listening_beyond_this_machine_needs_both_guards(
    standin: StandInThread, tmp_path: Path, variables: dict[str, str], expected: str
) -> None:
    config = str(configured(tmp_path, standin))
    status, told = refused_start("--host", "0.0.0.0", "--port", "0", "--config", config, **variables)  # noqa: S104
    assert status == 2
    assert told.startswith(f"on 0.0.0.0 {expected}")
    assert told.endswith("or say --insecure to let them\n")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ("0.0.0.0", "on 0.0.0.0 others could use your providers: set API_KEYS and DASHBOARD_PASSWORD"),  # noqa: S104
        ("192.168.1.5", "on 192.168.1.5 others could use your providers"),
        ("everywhere", "--published: expected an address such as 127.0.0.1, got 'everywhere'"),
    ],
)
def test_where_a_container_is_published_decides_and_not_what_it_listens_on(
    standin: StandInThread, tmp_path: Path, published: str, expected: str
) -> None:
    config = str(configured(tmp_path, standin))
    status, told = refused_start("--published", published, "--port", "0", "--config", config)
    assert status == 2
    assert told.startswith(expected)


# An OpenID provider


@pytest.fixture(scope="module")
def openid() -> Iterator[OidcProvider]:
    with OidcProvider() as running:
        yield running


@pytest.fixture(scope="module")
def federated(
    standin: StandInThread, openid: OidcProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    folder, port = tmp_path_factory.mktemp("federated"), free_port()
    (folder / ".streamlit").mkdir()
    (folder / ".streamlit" / "secrets.toml").write_text(openid.secrets_toml(f"http://127.0.0.1:{port}"))
    people = {"DASHBOARD_OPERATORS": "alice@example.com", "DASHBOARD_VIEWERS": "@example.com"}
    with program(folder, standin, port=port, **people) as started:
        yield started


def through(browser: Browser, email: str, target: str = "/providers") -> Reply:
    """Sign in as `email` at the provider, up to the answer that brings one back into the dashboard."""
    away = browser.get(f"/sign-in/with/default?next={target}")
    assert away.status == 302, away.text
    back = browser.get(f"{away.headers['location']}&email={email}")
    assert back.status == 302
    return browser.get(str(back.location).removeprefix(browser.origin))


def test_an_operator_comes_in_by_the_provider_and_leaves_by_it(
    federated_browser: Browser, openid: OidcProvider, federated: Running
) -> None:
    browser = federated_browser
    page = browser.get("/sign-in?next=/providers")
    assert 'href="/sign-in/with/default?next=/providers"' in page.text
    assert 'type="password"' not in page.text
    back = through(browser, "alice@example.com")
    assert (back.status, back.location) == (302, "/providers")
    assert browser.page("/providers").status == 200
    with dashboard_socket(federated.port, browser.cookie_header):
        pass
    kept = browser.cookie_header
    left = browser.post("/sign-out")
    assert left.status == 200
    assert f'content="0; url={openid.url}/end?' in left.text
    assert browser.get("/_stcore/health").status == 401
    assert browser.get("/_stcore/health", {"Cookie": kept}).status == 401


def test_over_https_streamlits_cookie_is_for_https_alone_too(federated_browser: Browser) -> None:
    for scheme, is_secure in (("http", False), ("https", True)):
        federated_browser.headers["X-Forwarded-Proto"] = scheme
        back = through(federated_browser, "alice@example.com")
        (cookie,) = (
            each for each in back.headers.get_all("set-cookie", ()) if each.startswith(f"{OIDC_COOKIE}=")
        )
        assert ("; Secure" in cookie) is is_secure
        assert "HttpOnly" in cookie
        federated_browser.cookies.clear()


def test_somebody_on_no_list_is_told_so_and_gets_nothing(
    federated_browser: Browser, federated: Running
) -> None:
    browser = federated_browser
    assert through(browser, "eve@evil.example").location == "/providers"
    page = browser.page("/providers")
    assert page.status == 403
    assert "You are signed in as eve@evil.example" in page.text
    assert browser.get("/_stcore/health").status == 403
    with pytest.raises(InvalidStatus), dashboard_socket(federated.port, browser.cookie_header):
        pass
    assert browser.post("/sign-out").status == 200
    assert browser.page("/providers").status == 303


def test_an_address_that_was_not_verified_is_nobodys(
    federated_browser: Browser, openid: OidcProvider
) -> None:
    openid.verified = False
    try:
        through(federated_browser, "alice@example.com")
    finally:
        openid.verified = True
    page = federated_browser.page("/providers")
    assert (page.status, "without a verified e-mail address" in page.text) == (403, True)


def test_a_sign_in_that_the_provider_refuses_is_told(federated_browser: Browser) -> None:
    back = through(federated_browser, "")
    assert back.location == "/sign-in?failed=1"
    assert "The sign-in did not succeed. Try again." in federated_browser.get("/sign-in?failed=1").text


def test_an_answer_of_the_provider_that_nobody_asked_for_signs_nobody_in(federated_browser: Browser) -> None:
    browser = federated_browser
    state = secrets.token_urlsafe(16)
    reply = browser.get(f"/oauth2callback?code=x&state={state}")
    assert reply.location == "/sign-in?failed=1"
    assert browser.get("/_stcore/health").status == 401


def test_an_answer_of_the_provider_with_too_much_in_it_is_a_failure_too(federated_browser: Browser) -> None:
    reply = federated_browser.get("/oauth2callback?code=x" + "&x=y" * 60)
    assert (reply.status, reply.location) == (302, "/sign-in?failed=1")


def test_streamlits_own_ways_in_and_out_are_shut(federated_browser: Browser) -> None:
    browser = federated_browser
    assert browser.get("/auth/login?provider=x").status == 401
    through(browser, "bob@example.com")
    for path in ("/auth/login", "/auth/logout"):
        assert browser.get(path).status == 404
    assert browser.get("/_stcore/health").status == 200
    assert browser.get("/sign-in/with/other").status == 404


def test_where_one_wanted_to_go_is_a_path_of_this_program_also_after_the_provider(
    federated_browser: Browser,
) -> None:
    assert through(federated_browser, "bob@example.com", "//evil.example").location == "/"
