"""What a run found, as text: lines for the terminal, and the tables of docs/reliability.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.soak.stage import Result
from benchmarks.soak.verdicts import Verdict

__all__ = ["lines", "tables", "write"]

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_WORDS = {True: "held", False: "**broken**", None: "not judged: too short a run"}


def _summary(result: Result) -> str:
    run, plan = result.run, result.plan
    return (
        f"{run.seconds / 60:.1f} minutes, seed {plan.seed}: {plan.callers} callers, {run.workers} workers, state in {result.state}; "
        f"{os.cpu_count()} CPUs ({platform.machine()}), {platform.system()}, Python {platform.python_version()}, a shared machine"
    )


def _what_came(result: Result) -> Iterator[tuple[str, str]]:
    ledger = result.run.ledger
    yield "requests", f"{ledger.total():,}"
    yield "answered, and rightly", f"{ledger.total('right'):,}"
    errors = ", ".join(f"{count:,} {kind}" for kind, count in ledger.errors.most_common())
    yield "told that there is no answer", f"{ledger.total('error'):,} ({errors})" if errors else "0"
    yield "rubbish, refused", f"{ledger.total('refused'):,}"
    yield "callers who left in the middle", f"{ledger.total('left'):,}"
    yield "connections lost with a killed worker", f"{ledger.total('broken'):,}"
    yield "what broke", ", ".join(f"{count} x {what}" for what, count in sorted(result.events.items()))
    yield (
        "faults of providers",
        f"{result.faults.total():,} spells of {len(result.faults)} kinds",
    )


def lines(result: Result, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Give everything, for a terminal."""
    yield _summary(result)
    for what, count in _what_came(result):
        yield f"  {what}: {count}"
    for verdict in verdicts:
        word = {True: "held", False: "BROKEN", None: "too short"}[verdict.holds]
        yield f"{word:10} {verdict.wanted}: {verdict.found}"
        if verdict.holds is False:
            yield from (f"           - {detail}" for detail in verdict.details)


def tables(result: Result, verdicts: Sequence[Verdict]) -> str:
    """Give the tables for people to read, in Markdown."""
    command = f"python -m benchmarks.soak --minutes {result.plan.minutes:g} --seed {result.plan.seed}{' --sqlite' * result.plan.sqlite} --write"
    return "\n".join(
        (
            f"{_summary(result)}. `{command}`",
            "",
            "| Promised | Found | |",
            "|---|---|---|",
            *(f"| {each.wanted} | {each.found} | {_WORDS[each.holds]} |" for each in verdicts),
            "",
            "| Under this load | |",
            "|---|---|",
            *(f"| {what} | {count} |" for what, count in _what_came(result)),
        )
    )


def write(text: str) -> None:
    """Put `text` between the marks of the document."""
    before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"{DOCUMENT} lacks the marks {BEGIN} and {END}"
    DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")
