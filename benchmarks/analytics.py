"""Prints what the analytics cost, by length of the log: first read, refresh, every query of the page, warm opening, memory.

python benchmarks/analytics.py [--lines 1000000] [--pandas] [--page]

Logs of 10^4 lines up to --lines are made in a temporary folder (0.55 GB for 10^6) and deleted again; they cover a week, rotated
at 64 MiB as the program does it. Every figure is taken in a fresh process. With --pandas, pandas.read_json is timed as well;
with --page the real program is started over the log, and its Analytics page opened in Chromium until its figures stand.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fallback.core.kinds import FailureKind
from fallback.core.models import Answer, AttemptReport, Choice, Failure, Role, Usage
from fallback.usage_log import attempt_line, request_line, state_line
from fallback.usage_log.encode import encode_line, format_ts

PROVIDERS = ("groq_llama", "together_llama", "groq_second", "local")
MODELS = ("openai/gpt-oss-20b", "openai/gpt-oss-120b", "llama-3.3-70b-versatile", "SmolLM2-135M-Instruct")
KINDS = (FailureKind.RATE_LIMITED, FailureKind.TIMEOUT, FailureKind.SERVER_ERROR, FailureKind.OVERLOADED)
WEEK_S = 604_800.0
FILE_BYTES = 64 * 1024 * 1024
NEW_LINES = 1_000
LATEST = 1_790_000_000.0
MIB = 1024 * 1024
Taken = tuple[float, float]
"""Seconds by the clock, and seconds of CPU."""


class Course:
    """Requests as they come, one after another, with an outage now and then."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._number = 0

    def lines(self, ts: float) -> Iterator[bytes]:
        """Give the lines of one request that ends at `ts`."""
        draw = self._random
        self._number += 1
        request_id = f"req-{draw.getrandbits(64):016x}"
        source = draw.choices(("api", "chat", "python", "cli"), (70, 18, 8, 4))[0]
        route = draw.choices(("auto", "fast", "openai/gpt-oss-20b"), (85, 10, 5))[0]
        failing = draw.choices((0, 1, 2, 4), (920, 60, 15, 5))[0]
        drill = draw.random() < 0.01
        reports = [self._report(number, failing) for number in range(min(failing + 1, len(PROVIDERS)))]
        for report in reports:
            line = attempt_line(
                request_id=request_id, source=source, route=route, report=report, stream=True, drill=drill
            )
            yield encode_line(line, ts=format_ts(ts))
            if report.outcome != "ok" and draw.random() < 0.2:
                yield encode_line(
                    state_line(
                        provider=report.provider,
                        model=report.model,
                        from_state="ready",
                        to_state="cooling_down",
                        by="router",
                        reason=report.outcome,
                        length_s=10.0,
                        until=ts + 10.0,
                    ),
                    ts=format_ts(ts),
                )
        yield encode_line(self._request(request_id, source, route, reports, drill=drill), ts=format_ts(ts))

    def _report(self, number: int, failing: int) -> AttemptReport:
        draw = self._random
        role = Role.FAILOVER if number else Role.FIRST
        if number < failing:
            kind = draw.choice(KINDS)
            return AttemptReport(
                number=number + 1,
                role=role,
                provider=PROVIDERS[number],
                model=MODELS[number],
                outcome=str(kind),
                failure=Failure(
                    kind=kind, status=429, message="Rate limit reached for model, please try again"
                ),
                started_s=0.3 * number,
                duration_s=round(draw.random(), 6),
            )
        duration_s = round(draw.lognormvariate(0.2 * number, 0.5), 6)
        usage = Usage(input_tokens=draw.randint(20, 2_000), output_tokens=draw.randint(5, 900))
        return AttemptReport(
            number=number + 1,
            role=role,
            provider=PROVIDERS[number],
            model=MODELS[number],
            response_model=MODELS[number],
            outcome="ok",
            started_s=0.3 * number,
            duration_s=duration_s,
            time_to_first_token_s=round(duration_s * draw.uniform(0.1, 0.4), 6),
            usage=usage,
            cost_usd=usage.output_tokens * 3e-7,
            finish_reason="stop",
            provider_request_id=f"chatcmpl-{draw.getrandbits(80):020x}",
        )

    @staticmethod
    def _request(
        request_id: str, source: str, route: str, reports: list[AttemptReport], *, drill: bool
    ) -> dict[str, object]:
        last = reports[-1]
        answer = None
        if last.outcome == "ok" and last.usage is not None:
            answer = Answer(
                choices=(
                    Choice(index=0, message={"role": "assistant", "content": ""}, finish_reason="stop"),
                ),
                provider=last.provider,
                model=last.model,
                request_id=request_id,
                usage=last.usage,
                cost_usd=last.cost_usd,
                attempts=tuple(reports),
                degraded=last.provider == "local",
                activity_log=(),
                latency_s=last.started_s + last.duration_s,
                time_to_first_token_s=last.time_to_first_token_s,
            )
        return request_line(
            request_id=request_id,
            source=source,
            route=route,
            stream=True,
            outcome="ok" if answer else "error",
            duration_s=last.started_s + last.duration_s,
            attempts=reports,
            answer=answer,
            error_type=None if answer else last.outcome,
            drill=drill,
        )


