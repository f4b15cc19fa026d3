"""The history that never happened: made again byte by byte, in the real format, and free of contradictions."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from fallback.config import Settings, load
from fallback.core.kinds import FailureKind
from fallback.demo import Demo
from fallback.demo.__main__ import main
from fallback.demo.history import Span, write_history
from fallback.usage_log import read

ROOT = Path(__file__).resolve().parent.parent
END = datetime(2026, 11, 23, tzinfo=UTC).timestamp()
"""A Monday's beginning: the week before it begins on a Monday too."""
DAY_S = 86_400.0
LOCAL = "local_smollm"

Fields = Mapping[str, Any]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load(ROOT / "providers.yaml", environ={})


@pytest.fixture(scope="module")
def week(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("week")
    assert write_history(folder, settings, Span(end=END, requests_per_day=1200, seed=1)) > 7 * 2400
    return folder


def fields_of(folder: Path) -> list[Fields]:
    records = list(read(folder))
    assert [record.damaged for record in records if record.damaged is not None] == []
    return [record.fields for record in records if record.fields is not None]


def instant(line: Fields) -> float:
    return datetime.fromisoformat(line["ts"]).timestamp()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(
    scope="module",
    params=[
        Span(end=END, requests_per_day=1200, seed=1),
        Span(end=END + 3333.25, days=1.0, requests_per_day=4000, seed=2),
        Span(end=END + 40_000, days=0.2, requests_per_day=20_000, seed=3),
        Span(end=END, days=30.0, requests_per_day=60, seed=4),
    ],
    ids=["week", "day", "hours", "month"],
)
def lines(
    request: pytest.FixtureRequest, week: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> list[Fields]:
    folder = week
    if request.param.days != 7.0:
        folder = tmp_path_factory.mktemp("history")
        write_history(folder, settings, request.param)
    return fields_of(folder)


# The files


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    settings: Settings, tmp_path: Path
) -> None:
    span = Span(end=END, days=2.0, requests_per_day=300, seed=5)
    for name in ("one", "two"):
        write_history(tmp_path / name, settings, span)
    write_history(tmp_path / "other", settings, replace(span, seed=6))
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert content(tmp_path / "one") != content(tmp_path / "other")


def test_files_are_rotated_by_day_as_the_program_does_it(week: Path) -> None:
    days = [f"usage-2026-11-{day}.log" for day in range(16, 22)]
    assert sorted(path.name for path in week.iterdir()) == [*days, "usage.log", "usage.log.lock"]
    for record in read(week):
        assert record.fields is not None
        day = str(record.fields["ts"])[:10]
        assert record.file == (f"usage-{day}.log" if day != "2026-11-22" else "usage.log")


def test_files_are_rotated_by_size_too(settings: Settings, tmp_path: Path) -> None:
    small = replace(settings, log=replace(settings.log, rotate_bytes=50_000))
    lines = write_history(tmp_path, small, Span(end=END, days=1.0, requests_per_day=300))
    names = sorted(path.name for path in tmp_path.glob("usage-*"))
    assert names[:3] == ["usage-2026-11-22.2.log", "usage-2026-11-22.3.log", "usage-2026-11-22.4.log"]
    assert all(path.stat().st_size < 53_000 for path in tmp_path.glob("usage*.log"))
    assert len(fields_of(tmp_path)) == lines


def test_a_folder_with_a_log_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "usage-2026-01-01.log").write_text("mine\n")
    with pytest.raises(FileExistsError, match="holds a usage log already"):
        write_history(tmp_path, settings, Span(end=END))
    assert content(tmp_path) == {"usage-2026-01-01.log": b"mine\n"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"days": 0.0},
        {"days": math.nan},
        {"days": 4000.0},
        {"requests_per_day": -1.0},
        {"end": 100.0},
        {"end": math.inf},
    ],
)
def test_a_span_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"a history|a day"):
        Span(**{"end": END, **wrong})  # type: ignore[arg-type]


# The lines


