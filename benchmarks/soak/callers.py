"""The callers: each asks one thing after the other, over every route, and now and then behaves as callers should not."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Sequence
from random import Random
from typing import Any

import aiohttp

from benchmarks.soak.answers import Stream, plain_outcome, refused_outcome
from benchmarks.soak.ledger import Ledger, Outcome
from benchmarks.soak.questions import Question

__all__ = ["Callers", "session"]

HANG_S = 120.0
"""A request that takes longer hangs: the program's own deadline for one is 20 s."""
PAUSE_S = 0.25
CHAT, GENERATE = "/v1/chat/completions", "/api/generate"
JSON = {"content-type": "application/json"}
_STREAM_FORMS = ("words", "words", "words", "talk", "talk", "json", "tool")

_RUBBISH: tuple[tuple[str, dict[str, str], bytes, frozenset[int]], ...] = (
    (CHAT, JSON, b"{", frozenset({400})),
    (CHAT, JSON, b"[]", frozenset({400})),
    (CHAT, JSON, b'{"messages": 7}', frozenset({400})),
    (CHAT, JSON, b'{"messages": [{"role": "user", "content": "x"}], "model": "nobody"}', frozenset({404})),
    (CHAT, {"content-type": "text/plain"}, b"{}", frozenset({415})),
    (CHAT, JSON, b'{"a": "' + b"x" * 1_200_000 + b'"}', frozenset({413})),
    (GENERATE, JSON, b"", frozenset({400})),
    (GENERATE, JSON, b'{"prompt": "x", "temperature": 99}', frozenset({400})),
    (GENERATE, JSON, b'{"prompt": "x", "no_such_key": 1}', frozenset({400})),
    (GENERATE, JSON, b'{"prompt": "\xff"}', frozenset({400})),
    (GENERATE, JSON, b"[" * 50_000, frozenset({400})),
    ("/v1/nowhere", JSON, b"{}", frozenset({404})),
)
_RAW = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/1.1\r\nhost 127.0.0.1\r\n\r\n",
    b"POST /api/generate HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\n{",
    b"POST /api/generate HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
)


