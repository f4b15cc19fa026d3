"""See the package."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import benchmarks.gateway
from benchmarks.gateway.servers import (
    ROOT,
    Gateway,
    Ours,
    cpu_s,
    load,
    peers,
    process,
    resident_mib,
    start,
    upstream,
)

CONNECTIONS = (1, 16, 64)
RATES = (50, 200)
STREAMS = 500
MOST_SECONDS = 30.0
FAILING = 300
SECTIONS = ("throughput", "latency", "streams", "failover", "workers")

PLAIN = Ours(name="api-only plain")
DEFAULT = Ours(name="api-only default", stream=True)
DASHBOARD = Ours(name="with dashboard plain", dashboard=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gateway",
        description=benchmarks.gateway.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--litellm", metavar="PATH", default=shutil.which("litellm"))
    parser.add_argument("--portkey", metavar="PATH")
    parser.add_argument("--smg", metavar="PATH", default=shutil.which("smg"))
    options = parser.parse_args()
    wanted = options.only.split(",")
    if not (0 < options.seconds <= MOST_SECONDS and 0 < options.rounds <= 10 and set(wanted) <= {*SECTIONS}):
        parser.error(f"at most {MOST_SECONDS:g} seconds and 10 rounds; sections are {', '.join(SECTIONS)}")
    load_before = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}; load before: {load_before}"
    )
    for section in wanted:
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder = Path(name)
            behind = upstream(stack, folder)
            print(f"\n{section}", flush=True)
            _SECTIONS[section](stack, folder, behind, options)


def throughput(stack: ExitStack, folder: Path, behind: Gateway, options: argparse.Namespace) -> None:
    gateways = [start(stack, folder, behind.port, each) for each in (PLAIN, DEFAULT, DASHBOARD)]
    gateways += peers(stack, folder, behind.port, options)
    best: dict[tuple[str, int], tuple[float, float]] = {}
    for gateway in gateways:
        load("closed", gateway, connections=4, seconds=1.0)  # warm
    for _ in range(options.rounds):
        for connections in CONNECTIONS:
            for gateway in gateways:
                found = _closed(gateway, connections, options.seconds)
                if found is not None and found[0] > best.get((gateway.name, connections), (0.0, 0.0))[0]:
                    best[gateway.name, connections] = found
    print(f"{'requests/s (ms of CPU a request)':34}" + "".join(f"{n:>20} conn." for n in CONNECTIONS))
    for gateway in gateways:
        cells = [best.get((gateway.name, n), (0.0, 0.0)) for n in CONNECTIONS]
        print(f"{gateway.name:34}" + "".join(f"{f'{r:,.0f} ({ms:.2f})':>26}" for r, ms in cells))


def _closed(gateway: Gateway, connections: int, seconds: float) -> tuple[float, float] | None:
    """Return requests a second and milliseconds of CPU a request."""
    before = cpu_s(gateway.pid)
    found = load("closed", gateway, connections=connections, seconds=seconds)
    if found is None:
        return None
    return found["per_s"], (cpu_s(gateway.pid) - before) / max(1, found["count"]) * 1000


def latency(stack: ExitStack, folder: Path, behind: Gateway, options: argparse.Namespace) -> None:
    gateways = [start(stack, folder, behind.port, each) for each in (PLAIN, DEFAULT, DASHBOARD)]
    watched = start(stack, folder, behind.port, Ours(name="with a viewer of Analytics", dashboard=True))
    gateways.append(watched)
    gateways += peers(stack, folder, behind.port, options)
    for gateway in gateways:
        load("closed", gateway, connections=8, seconds=2.0)  # warm, and something to be seen in the log
    command = [
        sys.executable,
        "-m",
        "benchmarks.viewers",
        "--watch",
        str(watched.port),
        "--page",
        "analytics",
    ]
    stack.enter_context(process(command, folder=ROOT))
    print(f"{'added ms: p50, p99':34}" + "".join(f"{f'{rate}/s':>22}" for rate in RATES))
    best: dict[tuple[str, int], tuple[float, float]] = {}
    for _ in range(options.rounds):
        for rate in RATES:
            direct = load("open", behind, per_s=rate, seconds=options.seconds * 2)
            for gateway in gateways:
                found = load("open", gateway, per_s=rate, seconds=options.seconds * 2)
                if found is None or direct is None:
                    continue
                p50 = _quantile(found["taken_s"], 0.5) - _quantile(direct["taken_s"], 0.5)
                p99 = _quantile(found["taken_s"], 0.99) - _quantile(direct["taken_s"], 0.99)
                best[gateway.name, rate] = min(best.get((gateway.name, rate), (9e9, 9e9)), (p99, p50))
    for gateway in gateways:
        cells = [best.get((gateway.name, rate), (0.0, 0.0)) for rate in RATES]
        shown = "".join(f"{f'{p50 * 1000:.2f}, {p99 * 1000:.2f}':>22}" for p99, p50 in cells)
        print(f"{gateway.name:34}" + shown)


def streams(stack: ExitStack, folder: Path, behind: Gateway, options: argparse.Namespace) -> None:
    slow = "providers:\n  - {name: up, type: openai, endpoint: 'UPSTREAM/slow/v1/chat/completions', model: small}\n"
    gateway = start(stack, folder, behind.port, Ours(name="api-only", providers=slow))
    behind.path = "/slow/v1/chat/completions"
    load("streams", gateway, streams=8)  # warm
    for _ in range(options.rounds):
        idle_mib = resident_mib(gateway.pid)
        direct = load("streams", behind, streams=STREAMS)
        peak = _Peak(gateway.pid)
        with peak:
            found = load("streams", gateway, streams=STREAMS)
        if found is None or direct is None:
            continue
        added = [
            (_quantile(found["first_s"], q) - _quantile(direct["first_s"], q)) * 1000 for q in (0.5, 0.99)
        ]
        print(
            f"{STREAMS} streams of 3 s: {found['dropped']} dropped, first token later by {added[0]:.1f} ms (p50) and "
            f"{added[1]:.1f} ms (p99), {peak.mib - idle_mib:.0f} MiB above {idle_mib:.0f} MiB idle"
        )


class _Peak:
    """The most memory that a process had while the block ran, in `mib`."""

    def __init__(self, pid: int) -> None:
        self.mib = 0.0
        self._pid = pid

    def __enter__(self) -> None:
        # Linux counts the high-water mark from here on: see proc_pid_clear_refs(5).
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")

    def __exit__(self, *_: object) -> None:
        status = Path(f"/proc/{self._pid}/status").read_text()
        self.mib = int(status.partition("VmHWM:")[2].split()[0]) / 1024


def failover(stack: ExitStack, folder: Path, behind: Gateway, options: argparse.Namespace) -> None:
    """Compare requests whose first provider is good with such whose first one fails at once.

    Who fails rests afterwards, so each request that fails over has a provider of its own to fail with, and between the rounds
    the rest of all is ended by hand. The first round, in which everything is new, does not count.
    """
    for name, stream in (("plain", "false"), ("default", "true")):
        provider = f"type: openai, model: small, stream_upstream: {stream}}}"
        lines = [
            "providers:",
            f"  - {{name: good, endpoint: 'UPSTREAM/v1/chat/completions', {provider}",
            *(
                f"  - {{name: bad{n}, endpoint: 'UPSTREAM/fail/v1/chat/completions', {provider}"
                for n in range(FAILING)
            ),
            "routing: {retries: 0}",
            "routes:",
            "  only: [good]",
            *(f"  r{n}: [bad{n}, good]" for n in range(FAILING)),
        ]
        wanted = Ours(name=f"api-only {name}", providers="\n".join(lines) + "\n")
        gateway = start(stack, folder, behind.port, wanted)
        load("closed", gateway, connections=1, seconds=2.0, body={"model": "only"})
        best: dict[str, tuple[float, float]] = {}
        for turn in range(options.rounds + 1):
            for kind, bodies in (
                ("direct", [{"model": "only"}] * FAILING),
                ("failing over", [{"model": f"r{n}"} for n in range(FAILING)]),
            ):
                before = cpu_s(gateway.pid)
                found = load(
                    "closed", gateway, connections=1, seconds=MOST_SECONDS, requests=FAILING, bodies=bodies
                )
                if found is not None and turn:
                    cpu_ms = (cpu_s(gateway.pid) - before) / found["count"] * 1000
                    best[kind] = min(best.get(kind, (9e9, 9e9)), (1000 / found["per_s"], cpu_ms))
            for n in range(FAILING):
                _patch(gateway, f"bad{n}", {"end_cooldown": True})
        (ms, cpu_ms), (ms_over, cpu_over) = best["direct"], best["failing over"]
        print(
            f"{gateway.name}: {ms:.2f} ms ({cpu_ms:.2f} of CPU) direct, {ms_over:.2f} ({cpu_over:.2f}) failing over: "
            f"{ms_over / ms:.2f} times, {cpu_over / cpu_ms:.2f} of CPU"
        )


def _patch(gateway: Gateway, provider: str, change: dict[str, Any]) -> None:
    connection = HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    headers = {"content-type": "application/json"}
    connection.request("PATCH", f"/api/providers/{provider}", json.dumps(change), headers)
    assert connection.getresponse().status == 200
    connection.close()


def workers(stack: ExitStack, folder: Path, behind: Gateway, options: argparse.Namespace) -> None:
    """Compare one worker with two. The callers are wrk and the provider nginx where they are installed: they leave more CPU."""
    port = _static_upstream(stack, folder) or behind.port
    gateways = [start(stack, folder, port, Ours(name=f"workers {count}", workers=count)) for count in (1, 2)]
    best: dict[str, float] = {}
    for _ in range(options.rounds):
        for gateway in gateways:
            best[gateway.name] = max(best.get(gateway.name, 0.0), _most(gateway, folder, options.seconds))
    one, two = best["workers 1"], best["workers 2"]
    print(f"1 worker {one:,.0f} requests/s, 2 workers {two:,.0f}: {two / one:.2f} times")


def _most(gateway: Gateway, folder: Path, seconds: float) -> float:
    if shutil.which("wrk") is None:
        found = load("closed", gateway, connections=32, seconds=seconds)
        return float(found["per_s"]) if found else 0.0
    script = folder / "ask.lua"
    script.write_text(
        'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
        'wrk.body = \'{"model":"small","messages":[{"role":"user","content":"Where?"}]}\'\n'
    )
    command = ["wrk", "-t1", "-c32", f"-d{math.ceil(seconds)}s", "-s", str(script)]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{gateway.port}{gateway.path}"],
        capture_output=True,
        text=True,
        check=True,
    )
    if "Non-2xx" in done.stdout:
        raise SystemExit(done.stdout)
    return float(done.stdout.partition("Requests/sec:")[2].split()[0])


def _static_upstream(stack: ExitStack, folder: Path) -> int | None:
    if shutil.which("nginx") is None:
        return None
    from benchmarks.gateway.servers import free_port
    from benchmarks.gateway.upstream import PLAIN as RESPONSE

    port, place = free_port(), folder / "nginx"
    place.mkdir()
    body = RESPONSE.partition(b"\r\n\r\n")[2].decode()
    (place / "nginx.conf").write_text(
        f"worker_processes 1; daemon off; pid {place}/pid; error_log {place}/error.log;\n"
        "events { worker_connections 512; }\n"
        f"http {{ access_log off; keepalive_requests 1000000; client_body_temp_path {place}/a;\n"
        f"  proxy_temp_path {place}/b; fastcgi_temp_path {place}/c; uwsgi_temp_path {place}/d; scgi_temp_path {place}/e;\n"
        f"  server {{ listen 127.0.0.1:{port}; default_type application/json; location / {{ return 200 '{body}'; }} }} }}\n"
    )
    stack.enter_context(process(["nginx", "-p", str(place), "-c", str(place / "nginx.conf")], folder=place))
    return port


def _quantile(values: Sequence[float], q: float) -> float:
    return statistics.quantiles(values, n=1000, method="inclusive")[round(q * 1000) - 1]


_SECTIONS = {
    "throughput": throughput,
    "latency": latency,
    "streams": streams,
    "failover": failover,
    "workers": workers,
}

if __name__ == "__main__":
    main()
