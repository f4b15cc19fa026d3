"""The figures of the last minutes: right whoever wrote the lines, and whatever happened to the files meanwhile."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallback.core.errors import FailureKind
from fallback.core.models import Answer, AttemptReport, Choice, Failure, Role, Usage
from fallback.recent import (
    LastError,
    MinuteOutcomes,
    ProviderHealth,
    RecentActivity,
    RecentSnapshot,
    RequestFigures,
)
from fallback.recent.figures import nearest_rank
from fallback.recent.tail import MOST_BYTES
from fallback.usage_log import UsageLog, attempt_line, request_line, state_line
from fallback.usage_log.encode import MAX_LINE_BYTES, encode_line, format_ts
from fallback.usage_log.files import rotated_files

ROOT = Path(__file__).resolve().parent.parent
NOON = datetime(2026, 11, 22, 12, 0, 30, tzinfo=UTC).timestamp()
"""Half a minute into its minute."""
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")
LEGACY = b"2026-11-22 12:00:01,065 - root - INFO - Attempting invocation with groq...\n"


class Clock:
    """Wall and monotonic time that only the test moves; the wall may jump alone."""

    def __init__(self) -> None:
        self.wall_s = NOON
        self.monotonic_s = 100.0

    def wall(self) -> float:
        return self.wall_s

    def monotonic(self) -> float:
        return self.monotonic_s

    def advance(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds


def line(**fields: object) -> bytes:
    """Give one attempt line, stamped NOON unless `ts` says otherwise."""
    ts = fields.pop("ts", NOON)
    assert isinstance(ts, float)
    attempt = {"kind": "attempt", "provider": "groq", "outcome": "ok", "duration_s": 1.0}
    return encode_line({**attempt, **fields}, ts=format_ts(ts))


class Scene:
    """A folder with a log, a clock, and the activity that reads it."""

    def __init__(self, folder: Path, *, most_calls: int = 20_000) -> None:
        self.folder = folder
        self.path = folder / "usage.log"
        self.clock = Clock()
        self.recent = RecentActivity(
            folder, most_calls=most_calls, wall=self.clock.wall, monotonic=self.clock.monotonic
        )

    def write(self, *parts: bytes, name: str = "usage.log") -> None:
        self.folder.mkdir(exist_ok=True)
        with (self.folder / name).open("ab") as file:
            file.write(b"".join(parts))

    def read(self, *, include_drills: bool = False) -> RecentSnapshot:
        self.clock.monotonic_s += 1.0
        self.recent.refresh()
        return self.recent.snapshot(include_drills=include_drills)

    def attempts(self) -> int:
        return sum(health.attempts for health in self.read().providers)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "logs")
    yield made
    made.recent.close()


CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "provider": st.sampled_from(["groq", "together"]),
            "outcome": st.sampled_from(["ok", "ok", "cancelled", "timeout", "rate_limited"]),
            # Ages on both sides of the window's beginning, of the running minute's and of what counts as the future.
            "ts": st.integers(-1_000, 150).map(lambda age: NOON + age),
            "duration_s": st.none() | st.integers(0, 20).map(lambda tenth: tenth / 10),
            "time_to_first_token_s": st.none() | st.integers(0, 9).map(lambda tenth: tenth / 10),
            "drill": st.booleans(),
        }
    ),
    max_size=60,
)


def by_hand_quantile(values: list[float], percent: int) -> float | None:
    """Give the smallest value that at least `percent` of all do not exceed, from the definition."""
    fits = [v for v in values if 100 * sum(w <= v for w in values) >= percent * len(values)]
    return min(fits, default=None)


def by_hand(calls: list[dict[str, object]], name: str, now: float) -> dict[str, object]:
    """Give the figures of one provider, slowly, from the documented definitions."""

    def age_in_minutes(call: dict[str, object]) -> int:
        ts = call["ts"]
        assert isinstance(ts, float)
        return int(now // 60) - int(ts // 60)

    def numbers(of: list[dict[str, object]], field: str) -> list[float]:
        return [value for call in of if isinstance(value := call[field], float)]

    mine = [call for call in calls if call["provider"] == name and -1 <= age_in_minutes(call) <= 14]
    good = [call for call in mine if call["outcome"] == "ok"]
    bad = [call for call in mine if call["outcome"] not in {"ok", "cancelled"}]
    minutes = [
        [call for call in mine if age_in_minutes(call) == age or (age == 0 > age_in_minutes(call))]
        for age in range(14, -1, -1)
    ]
    return {
        "attempts": len(mine),
        "successes": len(good),
        "failures": len(bad),
        "success_rate": len(good) / (len(good) + len(bad)) if good or bad else None,
        "p50_s": by_hand_quantile(numbers(good, "duration_s"), 50),
        "p95_s": by_hand_quantile(numbers(good, "duration_s"), 95),
        "ttft_p50_s": by_hand_quantile(numbers(good, "time_to_first_token_s"), 50),
        "ttft_p95_s": by_hand_quantile(numbers(good, "time_to_first_token_s"), 95),
        "sparkline": tuple(
            by_hand_quantile(numbers([c for c in minute if c in good], "duration_s"), 50)
            for minute in minutes
        ),
        "outcomes_per_minute": tuple(
            MinuteOutcomes(
                ok=sum(call["outcome"] == "ok" for call in minute),
                failed=sum(call["outcome"] not in {"ok", "cancelled"} for call in minute),
                cancelled=sum(call["outcome"] == "cancelled" for call in minute),
            )
            for minute in minutes
        ),
    }


@given(
    calls=CALLS,
    reads_after=st.sets(st.integers(0, 60)),
    most=st.sampled_from([5, 1000]),
    drills=st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_the_figures_are_those_of_the_definitions(
    calls: list[dict[str, object]], reads_after: set[int], most: int, drills: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        scene = Scene(Path(name), most_calls=most)
        for number, call in enumerate(calls):
            scene.write(line(**call))
            if number in reads_after:
                scene.read()
        snapshot = scene.read(include_drills=drills)
        scene.recent.close()
    counted = [call for call in calls[-most:] if drills or not call["drill"]]
    for provider in ("groq", "together"):
        health = snapshot.provider(provider)
        expected = by_hand(counted, provider, NOON)
        assert {field: getattr(health, field) for field in expected} == expected


@given(values=st.lists(st.integers(0, 30).map(float), min_size=1, max_size=250), percent=st.integers(1, 100))
def test_a_quantile_is_the_smallest_value_that_enough_values_do_not_exceed(
    values: list[float], percent: int
) -> None:
    assert nearest_rank(sorted(values), percent) == by_hand_quantile(values, percent)


@given(
    parts=st.lists(
        st.sampled_from(
            [
                line(),
                line(outcome="timeout", http_status=504, error_message="zu spät"),
                LEGACY,
                b"\n",
                b'{"schema":1,"ts":"20',
                b"garbage\n",
                b"\0\0\0\n",
            ]
        ),
        max_size=8,
    ),
    cuts=st.lists(st.integers(0, 1_200), max_size=12),
)
@settings(deadline=None)
def test_however_the_bytes_arrive_the_snapshot_is_the_same(parts: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(parts)
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    with tempfile.TemporaryDirectory() as name:
        in_pieces, at_once = Scene(Path(name, "a")), Scene(Path(name, "b"))
        for start, end in itertools.pairwise(edges):
            in_pieces.write(whole[start:end])
            in_pieces.read()
        at_once.write(whole)
        assert in_pieces.read() == at_once.read()
        in_pieces.recent.close()
        at_once.recent.close()


@POSIX
@given(actions=st.lists(st.sampled_from(["a", "a", "b", "b", "read", "tick"]), max_size=40))
@settings(deadline=None, max_examples=150)
def test_two_writers_that_rotate_lose_nothing_and_count_once(actions: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        scene = Scene(Path(name))
        logs = {
            writer: UsageLog(
                Path(name), rotate_bytes=600, wall=scene.clock.wall, monotonic=scene.clock.monotonic
            )
            for writer in "ab"
        }
        scene.read()
        for action in actions:
            if action == "read":
                scene.recent.refresh()
            elif action == "tick":
                scene.clock.advance(0.6)
            else:
                logs[action].append({"kind": "attempt", "provider": action, "outcome": "ok", "pad": "x" * 60})
        snapshot = scene.read()
        for log in logs.values():
            log.close()
        scene.recent.close()
    assert {w: snapshot.provider(w).attempts for w in "ab"} == {w: actions.count(w) for w in "ab"}
    assert (snapshot.damaged, snapshot.problem) == (0, None)


@POSIX
def test_a_process_that_writes_and_rotates_while_others_read_is_counted_exactly(scene: Scene) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from fallback.usage_log import UsageLog
        with UsageLog(Path(sys.argv[1]), rotate_bytes=150_000) as log:
            for number in range(3_000):
                log.append({"kind": "attempt", "provider": "child", "outcome": "ok", "duration_s": 0.5})
            assert not log.failures, log.last_error
        """
    )
    scene.recent.close()
    scene.recent = RecentActivity(scene.folder)  # real clocks: the writers follow a renaming by them

    def read() -> RecentSnapshot:
        scene.recent._read_at = None  # no reading is fresh enough to be used again
        scene.recent.refresh()
        return scene.recent.snapshot()

    read()
    with subprocess.Popen([sys.executable, "-c", script, str(scene.folder)], cwd=ROOT) as child:
        with UsageLog(scene.folder, rotate_bytes=150_000) as log:
            written = 0
            while child.poll() is None and written < 50_000:
                log.append({"kind": "attempt", "provider": "parent", "outcome": "ok"})
                written += 1
                if written % 10 == 0:
                    read()
        assert child.wait(timeout=60) == 0
    assert len(list(scene.folder.glob("usage-*.log"))) >= 2
    snapshot = read()
    assert snapshot.provider("child").attempts == 3_000
    assert snapshot.provider("parent").attempts == written
    assert snapshot.damaged == 0


