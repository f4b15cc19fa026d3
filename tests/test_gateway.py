"""nginx with the shipped configuration, three real replicas of the API and a real dashboard behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPResponse, IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from gateway import REPLICAS, SHIPPED, Gateway, gateway, require_nginx, state_server
from ports import free_port
from test_api_only import until
from test_main import ROOT, Running, program
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin, Subprotocol

from fallback.config.api import ApiSettings
from fallback.standin import Fault, StandInThread

pytestmark = pytest.mark.program
PROMPT = json.dumps({"prompt": "Hello"})
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}
PASSWORD = "only-for-this-test"
STALL = Fault(kind="stall", after_words=2, seconds=60)


@dataclass(kw_only=True)
class Scene:
    """Everything that runs."""

    folder: Path
    standin: StandInThread
    ports: dict[str, int]
    variables: dict[str, str]
    running: dict[str, Running] = field(default_factory=dict)
    ends: dict[str, ExitStack] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Start a replica, or the dashboard, on its port."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        config = folder / "providers.yaml"
        options = () if name == "dashboard" else ("--api-only",)
        port = self.ports[name]
        self.ends[name] = ExitStack()
        self.running[name] = self.ends[name].enter_context(
            program(
                folder, self.standin, "main.py", "--port", str(port), "--config", str(config), *options,
                port=port, INSTANCE_NAME=name, DASHBOARD_PASSWORD=PASSWORD, **self.variables,
            )
        )  # fmt: skip

    def kill(self, name: str) -> None:
        """End it as a crash does."""
        self.running[name].process.kill()
        self.ends[name].close()

    def start_again(self, name: str, front: Gateway) -> None:
        """Start a replica that was killed, and wait until it gets requests again."""
        log = self.folder / name / "logs" / "usage.log"

        def written() -> int:
            return log.stat().st_size if log.exists() else 0

        self.start(name)
        before = written()
        until(lambda: generate(front)[0] == 200 and written() > before)

    def load(self, name: str) -> int:
        """Return how many requests `name` has under way."""
        connection, reply = self.running[name].request("GET", "/metrics")
        lines = reply.read().decode().splitlines()
        connection.close()
        (line,) = [line for line in lines if line.startswith("fallback_http_requests_in_flight ")]
        return int(float(line.split()[1]))

    def busy(self) -> list[str]:
        """Return the replicas that have a request under way."""
        return [name for name in REPLICAS if self.load(name)]


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        server.tenant("groq_llama", dialect="groq", text="Tokyo is the capital of Japan.")
        server.tenant("together_llama", dialect="together", text="It is Tokyo.")
        yield server


@pytest.fixture(scope="module")
def shared_state() -> Iterator[str]:
    with state_server() as url:
        yield url


@pytest.fixture(scope="module")
def scene(
    standin: StandInThread, shared_state: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    require_nginx()
    made = Scene(
        folder=tmp_path_factory.mktemp("scene"),
        standin=standin,
        ports={name: free_port() for name in (*REPLICAS, "dashboard")},
        variables={"FORWARDED_ALLOW_IPS": "127.0.0.1", "STATE_URL": shared_state},
    )
    try:
        # At once: each takes a second or two until it serves.
        with ThreadPoolExecutor(4) as starters:
            list(starters.map(made.start, made.ports))
        yield made
    finally:
        for end in made.ends.values():
            end.close()


@pytest.fixture(scope="module")
def front(scene: Scene) -> Iterator[Gateway]:
    with gateway([scene.ports[name] for name in REPLICAS], scene.ports["dashboard"]) as running:
        yield running


@pytest.fixture(autouse=True)
def calm(standin: StandInThread) -> None:
    standin.tenant("groq_llama").reset()


def generate(there: Gateway) -> tuple[int, dict[str, Any]]:
    status, content = there.answer("POST", "/api/generate", PROMPT)
    return status, json.loads(content)


def outcome(there: Gateway) -> str:
    """Ask; return `ok`, the error_type, or `cut` where the answer broke off."""
    connection, reply = there.ask("POST", "/api/generate", PROMPT)
    with contextlib.closing(connection), contextlib.closing(reply):
        try:
            told: dict[str, str] = json.loads(reply.read())
        except (IncompleteRead, ConnectionError):
            return "cut"
        return told.get("error_type", "ok")


def test_limits_are_the_programs_own() -> None:
    limits = ApiSettings()
    text = (SHIPPED / "nginx.conf").read_text()
    routing = yaml.safe_load((ROOT / "providers.yaml").read_text())["routing"]
    assert limits.max_body_bytes == 1024 * 1024
    assert "client_max_body_size 1m;" in text
    assert limits.max_header_bytes == 32 * 1024
    assert "large_client_header_buffers 4 32k;" in text
    assert f"client_header_timeout {limits.header_timeout_s:.0f}s;" in text
    assert f"client_body_timeout {limits.body_timeout_s:.0f}s;" in text
    assert f"send_timeout {limits.send_timeout_s:.0f}s;" in text
    assert routing["deadline_s"] < 75
    assert "proxy_read_timeout 75s;" in text
    # Else the program closes a connection just as nginx uses it, and a request is lost.
    assert limits.keep_alive_timeout_s > 30
    assert (SHIPPED / "upstreams.conf").read_text().count("keepalive_timeout 30s;") == 2


def test_requests_are_spread_over_all_replicas(scene: Scene, front: Gateway) -> None:
    with ThreadPoolExecutor(6) as callers:
        answers = list(callers.map(lambda _: generate(front), range(24)))
    assert {status for status, _ in answers} == {200}
    assert {answer["response"] for _, answer in answers} == {"Tokyo is the capital of Japan."}
    for name in REPLICAS:
        assert (scene.running[name].folder / "logs" / "usage.log").exists(), name


def test_every_family_of_paths_finds_its_server(scene: Scene, front: Gateway) -> None:
    for path, status, beginning in (
        ("/healthz", 200, b"{"),
        ("/readyz", 200, b"{"),
        ("/v1/models", 200, b"{"),
        ("/api/openapi.json", 200, b"{"),
        ("/api/nothing", 404, b"{"),
        ("/gateway/healthz", 200, b"ok"),
        ("/metrics", 404, b"<html>"),
    ):
        found, content = front.answer("GET", path)
        assert (found, content[: len(beginning)]) == (status, beginning), path
    connection, reply = front.ask("GET", "/", accept="text/html")
    assert (reply.status, reply.getheader("location", "")[:8]) == (303, "/sign-in")
    connection.close()


def events(reply: HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in reply:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def test_pieces_of_a_stream_come_before_its_end(scene: Scene, front: Gateway) -> None:
    # The provider falls silent after two words: whoever collected the answer would have nothing to show.
    scene.standin.tenant("groq_llama").play(STALL)
    connection, reply = front.ask("POST", "/v1/chat/completions", json.dumps({**CHAT, "stream": True}))
    assert reply.status == 200
    assert reply.getheader("content-type", "").startswith("text/event-stream")
    text = ""
    for event in events(reply):
        text += event["choices"][0]["delta"].get("content") or ""
        if text.strip() == "Tokyo is":
            break
    (name,) = scene.busy()
    # Whoever goes away is gone for the replica too.
    connection.close()
    reply.close()
    until(lambda: not scene.load(name))


def test_whole_stream_ends_with_done(scene: Scene, front: Gateway) -> None:
    status, content = front.answer("POST", "/v1/chat/completions", json.dumps({**CHAT, "stream": True}))
    assert status == 200
    assert content.endswith(b"data: [DONE]\n\n")


def signed_in(front: Gateway) -> str:
    """Sign in at the dashboard as a browser does; return the cookie."""
    own = f"http://127.0.0.1:{front.port}"
    form = urlencode({"password": PASSWORD, "next": "/"})
    connection, reply = front.ask(
        "POST", "/sign-in", form, content_type="application/x-www-form-urlencoded", origin=own
    )
    cookie = reply.getheader("set-cookie", "")
    assert (reply.status, reply.getheader("location")) == (303, "/")
    connection.close()
    return cookie.partition(";")[0]


def test_dashboard_is_reached_through_its_websocket_by_who_signed_in(scene: Scene, front: Gateway) -> None:
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    async def first_words(cookie: str) -> set[str]:
        address = f"ws://127.0.0.1:{front.port}/_stcore/stream"
        origin = f"http://127.0.0.1:{front.port}"
        asked = BackMsg()
        asked.rerun_script.query_string = ""
        kinds: set[str] = set()
        names, more = [Subprotocol("streamlit")], {"cookie": cookie}
        async with connect(
            address, origin=Origin(origin), subprotocols=names, additional_headers=more, max_size=None
        ) as socket:
            await socket.send(asked.SerializeToString())
            while "script_finished" not in kinds:
                told = ForwardMsg()
                told.ParseFromString(await asyncio.wait_for(socket.recv(), 60))
                kinds.add(str(told.WhichOneof("type")))
        return kinds

    assert {"new_session", "delta", "script_finished"} <= asyncio.run(first_words(signed_in(front)))
    with pytest.raises(InvalidStatus):
        asyncio.run(first_words("fallback_session=made-up"))


def test_request_that_offers_a_websocket_keeps_its_body(scene: Scene, front: Gateway) -> None:
    """What were left of it would be the next request on a connection that nginx shares among callers."""
    for size in (0, 600_000):
        body = json.dumps({"prompt": "Hello"}) + "\r\n" * (size // 2)
        status, content = front.answer(
            "POST", "/api/generate", body, connection="upgrade", upgrade="websocket"
        )
        assert (status, json.loads(content)["provider"]) == (200, "groq_llama"), size


def test_body_beyond_the_limit_is_refused_in_the_shape_of_the_api(scene: Scene, front: Gateway) -> None:
    limit = ApiSettings().max_body_bytes
    body = json.dumps({"prompt": "x" * limit})
    for path, error in (("/v1/chat/completions", "body_too_large"), ("/api/generate", "body_too_large")):
        status, content = front.answer("POST", path, body)
        assert status == 413
        told = json.loads(content)
        assert error in {
            told.get("error_type"),
            *(told["error"].values() if "error_type" not in told else ()),
        }
    # What just fits goes to the program.
    empty = json.dumps({**CHAT, "messages": [{"role": "user", "content": ""}]})
    fitting = json.dumps({**CHAT, "messages": [{"role": "user", "content": "x" * (limit - len(empty))}]})
    assert len(fitting) == limit
    status, content = front.answer("POST", "/v1/chat/completions", fitting)
    assert (status, json.loads(content)["object"]) == (200, "chat.completion")


def test_large_headers_pass_up_to_the_programs_limit(scene: Scene, front: Gateway) -> None:
    assert front.answer("GET", "/healthz", x_long="y" * 30_000)[0] == 200
    assert front.answer("GET", "/healthz", x_long="y" * 31_000, x_more="y" * 31_000)[0] in {400, 431}
    assert front.answer("GET", "/healthz", x_long="y" * 40_000)[0] == 400


def test_no_request_is_lost_where_a_replica_is_dead(scene: Scene, front: Gateway) -> None:
    scene.kill("api-2")
    try:
        with ThreadPoolExecutor(4) as callers:
            answers = list(callers.map(lambda _: generate(front), range(40)))
    finally:
        carried_out = scene.standin.tenant("groq_llama").counters.requests
        scene.start_again("api-2", front)
    assert [status for status, _ in answers] == [200] * 40
    assert carried_out == 40


def test_replica_that_dies_in_the_middle_costs_nothing_but_what_it_was_doing(
    scene: Scene, front: Gateway
) -> None:
    tenant = scene.standin.tenant("groq_llama")
    tenant.configure(first_token_s=0.02)
    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(outcome, front) for _ in range(60)]
        until(lambda: tenant.counters.requests >= 20)
        scene.kill("api-3")
        outcomes = [each.result(60) for each in asked]
    carried_out = tenant.counters.requests
    scene.start_again("api-3", front)
    assert set(outcomes) <= {"ok", "no_replica", "cut"}
    assert outcomes.count("ok") >= 60 - 4  # what each caller had there at most
    assert carried_out <= 60


def test_request_that_a_dying_replica_had_is_not_sent_twice_and_says_so(scene: Scene, front: Gateway) -> None:
    scene.standin.tenant("groq_llama").play(Fault(kind="hang", seconds=60))
    with ThreadPoolExecutor(1) as caller:
        asked = caller.submit(generate, front)
        until(lambda: scene.standin.tenant("groq_llama").counters.requests == 1 and len(scene.busy()) == 1)
        (name,) = scene.busy()
        scene.kill(name)
        try:
            status, answer = asked.result(30)
            assert (status, answer["error_type"]) == (502, "no_replica")
            assert generate(front)[0] == 200
            assert scene.standin.tenant("groq_llama").counters.requests == 2
        finally:
            scene.start_again(name, front)


def test_stream_of_a_dying_replica_is_not_presented_as_whole(scene: Scene, front: Gateway) -> None:
    scene.standin.tenant("groq_llama").play(STALL)
    connection, reply = front.ask("POST", "/v1/chat/completions", json.dumps({**CHAT, "stream": True}))
    until(lambda: len(scene.busy()) == 1)
    (name,) = scene.busy()
    scene.kill(name)
    try:
        with pytest.raises(IncompleteRead) as broken:
            reply.read()
        assert b"[DONE]" not in broken.value.partial
    finally:
        reply.close()
        connection.close()
        scene.start_again(name, front)


def test_switch_thrown_at_one_replica_holds_for_all(scene: Scene, front: Gateway) -> None:
    for enabled in (False, True):
        connection, reply = scene.running["api-1"].request(
            "PATCH", "/api/providers/groq_llama", {"enabled": enabled}
        )
        assert reply.status == 200
        connection.close()
        for name in (*REPLICAS, "dashboard"):
            until(lambda there=scene.running[name], wanted=enabled: is_enabled(there) is wanted)  # type: ignore[misc]
        status, answer = generate(front)
        assert (status, answer["provider"]) == (200, "groq_llama" if enabled else "together_llama")


def is_enabled(replica: Running) -> bool:
    connection, reply = replica.request("GET", "/api/providers/groq_llama")
    told: dict[str, Any] = json.loads(reply.read())
    connection.close()
    enabled: bool = told["enabled"]
    return enabled


def test_nobody_there_is_said_in_the_shape_of_the_api() -> None:
    with gateway([free_port() for _ in REPLICAS], free_port()) as alone:
        connection, reply = alone.ask("POST", "/api/generate", PROMPT)
        assert (reply.status, reply.getheader("retry-after")) == (502, "5")
        assert json.loads(reply.read())["error_type"] == "no_replica"
        connection.close()
        status, content = alone.answer("POST", "/v1/chat/completions", json.dumps(CHAT))
        assert (status, json.loads(content)["error"]["code"]) == (502, "no_replica")


class Mirror(BaseHTTPRequestHandler):
    """Answers with the headers that it got."""

    def do_GET(self) -> None:
        content = json.dumps([[name.lower(), value] for name, value in self.headers.items()]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        pass


def test_what_a_caller_says_about_itself_does_not_get_through() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as mirror:
        threading.Thread(target=mirror.serve_forever, daemon=True).start()
        with gateway([mirror.server_port] * 3, mirror.server_port) as front:
            for path in ("/v1/models", "/"):
                status, content = front.answer(
                    "GET", path, host="llm.example.com:8080", x_forwarded_for="6.6.6.6", x_forwarded_proto="https",
                    x_forwarded_host="evil.example", x_real_ip="6.6.6.6", forwarded="for=6.6.6.6", upgrade="h2c",
                    connection="upgrade", authorization="Bearer x",
                )  # fmt: skip
                assert status == 200
                got = json.loads(content)
                assert ["x-forwarded-for", "127.0.0.1"] in got
                assert ["x-forwarded-proto", "http"] in got
                assert ["host", "llm.example.com:8080"] in got
                assert ["authorization", "Bearer x"] in got
                names = [name for name, _ in got]
                assert len(names) == len(set(names))
                assert not {"x-forwarded-host", "x-real-ip", "forwarded", "upgrade", "connection"} & set(
                    names
                )
        mirror.shutdown()
