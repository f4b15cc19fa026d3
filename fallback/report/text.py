"""A report for a terminal: lines of text, each with a colour where one helps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from fallback.report.content import Report
from fallback.ui.charts import figures, reading
from fallback.ui.charts.words import amount, count, counted, kind_label, money, share
from fallback.ui.wording import duration

__all__ = ["Line", "as_text"]

Colour = Literal["", "dim", "red", "green", "yellow"]
BAR_WIDTH = 24
MOST_ROWS = 30
"""Of one table; what is below is summed up in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line and its colour."""

    text: str
    colour: Colour = ""


def as_text(report: Report) -> Iterator[Line]:
    """Give the report line by line. Raises CacheError."""
    coverage = report.coverage
    yield Line(text=report.title)
    told = f"{counted(coverage.lines, 'line')} in {counted(coverage.files, 'file')}"
    yield Line(text=", ".join(filter(None, (told, report.limits))), colour="dim")
    if coverage.damaged:
        yield Line(
            text=f"{count(coverage.damaged)} of {counted(coverage.lines, 'line')} could not be read",
            colour="yellow",
        )
    if coverage.warning:
        yield Line(text=coverage.warning, colour="yellow")
    yield Line(text="")
    totals = report.ask("totals")
    yield Line(text=reading(totals))
    if not int(totals["requests"].iloc[0]) and report.ask("failures").empty and report.ask("states").empty:
        return
    yield Line(text="")
    rows = [
        (figure.label, figure.value, figure.note)
        for figure in figures(totals, report.ask("totals_over_time"))
    ]
    yield from _table((), rows, right=(1,))
    for part in (_failovers, _pairs, _providers, _failures, _days):
        yield from part(report)


def _failovers(report: Report) -> Iterator[Line]:
    frame = report.ask("failovers_over_time")
    if frame.empty:
        return
    sums = frame.groupby("reason")["failovers"].sum().sort_values(ascending=False, kind="stable")
    rows = [
        (kind_label(str(kind)), count(n), share(n / sums.sum()), _bar(n / sums.max()))
        for kind, n in sums.items()
    ]
    yield from _headed("Failovers, by what was wrong before")
    yield from _table(("REASON", "FAILOVERS", "SHARE", ""), rows, right=(1, 2))


def _pairs(report: Report) -> Iterator[Line]:
    frame = report.ask("failover_pairs")
    if frame.empty:
        return
    rows = [
        (
            str(row["from_provider"]) or "not known",
            str(row["to_provider"]),
            count(row["failovers"]),
            share(row["answered"] / row["failovers"]),
        )
        for row in frame.sort_values("failovers", ascending=False, kind="stable").to_dict("records")
    ]
    yield from _headed("From which provider to which")
    yield from _table(("FROM", "TO", "FAILOVERS", "ANSWERED THERE"), rows, right=(2, 3))


def _providers(report: Report) -> Iterator[Line]:
    latency, used = report.ask("latency"), report.ask("consumption")
    names = report.canvas(dark=False).known(sorted({*latency["provider"], *used["provider"]}))
    if not names:
        return
    days = report.ask("availability")
    rows = []
    for name in names:
        own, took = days[days["provider"] == name], used[used["provider"] == name]
        calls = own["calls"].sum()
        rows.append(
            (
                name,
                count(took["answers"].sum()),
                share(own["good"].sum() / calls if calls else None),
                *_times(latency, name, "direct"),
                *_times(latency, name, "failover")[:2],
                amount(took["input_tokens"].sum() + took["output_tokens"].sum()),
                money(float(took["cost_usd"].sum())),
            )
        )
    head = ("PROVIDER", "ANSWERS", "AVAILABLE", "P50", "P95", "P99", "FAILOVER P50", "P95", "TOKENS", "COST")
    yield from _headed("Providers")
    yield from _table(head, rows, right=tuple(range(1, len(head))))


def _times(latency: pd.DataFrame, name: str, role: str) -> tuple[str, str, str]:
    own = latency[(latency["provider"] == name) & (latency["role"] == role)]
    if own.empty:
        return "—", "—", "—"
    half, most, nearly_all = (duration(float(own[rank].iloc[0])) for rank in ("p50_s", "p95_s", "p99_s"))
    return half, most, nearly_all


def _failures(report: Report) -> Iterator[Line]:
    frame = report.ask("failures")
    if frame.empty:
        return
    ordered = frame.sort_values(["failures", "provider", "kind"], ascending=[False, True, True])
    most = ordered["failures"].max()
    rows = [
        (
            str(row["provider"]),
            kind_label(str(row["kind"])),
            count(row["failures"]),
            _bar(row["failures"] / most),
        )
        for row in ordered.to_dict("records")
    ]
    yield from _headed("What went wrong, and where")
    yield from _table(("PROVIDER", "KIND", "FAILURES", ""), rows, right=(2,))


def _days(report: Report) -> Iterator[Line]:
    frame = report.ask("availability")
    whole = frame[frame["provider"] == ""]
    if len(whole) < 2:
        return
    shift = pd.Timedelta(seconds=report.window.utc_offset_s)
    yield from _headed("Availability by day")
    rows = [
        (
            f"{row['day'] + shift:%a %d %b}",
            share(row["availability"]),
            "all" if row["good"] == row["calls"] else f"{row['nines']:.2f}",
            count(row["calls"]),
        )
        for row in whole.sort_values("day").tail(MOST_ROWS).to_dict("records")
    ]
    colours: list[Colour] = [
        "green" if value >= 0.999 else "" if value >= 0.99 else "yellow" if value >= 0.9 else "red"
        for value in whole.sort_values("day").tail(MOST_ROWS)["availability"]
    ]
    yield from _table(("DAY", "ANSWERED", "NINES", "REQUESTS"), rows, right=(1, 2, 3), colours=colours)


def _headed(title: str) -> Iterator[Line]:
    yield Line(text="")
    yield Line(text=title)


def _table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[int],
    colours: Sequence[Colour] = (),
) -> Iterator[Line]:
    shown = rows[:MOST_ROWS]
    lines = [*([head] if head else []), *shown]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def laid(cells: Sequence[str]) -> str:
        parts = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(parts).rstrip()

    if head:
        yield Line(text=laid(head), colour="dim")
    for number, row in enumerate(shown):
        yield Line(text=laid(row), colour=colours[number] if colours else "")
    if len(rows) > len(shown):
        yield Line(text=f"and {len(rows) - len(shown):,} more", colour="dim")


def _bar(part: float) -> str:
    return "█" * max(round(part * BAR_WIDTH), 1)