def test_each_kind_of_line_becomes_its_record(scene: Scene) -> None:
    failure = Failure(kind=FailureKind.RATE_LIMITED, status=429, message="slow down")
    failed = AttemptReport(
        number=1, role=Role.FIRST, provider="groq", model="m1", outcome="rate_limited", failure=failure
    )
    good = AttemptReport(
        number=2,
        role=Role.FAILOVER,
        provider="together",
        model="m2",
        outcome="ok",
        probe=True,
        duration_s=0.9,
        time_to_first_token_s=0.2,
    )
    answer = Answer(
        request_id="r1",
        choices=(Choice(index=0, message={"content": "hi"}, finish_reason="stop"),),
        provider="together",
        model="m2",
        usage=Usage(),
        cost_usd=None,
        latency_s=1.0,
        time_to_first_token_s=0.3,
        attempts=(failed, good),
        activity_log=(),
        degraded=False,
    )
    with UsageLog(scene.folder, wall=scene.clock.wall, monotonic=scene.clock.monotonic) as log:
        for report in (failed, good):
            log.append(attempt_line(request_id="r1", source="api", route="auto", report=report, stream=False))
        log.append(
            request_line(
                request_id="r1",
                source="api",
                route="auto",
                stream=False,
                outcome="ok",
                duration_s=1.0,
                attempts=(failed, good),
                answer=answer,
            )
        )
        log.append(
            state_line(
                provider="groq",
                from_state="ready",
                to_state="cooling_down",
                by="router",
                reason="429",
                length_s=24,
            )
        )
    snapshot = scene.read()

    newest, oldest = snapshot.last_calls
    assert (oldest.provider, oldest.model, oldest.role, oldest.outcome, oldest.status, oldest.probe) == (
        "groq",
        "m1",
        "first",
        "rate_limited",
        429,
        False,
    )
    assert (
        newest.provider,
        newest.request_id,
        newest.duration_s,
        newest.ttft_s,
        newest.ts,
        newest.probe,
    ) == (
        "together",
        "r1",
        0.9,
        0.2,
        NOON,
        True,
    )
    (request,) = snapshot.last_requests
    assert (request.provider, request.first_provider, request.attempts, request.failovers) == (
        "together",
        "groq",
        2,
        1,
    )
    assert (request.rescued, request.source, request.outcome, request.duration_s, request.ttft_s) == (
        True,
        "api",
        "ok",
        1.0,
        0.3,
    )
    (change,) = snapshot.changes
    assert (change.provider, change.model, change.from_state, change.to_state) == (
        "groq",
        None,
        "ready",
        "cooling_down",
    )
    assert (change.reason, change.length_s, change.by, change.ts) == ("429", 24.0, "router", NOON)
    assert snapshot.provider("groq").last_error == LastError(
        kind="rate_limited", status=429, message="slow down", ts=NOON, drill=False
    )
    assert snapshot.provider("together").last_success_ts == NOON
    hash(snapshot)  # nothing in it can change


