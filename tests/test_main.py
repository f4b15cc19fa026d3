"""The real program as a process, a stand-in provider behind it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from ports import free_port

from fallback.standin import Fault, StandInThread

pytestmark = pytest.mark.program

ROOT = Path(__file__).parents[1]
KEY = "test-key-not-real"
START_WITHIN_S = 40.0
CONFIG = """
providers:
  - name: groq_llama
    type: groq
    endpoint: {base}/groq_llama/openai/v1/chat/completions
    api_key_env: TEST_GROQ_KEY
    model: model-a
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


@dataclass(kw_only=True)
class Running:
    """The program while it serves."""

    process: subprocess.Popen[str]
    port: int
    folder: Path

    def request(self, method: str, path: str, body: Any = None) -> tuple[HTTPConnection, HTTPResponse]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=15)
        raw = None if body is None else json.dumps(body)
        connection.request(method, path, raw, {"content-type": "application/json"})
        return connection, connection.getresponse()

    def generate(self, **body: Any) -> dict[str, Any]:
        connection, reply = self.request("POST", "/api/generate", {"prompt": "Hello", **body})
        answer: dict[str, Any] = json.loads(reply.read())
        connection.close()
        return answer

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal; return exit status and seconds."""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(15), time.monotonic() - began

    def output(self) -> str:
        return self.folder.joinpath("stdout").read_text() + self.folder.joinpath("stderr").read_text()


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which nothing of this machine's settings counts."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SYSTEMROOT") if name in os.environ}
    return {**kept, "PYTHONWARNINGS": "error::ResourceWarning", **more}


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        server.tenant("groq_llama", dialect="groq", text="Tokyo is the capital.")
        server.tenant("together_llama", dialect="together", text="It is Tokyo.")
        yield server


def configured(folder: Path, standin: StandInThread) -> Path:
    file = folder / "providers.yaml"
    file.write_text(CONFIG.format(base=standin.base_url))
    (folder / ".env").write_text(f"TEST_GROQ_KEY={KEY}\nSESSION_SECRET=only-for-a-test\n")
    return file


@contextmanager
def program(
    folder: Path, standin: StandInThread, *command: str, port: int | None = None, **variables: str
) -> Iterator[Running]:
    config = configured(folder, standin)
    port = port or free_port()
    line = command or ("main.py", "--port", str(port), "--config", str(config))
    with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, *line], cwd=ROOT, env=environment(HOME=str(folder), **variables),
            stdin=subprocess.DEVNULL, stdout=out, stderr=err, text=True,
        )  # fmt: skip
        running = Running(process=process, port=port, folder=folder)
        try:
            wait_until_it_serves(running)
            yield running
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(10)


def wait_until_it_serves(running: Running) -> None:
    until = time.monotonic() + START_WITHIN_S
    while time.monotonic() < until and running.process.poll() is None:
        try:
            connection, reply = running.request("GET", "/healthz")
        except OSError:
            time.sleep(0.05)
            continue
        reply.read()
        connection.close()
        return
    raise AssertionError(f"it did not come up:\n{running.output()}")


@pytest.fixture(scope="module")
def running(standin: StandInThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with program(tmp_path_factory.mktemp("running"), standin) as started:
        yield started


@pytest.fixture
def fresh(standin: StandInThread, tmp_path: Path) -> Iterator[Running]:
    """A program of one's own, to be ended by the test."""
    for name in ("groq_llama", "together_llama"):
        standin.tenant(name).reset()
    with program(tmp_path, standin) as started:
        yield started


