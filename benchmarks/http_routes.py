"""Prints what a request over HTTP costs this program: microseconds of CPU, in one process and without any socket.

    python benchmarks/http_routes.py [--requests 200] [--rounds 15]

Each request is an ASGI scope and a body; the provider's response is ready in memory, as an event stream (what a provider is
asked for where nothing else is configured) or as one body (`stream_upstream: false`). So the figures hold everything that is
ours: routing, parsing, deciding, decoding, encoding, the usage log. Server and client connections come on top. "router" is the
same request without HTTP: what is above it is the route's own. Each word of an answer is a chunk where it is streamed. The best of several rounds counts; the calibration is that of
benchmarks/core.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from starlette.applications import Starlette
from starlette.types import ASGIApp, Message

from fallback.api.closing import Closing
from fallback.api.middleware import Envelope
from fallback.api.routes import routes
from fallback.config import LogSettings, Settings
from fallback.core.policy import RoutingPolicy
from fallback.intake import chat_request
from fallback.providers.base import WireRequest
from fallback.providers.settings import ModelSettings, Price, ProviderSettings
from fallback.router import AsyncModelRouter
from fallback.transport.base import Head
from fallback.wiring import assemble

WORDS = 100
PROMPT = "What is the capital of Japan? " * 10
MODEL = "llama-3.1-8b-instant"
SSE = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}
USAGE = {"prompt_tokens": 412, "completion_tokens": WORDS, "total_tokens": 412 + WORDS}


def settings(folder: Path, *, stream_upstream: bool) -> Settings:
    price = Price(input_usd_per_1m=0.05, output_usd_per_1m=0.08)
    providers = tuple(
        ProviderSettings(
            name=name,
            type="openai",
            endpoint=f"http://{name}.invalid/v1/chat/completions",
            models=(ModelSettings(name=model, price=price),),
            needs_key=False,
            stream_upstream=stream_upstream,
        )
        for name, model in (("groq_llama", MODEL), ("together_llama", "openai/gpt-oss-120b"))
    )
    return Settings(
        providers=providers,
        routing=RoutingPolicy(),
        log=LogSettings(folder=folder),
        source=folder / "providers.yaml",
    )


def calibration() -> float:
    """Return microseconds of CPU for the fixed piece of work of benchmarks/core.py."""
    started = time.process_time()
    for number in range(500):
        line = {f"field_{n}": number * n for n in range(20)}
        json.loads(json.dumps({name: value for name, value in line.items() if value != 7}))
    return (time.process_time() - started) / 500 * 1e6


def chunk(delta: dict[str, str], finish_reason: str | None = None, **more: Any) -> bytes:
    body = {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
        **more,
    }
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def streamed_response() -> list[bytes]:
    words = [chunk({"content": f" word{number}"}) for number in range(WORDS)]
    return [
        chunk({"role": "assistant", "content": ""}),
        *words,
        chunk({}, "stop", usage=USAGE),
        b"data: [DONE]\n\n",
    ]


def plain_response() -> list[bytes]:
    message = {"role": "assistant", "content": "".join(f" word{number}" for number in range(WORDS))}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return [json.dumps({"model": MODEL, "choices": [choice], "usage": USAGE}).encode(), b""]


class Ready:
    """A response that is in memory already."""

    def __init__(self, head: Head, body: Sequence[bytes]) -> None:
        self.head = head
        self._body = iter(body)

    async def read(self, limit_s: float) -> bytes:  # noqa: ARG002 - part of the protocol
        """Return the next piece."""
        return next(self._body, b"")

    async def close(self) -> None:
        """Do nothing."""

    def abort(self) -> None:
        """Do nothing."""


@dataclass
class ReadyTransport:
    """Answers every call with the same response."""

    headers: dict[str, str]
    body: Sequence[bytes]

    async def send(self, request: WireRequest, *, connect_s: float, limit_s: float) -> Ready:  # noqa: ARG002
        """Return it."""
        return Ready(Head(status=200, headers=self.headers), self.body)

    async def close(self) -> None:
        """Do nothing."""


@dataclass
class Running:
    """What the routes need."""

    router: AsyncModelRouter
    closing: Closing
    keep_alive_s: float = 10.0
    send_limit_s: float = 30.0


async def ask(app: ASGIApp, path: str, body: bytes) -> tuple[int, int]:
    """Return the status, and how many pieces the body came in."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"host", b"localhost:5000"), (b"content-type", b"application/json"),
                    (b"content-length", b"%d" % len(body)), (b"accept", b"application/json"),
                    (b"authorization", b"Bearer unused"), (b"user-agent", b"benchmark")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 5000),
    }  # fmt: skip
    received, status, pieces = False, 0, 0

    async def receive() -> Message:
        nonlocal received
        if received:
            await asyncio.get_running_loop().create_future()
        received = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, pieces
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            pieces += 1

    await app(scope, receive, send)
    return status, pieces


