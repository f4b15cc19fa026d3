"""Every figure against plain Python over the same lines."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from analytics_logs import NOON, Line, append, attempt, change, encoded, request, rescue

from fallback.analytics import (
    Analytics,
    Filters,
    Window,
    attempts,
    availability,
    choices,
    consumption,
    failover_pairs,
    failovers_over_time,
    failures,
    last_position,
    latency_distribution,
    latency_over_time,
    lines,
    on_grid_us,
    problems,
    requests,
    states,
    totals,
    totals_over_time,
    window,
)

FIGURES: list[Callable[[Analytics, Window, Filters], pd.DataFrame]] = [
    *(totals, totals_over_time, failovers_over_time, failover_pairs, latency_over_time, latency_distribution),
    *(failures, availability, states, consumption, requests),
]
CALLERS = {"content_policy", "context_window_exceeded", "invalid_request", "request_too_large"}
KINDS = ["rate_limited", "timeout", "server_error", "invalid_request", "content_policy"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def analytics(folder: Path) -> Iterator[Analytics]:
    with Analytics(folder, wall=lambda: NOON + 1e6) as made:
        yield made


def random_log(draw: random.Random, count: int) -> list[Line]:
    """Requests over ten days, each with its attempts before it, some of them in disorder."""
    made: list[Line] = []
    providers = ["groq", "together", "local", "gone, \"from\" 'here'"]
    for number in range(count):
        ts = round(NOON + draw.uniform(-5, 5) * 86_400, 3)
        common = {
            "source": draw.choice(["api", "chat", "test"]),
            "route": draw.choice(["auto", "fast"]),
            "drill": draw.random() < 0.1,
        }
        calls: list[Line] = []
        for place in range(draw.choice([0, 1, 1, 1, 2, 3, 4])):
            before = calls[-1] if calls else None
            last = draw.random() < 0.7
            provider = draw.choice(providers)
            again = before is not None and before["provider"] == provider
            role = "first" if before is None else "retry" if again else "failover"
            left = {}
            if role == "failover" and before is not None and draw.random() < 0.5:
                left = {"previous_provider": before["provider"], "previous_error_type": before["outcome"]}
            paid = last and draw.random() < 0.8
            calls.append(
                attempt(
                    ts - draw.random(),
                    f"r{number}",
                    provider=provider,
                    attempt=place + 1,
                    role=role,
                    outcome="ok" if last else draw.choice([*KINDS, "cancelled"]),
                    duration_s=round(draw.lognormvariate(0, 1.5), 6),
                    input_tokens=draw.randint(0, 999) if last else None,
                    output_tokens=draw.randint(0, 999) if last else None,
                    cost_usd=round(draw.random() / 1000, 12) if paid else None,
                    **common,
                    **left,
                )
            )
            if last:
                break
        answered = bool(calls) and calls[-1]["outcome"] == "ok"
        failovers = sum(call["role"] == "failover" for call in calls)
        made += calls
        made.append(
            request(
                ts,
                f"r{number}",
                provider=str(calls[-1]["provider"]) if answered else None,
                outcome="ok" if answered else draw.choice(["error", "error", "cancelled"]),
                error_type=None if answered else draw.choice(KINDS),
                first_provider=calls[0]["provider"] if calls else None,
                attempts=len(calls),
                failovers=failovers,
                rescued=answered and failovers > 0,
                degraded=answered and calls[-1]["provider"] == "local",
                duration_s=round(draw.lognormvariate(0, 1.5), 6),
                time_to_first_token_s=round(draw.random(), 6) if answered and draw.random() < 0.9 else None,
                input_tokens=draw.randint(0, 999) if answered else None,
                output_tokens=draw.randint(0, 999) if answered else None,
                cost_usd=round(draw.random() / 1000, 12) if answered and draw.random() < 0.8 else None,
                **common,
            )
        )
    return made


class Plain:
    """The figures, without any of the engine's means."""

    def __init__(self, log: list[Line], chosen: Window, filters: Filters) -> None:
        self.window = chosen
        took_part = defaultdict(set)
        order: dict[object, list[Line]] = defaultdict(list)
        for line in log:
            if line["kind"] == "attempt":
                took_part[line["request_id"]].add(line["provider"])
                order[line["request_id"]].append(line)
        self.before = {
            id(line): calls[place - 1]
            for calls in order.values()
            for place, line in enumerate(calls)
            if place
        }

        def wanted(line: Line) -> bool:
            ts = self.ts(line)
            return (
                chosen.since <= ts < chosen.until
                and (filters.drills or not line["drill"])
                and (not filters.routes or line["route"] in filters.routes)
                and (not filters.sources or line["source"] in filters.sources)
            )

        def told(line: Line) -> bool:
            part = took_part[line["request_id"]] | {line.get("provider"), line.get("first_provider")}
            marks = {
                line["outcome"],
                "rescued" if line["rescued"] else "",
                "degraded" if line["degraded"] else "",
            }
            return (not filters.providers or bool(part & set(filters.providers))) and (
                not filters.outcomes or bool(marks & set(filters.outcomes))
            )

        self.requests = [line for line in log if line["kind"] == "request" and wanted(line) and told(line)]
        self.attempts = [
            line
            for line in log
            if line["kind"] == "attempt"
            and wanted(line)
            and (not filters.providers or line["provider"] in filters.providers)
        ]

    @staticmethod
    def ts(line: Line) -> float:
        return pd.Timestamp(str(line["ts"])).timestamp()

    def bucket(self, line: Line, size: int | None = None) -> pd.Timestamp:
        size = size or self.window.bucket_s
        shift = self.window.utc_offset_s if size > 3_600 else 0
        return pd.Timestamp(math.floor((self.ts(line) + shift) / size) * size - shift, unit="s", tz="UTC")

    @staticmethod
    def quantile(values: list[float], percent: int) -> float:
        grid = sorted(on_grid_us(value) for value in values)
        if not grid:
            return math.nan
        return grid[math.ceil(percent * len(grid) / 100) - 1] / 1e6

    def totals(self, lines: list[Line]) -> dict[str, float]:
        def many(test: Callable[[Line], Any]) -> int:
            return sum(bool(test(line)) for line in lines)

        def ratio(part: float, whole: float) -> float:
            return part / whole if whole else math.nan

        def of_ok(name: str) -> list[Any]:
            return [line[name] for line in lines if line["outcome"] == "ok" and name in line]

        ok = many(lambda line: line["outcome"] == "ok")
        failed = many(lambda line: line["outcome"] == "error")
        rescued = many(lambda line: line["rescued"])
        cost = math.fsum(float(str(line.get("cost_usd", 0))) for line in lines)
        return {
            "requests": len(lines),
            "answered": ok,
            "failed": failed,
            "cancelled": len(lines) - ok - failed,
            "degraded": many(lambda line: line["degraded"]),
            "rescued": rescued,
            "success_rate": ratio(ok, ok + failed),
            "success_rate_without_failover": ratio(ok - rescued, ok + failed),
            "failovers": sum(int(str(line["failovers"])) for line in lines),
            "failover_rate": ratio(many(lambda line: line["failovers"]), len(lines)),
            "latency_p50_s": self.quantile(of_ok("duration_s"), 50),
            "latency_p95_s": self.quantile(of_ok("duration_s"), 95),
            "ttft_p50_s": self.quantile(of_ok("time_to_first_token_s"), 50),
            "ttft_p95_s": self.quantile(of_ok("time_to_first_token_s"), 95),
            "input_tokens": sum(int(str(line.get("input_tokens", 0))) for line in lines),
            "output_tokens": sum(int(str(line.get("output_tokens", 0))) for line in lines),
            "cost_usd": cost,
            "unpriced": ok - len(of_ok("cost_usd")),
            "cost_per_1k_answers_usd": ratio(cost * 1_000, ok),
        }


