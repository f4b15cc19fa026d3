"""See the package. Ends with 1 where something promised was not reached."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence

from benchmarks.faults import outages, report
from benchmarks.faults.figure import Figure
from benchmarks.faults.stage import WAYS, Stage, Told
from benchmarks.faults.table import BULKY, Asked, case_rows, figures, rows, run_rows

ROUNDS = 5


async def healthy(stage: Stage) -> dict[str, Told]:
    """Ask the healthy provider alone, in each way, and return the answer that took the median time."""
    found = {}
    for way in WAYS:
        scene = stage.scene(f"healthy{WAYS.index(way)}")
        told = [await scene.ask(way) for _ in range(ROUNDS)]
        assert all(each.whole for each in told), told
        found[way] = sorted(told, key=lambda each: each.whole_s)[ROUNDS // 2]
    return found


async def measure() -> tuple[Sequence[Asked], Sequence[Asked], Sequence[Figure]]:
    """Measure everything: first what needs quiet, then what takes long side by side, then what makes noise."""
    async with Stage() as stage:
        alone = await healthy(stage)
        live = await outages.live(stage)
        every, recorded = rows(), case_rows()
        usual_s = statistics.mean(told.whole_s for told in alone.values())
        *played, asked = await asyncio.gather(
            outages.outages(stage, usual_s),
            outages.learned(stage),
            outages.announced(stage),
            run_rows(stage, [row for row in (*every, *recorded) if row.speed != BULKY]),
        )
        asked += await run_rows(stage, [row for row in every if row.speed == BULKY])
        crowd = await outages.crowd(stage)
    by_place = sorted(asked, key=lambda each: ((*every, *recorded).index(each.row), WAYS.index(each.way)))
    made = [each for each in by_place if each.row in every]
    cases = [each for each in by_place if each.row in recorded]
    silent, quick = played[1], figures(by_place, alone)
    return made, cases, [*quick[:1], *live, *quick[1:], *silent, *played[0], *played[2], *crowd]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/faults.md")
    arguments = parser.parse_args()
    began = time.monotonic()
    asked, cases, reached = asyncio.run(measure())
    for line in report.lines(asked, cases, reached):
        print(line)
    print(f"in {time.monotonic() - began:.0f} s")
    if arguments.write:
        report.write(report.tables(asked, cases, reached))
    sys.exit(not all(figure.reached for figure in reached))


if __name__ == "__main__":
    main()
