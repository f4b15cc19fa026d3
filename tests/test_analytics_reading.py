from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from analytics_logs import NOON, append, attempt, change, encoded, request, rescue, stamp
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fallback.analytics import Analytics, Filters, lines, problems, requests, totals, totals_over_time, window
from fallback.analytics.cache import Cache, CacheError
from fallback.usage_log import Damaged, UsageLog, parse_line, read

DAY = window(NOON - 86_400, NOON + 86_400, first_ts=None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def analytics(folder: Path) -> Iterator[Analytics]:
    with Analytics(folder, wall=lambda: NOON) as made:
        yield made


def counted(analytics: Analytics) -> int:
    return int(totals(analytics, DAY, Filters()).requests[0])


def names(analytics: Analytics) -> list[str]:
    return sorted(requests(analytics, DAY, Filters(), limit=10_000).request_id)


def assert_agrees_with_the_reader(analytics: Analytics, folder: Path) -> None:
    """Every line that the log's own reader gives is counted once, in rows and in sums."""
    reading = read(folder)
    wanted = sorted(
        str(record.fields["request_id"])
        for record in reading
        if record.fields is not None and record.fields.get("kind") == "request"
    )
    assert names(analytics) == wanted
    assert counted(analytics) == len(wanted)
    assert totals_over_time(analytics, DAY, Filters()).requests.sum() == len(wanted)
    assert (analytics.coverage.lines, analytics.coverage.damaged) == (reading.lines, reading.damaged)


def test_appended_lines_are_read_once(analytics: Analytics, folder: Path) -> None:
    log = folder / "usage.log"
    append(log, [request(NOON, "a"), request(NOON + 1, "b")])
    assert analytics.refresh().lines == 2
    assert analytics.refresh().lines == 0
    append(log, [request(NOON + 2, "c")])
    assert analytics.refresh().lines == 1
    assert names(analytics) == ["a", "b", "c"]


def test_a_torn_last_line_is_left_for_later(analytics: Analytics, folder: Path) -> None:
    log = folder / "usage.log"
    whole = encoded(request(NOON, "b"))
    append(log, [request(NOON, "a")])
    for cut in (1, 20, len(whole) - 1):
        with log.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(whole[:cut])
        analytics.refresh()
        assert (names(analytics), analytics.coverage.damaged) == (["a"], 0)
        with log.open("r+b") as file:
            file.truncate(file.seek(-cut, os.SEEK_END))
    with log.open("ab") as file:
        file.write(whole)
    analytics.refresh()
    assert names(analytics) == ["a", "b"]


def test_damaged_lines_are_counted_with_their_places(analytics: Analytics, folder: Path) -> None:
    good = encoded(request(NOON, "a"))
    bad = [
        b"nonsense\n",
        good[:40] + b"\n",
        b'{"schema":1,"ts":"2026-11-22T12:00:00.000Z","kind":"request",}\n',
        b'{"schema":1,"ts":"2026-11-22T12:00:00.000Z","kind":"request","outcome":"o\xff"}\n',
        b'{"schema":1,"ts":"soon","kind":"request","outcome":"ok"}\n',
        b'{"schema":1,"ts":"2026-11-22T12:00:00.000","kind":"request","outcome":"ok"}\n',
        b'{"schema":1,"ts":"2026-11-22T12:00:00.000Z","kind":"request"}\n',
        b'{"schema":1,"ts":"2026-11-22T12:00:00.000Z","kind":"attempt","outcome":"ok"}\n',
        b'{"schema":1,"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}\n",
        b'{"schema":1,"ts":"2026-11-22T12:00:00.000Z"}{"kind":"request"}\n',
        b"\0\0\0\n",
    ]
    folder.mkdir()
    (folder / "usage.log").write_bytes(b"\n" + good + b"\n".join([b"", *bad]) + good)
    analytics.refresh()
    found = problems(analytics)
    assert (analytics.coverage.lines, analytics.coverage.damaged) == (len(bad) + 2, len(bad))
    assert list(found.line) == [4 + 2 * place for place in reversed(range(len(bad)))]
    assert set(found.file) == {"usage.log"}
    judged = [parsed.reason for line in bad if isinstance(parsed := parse_line(line), Damaged)]
    lacking = ["ts is no instant", "ts is no instant", "outcome is missing", "provider is missing"]
    assert len(judged) == len(bad) - len(lacking)
    assert list(found.reason)[::-1] == [*judged[:4], *lacking, *judged[4:]]
    assert names(analytics) == ["a", "a"]


@pytest.mark.parametrize(
    "line",
    [
        b"\0\0" + encoded(request(NOON, "odd")),
        b'{"schema":1,"ts":"2026' + encoded(request(NOON, "odd")),
        encoded(request(NOON, "odd")).replace(b'"ok"', b'"ok","x":"\\ud800"'),
        encoded(request(NOON, "odd")).replace(b'"ok"', b'"ok","x":NaN'),
        encoded(request(NOON, "odd")).replace(b'"ok"', b'"ok","prompt":",]"'),
        encoded(request(NOON, "odd")).replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + encoded(request(NOON, "odd")),
        encoded(request(NOON, "odd", response="x" * 1_000_000)),
        encoded(request(NOON, "odd", error_message="Übermäßig, 日本語")),
        encoded(request(NOON, "odd", error_message="a\u0000b")),
    ],
    ids=["NUL", "glued", "surrogate", "NaN", "loose", "CRLF", "BOM", "1 MB", "UTF-8", "escaped NUL"],
)
def test_a_line_that_is_not_ordinary_is_read_all_the_same(
    analytics: Analytics, folder: Path, line: bytes
) -> None:
    folder.mkdir()
    (folder / "usage.log").write_bytes(encoded(request(NOON, "a")) + line + encoded(request(NOON, "z")))
    analytics.refresh()
    assert names(analytics) == ["a", "odd", "z"]
    assert analytics.coverage.damaged == 0


def test_a_line_beyond_all_measure_is_damaged_and_passed_over(analytics: Analytics, folder: Path) -> None:
    append(folder / "usage.log", [request(NOON, "a")])
    with (folder / "usage.log").open("ab") as file:
        for size in (9, 40):
            file.write(b'{"schema":1,"x":"' + b"x" * size * 1024 * 1024 + b'"}\n')
    append(folder / "usage.log", [request(NOON, "z")])
    analytics.refresh()
    assert names(analytics) == ["a", "z"]
    assert list(problems(analytics).line) == [3, 2]
    assert_agrees_with_the_reader(analytics, folder)


def test_rotated_files_are_read_whatever_their_names_become(analytics: Analytics, folder: Path) -> None:
    log = folder / "usage.log"
    append(log, [request(NOON, "a")])
    analytics.refresh()
    with log.open("ab") as late:
        log.rename(folder / "usage-2026-11-22.log")
        append(log, [request(NOON, "c")])
        analytics.refresh()
        late.write(encoded(request(NOON, "b")))
    (folder / "usage-2026-11-22.log").rename(folder / "usage-2026-11-22.2.log")
    assert analytics.refresh().lines == 1
    assert names(analytics) == ["a", "b", "c"]
    assert set(lines(analytics, "b").file) == {"usage-2026-11-22.2.log"}


def test_the_last_line_of_a_rotated_file_needs_no_newline(analytics: Analytics, folder: Path) -> None:
    rotated = folder / "usage-2026-11-22.log"
    whole = encoded(request(NOON, "b"))
    append(rotated, [request(NOON, "a")])
    with rotated.open("ab") as file:
        file.write(whole[:-1])
    analytics.refresh()
    assert names(analytics) == ["a", "b"]
    with rotated.open("ab") as file:
        file.write(b"\n" + encoded(request(NOON, "c")))
    analytics.refresh()
    assert names(analytics) == ["a", "b", "c"]
    assert_agrees_with_the_reader(analytics, folder)


def test_a_last_line_that_goes_on_after_all_is_read_anew(analytics: Analytics, folder: Path) -> None:
    rotated = folder / "usage-2026-11-22.log"
    whole = encoded(request(NOON, "b"))
    append(rotated, [request(NOON, "a")])
    for begin, end, damaged in ((0, 50, 1), (50, 90, 1), (90, len(whole), 0)):
        with rotated.open("ab") as file:
            file.write(whole[begin:end])
        analytics.refresh()
        assert analytics.coverage.damaged == len(problems(analytics)) == damaged
        assert_agrees_with_the_reader(analytics, folder)
    assert names(analytics) == ["a", "b"]


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_file_that_was_cut_is_read_anew(analytics: Analytics, folder: Path, kept: int) -> None:
    log = folder / "usage.log"
    append(log, [request(NOON, name) for name in "abc"])
    analytics.refresh()
    os.truncate(log, kept * len(encoded(request(NOON, "a"))))
    analytics.refresh()
    assert_agrees_with_the_reader(analytics, folder)
    append(log, [request(NOON, name) for name in "xyzw"])
    analytics.refresh()
    assert_agrees_with_the_reader(analytics, folder)


def test_a_file_that_was_cut_and_has_grown_beyond_is_noticed(analytics: Analytics, folder: Path) -> None:
    log = folder / "usage.log"
    append(log, [request(NOON, f"old-{n:04}") for n in range(50)])
    analytics.refresh()
    os.truncate(log, 10 * len(encoded(request(NOON, "old-0000"))))
    append(log, [request(NOON, f"new-{n:04}") for n in range(100)])
    analytics.refresh()
    assert_agrees_with_the_reader(analytics, folder)


def test_the_lines_of_a_deleted_file_are_taken_back(analytics: Analytics, folder: Path) -> None:
    append(
        folder / "usage-2026-11-21.log", [request(NOON - 3_600, "old"), change(NOON, "groq", "ready", "off")]
    )
    append(folder / "usage.log", [request(NOON, "new")])
    analytics.refresh()
    (folder / "usage-2026-11-21.log").unlink()
    analytics.refresh()
    assert_agrees_with_the_reader(analytics, folder)
    (folder / "usage.log").unlink()
    analytics.refresh()
    assert counted(analytics) == 0
    assert analytics.coverage.first_ts is None
    append(folder / "usage.log", [request(NOON, "again")])
    analytics.refresh()
    assert names(analytics) == ["again"]


def test_a_folder_that_is_deleted_and_comes_back_is_followed(analytics: Analytics, folder: Path) -> None:
    append(folder / "usage.log", [request(NOON, "a")])
    analytics.refresh()
    shutil.rmtree(folder)
    assert counted(analytics) == 0
    append(folder / "usage.log", [request(NOON, "b")])
    analytics.refresh()
    assert names(analytics) == ["b"]


def test_no_folder_and_an_empty_log_are_no_lines(analytics: Analytics, folder: Path) -> None:
    assert analytics.refresh().lines == 0
    (folder / "usage.log").touch()
    assert analytics.refresh().done
    assert (analytics.coverage.lines, analytics.coverage.files) == (0, 1)


def test_a_pipe_under_the_name_is_told_and_not_read(analytics: Analytics, folder: Path) -> None:
    append(folder / "usage-2026-11-21.log", [request(NOON, "a")])
    os.mkfifo(folder / "usage.log")
    assert not analytics.refresh().done
    assert analytics.coverage.warning == "usage.log is no regular file"
    assert names(analytics) == ["a"]


def test_a_later_start_finds_what_was_read(folder: Path) -> None:
    append(folder / "usage.log", [request(NOON, "a"), *rescue(NOON, "b", failed="groq", answered="local")])
    with Analytics(folder) as first:
        first.refresh()
        before = totals(first, DAY, Filters())
    with Analytics(folder) as second:
        assert second.refresh().lines == 0
        assert totals(second, DAY, Filters()).equals(before)


def test_a_deleted_cache_is_filled_again_without_a_refresh(analytics: Analytics, folder: Path) -> None:
    append(folder / "usage.log", [request(NOON, "a")])
    analytics.refresh()
    (folder / "analytics.duckdb").unlink()
    assert names(analytics) == ["a"]
    assert (folder / "analytics.duckdb").exists()
    assert analytics.coverage.warning is None


@pytest.mark.parametrize("where", [0, 4_096, 12_288, 40_000])
def test_a_damaged_cache_is_made_anew(folder: Path, where: int) -> None:
    append(folder / "usage.log", [request(NOON, f"{n:03}") for n in range(300)])
    with Analytics(folder) as first:
        first.refresh()
    with (folder / "analytics.duckdb").open("r+b") as file:
        file.seek(where)
        file.write(b"\xa5" * 8_192)
    append(folder / "usage.log", [request(NOON, "new")])
    with Analytics(folder) as second:
        second.refresh()
        assert_agrees_with_the_reader(second, folder)


def test_a_cache_of_another_version_is_made_anew(folder: Path) -> None:
    append(folder / "usage.log", [request(NOON, "a")])
    with Analytics(folder) as first:
        first.refresh()
    with duckdb.connect(folder / "analytics.duckdb") as connection:
        connection.execute("UPDATE cache_of_usage_log SET version = 0").fetchall()
    with Analytics(folder) as second:
        assert names(second) == ["a"]


def test_a_cache_that_cannot_be_written_is_made_elsewhere(folder: Path, tmp_path: Path) -> None:
    append(folder / "usage.log", [request(NOON, "a")])
    (tmp_path / "file").touch()
    with Analytics(folder, cache=tmp_path / "file" / "analytics.duckdb") as analytics:
        assert names(analytics) == ["a"]
        assert analytics.coverage.warning is not None
        assert "cannot be written" in analytics.coverage.warning
    assert not list(Path(tempfile.gettempdir()).glob("fallback-analytics-*/analytics.duckdb"))


HOLD = """
import sys, duckdb
with duckdb.connect(sys.argv[1]) as connection:
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    folder.mkdir()
    command = [sys.executable, "-c", HOLD, str(folder / "analytics.duckdb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_cache_that_another_program_does_not_let_go_of_is_given_up(
    folder: Path, holder: subprocess.Popen[str]
) -> None:
    append(folder / "usage.log", [request(NOON, "a")])
    cache = Cache(folder / "analytics.duckdb", wait_s=0.05)
    assert cache.run(lambda connection: connection.execute("SELECT count(*) FROM entries").fetchall()) == [
        (0,)
    ]
    assert cache.warning is not None
    assert "does not let go" in cache.warning
    cache.close()


def test_a_cache_that_is_let_go_of_is_waited_for(folder: Path, holder: subprocess.Popen[str]) -> None:
    threading.Timer(0.1, holder.kill).start()
    cache = Cache(folder / "analytics.duckdb")
    assert cache.run(lambda connection: connection.execute("SELECT 1").fetchall()) == [(1,)]
    assert cache.warning is None
    cache.close()


def test_a_closed_cache_is_not_opened_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "analytics.duckdb")
    cache.close()
    with pytest.raises(CacheError):
        cache.run(lambda connection: connection.execute("SELECT 1").fetchall())
    assert not (tmp_path / "analytics.duckdb").exists()


def test_the_cache_is_let_go_when_nobody_uses_it(folder: Path) -> None:
    append(folder / "usage.log", [request(NOON, "a")])
    cache = Cache(folder / "analytics.duckdb", linger_s=0.01)
    cache.run(lambda connection: connection.execute("SELECT 1").fetchall())
    other = [sys.executable, "-c", "import sys, duckdb; duckdb.connect(sys.argv[1]).close()"]
    until = time.monotonic() + 30
    while subprocess.run([*other, folder / "analytics.duckdb"], capture_output=True, check=False).returncode:
        assert time.monotonic() < until
    cache.close()


READER = """
import sys
from pathlib import Path
from fallback.analytics import Analytics, Filters, totals, window
with Analytics(Path(sys.argv[1])) as analytics:
    for _ in range(int(sys.argv[2])):
        analytics.refresh()
    seen = totals(analytics, window(0, 2e9, first_ts=None), Filters())
    print(seen.requests[0], analytics.coverage.lines, analytics.coverage.warning)
"""

WRITER = """
import sys
from pathlib import Path
from fallback.usage_log import UsageLog
with UsageLog(Path(sys.argv[1]), rotate_bytes=20_000) as log:
    for number in range(400):
        log.append({"kind": "request", "outcome": "ok", "request_id": f"{sys.argv[2]}-{number}", "provider": "groq"})
"""


@pytest.mark.program
def test_two_writers_and_two_readers_lose_nothing_and_count_nothing_twice(folder: Path) -> None:
    def run(code: str, *values: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(folder), *values]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    writers = [run(WRITER, "a"), run(WRITER, "b")]
    readers = [run(READER, "20"), run(READER, "20")]
    for process in (*writers, *readers):
        process.communicate(timeout=100)
        assert process.returncode == 0
    last = run(READER, "1")
    out, _ = last.communicate(timeout=100)
    assert out.split() == ["800", "800", "None"]
    assert sum(1 for record in read(folder) if record.fields is not None) == 800


def test_threads_may_share_one_object(analytics: Analytics, folder: Path) -> None:
    append(folder / "usage.log", [request(NOON, f"{n:04}") for n in range(200)])
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                analytics.refresh()
                assert counted(analytics) >= 200
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    append(folder / "usage.log", [request(NOON, f"{n:04}") for n in range(200, 250)])
    for thread in threads:
        thread.join()
    assert failures == []
    analytics.refresh()
    assert_agrees_with_the_reader(analytics, folder)


def test_progress_rises_to_one(analytics: Analytics, folder: Path) -> None:
    append(folder / "usage.log", [request(NOON, f"{n:04}") for n in range(2_000)])
    seen: list[float] = []
    analytics.refresh(seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_steps_of_any_size_come_to_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A step is some hundred megabytes long, more than a test can write.
    monkeypatch.setattr("fallback.analytics.engine.STEP_BYTES", 3_000)
    monkeypatch.setattr("fallback.analytics.sources.RUN_BYTES", 2_000)
    monkeypatch.setattr("fallback.analytics.intake.MAX_READ_BYTES", 1_000)
    for day in (20, 21):
        append(folder / f"usage-2026-11-{day}.log", [request(NOON, f"{day}-{n:03}") for n in range(40)])
    append(folder / "usage.log", [request(NOON, f"{n:03}") for n in range(40)])
    with Analytics(folder) as analytics:
        seen: list[float] = []
        assert analytics.refresh(seen.append).lines == 120
        assert seen == sorted(seen)
        assert len(seen) > 5
        assert_agrees_with_the_reader(analytics, folder)


def test_what_no_version_of_ours_wrote_is_read_and_left_alone(analytics: Analytics, folder: Path) -> None:
    append(
        folder / "usage.log",
        [
            request(NOON, "later", schema=2),
            {"schema": 1, "ts": stamp(NOON), "kind": "song"},
            {"n": 1},
            request(NOON, "a"),
        ],
    )
    analytics.refresh()
    assert (analytics.coverage.lines, analytics.coverage.damaged) == (4, 0)
    assert names(analytics) == ["a"]


@pytest.mark.parametrize(
    ("written", "hours"), [("Z", 0), ("+00:00", 0), ("+02:00", 2), ("-03:30", -3.5), ("+14:00", 14)]
)
def test_an_instant_with_an_offset_is_read_as_that_instant(
    analytics: Analytics, folder: Path, written: str, hours: float
) -> None:
    local = stamp(NOON + hours * 3_600)
    append(folder / "usage.log", [request(NOON, "a") | {"ts": local.removesuffix("Z") + written}])
    analytics.refresh()
    assert requests(analytics, DAY, Filters()).ts[0].timestamp() == NOON


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["by the database", "one by one"])
def test_what_is_no_text_where_one_is_meant_counts_as_its_json(
    analytics: Analytics, folder: Path, end: bytes
) -> None:
    for place, route in enumerate((7, True, [1, "ü"], {"a": None}, None)):
        line = encoded(request(NOON - place, f"{place}") | {"route": route})
        (folder / "usage.log").parent.mkdir(exist_ok=True)
        with (folder / "usage.log").open("ab") as file:
            file.write(line.removesuffix(b"\n") + end)
    analytics.refresh()
    found = requests(analytics, DAY, Filters())
    assert list(found.route[:4]) == ["7", "true", '[1,"ü"]', '{"a":null}']
    assert found.route.isna()[4]


def test_numbers_without_sense_count_as_left_out(analytics: Analytics, folder: Path) -> None:
    append(
        folder / "usage.log",
        [
            request(
                NOON,
                "a",
                duration_s=-1,
                input_tokens=-5,
                cost_usd=1e12,
                attempts="many",
                time_to_first_token_s=[1],
            )
        ],
    )
    analytics.refresh()
    found = requests(analytics, DAY, Filters()).iloc[0]
    assert found[["duration_s", "ttft_s", "cost_usd", "input_tokens"]].isna().all()
    assert found.attempts == 0


class Play:
    """A log to which things happen, and a reader that looks in between."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "usage.log"
        self.number = 0
        self.rotated = 0
        self.late = self.log
        folder.mkdir()
        self.log.touch()

    def line(self) -> bytes:
        self.number += 1
        return encoded(
            request(NOON + self.number % 7, f"{self.number:04}", padding="x" * (self.number * 7 % 50))
        )

    def write(self, place: int) -> None:
        with self.log.open("ab") as file:
            file.write(self.line())

    def write_late(self, place: int) -> None:
        # A writer that has not noticed the renaming.
        if self.late.exists():
            with self.late.open("ab") as file:
                file.write(self.line())

    def write_torn(self, place: int) -> None:
        line = self.line()
        with self.log.open("ab") as file:
            file.write(line[: place % len(line)])

    def write_rubbish(self, place: int) -> None:
        with self.log.open("ab") as file:
            file.write(random.Random(place).randbytes(place % 60) + b"\n")

    def rotate(self, place: int) -> None:
        self.rotated += 1
        self.late = self.folder / f"usage-2026-11-22.{self.rotated + 1}.log"
        self.log.rename(self.late)
        self.log.touch()

    def cut(self, place: int) -> None:
        files = sorted(self.folder.glob("usage*.log"))
        path = files[place % len(files)]
        os.truncate(path, place * 37 % (path.stat().st_size + 1))

    def delete(self, place: int) -> None:
        files = sorted(self.folder.glob("usage-*.log"))
        if files:
            files[place % len(files)].unlink()


STEPS = st.tuples(
    st.sampled_from(
        [
            *(Play.write, Play.write, Play.write, Play.write_late, Play.write_torn, Play.write_rubbish),
            *(Play.rotate, Play.cut, Play.delete),
        ]
    ),
    st.integers(0, 10_000),
    st.booleans(),
)


@pytest.mark.timeout(400)  # a quarter of a minute of work, on a machine that may be busy
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=25))
@example(
    [(Play.write, 0, True), (Play.write_torn, 50, True), (Play.rotate, 0, True), (Play.write_late, 0, True)]
)
def test_any_interleaving_of_writers_rotation_and_reader_agrees_with_the_reader_of_the_log(
    course: list[tuple[object, int, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        play = Play(Path(name) / "logs")
        with Analytics(play.folder, cache=Path(name) / "cache") as analytics:
            for action, place, look in course:
                action(play, place)  # type: ignore[operator]
                if look:
                    analytics.refresh()
            analytics.refresh()
            assert_agrees_with_the_reader(analytics, play.folder)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 4_000), max_size=6))
