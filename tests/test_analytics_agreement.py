"""The engine's figures against those of the brute-force reference: every number of every frame.

Numbers are compared for equality, floats too. Three columns may differ in the last digits: what money comes to, because
the engine adds in another order (and in picodollars) than the reference, whose `math.fsum` rounds once; and the nines, because
the last bit of a logarithm is the library's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pandas as pd
import pytest
from adversarial_log import BEGIN, INSTANCES, LAST, PROVIDERS, ROUTES, SOURCES, logs
from analytics_reference import MICRO, Reference, Row
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from fallback import analytics
from fallback.analytics import Analytics, Filters, Window
from fallback.config import load
from fallback.demo.history import Span, write_history
from fallback.usage_log.files import rotated_files

ROOT = Path(__file__).resolve().parent.parent
CLOSE = {"cost_usd": 1e-9, "cost_per_1k_answers_usd": 1e-9, "nines": 1e-9}
"""Relative tolerances: see above."""

WALL = BEGIN + 1.5 * 86_400.0
"""What the clock shows."""
OUTCOMES = ("ok", "error", "cancelled", "rescued", "degraded")
KEYS = {
    "totals": (),
    "totals_over_time": ("bucket",),
    "failovers_over_time": ("bucket", "reason"),
    "failover_pairs": ("from_provider", "to_provider"),
    "latency_over_time": ("bucket", "provider", "role"),
    "latency_distribution": ("provider", "role", "low_s"),
    "failures": ("provider", "kind"),
    "availability": ("day", "provider"),
    "consumption": ("bucket", "provider"),
}
"""The figures that take a window and filters, and what tells their rows apart."""


# From frames to rows


def plain(value: Any) -> Any:
    """A value of a frame as it is compared: no missing values of pandas, instants in microseconds, "" as left out."""
    if isinstance(value, pd.Timestamp):
        assert value.tz is not None
        assert value.value % 1000 == 0
        return value.value // 1000
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, str) and not value):
        return None
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def rows_of(frame: pd.DataFrame) -> list[Row]:
    return [
        {str(name): plain(value) for name, value in zip(frame.columns, row, strict=True)}
        for row in frame.itertuples(index=False, name=None)
    ]


def merged(intervals: Sequence[Row]) -> list[Row]:
    """Intervals of states, those that touch and say the same made one; none may overlap another of its provider.

    A provider that is ready needs no reason, so it does not count which one is told.
    """
    whole: list[Row] = []
    for interval in sorted(intervals, key=lambda row: (row["provider"], row["begin"], row["end"])):
        interval["reason"] = "" if interval["state"] == "ready" else interval["reason"] or ""
        assert interval["begin"] < interval["end"], interval
        last = whole[-1] if whole and whole[-1]["provider"] == interval["provider"] else None
        assert last is None or last["end"] <= interval["begin"], (last, interval)
        same = last is not None and all(last[name] == interval[name] for name in ("state", "reason"))
        if last is not None and same and last["end"] == interval["begin"]:
            last["end"] = interval["end"]
        else:
            whole.append(dict(interval))
    return whole


def agree(
    name: str, given_rows: Sequence[Row], expected_rows: Sequence[Row], keys: Sequence[str] | None
) -> None:
    """Compare rows; with `keys`, whatever their order. None: in their order."""
    given_rows, expected_rows = (
        [{column: plain(value) for column, value in row.items()} for row in rows]
        for rows in (given_rows, expected_rows)
    )
    if keys is not None:
        given_rows, expected_rows = (
            sorted(rows, key=lambda row: [str(row[key]) for key in keys])
            for rows in (given_rows, expected_rows)
        )
    for given_row, expected in zip(given_rows, expected_rows, strict=False):
        assert given_row.keys() == expected.keys(), name
        for column, value in expected.items():
            got = given_row[column]
            if column in CLOSE and value is not None and got is not None:
                assert got == pytest.approx(value, rel=CLOSE[column], abs=1e-15), (name, column, expected)
            else:
                assert got == value, (name, column, f"{got!r} instead of {value!r}", expected)
    assert len(given_rows) == len(expected_rows), (name, [dict(r) for r in given_rows], list(expected_rows))


# The comparison


@dataclass(frozen=True, slots=True)
class Question:
    window: Window
    filters: Filters
    search: str = ""


def compare(
    engine: Analytics, folder: Path, questions: Iterable[Question], *, seed: int = 0, legacy: bool = False
) -> Reference:
    """Hold everything that the engine says of the log in `folder` against the reference.

    The reference knows nothing of lines of the original format: with `legacy` figures are asked for without them.
    """
    reference = Reference(folder, wall=WALL)
    if not legacy:
        compare_the_whole(engine, reference)
    draw = Random(seed)
    for question in questions:
        if legacy:
            question = replace(  # noqa: PLW2901 - the same question, of fewer lines
                question, filters=replace(question.filters, sources=question.filters.sources or SOURCES)
            )
        window, filters = question.window, question.filters
        if not legacy:
            given_states = merged(rows_of(analytics.states(engine, window, filters)))
            expected_states = merged(reference.states(window, filters))
            agree(f"states {question}", given_states, expected_states, ("provider", "begin"))
        for name, keys in KEYS.items():
            frame = getattr(analytics, name)(engine, window, filters)
            agree(f"{name} {question}", rows_of(frame), getattr(reference, name)(window, filters), keys)
        compare_tables(engine, reference, question, draw)
    return reference


def compare_the_whole(engine: Analytics, reference: Reference) -> None:
    coverage = engine.coverage
    read = (reference.lines, len(reference.damaged))
    assert (coverage.lines, coverage.damaged) == read, f"{coverage} instead of {read}"
    first, last = reference.span()
    told = [None if ts is None else round(ts * MICRO) for ts in (coverage.first_ts, coverage.last_ts)]
    expected = [first, last] if first <= last else [None, None]
    assert told == expected, f"{told} instead of {expected}"
    agree("problems", rows_of(analytics.problems(engine)), reference.problems_table(), None)
    choices = analytics.choices(engine)
    for name, counted in reference.choices().items():
        names = getattr(choices, name)
        assert set(names) == set(counted), (name, names, counted)


def compare_tables(engine: Analytics, reference: Reference, question: Question, draw: Random) -> None:
    window, filters, search = question.window, question.filters, question.search
    expected = reference.requests_table(window, filters, search)
    limit = draw.randint(1, 40)
    shown: list[Row] = []
    position = None
    while True:
        frame = analytics.requests(engine, window, filters, search, limit, position)
        assert len(frame) <= limit
        shown += rows_of(frame)
        position = analytics.last_position(frame)
        if position is None or len(shown) > len(expected):
            break
    agree(f"requests {question}", shown, expected, None)
    ids = sorted({row["request_id"] for row in expected if row["request_id"] is not None})
    for request_id in draw.sample(ids, min(2, len(ids))):
        agree(
            "attempts",
            rows_of(analytics.attempts(engine, request_id)),
            reference.attempts_table(request_id),
            None,
        )
        agree("lines", rows_of(analytics.lines(engine, request_id)), reference.lines_table(request_id), None)


# Questions


def drawn_question(draw: Random, begin: float, end: float, names: Sequence[Sequence[str]]) -> Question:
    """A window somewhere about `begin` to `end`, and filters of providers, routes and sources."""
    bucket_s = draw.choice(analytics.BUCKETS_S)
    offset_s = draw.choice((0, 0, 3600, -5 * 3600, 19_800, 45_900, -12_600))
    most = draw.choice((1, 7, 40, 120))
    since = draw.uniform(begin - 90_000, end)
    until = draw.choice((since + draw.uniform(0, 4 * bucket_s), draw.uniform(since, end + 90_000), end))
    wanted = analytics.window(
        since, max(since, until), first_ts=begin, utc_offset_s=offset_s, most_buckets=most
    )
    if draw.random() < 0.3:
        shift = offset_s if bucket_s > 3600 else 0
        first = (since + shift) // bucket_s * bucket_s - shift
        wanted = Window(
            since=first,
            until=first + bucket_s * draw.randint(0, 50),
            bucket_s=bucket_s,
            utc_offset_s=offset_s,
        )
    providers, routes, sources = ([*each, "nobody"] for each in names)

    def some(names: Sequence[str], chance: float = 0.3) -> tuple[str, ...]:
        return (
            tuple(draw.sample(names, draw.randint(1, min(3, len(names))))) if draw.random() < chance else ()
        )

    filters = Filters(
        providers=some(providers),
        instances=some((*INSTANCES, "nobody"), 0.2),
        routes=some(routes),
        sources=some(sources),
        outcomes=some(OUTCOMES),
        drills=draw.random() < 0.5,
    )
    search = draw.choice(("", "", "groq", "API", draw.choice(routes)[:4]))
    return Question(wanted, filters, search)


def everything(begin: float, end: float) -> Question:
    return Question(analytics.window(begin, end, first_ts=begin), Filters(drills=True))


# By hand


def by_hand(folder: Path) -> None:
    """Five requests, few enough to be counted without any program."""

    def at(minute: int, line: dict[str, object]) -> bytes:
        return orjson.dumps({"schema": 1, "ts": f"2026-11-21T10:{minute:02d}:00.000Z", **line}) + b"\n"

    def attempt(name: str, provider: str, outcome: str, **more: object) -> dict[str, object]:
        common = {"kind": "attempt", "request_id": name, "source": "api", "route": "auto", "drill": False}
        return {**common, "provider": provider, "outcome": outcome, **more}

    def request(name: str, outcome: str, **more: object) -> dict[str, object]:
        common = {"kind": "request", "request_id": name, "source": "api", "route": "auto", "drill": False}
        return {**common, "outcome": outcome, "failovers": 0, "rescued": False, "degraded": False, **more}

    tokens = {"input_tokens": 10, "output_tokens": 5}
    limited = {"previous_provider": "groq", "previous_error_type": "rate_limited"}
    lines = [
        at(1, attempt("r1", "groq", "rate_limited", role="first", duration_s=0.2)),
        at(2, attempt("r1", "together", "ok", role="failover", duration_s=1.235, **tokens, **limited)),
        at(2, request("r1", "ok", provider="together", first_provider="groq", failovers=1, rescued=True)
           | {"duration_s": 1.435, "time_to_first_token_s": 0.9995, **tokens}),
        at(8, attempt("r2", "groq", "ok", role="first", duration_s=0.5, cost_usd=0.001, **tokens)),
        at(8, request("r2", "ok", provider="groq", first_provider="groq", duration_s=0.5, cost_usd=0.001, **tokens)),
        at(9, attempt("r3", "groq", "content_policy", role="first", duration_s=0.1)),
        at(9, request("r3", "error", first_provider="groq", error_type="content_policy", duration_s=0.1)),
        at(9, attempt("r4", "groq", "cancelled", role="first", duration_s=3.0)),
        at(9, request("r4", "cancelled", first_provider="groq", error_type="cancelled", duration_s=3.0)),
        at(9, attempt("r5", "groq", "timeout", role="first", duration_s=9.0, drill=True)),
        at(9, request("r5", "error", first_provider="groq", error_type="timeout", duration_s=9.0, drill=True)),
    ]  # fmt: skip
    (folder / "usage.log").write_bytes(b"".join(lines))


@pytest.mark.parametrize("who", ["reference", "engine"])
def test_a_log_that_was_counted_by_hand(tmp_path: Path, who: str) -> None:
    by_hand(tmp_path)
    begin = datetime(2026, 11, 21, 10, tzinfo=UTC).timestamp()
    window = Window(since=begin, until=begin + 600, bucket_s=300)
    reference = Reference(tmp_path)
    with Analytics(tmp_path, cache=tmp_path / "cache.duckdb", wall=lambda: WALL) as engine:
        engine.refresh()

        def figure(name: str, filters: Filters | None = None) -> list[Row]:
            wanted = filters or Filters()
            if who == "reference":
                return list(getattr(reference, name)(window, wanted))
            return rows_of(getattr(analytics, name)(engine, window, wanted))

        agree("totals", figure("totals"), [BY_HAND], ())
        agree("drills", figure("totals", Filters(drills=True)), [BY_HAND | WITH_DRILL], ())
        rescued = figure("totals", Filters(outcomes=("rescued",)))[0]
        assert (rescued["requests"], rescued["answered"], rescued["failover_rate"]) == (1, 1, 1.0)
        took_part = figure("totals", Filters(providers=("together",)))[0]
        assert (took_part["requests"], took_part["latency_p50_s"]) == (1, 1.44)
        first, second = sorted(figure("totals_over_time"), key=lambda row: row["bucket"])
        assert (first["bucket"], second["bucket"]) == (round(begin) * MICRO, round(begin + 300) * MICRO)
        assert (first["requests"], second["requests"], first["success_rate"]) == (1, 3, 1.0)
        bucket = {"bucket": round(begin) * MICRO}
        agree(
            "over time",
            figure("failovers_over_time"),
            [bucket | {"reason": "rate_limited", "failovers": 1}],
            (),
        )
        pair = {"from_provider": "groq", "to_provider": "together", "failovers": 1, "answered": 1}
        agree("pairs", figure("failover_pairs"), [pair], ())
        failed = {("groq", "rate_limited"): 1, ("groq", "content_policy"): 1}
        assert {(row["provider"], row["kind"]): row["failures"] for row in figure("failures")} == failed
        latency = {(row["provider"], row["role"]): row["p95_s"] for row in figure("latency_over_time")}
        assert latency == {("together", "failover"): 1.24, ("groq", "direct"): 0.5}
        days = {
            row["provider"] or "": (row["calls"], row["good"], row["nines"]) for row in figure("availability")
        }
        assert days["groq"] == (2, 1, pytest.approx(0.30103, abs=1e-5))
        assert (days["together"][:2], days[""][:2]) == ((1, 1), (2, 2))


BY_HAND: Row = {
    "requests": 4,
    "answered": 2,
    "failed": 1,
    "cancelled": 1,
    "degraded": 0,
    "rescued": 1,
    "success_rate": 2 / 3,
    "success_rate_without_failover": 1 / 3,
    "failovers": 1,
    "failover_rate": 0.25,
    "latency_p50_s": 0.5,
    "latency_p95_s": 1.44,
    "ttft_p50_s": 1.0,
    "ttft_p95_s": 1.0,
    "input_tokens": 20,
    "output_tokens": 10,
    "cost_usd": 0.001,
    "unpriced": 1,
    "cost_per_1k_answers_usd": 0.5,
}
WITH_DRILL: Row = {
    "requests": 5,
    "failed": 2,
    "success_rate": 0.5,
    "success_rate_without_failover": 0.25,
    "failover_rate": 0.2,
}


# Drills


@pytest.mark.parametrize("drilled_first", [True, False])
def test_attempts_of_a_request_that_a_drill_struck_count_as_drilled(
    tmp_path: Path, drilled_first: bool
) -> None:
    begin = datetime(2026, 11, 21, 10, tzinfo=UTC).timestamp()
    window = Window(since=begin, until=begin + 600, bucket_s=300)

    def attempt(number: int, provider: str, outcome: str, **more: object) -> bytes:
        line = {
            "schema": 1,
            "ts": f"2026-11-21T10:0{number}:00.000Z",
            "kind": "attempt",
            "request_id": "r",
            "attempt": number,
        }
        return (
            orjson.dumps({**line, "provider": provider, "outcome": outcome, "duration_s": 0.5, **more})
            + b"\n"
        )

    real = attempt(1, "mixtral", "timeout", role="first")
    drilled = attempt(
        2,
        "groq",
        "rate_limited",
        role="failover",
        previous_provider="mixtral",
        previous_error_type="timeout",
        drill=True,
    )
    after = attempt(
        3,
        "together",
        "ok",
        role="failover",
        previous_provider="groq",
        previous_error_type="rate_limited",
        input_tokens=7,
    )
    request = {
        "schema": 1,
        "ts": "2026-11-21T10:03:00.000Z",
        "kind": "request",
        "request_id": "r",
        "outcome": "ok",
        "drill": True,
    }
    pieces = [real + drilled, after] if drilled_first else [real + after, drilled]
    with Analytics(tmp_path, cache=tmp_path / "cache.duckdb", wall=lambda: WALL) as engine:
        for piece in [*pieces, orjson.dumps(request) + b"\n"]:
            with (tmp_path / "usage.log").open("ab") as log:
                log.write(piece)
            engine.refresh()
            compare(engine, tmp_path, [Question(window, Filters()), Question(window, Filters(drills=True))])
        assert analytics.failover_pairs(engine, window, Filters()).empty
        assert analytics.consumption(engine, window, Filters()).answers.sum() == 0
        assert analytics.failures(engine, window, Filters()).empty
        whole = analytics.failover_pairs(engine, window, Filters(drills=True))
        assert sorted(whole.from_provider) == ["groq", "mixtral"]
        assert analytics.attempts(engine, "r").drill.tolist() == [False, True, False]


def test_reason_of_a_state_is_that_which_held_when_the_window_begins(tmp_path: Path) -> None:
    line = b'{"schema":1,"ts":"2026-11-21T%02d:00:00.000Z","kind":"state","provider":"groq","from":"on","to":"off"%s}\n'
    text = line % (4, b',"model":"m","reason":"of the model"') + line % (7, b"")
    (tmp_path / "usage.log").write_bytes(text)
    day = datetime(2026, 11, 21, tzinfo=UTC).timestamp()
    with Analytics(tmp_path, cache=tmp_path / "cache.duckdb", wall=lambda: day + 86_400) as engine:
        engine.refresh()
        told = {
            hour: analytics.states(
                engine, Window(since=day + hour * 3600, until=day + 86_400, bucket_s=3600), Filters()
            )
            for hour in (3, 5, 8)
        }
    assert [(row.state.tolist(), row.reason.fillna("").tolist()) for row in told.values()] == [
        (["off"], ["of the model"]),
        (["off"], ["of the model"]),
        (["off"], [""]),
    ]


# Histories


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_history_that_grows_agrees_at_every_step(tmp_path: Path, seed: int) -> None:
    draw = Random(seed)
    end = 1_795_400_000.0 + draw.uniform(0, 86_400)
    span = Span(end=end, days=draw.uniform(1.2, 3.5), requests_per_day=250, seed=seed)
    settings_ = load(ROOT / "providers.yaml", environ={})
    write_history(tmp_path / "source", settings_, span)
    folder = tmp_path / "logs"
    folder.mkdir()
    names = (
        [p.name for p in settings_.providers],
        ["auto", *(m.name for p in settings_.providers for m in p.models)],
        ["api", "chat", "python", "cli"],
    )
    with Analytics(folder, cache=tmp_path / "cache.duckdb", wall=lambda: WALL) as engine:
        for step in growth(tmp_path / "source", folder, draw):
            engine.refresh()
            if draw.random() < 0.35 or step == "last":
                asked = [drawn_question(draw, span.begin, span.end, names) for _ in range(2)]
                compare(engine, folder, asked, seed=seed)
        reference = compare(engine, folder, [everything(span.begin, span.end)])
    assert len(reference.requests) == span.requests
    assert sum(request.rescued for request in reference.requests) > 5


def growth(source: Path, folder: Path, draw: Random) -> Iterator[str]:
    """Let the log of `source` come about in `folder`, in steps that end anywhere in a line, files being rotated."""
    files = [*rotated_files(source), source / "usage.log"]
    current = folder / "usage.log"
    for file in files:
        content = file.read_bytes()
        cuts = sorted(draw.randrange(len(content)) for _ in range(draw.randint(0, 4)))
        for begin, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
            with current.open("ab") as out:
                out.write(content[begin:end])
            yield "step"
        if file != files[-1]:
            current.rename(folder / file.name)
            if draw.random() < 0.5:
                yield "rotated"
    yield "last"


# Values of a wrong type

ODD = (
    *("true", "false", "1", "0", "2", "-1", "1.5", "0.4", "-0.4", "2.5", "1e3", "1e400", "null", "[1]", "{}"),
    *(f'"{text}"' for text in ("true", "no", "t", "1", "1.5", " 7", "0x10", "1_0", "inf", "NaN", "", "x")),
    *(str(sign * 2**power) for power in (31, 53, 63, 64, 65) for sign in (1, -1)),
)
"""As JSON."""


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["read by the database", "read one by one"])
def test_values_of_a_wrong_type_count_as_what_they_are_cast_to(tmp_path: Path, end: str) -> None:
    names = ("attempts", "failovers", "input_tokens", "duration_s", "cost_usd", "drill", "rescued")
    line = '{"schema":1,"ts":"2026-11-21T10:00:%02d.000Z","kind":"request","outcome":"ok","%s":%s}' + end
    text = "".join(line % (place, name, odd) for name in names for place, odd in enumerate(ODD))
    (tmp_path / "usage.log").write_text(text, encoding="utf-8", newline="")
    begin = datetime(2026, 11, 21, 10, tzinfo=UTC).timestamp()
    with Analytics(tmp_path, cache=tmp_path / "cache.duckdb", wall=lambda: WALL) as engine:
        engine.refresh()
        reference = compare(engine, tmp_path, [everything(begin, begin + 60)])
    assert len(reference.requests) == len(names) * len(ODD)


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["read by the database", "read one by one"])
def test_lines_of_a_request_are_shown_whatever_they_are(tmp_path: Path, end: str) -> None:
    line = '{"schema":%s,"ts":"2026-11-21T10:00:%02d.000Z","kind":%s,"request_id":%s,"instance":"a"%s}' + end
    told = (
        *((1, '"request"', "2", ',"outcome":"ok"'), (1, '"lunch"', '"2"', ""), (1, "15538084406393896960", '"2"', "")),
        *((2, '"request"', "2", ',"outcome":"ok"'), (1, '"state"', '"2"', ',"from":"off","to":"on"')),
        *((1, '"attempt"', '"3"', ',"outcome":"ok"'), (1, '"attempt"', '""', "")),
    )  # fmt: skip
    text = "".join(line % (schema, place, *rest) for place, (schema, *rest) in enumerate(told))
    (tmp_path / "usage.log").write_text(text, encoding="utf-8", newline="")
    begin = datetime(2026, 11, 21, 10, tzinfo=UTC).timestamp()
    with Analytics(tmp_path, cache=tmp_path / "cache.duckdb", wall=lambda: WALL) as engine:
        engine.refresh()
        compare(engine, tmp_path, [everything(begin, begin + 60)])
        assert analytics.lines(engine, "2").line.tolist() == [1, 2, 3, 4, 5]
        assert analytics.lines(engine, "2", ["a"]).line.tolist() == [1, 2, 3, 4, 5]
        assert analytics.lines(engine, "2", ["b"]).empty


# Logs of any sort

HYPOTHESIS = settings(
    max_examples=15,
    deadline=None,
    # To make a failing log smaller takes minutes, and the log is shown as it is.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)


@pytest.mark.timeout(400)  # a quarter of a minute of work, on a machine that may be busy
@given(content=logs(), seed=st.integers(0, 2**32))
@HYPOTHESIS
def test_a_log_of_any_sort_agrees_however_it_came_about(
    content: bytes, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_any(content, seed, tmp_path_factory.mktemp("any"))


@pytest.mark.timeout(400)
@given(content=logs(legacy=True), seed=st.integers(0, 2**32))
@HYPOTHESIS
def test_lines_of_the_original_format_leave_the_figures_of_others_alone(
    content: bytes, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_any(content, seed, tmp_path_factory.mktemp("legacy"), legacy=True)


def check_any(content: bytes, seed: int, folder: Path, *, legacy: bool = False) -> None:
    draw = Random(seed)
    note(content.decode("utf-8", "replace"))
    names = (PROVIDERS, ROUTES, SOURCES)
    cuts = sorted(draw.randint(0, len(content)) for _ in range(draw.randint(0, 3)))
    rotated = 0
    with Analytics(folder, cache=folder / "cache.duckdb", wall=lambda: WALL) as engine:
        for begin, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
            with (folder / "usage.log").open("ab") as out:
                out.write(content[begin:end])
            # A file is rotated by whoever writes the next line, so it holds whole lines.
            if content[:end].endswith(b"\n") and draw.random() < 0.5:
                rotated += 1
                (folder / "usage.log").rename(folder / f"usage-2026-11-20.{rotated + 1}.log")
            if draw.random() < 0.7:
                engine.refresh()
                compare(engine, folder, [drawn_question(draw, BEGIN, LAST, names)], seed=seed, legacy=legacy)
        engine.refresh()
        asked = [drawn_question(draw, BEGIN, LAST, names) for _ in range(2)]
        compare(engine, folder, [*asked, everything(BEGIN, LAST)], seed=seed, legacy=legacy)
    with Analytics(folder, cache=folder / "cache.duckdb", wall=lambda: WALL) as again:
        assert again.refresh().lines == 0
        compare(again, folder, asked, seed=seed, legacy=legacy)


def test_an_empty_log_agrees(tmp_path: Path) -> None:
    with Analytics(tmp_path / "nowhere", cache=tmp_path / "cache.duckdb", wall=lambda: WALL) as engine:
        engine.refresh()
        compare(engine, tmp_path / "nowhere", [everything(BEGIN, LAST)])
