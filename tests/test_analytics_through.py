"""Requests by what happened in them, and latency over a whole window."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from analytics_logs import NOON, append, attempt, change, request, rescue

from fallback.analytics import Analytics, Filters, Through, latency, on_grid_us, requests, states, window

HOUR = window(NOON - 3_600, NOON, first_ts=None)


@pytest.fixture
def analytics(tmp_path: Path) -> Iterator[Analytics]:
    append(
        tmp_path / "usage.log",
        [
            attempt(NOON - 3_000, "plain"),
            request(NOON - 3_000, "plain"),
            *rescue(NOON - 2_000, "limited", failed="groq", answered="together"),
            *rescue(NOON - 1_000, "slow", failed="groq", answered="local", kind="timeout"),
            attempt(NOON - 500, "lost", outcome="timeout"),
            request(NOON - 500, "lost", provider=None, error_type="timeout"),
            attempt(NOON - 400, "left", outcome="cancelled"),
            request(NOON - 400, "left", provider=None, outcome="cancelled"),
            attempt(NOON - 300, "drilled", outcome="timeout", drill=True),
            request(NOON - 300, "drilled", provider=None, error_type="timeout", drill=True),
            attempt(NOON - 200, None),  # type: ignore[arg-type]
        ],
    )
    with Analytics(tmp_path) as opened:
        opened.refresh()
        yield opened


@pytest.mark.parametrize(
    ("through", "found"),
    [
        ([Through(failover=True)], ["slow", "limited"]),
        ([Through(failover=True, previous_error_type="timeout")], ["slow"]),
        ([Through(failover=True, previous_provider="groq", provider="together")], ["limited"]),
        ([Through(failover=True, previous_provider="together")], []),
        ([Through(failed=True)], ["lost", "slow", "limited"]),
        ([Through(failed=True, provider="groq", outcome="timeout")], ["lost", "slow"]),
        ([Through(since=NOON - 2_001, until=NOON - 1_000)], ["slow", "limited"]),
        ([Through(failover=True, since=NOON - 2_000, until=NOON - 1_000)], ["limited"]),
        ([Through(failed=True, outcome="timeout"), Through(failover=True)], ["slow"]),
        ([Through(provider="' OR true --")], []),
        ([Through()], ["left", "lost", "slow", "limited", "plain"]),
    ],
)
def test_requests_are_found_by_what_one_of_their_attempts_was_like(
    analytics: Analytics, through: list[Through], found: list[str]
) -> None:
    frame = requests(analytics, HOUR, Filters(), through=through)
    assert list(frame["request_id"]) == found


def test_drills_are_found_where_they_are_asked_for(analytics: Analytics) -> None:
    through = [Through(failed=True, outcome="timeout")]
    assert "drilled" not in set(requests(analytics, HOUR, Filters(), through=through)["request_id"])
    assert "drilled" in set(requests(analytics, HOUR, Filters(drills=True), through=through)["request_id"])


def test_an_injected_fault_inside_a_request_that_is_none_does_not_count(tmp_path: Path) -> None:
    append(
        tmp_path / "usage.log",
        [attempt(NOON - 60, "mixed", outcome="timeout", drill=True), request(NOON - 60, "mixed")],
    )
    with Analytics(tmp_path) as opened:
        opened.refresh()
        for drills, found in ((False, []), (True, ["mixed"])):
            frame = requests(opened, HOUR, Filters(drills=drills), through=[Through(failed=True)])
            assert list(frame["request_id"]) == found


def test_it_works_together_with_search_filters_and_pages(analytics: Analytics) -> None:
    through = [Through(failed=True)]
    assert list(requests(analytics, HOUR, Filters(), "slow", through=through)["request_id"]) == ["slow"]
    only = Filters(providers=("together",))
    assert list(requests(analytics, HOUR, only, through=through)["request_id"]) == ["limited"]
    assert list(requests(analytics, HOUR, Filters(), limit=1, through=through)["request_id"]) == ["lost"]


@pytest.mark.parametrize("hours", [1, 48])
def test_latency_is_that_of_all_answers_of_the_window(tmp_path: Path, hours: int) -> None:
    taken = [0.1 + number * 0.0371 for number in range(157)]
    step_s = 3_000 * hours / len(taken)
    append(
        tmp_path / "usage.log",
        [attempt(NOON - 60 - step_s * place, f"r{place}", duration_s=length) for place, length in enumerate(taken)]
        + [attempt(NOON - 90, "r0", attempt=2, role="failover", duration_s=7.0),
           attempt(NOON - 90, "bad", outcome="timeout", duration_s=99.0)],
    )  # fmt: skip
    with Analytics(tmp_path) as opened:
        frame = latency(opened, window(NOON - hours * 3_600, NOON, first_ts=None), Filters())
    grid = sorted(on_grid_us(length) / 1_000_000 for length in taken)
    direct, failover = frame.to_dict("records")
    assert (direct["provider"], direct["role"], direct["answers"]) == ("groq", "direct", 157)
    assert [direct[rank] for rank in ("p50_s", "p95_s", "p99_s")] == [
        grid[math.ceil(157 * part / 100) - 1] for part in (50, 95, 99)
    ]
    assert (failover["role"], failover["answers"], failover["p99_s"]) == ("failover", 1, 7.0)


def test_a_provider_that_was_switched_on_is_ready(tmp_path: Path) -> None:
    append(
        tmp_path / "usage.log",
        [
            change(NOON - 3_000, "groq", "on", "off", reason="switched off"),
            change(NOON - 2_000, "groq", "off", "on", reason="switched on"),
        ],
    )
    with Analytics(tmp_path) as opened:
        opened.refresh()
        found = states(opened, HOUR, Filters())
    assert list(found["state"]) == ["off", "ready"]
