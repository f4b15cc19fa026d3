"""What was measured, as text: lines for the terminal, and the tables of docs/faults.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.faults.figure import Figure
from benchmarks.faults.stage import WAYS
from benchmarks.faults.table import Asked

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "faults.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_BOTH = {"router": WAYS[:2], "HTTP": WAYS[2:]}


def machine() -> str:
    """Name the machine in a line."""
    return (
        f"{os.cpu_count()} CPUs ({platform.machine()}), {platform.system()} {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, a shared machine"
    )


def lines(asked: Sequence[Asked], cases: Sequence[Asked], figures: Sequence[Figure]) -> Iterator[str]:
    """Give everything, one line an answer."""
    yield machine()
    yield f"{'fault':40} {'asked':16} {'outcome':32} {'first token':>11} {'whole':>8}  attempts"
    for each in (*asked, *cases):
        told = each.told
        mark = " " if each.as_it_must_be else "!"
        first = "" if told.first_s is None or each.way.endswith("plain") else f"{told.first_s:.3f} s"
        yield (
            f"{each.row.label:40.40} {each.way:16} {told.outcome:30.30} {mark} {first:>11} {told.whole_s:6.3f} s  "
            f"{each.first} + {each.second}"
        )
    for figure in figures:
        yield f"{'reached' if figure.reached else 'NOT REACHED':12} {figure.wanted}: {figure.measured}"


def tables(asked: Sequence[Asked], cases: Sequence[Asked], figures: Sequence[Figure]) -> str:
    """Give the tables for people to read, in Markdown."""
    rows: dict[str, list[Asked]] = {}
    for each in asked:
        rows.setdefault(each.row.label, []).append(each)
    good = sum(each.as_it_must_be for each in cases)
    slowest = max(each.told.whole_s for each in cases)
    return "\n".join(
        (
            f"{machine()}. `python -m benchmarks.faults --write`",
            "",
            "| Promised | Measured | |",
            "|---|---|---|",
            *(
                f"| {f.wanted} | {f.measured} | {'reached' if f.reached else '**not reached**'} |"
                for f in figures
            ),
            "",
            (
                "| Fault of the first provider | What the caller gets | First token, s | Whole, streamed, s | Whole, plain, s "
                "| Attempts, first + second |"
            ),
            "|---|---|---|---|---|---|",
            *(_row(label, each) for label, each in rows.items()),
            (
                f"| the {len(cases) // len(WAYS)} recorded failures of real providers | {good} of {len(cases)} as promised "
                f"| | {slowest:.2f} at most | | |"
            ),
        )
    )


def _row(label: str, asked: Sequence[Asked]) -> str:
    by_way = {each.way: each for each in asked}
    streamed, plain = (
        [by_way[way].told for way in WAYS if way.endswith(how)] for how in ("streamed", "plain")
    )
    firsts = _numbers([told.first_s for told in streamed])
    attempts = " / ".join(dict.fromkeys(f"{each.first} + {each.second}" for each in asked))
    cells = (
        label,
        _outcome(asked),
        firsts,
        _numbers([told.whole_s for told in streamed]),
        _numbers([told.whole_s for told in plain]),
        attempts,
    )
    return f"| {' | '.join(cells)} |"


def _outcome(asked: Sequence[Asked]) -> str:
    outcomes = list(dict.fromkeys(each.told.outcome for each in asked))
    if outcomes == ["whole"]:
        providers = dict.fromkeys(each.told.provider for each in asked)
        return f"whole, from the {', plain from the '.join(providers)}"
    return "; ".join(outcomes)


def _numbers(values: Sequence[float | None]) -> str:
    return " / ".join("" if value is None else f"{value:.2f}" for value in values)


def write(text: str) -> None:
    """Put `text` between the marks of the document."""
    before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"{DOCUMENT} lacks the marks {BEGIN} and {END}"
    DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")