def test_the_last_failure_is_that_of_a_call_that_counts(scene: Scene) -> None:
    scene.write(
        line(outcome="timeout", ts=NOON - 4),
        line(outcome="connection", ts=NOON - 3),
        line(ts=NOON - 2),
        line(drill=True, outcome="authentication", ts=NOON - 1),
    )
    health = scene.read().provider("groq")
    assert (health.failures, health.last_failure) == (2, "connection")
    assert scene.read(include_drills=True).provider("groq").last_failure == "authentication"


def test_drills_are_listed_but_leave_the_figures_alone_unless_asked_for(scene: Scene) -> None:
    scene.write(line(drill=True, outcome="timeout", ts=NOON - 1), line(drill=True, duration_s=9.0))
    health = scene.read().provider("groq")
    assert (health.attempts, health.success_rate, health.p50_s, health.last_success_ts) == (
        0,
        None,
        None,
        None,
    )
    assert health.last_error is not None
    assert health.last_error.drill
    assert [call.drill for call in scene.read().last_calls] == [True, True]
    counted = scene.read(include_drills=True).provider("groq")
    assert (counted.attempts, counted.success_rate, counted.p50_s) == (2, 0.5, 9.0)


def test_a_cancelled_call_is_neither_success_nor_failure(scene: Scene) -> None:
    scene.write(line(outcome="cancelled", duration_s=30.0), line())
    health = scene.read().provider("groq")
    assert (health.attempts, health.successes, health.failures) == (2, 1, 0)
    assert (health.success_rate, health.p95_s, health.last_error) == (1.0, 1.0, None)


