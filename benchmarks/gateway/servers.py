"""The processes: the upstream, this program in several shapes, and its peers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from benchmarks.gateway.load import QUESTION

__all__ = ["Gateway", "Ours", "cpu_s", "free_port", "load", "peers", "resident_mib", "start", "upstream"]

ROOT = Path(__file__).resolve().parent.parent.parent
START_WITHIN_S = 60.0


@dataclass(slots=True, kw_only=True)
class Gateway:
    """One server under load."""

    name: str
    port: int
    pid: int
    path: str = "/v1/chat/completions"
    headers: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """One shape of this program."""

    name: str
    stream: bool = False
    dashboard: bool = False
    workers: int = 1
    providers: str | None = None
    """The providers.yaml, where it is not one provider that answers at once; UPSTREAM stands for its address."""


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def _processes(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _processes(int(child))


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its children that are there."""
    total = 0.0
    for each in _processes(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def resident_mib(pid: int) -> float:
    """Return the memory of a process and its children, shared pages counted for each."""
    return (
        sum(
            int(Path(f"/proc/{each}/status").read_text().partition("VmRSS:")[2].split()[0])
            for each in _processes(pid)
        )
        / 1024
    )


@contextmanager
def process(command: list[str], *, folder: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the block ends."""
    started = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(15)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def _wait_for(port: int, name: str) -> None:
    until = time.monotonic() + START_WITHIN_S
    while time.monotonic() < until:
        with socket.socket() as trial:
            trial.settimeout(0.5)
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"{name} does not start")


def upstream(stack: ExitStack, folder: Path) -> Gateway:
    """Start the upstream, which can be asked like any gateway."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.gateway.upstream", str(port)]
    started = stack.enter_context(process(command, folder=folder))
    _wait_for(port, "the upstream")
    return Gateway(name="the upstream itself", port=port, pid=started.pid)


def start(stack: ExitStack, folder: Path, behind: int, wanted: Ours) -> Gateway:
    """Start this program in front of the upstream at the port `behind`."""
    place = folder / wanted.name.replace(" ", "-")
    place.mkdir()
    text = wanted.providers or (
        "providers:\n  - {name: up, type: openai, endpoint: 'UPSTREAM/v1/chat/completions', model: small, "
        f"stream_upstream: {str(wanted.stream).lower()}}}\n"
    )
    (place / "providers.yaml").write_text(text.replace("UPSTREAM", f"http://127.0.0.1:{behind}"))
    port = free_port()
    command = [sys.executable, str(ROOT / "main.py"), "--port", str(port), "--config", "providers.yaml"]
    command += [] if wanted.dashboard else ["--api-only"]
    command += ["--workers", str(wanted.workers)] if wanted.workers > 1 else []
    started = stack.enter_context(process(command, folder=place))
    _wait_for(port, wanted.name)
    return Gateway(name=wanted.name, port=port, pid=started.pid, folder=place)


def peers(stack: ExitStack, folder: Path, behind: int, installed: Namespace) -> list[Gateway]:
    """Start the other gateways, of those whose place `installed` names: litellm, portkey and smg."""
    found = []
    if installed.litellm:
        found.append(_litellm(stack, folder, behind, installed.litellm))
    if installed.portkey and shutil.which("node"):
        found.append(_portkey(stack, folder, behind, installed.portkey))
    if installed.smg:
        found.append(_smg(stack, folder, behind, installed.smg))
    for gateway in found:
        _wait_for(gateway.port, gateway.name)
    return found


def _litellm(stack: ExitStack, folder: Path, behind: int, path: str) -> Gateway:
    port = free_port()
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n  - model_name: small\n    litellm_params: {model: openai/small, "
        f"api_base: 'http://127.0.0.1:{behind}/v1', api_key: none}}\n"
    )
    started = stack.enter_context(
        process(
            [path, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)],
            folder=folder,
            PYTHONPATH="",
            LITELLM_LOCAL_MODEL_COST_MAP="True",
            LITELLM_LOG="ERROR",
            # It listens on loopback alone, for as long as this runs.
            LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY="true",
        )
    )
    return Gateway(name="LiteLLM", port=port, pid=started.pid)


def _portkey(stack: ExitStack, folder: Path, behind: int, path: str) -> Gateway:
    port = free_port()
    started = stack.enter_context(process(["node", path, f"--port={port}", "--headless"], folder=folder))
    headers = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{behind}/v1",
        "authorization": "Bearer none",
    }
    return Gateway(name="Portkey", port=port, pid=started.pid, headers=headers)


def _smg(stack: ExitStack, folder: Path, behind: int, path: str) -> Gateway:
    port = free_port()
    command = [path, "launch", "--host", "127.0.0.1", "--port", str(port), "--backend", "openai"]
    command += ["--worker-urls", f"http://127.0.0.1:{behind}"]
    started = stack.enter_context(process(command, folder=folder, PYTHONPATH=""))
    gateway = Gateway(name="smg", port=port, pid=started.pid)
    _wait_for(port, gateway.name)
    until = time.monotonic() + START_WITHIN_S
    while time.monotonic() < until:  # it listens before it knows what its worker serves
        if requests.post(f"http://127.0.0.1:{port}{gateway.path}", json=QUESTION, timeout=5).ok:
            return gateway
        time.sleep(0.2)
    raise SystemExit("smg does not answer")


def load(kind: str, gateway: Gateway, **options: Any) -> dict[str, Any] | None:
    """Let a process of its own ask `gateway`, and return what it found; None where it failed, which is told."""
    asked = {"port": gateway.port, "path": gateway.path, "headers": gateway.headers, **options}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gateway.load", kind, json.dumps(asked)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"{gateway.name}: {(done.stderr.strip().splitlines() or ['?'])[-1][:200]}")
        return None
    found: dict[str, Any] = json.loads(done.stdout)
    return found