def test_any_cut_of_the_file_loses_no_line_and_counts_none_twice(cuts: list[int]) -> None:
    log = b"".join(encoded(request(NOON + n, f"{n:02}", error_message="ü" * n)) for n in range(12))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Analytics(folder, cache=folder / "cache") as analytics:
            read_to = 0
            for cut in [*sorted(cuts), len(log)]:
                end = min(cut, len(log))
                with (folder / "usage.log").open("ab") as file:
                    file.write(log[read_to:end])
                read_to = end
                analytics.refresh()
                assert counted(analytics) == log[:end].count(b"\n")
            assert_agrees_with_the_reader(analytics, folder)


def test_the_writers_of_the_program_are_followed_through_rotation(analytics: Analytics, folder: Path) -> None:
    with UsageLog(folder, rotate_bytes=2_000, wall=lambda: NOON) as log:
        for number in range(60):
            log.append({"kind": "request", "outcome": "ok", "request_id": f"{number:02}", "provider": "groq"})
            if number % 7 == 0:
                analytics.refresh()
    analytics.refresh()
    assert len(list(folder.glob("usage-*.log"))) == 3
    assert_agrees_with_the_reader(analytics, folder)


def test_a_change_of_the_files_times_alone_reads_nothing(analytics: Analytics, folder: Path) -> None:
    append(folder / "usage.log", [attempt(NOON, "a"), request(NOON, "a")])
    analytics.refresh()
    os.utime(folder / "usage.log", (1, 1))
    assert analytics.refresh().lines == 0
    assert json.loads(lines(analytics, "a").text[1])["kind"] == "request"
