"""`python main.py --api-only` as a process: without Streamlit, with several workers, and before others than this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ports import free_port, free_ports
from test_main import (
    KEY,
    ROOT,
    Running,
    configured,
    environment,
    program,
    refused_start,
    wait_until_it_serves,
)

from fallback.standin import Fault, StandInThread

pytestmark = pytest.mark.program
CALLERS_KEY = "the-key-of-a-caller-1"


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        server.tenant("groq_llama", dialect="groq", text="Tokyo is the capital.")
        server.tenant("together_llama", dialect="together", text="It is Tokyo.")
        yield server


@contextmanager
def api_only(folder: Path, standin: StandInThread, *options: str, **variables: str) -> Iterator[Running]:
    port = free_port()
    config = str(configured(folder, standin))
    line = ("main.py", "--api-only", "--port", str(port), "--config", config, *options)
    with program(folder, standin, *line, port=port, **variables) as running:
        yield running


def until(wanted: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < end
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """Return the workers of the supervisor `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if fields[1] == str(pid) and b"spawn_main" in command:
            found.append(int(entry.name))
    return sorted(found)


def is_running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_start_is_one_line_and_everything_but_the_dashboard_is_served(
    standin: StandInThread, tmp_path: Path
) -> None:
    with api_only(tmp_path, standin) as running:
        line = f"LLM Fallback System on http://localhost:{running.port} (HTTP API alone)\n"
        until(lambda: running.output() == line)
        assert running.generate()["response"] == "Tokyo is the capital."
        for path, status in (("/healthz", 200), ("/readyz", 200), ("/api/providers", 200), ("/", 404)):
            connection, reply = running.request("GET", path)
            assert reply.status == status
            connection.close()
        connection, reply = running.request("GET", "/chat/completions")
        assert b"the base URL of an OpenAI client ends in /v1" in reply.read()
        connection.close()
        status, took_s = running.end()
        assert status == 0
        assert took_s < 8
        assert running.output() == line


def test_streamlit_is_never_loaded() -> None:
    script = (
        "import sys\n"
        "import main, fallback.api.server, fallback.api.workers\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('streamlit', 'pandas', 'altair')])\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment(), capture_output=True, text=True,
        timeout=60, check=True,
    ).stdout  # fmt: skip
    assert told == "[]\n"


def test_signal_in_the_middle_of_a_stream_ends_it_with_a_word(standin: StandInThread, tmp_path: Path) -> None:
    groq = standin.tenant("groq_llama")
    groq.always(Fault(kind="stall", after_words=2, seconds=60))
    try:
        with api_only(tmp_path, standin) as running:
            connection, reply = running.request("POST", "/api/generate", {"prompt": "Hello", "stream": True})
            while not reply.readline().startswith(b"event: delta"):
                pass
            status, _ = running.end()
            assert status == 0
            assert b'"error_type":"shutting_down"' in reply.read()
            connection.close()
    finally:
        groq.reset()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_killed_worker_is_replaced_and_no_line_of_the_log_is_lost(
    standin: StandInThread, tmp_path: Path
) -> None:
    with api_only(tmp_path, standin, "--workers", "2", INSTANCE_NAME="replica-a") as running:
        until(lambda: "(HTTP API alone, 2 workers)" in running.output())
        answered = [running.generate()["request_id"] for _ in range(20)]
        workers = children(running.process.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        until(
            lambda: (
                len(children(running.process.pid)) == 2 and workers[0] not in children(running.process.pid)
            )
        )
        assert "ended with status -9; another one takes its place." in running.output()
        answered += [running.generate()["request_id"] for _ in range(20)]
        logged = [
            json.loads(line) for line in (running.folder / "logs" / "usage.log").read_text().splitlines()
        ]
        assert [line["request_id"] for line in logged if line["kind"] == "request"] == answered
        assert {line["instance"] for line in logged} <= {"replica-a-0", "replica-a-1"}
        everybody = children(running.process.pid)
        status, took_s = running.end()
        assert status == 0
        assert took_s < 12
        assert not [pid for pid in everybody if is_running(pid)]
        assert "Traceback" not in running.output()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_do_not_outlive_a_supervisor_that_is_killed(standin: StandInThread, tmp_path: Path) -> None:
    with api_only(tmp_path, standin, "--workers", "2") as running:
        until(lambda: "2 workers" in running.output())
        workers = children(running.process.pid)
        running.end(signal.SIGKILL)
        until(lambda: not [pid for pid in workers if is_running(pid)])


def test_each_worker_has_figures_of_its_own(standin: StandInThread, tmp_path: Path) -> None:
    first = free_ports(2)
    with api_only(tmp_path, standin, "--workers", "2", "--metrics-port", str(first)) as running:
        each = [
            Running(process=running.process, port=port, folder=running.folder) for port in (first, first + 1)
        ]
        for own in each:
            wait_until_it_serves(own)
        for _ in range(6):
            running.generate()
        found = 0.0
        for own in each:
            connection, reply = own.request("GET", "/metrics")
            text = reply.read().decode()
            connection.close()
            assert "process_cpu_seconds_total" in text
            found += sum(
                map(float, re.findall(r"^fallback_requests_total\{.*\} ([\d.]+)$", text, re.MULTILINE))
            )
        assert found == 6


def test_worker_that_cannot_start_ends_the_program_with_its_reason(
    standin: StandInThread, tmp_path: Path
) -> None:
    config = str(configured(tmp_path, standin))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, told = refused_start(
            "--api-only", "--port", "0", "--config", config, "--metrics-port", str(port), HOME=str(tmp_path)
        )
    assert status == 1
    assert f"port {port} of a worker cannot be used: Address already in use" in told


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--workers", "2"], "--workers and --metrics-port go with --api-only"),
        (["--metrics-port", "9100"], "--workers and --metrics-port go with --api-only"),
        (["--api-only", "--demo", "--workers", "2"], "and not with --demo"),
        (["--api-only", "--workers", "0"], "--workers: expected a number from 1 to 64, got '0'"),
        (["--api-only", "--workers", "many"], "--workers: expected a number from 1 to 64, got 'many'"),
        (["--api-only", "--metrics-port", "65536"], "--metrics-port: expected a number from 1 to 65535"),
    ],
)
def test_wrong_options_are_one_line_and_status_2(options: list[str], sentence: str) -> None:
    status, told = refused_start(*options)
    assert status == 2
    assert sentence in told
    assert len(told.splitlines()) == 1


# Before others than this machine


@pytest.mark.parametrize("more", [(), ("--api-only",), ("--api-only", "--workers", "2")])
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - it is refused
def test_listening_beyond_this_machine_without_keys_is_refused(
    standin: StandInThread, tmp_path: Path, host: str, more: tuple[str, ...]
) -> None:
    config = str(configured(tmp_path, standin))
    status, told = refused_start("--host", host, "--port", "0", "--config", config, *more)
    if "unknown host" in told or "not an address" in told:
        pytest.skip("no IPv6 here")
    wanted = "API_KEYS" if more else "API_KEYS and DASHBOARD_PASSWORD"
    assert (status, told) == (
        2,
        f"on {host} others could use your providers: set {wanted} in .env, or say --insecure to let them\n",
    )


@pytest.mark.parametrize("options", [(), ("--api-only",)])
def test_with_keys_it_listens_everywhere_and_asks_for_them(
    standin: StandInThread, tmp_path: Path, options: tuple[str, ...]
) -> None:
    port = free_port()
    config = str(configured(tmp_path, standin))
    line = ("main.py", "--host", "0.0.0.0", "--port", str(port), "--config", config, *options)  # noqa: S104
    guards = {"API_KEYS": CALLERS_KEY} | ({} if options else {"DASHBOARD_PASSWORD": "for the test alone"})
    with program(tmp_path, standin, *line, port=port, **guards) as running:
        connection, reply = running.request("POST", "/api/generate", {"prompt": "Hello"})
        assert (reply.status, json.loads(reply.read())["error_type"]) == (401, "no_api_key")
        headers = {"content-type": "application/json", "authorization": f"Bearer {CALLERS_KEY}"}
        connection.request("POST", "/api/generate", b'{"prompt": "Hello"}', headers)
        assert connection.getresponse().status == 200
        connection.close()
        log = (running.folder / "logs" / "usage.log").read_text()
        assert '"api_key_name":"key-1"' in log
        assert CALLERS_KEY not in log + running.output()
        assert KEY not in log + running.output()
        assert "The dashboard asks" not in running.output()
        connection, reply = running.request("GET", "/")
        assert reply.status == (404 if options else 401)
        connection.close()


@pytest.mark.parametrize("options", [(), ("--api-only",)])
def test_insecure_listens_everywhere_without_keys_and_without_a_password(
    standin: StandInThread, tmp_path: Path, options: tuple[str, ...]
) -> None:
    port = free_port()
    config = str(configured(tmp_path, standin))
    line = ("main.py", "--host", "0.0.0.0", "--port", str(port), "--config", config, "--insecure", *options)  # noqa: S104
    with program(tmp_path, standin, *line, port=port) as running:
        assert running.generate()["provider"] == "groq_llama"
        told = "The dashboard asks nobody who they are; --api-only serves the API alone."
        assert (told in running.output()) is not bool(options)


def test_container_published_to_its_own_machine_needs_no_keys_and_warns_of_nobody(
    standin: StandInThread, tmp_path: Path
) -> None:
    port = free_port()
    config = str(configured(tmp_path, standin))
    line = ("main.py", "--port", str(port), "--config", config, "--host", "0.0.0.0")  # noqa: S104
    with program(tmp_path, standin, *line, "--published", "127.0.0.1", port=port) as running:
        assert running.generate()["provider"] == "groq_llama"
        assert "The dashboard asks" not in running.output()


def test_dashboard_is_not_served_under_another_name(standin: StandInThread, tmp_path: Path) -> None:
    with program(tmp_path, standin) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as rebound:
            rebound.sendall(b"GET / HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n")
            assert rebound.recv(100).startswith(b"HTTP/1.1 421 ")
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as rebound:
            rebound.sendall(
                b"GET /_stcore/stream HTTP/1.1\r\nhost: evil.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
                b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            assert rebound.recv(100).startswith(b"HTTP/1.1 403 ")
        # The dashboard's server keeps to the limits of a connection as well.
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as long:
            long.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 40_000)
            assert long.recv(100).startswith(b"HTTP/1.1 431 ")