def refused_start(*options: str, **variables: str) -> tuple[int, str]:
    """Start what must not come up; return exit status and stderr."""
    ended = subprocess.run(
        [sys.executable, "main.py", *options], cwd=ROOT, env=environment(**variables),
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert ended.stdout == ""
    return ended.returncode, ended.stderr


def test_start_tells_the_address_and_the_state_of_every_provider(running: Running) -> None:
    assert running.folder.joinpath("stdout").read_text().splitlines() == [
        f"LLM Fallback System on http://localhost:{running.port}",
        "  groq_llama: ready",
        "  together_llama: ready",
        "  keyless: not configured: no key: set KEYLESS_API_KEY in .env",
    ]
    assert running.folder.joinpath("stderr").read_text() == ""


def test_dashboard_and_api_share_the_port(running: Running) -> None:
    connection, page = running.request("GET", "/")
    assert page.getheader("content-type", "").startswith("text/html")
    assert "frame-ancestors 'self'" in page.getheader("content-security-policy", "")
    page.read()
    connection.request("GET", "/v1/models")
    reply = connection.getresponse()
    assert (reply.status, json.loads(reply.read())["object"]) == (200, "list")
    connection.request("GET", "/v1/nothing")
    reply = connection.getresponse()
    assert (reply.status, json.loads(reply.read())["error"]["code"]) == (404, "unknown_url")
    connection.request("GET", "/readyz")
    assert json.loads(connection.getresponse().read())["status"] == "ready"
    connection.close()


@pytest.mark.parametrize("more", [{}, {"connection": "close"}])
def test_no_answer_of_the_api_is_compressed_by_the_dashboards_server(
    running: Running, more: dict[str, str]
) -> None:
    connection = HTTPConnection("127.0.0.1", running.port, timeout=15)
    connection.request("GET", "/api/openapi.json", headers={"accept-encoding": "gzip", **more})
    reply = connection.getresponse()
    assert "content-encoding" not in reply.headers
    assert json.loads(reply.read())["openapi"]
    connection.close()
    connection = HTTPConnection("127.0.0.1", running.port, timeout=15)
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]})
    headers = {"accept-encoding": "gzip", "content-type": "application/json", **more}
    connection.request("POST", "/v1/chat/completions", body, headers)
    reply = connection.getresponse()
    assert "content-encoding" not in reply.headers
    answer = reply.read()
    assert len(answer) > 500  # which Streamlit would compress
    assert json.loads(answer)["choices"]
    connection.close()


def test_failover_is_told_in_the_activity_log_and_the_key_nowhere(
    running: Running, standin: StandInThread
) -> None:
    standin.tenant("groq_llama").reset()
    assert running.generate()["response"] == "Tokyo is the capital."
    standin.tenant("groq_llama").always(Fault(kind="echo_key"))
    answer = running.generate()
    assert answer["provider"] == "together_llama"
    assert "Error with groq_llama: authentication (HTTP 401)" in answer["activity_log"]
    assert "Invoking together_llama as fallback..." in answer["activity_log"]
    seen = standin.tenant("groq_llama").last_requests[-1]
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    connection, reply = running.request("GET", "/readyz")
    logs = "".join(file.read_bytes().decode("latin-1") for file in (running.folder / "logs").iterdir())
    assert '"authentication"' in logs
    assert KEY not in json.dumps(answer) + reply.read().decode() + logs + running.output()
    connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_in_the_middle_of_a_stream_ends_it_with_a_word_and_status_0(
    fresh: Running, standin: StandInThread, number: signal.Signals
) -> None:
    groq = standin.tenant("groq_llama")
    groq.always(Fault(kind="stall", after_words=2, seconds=60))
    connection, reply = fresh.request("POST", "/api/generate", {"prompt": "Hello", "stream": True})
    while not reply.readline().startswith(b"event: delta"):
        pass
    status, took_s = fresh.end(number)
    assert status == 0
    assert took_s < 5
    assert b'"error_type":"shutting_down"' in reply.read()
    connection.close()
    assert groq.wait_for(lambda counters: counters.in_flight == 0, 3)
    assert "Traceback" not in fresh.output()
    assert fresh.folder.joinpath("stderr").read_text() == ""


