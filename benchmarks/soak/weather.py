"""The providers' weather: what each of them does wrong, for some seconds at a time, and what people do about them meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

import aiohttp

from benchmarks.soak.ledger import Outcome
from fallback.standin import Fault
from fallback.standin.tenants import Tenant

__all__ = ["PROVIDERS", "Operators", "Weather", "heal"]

Take = Callable[[str, Awaitable[Outcome]], Awaitable[Outcome]]

PROVIDERS = ("first", "second", "third")
"""Those that can answer, in their order; `wrong_key` stands before them."""

# None of these ends until the configuration changes (401, 404), or changes what a good answer says (bytes that are not UTF-8).
_MINUTE = frozenset({"html", "wrong_type", "garbage", "redirect", "bad_gzip", "json_for_stream"})
"""For these a provider rests for a minute. With all of them resting there is not much to be seen, so they come seldom."""
_KEYED = '{"error": {"message": "the key KEY is tired", "type": "server_error"}}'


def faults(elsewhere: str, key: str) -> tuple[Fault, ...]:
    """Return what a provider may do wrong. `elsewhere` is where a redirect points, `key` what an error quotes."""
    return (
        Fault(kind="status", status=500),
        Fault(kind="status", status=500, body=_KEYED.replace("KEY", key)),
        Fault(kind="status", status=503),
        Fault(kind="status", status=429, retry_after="1"),
        Fault(kind="status", status=429, retry_after="3"),
        Fault(kind="status", status=502, html=True),
        Fault(kind="redirect", location=elsewhere),
        Fault(kind="html"),
        Fault(kind="garbage"),
        Fault(kind="reset"),
        Fault(kind="close"),
        Fault(kind="error_200"),
        Fault(kind="empty"),
        Fault(kind="no_choices"),
        Fault(kind="empty_body"),
        Fault(kind="wrong_type"),
        Fault(kind="truncated_json"),
        Fault(kind="stream_for_json"),
        Fault(kind="json_for_stream"),
        Fault(kind="malformed_event", after_words=7),
        Fault(kind="no_finish"),
        Fault(kind="no_done"),
        Fault(kind="bad_gzip"),
        Fault(kind="crlf"),
        Fault(kind="split", split_bytes=7),
        Fault(kind="hang", seconds=5),
        Fault(kind="hang_after_headers", seconds=5),
        Fault(kind="slow_first_token", seconds=1.5),
        Fault(kind="stall", after_words=9, seconds=5),
        Fault(kind="keepalives", after_words=6, interval_s=0.1, count=20),
        *(Fault(kind="cut", after_words=words, ending="eof") for words in (0, 1, 5)),
        *(Fault(kind="cut", after_words=words, ending="close") for words in (2, 10)),
        *(Fault(kind="cut", after_words=words, ending="reset") for words in (3, 11)),
        Fault(kind="error_event", after_words=0),
        Fault(kind="error_event", after_words=8),
        Fault(kind="error_event", after_words=4, shape="event", status=429),
    )


class Weather:
    """Changes what the providers do every few seconds, until cancelled."""

    def __init__(self, tenants: Sequence[Tenant], elsewhere: str, keys: Sequence[str], *, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        """How often each kind of fault came up."""
        self._random = Random(f"{seed} weather")
        self._tenants = tenants
        self._faults = [faults(elsewhere, key) for key in keys]
        self._weights = [0.1 if fault.kind in _MINUTE else 1.0 for fault in self._faults[0]]

    async def run(self) -> None:
        """Go on and on: mostly one provider in trouble, sometimes two, seldom all."""
        while True:
            struck = self._random.choices((1, 2, 3, 0), (6, 3, 1, 1))[0]
            for number in self._random.sample(range(len(self._tenants)), struck):
                fault = self._random.choices(self._faults[number], self._weights)[0]
                self.counts[fault.kind] += 1
                share = self._random.choice((0.2, 0.5, 1.0))
                self._tenants[number].configure(default=fault, probability=share)
            await asyncio.sleep(self._random.uniform(1.0, 4.0) if struck < 3 else 1.5)
            self.clear()

    def clear(self) -> None:
        """Let every provider be well."""
        for tenant in self._tenants:
            tenant.always(None)


_DRILLS: tuple[dict[str, Any], ...] = (
    {"kind": "off"},
    {"kind": "unauthorized"},
    {"kind": "rate_limited", "value": 2},
    {"kind": "server_error"},
    {"kind": "overloaded", "probability": 0.5},
    {"kind": "refused"},
    {"kind": "reset", "probability": 0.5},
    {"kind": "html"},
    {"kind": "empty_answer"},
)
"""Those that make a provider fail before its first word: the others answer with a text of their own."""


class Operators:
    """People who throw switches, run drills and change the order, until cancelled."""

    def __init__(self, client: aiohttp.ClientSession, urls: Sequence[str], take: Take, *, seed: int) -> None:
        """`take` awaits an outcome and takes it down."""
        self._client = client
        self._urls = urls
        self._take = take
        self._random = Random(f"{seed} operators")

    async def run(self) -> None:
        """Go on and on; what was thrown comes back some seconds later."""
        while True:
            name = self._random.choice((*PROVIDERS, "wrong_key"))
            match self._random.randrange(5):
                case 0:
                    await self._change(f"/{name}", {"enabled": False})
                    await asyncio.sleep(self._random.uniform(0.5, 3))
                    await self._change(f"/{name}", {"enabled": True})
                case 1 | 2:
                    drill = {**self._random.choice(_DRILLS), "for_s": round(self._random.uniform(1, 6), 1)}
                    await self._change(f"/{name}", {"drill": drill})
                case 3:
                    order = ["wrong_key", *PROVIDERS]
                    self._random.shuffle(order)
                    await self._change("", {"order": order})
                    await asyncio.sleep(self._random.uniform(0.5, 3))
                    await self._change("", {"order": None})
                case _:
                    await self._change(f"/{name}", {"end_cooldown": True})
            await asyncio.sleep(self._random.uniform(0.3, 2))

    async def _change(self, path: str, body: dict[str, Any]) -> None:
        url = self._random.choice(self._urls)
        await self._take("people who change providers", change(self._client, url, path, body))


async def change(client: aiohttp.ClientSession, url: str, path: str, body: dict[str, Any]) -> Outcome:
    """Change something over PATCH, and judge what is told."""
    async with client.patch(f"{url}/api/providers{path}", json=body) as response:
        told = await response.json()
        if response.status != 200:
            return Outcome(kind="wrong", detail=f"PATCH {path} {body} got {response.status}: {told}")
        return Outcome(kind="right")


async def heal(client: aiohttp.ClientSession, url: str, *, cooldowns: bool) -> None:
    """Let everything be as providers.yaml says, and end the cooldowns where those are not to end by themselves."""
    rest = {"end_cooldown": True} if cooldowns else {}
    await change(client, url, "", {"preset": None})
    await change(client, url, "", {"order": None})
    for name in (*PROVIDERS, "wrong_key"):
        await change(client, url, f"/{name}", {"enabled": True, "drill": None, **rest})
