"""The stage of benchmarks/faults: a stand-in, the HTTP API on a real socket, and one request asked in one of four ways.

Every scene has two tenants of the stand-in, `first` and `second` in this order, and a router state of its own, so that
scenes run side by side without touching each other. All of it is one process: instants of one clock can be compared.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from fallback.api.closing import Closing
from fallback.api.middleware import Envelope
from fallback.api.routes import routes
from fallback.config import LogSettings, Settings
from fallback.core.errors import NoAnswerError
from fallback.core.models import Delta, Finished
from fallback.core.policy import RoutingPolicy
from fallback.providers.settings import ModelSettings, ProviderSettings
from fallback.router import AsyncModelRouter, ModelRouter
from fallback.standin import StandInThread, Tenant
from fallback.state import MemoryStateStore
from fallback.wiring import Wiring, assemble

WORDS = tuple(f"w{number}" for number in range(1, 61))
WHOLE = " ".join(WORDS)
WAYS = ("router, streamed", "router, plain", "HTTP, streamed", "HTTP, plain")
HANG_S = 65.0
"""A request that takes longer than this hangs: its deadline is 60 s."""
PROBE_PROMPT = "Reply with the word OK."
PROMPT = "Count to sixty."
THREADS = 512
FIRST_TOKEN_S = 0.05
PER_WORD_S = 0.004


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a caller got, and when: seconds from the request to the first word and to the end."""

    outcome: str
    """`whole`, `error: <kind>`, or what must never be: `TRUNCATED`, `GARBAGE`, `HANG`."""
    text: str = ""
    first_s: float | None = None
    whole_s: float = 0.0
    provider: str = ""
    """Who took part in the answer: "first and second" where one went on with the other's."""
    arrivals: Sequence[tuple[float, str]] = ()
    """(instant, text) of every delta."""

    @property
    def whole(self) -> bool:
        """Whether it is the whole answer."""
        return self.outcome == "whole"


@dataclass(slots=True)
class _Live:
    """What comes in of one streamed answer."""

    began: float
    arrivals: list[tuple[float, str]] = field(default_factory=list)

    def take(self, text: str) -> None:
        if text:
            self.arrivals.append((time.monotonic(), text))

    def told(self, outcome: str, *, provider: str = "", expected: str | None = WHOLE) -> Told:
        text = "".join(text for _, text in self.arrivals)
        return Told(
            outcome=_judged(outcome, text, expected),
            text=text,
            first_s=self.arrivals[0][0] - self.began if self.arrivals else None,
            whole_s=time.monotonic() - self.began,
            provider=provider,
            arrivals=tuple(self.arrivals),
        )


def _judged(outcome: str, text: str, expected: str | None) -> str:
    if expected is None or (outcome == "whole" and text == expected):
        return outcome
    if outcome == "whole":
        return "TRUNCATED" if expected.startswith(text) else "GARBAGE"
    # An error may follow a part of the answer, and nothing that is no part of it.
    return outcome if expected.startswith(text) else "GARBAGE"


class _Api:
    """The HTTP API of one scene, as routes need it."""

    def __init__(self, wiring: Wiring) -> None:
        self.router = AsyncModelRouter(wiring)
        self.closing = Closing()
        self.keep_alive_s = 10.0
        self.send_limit_s = 30.0
        self.application: ASGIApp = Envelope(Starlette(routes=routes(self)))


