"""Prints what the HTTP API carries, beside other gateways where they are installed: requests a second and CPU a request.

    python -m benchmarks.gateway [--seconds 3] [--rounds 3] [--litellm PATH] [--portkey PATH]

Every gateway is a process of its own in front of one upstream, which answers at once with the same whole answer; the load is
a process as well. Rounds go over all of them in turn, so that what else the machine does hits everybody, and the best round
of each counts. `--litellm` is the command `litellm` of an environment with `litellm[proxy]`, `--portkey` the file
build/start-server.js of the package @portkey-ai/gateway (needs node). Peers pass a plain call on as a plain one: "plain" is
`stream_upstream: false`, and "default" what this program does otherwise. All traffic stays on loopback; Linux only, because
of /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONNECTIONS = (1, 16, 64)
MOST_SECONDS = 30.0
START_WITHIN_S = 60.0
TEXT = "The capital of Japan is Tokyo. " * 8
USAGE = {"prompt_tokens": 20, "completion_tokens": 56, "total_tokens": 76}
WHOLE = json.dumps(
    {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "small",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
).encode()  # fmt: skip
BODY = json.dumps(
    {"model": "small", "messages": [{"role": "user", "content": "What is the capital of Japan?"}]}
)


@dataclass(slots=True, kw_only=True)
class Gateway:
    """One server under load."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    path: str = "/v1/chat/completions"
    headers: dict[str, str] = field(default_factory=dict)
    best: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Requests a second and milliseconds of CPU a request, by connections."""


def events() -> bytes:
    """Return the answer as a stream, a chunk for each of its words."""
    words = TEXT.split(" ")
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "small"}
    chunks = [
        {**frame, "choices": [{"index": 0, "delta": {"content": word + " "}, "finish_reason": None}]}
        for word in words
    ]
    chunks.append({**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": USAGE})
    return (
        b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    )


class Upstream(asyncio.Protocol):
    """Answers every POST at once, streamed where that is asked for."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or b"0")
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            streamed = b'"stream":true' in body.replace(b" ", b"")
            assert self._transport is not None
            self._transport.write(STREAMED if streamed else PLAIN)


def _response(kind: bytes, body: bytes) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\ncontent-length: %d\r\n\r\n" % len(body)
    ) + body


PLAIN = _response(b"application/json", WHOLE)
STREAMED = _response(b"text/event-stream", events())


async def serve_upstream(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


async def one_connection(port: int, request: bytes, until: float) -> int:
    """Ask again and again over one connection; return how often. Raises AssertionError for a bad answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    try:
        while time.perf_counter() < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head[:200]
            lower = head.lower()
            if b"content-length:" in lower:
                body = await reader.readexactly(
                    int(lower.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
                )
            else:
                body = b""
                while size := int((await reader.readuntil(b"\r\n")).strip() or b"0", 16):
                    body += (await reader.readexactly(size + 2))[:-2]
                await reader.readuntil(b"\r\n")
            assert b"Tokyo" in body, body[:200]
            count += 1
    finally:
        writer.close()
    return count


async def load(port: int, path: str, headers: dict[str, str], connections: int, seconds: float) -> float:
    """Return how many requests a second were answered."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n{lines}"
        f"content-length: {len(BODY)}\r\n\r\n{BODY}"
    ).encode()
    began = time.perf_counter()
    counts = await asyncio.gather(
        *(one_connection(port, request, began + seconds) for _ in range(connections))
    )
    return sum(counts) / (time.perf_counter() - began)


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its children that are there."""
    total = 0.0
    for each in [pid, *_children(pid)]:
        fields_ = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields_[11]) + int(fields_[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from _children(int(child))


@contextmanager
def process(command: list[str], *, folder: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the block ends."""
    started = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **variables},
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


def wait_for(port: int, name: str) -> None:
    until = time.monotonic() + START_WITHIN_S
    while time.monotonic() < until:
        with socket.socket() as trial:
            trial.settimeout(0.5)
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"{name} does not start")