def records(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in frame.itertuples(index=False, name=None)]


def assert_same(found: Mapping[Any, Any], wanted: dict[str, float]) -> None:
    for name, value in wanted.items():
        if "cost" in name:
            assert found[name] == pytest.approx(value, rel=1e-14, abs=1e-18, nan_ok=True), name
        else:
            assert found[name] == value or (math.isnan(found[name]) and math.isnan(value)), name


WINDOWS = {
    "all": (-5 * 86_400, 5 * 86_400, 0),
    "two days, half an hour off": (-86_400, 86_400, 19_800),
    "a week, an hour behind": (-3 * 86_400, 4 * 86_400, -3_600),
    "a day": (-50_000, 36_400, 3_600),
    "an hour": (-1_800, 1_800, 0),
}
FILTERS = {
    "none": Filters(),
    "drills": Filters(drills=True),
    "source": Filters(sources=("chat", "test")),
    "route": Filters(routes=("fast",)),
    "provider": Filters(providers=("together",)),
    "providers": Filters(providers=("gone, \"from\" 'here'", "local", "never"), drills=True),
    "outcome": Filters(outcomes=("rescued", "error")),
    "degraded": Filters(outcomes=("degraded",), providers=("groq",), sources=("api",)),
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Analytics, list[Line]]]:
    log = random_log(random.Random(4), 1_500)
    folder = tmp_path_factory.mktemp("drawn")
    with Analytics(folder) as analytics:
        for begin in range(0, len(log), 700):
            append(folder / "usage.log", log[begin : begin + 700])
            analytics.refresh()
        yield analytics, log