def request(**fields: object) -> bytes:
    """Give one request line, as `line` gives an attempt."""
    return line(kind="request", attempts=1, failovers=0, **{"source": "api"} | fields)


def test_requests_are_counted_as_those_who_asked_saw_them(scene: Scene) -> None:
    scene.write(
        request(),
        request(rescued=True),
        request(rescued=True, drill=True),
        request(outcome="error", error_type="timeout", rescued=True),
        request(outcome="cancelled"),
        request(source="test"),
        request(ts=NOON - 900),
    )
    assert scene.read().requests == RequestFigures(answered=3, failed=1, rescued=2)
    scene.clock.advance(900)
    assert scene.read().requests == RequestFigures()


def test_a_provider_the_log_does_not_name_has_empty_figures(scene: Scene) -> None:
    health = scene.read().provider("nobody")
    assert isinstance(health, ProviderHealth)
    assert (health.attempts, health.success_rate, len(health.sparkline)) == (0, None, 15)
    assert health.outcomes_per_minute == (MinuteOutcomes(),) * 15


def test_the_last_error_stays_after_its_minute_left_the_window(scene: Scene) -> None:
    scene.write(line(outcome="authentication", http_status=401))
    scene.read()
    scene.clock.advance(3_600)
    health = scene.read().provider("groq")
    assert health.attempts == 0
    assert health.last_error is not None
    assert health.last_error.status == 401


def test_a_line_without_its_end_waits_for_it(scene: Scene) -> None:
    whole = line()
    scene.write(whole, whole[:40])
    assert scene.attempts() == 1
    scene.write(whole[40:])
    assert scene.attempts() == 2
    assert scene.read().damaged == 0


def test_a_torn_line_is_counted_and_spoils_no_other(scene: Scene) -> None:
    scene.write(line()[:40], b"\n", line(), line()[:40], line())
    snapshot = scene.read()
    assert snapshot.provider("groq").attempts == 2
    assert snapshot.damaged == 1


def test_the_torn_end_of_a_file_that_was_left_counts_as_damaged(scene: Scene) -> None:
    scene.write(line(), line()[:40])
    scene.read()
    scene.path.rename(scene.folder / "usage-2026-11-22.log")
    scene.write(line())
    assert scene.attempts() == 2
    scene.clock.advance(10.0)
    assert scene.read().damaged == 1