def test_lines_are_in_order_and_inside_the_span_and_requests_as_many_as_wanted(week: Path) -> None:
    lines = fields_of(week)
    instants = [instant(line) for line in lines]
    assert instants == sorted(instants)
    assert END - 7 * DAY_S <= instants[0] < instants[-1] < END
    assert sum(line["kind"] == "request" for line in lines) == 7 * 1200
    ids = [line["request_id"] for line in lines if line["kind"] == "request"]
    assert len(set(ids)) == len(ids)


def test_the_attempts_of_a_request_agree_with_its_line(lines: list[Fields]) -> None:
    attempts: defaultdict[str, list[Fields]] = defaultdict(list)
    requests = 0
    for line in lines:
        if line["kind"] == "attempt" and line["source"] == "probe":
            assert (line["attempt"], line["role"], line["probe"]) == (1, "first", True)
        elif line["kind"] == "attempt":
            attempts[line["request_id"]].append(line)
        elif line["kind"] == "request":
            requests += 1
            check_request(line, attempts.pop(line["request_id"], []))
    assert requests
    assert not attempts, "attempts without their request"


def check_request(request: Fields, attempts: Sequence[Fields]) -> None:
    for attempt in attempts:
        for name in ("source", "route", "stream"):
            assert attempt[name] == request[name]
    check_roles(request, attempts)
    check_times(request, attempts)
    check_sums(request, attempts)
    answered = bool(attempts) and attempts[-1]["outcome"] == "ok"
    assert answered == (request["outcome"] == "ok")
    if answered:
        assert request["provider"] == attempts[-1]["provider"]
        assert request["request_model"] == attempts[-1]["request_model"]
        assert request["finish_reason"] == attempts[-1]["finish_reason"]
        assert "error_type" not in request
    else:
        assert request["error_type"]
        assert (request["outcome"] == "cancelled") == (request["error_type"] == "cancelled")
    assert request["rescued"] == (answered and request["provider"] != request["first_provider"])
    assert request["degraded"] == (answered and request["provider"] == LOCAL)
    assert request["drill"] == any(attempt["drill"] for attempt in attempts)


def check_roles(request: Fields, attempts: Sequence[Fields]) -> None:
    assert [attempt["attempt"] for attempt in attempts] == list(range(1, len(attempts) + 1))
    assert request["attempts"] == len(attempts)
    assert request["failovers"] == sum(attempt["role"] == "failover" for attempt in attempts)
    assert request.get("first_provider") == (attempts[0]["provider"] if attempts else None)
    for place, attempt in enumerate(attempts):
        before = attempts[place - 1] if place else None
        same = before is not None and candidate(before) == candidate(attempt)
        assert attempt["role"] == ("first" if before is None else "retry" if same else "failover")
        assert before is None or before["outcome"] not in {"ok", "cancelled"}
        assert attempt["outcome"] == attempt.get("error_type", "ok")


def check_times(request: Fields, attempts: Sequence[Fields]) -> None:
    began = instant(request) - request["duration_s"]
    free_from = 0.0
    for attempt in attempts:
        assert attempt["started_s"] >= free_from - 1e-5
        free_from = attempt["started_s"] + attempt["duration_s"]
        assert free_from <= request["duration_s"] + 1e-5
        assert instant(attempt) == pytest.approx(began + free_from, abs=0.003)
        assert attempt.get("time_to_first_token_s", 0.0) <= attempt["duration_s"] + 1e-5
        if attempt["role"] == "retry":
            assert attempt["started_s"] > 0.15
    if request["outcome"] == "ok":
        begun = [
            a["started_s"] + a["time_to_first_token_s"] for a in attempts if "time_to_first_token_s" in a
        ]
        # An answer that another provider went on with began with the one before it.
        expected = begun[-1:] if "continues" not in attempts[-1] else begun[:-1]
        assert any(request["time_to_first_token_s"] == pytest.approx(each, abs=1e-5) for each in expected)
    assert request["duration_s"] <= 60.01