class Scene:
    """Two providers and what is known of them, alone on the stage."""

    def __init__(self, stage: Stage, name: str, urls: Mapping[str, str]) -> None:
        providers = tuple(
            ProviderSettings(
                name=provider,
                type="openai",
                endpoint=url,
                models=(ModelSettings(name="standin-model"),),
                needs_key=False,
                supports_prefill=True,
            )
            for provider, url in urls.items()
        )
        settings = Settings(
            providers=providers,
            routing=RoutingPolicy(),
            log=LogSettings(folder=Path("never-written")),
            source=Path("benchmark.yaml"),
        )
        self.lines: list[Mapping[str, object]] = []
        self.wiring = assemble(settings, record=self.lines.append, store=MemoryStateStore())
        self.name = name
        self._stage = stage
        self._router: ModelRouter | None = None

    async def ask(self, way: str, *, expected: str | None = WHOLE) -> Told:
        """Ask one question in one of WAYS and return what came of it."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(HANG_S):
                if way.startswith("HTTP"):
                    return await self._over_http(streamed=way.endswith("streamed"), expected=expected)
                asking = self._streamed if way.endswith("streamed") else self._plain
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._stage.threads, asking, expected)
        except TimeoutError:
            return Told(outcome="HANG", whole_s=time.monotonic() - began)

    def attempts(self, provider: str) -> list[Mapping[str, object]]:
        """Return the lines of the usage log about attempts at `provider`, probes included."""
        return [line for line in self.lines if line["kind"] == "attempt" and line["provider"] == provider]

    def router(self) -> ModelRouter:
        """Return the ModelRouter of this scene."""
        self._router = self._router or ModelRouter(self.wiring)
        return self._router

    def _streamed(self, expected: str | None) -> Told:
        live, provider = _Live(time.monotonic()), ""
        try:
            for event in self.router().stream(PROMPT, source="benchmark"):
                match event:
                    case Delta():
                        live.take(event.text)
                    case Finished():
                        provider = " and ".join(event.answer.providers)
        except NoAnswerError as error:
            return live.told(f"error: {error.kind or 'deadline'}", expected=expected)
        return live.told("whole", provider=provider, expected=expected)

    def _plain(self, expected: str | None) -> Told:
        live = _Live(time.monotonic())
        try:
            answer = self.router().invoke(PROMPT, source="benchmark")
        except NoAnswerError as error:
            return live.told(f"error: {error.kind or 'deadline'}", expected=expected)
        live.take(answer.text)
        return live.told("whole", provider=" and ".join(answer.providers), expected=expected)

    async def _over_http(self, *, streamed: bool, expected: str | None) -> Told:
        live = _Live(time.monotonic())
        url, body = f"{self._stage.url}/{self.name}/api/generate", {"prompt": PROMPT, "stream": streamed}
        async with self._stage.session.post(url, json=body) as response:
            if response.content_type == "text/event-stream":
                return await _events(response, live, expected)
            told = await response.json()
            if response.status != 200:
                return live.told(f"error: {told['error_type']}", expected=expected)
            live.take(told["response"])
            return live.told("whole", provider=" and ".join(told["providers"]), expected=expected)

    def close(self) -> None:
        """End what is under way."""
        if self._router is not None:
            self._router.close()


async def _events(response: aiohttp.ClientResponse, live: _Live, expected: str | None) -> Told:
    name, end, rest = "", Told(outcome="TRUNCATED"), b""  # a stream that just ends is truncated
    async for data in response.content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"event: "):
                name = line.removeprefix(b"event: ").decode()
            elif line.startswith(b"data: "):
                if end.outcome != "TRUNCATED":
                    return live.told("GARBAGE", expected=expected)  # something after the last event
                end = _event(name, json.loads(line.removeprefix(b"data: ")), live, expected) or end
    return end


def _event(name: str, told: Mapping[str, Any], live: _Live, expected: str | None) -> Told | None:
    match name:
        case "delta":
            live.take(told["text"])
        case "done":
            return live.told("whole", provider=" and ".join(told["providers"]), expected=expected)
        case "error":
            return live.told(f"error: {told['error_type']}", expected=expected)
    return None


class Stage:
    """The stand-in and the API's server: `async with Stage() as stage: ...`."""

    def __init__(self) -> None:
        self._standins = (StandInThread(), StandInThread())  # one has places for a thousand tenants
        self.threads = ThreadPoolExecutor(THREADS)
        self.url = ""
        self.session: aiohttp.ClientSession
        self._scenes: dict[str, Scene] = {}
        self._apis: dict[str, _Api] = {}
        self._loop: asyncio.AbstractEventLoop
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._dispatch,
                interface="asgi3",
                port=0,
                log_level="error",
                lifespan="off",
                access_log=False,
                timeout_keep_alive=600,  # a connection closed as the next request comes is not what is measured
            )
        )
        self._serving = threading.Thread(target=self._server.run, name="api", daemon=True)

    def scene(self, name: str, *, first: str = "", second: str = "") -> Scene:
        """Set up a scene; `first` and `second` are other addresses than those of its tenants."""
        addresses = {
            "first": first or self.tenant(name, "first").url,
            "second": second or self.tenant(name, "second").url,
        }
        scene = self._scenes[name] = Scene(self, name, addresses)
        return scene

    def tenant(self, scene: str, which: str, **settings: Any) -> Tenant:
        """Return one of the two tenants of a scene, who says 60 numbered words unless told otherwise."""
        place = zlib.crc32(scene.encode()) % len(self._standins)
        tenant = self._standins[place].tenant(f"{scene}-{which}")
        if not tenant.counters.requests:
            pace = {"first_token_s": FIRST_TOKEN_S, "per_token_s": PER_WORD_S}
            tenant.configure(**{**pace, **settings})
        return tenant

    async def _dispatch(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        _, name, rest = scope["path"].split("/", 2)
        if name not in self._apis:  # made here: its session belongs to the server's loop
            self._loop = asyncio.get_running_loop()
            self._apis[name] = _Api(self._scenes[name].wiring)
        scope["path"] = f"/{rest}"
        await self._apis[name].application(scope, receive, send)

    async def __aenter__(self) -> Self:
        for standin in self._standins:
            standin.start()
        self._serving.start()
        while not self._server.started:  # noqa: ASYNC110 - uvicorn tells it in no other way
            await asyncio.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.close()
        for api in self._apis.values():
            closing = asyncio.run_coroutine_threadsafe(api.router.aclose(), self._loop)
            await asyncio.wrap_future(closing)
        for scene in self._scenes.values():
            scene.close()
        self._server.should_exit = True
        self._server.force_exit = True
        for standin in self._standins:
            standin.stop()
        self.threads.shutdown(wait=False, cancel_futures=True)
