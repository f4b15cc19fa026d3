"""What breaks around the program: one thing after the other, in an order that the seed decides.

Each event comes to its end, and what it broke is whole again, before the next one begins: so a line that is missing belongs to one of
them. Only the pauses are by the clock; whatever has to be there is waited for.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random

import aiohttp

from benchmarks.soak.ledger import Ledger
from benchmarks.soak.logs import DiskFull
from benchmarks.soak.processes import Clock, Replica, StateServer

__all__ = ["Events"]

PAUSE_S = 1.0
WAIT_S = 90.0
"""For a worker that was killed: the pause before it is replaced grows to 30 s."""
STEPS_S = (-7200.0, -600.0, -60.0, 45.0, 600.0, 10_800.0, 90_000.0)
_FAILURES = re.compile(r"^fallback_log_failures_total (\S+)$", re.MULTILINE)


class Events:
    """Goes on until told to stop. The first worker of the first replica is spared all along."""

    def __init__(
        self,
        client: aiohttp.ClientSession,
        replicas: Sequence[Replica],
        server: StateServer | None,
        clock: Clock,
        ledger: Ledger,
        *,
        seed: int,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.full: list[DiskFull] = []
        self._client = client
        self._replicas = replicas
        self._server = server
        self._clock = clock
        self._ledger = ledger
        self._random = Random(f"{seed} events")
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let what is broken be made whole again, and no more be broken."""
        self._stopping.set()

    async def run(self) -> None:
        """Let one thing after the other happen."""
        while not self._stopping.is_set():
            deck = self._deck()
            self._random.shuffle(deck)
            for name, event in deck:
                await event()
                self.counts[name] += 1
                await asyncio.sleep(PAUSE_S * self._random.uniform(0.5, 2))
                if self._stopping.is_set():
                    break

    def _deck(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        deck: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("worker killed", self._kill_worker),
            ("full disk", self._fill_disk),
            ("clock set", self._set_clock),
            ("worker killed", self._kill_worker),
            ("clock set", self._set_clock),
        ]
        if self._server is not None:
            deck += [
                ("state server killed", self._kill_server),
                ("state server killed and emptied", self._kill_and_wipe_server),
                ("state server stopped", self._stop_server),
                ("state server flushed", self._flush_server),
            ]
        return deck

    def missing(self) -> list[str]:
        """Return what has not happened."""
        return sorted({name for name, _ in self._deck()} - set(self.counts))

    async def _kill_worker(self) -> None:
        """Kill a worker that serves, any but the spared one, in the middle of what it does. Its successor is waited for."""
        for replica in self._replicas:
            if not await self._until(replica.all_serve, f"{replica.name} lacks a worker"):
                return
        choices = [
            (replica, pid)
            for replica in self._replicas
            for number, pid in replica.workers().items()
            if not (replica is self._replicas[0] and number == 0)
        ]
        replica, pid = self._random.choice(choices)
        signalled = time.monotonic()
        self._ledger.kills.append((signalled, signalled + WAIT_S))
        os.kill(pid, signal.SIGKILL)
        await self._until(lambda: pid not in replica.pids(), f"{replica.name} keeps a killed worker")
        self._ledger.kills[-1] = (signalled, time.monotonic())
        await self._until(replica.all_serve, f"{replica.name} has not replaced a killed worker")

    async def _fill_disk(self) -> None:
        """Let a replica's log grow no further, sometimes with room for a part of a line, for some seconds."""
        replica = self._random.choice(self._replicas)
        if not await self._until(replica.all_serve, f"{replica.name} lacks a worker"):
            return
        counted = await self._failures(replica)
        window = DiskFull(replica=replica.name, began=time.monotonic())
        before = replica.fill_disk(room=self._random.choice((0, 100, 5000)))
        try:
            await asyncio.sleep(self._random.uniform(2, 5))
        finally:
            replica.free_disk(before)
        # The next line of each worker is written again; those on their way while the limit was lifted are counted as well.
        await asyncio.sleep(0.5)
        window.counted = await self._failures(replica) - counted
        window.ended = time.monotonic()
        self.full.append(window)

    async def _failures(self, replica: Replica) -> float:
        """Return how many lines the workers of a replica say they have lost."""
        total = 0.0
        for number in range(len(replica.own_ports)):
            async with self._client.get(f"{replica.own_url(number)}/metrics") as response:
                found = _FAILURES.search(await response.text())
                assert found is not None
                total += float(found[1])
        return total

    async def _set_clock(self) -> None:
        """Set the clock forward or back, by minutes or hours; now and then to what it is."""
        step = self._random.choice((*STEPS_S, -self._clock.offset_s))
        self._clock.set(self._clock.offset_s + step)
        await asyncio.sleep(self._random.uniform(1, 3))

    async def _kill_server(self, *, wiped: bool = False) -> None:
        assert self._server is not None
        self._server.kill()
        await asyncio.sleep(self._random.uniform(0.5, 4))
        await asyncio.to_thread(self._server.start, wiped=wiped)

    async def _kill_and_wipe_server(self) -> None:
        await self._kill_server(wiped=True)

    async def _stop_server(self) -> None:
        assert self._server is not None
        self._server.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(self._random.uniform(1, 5))
        finally:
            self._server.signal(signal.SIGCONT)

    async def _flush_server(self) -> None:
        assert self._server is not None
        await asyncio.to_thread(self._server.ask, "FLUSHALL")

    async def _until(self, wanted: Callable[[], bool], complaint: str) -> bool:
        """Wait until something is there, a minute and a half at most; what never comes is told as wrong. Returns whether it came."""
        until = time.monotonic() + WAIT_S
        while not wanted():
            if time.monotonic() > until:
                self._ledger.accuse(complaint)
                return False
            await asyncio.sleep(0.1)
        return True
