"""See the package. Ends with 1 where something promised did not hold."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
from pathlib import Path

from benchmarks.soak import report
from benchmarks.soak.processes import has_redis
from benchmarks.soak.stage import Plan, soak
from benchmarks.soak.verdicts import verdicts

MOST_MINUTES = 24 * 60


def _plan(options: argparse.Namespace) -> Plan:
    return Plan(
        minutes=min(options.minutes, MOST_MINUTES),
        seed=options.seed if options.seed is not None else secrets.randbelow(10**6),
        callers=options.callers,
        sqlite=options.sqlite,
        keep=options.keep,
    )


def main() -> int:
    """Run, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long things break (30)")
    parser.add_argument("--seed", type=int, help="the order of what chance decides; any without it")
    parser.add_argument("--callers", type=int, default=16, help="how many ask at once (16)")
    parser.add_argument(
        "--sqlite",
        action="store_true",
        help="one replica, its state in SQLite, also where redis-server is there",
    )
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="a new folder for logs and output, which stays"
    )
    parser.add_argument("--write", action="store_true", help="put the figures into docs/reliability.md")
    options = parser.parse_args()
    if sys.platform != "linux":
        print("The soak looks into /proc and needs Linux.")
        return 2
    if not has_redis() and not options.sqlite:
        if os.environ.get("CI"):
            print("redis-server is missing; CI has to install it.")
            return 2
        print("No redis-server is installed: one replica shares its state through SQLite.")
    # So that what was started is ended, whoever ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    plan = _plan(options)
    print(f"seed {plan.seed}, {plan.minutes:g} minutes", flush=True)
    result = soak(plan)
    judged = list(verdicts(result.run))
    print("\n".join(report.lines(result, judged)))
    if options.write:
        report.write(report.tables(result, judged))
    return 1 if any(each.holds is False for each in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