def session() -> aiohttp.ClientSession:
    """Return a client without limits of its own but the one on a hang."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=20.0),
        timeout=aiohttp.ClientTimeout(total=HANG_S),
        read_bufsize=2**20,
    )


class Callers:
    """So many of them, who ask the replicas at `urls` until `stop`."""

    def __init__(self, urls: Sequence[str], ledger: Ledger, *, count: int, seed: int) -> None:
        self._urls = urls
        self._ledger = ledger
        self._count = count
        self._seed = seed
        self._serials = itertools.count(1)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let everybody end with what they are asking."""
        self._stopping.set()

    async def run(self) -> None:
        """Ask until told to stop. Returns once every request has come to its end."""
        async with session() as client, asyncio.TaskGroup() as group:
            for number in range(self._count):
                group.create_task(self._caller(client, Random(f"{self._seed} caller {number}")))

    async def _caller(self, client: aiohttp.ClientSession, random: Random) -> None:
        while not self._stopping.is_set():
            await self.ask(client, random.choice(self._urls), random)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), random.uniform(0, PAUSE_S))

    async def ask(self, client: aiohttp.ClientSession, url: str, random: Random) -> None:
        """Ask one thing, in a way that chance decides."""
        draw = random.random()
        if draw < 0.05:
            way, work = "rubbish", self._rubbish(client, url, random)
        elif draw < 0.07:
            way, work = "rubbish", self._raw(url, random)
        else:
            openai, streamed = random.random() < 0.5, random.random() < 0.6
            leaves = random.random() < 0.1
            way = f"{CHAT if openai else GENERATE} {'streamed' if streamed else 'plain'}"
            question = self._question(random, openai=openai, streamed=streamed)
            path, headers, body = _request(
                question, openai=openai, streamed=streamed, deadline_s=_deadline(random)
            )
            asking = self._streamed if streamed else self._plain
            work = asking(client, f"{url}{path}", headers, body, question)
            if leaves:
                way, work = "callers who leave", _leaving(work, random)
        await self.take(way, work)

    async def ask_in_each_way(self, client: aiohttp.ClientSession, url: str) -> Sequence[Outcome]:
        """Ask once over each route, plain and streamed, without a deadline, and return what came of it."""
        outcomes = []
        for openai, streamed in itertools.product((True, False), repeat=2):
            question = Question.drawn(next(self._serials), Random(0), forms=("words",))
            path, headers, body = _request(question, openai=openai, streamed=streamed, deadline_s=None)
            asking = self._streamed if streamed else self._plain
            outcomes.append(
                await self.take(
                    "when all is well again", asking(client, f"{url}{path}", headers, body, question)
                )
            )
        return outcomes

    async def ask_of(self, client: aiohttp.ClientSession, url: str, provider: str) -> Outcome:
        """Ask once with a provider named: whoever rests behind others that are well is looked at by nobody else."""
        question = Question.drawn(next(self._serials), Random(0), forms=("words",))
        body = json.dumps({"model": provider, "messages": question.messages()}).encode()
        return await self.take(
            "while providers recover", self._plain(client, f"{url}{CHAT}", JSON, body, question)
        )

    async def take(self, way: str, work: Any) -> Outcome:
        """Await an outcome, and take it down."""
        began = time.monotonic()
        try:
            outcome: Outcome = await work
        except TimeoutError:
            outcome = Outcome(kind="wrong", detail=f"no end after {HANG_S:g} s")
        except (aiohttp.ClientError, OSError) as error:
            outcome = Outcome(kind="broken", detail=f"{type(error).__name__}: {error}")
        except (LookupError, TypeError, AttributeError) as error:
            outcome = Outcome(kind="wrong", detail=f"an answer of another shape: {error!r}")
        self._ledger.take(way, outcome, began)
        return outcome

    def _question(self, random: Random, *, openai: bool, streamed: bool) -> Question:
        forms: tuple[str, ...] = _STREAM_FORMS if openai else ("words", "words", "talk")
        if not streamed:
            forms = (*forms, "short")
        return Question.drawn(next(self._serials), random, forms=forms)

    async def _plain(
        self,
        client: aiohttp.ClientSession,
        url: str,
        headers: dict[str, str],
        body: bytes,
        question: Question,
    ) -> Outcome:
        async with client.post(url, data=body, headers=headers) as response:
            return plain_outcome(
                question, response.status, response.headers, await response.read(), openai="/v1/" in url
            )

    async def _streamed(
        self,
        client: aiohttp.ClientSession,
        url: str,
        headers: dict[str, str],
        body: bytes,
        question: Question,
    ) -> Outcome:
        async with client.post(url, data=body, headers=headers) as response:
            openai = "/v1/" in url
            if response.content_type != "text/event-stream":
                if response.status == 200:
                    return Outcome(kind="wrong", detail=f"{response.content_type} for a stream")
                return plain_outcome(
                    question, response.status, response.headers, await response.read(), openai=openai
                )
            stream = Stream(question, response.headers, openai=openai)
            async for data in response.content.iter_any():
                stream.feed(data)
            return stream.outcome()

    async def _rubbish(self, client: aiohttp.ClientSession, url: str, random: Random) -> Outcome:
        path, headers, body, allowed = random.choice(_RUBBISH)
        async with client.post(f"{url}{path}", data=body, headers=headers) as response:
            return refused_outcome(response.status, response.headers, await response.read(), allowed)

    async def _raw(self, url: str, random: Random) -> Outcome:
        """Send what is not HTTP, or half of it, and hear that it is refused or cut off."""
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(random.choice(_RAW))
            await writer.drain()
            writer.write_eof()
            told = await asyncio.wait_for(reader.read(), HANG_S)
        except ConnectionError:
            told = b""
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        if told and not told.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")):
            return Outcome(kind="wrong", detail=f"raw rubbish got {told[:100]!r}")
        return Outcome(kind="refused", detail="raw")


async def _leaving(work: Any, random: Random) -> Outcome:
    """Let a caller go away in the middle, at once, or, who was answered before, not at all."""
    try:
        async with asyncio.timeout(random.uniform(0, 0.4)):
            outcome: Outcome = await work
            return outcome
    except TimeoutError:
        return Outcome(kind="left")


def _deadline(random: Random) -> float | None:
    return round(random.uniform(0.2, 6.0), 2) if random.random() < 0.3 else None


def _request(
    question: Question, *, openai: bool, streamed: bool, deadline_s: float | None
) -> tuple[str, dict[str, str], bytes]:
    headers = dict(JSON)
    body: dict[str, Any] = {**question.extras()}
    if openai:
        body |= {"messages": question.messages()}
        if deadline_s is not None:
            headers["x-fallback-deadline-s"] = str(deadline_s)
    else:
        *before, last = question.messages()
        body |= {"prompt": last["content"]} | ({"messages": before} if before else {})
        body |= {} if deadline_s is None else {"deadline_s": deadline_s}
    if streamed:
        body["stream"] = True
    return CHAT if openai else GENERATE, headers, json.dumps(body).encode()