@pytest.mark.parametrize(
    "ignored",
    [
        LEGACY,
        b'{"kind":"attempt","provider":"groq","outcome":"ok"}\n',
        line(kind="span"),
        line().replace(b'"schema":1', b'"schema":2'),
        b"\n",
    ],
)
def test_lines_of_other_formats_are_ignored(scene: Scene, ignored: bytes) -> None:
    scene.write(ignored, line())
    snapshot = scene.read()
    assert (snapshot.provider("groq").attempts, snapshot.damaged, len(snapshot.last_calls)) == (1, 0, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"provider": None},
        {"provider": ["groq"]},
        {"provider": ""},
        {"outcome": 1},
        {"kind": "state", "from": "ready"},
        {"kind": "request", "outcome": None},
    ],
)
def test_a_line_without_what_it_makes_no_sense_without_is_damaged(
    scene: Scene, fields: dict[str, object]
) -> None:
    scene.write(line(**fields), line())
    snapshot = scene.read()
    assert (snapshot.damaged, len(snapshot.last_calls)) == (1, 1)
    assert not snapshot.last_requests
    assert not snapshot.changes


@pytest.mark.parametrize("ts", ["", "yesterday", "2026-11-22T12:00:00", 12, None, "0000-00-00T00:00:00Z"])
def test_a_stamp_that_is_no_instant_is_damaged(scene: Scene, ts: object) -> None:
    scene.write(json.dumps({"schema": 1, "ts": ts, "kind": "attempt", "provider": "a"}).encode() + b"\n")
    assert scene.read().damaged == 1


@pytest.mark.parametrize("number", ["-1", "true", '"1"', "1e999", "9" * 400, "NaN", "[1]"])
def test_a_number_that_is_none_counts_as_left_out(scene: Scene, number: str) -> None:
    scene.write(line(http_status=7, outcome="timeout").replace(b":7", f":{number}".encode()))
    scene.write(line(duration_s=7).replace(b":7", f":{number}".encode()))
    snapshot = scene.read()
    assert snapshot.provider("groq").attempts == 2
    assert snapshot.provider("groq").p50_s is None
    assert snapshot.last_calls[1].status is None


def test_texts_are_cut_and_can_always_be_encoded(scene: Scene) -> None:
    scene.write(line(provider="p" * 60_000, outcome="timeout"))
    scene.write(line(outcome="timeout", error_message="X").replace(b'"X"', b'"\\ud800' + b"y" * 9_000 + b'"'))
    snapshot = scene.read()
    assert max(len(health.name) for health in snapshot.providers) == 128
    error = snapshot.provider("groq").last_error
    assert error is not None
    assert error.message is not None
    assert len(error.message.encode()) < 310


def test_what_lies_in_the_renamed_file_and_in_those_between_is_read(scene: Scene) -> None:
    scene.write(line())
    assert scene.attempts() == 1
    scene.write(line())
    scene.path.rename(scene.folder / "usage-2026-11-22.log")
    scene.write(line(), name="usage-2026-11-22.2.log")
    scene.write(line())
    assert scene.attempts() == 4
    assert scene.attempts() == 4


def test_a_late_line_in_the_renamed_file_is_read_too(scene: Scene) -> None:
    scene.write(line())
    scene.read()
    scene.path.rename(scene.folder / "usage-2026-11-22.log")
    scene.write(line())
    assert scene.attempts() == 2
    scene.write(line(), name="usage-2026-11-22.log")
    assert scene.attempts() == 3


def test_a_renamed_file_is_closed_after_some_seconds(scene: Scene) -> None:
    for number in range(2, 40):
        scene.write(line())
        assert scene.attempts() == number - 1
        scene.path.rename(scene.folder / f"usage-2026-11-22.{number}.log")
    assert len(scene.recent._tail._files) < 9


def test_a_folder_that_was_empty_and_has_files_of_both_kinds_is_read_whole(scene: Scene) -> None:
    assert scene.attempts() == 0
    scene.write(line(), name="usage-2026-11-22.log")
    scene.write(line())
    assert scene.attempts() == 2


