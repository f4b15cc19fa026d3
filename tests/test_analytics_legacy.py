from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from fallback.analytics import (
    Analytics,
    Filters,
    attempts,
    failover_pairs,
    failovers_over_time,
    lines,
    requests,
    states,
    totals,
    window,
)
from fallback.analytics.legacy import kind_of_error

BEGIN = datetime(2025, 2, 28, 8, 58, tzinfo=UTC).timestamp()
DAY = window(BEGIN - 3_600, BEGIN + 3_600, first_ts=None)

RESCUED = [
    "Attempting invocation with groq_llama...",
    "Using groq_llama (llama-3.1-8b-instant)",
    "Error with groq_llama: 429 Client Error: Too Many Requests for url",
    "groq_llama is disabled for 5.0 minutes",
    "Invoking together_llama as fallback...",
    "Using fallback together_llama (meta-llama/Llama-3-70b-chat-hf)",
    "Successfully generated response using fallback together_llama",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def analytics(folder: Path) -> Iterator[Analytics]:
    with Analytics(folder, wall=lambda: BEGIN + 3_600) as made:
        yield made


class Original:
    """Writes as the original program did, one line a second."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / "usage.log"
        self.now = BEGIN

    def write(self, *messages: str) -> None:
        with self.path.open("a") as file:
            for message in messages:
                moment = datetime.fromtimestamp(self.now, UTC)
                file.write(f"{moment:%Y-%m-%d %H:%M:%S},065 - root - INFO - {message}\n")
                self.now += 1


@pytest.fixture
def original(folder: Path) -> Original:
    return Original(folder)


def told(analytics: Analytics) -> list[tuple[object, ...]]:
    analytics.refresh()
    found = requests(analytics, DAY, Filters()).sort_values(["ts", "request_id"])
    return [
        (row.outcome, row.first_provider, row.attempts, row.failovers, row.rescued, row.duration_s)
        for row in found.itertuples()
    ]


def test_a_rescue_of_the_original_program_is_one_request_with_two_attempts(
    analytics: Analytics, original: Original
) -> None:
    original.write(*RESCUED)
    assert told(analytics) == [("ok", "groq_llama", 2, 1, True, 6.0)]
    found = requests(analytics, DAY, Filters()).iloc[0]
    assert (found.source, found.provider, found.model) == (
        "legacy",
        "together_llama",
        "meta-llama/Llama-3-70b-chat-hf",
    )
    assert found.ts == pd.Timestamp("2025-02-28T08:58:06.065Z")
    calls = attempts(analytics, found.request_id)
    assert list(calls.role) == ["first", "failover"]
    assert list(calls.outcome) == ["rate_limited", "ok"]
    assert list(calls.duration_s) == [2.0, 2.0]
    assert calls.http_status[0] == 429
    assert list(lines(analytics, found.request_id).line) == [1, 2, 3, 4, 5, 6, 7]
    pairs = failover_pairs(analytics, DAY, Filters())
    assert list(pairs.itertuples(index=False, name=None)) == [("groq_llama", "together_llama", 1, 1)]
    assert list(failovers_over_time(analytics, DAY, Filters()).reason) == ["rate_limited"]


def test_a_disabled_provider_cools_down_for_so_long(analytics: Analytics, original: Original) -> None:
    original.write(*RESCUED)
    analytics.refresh()
    found = states(analytics, DAY, Filters())
    assert list(found.state) == ["ready", "cooling_down", "ready"]
    assert (found.end[1] - found.begin[1]).total_seconds() == 300
    assert found.reason[1] == "rate_limited"


def test_every_cut_between_two_readings_tells_the_same(folder: Path, tmp_path: Path) -> None:
    story = [
        *RESCUED,
        "Attempting invocation with groq_llama...",
        "Error with groq_llama: timed out",
        "Invoking together_llama as fallback...",
        "Error with together_llama: 500 Server Error",
        "Attempting invocation with groq_llama...",
        "Attempting invocation with groq_llama...",
        "Successfully generated response using groq_llama",
    ]
    wanted = [
        ("ok", "groq_llama", 2, 1, True, 6.0),
        ("error", "groq_llama", 2, 1, False, 3.0),
        ("cancelled", "groq_llama", 1, 0, False, 0.0),
        ("ok", "groq_llama", 1, 0, False, 1.0),
    ]
    for cut in range(len(story) + 1):
        place = tmp_path / f"cut-{cut}"
        original = Original(place)
        with Analytics(place) as analytics:
            original.write(*story[:cut])
            analytics.refresh()
            original.write(*story[cut:])
            assert told(analytics) == wanted, cut
            assert totals(analytics, DAY, Filters()).requests[0] == 4
            assert analytics.coverage.lines == len(story)


def test_a_request_that_failed_shows_before_the_next_one_begins(
    analytics: Analytics, original: Original
) -> None:
    original.write("Attempting invocation with a...", "Error with a: 503 Service Unavailable")
    assert told(analytics) == [("error", "a", 1, 0, False, 1.0)]
    original.write("Invoking b as fallback...")
    assert told(analytics) == []
    assert totals(analytics, DAY, Filters()).requests[0] == 0
    original.write("Successfully generated response using fallback b")
    assert told(analytics) == [("ok", "a", 2, 1, True, 3.0)]


def test_a_story_whose_beginning_is_lost_is_told_as_far_as_it_goes(
    analytics: Analytics, original: Original
) -> None:
    original.write("Successfully generated response using fallback b", "Error with a: Connection refused")
    assert told(analytics) == [("ok", "b", 1, 1, True, 0.0), ("error", "a", 1, 0, False, 0.0)]


def test_both_formats_may_stand_in_one_log(analytics: Analytics, original: Original) -> None:
    original.write(*RESCUED)
    with original.path.open("a") as file:
        file.write(
            '{"schema":1,"ts":"2025-02-28T09:00:00.000Z","kind":"request","request_id":"new","outcome":"ok"}\n'
        )
    original.write("* Running on http://127.0.0.1:5000", *RESCUED)
    analytics.refresh()
    assert len(requests(analytics, DAY, Filters(sources=("legacy",)))) == 2
    assert len(requests(analytics, DAY, Filters())) == 3
    assert (analytics.coverage.lines, analytics.coverage.damaged) == (16, 0)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("429 Client Error: Too Many Requests", "rate_limited"),
        ("rate_limited (HTTP 429)", "rate_limited"),
        ("401 Client Error: Unauthorized", "authentication"),
        ("HTTP 418", "invalid_request"),
        ("502 Bad Gateway", "server_error"),
        ("HTTPSConnectionPool: Read timed out. (read timeout=30)", "timeout"),
        ("Connection refused", "connection"),
        ("list index out of range", "unknown"),
        ("", "unknown"),
    ],
)
def test_an_error_of_the_original_program_is_given_a_kind(message: str, kind: str) -> None:
    assert kind_of_error(message) == kind