def ours(
    stack: ExitStack, folder: Path, upstream: int, *, name: str, stream: bool, dashboard: bool
) -> Gateway:
    place = folder / name.replace(" ", "-")
    place.mkdir()
    (place / "providers.yaml").write_text(
        f"providers:\n  - {{name: up, type: openai, endpoint: 'http://127.0.0.1:{upstream}/v1/chat/completions', "
        f"model: small, stream_upstream: {str(stream).lower()}}}\n"
    )
    port = free_port()
    command = [sys.executable, str(ROOT / "main.py"), "--port", str(port), "--config", "providers.yaml"]
    command += [] if dashboard else ["--api-only"]
    started = stack.enter_context(process(command, folder=place))
    return Gateway(name=name, port=port, process=started)


def peers(
    stack: ExitStack, folder: Path, upstream: int, litellm: str | None, portkey: str | None
) -> list[Gateway]:
    found = []
    if litellm:
        port = free_port()
        config = folder / "litellm.yaml"
        config.write_text(
            "model_list:\n  - model_name: small\n    litellm_params: {model: openai/small, "
            f"api_base: 'http://127.0.0.1:{upstream}/v1', api_key: none}}\n"
        )
        command = [litellm, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        started = stack.enter_context(
            process(
                command,
                folder=folder,
                LITELLM_LOCAL_MODEL_COST_MAP="True",
                LITELLM_LOG="ERROR",
                # It listens on loopback alone, for as long as this runs.
                LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY="true",
            )
        )
        found.append(Gateway(name="LiteLLM", port=port, process=started))
    if portkey and shutil.which("node"):
        port = free_port()
        started = stack.enter_context(
            process(["node", portkey, f"--port={port}", "--headless"], folder=folder)
        )
        headers = {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1",
            "authorization": "Bearer none",
        }
        found.append(Gateway(name="Portkey", port=port, process=started, headers=headers))
    return found


def measure(gateway: Gateway, connections: int, seconds: float) -> None:
    """Let a process of its own put load on `gateway`, and keep the best round."""
    before = cpu_s(gateway.process.pid)
    arguments = [str(gateway.port), gateway.path, json.dumps(gateway.headers), str(connections), str(seconds)]
    done = subprocess.run(
        [sys.executable, __file__, "--load", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"{gateway.name}: {done.stderr.strip().splitlines()[-1][:200]}")
        return
    per_s = float(done.stdout)
    cpu_ms = (cpu_s(gateway.process.pid) - before) / max(1.0, per_s * seconds) * 1000
    if per_s > gateway.best.get(connections, (0.0, 0.0))[0]:
        gateway.best[connections] = (per_s, cpu_ms)


def main() -> None:
    if sys.argv[1:2] == ["--load"]:
        port, path, headers, count, length = sys.argv[2:]
        print(asyncio.run(load(int(port), path, json.loads(headers), int(count), float(length))))
        return
    if sys.argv[1:2] == ["--upstream"]:
        asyncio.run(serve_upstream(int(sys.argv[2])))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--litellm", metavar="PATH", default=shutil.which("litellm"))
    parser.add_argument("--portkey", metavar="PATH")
    options = parser.parse_args()
    if not (0 < options.seconds <= MOST_SECONDS and 0 < options.rounds <= 10):
        parser.error(f"at most {MOST_SECONDS:g} seconds and 10 rounds")
    upstream = free_port()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        stack.enter_context(process([sys.executable, __file__, "--upstream", str(upstream)], folder=folder))
        wait_for(upstream, "the upstream")
        gateways = [
            ours(stack, folder, upstream, name="api-only plain", stream=False, dashboard=False),
            ours(stack, folder, upstream, name="api-only default", stream=True, dashboard=False),
            ours(stack, folder, upstream, name="with dashboard plain", stream=False, dashboard=True),
            *peers(stack, folder, upstream, options.litellm, options.portkey),
        ]
        for gateway in gateways:
            wait_for(gateway.port, gateway.name)
            measure(gateway, 4, 1.0)  # warm
        for _ in range(options.rounds):
            for connections in CONNECTIONS:
                for gateway in gateways:
                    measure(gateway, connections, options.seconds)
        print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
        print(f"{'requests/s (ms of CPU a request)':34}" + "".join(f"{n:>20} conn." for n in CONNECTIONS))
        for gateway in gateways:
            cells = [gateway.best.get(n, (0.0, 0.0)) for n in CONNECTIONS]
            print(f"{gateway.name:34}" + "".join(f"{f'{r:,.0f} ({ms:.2f})':>26}" for r, ms in cells))


if __name__ == "__main__":
    main()
