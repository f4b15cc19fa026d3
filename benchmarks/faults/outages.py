"""What takes time or company to show: live streams, learned limits, outages, announced ends, a crowd."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.faults.figure import Figure, mostly_within, within
from benchmarks.faults.stage import PROBE_PROMPT, WAYS, WHOLE, Scene, Stage, Told
from fallback.standin import Fault, StandInThread

STREAMED = ("router, streamed", "HTTP, streamed")
LIVE_WORDS = 100
LIVE_PAUSE_S = 0.02
WARM_UPS = 25
"""Answers before a limit counts as learned: it takes 20."""
DOWN_BY = ("refused", "reset", "503")
DOWN_S = 60.0
EVERY_S = 4.0
BACK_WITHIN_S = 24.0
"""So long after its recovery a provider is looked for."""
ANNOUNCED_S = 8.0
CROWD = 100
CROWD_S = 36.0
CROWD_WORDS = 20
FLAP_S = 2.0


class _TimedSource:
    """A provider whose words are the instants at which it sends them."""

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole
        self._server: asyncio.Server
        self.url = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1/chat/completions"

    def stop(self) -> None:
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        await reader.readexactly(length)
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        )
        for _ in range(LIVE_WORDS):
            await asyncio.sleep(LIVE_PAUSE_S)
            self._write(writer, {"content": f"{time.monotonic():.6f} "}, None)
        if self._whole:
            self._write(writer, {}, "stop")
        writer.write(b"0\r\n\r\n")
        writer.close()

    @staticmethod
    def _write(writer: asyncio.StreamWriter, delta: Mapping[str, Any], finish: str | None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        event = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))


async def live(stage: Stage) -> list[Figure]:
    """Measure from the sending of each word to its arrival at the caller, in one piece and across a seam."""
    broken, good = _TimedSource(whole=False), _TimedSource(whole=True)
    await broken.start()
    await good.start()
    delays_s: list[float] = []
    for way in STREAMED:
        for first, second in ((good, good), (broken, good)):
            name = f"live{WAYS.index(way)}{first is good}"
            told = await stage.scene(name, first=first.url, second=second.url).ask(way, expected=None)
            stamps = [(at, float(word)) for at, text in told.arrivals for word in text.split()]
            assert len(stamps) == LIVE_WORDS * (1 if first is good else 2), "a word was lost"
            delays_s += [at - sent for at, sent in stamps]
    broken.stop()
    good.stop()
    milliseconds = [delay * 1000 for delay in delays_s]
    return [mostly_within("a word reaches the caller within 50 ms of its sending", milliseconds, 50.0, "ms")]


async def _warmed(stage: Stage, name: str) -> Scene:
    scene = stage.scene(name)
    for _ in range(WARM_UPS):
        told = await scene.ask("router, plain")
        assert told.provider == "first", told
    return scene


async def learned(stage: Stage) -> list[Figure]:
    """Let a provider go silent whose times are known."""

    async def ask(fault: Fault, way: str) -> float:
        name = f"learned-{fault.kind}{WAYS.index(way)}"
        scene = await _warmed(stage, name)
        stage.tenant(name, "first").always(fault)
        told = await scene.ask(way)
        assert told.whole, told
        return told.first_s or told.whole_s

    faults = (Fault(kind="hang"), Fault(kind="hang_after_headers"), Fault(kind="keepalives"))
    firsts = await asyncio.gather(*(ask(fault, way) for fault in faults for way in STREAMED))
    return [within("silent or endless keep-alives, limit learned: first token within 2.5 s", firsts, 2.5)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outage:
    told: Sequence[Told]
    dead: int
    """Attempts at the provider while it was down, probes included."""
    back_s: float


async def _outage(
    scene: Scene,
    way: str,
    down: Callable[[], Awaitable[object]],
    up: Callable[[], Awaitable[object]],
    lead_s: float,
) -> _Outage:
    """Let a provider go down `lead_s` before a request, for DOWN_S, with a request every EVERY_S."""
    asked: list[asyncio.Task[Told]] = []
    began: list[float] = []
    earlier = len(scene.attempts("first"))
    await down()
    fell = time.monotonic()
    start, recovered, dead = fell + lead_s, 0.0, 0
    for number in itertools.count():
        due = start + number * EVERY_S
        if not recovered and due >= fell + DOWN_S:
            await asyncio.sleep(fell + DOWN_S - time.monotonic())
            dead = len(scene.attempts("first")) - earlier
            await up()
            recovered = time.monotonic()
        await asyncio.sleep(due - time.monotonic())
        if recovered and (
            due - recovered > BACK_WITHIN_S or (asked[-1].done() and asked[-1].result().provider == "first")
        ):
            break
        began.append(time.monotonic())
        asked.append(asyncio.create_task(scene.ask(way)))
    told = await asyncio.gather(*asked)
    back = [at + (t.first_s or t.whole_s) for at, t in zip(began, told, strict=True) if t.provider == "first"]
    return _Outage(told=told, dead=dead, back_s=min(back, default=float("inf")) - recovered)


LEADS_S = (0.1, 2.0, 3.8)
"""How long before the first request the outage begins: where it ends between two requests decides who sees it first."""


async def outages(stage: Stage, healthy_s: float) -> list[Figure]:
    """Let providers go down for a minute in three ways, at three moments each."""

    async def play(kind: str, way: str, lead_s: float) -> _Outage:
        # So that requests of all outages do not come at the same instants and measure each other.
        await asyncio.sleep(EVERY_S / 6 * (DOWN_BY.index(kind) * 2 + STREAMED.index(way)))
        name = f"down-{kind}{WAYS.index(way)}-{LEADS_S.index(lead_s)}"
        if kind != "refused":
            tenant = stage.tenant(name, "first")
            fault = Fault(kind="reset") if kind == "reset" else Fault(kind="status", status=503)
            scene = stage.scene(name)

            async def down() -> None:
                tenant.always(fault)

            async def up() -> None:
                tenant.always(None)

            return await _outage(scene, way, down, up, lead_s)
        with StandInThread() as alone:
            scene = stage.scene(name, first=alone.tenant().url)
            return await _outage(
                scene,
                way,
                lambda: asyncio.to_thread(alone.stop),
                lambda: asyncio.to_thread(alone.start),
                lead_s,
            )

    played = await asyncio.gather(
        *(play(kind, way, lead) for kind in DOWN_BY for way in STREAMED for lead in LEADS_S)
    )
    return [
        Figure(
            wanted="down for 60 s, a request every 4 s: every request answered",
            measured=f"{sum(t.whole for o in played for t in o.told)} of {sum(len(o.told) for o in played)}",
            reached=all(t.whole for o in played for t in o.told),
        ),
        within(
            "the same: at most 4 attempts at the dead one, probes included",
            [o.dead for o in played],
            4,
            "attempts",
        ),
        within("the same: back on it at most 8 s after it recovers", [o.back_s for o in played], 8.0),
        mostly_within(
            "the same: after the first request none more than 0.5 s slower than the healthy provider",
            [told.whole_s - healthy_s for o in played for told in o.told[1:]],
            0.5,
        ),
    ]


async def announced(stage: Stage) -> list[Figure]:
    """Let a rate limit be announced as 8 s, by a refusal and by the headers of an answer."""

    async def play(kind: str) -> float:
        name, seen = f"limit-{kind}", list[float]()

        def reply(_: Mapping[str, Any]) -> str:
            seen.append(time.monotonic())
            return WHOLE

        tenant = stage.tenant(name, "first", reply=reply)
        if kind == "429":
            tenant.play(Fault(kind="status", status=429, retry_after=f"{ANNOUNCED_S:g}"))
        else:
            used_up = {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": f"{ANNOUNCED_S:g}s",
            }
            tenant.configure(headers=used_up)
        scene = stage.scene(name)
        for _ in range(24):
            told = await asyncio.gather(scene.ask(STREAMED[1]), asyncio.sleep(0.5))
            assert told[0].whole, told[0]
            tenant.configure(headers={})
        return seen[1] - seen[0]

    gaps = await asyncio.gather(play("429"), play("headers"))
    shown = ", ".join(f"{gap:.3g} s" for gap in gaps)
    return [
        Figure(
            wanted="rate limit announced as 8 s: nothing in those, the first attempt within 2 s after",
            measured=f"asked again after {shown} (429, headers)",
            reached=all(ANNOUNCED_S <= gap <= ANNOUNCED_S + 2.0 for gap in gaps),
        )
    ]


async def crowd(stage: Stage) -> list[Figure]:
    """Let a hundred callers ask at once while a provider flaps, and count probes in flight at the stand-in."""
    flying, most, probes = 0, 0, 0
    whole = " ".join(WHOLE.split()[:CROWD_WORDS])

    async def reply(body: Mapping[str, Any]) -> str:
        nonlocal flying, most, probes
        if body["messages"][-1]["content"] != PROBE_PROMPT:
            return whole
        flying, probes = flying + 1, probes + 1
        most = max(most, flying)
        try:
            await asyncio.sleep(0.3)
        finally:
            flying -= 1
        return whole

    pace = {"first_token_s": 0.2, "per_token_s": 0.08}
    tenant = stage.tenant("crowd", "first", reply=reply, **pace)
    stage.tenant("crowd", "second", text=whole, **pace)
    scene = stage.scene("crowd")
    end = time.monotonic() + CROWD_S

    async def caller(number: int) -> list[Told]:
        told: list[Told] = []
        await asyncio.sleep(number * 0.02)
        while time.monotonic() < end:
            told.append(await scene.ask(WAYS[number % len(WAYS)], expected=whole))
        return told

    async def flap() -> None:
        faults = (Fault(kind="reset"), Fault(kind="status", status=503), Fault(kind="cut", after_words=10))
        for number in itertools.count():
            tenant.always(None if number % 2 else faults[number // 2 % len(faults)])
            await asyncio.sleep(FLAP_S)

    flapping = asyncio.create_task(flap())
    told = [each for some in await asyncio.gather(*map(caller, range(CROWD))) for each in some]
    flapping.cancel()
    lost = [each for each in told if not each.whole]
    kinds = Counter(each.outcome for each in lost)
    return [
        Figure(
            wanted="100 callers at once while a provider flaps: no request lost",
            measured=f"{len(told) - len(lost)} of {len(told)} whole"
            + "".join(f", {number} {outcome}" for outcome, number in kinds.items()),
            reached=not lost,
        ),
        Figure(
            wanted="the same: at most one probe in flight",
            measured=f"{most} at a time, {probes} in all",
            reached=most == 1,
        ),
    ]