def check_sums(request: Fields, attempts: Sequence[Fields]) -> None:
    for name in ("input_tokens", "output_tokens", "reasoning_tokens", "cached_tokens"):
        told = [attempt[name] for attempt in attempts if name in attempt]
        assert request.get(name) == (sum(told) if told else None)
    costs = [attempt.get("cost_usd") for attempt in attempts if "input_tokens" in attempt]
    if request["outcome"] == "ok" and None in costs:
        assert "cost_usd" not in request
    else:
        assert request.get("cost_usd", 0.0) == pytest.approx(sum(cost or 0.0 for cost in costs), abs=1e-11)
    for attempt in attempts:
        used = {"ok", "empty_response"} if "usage_estimated" not in attempt else {attempt["outcome"]}
        assert ("input_tokens" in attempt) == (attempt["outcome"] in used)
        assert attempt.get("cached_tokens", 0) <= attempt.get("input_tokens", 0)
        assert attempt.get("reasoning_tokens", 0) <= attempt.get("output_tokens", 0)


def candidate(attempt: Fields) -> tuple[str, str]:
    return attempt["provider"], attempt["request_model"]


# The states


@dataclass
class Standing:
    """One provider as the state lines tell it."""

    switched_off: bool = False
    unavailable: bool = False
    drill: str | None = None
    real: dict[str | None, tuple[str, float]] = field(default_factory=dict)
    drilled: dict[str | None, tuple[str, float]] = field(default_factory=dict)

    changed: float = 0.0

    def take(self, line: Fields) -> None:
        after = line["to"]
        now = self.changed = instant(line)
        if after in {"on", "off"}:
            self.switched_off = after == "off"
        elif after == "drill":
            self.drill = line["reason"]
            # A drill has breakers of its own, but a model that is gone is gone.
            self.drilled = {key: value for key, value in self.real.items() if value[0] == "retired"}
        elif after == "no_drill":
            self.drill = None
        elif "not_configured" in {after, line["from"]}:
            self.unavailable = after == "not_configured"
        elif after != "order":
            until = datetime.fromisoformat(line["until"]).timestamp() if "until" in line else math.inf
            breakers = self.real if self.drill is None else self.drilled
            before = breakers.get(line.get("model"), ("ready", math.inf))[0]
            assert line["from"] == ("disabled" if before == "retired" else before), line
            assert (after == "cooling_down") <= (until >= now), line
            breakers[line.get("model")] = (after, until)

    def barred(self, model: str, now: float) -> list[str]:
        """What stands against asking `model`."""
        breakers = self.real if self.drill is None else self.drilled
        states = [breakers.get(key, ("ready", math.inf)) for key in (None, model)]
        found = [state for state, until in states if state != "ready" and now < until - 0.002]
        found += ["off"] * (self.switched_off or (self.drill or "").startswith("Off"))
        return found + ["not_configured"] * self.unavailable

    def closed(self, models: Sequence[str], now: float) -> bool:
        """Whether none of `models`, in their succession, may be asked; or one has a probe under way."""
        breakers = self.real if self.drill is None else self.drilled
        serving = [model for model in models if breakers.get(model, ("",))[0] != "retired"]
        return not serving or bool(self.barred(serving[0], now)) or self.resting(serving[0], now)

    def resting(self, model: str, now: float) -> bool:
        """Whether a rest of `model` is over and nothing has shown yet that it is back."""
        breakers = self.real if self.drill is None else self.drilled
        states = [breakers.get(key, ("ready", math.inf)) for key in (None, model)]
        return any(state != "ready" and now > until + 0.002 for state, until in states)


def test_no_attempt_contradicts_the_states(lines: list[Fields], settings: Settings) -> None:
    """Every attempt is held against the states at the instant it began, in the order in which things happened."""
    standings = {provider.name: Standing() for provider in settings.providers}
    models = {provider.name: [model.name for model in provider.models] for provider in settings.providers}
    checked: Counter[str] = Counter()
    for began, line in sorted(_starts_and_changes(lines), key=lambda each: each[0]):
        standing = standings[line["provider"]]
        if line["kind"] == "state":
            standing.take(line)
            checked["state"] += 1
            continue
        if began - standing.changed < 0.003:
            continue  # instants are told in milliseconds: which came first cannot be known
        barred = standing.barred(line["request_model"], began)
        assert set(barred) <= {"cooling_down"}, line
        if not barred and standing.resting(line["request_model"], began) and line["probe"]:
            checked["probe"] += 1
        elif barred or standing.resting(line["request_model"], began):
            # With everybody resting or being probed, the one that recovers soonest is asked all the same.
            checked["panic"] += 1
            assert line["role"] != "retry", line
            if line["role"] == "first":
                assert all(standings[name].closed(models[name], began) for name in standings), line
        else:
            checked["plain"] += 1
    assert checked["state"] > 10
    assert checked["probe"] > 3
    assert checked["panic"] < 0.02 * checked["plain"]