@pytest.mark.parametrize("range_", WINDOWS)
@pytest.mark.parametrize("filter_", FILTERS)
def test_every_figure_is_that_of_plain_python(
    drawn: tuple[Analytics, list[Line]], range_: str, filter_: str
) -> None:
    analytics, log = drawn
    since, until, offset = WINDOWS[range_]
    chosen = window(NOON + since, NOON + until, first_ts=None, utc_offset_s=offset)
    filters = FILTERS[filter_]
    plain = Plain(log, chosen, filters)

    assert_same(dict(totals(analytics, chosen, filters).iloc[0]), plain.totals(plain.requests))
    over_time = totals_over_time(analytics, chosen, filters)
    assert len(over_time) == chosen.buckets
    assert over_time.bucket[0].timestamp() == chosen.since
    for row in over_time.to_dict("records"):
        inside = [line for line in plain.requests if plain.bucket(line) == row["bucket"]]
        assert_same(row, plain.totals(inside))

    failed_over = [line for line in plain.attempts if line["role"] == "failover"]
    reasons = Counter((plain.bucket(line), plain.before[id(line)]["outcome"]) for line in failed_over)
    assert records(failovers_over_time(analytics, chosen, filters)) == sorted(
        (*key, count) for key, count in reasons.items()
    )
    pairs = Counter((plain.before[id(line)]["provider"], line["provider"]) for line in failed_over)
    good = Counter(
        (plain.before[id(line)]["provider"], line["provider"])
        for line in failed_over
        if line["outcome"] == "ok"
    )
    assert sorted(records(failover_pairs(analytics, chosen, filters))) == sorted(
        (*key, count, good[key]) for key, count in pairs.items()
    )

    answers: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for line in plain.attempts:
        if line["outcome"] == "ok":
            role = "failover" if line["role"] == "failover" else "direct"
            answers[plain.bucket(line), line["provider"], role].append(float(str(line["duration_s"])))
    assert records(latency_over_time(analytics, chosen, filters)) == sorted(
        (*key, len(values), *(plain.quantile(values, percent) for percent in (50, 95, 99)))
        for key, values in answers.items()
    )
    bins = latency_distribution(analytics, chosen, filters)
    assert bins.answers.sum() == sum(map(len, answers.values()))
    for provider, role, low, high, count in records(bins):
        durations = [v for key, values in answers.items() if key[1:] == (provider, role) for v in values]
        assert count == sum(low <= on_grid_us(value) / 1e6 < high for value in durations)

    kinds = Counter(
        (line["provider"], line["outcome"])
        for line in plain.attempts
        if line["outcome"] not in {"ok", "cancelled"}
    )
    assert records(failures(analytics, chosen, filters)) == sorted((*key, n) for key, n in kinds.items())

    calls: Counter[Any] = Counter()
    kept: Counter[Any] = Counter()
    for line in plain.requests:
        if line["outcome"] == "ok" or (line["outcome"] == "error" and line["error_type"] not in CALLERS):
            calls[plain.bucket(line, 86_400), ""] += 1
            kept[plain.bucket(line, 86_400), ""] += line["outcome"] == "ok"
    for line in plain.attempts:
        if line["outcome"] not in {*CALLERS, "cancelled"}:
            calls[plain.bucket(line, 86_400), line["provider"]] += 1
            kept[plain.bucket(line, 86_400), line["provider"]] += line["outcome"] == "ok"
    found = availability(analytics, chosen, filters)
    assert records(found[["day", "provider", "calls", "good"]]) == sorted(
        (*key, count, kept[key]) for key, count in calls.items()
    )
    for _, _, count, good_ones, available, nines in records(found):
        assert available == good_ones / count
        assert nines == pytest.approx(
            -math.log10((count - good_ones) / count) if good_ones < count else math.inf
        )

    used: dict[tuple[Any, ...], list[Line]] = defaultdict(list)
    for line in plain.attempts:
        used[plain.bucket(line), line["provider"]].append(line)
    spent = consumption(analytics, chosen, filters)
    assert records(
        spent[["bucket", "provider", "answers", "input_tokens", "output_tokens", "unpriced"]]
    ) == sorted(
        (
            *key,
            sum(line["outcome"] == "ok" for line in part),
            sum(int(str(line.get("input_tokens", 0))) for line in part),
            sum(int(str(line.get("output_tokens", 0))) for line in part),
            sum(line["outcome"] == "ok" and "cost_usd" not in line for line in part),
        )
        for key, part in used.items()
    )
    for bucket, provider, cost in records(spent[["bucket", "provider", "cost_usd"]]):
        costs = [float(str(line.get("cost_usd", 0))) for line in used[bucket, provider]]
        assert cost == pytest.approx(math.fsum(costs), rel=1e-14)

    listed = requests(analytics, chosen, filters, limit=10_000)
    assert sorted(listed.request_id) == sorted(str(line["request_id"]) for line in plain.requests)
    assert listed.ts.is_monotonic_decreasing