async def ask_router(router: AsyncModelRouter, *, stream: bool) -> None:
    request = chat_request(messages=[{"role": "user", "content": PROMPT}], wire=True, source="api")
    if not stream:
        await router.answer(request)
        return
    async with router.ask(request) as events:
        async for _ in events:
            pass


@dataclass(frozen=True)
class Case:
    """One line of the table; the path "router" stands for no HTTP at all."""

    path: str
    stream: bool
    upstream_streams: bool

    @property
    def name(self) -> str:
        """What the table says."""
        source = "streaming" if self.upstream_streams else "plain"
        return f"{self.path}, {'streamed' if self.stream else 'whole'}, {source} provider"

    @property
    def body(self) -> bytes:
        """What is sent."""
        asked: dict[str, Any] = (
            {"prompt": PROMPT}
            if self.path == "/api/generate"
            else {"model": "auto", "messages": [{"role": "user", "content": PROMPT}]}
        )
        return json.dumps({**asked, "stream": self.stream}, separators=(",", ":")).encode()


async def measure(case: Case, requests: int) -> float:
    """Return microseconds of CPU per request."""
    transport = (
        ReadyTransport(SSE, streamed_response())
        if case.upstream_streams
        else ReadyTransport(JSON, plain_response())
    )
    raw = case.body
    with tempfile.TemporaryDirectory() as folder:
        wiring = assemble(settings(Path(folder), stream_upstream=case.upstream_streams))
        router = AsyncModelRouter(wiring, transport=transport)
        app = Envelope(Starlette(routes=routes(Running(router, Closing()))))

        async def once() -> None:
            if case.path == "router":
                await ask_router(router, stream=case.stream)
                return
            status, pieces = await ask(app, case.path, raw)
            assert status == 200
            assert (pieces > WORDS) == case.stream

        await once()
        started = time.process_time()
        for _ in range(requests):
            await once()
        spent = time.process_time() - started
        await router.aclose()
        wiring.close()
    return spent / requests * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=200, help="requests of one round (200)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds, of which the best counts (15)")
    options = parser.parse_args()
    cases = [
        Case(path, stream, upstream_streams)
        for stream, upstream_streams in ((False, False), (False, True), (True, True))
        for path in ("router", "/v1/chat/completions", "/api/generate")
    ]
    best = dict.fromkeys(cases, float("inf"))
    unit = calibration()
    # In turn, so that what else the machine does strikes all of them alike.
    for _ in range(options.rounds):
        unit = min(unit, calibration())
        for case in cases:
            best[case] = min(best[case], asyncio.run(measure(case, options.requests)))
    print(f"Python {platform.python_version()}, {platform.machine()}, answers of {WORDS} words")
    print(f"{'microseconds of CPU per request':<58} {'us':>7} {'ratio':>7}")
    for case, cost_us in best.items():
        print(f"{case.name:<58} {cost_us:>7.1f} {cost_us / unit:>7.2f}")
    print(f"{'calibration loop':<58} {unit:>7.1f} {1:>7.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