def _starts_and_changes(lines: list[Fields]) -> Iterator[tuple[float, Fields]]:
    for line in lines:
        if line["kind"] == "state":
            yield instant(line), line
        elif line["kind"] == "attempt":
            yield instant(line) - line["duration_s"], line


def test_the_router_says_of_each_cooldown_which_attempt_brought_it(week: Path) -> None:
    cooled = {
        line["request_id"] for line in fields_of(week) if line["kind"] == "attempt" and "cooldown_s" in line
    }
    told = [line for line in fields_of(week) if line["kind"] == "state" and line["to"] == "cooling_down"]
    assert told
    assert {line["request_id"] for line in told} == cooled


# What a week holds


def of_kind(folder: Path, kind: str) -> list[Fields]:
    return [line for line in fields_of(folder) if line["kind"] == kind]


def test_a_week_holds_failures_of_every_sort_and_what_they_lead_to(week: Path) -> None:
    attempts, requests = of_kind(week, "attempt"), of_kind(week, "request")
    real = {attempt["outcome"] for attempt in attempts if not attempt["drill"]}
    # No cloud provider of the shipped configuration refuses one model alone, or stands behind a wall of its own.
    assert real >= {kind.value for kind in FailureKind} - {"permission_denied", "blocked_by_edge"} - {
        "stream_truncated", "stream_stalled"
    }  # fmt: skip
    assert real & {"stream_truncated", "stream_stalled"}
    assert any(attempt["role"] == "retry" and attempt["outcome"] == "ok" for attempt in attempts)
    limited = [attempt for attempt in attempts if attempt["outcome"] == "rate_limited"]
    assert len(limited) > 50
    assert all(attempt["retry_after_s"] <= attempt["cooldown_s"] for attempt in limited)
    assert {request["outcome"] for request in requests} == {"ok", "error", "cancelled"}
    rescued = [request for request in requests if request["rescued"]]
    assert 0.01 * len(requests) < len(rescued) < 0.1 * len(requests)
    degraded = [request for request in requests if request["degraded"]]
    assert 3 < len(degraded) < 0.02 * len(requests)
    messages = [request["error_message"] for request in requests if "error_message" in request]
    assert any(message.startswith("all providers failed") for message in messages)
    assert any(
        request["error_type"] == "deadline_exceeded" for request in requests if "error_type" in request
    )
    assert any(request["failovers"] > 1 for request in requests)
    probes = Counter(attempt["outcome"] for attempt in attempts if attempt["source"] == "probe")
    assert probes["ok"] > 10
    assert len(probes) > 1
    went_on = [attempt for attempt in attempts if "continues" in attempt]
    assert any(attempt["outcome"] == "ok" for attempt in went_on), "an answer that another provider ended"
    assert any(request["finish_reason"] == "length" for request in requests if "finish_reason" in request)


