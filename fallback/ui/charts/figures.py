"""The figures of a window as people read them: a value, what it means, and its course."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from fallback.ui.charts.words import amount, count, counted, money, share
from fallback.ui.wording import duration

__all__ = ["Figure", "figures", "reading"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure: its name, its value in words, what stands below it, and how it went."""

    key: str
    label: str
    value: str
    note: str
    about: str
    """What it means, in a sentence or two."""
    points: Sequence[float] = ()
    """One for each bucket in which there was something, oldest first."""
    shape: Literal["bar", "line"] = "bar"
    say: Callable[[float], str] = count
    """How a point is told in words."""

    @property
    def course(self) -> str:
        """How it went in words: the lowest, the highest and the last point; "" where less than two points make no course."""
        if len(self.points) < 2:
            return ""
        low, high, last = (self.say(value) for value in (min(self.points), max(self.points), self.points[-1]))
        return f"{low} all the time" if low == high else f"{low} to {high}, {last} at the end"


def figures(totals: pd.DataFrame, over_time: pd.DataFrame) -> tuple[Figure, ...]:
    """Return the figures of one window. `totals` and `over_time` are those of fallback.analytics."""
    row = totals.iloc[0]

    def course(*columns: str) -> tuple[float, ...]:
        values = sum((over_time[column] for column in columns[1:]), start=over_time[columns[0]])
        return tuple(float(value) for value in values.dropna())

    answered, failed, rescued = row["answered"], row["failed"], row["rescued"]
    return (
        Figure(
            key="requests",
            label="Requests",
            value=count(row["requests"]),
            note=f"{count(answered)} answered",
            about="Questions that were asked, answered or not. "
            f"{counted(row['cancelled'], 'was', 'were')} cancelled by the caller.",
            points=course("requests"),
        ),
        Figure(
            key="success",
            label="Success rate",
            value=share(row["success_rate"]),
            note=f"{count(failed)} failed",
            about="Answers among the requests that were answered or failed; cancelled ones do not count.",
            points=course("success_rate"),
            shape="line",
            say=share,
        ),
        Figure(
            key="rescued",
            label="Rescued",
            value=count(rescued),
            note=f"{share(row['success_rate_without_failover'])} without it",
            about="Answers that a failover saved. Below it: what the success rate would have been had nobody but the first "
            "provider been asked.",
            points=course("rescued"),
        ),
        Figure(
            key="failover_rate",
            label="Failover rate",
            value=share(row["failover_rate"]),
            note=counted(row["failovers"], "failover"),
            about="Requests in which at least one provider was left for the next one. One request may fail over several times.",
            points=course("failover_rate"),
            shape="line",
            say=share,
        ),
        _time(
            row,
            "latency",
            "Time to answer",
            "From the question to the end of the answer, failovers included.",
            course,
        ),
        _time(
            row,
            "ttft",
            "First words",
            "From the question to the first words of the answer, failovers included.",
            course,
        ),
        Figure(
            key="tokens",
            label="Tokens",
            value=amount(row["input_tokens"] + row["output_tokens"]),
            note=f"{amount(row['output_tokens'])} in answers",
            about="Tokens of questions and answers, of all attempts.",
            points=course("input_tokens", "output_tokens"),
            say=amount,
        ),
        Figure(
            key="cost",
            label="Cost",
            value=money(row["cost_usd"]),
            note=f"{count(row['unpriced'])} without a price" if row["unpriced"] else "all priced",
            about="By the prices in providers.yaml, of all attempts. Answers of models without a price there are not in it.",
            points=course("cost_usd"),
            say=money,
        ),
        Figure(
            key="cost_per_1k",
            label="Cost per 1,000 answers",
            value=money(row["cost_per_1k_answers_usd"]),
            note=f"{count(answered)} answers",
            about="The cost divided by the answers, times 1,000.",
            points=course("cost_per_1k_answers_usd"),
            shape="line",
            say=money,
        ),
        Figure(
            key="degraded",
            label="Embedded model",
            value=count(row["degraded"]),
            note=f"{share(row['degraded'] / answered if answered else None)} of answers",
            about="Answers of the small model inside the program, which steps in when nobody else can answer and may be wrong.",
            points=course("degraded"),
        ),
    )


def _time(row: Any, name: str, label: str, about: str, course: Callable[..., tuple[float, ...]]) -> Figure:
    half, most = row[f"{name}_p50_s"], row[f"{name}_p95_s"]
    return Figure(
        key=name,
        label=label,
        value="—" if pd.isna(half) else duration(float(half)),
        note="—" if pd.isna(most) else f"95 % within {duration(float(most))}",
        about=f"{about} Half of the answers took no longer than the large figure.",
        points=course(f"{name}_p50_s"),
        shape="line",
        say=duration,
    )


def reading(totals: pd.DataFrame) -> str:
    """Return what failover did, in a sentence or two."""
    row = totals.iloc[0]
    decided = row["answered"] + row["failed"]
    if not row["requests"]:
        return "Nothing was asked in this time."
    if not row["rescued"]:
        saved = "No answer needed a failover to be saved."
    else:
        saved = (
            f"Failover saved {counted(row['rescued'], 'answer')}: without it {share(row['success_rate_without_failover'])} "
            f"of the requests would have been answered instead of {share(row['success_rate'])}."
        )
    return f"{counted(row['requests'], 'request')}, {count(row['answered'])} of {count(decided)} answered. {saved}"