def test_caller_who_reads_nothing_does_not_hold_the_exit(fresh: Running, standin: StandInThread) -> None:
    # More than all the buffers in between take, so that the program cannot write on.
    standin.tenant("groq_llama").configure(text=" ".join(["x" * 5000] * 1500))
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", fresh.port))
        body = b'{"prompt": "Hello", "stream": true}'
        deaf.sendall(
            b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert deaf.recv(100).startswith(b"HTTP/1.1 200")
        status, took_s = fresh.end()
    assert status == 0
    assert took_s < 10
    assert "Traceback" not in fresh.output()


def test_streamlit_run_serves_the_same_program(standin: StandInThread, tmp_path: Path) -> None:
    port = free_port()
    config = str(tmp_path / "providers.yaml")
    line = ("-m", "streamlit", "run", "streamlit_app.py", "--server.port", str(port))
    with program(tmp_path, standin, *line, port=port, FALLBACK_CONFIG=config) as running:
        assert running.generate(model="together_llama")["response"] == "It is Tokyo."
        _, took_s = running.end()
        assert took_s < 5
        assert "Traceback" not in running.output()


def test_streamlit_run_with_a_wrong_configuration_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "providers.yaml"
    file.write_text("providers: [{name: a, modle: b}]\n")
    ended = subprocess.run(
        [sys.executable, "-m", "streamlit", "run", "streamlit_app.py", "--server.port", str(free_port())],
        cwd=ROOT, env=environment(HOME=str(tmp_path), FALLBACK_CONFIG=str(file)),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode != 0
    assert 'providers[0].modle: unknown key; did you mean "model"?' in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout


def test_busy_port_is_one_line_and_status_2(standin: StandInThread, tmp_path: Path) -> None:
    config = str(configured(tmp_path, standin))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        expected = f"port {port} is in use by another program: choose another one with --port or PORT\n"
        assert refused_start("--port", str(port), "--config", config) == (2, expected)
        assert refused_start("--config", config, PORT=str(port)) == (2, expected)
    assert not (tmp_path / "logs").exists()


def test_wrong_configuration_lists_every_problem_and_status_2(tmp_path: Path) -> None:
    file = tmp_path / "providers.yaml"
    file.write_text("providers:\n  - name: a\n    modle: b\n    priority: soon\nroutin: {}\n")
    status, told = refused_start("--config", str(file))
    assert status == 2
    assert 'providers[0].modle: unknown key; did you mean "model"?' in told
    assert "providers[0].priority: expected" in told
    assert 'routin: unknown key; did you mean "routing"?' in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("options", "variables", "sentence"),
    [
        (["--config", "nowhere.yaml"], {}, "nowhere.yaml: 1 problem\n  no such file"),
        (["--port", "http"], {}, "--port: expected a number from 0 to 65535, got 'http'"),
        (["--port", "65536"], {}, "--port: expected a number from 0 to 65535, got '65536'"),
        (["--port", "-1"], {}, "--port: expected a number from 0 to 65535, got '-1'"),
        ([], {"PORT": "five"}, "PORT: expected a number from 0 to 65535, got 'five'"),
        (["--host", "nobody.invalid"], {}, "unknown host 'nobody.invalid'"),
        ([], {"HOST": "nobody.invalid"}, "unknown host 'nobody.invalid'"),
        (["--host", "192.0.2.1"], {}, "'192.0.2.1' is not an address of this machine"),
        (["--host", ""], {}, "--host is empty"),
        (["--conf", "a.yaml"], {}, "unrecognized arguments: --conf a.yaml"),
        (["--port"], {}, "argument --port: expected one argument"),
    ],
)
def test_wrong_start_is_one_clear_line_and_status_2(
    options: list[str], variables: dict[str, str], sentence: str
) -> None:
    status, told = refused_start(*options, **variables)
    assert status == 2
    assert sentence in told
    assert len(told.splitlines()) <= 2


def test_port_of_the_env_file_counts_and_an_option_wins_over_it(tmp_path: Path) -> None:
    file = tmp_path / "providers.yaml"
    file.write_text("providers: []\n")
    (tmp_path / ".env").write_text("PORT=many\n")
    assert refused_start("--config", str(file))[1].startswith("PORT: expected a number")
    assert refused_start("--config", str(file), "--port", "0")[1].startswith(f"{file}: 1 problem")


def test_whose_word_about_addresses_counts_is_read_from_the_env_file(
    standin: StandInThread, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    file = configured(own, standin)
    file.write_text(file.read_text() + "api:\n  requests_per_minute: 1\n")
    (own / ".env").write_text("FORWARDED_ALLOW_IPS=192.0.2.1\n")
    port = free_port()
    command = ("main.py", "--api-only", "--port", str(port), "--config", str(file))
    with program(tmp_path, standin, *command, port=port):
        statuses = []
        for caller in ("198.51.100.1", "198.51.100.2"):
            connection = HTTPConnection("127.0.0.1", port, timeout=15)
            connection.request("GET", "/api/providers", headers={"x-forwarded-for": caller})
            statuses.append(connection.getresponse().status)
            connection.close()
    # Nobody but 192.0.2.1 may say who calls: both are the same caller.
    assert statuses == [200, 429]


def test_help_names_every_option() -> None:
    told = subprocess.run(
        [sys.executable, "main.py", "--help"], cwd=ROOT, env=environment(), capture_output=True, text=True,
        timeout=30, check=True,
    ).stdout  # fmt: skip
    for option in ("--host", "--port", "--config", "SESSION_SECRET"):
        assert option in told


def test_session_secret_of_the_env_file_becomes_streamlits_cookie_secret(
    standin: StandInThread, tmp_path: Path
) -> None:
    config = configured(tmp_path, standin)
    # In the place of the server, which shows its secret to nobody.
    script = (
        "import sys, main, streamlit as st\n"
        "from streamlit.config import get_option\n"
        "st.App.run = lambda self, config: print(get_option('server.cookieSecret'))\n"
        f"sys.exit(main.main(['--port', '0', '--config', {str(config)!r}]))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment(), capture_output=True, text=True,
        timeout=30, check=True,
    ).stdout  # fmt: skip
    assert told == "only-for-a-test\n"
