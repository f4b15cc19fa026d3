"""One run, from the first process to the last."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.soak.callers import Callers, session
from benchmarks.soak.events import Events
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.logs import examine
from benchmarks.soak.processes import Clock, Replica, StateServer, free_ports, has_redis
from benchmarks.soak.questions import reply
from benchmarks.soak.verdicts import JUDGED_FROM_S, Run, complaints
from benchmarks.soak.watch import Sample, sample
from benchmarks.soak.weather import PROVIDERS, Operators, Weather, heal
from fallback.standin import Fault, StandInThread

__all__ = ["Plan", "soak"]

KEYS = {f"{name.upper()}_API_KEY": f"soak-key-of-{name}" for name in (*PROVIDERS, "wrong_key")}
AGREE_WITHIN_S = 60.0
RECOVER_WITHIN_S = 150.0
"""A provider that sent a page in place of an answer is left alone for a minute."""
_IN_FLIGHT = re.compile(r"^fallback_http_requests_in_flight (\S+)$", re.MULTILINE)

PROVIDERS_YAML = """
providers:
  - {{name: wrong_key, type: openai, endpoint: "{wrong_key}", model: w, api_key_env: WRONG_KEY_API_KEY}}
  - {{name: first, type: groq, endpoint: "{first}", model: a, api_key_env: FIRST_API_KEY}}
  - {{name: second, type: together, endpoint: "{second}", model: b, api_key_env: SECOND_API_KEY}}
  - {{name: third, type: openai, endpoint: "{third}", model: c, api_key_env: THIRD_API_KEY}}