def test_more_renamings_than_are_followed_begin_the_figures_anew(scene: Scene) -> None:
    scene.write(line(ts=NOON - 300))
    scene.read()
    scene.write(line(ts=NOON - 200))
    scene.path.rename(scene.folder / "usage-2026-11-22.log")
    for number in range(2, 14):
        scene.write(line(ts=NOON - 100 + number), name=f"usage-2026-11-22.{number}.log")
    scene.write(line())
    snapshot = scene.read()
    assert snapshot.provider("groq").attempts == 9
    assert snapshot.since_ts == NOON - 100 + 6


@POSIX
def test_a_deleted_log_is_read_to_its_end_and_the_new_one_from_its_beginning(scene: Scene) -> None:
    scene.write(line())
    scene.read()
    scene.write(line())
    scene.path.unlink()
    assert scene.attempts() == 2
    scene.write(line(), line(), line())
    assert scene.attempts() == 5
    assert scene.read().damaged == 0


def test_a_truncated_log_is_read_from_its_beginning(scene: Scene) -> None:
    scene.write(line(), line(), line()[:50])
    scene.read()
    os.truncate(scene.path, 0)
    scene.write(line())
    assert scene.attempts() == 3
    assert scene.read().damaged == 0


@POSIX
def test_a_renaming_in_the_middle_of_a_reading_counts_nothing_twice(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename_first(folder: Path) -> list[Path]:
        if len(scene.recent._last_calls) == 0 and scene.path.exists():
            scene.path.rename(folder / "usage-2026-11-22.log")
        return rotated_files(folder)

    # Patched, because nothing else gets in between the opening of the file and the listing of the others.
    monkeypatch.setattr("fallback.recent.tail.rotated_files", rename_first)
    scene.write(line())
    assert scene.attempts() == 1
    scene.write(line())
    assert scene.attempts() == 2


def test_a_folder_that_appears_later_is_read(scene: Scene) -> None:
    snapshot = scene.read()
    assert (snapshot.providers, snapshot.damaged, snapshot.problem) == ((), 0, None)
    scene.write(line())
    assert scene.attempts() == 1


@POSIX
@pytest.mark.parametrize("kind", ["folder is a file", "log is a folder", "log is a pipe", "loop"])
def test_a_log_that_cannot_be_read_is_told_until_it_can(scene: Scene, kind: str) -> None:
    match kind:
        case "folder is a file":
            scene.folder.write_bytes(b"")
            blocker = scene.folder
        case "log is a folder":
            blocker = scene.path
            blocker.mkdir(parents=True)
        case "log is a pipe":
            scene.folder.mkdir()
            blocker = scene.path
            os.mkfifo(blocker)
        case _:
            scene.folder.mkdir()
            blocker = scene.path
            blocker.symlink_to(blocker)
    assert (scene.read().problem or "").startswith("usage.log cannot be read: ")
    if blocker.is_dir():
        blocker.rmdir()
    else:
        blocker.unlink()
    scene.write(line())
    snapshot = scene.read()
    assert (snapshot.problem, snapshot.provider("groq").attempts) == (None, 1)


@POSIX
def test_a_problem_shows_and_goes_without_a_new_line(scene: Scene) -> None:
    scene.write(line())
    assert scene.read().problem is None
    scene.path.rename(scene.folder / "aside")
    scene.path.mkdir()
    snapshot = scene.read()
    assert snapshot.problem == "usage.log cannot be read: it is no regular file"
    assert snapshot.provider("groq").attempts == 1
    scene.path.rmdir()
    (scene.folder / "aside").rename(scene.path)
    assert scene.read().problem is None
    assert scene.attempts() == 1


@POSIX
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_log_without_permission_is_told(scene: Scene) -> None:
    scene.write(line())
    scene.path.chmod(0)
    assert scene.read().problem == "usage.log cannot be read: Permission denied"


def test_a_rotated_file_that_cannot_be_read_stops_nothing(scene: Scene) -> None:
    (scene.folder / "usage-2026-11-22.log").mkdir(parents=True)
    scene.write(line())
    snapshot = scene.read()
    assert (snapshot.provider("groq").attempts, snapshot.problem) == (1, None)


def fill(scene: Scene, count_bytes: int, name: str = "usage.log") -> int:
    """Write lines a tenth of a second apart, the last at NOON, and give their number."""
    size = len(line(pad="x" * 1_000))
    number = count_bytes // size + 1
    scene.write(*(line(ts=NOON - (number - 1 - n) * 0.1, pad="x" * 1_000) for n in range(number)), name=name)
    return number


def test_a_long_log_is_read_from_4_mib_before_its_end(scene: Scene) -> None:
    number = fill(scene, 3 * MOST_BYTES)
    size = len(line(pad="x" * 1_000))
    snapshot = scene.read()
    fits = MOST_BYTES // size
    assert snapshot.provider("groq").attempts == fits < number
    assert snapshot.since_ts == pytest.approx(NOON - (fits - 1) * 0.1, abs=0.002)
    assert snapshot.damaged == 0


def test_a_line_that_begins_exactly_where_the_reading_begins_is_read(scene: Scene) -> None:
    pad = 1_024 - len(line(pad=""))
    whole = line(pad="x" * pad)
    assert len(whole) == 1_024
    scene.write(whole * (MOST_BYTES // 1_024 + 5))
    assert scene.attempts() == MOST_BYTES // 1_024


def test_a_short_log_is_preceded_by_the_newest_rotated_file(scene: Scene) -> None:
    scene.write(line(ts=NOON - 3), name="usage-2026-11-20.log")
    scene.write(line(ts=NOON - 2), name="usage-2026-11-21.log")
    scene.write(line(ts=NOON - 1))
    snapshot = scene.read()
    assert [call.ts for call in snapshot.last_calls] == [NOON - 1, NOON - 2]
    assert snapshot.since_ts == NOON - 2


def test_a_log_read_from_its_beginning_covers_the_whole_window(scene: Scene) -> None:
    scene.write(line())
    snapshot = scene.read()
    assert snapshot.since_ts == snapshot.start_ts == NOON - 30 - 14 * 60


def test_a_backlog_beyond_4_mib_begins_the_figures_anew(scene: Scene) -> None:
    scene.write(line(ts=NOON - 800, provider="together"))
    scene.read()
    fill(scene, 2 * MOST_BYTES)
    snapshot = scene.read()
    assert snapshot.provider("together").attempts == 0
    assert snapshot.provider("groq").attempts == MOST_BYTES // len(line(pad="x" * 1_000))
    assert NOON - 800 < snapshot.since_ts < NOON


def test_a_line_that_never_ends_is_one_damaged_line_and_is_not_kept(scene: Scene) -> None:
    for _ in range(5):
        scene.write(b"x" * 700_000)
        scene.read()
        assert len(scene.recent._tail._files[-1].rest()) <= 16 * MAX_LINE_BYTES
    scene.write(b"\n", line())
    snapshot = scene.read()
    assert (snapshot.damaged, snapshot.provider("groq").attempts) == (1, 1)


def test_calls_beyond_the_bound_are_dropped_and_said_to_be(tmp_path: Path) -> None:
    scene = Scene(tmp_path, most_calls=10)
    scene.write(*(line(ts=NOON - 100 + n) for n in range(25)))
    snapshot = scene.read()
    assert snapshot.provider("groq").attempts == 10
    assert snapshot.since_ts == NOON - 100 + 14
    scene.recent.close()


def test_what_is_covered_never_begins_after_the_running_minute(tmp_path: Path) -> None:
    scene = Scene(tmp_path, most_calls=1)
    scene.write(line(ts=NOON + 3_600), line())
    snapshot = scene.read()
    assert snapshot.since_ts == NOON + 30
    scene.recent.close()


def test_the_lists_hold_the_newest_first_and_no_more_than_they_say(scene: Scene) -> None:
    state = {"kind": "state", "from": "ready", "to": "off"}
    for n in range(80):
        ts = NOON + n / 10
        scene.write(line(ts=ts), line(ts=ts, kind="request"), line(ts=ts, **state))
    snapshot = scene.read()
    for records, count in ((snapshot.last_calls, 30), (snapshot.last_requests, 30), (snapshot.changes, 50)):
        stamps = [record.ts for record in records]
        assert len(stamps) == count
        assert stamps == sorted(stamps, reverse=True)
        assert stamps[0] == pytest.approx(NOON + 7.9)


def test_providers_without_end_are_forgotten_with_their_calls(scene: Scene) -> None:
    scene.write(*(line(provider=f"p{n}", outcome="timeout") for n in range(2_000)))
    scene.write(*(line(provider=f"p{n}") for n in range(2_000)))
    assert len(scene.read().providers) == 2_000
    scene.clock.advance(3_600)
    assert len(scene.read().providers) == 256


def test_the_provider_heard_of_last_is_forgotten_last(scene: Scene) -> None:
    names = ["kept", *(f"p{n}" for n in range(255)), "kept", "one more"]
    scene.write(*(line(provider=name) for name in names))
    scene.read()
    scene.clock.advance(3_600)
    remembered = {health.name for health in scene.read().providers}
    assert len(remembered) == 256
    assert "kept" in remembered
    assert "p0" not in remembered


def test_old_calls_are_not_kept(scene: Scene) -> None:
    scene.write(*(line(ts=NOON - 5_000 + n) for n in range(100)), line())
    scene.read()
    assert len(scene.recent._calls) == 1


def test_after_the_clock_jumped_ahead_old_calls_do_not_count_and_new_ones_do(scene: Scene) -> None:
    scene.write(line())
    scene.read()
    scene.clock.wall_s += 86_400
    assert scene.attempts() == 0
    scene.write(line(ts=scene.clock.wall_s))
    assert scene.attempts() == 1


def test_after_the_clock_went_back_calls_of_the_future_do_not_count_and_new_ones_do(scene: Scene) -> None:
    scene.write(line(), line())
    assert scene.attempts() == 2
    scene.clock.wall_s -= 7_200
    assert scene.attempts() == 0
    scene.write(line(ts=scene.clock.wall_s))
    snapshot = scene.read()
    assert snapshot.provider("groq").attempts == 1
    assert snapshot.start_ts == snapshot.since_ts
    assert snapshot.last_calls[0].ts == scene.clock.wall_s


def test_a_reading_within_half_a_second_is_used_again(scene: Scene) -> None:
    scene.read()
    scene.write(line())
    scene.clock.monotonic_s += 0.49
    scene.recent.refresh()
    assert scene.recent.snapshot().providers == ()
    scene.clock.monotonic_s += 0.02
    scene.recent.refresh()
    assert scene.recent.snapshot().provider("groq").attempts == 1


def test_threads_that_refresh_at_once_count_every_line_once(scene: Scene) -> None:
    scene.recent._monotonic = iter(range(100_000)).__next__  # no reading is fresh enough to be used again
    done = threading.Event()
    seen: list[int] = []

    def look() -> None:
        while not done.is_set():
            scene.recent.refresh()
            seen.append(scene.recent.snapshot().provider("groq").attempts)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        scene.write(line()[:30])
        scene.write(line()[30:])
    done.set()
    for thread in threads:
        thread.join(timeout=30)
    scene.recent.refresh()
    assert scene.recent.snapshot().provider("groq").attempts == 300
    assert max(seen, default=0) <= 300


def test_a_snapshot_is_made_anew_only_for_a_new_line_or_a_new_minute(scene: Scene) -> None:
    scene.write(line())
    first = scene.read()
    scene.clock.advance(20.0)
    assert scene.read() is first
    assert scene.read(include_drills=True) is not first
    assert scene.read() is first
    scene.clock.advance(15.0)
    in_next_minute = scene.read()
    assert in_next_minute.provider("groq").sparkline == (*(None,) * 13, 1.0, None)
    scene.write(line())
    assert scene.read().provider("groq").attempts == 2


def test_after_close_the_figures_stay_and_nothing_is_read(scene: Scene) -> None:
    scene.write(line())
    scene.read()
    scene.recent.close()
    scene.write(line())
    assert scene.attempts() == 1


@pytest.mark.parametrize(
    "make", [{"window_s": 0}, {"window_s": float("nan")}, {"window_s": 90_000}, {"most_calls": 0}]
)
def test_bounds_that_make_no_sense_are_refused(tmp_path: Path, make: dict[str, float]) -> None:
    build: Callable[..., RecentActivity] = RecentActivity
    with pytest.raises(ValueError, match="out of range"):
        build(tmp_path, **make)
