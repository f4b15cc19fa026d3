"""Several real processes that share their state: what happens in one holds in the others, and one at a time probes.

Two workers of one program over SQLite, and two programs over a real Redis server.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ports import free_port, free_ports
from redis_server import RedisServer, redis_server
from test_main import CONFIG, Running, program, wait_until_it_serves

from fallback.standin import Fault, StandInThread

pytestmark = pytest.mark.program

PASSWORD = "password-of-the-state-server"
KINDS = ("workers over SQLite", "replicas over Redis")


@dataclass(kw_only=True)
class Replicas:
    """Two processes that serve the same configuration, and what stands behind them."""

    each: tuple[Running, ...]
    standin: StandInThread
    server: RedisServer | None = None
    """What they share their state on; None: a file."""

    def text(self, which: int, path: str) -> str:
        connection, reply = self.each[which].request("GET", path)
        body = reply.read().decode()
        connection.close()
        return body

    def provider(self, which: int, name: str = "groq_llama") -> dict[str, Any]:
        found = json.loads(self.text(which, "/api/providers"))["providers"]
        return next(provider for provider in found if provider["name"] == name)

    def patch(self, which: int, **change: Any) -> None:
        connection, reply = self.each[which].request("PATCH", "/api/providers/groq_llama", change)
        assert reply.status == 200, reply.read()
        connection.close()

    def reset(self) -> None:
        """Let everything be well again, in both."""
        for name in ("groq_llama", "together_llama"):
            self.standin.tenant(name).reset()
        self.patch(0, enabled=True, end_cooldown=True)
        until(lambda: self.provider(0)["state"] == self.provider(1)["state"] == "ready")


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        server.tenant("groq_llama", dialect="groq", text="Tokyo is the capital.")
        server.tenant("together_llama", dialect="together", text="It is Tokyo.")
        yield server


@contextmanager
def workers(folder: Path, config: Path, standin: StandInThread) -> Iterator[tuple[Running, ...]]:
    port, first = free_port(), free_ports(2)
    line = ("main.py", "--api-only", "--workers", "2", "--metrics-port", str(first))
    with program(folder, standin, *line, "--port", str(port), "--config", str(config), port=port) as running:
        each = tuple(Running(process=running.process, port=own, folder=folder) for own in (first, first + 1))
        for worker in each:
            wait_until_it_serves(worker)
        yield each


@contextmanager
def replicas(
    folder: Path, config: Path, standin: StandInThread, server: RedisServer
) -> Iterator[tuple[Running, ...]]:
    with ExitStack() as stack:
        found = []
        for name in ("one", "two"):
            own, port = folder / name, free_port()
            own.mkdir()
            # Not providers.yaml: that is where program() writes the usual one.
            (own / "own.yaml").write_text(config.read_text())
            line = ("main.py", "--api-only", "--port", str(port), "--config", str(own / "own.yaml"))
            url = f"unix://:{PASSWORD}@{server.socket}"
            running = stack.enter_context(
                program(own, standin, *line, port=port, STATE_URL=url, STATE_PREFIX="replicas:")
            )
            found.append(running)
        yield tuple(found)


@pytest.fixture(scope="module", params=KINDS)
def pair(
    request: pytest.FixtureRequest, standin: StandInThread, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    folder = tmp_path_factory.mktemp("replicas")
    config = folder / "own.yaml"
    config.write_text(CONFIG.format(base=standin.base_url) + "  cooldown_s: 1\n")
    if request.param == KINDS[0]:
        with workers(folder, config, standin) as each:
            yield Replicas(each=each, standin=standin)
    else:
        with (
            redis_server("--requirepass", PASSWORD) as server,
            replicas(folder, config, standin, server) as each,
        ):
            yield Replicas(each=each, standin=standin, server=server)


def test_switch_thrown_in_one_process_holds_in_the_other(pair: Replicas) -> None:
    pair.patch(0, enabled=False)
    until(lambda: pair.provider(1)["enabled"] is False)
    assert pair.each[1].generate()["provider"] == "together_llama"
    pair.patch(1, enabled=True)
    until(lambda: pair.provider(0)["enabled"] is True)
    until(lambda: pair.each[0].generate()["provider"] == "groq_llama")


def test_cooldown_met_by_one_process_keeps_the_other_from_asking(pair: Replicas) -> None:
    groq = pair.standin.tenant("groq_llama")
    groq.always(Fault(kind="status", status=429, headers={"retry-after": "300"}))
    pair.each[0].generate()
    until(lambda: pair.provider(1)["state"] == "cooling_down")
    before = groq.counters.requests
    assert pair.each[1].generate()["provider"] == "together_llama"
    assert groq.counters.requests == before
    pair.reset()


def test_at_most_one_probe_is_under_way_in_all_processes(pair: Replicas) -> None:
    groq = pair.standin.tenant("groq_llama")
    groq.always(Fault(kind="status", status=503))
    pair.each[0].generate()
    until(lambda: pair.provider(1)["state"] in {"cooling_down", "probing"})
    groq.always(Fault(kind="hang"))
    groq_before = groq.counters.requests
    most, ended = [0], threading.Event()

    def ask(which: int) -> None:
        while not ended.is_set():
            assert pair.each[which].generate()["provider"] == "together_llama"

    def watch() -> None:
        while not ended.is_set():
            most[0] = max(most[0], groq.counters.in_flight)
            time.sleep(0.002)

    threads = [threading.Thread(target=ask, args=(which,)) for which in (0, 1)]
    threads.append(threading.Thread(target=watch))
    for thread in threads:
        thread.start()
    try:
        until(lambda: groq.counters.in_flight)
        # Long after both have noticed that the rest is over, and shorter than the probe hangs.
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 3)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert (most[0], groq.counters.requests - groq_before) == (1, 1)
    assert pair.provider(0)["state"] == pair.provider(1)["state"] == "probing"
    pair.reset()


@pytest.mark.parametrize("pair", KINDS[1:], indirect=True)
def test_state_server_that_is_gone_for_a_while_costs_no_answer_and_no_change(pair: Replicas) -> None:
    assert pair.server is not None
    one, two = pair.each
    pair.server.kill()
    pair.patch(0, enabled=False)
    assert one.generate()["provider"] == "together_llama"
    assert two.generate()["provider"] == "groq_llama", "it cannot know"
    for which in (0, 1):
        until(lambda which=which: json.loads(pair.text(which, "/api/providers"))["warning"])  # type: ignore[misc]
        assert "fallback_shared_state_ok 0.0" in pair.text(which, "/metrics")
        assert pair.each[which].generate()["response"]
    pair.server.start()
    until(lambda: pair.provider(1)["enabled"] is False)
    until(lambda: "fallback_shared_state_ok 1.0" in pair.text(0, "/metrics") + pair.text(1, "/metrics"))
    assert two.generate()["provider"] == "together_llama"
    told = one.output() + two.output()
    assert "cannot be used" in told
    assert "works again" in told
    assert PASSWORD not in told + pair.text(0, "/api/providers") + (one.folder / "logs/usage.log").read_text()
    pair.reset()