routing: {{deadline_s: 20, first_token_timeout_s: 2, idle_timeout_s: 2, cooldown_s: 1}}
log: {{folder: logs, rotate_bytes: 2000000}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long, how many, and in which order chance has it."""

    minutes: float
    seed: int
    callers: int = 16
    replicas: int = 2
    workers: int = 2
    sqlite: bool = False
    """Whether one replica shares its state through a file, although a state server could be started."""
    keep: Path | None = None
    """A folder that stays; None: a temporary one."""


@dataclass(slots=True, kw_only=True)
class Result:
    """What a run found, and what happened in it."""

    plan: Plan
    run: Run
    events: Counter[str]
    faults: Counter[str]
    state: str
    samples: list[Sample] = field(default_factory=list)


@contextlib.contextmanager
def _folder(plan: Plan) -> Iterator[Path]:
    if plan.keep is not None:
        plan.keep.mkdir(parents=True)
        yield plan.keep
    else:
        with tempfile.TemporaryDirectory(prefix="soak-") as made:
            yield Path(made)


class Stage:
    """Everything that is started for one run. Whatever was started is ended, however the run ends."""

    def __init__(self, plan: Plan, folder: Path, stack: contextlib.ExitStack) -> None:
        self.plan = plan
        self.clock = Clock(folder)
        self.standin = stack.enter_context(StandInThread())
        pace = {"reply": reply, "first_token_s": 0.02, "per_token_s": 0.006, "jitter": 0.9, "seed": plan.seed}
        self.tenants = [
            self.standin.tenant("first", dialect="groq", **pace),
            self.standin.tenant("second", dialect="together", prefill="ignore", overlap_words=2, **pace),
            self.standin.tenant("third", **pace),
        ]
        self.wrong_key = self.standin.tenant("wrong_key", default=Fault(kind="echo_key"))
        self.elsewhere = self.standin.tenant("elsewhere", reply=reply)
        self.server: StateServer | None = None
        each = plan.workers + 1
        port = free_ports(1 + plan.replicas * each)
        if has_redis() and not plan.sqlite:
            self.server = StateServer(folder, port)
            self.server.start()
            stack.callback(self.server.kill)
        count = plan.replicas if self.server is not None else 1
        self.replicas = [
            Replica(folder, f"replica{number}", port=port + 1 + number * each, workers=plan.workers)
            for number in range(count)
        ]
        urls = {tenant.name: tenant.url for tenant in (*self.tenants, self.wrong_key)}
        variables = {**KEYS, **({"STATE_URL": self.server.url} if self.server is not None else {})}
        for replica in self.replicas:
            replica.start(PROVIDERS_YAML.format(**urls), self.clock, variables)
            stack.callback(replica.end)

    @property
    def worker_urls(self) -> list[str]:
        """The own port of every worker."""
        return [
            replica.own_url(number) for replica in self.replicas for number in range(len(replica.own_ports))
        ]

    async def watch(self, samples: list[Sample]) -> None:
        """Look at the spared worker once a second, until cancelled."""
        pid = self.replicas[0].workers()[0]
        while True:
            seen = sample(pid)
            if seen is None:
                samples.clear()
                return
            samples.append(seen)
            await asyncio.sleep(1.0)


async def _get(client: aiohttp.ClientSession, url: str) -> str:
    async with client.get(url) as response:
        return await response.text()


async def _views(client: aiohttp.ClientSession, urls: Sequence[str]) -> list[Any]:
    """Return what each worker says of the providers, without what changes by the moment or is its own."""
    found = []
    for url in urls:
        told = json.loads(await _get(client, f"{url}/api/providers"))
        states = {
            each["name"]: (each["enabled"], each["drill"], each["name"] == "wrong_key" or each["state"])
            for each in told["providers"]
        }
        found.append((told["order"], told["warning"], states))
    return found


async def _recovered(client: aiohttp.ClientSession, stage: Stage, callers: Callers, within_s: float) -> bool:
    """Ask on until all workers say that every provider is ready; False where that takes too long."""
    until = time.monotonic() + within_s
    ready = {
        name: (True, None, True if name == "wrong_key" else "ready") for name in (*PROVIDERS, "wrong_key")
    }
    expected = (["wrong_key", *PROVIDERS], None, ready)
    while True:
        for url in stage.worker_urls:
            for name in PROVIDERS:
                await callers.ask_of(client, url, name)
        with contextlib.suppress(aiohttp.ClientError, OSError):
            views = await _views(client, stage.worker_urls)
            if all(view == expected for view in views):
                return True
            if time.monotonic() > until:
                print(f"not agreed: {views}")
                return False
        await asyncio.sleep(0.5)


async def _left_open(client: aiohttp.ClientSession, stage: Stage) -> int:
    """Return how many calls and requests are open although nobody asks; waits for those just ending."""
    until = time.monotonic() + AGREE_WITHIN_S
    while True:
        count = sum(tenant.counters.in_flight for tenant in (*stage.tenants, stage.wrong_key))
        for url in stage.worker_urls:
            found = _IN_FLIGHT.search(await _get(client, f"{url}/metrics"))
            assert found is not None
            count += int(float(found[1]))
        if not count or time.monotonic() > until:
            return count
        await asyncio.sleep(0.5)


async def _while_all_breaks(
    stage: Stage, client: aiohttp.ClientSession, callers: Callers, events: Events, weather: Weather
) -> None:
    operators = Operators(
        client,
        [replica.url for replica in stage.replicas],
        callers.take,
        seed=stage.plan.seed,
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(callers.run())
        breaking = group.create_task(events.run())
        others = [group.create_task(weather.run()), group.create_task(operators.run())]
        await asyncio.sleep(stage.plan.minutes * 60)
        events.stop()
        await breaking
        for task in others:
            task.cancel()
        callers.stop()
    weather.clear()


async def _perform(
    stage: Stage, ledger: Ledger, samples: list[Sample]
) -> tuple[Events, Weather, dict[str, Any]]:
    plan = stage.plan
    callers = Callers([replica.url for replica in stage.replicas], ledger, count=plan.callers, seed=plan.seed)
    weather = Weather(stage.tenants, stage.elsewhere.url, list(KEYS.values()), seed=plan.seed)
    async with session() as client:
        events = Events(client, stage.replicas, stage.server, stage.clock, ledger, seed=plan.seed)
        watching = asyncio.create_task(stage.watch(samples))
        await _while_all_breaks(stage, client, callers, events, weather)
        watching.cancel()
        # In a long run cooldowns have to end by themselves.
        alone = plan.minutes * 60 >= JUDGED_FROM_S
        await heal(client, stage.replicas[0].url, cooldowns=not alone)
        agree = await _recovered(client, stage, callers, RECOVER_WITHIN_S if alone else AGREE_WITHIN_S)
        outcomes = [
            outcome for url in stage.worker_urls for outcome in await callers.ask_in_each_way(client, url)
        ]
        found = {
            "agree": agree,
            "calm_asked": len(outcomes),
            "calm_right": sum(outcome.kind == "right" for outcome in outcomes),
            "left_open": await _left_open(client, stage),
        }
    return events, weather, found


def soak(plan: Plan) -> Result:
    """Carry out one run. Raises SystemExit where something does not start."""
    ledger, samples = Ledger(), list[Sample]()
    with _folder(plan) as folder, contextlib.ExitStack() as stack:
        stage = Stage(plan, folder, stack)
        began = time.monotonic()
        events, weather, found = asyncio.run(_perform(stage, ledger, samples))
        seconds = time.monotonic() - began
        for replica in stage.replicas:
            replica.end()
        output = "".join(replica.output() for replica in stage.replicas)
        run = Run(
            seconds=seconds,
            ledger=ledger,
            full=events.full,
            log=examine(
                [each.logs for each in stage.replicas], ledger.acknowledged, events.full, KEYS.values()
            ),
            samples=samples,
            redirects_followed=stage.elsewhere.counters.requests,
            statuses=[replica.status for replica in stage.replicas],
            told_secrets=[f"the output holds {key}" for key in KEYS.values() if key in output],
            complaints=complaints(output),
            not_broken=events.missing(),
            workers=len(stage.worker_urls),
            **found,
        )
        state = "Redis" if stage.server is not None else "SQLite"
    return Result(
        plan=plan, run=run, events=events.counts, faults=weather.counts, state=state, samples=samples
    )