def test_a_week_holds_drills_and_every_state(week: Path) -> None:
    states, attempts = of_kind(week, "state"), of_kind(week, "attempt")
    told = {(state["from"], state["to"]) for state in states}
    assert told >= {
        ("ready", "cooling_down"), ("cooling_down", "ready"), ("ready", "disabled"), ("disabled", "ready"),
        ("ready", "retired"), ("on", "off"), ("off", "on"), ("no_drill", "drill"), ("drill", "no_drill"),
        ("ready", "not_configured"), ("not_configured", "ready"), ("order", "order"),
    }  # fmt: skip
    assert {state["by"] for state in states} == {"router", "dashboard", "api", "drill"}
    drills = [state for state in states if state["to"] == "drill"]
    ends = [state for state in states if state["to"] == "no_drill"]
    assert len(drills) == len(ends) >= 7
    assert len({drill["reason"] for drill in drills}) >= 6
    drilled = [attempt for attempt in attempts if attempt["drill"]]
    assert len({attempt["outcome"] for attempt in drilled}) >= 3
    assert len(drilled) < 0.03 * len(attempts)
    (retired,) = {(state["provider"], state["model"]) for state in states if state["to"] == "retired"}
    assert retired == ("groq_mixtral", "mixtral-8x7b-32768")
    served = [
        attempt
        for attempt in attempts
        if attempt["provider"] == "groq_mixtral" and attempt["outcome"] == "ok"
    ]
    assert served[0]["request_model"] == "mixtral-8x7b-32768"
    assert served[-1]["request_model"] == "openai/gpt-oss-120b"
    assert any(attempt["probe"] and attempt["outcome"] == "ok" for attempt in attempts)


def test_a_week_holds_an_outage_of_forty_minutes(week: Path) -> None:
    attempts = [a for a in of_kind(week, "attempt") if a["provider"] == "groq_llama" and not a["drill"]]
    answered = [instant(a) for a in attempts if a["outcome"] == "ok"]
    gaps = [(before, after) for before, after in pairwise(answered) if after - before > 2400]
    failed = [
        [a["outcome"] for a in attempts if before < instant(a) < after and a["outcome"] != "cancelled"]
        for before, after in gaps
    ]
    outage = max(failed, key=len)
    assert len(outage) > 20
    # What comes in beside it is of no account: a question refused for what it says, say.
    assert sum(kind in {"connection", "overloaded", "timeout"} for kind in outage) > 0.9 * len(outage)


