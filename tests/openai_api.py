"""The program with the API under /v1 in front of stand-ins or of scripted providers."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from fallback.api import Program
from fallback.api.closing import Closing
from fallback.api.middleware import Envelope
from fallback.api.routes import routes
from fallback.core.policy import RoutingPolicy
from fallback.router import AsyncModelRouter
from fallback.testing import AsyncScriptedTransport, FakeClock, Reply, Script, scripted_wiring

KEY = "test-key-not-real"
JSON = {"content-type": "application/json"}
HELLO = [{"role": "user", "content": "What is the capital of Japan?"}]
PATH = "/v1/chat/completions"
CONFIG = """
providers:
  - name: groq_llama
    type: groq
    endpoint: {base}/groq_llama/openai/v1/chat/completions
    api_key_env: TEST_GROQ_KEY
    model: model-a
    context_window: 8192
    input_usd_per_1m: 1
    output_usd_per_1m: 2
  - name: together_llama
    type: together
    endpoint: {base}/together_llama/v1/chat/completions
    model: vendor/model-b
routing:
  retries: 0
routes:
  backwards: [together_llama, groq_llama]
"""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
    for name in ("weather", "time")
]  # fmt: skip


def application(program: Program) -> Starlette:
    return Starlette(routes=program.routes(), middleware=program.middleware(), lifespan=program.lifespan)


@contextmanager
def serving(program: Program) -> Iterator[tuple[int, asyncio.AbstractEventLoop]]:
    """Serve `program` from a thread; gives its port and its event loop."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve()

    server = uvicorn.Server(
        uvicorn.Config(application(program), port=0, log_level="critical", timeout_graceful_shutdown=3)
    )
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    until = time.monotonic() + 10
    while not server.started and time.monotonic() < until:
        thread.join(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1], loops[0]
    finally:
        server.should_exit = True
        thread.join(10)


@dataclass
class Running:
    """What the routes need of a program."""

    router: AsyncModelRouter
    closing: Closing
    keep_alive_s: float = 10.0
    send_limit_s: float = 30.0


def scripted_app(
    script: Script,
    *,
    keep_alive_s: float = 10.0,
    send_limit_s: float = 30.0,
    providers: str = "a",
    closing: Closing | None = None,
) -> ASGIApp:
    """Return a program whose providers, each named by one letter, play `script`."""
    clock = script.clock
    wiring, _ = scripted_wiring(list(providers), clock=clock, policy=RoutingPolicy(retries=0))
    router = AsyncModelRouter(wiring, transport=AsyncScriptedTransport(script), sleep=clock.advance_async)
    return Envelope(
        Starlette(routes=routes(Running(router, closing or Closing(), keep_alive_s, send_limit_s)))
    )


def scripted(*replies: Reply) -> TestClient:
    """Return a client of a program whose providers a, b, ... answer with one of `replies` each."""
    script = Script(FakeClock())
    names = "abcdefgh"[: len(replies)]
    for name, reply in zip(names, replies, strict=True):
        script.add(name, reply)
    return TestClient(scripted_app(script, providers=names))


def chunk(*choices: dict[str, Any], **more: Any) -> bytes:
    """Return one event of a provider's stream."""
    return b"data: " + json.dumps({"model": "theirs", "choices": choices, **more}).encode() + b"\n\n"


def choice(delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason, **more}


def provider_stream(*events: bytes, done: bool = True) -> Reply:
    return Reply(
        headers={"content-type": "text/event-stream"},
        body=[*events, *([b"data: [DONE]\n\n"] if done else [])],
    )


def provider_body(**body: Any) -> Reply:
    return Reply(
        headers={"content-type": "application/json"}, body=[json.dumps({"model": "theirs", **body}).encode()]
    )


def ask(client: TestClient, **body: Any) -> Any:
    headers = body.pop("headers", {})
    return client.post(PATH, json={"model": "auto", "messages": HELLO, **body}, headers=headers)


@dataclass(frozen=True)
class Streamed:
    """A stream as it was read: its chunks, the error that ended it, whether [DONE] was the last event."""

    chunks: list[dict[str, Any]]
    error: dict[str, Any] | None
    done: bool

    @property
    def text(self) -> str:
        return "".join(self.deltas_of("content"))

    def deltas_of(self, name: str, index: int = 0) -> list[Any]:
        return [
            each["delta"][name]
            for chunk in self.chunks
            for each in chunk["choices"]
            if each["index"] == index and each["delta"].get(name) is not None
        ]

    @property
    def finish_reasons(self) -> list[tuple[int, str]]:
        return [
            (each["index"], each["finish_reason"])
            for chunk in self.chunks
            for each in chunk["choices"]
            if each["finish_reason"] is not None
        ]


def read(text: str) -> Streamed:
    """Take a stream apart. Whatever is neither a chunk, an error, [DONE] nor a comment fails."""
    events = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    assert all(event.startswith("data: ") and "\n" not in event for event in events), text
    payloads = [event.removeprefix("data: ") for event in events]
    done = bool(payloads) and payloads[-1] == "[DONE]"
    objects = [json.loads(payload) for payload in (payloads[:-1] if done else payloads)]
    error = objects.pop()["error"] if objects and "error" in objects[-1] else None
    assert all(each["object"] == "chat.completion.chunk" for each in objects)
    return Streamed(objects, error, done)