def make_log(folder: Path, count: int) -> None:
    """Write `count` lines that cover a week, in files of 64 MiB."""
    course = Course(count)
    written = number = 0
    file = (folder / "usage.log").open("wb")
    while written < count:
        for line in course.lines(LATEST - WEEK_S + WEEK_S * written / count):
            file.write(line)
            written += 1
        if file.tell() >= FILE_BYTES:
            file.close()
            number += 1
            name = "usage-2026-09-20.log" if number == 1 else f"usage-2026-09-20.{number}.log"
            (folder / "usage.log").rename(folder / name)
            file = (folder / "usage.log").open("wb")
    file.close()


def append(folder: Path, seed: int) -> None:
    course = Course(seed)
    lines: list[bytes] = []
    while len(lines) < NEW_LINES:
        lines += course.lines(LATEST + seed)
    with (folder / "usage.log").open("ab") as file:
        file.writelines(lines[:NEW_LINES])


class Clock:
    """Seconds since it was made, and seconds of CPU of this process, all its threads together."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def read(self) -> Taken:
        """Give both."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def seconds(work: Callable[[], object]) -> Taken:
    clock = Clock()
    work()
    return clock.read()


def measure_first(folder: Path) -> dict[str, Taken]:
    from fallback.analytics import Analytics

    with Analytics(folder) as analytics:
        seen: list[float] = []
        taken = seconds(lambda: analytics.refresh(seen.append))
        assert seen[-1] == 1.0
    return {"first read": taken}


def measure_page(folder: Path) -> dict[str, Taken]:
    """Open on a warm cache, ask every query of the page; append and refresh five times; ask again."""
    clock = Clock()
    import fallback.analytics as package
    from fallback.analytics import Analytics, Filters, window

    taken = {"import": clock.read()}
    figures = (
        *(package.totals, package.totals_over_time, package.failovers_over_time, package.failover_pairs),
        *(package.latency_over_time, package.latency_distribution, package.failures, package.availability),
        *(package.states, package.consumption, package.requests),
    )
    with Analytics(folder, wall=lambda: LATEST + 60) as analytics:

        def page(filters: Filters) -> None:
            coverage = analytics.coverage
            chosen = window(None, LATEST + 60, first_ts=coverage.first_ts)
            for figure in figures:
                taken[figure.__name__] = seconds(partial(figure, analytics, chosen, filters))
            taken["choices"] = seconds(lambda: package.choices(analytics))

        clock = Clock()
        analytics.refresh()
        page(Filters())
        taken["warm open, with all queries"] = clock.read()
        refreshes, pages = [], []
        for number in range(5):
            append(folder, number)
            clock = Clock()
            analytics.refresh()
            refreshes.append(clock.read())
            page(Filters())
            pages.append(clock.read())
        taken["refresh after 1,000 lines"] = sorted(refreshes)[2]
        taken["the same with all queries"] = sorted(pages)[2]
        unfiltered = dict(taken)
        taken["all queries, one provider"] = seconds(lambda: page(Filters(providers=("together_llama",))))
        taken["all queries, one source"] = seconds(lambda: page(Filters(sources=("chat",))))
        found = package.requests(analytics, window(None, LATEST + 60, first_ts=LATEST), Filters(), limit=1)
        request_id = str(found.request_id[0])
        taken["one request: attempts"] = seconds(lambda: package.attempts(analytics, request_id))
        taken["one request: lines"] = seconds(lambda: package.lines(analytics, request_id))
    return {**taken, **unfiltered}


def measure_pandas(folder: Path) -> dict[str, Taken]:
    import pandas as pd

    files = sorted(folder.glob("usage*.log"))
    return {"pandas.read_json": seconds(lambda: [pd.read_json(path, lines=True) for path in files])}


MEASURES = {"first": measure_first, "page": measure_page, "pandas": measure_pandas}


def in_fresh_process(name: str, folder: Path) -> dict[str, list[float]]:
    command = [sys.executable, __file__, "--measure", name, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def print_measures(lines: int, *, with_pandas: bool, with_page: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_log(folder, lines)
        size = sum(path.stat().st_size for path in folder.glob("usage*.log"))
        print(f"\n{lines:,} lines, {size / MIB:,.0f} MiB")
        for measure in ("first", "page", *(("pandas",) if with_pandas else ())):
            found = in_fresh_process(measure, folder)
            peak = found.pop("peak RSS")[0]
            for what, (wall, cpu) in found.items():
                print(f"  {what:<32}{wall * 1000:>10,.0f} ms{cpu * 1000:>10,.0f} ms of CPU")
            print(f"  {f'peak memory of the process ({measure})':<40}{peak:>7,.0f} MiB")
        cache = folder / "analytics.duckdb"
        print(f"  {'size of the cache':<40}{cache.stat().st_size / MIB:>7,.0f} MiB", flush=True)
        if with_page:
            # Here, because nothing else needs a browser.
            from benchmarks.analytics_page import print_browser

            print_browser(folder, LATEST - WEEK_S, LATEST + 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--lines", type=int, default=1_000_000, help="of the longest log (default: 1000000)")
    parser.add_argument("--pandas", action="store_true", help="time pandas.read_json too")
    parser.add_argument("--page", action="store_true", help="time the page in a browser too")
    parser.add_argument("--only", action="store_true", help="the longest log alone")
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        found = MEASURES[chosen.measure](chosen.folder)
        found["peak RSS"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 0.0
        print(json.dumps(found))
        return
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    lines = chosen.lines if chosen.only else min(10_000, chosen.lines)
    while lines <= chosen.lines:
        print_measures(lines, with_pandas=chosen.pandas, with_page=chosen.page)
        lines *= 10


if __name__ == "__main__":
    main()
