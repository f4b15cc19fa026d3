"""The routes under /api/providers: what the dashboard does, for scripts."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fallback.api import Program
from fallback.config import load
from fallback.drills import PRESETS, DrillKind
from fallback.router import ModelRouter, get_router, set_router
from fallback.standin import Fault, StandInThread

JSON = {"content-type": "application/json"}
DOCS = Path(__file__).parents[1] / "docs" / "http.md"
CONFIG = """
providers:
  - name: groq_llama
    type: groq
    endpoint: {base}/groq_llama/openai/v1/chat/completions
    model: model-a
    fallback_models: [model-a2]
  - name: together_llama
    type: together
    endpoint: {base}/together_llama/v1/chat/completions
    model: model-b
  - name: keyless
    endpoint: https://keyless.invalid/v1/chat/completions
    model: model-c
routing:
  retries: 0
"""


@pytest.fixture
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        server.tenant("groq_llama", dialect="groq", text="Tokyo is the capital.")
        server.tenant("together_llama", dialect="together", text="It is Tokyo.")
        yield server


@pytest.fixture
def config(standin: StandInThread, tmp_path: Path) -> Path:
    file = tmp_path / "providers.yaml"
    file.write_text(CONFIG.format(base=standin.base_url))
    return file


def application(program: Program) -> Starlette:
    return Starlette(routes=program.routes(), middleware=program.middleware(), lifespan=program.lifespan)


@pytest.fixture
def client(config: Path) -> Iterator[TestClient]:
    with TestClient(application(Program(config))) as client:
        yield client


def patch(client: TestClient, path: str = "", **body: Any) -> Any:
    return client.patch(f"/api/providers{path}", json=body)


def ask(client: TestClient, **body: Any) -> Any:
    return client.post("/api/generate", json={"prompt": "What is the capital of Japan?", **body})


def one(client: TestClient, name: str = "groq_llama") -> Any:
    return client.get(f"/api/providers/{name}").json()


# To see


def test_every_provider_is_listed_with_all_that_is_known_of_it(client: TestClient) -> None:
    reply = client.get("/api/providers")
    assert (reply.status_code, reply.headers["cache-control"]) == (200, "no-store")
    listed = reply.json()
    assert {name: listed[name] for name in listed if name != "providers"} == {
        "order": ["groq_llama", "together_llama", "keyless"],
        "order_is_default": True,
        "warning": None,
        "demo": False,
    }
    assert listed["providers"][0] == {
        "name": "groq_llama",
        "state": "ready",
        "model": "model-a",
        "text": "ready",
        "until_s": None,
        "type": "groq",
        "models": ["model-a", "model-a2"],
        "retired": [],
        "reason": None,
        "enabled": True,
        "degraded": False,
        "configured": True,
        "headroom": None,
        "drill": None,
    }
    assert [each["configured"] for each in listed["providers"]] == [True, True, False]
    assert listed["providers"] == [one(client, name) for name in listed["order"]]


def test_what_is_true_of_a_provider_shows(client: TestClient, standin: StandInThread) -> None:
    standin.tenant("groq_llama").configure(retired_models=("model-a",))
    standin.tenant("together_llama").always(Fault(kind="status", status=429, retry_after="30"))
    ask(client)
    ask(client, model="together_llama")
    groq = one(client)
    assert (groq["state"], groq["model"], groq["retired"]) == ("ready", "model-a2", ["model-a"])
    together = one(client, "together_llama")
    assert (together["state"], together["reason"]) == ("cooling_down", "rate_limited")
    assert 25 < together["until_s"] <= 33


def test_what_a_provider_says_is_left_of_its_rate_limit_shows(client: TestClient) -> None:
    ask(client)
    headroom = one(client)["headroom"]
    assert 0 <= headroom["age_s"] < 5
    assert 0 < headroom["remaining_requests"] <= headroom["limit_requests"]


def test_head_and_options_are_answered(client: TestClient) -> None:
    assert client.head("/api/providers").status_code == 200
    assert client.options("/api/providers").headers["allow"] == "GET, PATCH, HEAD, OPTIONS"
    assert client.options("/api/providers/x/test").headers["allow"] == "POST, OPTIONS"
    assert client.put("/api/providers/groq_llama", json={}).status_code == 405
    assert client.get("/api/providers/groq_llama/nothing").status_code == 404


# To switch


def test_a_provider_switched_off_gets_no_request_and_one_switched_on_does(
    client: TestClient, standin: StandInThread
) -> None:
    reply = patch(client, "/groq_llama", enabled=False)
    assert (reply.status_code, reply.json()["state"], reply.json()["enabled"]) == (200, "off", False)
    assert ask(client).json()["provider"] == "together_llama"
    assert standin.tenant("groq_llama").counters.requests == 0
    assert patch(client, "/groq_llama", enabled=True).json() == one(client)
    assert ask(client).json()["provider"] == "groq_llama"


def test_switching_the_last_one_off_is_503_with_a_sentence_that_says_so(client: TestClient) -> None:
    for name in ("groq_llama", "together_llama", "keyless"):
        patch(client, f"/{name}", enabled=False)
    reply = ask(client)
    assert reply.status_code == 503
    assert reply.json()["error"] == "every provider is switched off; switch one on"


def test_a_change_is_told_in_the_usage_log_as_the_apis(client: TestClient, config: Path) -> None:
    patch(client, "/groq_llama", enabled=False)
    lines = [json.loads(line) for line in (config.parent / "logs/usage.log").read_text().splitlines()]
    assert [(line["kind"], line["provider"], line["to"], line["by"]) for line in lines] == [
        ("state", "groq_llama", "off", "api")
    ]


def test_a_change_is_there_after_a_restart(config: Path) -> None:
    with TestClient(application(Program(config))) as client:
        patch(client, "/groq_llama", enabled=False)
    with TestClient(application(Program(config))) as client:
        assert one(client)["state"] == "off"


# To drill


def test_a_drill_strikes_until_it_is_ended(client: TestClient, standin: StandInThread) -> None:
    reply = patch(client, "/groq_llama", drill={"kind": "rate_limited", "value": 20, "for_s": 60, "seed": 1})
    drill = reply.json()["drill"]
    assert 55 < drill.pop("left_s") <= 60
    assert drill == {
        "kind": "rate_limited",
        "value": 20.0,
        "probability": 1.0,
        "seed": 1,
        "text": "Rate limited (429), Retry-After 20 s",
        "by": "api",
    }
    assert ask(client).json()["provider"] == "together_llama"
    assert one(client)["state"] == "cooling_down"
    assert patch(client, "/groq_llama", drill=None).json()["drill"] is None
    assert one(client)["state"] == "ready"
    assert ask(client).json()["provider"] == "groq_llama"


def test_a_drill_without_an_end_has_no_time_left_to_show(client: TestClient) -> None:
    assert (
        patch(client, "/groq_llama", drill={"kind": "off", "for_s": None}).json()["drill"]["left_s"] is None
    )


def test_a_provider_without_a_key_can_be_drilled(client: TestClient) -> None:
    drilled = patch(client, "/keyless", drill={"kind": "malformed_event"}).json()
    assert (drilled["state"], drilled["configured"]) == ("ready", False)
    assert ask(client, model="keyless").json()["provider"] == "keyless"


def test_a_preset_starts_and_null_ends_every_drill(client: TestClient) -> None:
    listed = patch(client, preset="All clouds down").json()
    assert [each["drill"]["kind"] for each in listed["providers"]] == ["refused"] * 3
    assert ask(client).status_code == 503
    listed = patch(client, preset=None).json()
    assert [each["drill"] for each in listed["providers"]] == [None] * 3
    assert ask(client).status_code == 200


# To order, to end a cooldown, to test


def test_the_order_is_changed_and_set_back(client: TestClient) -> None:
    listed = patch(client, order=["together_llama", "keyless", "groq_llama"]).json()
    assert (listed["order"], listed["order_is_default"]) == (
        ["together_llama", "keyless", "groq_llama"],
        False,
    )
    assert [each["name"] for each in listed["providers"]] == listed["order"]
    assert ask(client).json()["provider"] == "together_llama"
    assert patch(client, order=None).json()["order_is_default"] is True


def test_a_cooldown_is_ended(client: TestClient, standin: StandInThread) -> None:
    groq = standin.tenant("groq_llama")
    groq.play(Fault(kind="status", status=401))
    ask(client)
    assert one(client)["state"] == "disabled"
    assert patch(client, "/groq_llama", end_cooldown=True).json()["state"] == "ready"
    assert ask(client).json()["provider"] == "groq_llama"


def test_a_test_asks_this_provider_alone_and_makes_it_ready(
    client: TestClient, standin: StandInThread
) -> None:
    together = standin.tenant("together_llama")
    together.play(Fault(kind="status", status=429, retry_after="600"))
    ask(client, model="together_llama")
    assert one(client, "together_llama")["state"] == "cooling_down"
    before = standin.tenant("groq_llama").counters.requests
    reply = client.post("/api/providers/together_llama/test", headers=JSON)
    assert reply.status_code == 200
    tested = reply.json()
    assert set(tested) == {"answer", "provider"}
    assert (tested["answer"]["response"], tested["provider"]["state"]) == ("It is Tokyo.", "ready")
    assert together.last_requests[-1].body["max_tokens"] == 16
    assert standin.tenant("groq_llama").counters.requests == before


def test_a_test_that_fails_is_an_error_with_its_account(client: TestClient, standin: StandInThread) -> None:
    standin.tenant("groq_llama").always(Fault(kind="status", status=503))
    reply = client.post("/api/providers/groq_llama/test", json={})
    assert (reply.status_code, reply.json()["error_type"]) == (503, "providers_failed")
    assert "Error with groq_llama: overloaded (HTTP 503)" in reply.json()["activity_log"]
    assert standin.tenant("together_llama").counters.requests == 0


def test_a_test_of_one_that_is_off_or_has_no_key_says_so(client: TestClient) -> None:
    patch(client, "/groq_llama", enabled=False)
    for name, why in (("groq_llama", "switched off"), ("keyless", "no key: set KEYLESS_API_KEY")):
        reply = client.post(f"/api/providers/{name}/test", headers=JSON)
        assert (reply.status_code, reply.json()["error_type"]) == (503, "providers_failed")
        assert reply.json()["error"].startswith(why)
        assert "together_llama" not in reply.json()["error"]


def test_a_test_that_asks_nobody_is_no_request_in_the_log_and_one_that_asks_is(
    client: TestClient, standin: StandInThread, tmp_path: Path
) -> None:
    standin.tenant("groq_llama").always(Fault(kind="status", status=503))
    client.post("/api/providers/keyless/test", headers=JSON)
    client.post("/api/providers/groq_llama/test", headers=JSON)
    lines = [json.loads(line) for line in (tmp_path / "logs/usage.log").read_text().splitlines()]
    told = [(line["source"], line["outcome"]) for line in lines if line["kind"] == "request"]
    assert told == [("test", "error")]


def test_a_test_under_way_holds_nobody_up(client: TestClient, standin: StandInThread) -> None:
    groq = standin.tenant("groq_llama")
    groq.always(Fault(kind="hang", seconds=3))
    thread = threading.Thread(
        target=client.post, args=("/api/providers/groq_llama/test",), kwargs={"json": {}}
    )
    thread.start()
    assert groq.wait_for(lambda counters: counters.in_flight == 1, 5)
    began = time.monotonic()
    assert client.get("/api/providers").status_code == 200
    assert time.monotonic() - began < 1.5
    patch(client, "/groq_llama", end_cooldown=True)
    groq.always(None)
    thread.join(15)
    assert not thread.is_alive()


# Mistakes: nothing is changed by them

MISTAKES: dict[str, tuple[str, Any, str]] = {
    "nothing": ("/groq_llama", {}, "nothing to change: give enabled, drill or end_cooldown"),
    "nothing for all": ("", {}, "nothing to change: give order or preset"),
    "unknown key": ("/groq_llama", {"enable": False}, "'enable'; did you mean \"enabled\"?"),
    "quite unknown key": ("/groq_llama", {"x": 1}, "'x'; known are enabled, drill, end_cooldown"),
    "key of the other path": ("/groq_llama", {"order": None}, "unknown key 'order'"),
    "key of one provider": ("", {"enabled": False}, "unknown key 'enabled'; known are order, preset"),
    "text for a switch": ("/groq_llama", {"enabled": "false"}, "enabled must be true or false"),
    "number for a switch": ("/groq_llama", {"enabled": 0}, "enabled must be true or false"),
    "null for a switch": ("/groq_llama", {"enabled": None}, "enabled must be true or false"),
    "cooldown not ended": ("/groq_llama", {"end_cooldown": False}, "end_cooldown must be true"),
    "unknown drill": ("/groq_llama", {"drill": {"kind": "flood"}}, "drill: kind: no drill 'flood'"),
    "drill without kind": ("/groq_llama", {"drill": {}}, "drill: kind: is missing"),
    "drill as a text": ("/groq_llama", {"drill": "off"}, "drill: expected an object"),
    "drill too strong": (
        "/groq_llama", {"drill": {"kind": "rate_limited", "value": 1e9}}, "drill: value: expected a number",
    ),
    "good switch, bad drill": ("/groq_llama", {"enabled": False, "drill": {"kind": "x"}}, "drill: kind"),
    "good drill, bad end": (
        "/groq_llama", {"drill": {"kind": "off"}, "end_cooldown": 1}, "end_cooldown must be true",
    ),
    "order as a text": ("", {"order": "groq_llama"}, "order must be a list of all providers"),
    "order of numbers": ("", {"order": [1, 2, 3]}, "order must be a list of all providers"),
    "order of some": ("", {"order": ["groq_llama"]}, "order must name every provider once: groq_llama,"),
    "order with one twice": ("", {"order": ["groq_llama"] * 3}, "order must name every provider once"),
    "unknown preset": ("", {"preset": "Flood"}, "preset: no preset 'Flood'; there are Groq outage"),
    "preset of a wrong type": ("", {"preset": 1}, "preset must be the name of one"),
    "good order, bad preset": (
        "", {"order": ["keyless", "together_llama", "groq_llama"], "preset": "x"}, "preset: no preset",
    ),
    "list": ("/groq_llama", [], "the body must be a JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_400_with_a_sentence_and_changes_nothing(client: TestClient, case: str) -> None:
    path, body, sentence = MISTAKES[case]
    before = client.get("/api/providers").json()
    reply = client.patch(f"/api/providers{path}", json=body)
    assert reply.status_code == 400
    assert sentence in reply.json()["error"]
    assert set(reply.json()) == {"error", "error_type", "request_id", "activity_log"}
    assert client.get("/api/providers").json() == before


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("PATCH", ""), ("POST", "/test")], ids=["show", "change", "test"]
)
@pytest.mark.parametrize("name", ["groq", "gr%C3%B6q%20", "__proto__"])
def test_an_unknown_provider_is_404_and_the_known_ones_are_named(
    client: TestClient, method: str, path: str, name: str
) -> None:
    content = b'{"enabled": false}' if method != "GET" else None
    reply = client.request(method, f"/api/providers/{name}{path}", content=content, headers=JSON)
    assert (reply.status_code, reply.json()["error_type"]) == (404, "unknown_provider")
    assert "there are groq_llama, together_llama, keyless" in reply.json()["error"]


def test_a_test_takes_no_settings(client: TestClient, standin: StandInThread) -> None:
    reply = client.post("/api/providers/groq_llama/test", json={"prompt": "Hello"})
    assert reply.status_code == 400
    assert "unknown key 'prompt'" in reply.json()["error"]
    assert standin.tenant("groq_llama").counters.requests == 0


@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain"}])
@pytest.mark.parametrize(
    ("method", "path"),
    [("PATCH", ""), ("PATCH", "/groq_llama"), ("POST", "/groq_llama/test")],
)
def test_a_page_of_another_origin_can_change_nothing(
    client: TestClient, standin: StandInThread, method: str, path: str, headers: dict[str, str]
) -> None:
    content = b"" if path.endswith("test") else b'{"enabled": false}'
    reply = client.request(method, f"/api/providers{path}", content=content, headers=headers)
    assert (reply.status_code, reply.json()["error_type"]) == (415, "unsupported_media_type")
    assert one(client)["enabled"] is True
    assert standin.tenant("groq_llama").counters.requests == 0


# The demo's mark, and the documentation


def test_simulated_providers_are_marked_on_every_answer(config: Path) -> None:
    settings = replace(load(config), banner="Demo: simulated providers")
    with ModelRouter(settings) as router:
        set_router(router)
        try:
            with TestClient(application(Program("does-not-exist.yaml"))) as client:
                for path in ("/api/providers", "/healthz", "/outside"):
                    assert client.get(path).headers["x-fallback-demo"] == "1"
                assert client.get("/api/providers").json()["demo"] is True
        finally:
            set_router(None)


def test_real_providers_are_not_marked(client: TestClient) -> None:
    assert "x-fallback-demo" not in client.get("/api/providers").headers
    assert get_router().wiring.settings.banner is None


def test_the_end_of_the_program_is_told_before_its_router_is_closed(config: Path) -> None:
    program = Program(config)
    told: list[str] = []

    def ending() -> None:
        told.append(get_router().invoke("Hello").text)

    program.configure(load(config), started=lambda _: None, ending=ending)
    with TestClient(application(program)):
        assert told == []
    assert told == ["Tokyo is the capital."]


def test_the_documentation_names_every_field_and_route(client: TestClient) -> None:
    text = DOCS.read_text()
    rows = set(re.findall(r"^\| `([^`]+)`", text, re.MULTILINE))
    headings = set(re.findall(r"^#+ `?([^`\n]+)`?$", text, re.MULTILINE))
    drilled = patch(client, "/groq_llama", drill={"kind": "off"}).json()
    listed = client.get("/api/providers").json()
    tested = client.post("/api/providers/together_llama/test", json={}).json()
    patch(client, "/groq_llama", drill=None)
    ask(client)
    rows |= set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`, `\w+`) \|", text, re.MULTILINE))))
    assert set(one(client)["headroom"]) - rows == set()
    fields = set(listed) | set(drilled) | set(drilled["drill"]) | set(tested)
    fields |= {"enabled", "drill", "end_cooldown", "order", "preset", "x-fallback-demo"}
    assert fields - rows == set()
    assert {
        "GET /api/providers",
        "PATCH /api/providers",
        "GET /api/providers/{name}",
        "PATCH /api/providers/{name}",
        "POST /api/providers/{name}/test",
    } <= headings
    assert "unknown_provider" in text


def test_the_examples_of_the_documentation_are_taken(client: TestClient) -> None:
    examples = re.findall(
        r"curl -X PATCH http://localhost:5000(\S+).*?-d '(.+?)'", DOCS.read_text(), re.DOTALL
    )
    assert len(examples) == 2
    for path, body in examples:
        assert client.patch(path, content=body.encode(), headers=JSON).status_code == 200


@pytest.mark.parametrize("kind", DrillKind)
def test_every_kind_of_drill_can_be_set(client: TestClient, kind: DrillKind) -> None:
    assert patch(client, "/groq_llama", drill={"kind": kind.value}).json()["drill"]["kind"] == kind


@pytest.mark.parametrize("title", PRESETS)
def test_every_preset_can_be_set(client: TestClient, title: str) -> None:
    assert patch(client, preset=title).status_code == 200