def test_an_empty_log_gives_empty_frames_with_the_same_columns(analytics: Analytics, folder: Path) -> None:
    chosen = window(NOON - 3_600, NOON, first_ts=None)
    empty = [figure(analytics, chosen, Filters()) for figure in FIGURES]
    assert totals(analytics, chosen, Filters()).requests[0] == 0
    assert len(totals_over_time(analytics, chosen, Filters())) == chosen.buckets
    append(folder / "usage.log", [*rescue(NOON - 10, "a", failed="groq", answered="local")])
    append(folder / "usage.log", [change(NOON - 5, "groq", "ready", "cooling_down", length_s=1)])
    analytics.refresh()
    for figure, before in zip(FIGURES, empty, strict=True):
        full = figure(analytics, chosen, Filters())
        assert len(full), figure.__name__
        assert list(before.dtypes.items()) == list(full.dtypes.items()), figure.__name__
    for look_up in (attempts, lines):
        assert list(look_up(analytics, "none").dtypes.items()) == list(look_up(analytics, "a").dtypes.items())
        assert len(look_up(analytics, "none")) == 0
    assert list(problems(analytics).columns) == ["file", "line", "reason"]


def test_one_line_is_all_there_is(analytics: Analytics, folder: Path) -> None:
    append(folder / "usage.log", [request(NOON, "a", duration_s=1.23456)])
    analytics.refresh()
    chosen = window(None, NOON, first_ts=analytics.coverage.first_ts)
    found = totals(analytics, chosen, Filters()).iloc[0]
    assert (found.requests, found.success_rate, found.latency_p50_s, found.latency_p95_s) == (
        1,
        1.0,
        1.23,
        1.23,
    )
    assert math.isnan(found.ttft_p50_s)


def test_only_failures_have_a_rate_of_zero_and_no_latency(analytics: Analytics, folder: Path) -> None:
    for n in range(3):
        append(
            folder / "usage.log",
            [attempt(NOON, f"{n}", outcome="timeout"), request(NOON, f"{n}", provider=None)],
        )
    analytics.refresh()
    chosen = window(NOON, NOON + 60, first_ts=None)
    found = totals(analytics, chosen, Filters()).iloc[0]
    assert (found.failed, found.success_rate, found.success_rate_without_failover) == (3, 0.0, 0.0)
    assert math.isnan(found.latency_p50_s)
    assert math.isnan(found.cost_per_1k_answers_usd)
    assert records(availability(analytics, chosen, Filters()))[0][2:] == (3, 0, 0.0, 0.0)


