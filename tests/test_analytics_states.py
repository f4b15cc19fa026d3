from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from analytics_logs import NOON, append, change, request

from fallback.analytics import Analytics, Filters, Window, states, window

HOUR = window(NOON, NOON + 3_600, first_ts=None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def analytics(folder: Path) -> Iterator[Analytics]:
    # The log begins a day before the window.
    append(folder / "usage.log", [request(NOON - 86_400, "first")])
    with Analytics(folder, wall=lambda: NOON + 7_200) as made:
        yield made


def intervals(
    analytics: Analytics, chosen: Window = HOUR, filters: Filters | None = None
) -> list[tuple[object, ...]]:
    analytics.refresh()
    found = states(analytics, chosen, filters or Filters())
    made = zip(*(found[name] for name in ("provider", "state", "begin", "end", "reason")), strict=True)
    return [
        (provider, state, begin.timestamp() - NOON, end.timestamp() - NOON, reason)
        for provider, state, begin, end, reason in made
    ]


def test_changes_become_intervals_that_fill_the_window(analytics: Analytics, folder: Path) -> None:
    append(
        folder / "usage.log",
        [
            change(NOON + 600, "groq", "ready", "cooling_down", reason="rate_limited"),
            change(NOON + 700, "groq", "cooling_down", "probing"),
            change(NOON + 720, "groq", "probing", "ready"),
            change(NOON + 900, "groq", "ready", "off", reason="switched off"),
        ],
    )
    assert intervals(analytics) == [
        ("groq", "ready", 0, 600, ""),
        ("groq", "cooling_down", 600, 720, "rate_limited"),
        ("groq", "ready", 720, 900, ""),
        ("groq", "off", 900, 3_600, "switched off"),
    ]


def test_a_state_from_before_the_window_is_cut_to_it(analytics: Analytics, folder: Path) -> None:
    append(folder / "usage.log", [change(NOON - 500, "groq", "ready", "disabled", reason="authentication")])
    append(folder / "usage.log", [change(NOON + 4_000, "groq", "disabled", "ready")])
    assert intervals(analytics) == [("groq", "disabled", 0, 3_600, "authentication")]


def test_who_is_switched_on_is_ready(analytics: Analytics, folder: Path) -> None:
    append(folder / "usage.log", [change(NOON + 60, "groq", "on", "off", reason="switched off")])
    append(folder / "usage.log", [change(NOON + 90, "groq", "off", "on", reason="switched on")])
    found = [(state, begin, end) for _, state, begin, end, _ in intervals(analytics)]
    assert found == [("ready", 0, 60), ("off", 60, 90), ("ready", 90, 3_600)]


def test_a_first_change_after_the_window_tells_what_was_in_it(analytics: Analytics, folder: Path) -> None:
    append(folder / "usage.log", [change(NOON + 4_000, "groq", "off", "on", reason="switched on")])
    assert intervals(analytics) == [("groq", "off", 0, 3_600, "")]


def test_an_announced_cooldown_ends_though_nobody_says_so(analytics: Analytics, folder: Path) -> None:
    append(folder / "usage.log", [change(NOON + 60, "groq", "ready", "cooling_down", length_s=30.5)])
    append(folder / "usage.log", [change(NOON + 600, "groq", "cooling_down", "ready")])
    append(folder / "usage.log", [change(NOON - 60, "local", "ready", "cooling_down", length_s=90)])
    assert intervals(analytics) == [
        ("groq", "ready", 0, 60, ""),
        ("groq", "cooling_down", 60, 90.5, ""),
        ("groq", "ready", 90.5, 3_600, ""),
        ("local", "cooling_down", 0, 30, ""),
        ("local", "ready", 30, 3_600, ""),
    ]


def test_a_longer_cooldown_takes_the_place_of_the_first(analytics: Analytics, folder: Path) -> None:
    append(
        folder / "usage.log",
        [
            change(NOON, "groq", "ready", "cooling_down", length_s=30),
            change(NOON + 20, "groq", "cooling_down", "cooling_down", length_s=100),
        ],
    )
    assert [row[1:4] for row in intervals(analytics)] == [("cooling_down", 0, 120), ("ready", 120, 3_600)]


def test_a_drill_covers_what_lies_under_it(analytics: Analytics, folder: Path) -> None:
    append(
        folder / "usage.log",
        [
            change(NOON + 60, "groq", "no_drill", "drill", reason="every call fails"),
            change(NOON + 120, "groq", "ready", "cooling_down", reason="timeout"),
            change(NOON + 180, "groq", "drill", "no_drill"),
            change(NOON + 240, "groq", "cooling_down", "ready"),
        ],
    )
    assert intervals(analytics) == [
        ("groq", "ready", 0, 60, ""),
        ("groq", "drill", 60, 180, "every call fails"),
        ("groq", "cooling_down", 180, 240, "timeout"),
        ("groq", "ready", 240, 3_600, ""),
    ]


def test_the_last_change_of_a_model_counts_unless_the_provider_is_off(
    analytics: Analytics, folder: Path
) -> None:
    append(
        folder / "usage.log",
        [
            change(NOON + 10, "groq", "ready", "retired", model="old", reason="model_unavailable"),
            change(NOON + 20, "groq", "probing", "ready", model="new"),
            change(NOON + 30, "groq", "ready", "off", reason="switched off"),
            change(NOON + 40, "groq", "ready", "cooling_down", model="new"),
            change(NOON + 50, "groq", "off", "ready"),
            change(NOON + 55, "groq", "order", "order"),
        ],
    )
    assert [row[1:4] for row in intervals(analytics)] == [
        ("ready", 0, 10),
        ("disabled", 10, 20),
        ("ready", 20, 30),
        ("off", 30, 50),
        ("cooling_down", 50, 3_600),
    ]


def test_nothing_is_shown_before_the_log_begins_or_of_the_future(analytics: Analytics, folder: Path) -> None:
    append(folder / "usage.log", [change(NOON, "groq", "ready", "off")])
    wide = window(NOON - 10 * 86_400, NOON + 10 * 86_400, first_ts=None)
    assert [row[1:4] for row in intervals(analytics, wide)] == [("ready", -86_400, 0), ("off", 0, 7_200)]


def test_providers_are_filtered(analytics: Analytics, folder: Path) -> None:
    append(folder / "usage.log", [change(NOON, name, "ready", "off") for name in ("a", "b", "c")])
    assert [row[0] for row in intervals(analytics, filters=Filters(providers=("c", "a")))] == ["a", "c"]


def test_changes_out_of_order_are_told_in_the_order_of_their_time(analytics: Analytics, folder: Path) -> None:
    append(folder / "usage.log", [change(NOON + 60, "groq", "off", "ready")])
    assert [row[1:3] for row in intervals(analytics)] == [("off", 0), ("ready", 60)]
    append(folder / "usage.log", [change(NOON + 30, "groq", "ready", "off")])
    assert [row[1:3] for row in intervals(analytics)] == [("ready", 0), ("off", 30), ("ready", 60)]


def test_an_interval_never_overlaps_the_next(analytics: Analytics, folder: Path) -> None:
    names = ["ready", "cooling_down", "probing", "off", "disabled", "retired", "drill", "no_drill"]
    append(
        folder / "usage.log",
        [
            change(
                NOON - 600 + number * 37 % 4_000,
                f"p{number % 3}",
                names[number * 5 % 8],
                names[number * 3 % 8],
                length_s=number * 13 % 90,
                **({"model": "m"} if number % 4 == 0 else {}),
            )
            for number in range(300)
        ],
    )
    found = intervals(analytics)
    for (provider, state, _, end, _), (next_provider, next_state, begin, _, _) in pairwise(found):
        if provider == next_provider:
            assert end == begin
            assert state != next_state
    for provider in ("p0", "p1", "p2"):
        own = [row for row in found if row[0] == provider]
        assert (own[0][2], own[-1][3]) == (0, 3_600)