def test_a_week_holds_a_slow_evening(week: Path) -> None:
    ok = [a for a in of_kind(week, "attempt") if a["provider"] == "groq_llama" and a["outcome"] == "ok"]
    by_hour: defaultdict[int, list[float]] = defaultdict(list)
    for attempt in ok:
        by_hour[int(instant(attempt) // 3600)].append(attempt["duration_s"])
    usual = median(attempt["duration_s"] for attempt in ok)
    slow = [hour for hour, took in by_hour.items() if len(took) > 20 and median(took) > 2.5 * usual]
    assert 2 <= len(slow) <= 5
    assert all(18 <= hour % 24 <= 22 for hour in slow)


def test_traffic_has_days_nights_weekends_sources_and_routes(week: Path) -> None:
    requests = of_kind(week, "request")
    assert {request["source"] for request in requests} == {"api", "chat", "python", "cli"}
    routes = Counter(request["route"] for request in requests)
    assert routes["auto"] > 0.6 * len(requests)
    assert len(routes) == 9
    assert {request["stream"] for request in requests} == {True, False}
    people = [datetime.fromisoformat(r["ts"]) for r in requests if r["source"] in {"chat", "cli"}]
    hours = Counter(moment.hour for moment in people)
    assert sum(hours[hour] for hour in range(1, 5)) < 0.1 * sum(hours[hour] for hour in range(9, 13))
    days = Counter(datetime.fromisoformat(request["ts"]).weekday() for request in requests)
    assert max(days[5], days[6]) < 0.7 * min(days[day] for day in range(5))
    nightly = [datetime.fromisoformat(r["ts"]).hour for r in requests if r["source"] == "python"]
    assert sum(1 <= hour <= 4 for hour in nightly) > 0.6 * len(nightly)


def test_latencies_are_those_of_the_providers_and_longer_answers_take_longer(week: Path) -> None:
    ok = [a for a in of_kind(week, "attempt") if a["outcome"] == "ok"]
    first = {name: median(a["time_to_first_token_s"] for a in ok if a["provider"] == name)
             for name in ("groq_llama", "together_llama", LOCAL)}  # fmt: skip
    assert first["groq_llama"] < first["together_llama"] < first[LOCAL]
    groq = [a for a in ok if a["provider"] == "groq_llama"]
    long = median(a["duration_s"] for a in groq if a["output_tokens"] > 400)
    short = median(a["duration_s"] for a in groq if a["output_tokens"] < 100)
    assert long > 3 * short
    paid = [a for a in groq if a["request_model"] == "llama-3.1-8b-instant"]
    assert all(
        a["cost_usd"] == pytest.approx((a["input_tokens"] * 0.05 + a["output_tokens"] * 0.08) / 1e6)
        for a in paid
    )
    dedicated = [a for a in ok if a["request_model"] == "meta-llama/Llama-3-70b-chat-hf"]
    assert dedicated
    assert not any("cost_usd" in a for a in dedicated)


def test_any_configuration_has_a_history(tmp_path: Path) -> None:
    alone = tmp_path / "alone.yaml"
    alone.write_text(
        "providers:\n  - {name: small, type: local, model: tiny, timeouts: {first_token_s: 60}}\n"
    )
    one = tmp_path / "one.yaml"
    one.write_text(
        "providers:\n  - {name: only, endpoint: https://llm.example/v1/chat/completions, model: m, stream_upstream: false}\n"
        "routes: {mine: [only]}\n"
    )
    for file in (alone, one):
        settings = load(file, environ={})
        write_history(tmp_path / file.stem, settings, Span(end=END, days=2.0, requests_per_day=400))
        requests = of_kind(tmp_path / file.stem, "request")
        assert sum(request["outcome"] == "ok" for request in requests) > 700
    assert {request["route"] for request in of_kind(tmp_path / "one", "request")} == {
        "auto",
        "mine",
        "only",
        "m",
    }


@pytest.mark.parametrize("days", [1e-6, 0.0003, 0.004, 0.05])
def test_the_shortest_history_ends_in_time_too(settings: Settings, tmp_path: Path, days: float) -> None:
    patient = replace(settings, routing=replace(settings.routing, deadline_s=86_400.0))
    write_history(tmp_path, patient, Span(end=END, days=days, requests_per_day=50 / days))
    lines = fields_of(tmp_path)
    assert sum(line["kind"] == "request" for line in lines) == 50
    assert all(END - days * DAY_S - 0.001 <= instant(line) <= END for line in lines)


def test_a_history_without_requests_has_what_people_did_alone(settings: Settings, tmp_path: Path) -> None:
    write_history(tmp_path, settings, Span(end=END, requests_per_day=0))
    assert {line["kind"] for line in fields_of(tmp_path)} == {"state"}


# The command and the demo


def test_the_command_writes_a_history_and_says_how_much(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["--days", "1", "--requests-per-day", "50", "--seed", "3", "--end", "2026-11-22T12:00"]
    config = ["--config", str(ROOT / "providers.yaml")]
    assert main(["history", *wanted, *config, str(tmp_path / "a")]) == 0
    assert "of 50 requests" in capsys.readouterr().out
    assert main(["history", *wanted, *config, str(tmp_path / "b")]) == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert fields_of(tmp_path / "a")[0]["ts"].startswith("2026-11-21")
    capsys.readouterr()
    assert main(["history", *wanted, *config, str(tmp_path / "b")]) == 2
    assert "holds a usage log already" in capsys.readouterr().err
    assert main(["history", "--days", "0", *config, str(tmp_path / "c")]) == 2
    assert main(["history", "--config", str(tmp_path / "none.yaml"), str(tmp_path / "c")]) == 2
    assert not (tmp_path / "c").exists()


def test_the_log_of_a_demo_begins_with_the_day_before(settings: Settings) -> None:
    assert settings.source == ROOT / "providers.yaml"
    with Demo(settings.source, wall=lambda: END) as demo:
        lines = fields_of(demo.settings.log.folder)
    assert sum(line["kind"] == "request" for line in lines) == 1000
    assert END - DAY_S <= instant(lines[0]) < instant(lines[-1]) < END
    assert {line["provider"] for line in lines if "provider" in line} == {p.name for p in settings.providers}