def test_a_clock_that_goes_back_counts_lines_where_they_say_they_were(
    analytics: Analytics, folder: Path
) -> None:
    for ts in (NOON, NOON - 7_200, 1.0, NOON + 60):
        append(folder / "usage.log", [request(ts, str(ts))])
        analytics.refresh()
    chosen = window(NOON - 7_200, NOON + 120, first_ts=None)
    assert list(requests(analytics, chosen, Filters()).request_id) == [
        str(NOON + 60),
        str(NOON),
        str(NOON - 7_200),
    ]
    assert analytics.coverage.first_ts == 1.0
    everything = window(None, NOON + 120, first_ts=1.0, utc_offset_s=-3_600)
    assert totals_over_time(analytics, everything, Filters()).requests.sum() == 4
    assert availability(analytics, everything, Filters()).calls.sum() == 4


@pytest.mark.parametrize(("offset", "hours"), [(3_600, [23, 0]), (7_200, [22, 0])])
def test_at_a_change_of_daylight_saving_no_hour_is_lost_or_counted_twice(
    analytics: Analytics, folder: Path, offset: int, hours: list[int]
) -> None:
    # In Europe the clocks went back on 2026-10-25 at 01:00 UTC: that local day had 25 hours.
    change_at = pd.Timestamp("2026-10-25T01:00Z").timestamp()
    append(
        folder / "usage.log",
        [request(change_at + hour * 3_600 + 1, f"{hour:+03}") for hour in range(-48, 48)],
    )
    analytics.refresh()
    chosen = window(
        change_at - 172_800, change_at + 172_800, first_ts=None, utc_offset_s=offset, most_buckets=6
    )
    days = availability(analytics, chosen, Filters())
    days = days[days.provider == ""]
    assert days.calls.sum() == 96
    assert set(days.day.dt.hour) == {hours[0]}
    assert list(days.calls[1:-1]) == [24] * (len(days) - 2)
    assert totals_over_time(analytics, chosen, Filters()).requests.sum() == 96


def test_a_thousand_providers_are_told_apart(analytics: Analytics, folder: Path) -> None:
    names = [f"provider-{n:04}" for n in range(1_000)]
    append(
        folder / "usage.log",
        [
            line
            for n, name in enumerate(names)
            for line in (attempt(NOON, f"{n}", provider=name), request(NOON, f"{n}", provider=name))
        ],
    )
    analytics.refresh()
    chosen = window(NOON, NOON + 86_400, first_ts=None)
    assert sorted(choices(analytics).providers) == names
    assert list(latency_over_time(analytics, chosen, Filters()).provider) == names
    assert len(availability(analytics, chosen, Filters())) == 1_001
    assert totals(analytics, chosen, Filters(providers=("provider-0007",))).requests[0] == 1


def test_a_provider_in_the_middle_of_a_request_took_part_whatever_the_order_of_the_lines(
    analytics: Analytics, folder: Path
) -> None:
    calls = [
        attempt(NOON, "a", provider="first", outcome="timeout"),
        attempt(NOON, "a", provider="middle", attempt=2, role="failover", outcome="timeout"),
        attempt(NOON, "a", provider="last", attempt=3, role="failover"),
    ]
    done = request(NOON, "a", provider="last", first_provider="first", attempts=3, failovers=2, rescued=True)
    for day, log in (("21", [done]), ("22", calls)):
        append(folder / f"usage-2026-11-{day}.log", log)
        analytics.refresh()
    for chosen in (window(NOON, NOON + 60, first_ts=None), window(NOON, NOON + 86_400, first_ts=None)):
        for name in ("first", "middle", "last"):
            assert totals(analytics, chosen, Filters(providers=(name,))).rescued[0] == 1, name
        assert totals(analytics, chosen, Filters(providers=("other",))).requests[0] == 0


