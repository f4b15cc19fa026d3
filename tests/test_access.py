"""Who may use the program: networks, names and keys."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fallback.api import Program
from fallback.api.access import Access, is_local
from fallback.api.errors import Refusal
from fallback.api.server import application
from fallback.config import ApiKey, load
from fallback.standin import StandInThread

ALICE, BOB = "the-key-of-alice-1234", "the-key-of-bob-123456"
CONFIG = """
providers:
  - name: groq_llama
    type: groq
    endpoint: {base}/groq_llama/openai/v1/chat/completions
    model: model-a
"""


def key(name: str, value: str) -> ApiKey:
    return ApiKey(name=name, digest=hashlib.sha256(value.encode()).digest())


GUARDED = Access(keys=(key("alice", ALICE), key("bob", BOB)))


def refusal_of(call: Any, *arguments: Any) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        call(*arguments)
    return caught.value.status, caught.value.error_type


class TestKeys:
    def test_without_keys_nobody_needs_one(self) -> None:
        assert Access().key_name([]) is None
        assert Access().key_name([b"Bearer whatever"]) is None

    @pytest.mark.parametrize(
        ("header", "name"),
        [
            (f"Bearer {ALICE}", "alice"),
            (f"bearer {BOB}", "bob"),
            (f"BEARER   {BOB} ", "bob"),
        ],
    )
    def test_a_key_is_known_by_its_name(self, header: str, name: str) -> None:
        assert GUARDED.key_name([header.encode()]) == name

    @pytest.mark.parametrize(
        "headers",
        [
            [b"Bearer nobody's key, and long"],
            [b"Bearer "],
            [b"Bearer"],
            [b""],
            [b"Basic " + ALICE.encode()],
            [ALICE.encode()],
            [b"Bearer " + ALICE.encode()[:-1]],
            [b"Bearer " + ALICE.upper().encode()],
            [b"Bearer \xff\xfe"],
            [b"Bearer " + ALICE.encode(), b"Bearer " + ALICE.encode()],
            [b"Bearer " + hashlib.sha256(ALICE.encode()).hexdigest().encode()],
        ],
    )
    def test_anything_else_is_refused(self, headers: list[bytes]) -> None:
        assert refusal_of(GUARDED.key_name, headers) == (401, "wrong_api_key")

    def test_no_key_at_all_is_told_how_to_send_one(self) -> None:
        with pytest.raises(Refusal, match="Authorization: Bearer") as caught:
            GUARDED.key_name([])
        assert caught.value.error_type == "no_api_key"
        assert caught.value.headers["www-authenticate"].startswith("Bearer realm=")


class TestNetwork:
    @pytest.mark.parametrize(
        ("address", "local"),
        [
            ("127.0.0.1", True),
            ("127.8.8.8", True),
            ("::1", True),
            ("::ffff:127.0.0.1", True),
            ("/run/fallback.sock", True),
            ("testserver", True),
            ("192.168.1.5", False),
            ("::ffff:192.168.1.5", False),
            ("fe80::1%eth0", False),
        ],
    )
    def test_only_loopback_is_local(self, address: str, local: bool) -> None:
        assert is_local(address) is local

    def test_another_machine_needs_keys_or_the_word_that_it_is_meant(self) -> None:
        assert refusal_of(Access().check_network, "192.168.1.5") == (403, "not_local")
        Access().check_network("127.0.0.1")
        Access().check_network(None)
        Access(insecure=True).check_network("192.168.1.5")
        GUARDED.check_network("192.168.1.5")


class TestNames:
    @pytest.mark.parametrize(
        "host",
        [
            "localhost",
            "localhost:5000",
            "LOCALHOST:5000",
            "localhost.",
            "app.localhost:80",
            "127.0.0.1:5000",
            "192.168.1.5",
            "[::1]:5000",
            "[fe80::1]",
            "llm.example.com",
            "LLM.Example.com:443",
            "llm.example.com.",
            "a.b.example.org",
        ],
    )
    def test_addresses_localhost_and_the_names_of_the_program_pass(self, host: str) -> None:
        Access(hosts=("llm.example.com", "*.example.org")).check_host([host.encode()], "127.0.0.1")

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "evil.example:5000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "notlocalhost",
            "example.org",
            "x-llm.example.com",
            "",
            ":5000",
            "localhost:http",
            "localhost:5000@evil.example",
            "[::1",
            "[::1]x",
            "l\u00f6calhost",
        ],
    )
    def test_every_other_name_is_somebody_elses(self, host: str) -> None:
        access = Access(hosts=("llm.example.com", "*.example.org"))
        assert refusal_of(access.check_host, [host.encode()], "127.0.0.1") == (421, "wrong_host")

    def test_a_star_lets_every_name_pass_and_nothing_that_is_none(self) -> None:
        Access(hosts=("*",)).check_host([b"evil.example"], None)
        assert refusal_of(Access(hosts=("*",)).check_host, [b"\xff"], None) == (421, "wrong_host")

    @pytest.mark.parametrize("hosts", [[], [b"localhost", b"localhost"], [b"localhost", b"evil.example"]])
    def test_host_has_to_be_there_once(self, hosts: list[bytes]) -> None:
        assert refusal_of(Access().check_host, hosts, None) == (400, "wrong_host")


# Over HTTP


@pytest.fixture
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        server.tenant("groq_llama", dialect="groq", text="Tokyo is the capital.")
        yield server


@pytest.fixture
def folder(standin: StandInThread, tmp_path: Path) -> Path:
    (tmp_path / "providers.yaml").write_text(CONFIG.format(base=standin.base_url))
    lines = [
        f"{name}:{hashlib.sha256(value.encode()).hexdigest()}"
        for name, value in (("alice", ALICE), ("bob", BOB))
    ]
    (tmp_path / "keys.txt").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    """A program with keys."""
    (folder / ".env").write_text("API_KEYS=keys.txt\nALLOWED_HOSTS=llm.example.com\n")
    with TestClient(application(Program(folder / "providers.yaml"))) as made:
        yield made


def bearer(value: str) -> dict[str, str]:
    return {"authorization": f"Bearer {value}"}


def test_the_name_of_the_key_and_never_the_key_goes_into_the_log(client: TestClient, folder: Path) -> None:
    reply = client.post("/api/generate", json={"prompt": "Hello"}, headers=bearer(BOB))
    assert reply.status_code == 200
    text = (folder / "logs" / "usage.log").read_text()
    named = [json.loads(line).get("api_key_name") for line in text.splitlines()]
    assert named == [None, "bob"]
    assert BOB not in text + reply.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/generate"),
        ("GET", "/api/providers"),
        ("PATCH", "/api/providers/groq_llama"),
        ("POST", "/api/providers/groq_llama/test"),
        ("GET", "/api/nothing"),
        ("GET", "/api"),
        ("OPTIONS", "/api/generate"),
        ("GET", "/%61pi/providers"),
    ],
)
@pytest.mark.parametrize("headers", [{}, bearer("not-one-of-the-keys")])
def test_everything_under_api_asks_for_a_key(
    client: TestClient, standin: StandInThread, method: str, path: str, headers: dict[str, str]
) -> None:
    reply = client.request(method, path, headers=headers)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"].startswith("Bearer ")
    assert set(reply.json()) == {"error", "error_type", "request_id", "activity_log"}
    assert reply.json()["request_id"] == reply.headers["x-request-id"]
    assert standin.tenant("groq_llama").counters.requests == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1", "/v1/embeddings"])
def test_everything_under_v1_asks_for_a_key_in_openais_words(client: TestClient, path: str) -> None:
    reply = client.get(path, headers=bearer("not-one-of-the-keys"))
    assert reply.status_code == 401
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")


def test_metrics_ask_for_a_key_and_health_does_not(client: TestClient) -> None:
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers=bearer(ALICE)).status_code == 200
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.get("/readyz", headers=bearer(ALICE)).json()["providers"][0]["name"] == "groq_llama"


@pytest.mark.parametrize("path", ["/metrics%0A", "/api%0A", "/v1%0A", "/api/%0Aproviders", "/healthz%0A"])
def test_a_line_end_in_a_path_leads_past_no_question(client: TestClient, path: str) -> None:
    reply = client.get(path)
    assert reply.status_code == 404
    assert "line end" in reply.text


def test_another_name_in_host_is_refused_on_every_path_but_health(client: TestClient) -> None:
    evil = {**bearer(ALICE), "host": "evil.example"}
    for path in ("/api/providers", "/v1/models", "/metrics", "/"):
        reply = client.get(path, headers=evil)
        assert reply.status_code == 421, path
        assert "ALLOWED_HOSTS" in reply.text
    assert client.get("/healthz", headers=evil).status_code == 200
    assert client.get("/readyz", headers=evil).json() == {"status": "ready"}
    good = client.get("/api/providers", headers={**bearer(ALICE), "host": "llm.example.com"})
    assert good.status_code == 200


def test_without_keys_another_machine_is_not_served(folder: Path) -> None:
    program = Program(folder / "providers.yaml")
    app = application(program)
    with TestClient(app, base_url="http://192.0.2.7") as others:
        for path in ("/api/providers", "/healthz", "/metrics", "/"):
            reply = others.get(path)
            assert reply.status_code == 403, path
            assert "API_KEYS" in reply.text


@pytest.mark.parametrize(
    ("signs_in", "keys", "served"),
    [
        (None, False, set()),
        (None, True, {"api", "v1", "probe", "page"}),
        (False, False, set()),
        (False, True, {"api", "v1", "probe"}),
        (True, False, {"page", "probe"}),
        (True, True, {"api", "v1", "probe", "page"}),
    ],
)
def test_another_machine_is_served_what_asks_who_is_there(
    signs_in: bool | None, keys: bool, served: set[str]
) -> None:
    access = Access(keys=[key("alice", ALICE)] if keys else [], signs_in=signs_in)
    found = set()
    for family in ("api", "v1", "probe", "page"):
        access.check_network("127.0.0.1", family)
        with contextlib.suppress(Refusal):
            access.check_network("192.168.1.5", family)
            found.add(family)
    assert found == served


def test_a_sign_in_at_the_dashboard_opens_no_figures_to_another_machine(folder: Path) -> None:
    (folder / ".env").write_text("DASHBOARD_PASSWORD=correct horse\n")
    program = Program(folder / "providers.yaml")
    app = Starlette(
        routes=program.routes(), middleware=program.dashboard_middleware(), lifespan=program.lifespan
    )
    with TestClient(app, base_url="http://192.0.2.7") as others:
        assert others.get("/metrics").status_code == 403
        assert others.get("/readyz").json() == {"status": "ready"}
        assert others.get("/healthz").status_code == 200
    with TestClient(app, base_url="http://127.0.0.1") as own:
        assert own.get("/metrics").status_code == 200
        assert "providers" in own.get("/readyz").json()


def test_insecure_serves_another_machine_without_keys(folder: Path) -> None:
    program = Program(folder / "providers.yaml")
    program.configure(load(folder / "providers.yaml"), started=lambda _: None, insecure=True)
    with TestClient(application(program), base_url="http://192.0.2.7") as others:
        assert others.get("/api/providers").status_code == 200


def test_a_browser_that_is_refused_gets_a_sentence(client: TestClient) -> None:
    reply = client.get("/", headers={"host": "evil.example"})
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.text.startswith("this program has another name")