def test_the_attempt_that_a_failover_left_is_found_in_an_earlier_reading(
    analytics: Analytics, folder: Path
) -> None:
    left = attempt(NOON, "a", provider="groq", outcome="timeout")
    gone_to = attempt(NOON + 1, "a", provider="local", attempt=2, role="failover")
    for line in (left, attempt(NOON, "b", provider="wrong", outcome="overloaded"), gone_to):
        append(folder / "usage.log", [line])
        analytics.refresh()
    chosen = window(NOON, NOON + 60, first_ts=None)
    assert records(failover_pairs(analytics, chosen, Filters())) == [("groq", "local", 1, 1)]
    assert list(failovers_over_time(analytics, chosen, Filters()).reason) == ["timeout"]


def test_requests_are_searched_and_turned_over_page_by_page(analytics: Analytics, folder: Path) -> None:
    append(folder / "usage.log", [request(NOON + n // 3, f"req-{n:03}") for n in range(20)])
    append(folder / "usage.log", [request(NOON, "odd", request_model="Big-100%_Model")])
    analytics.refresh()
    chosen = window(NOON, NOON + 60, first_ts=None)
    everything = requests(analytics, chosen, Filters())
    seen: list[str] = []
    position = None
    while True:
        page = requests(analytics, chosen, Filters(), limit=4, before=position)
        if not len(page):
            break
        seen += list(page.request_id)
        position = last_position(page)
    assert seen == list(everything.request_id)
    assert len(seen) == 21
    assert last_position(page) is None
    assert list(requests(analytics, chosen, Filters(), search="REQ-01").request_id) == [
        f"req-{n:03}" for n in range(19, 9, -1)
    ]
    assert list(requests(analytics, chosen, Filters(), search="100%_m").request_id) == ["odd"]
    assert len(requests(analytics, chosen, Filters(), search="'; DROP TABLE entries; --")) == 0


def test_one_request_shows_its_attempts_and_its_lines(analytics: Analytics, folder: Path) -> None:
    story = rescue(NOON, "a", failed="groq", answered="local")
    story[0] |= {
        "http_status": 429,
        "error_message": "Zu schnell: 日本",
        "retry_after_s": 7.5,
        "cooldown_s": 8.0,
    }
    story[1] |= {"finish_reason": "stop", "input_tokens": 3, "cost_usd": 0.000001234567, "probe": True}
    append(folder / "usage.log", [request(NOON, "other"), *story, request(NOON, "later")])
    analytics.refresh()
    found = attempts(analytics, "a")
    assert list(found.provider) == ["groq", "local"]
    assert list(found.role) == ["first", "failover"]
    assert found.http_status[0] == 429
    assert found.error_message[0] == "Zu schnell: 日本"
    assert (found.retry_after_s[0], found.cooldown_s[0], found.duration_s[1]) == (7.5, 8.0, 0.75)
    assert (found.finish_reason[1], found.input_tokens[1], found.cost_usd[1]) == ("stop", 3, 0.000001234567)
    assert list(found.probe) == [False, True]
    shown = lines(analytics, "a")
    assert records(shown) == [
        ("usage.log", number, encoded(line).decode().rstrip("\n"))
        for number, line in enumerate(story, start=2)
    ]


def test_choices_are_the_names_of_the_log_by_frequency(analytics: Analytics, folder: Path) -> None:
    append(folder / "usage.log", rescue(NOON, "a", failed="groq", answered="local"))
    append(folder / "usage.log", [attempt(NOON, "b", provider="local", source="chat", route="fast")])
    append(
        folder / "usage.log", [change(NOON, "idle", "ready", "off"), change(NOON, "idle", "order", "order")]
    )
    analytics.refresh()
    found = choices(analytics)
    assert found.providers == ("local", "groq", "idle")
    assert (found.routes, found.sources) == (("auto", "fast"), ("api", "chat"))


def test_durations_lie_on_a_grid_of_three_digits() -> None:
    cases = [
        (0, 0),
        (1.23449, 1_230_000),
        (1.235, 1_240_000),
        (0.9995, 1_000_000),
        (0.000987, 987),
        (123.45, 123_000_000),
    ]
    for duration_s, wanted in cases:
        assert on_grid_us(duration_s) == wanted
    draw = random.Random(1)
    for _ in range(1_000):
        duration_s = round(draw.lognormvariate(0, 3), 6)
        assert abs(on_grid_us(duration_s) / 1e6 - duration_s) <= 0.005 * duration_s + 1e-9
