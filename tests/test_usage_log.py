"""The usage log: what is written is read again, whoever writes at the same time and whatever the disk does."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter, UserDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from asking import provider
from hypothesis import given, settings
from hypothesis import strategies as st

from fallback.config import LogSettings, Settings
from fallback.core.errors import FailureKind
from fallback.core.models import Answer, AnswerPart, AttemptReport, Choice, Failure, Role, Usage
from fallback.core.policy import RoutingPolicy
from fallback.router import ModelRouter
from fallback.testing import FakeClock, Reply, Script, ScriptedTransport
from fallback.usage_log import (
    Damaged,
    Record,
    UsageLog,
    attempt_line,
    parse_line,
    read,
    request_line,
    state_line,
)
from fallback.usage_log.encode import MAX_LINE_BYTES, encode_line, format_ts
from fallback.usage_log.reader import MAX_READ_BYTES
from fallback.wiring import assemble

ROOT = Path(__file__).resolve().parent.parent
NOON = datetime(2026, 11, 22, 12, 0, 0, 65_000, tzinfo=UTC).timestamp()
DAY_S = 86_400.0
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")


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


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def make_log(folder: Path, clock: Clock) -> Iterator[Callable[..., UsageLog]]:
    made: list[UsageLog] = []

    def make(*, rotate_bytes: int = 64 * 1024 * 1024, instance: str | None = None) -> UsageLog:
        log = UsageLog(
            folder, rotate_bytes=rotate_bytes, wall=clock.wall, monotonic=clock.monotonic, instance=instance
        )
        made.append(log)
        return log

    yield make
    for log in made:
        log.close()


def fields_of(record: Record) -> Mapping[str, object]:
    assert record.fields is not None, record
    return record.fields


def numbers(folder: Path) -> list[object]:
    return [fields_of(record)["n"] for record in read(folder)]


def file_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("usage*.log"))


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(child: subprocess.Popen[str]) -> str:
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert err == ""
    return out


# --- one writer ---


def test_a_line_is_stamped_and_comes_back_as_written(make_log: Callable[..., UsageLog], folder: Path) -> None:
    log = make_log(instance="replica-2")
    assert log.append({"kind": "state", "provider": "groq_llama", "to": "off"})
    (line,) = (folder / "usage.log").read_text().splitlines()
    assert line == (
        '{"schema":1,"ts":"2026-11-22T12:00:00.065Z","instance":"replica-2",'
        '"kind":"state","provider":"groq_llama","to":"off"}'
    )
    (record,) = read(folder)
    assert fields_of(record)["provider"] == "groq_llama"
    assert (record.file, record.line, record.offset) == ("usage.log", 1, 0)
    assert (log.lines_written, log.failures, log.last_error) == (1, 0, None)


def test_the_stamp_cannot_be_overwritten_by_a_line(make_log: Callable[..., UsageLog], folder: Path) -> None:
    make_log().append({"ts": "never", "schema": 99, "kind": "x"})
    (record,) = read(folder)
    assert fields_of(record) == {"schema": 1, "ts": "2026-11-22T12:00:00.065Z", "kind": "x"}


@pytest.mark.parametrize(
    ("unix_s", "ts"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_792_704_713.065, "2026-10-22T21:31:53.065Z"),
        (1_792_704_713.9999999, "2026-10-22T21:31:54.000Z"),
        (-0.5, "1969-12-31T23:59:59.500Z"),
    ],
)
def test_a_timestamp_is_utc_with_milliseconds(unix_s: float, ts: str) -> None:
    assert format_ts(unix_s) == ts


def test_nothing_is_created_before_the_first_line(make_log: Callable[..., UsageLog], folder: Path) -> None:
    make_log()
    assert not folder.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no such modes")
def test_the_file_is_closed_to_everybody_but_owner_and_group(
    make_log: Callable[..., UsageLog], folder: Path
) -> None:
    before = os.umask(0)
    try:
        make_log().append({"kind": "attempt"})
    finally:
        os.umask(before)
    assert (folder / "usage.log").stat().st_mode & 0o777 == 0o640


def test_an_append_after_close_opens_the_file_again(make_log: Callable[..., UsageLog], folder: Path) -> None:
    log = make_log()
    log.append({"n": 1})
    log.close()
    log.close()
    assert log.append({"n": 2})
    assert numbers(folder) == [1, 2]


# --- values ---

junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=40)
    | st.binary(max_size=20)
    | st.sampled_from(
        [10**4000, -(2**70), "\ud800", "😀\ud83d", "\x00\x1f\x7f\u2028", object, Path("x"), {1, 2}]
    )
    | st.builds(lambda size: "ä" * size, st.integers(0, 100_000)),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(
            st.text(st.characters(codec=None), max_size=8) | st.integers() | st.none(), inner, max_size=5
        )
    ),
    max_leaves=20,
)


def refuse_constant(name: str) -> object:
    raise AssertionError(f"{name} is no JSON")


@settings(deadline=None)
@given(st.dictionaries(st.text(st.characters(codec=None), max_size=12), junk, max_size=8))
def test_anything_becomes_one_line_that_any_json_parser_reads(line: dict[str, object]) -> None:
    encoded = encode_line(line, ts="2026-11-22T12:00:00.065Z")
    assert encoded.endswith(b"\n")
    assert encoded.count(b"\n") == 1
    assert len(encoded) <= MAX_LINE_BYTES
    fields = json.loads(encoded.decode("utf-8"), parse_constant=refuse_constant)
    assert fields["schema"] == 1
    assert b"\\ud" not in encoded
    assert parse_line(encoded) == fields


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("instance", [None, "replica-2", 'a"b\n', "lone \ud800"])
@given(
    line=st.dictionaries(
        st.sampled_from(["kind", "ts", "schema", "instance", "n", "text"]),
        st.text(max_size=3) | st.integers(),
    )
)
def test_a_line_is_the_same_whatever_way_it_was_encoded(
    instance: str | None, line: dict[str, object]
) -> None:
    """A mapping that is no dict takes the slow way, a dict without the names of the stamp the quick one."""
    quick = encode_line(line, ts="2026-11-22T12:00:00.065Z", instance=instance)
    assert quick == encode_line(UserDict(line), ts="2026-11-22T12:00:00.065Z", instance=instance)
    assert json.loads(quick)["schema"] == 1
    assert ("instance" in json.loads(quick)) == (instance is not None or "instance" in line)


def test_values_that_json_lacks_are_written_as_the_nearest_it_has() -> None:
    line = {
        "nan": float("nan"),
        "inf": [float("inf"), 1.5],
        "object": Unprintable(),
        "path": Path("a/b"),
        "bytes": b"ab\xff",
        "lone": "a\ud800b",
        "pair": "\ud83d\ude00",
        "huge": 10**5000,
        "kind": FailureKind.TIMEOUT,
        "control": "a\nb\x00",
    }
    fields = json.loads(encode_line(line, ts="t"))
    assert fields == {
        "schema": 1,
        "ts": "t",
        "nan": None,
        "inf": [None, 1.5],
        "object": "[Unprintable]",
        "path": "a/b",
        "bytes": "ab\ufffd",
        "lone": "a\ufffdb",
        "pair": "😀",
        "huge": None,
        "kind": "timeout",
        "control": "a\nb\x00",
    }


def test_a_structure_that_holds_itself_many_times_ends() -> None:
    ring: list[object] = []
    ring.extend([ring] * 10)
    encoded = encode_line({"kind": "attempt", "ring": ring}, ts="t")
    assert len(encoded) <= MAX_LINE_BYTES
    assert json.loads(encoded)["kind"] == "attempt"


def test_a_long_text_is_cut_and_says_so() -> None:
    encoded = encode_line({"kind": "request", "prompt": "a" * 200_000, "response": "short", "n": 1}, ts="t")
    fields = json.loads(encoded)
    assert len(encoded) <= MAX_LINE_BYTES
    assert fields["cut"] is True
    assert fields["prompt"].startswith("a" * 1000)
    assert fields["prompt"].endswith("… [cut: 200000 characters]")
    assert (fields["response"], fields["n"]) == ("short", 1)


def test_a_line_too_wide_to_cut_keeps_what_it_is_about() -> None:
    line = {f"field_{number}": "x" for number in range(20_000)} | {"kind": "attempt", "request_id": "r1"}
    fields = json.loads(encode_line(line, ts="t", instance="i"))
    assert fields == {
        "schema": 1, "ts": "t", "instance": "i", "kind": "attempt", "request_id": "r1", "cut": True,
    }  # fmt: skip


def test_a_mapping_that_raises_is_counted_and_does_not_raise(
    make_log: Callable[..., UsageLog], folder: Path
) -> None:
    class Broken(UserDict[str, object]):
        def __iter__(self) -> Iterator[str]:
            raise RuntimeError("broken")

    log = make_log()
    assert log.append(Broken(a=1)) is False
    assert (log.failures, log.last_error) == (1, "RuntimeError: broken")
    assert log.append({"n": 1})


# --- several writers ---

WRITER = """
    import sys
    from pathlib import Path
    from fallback.usage_log import UsageLog
    folder, name, lines, rotate_bytes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    log = UsageLog(folder, rotate_bytes=rotate_bytes, instance=name)
    sys.stdin.readline()
    for n in range(lines):
        assert log.append({"kind": "test", "n": n, "text": "x" * (n % 300)}), log.last_error
"""


def start_writers(folder: Path, count: int, lines: int, rotate_bytes: int) -> list[subprocess.Popen[str]]:
    writers = [start(WRITER, folder, f"w{number}", lines, rotate_bytes) for number in range(count)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    return writers


def assert_complete(folder: Path, count: int, lines: int) -> None:
    reading = read(folder)
    seen = Counter((fields_of(record)["instance"], fields_of(record)["n"]) for record in reading)
    assert reading.damaged == 0
    assert reading.lines == count * lines
    assert seen == Counter((f"w{number}", n) for number in range(count) for n in range(lines))


@POSIX
def test_processes_appending_at_once_lose_and_tear_no_line(folder: Path) -> None:
    for writer in start_writers(folder, 4, 2_000, 64 * 1024 * 1024):
        finish(writer)
    assert file_names(folder) == ["usage.log"]
    assert_complete(folder, 4, 2_000)


@POSIX
def test_rotation_while_other_processes_write_loses_no_line(folder: Path) -> None:
    for writer in start_writers(folder, 3, 2_000, 50_000):
        finish(writer)
    assert len(file_names(folder)) > 5
    assert_complete(folder, 3, 2_000)


def test_threads_share_one_log(make_log: Callable[..., UsageLog], folder: Path) -> None:
    log = make_log(rotate_bytes=20_000)

    def work(name: str) -> None:
        for n in range(500):
            log.append({"instance": name, "n": n})

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.lines_written == 2_000
    assert len(file_names(folder)) > 3
    assert_complete(folder, 4, 500)


@POSIX
def test_reading_while_lines_are_written_and_files_rotated_misses_and_doubles_none(folder: Path) -> None:
    log = UsageLog(folder, rotate_bytes=2_000)

    def work() -> None:
        for n in range(2_000):
            log.append({"n": n})

    writer = threading.Thread(target=work)
    writer.start()
    try:
        while writer.is_alive():
            before = log.lines_written
            found = numbers(folder)
            assert found == list(range(len(found)))
            assert len(found) >= before
    finally:
        writer.join()
        log.close()
    assert numbers(folder) == list(range(2_000))
    assert len(file_names(folder)) > 20


class RotatedMeanwhile(type(Path())):  # type: ignore[misc]  # Path picks its class by the system
    """A folder whose log is rotated by another process just before its files are listed."""

    rotations_left = 2

    def iterdir(self) -> Iterator[Path]:
        if RotatedMeanwhile.rotations_left:
            RotatedMeanwhile.rotations_left -= 1
            number = 9 - RotatedMeanwhile.rotations_left
            (self / "usage.log").rename(self / f"usage-2026-11-22.{number}.log")
            (self / "usage.log").write_text(f'{{"n":{number}}}\n')
        return iter(list(super().iterdir()))


def test_a_file_rotated_between_opening_and_listing_is_read_once(folder: Path) -> None:
    folder.mkdir()
    (folder / "usage.log").write_text('{"n":7}\n')
    assert numbers(RotatedMeanwhile(folder)) == [7, 8, 9]


@POSIX
def test_a_forked_child_can_append_though_the_lock_was_held(folder: Path) -> None:
    # In a process of its own, where fork() meets no threads of the test runner.
    script = """
        import os, sys
        from pathlib import Path
        from fallback.usage_log import UsageLog
        log = UsageLog(Path(sys.argv[1]))
        log.append({"n": 1})
        log._lock.acquire()
        child = os.fork()
        if child == 0:
            os._exit(0 if log.append({"n": 2}) else 1)
        log._lock.release()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        log.append({"n": 3})
    """
    finish(start(script, folder))
    assert numbers(folder) == [1, 2, 3]


# --- rotation ---


def test_a_new_day_begins_a_new_file(make_log: Callable[..., UsageLog], folder: Path, clock: Clock) -> None:
    log = make_log()
    log.append({"n": 1})
    clock.advance(DAY_S)
    log.append({"n": 2})
    assert file_names(folder) == ["usage-2026-11-22.log", "usage.log"]
    assert numbers(folder) == [1, 2]


def test_the_day_of_a_file_left_from_an_earlier_run_is_that_of_its_first_line(
    make_log: Callable[..., UsageLog], folder: Path, clock: Clock
) -> None:
    make_log().append({"n": 1})
    clock.advance(3 * DAY_S)
    make_log().append({"n": 2})
    assert file_names(folder) == ["usage-2026-11-22.log", "usage.log"]


def test_a_file_that_somebody_emptied_is_not_rotated(make_log: Callable[..., UsageLog], folder: Path) -> None:
    log = make_log(rotate_bytes=100)
    log.append({"n": 1})
    log.append({"n": 2})
    (folder / "usage.log").write_text("")
    log.append({"n": 3})
    assert file_names(folder) == ["usage.log"]
    assert numbers(folder) == [3]


def test_an_empty_file_is_written_whatever_its_age(make_log: Callable[..., UsageLog], folder: Path) -> None:
    folder.mkdir()
    (folder / "usage.log").touch()
    os.utime(folder / "usage.log", (0, 0))
    make_log().append({"n": 1})
    assert file_names(folder) == ["usage.log"]


def test_full_files_of_one_day_are_numbered_and_read_in_order(
    make_log: Callable[..., UsageLog], folder: Path
) -> None:
    log = make_log(rotate_bytes=1)
    for n in range(12):
        log.append({"n": n})
    rotated = {"usage-2026-11-22.log", *(f"usage-2026-11-22.{number}.log" for number in range(2, 12))}
    assert set(file_names(folder)) == rotated | {"usage.log"}
    assert numbers(folder) == list(range(12))


def test_a_clock_that_goes_back_a_day_overwrites_no_file(
    make_log: Callable[..., UsageLog], folder: Path, clock: Clock
) -> None:
    log = make_log(rotate_bytes=200)
    for n in range(40):
        log.append({"n": n})
        clock.wall_s += DAY_S if n % 4 != 3 else -2 * DAY_S
    assert sorted(map(str, numbers(folder))) == sorted(map(str, range(40)))


def test_the_other_process_follows_a_rotated_file(
    make_log: Callable[..., UsageLog], folder: Path, clock: Clock
) -> None:
    slow, fast = make_log(), make_log(rotate_bytes=60)
    slow.append({"n": 1})
    fast.append({"n": 2})
    fast.append({"n": 3})
    slow.append({"n": 4})
    assert (folder / "usage-2026-11-22.log").read_text().count("\n") == 3, "4 went to the renamed file"
    clock.advance(2)
    slow.append({"n": 5})
    assert '"n":5' in (folder / "usage.log").read_text()
    assert numbers(folder) == [1, 2, 4, 3, 5]


@POSIX
def test_a_process_that_holds_the_lock_delays_rotation_and_no_line(
    make_log: Callable[..., UsageLog], folder: Path, clock: Clock
) -> None:
    import fcntl

    log = make_log(rotate_bytes=1)
    log.append({"n": 1})
    with (folder / "usage.log.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert log.append({"n": 2})
        assert file_names(folder) == ["usage.log"]
    clock.advance(1)
    log.append({"n": 3})
    assert file_names(folder) == ["usage-2026-11-22.log", "usage.log"]
    assert numbers(folder) == [1, 2, 3]


@POSIX
def test_a_rotation_that_cannot_be_done_is_logged_once_and_lines_go_on(
    make_log: Callable[..., UsageLog], folder: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "usage.log.lock").mkdir(parents=True)
    log = make_log(rotate_bytes=1)
    for n in range(4):
        assert log.append({"n": n})
        clock.advance(2)
    assert [record.getMessage().count("cannot be rotated (EISDIR") for record in caplog.records] == [1]
    (folder / "usage.log.lock").rmdir()
    log.append({"n": 4})
    assert file_names(folder) == ["usage-2026-11-22.log", "usage.log"]
    assert numbers(folder) == [0, 1, 2, 3, 4]


# --- when the disk does not do as it should ---


@POSIX
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_counted_and_logged_once_per_outage(
    make_log: Callable[..., UsageLog], folder: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    folder.mkdir()
    (folder / "usage.log").symlink_to("/dev/full")
    log = make_log()
    assert [log.append({"n": n}) for n in range(3)] == [False, False, False]
    assert (log.failures, log.lines_written) == (3, 0)
    assert log.last_error is not None
    assert log.last_error.startswith("ENOSPC")
    assert len(caplog.records) == 1
    assert list(read(folder)) == [], "a device is not read"

    (folder / "usage.log").unlink()
    clock.advance(2)
    assert log.append({"n": 3})
    assert numbers(folder) == [3]
    assert "lines lost meanwhile: 3" in caplog.records[1].getMessage()
    (folder / "usage.log").unlink()
    (folder / "usage.log").symlink_to("/dev/full")
    clock.advance(2)
    log.append({"n": 4})
    assert len(caplog.records) == 3, "a new outage is logged again"


@POSIX
def test_a_line_torn_by_a_full_disk_spoils_no_other_line(folder: Path) -> None:
    # The size limit of the process makes the kernel write a part of a line, as a full disk does.
    script = """
        import logging, resource, sys
        from pathlib import Path
        from fallback.usage_log import UsageLog
        logging.disable()
        log = UsageLog(Path(sys.argv[1]))
        log.append({"n": 0})
        size = (Path(sys.argv[1]) / "usage.log").stat().st_size
        for extra in (1, 20, size - 1, size):
            at = (Path(sys.argv[1]) / "usage.log").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (at + extra, resource.RLIM_INFINITY))
            print(int(log.append({"n": 1})), int(log.append({"n": 1})))
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert log.append({"n": 2})
    """
    acknowledged = finish(start(script, folder)).split().count("1")
    reading = read(folder)
    found = Counter(record.fields["n"] if record.fields else "damaged" for record in reading)
    assert found[2] == 4
    assert found[0] == 1
    assert found[1] >= acknowledged
    assert found["damaged"] == reading.damaged >= 2


@POSIX
def test_of_lines_that_come_together_none_is_lost_or_there_twice_wherever_the_disk_was_full(
    folder: Path,
) -> None:
    script = """
        import logging, resource, sys
        from pathlib import Path
        from fallback.usage_log import UsageLog
        logging.disable()
        log = UsageLog(Path(sys.argv[1]))
        size = 0
        for extra in range(1000):
            file = Path(sys.argv[1]) / "usage.log"
            at = file.stat().st_size if extra else 0
            if extra:
                resource.setrlimit(resource.RLIMIT_FSIZE, (at + extra - 1, resource.RLIM_INFINITY))
            before = log.lines_written, log.failures
            written = log.append({"n": extra, "part": 0}, {"n": extra, "part": 1})
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert (log.lines_written - before[0]) + (log.failures - before[1]) == 2
            assert written == (log.failures == before[1])
            assert log.append({"n": extra, "part": 2})
            size = size or file.stat().st_size
            if extra > 2 * size // 3 + 8:  # n takes more digits by then
                break
        print(extra, log.lines_written)
    """
    rounds, acknowledged = map(int, finish(start(script, folder)).split())
    assert rounds > 100
    found = Counter(
        (record.fields["n"], record.fields["part"]) for record in read(folder) if record.fields is not None
    )
    assert max(found.values()) == 1
    assert all(found[n, 2] for n in range(rounds + 1))
    # A line of which only the newline was missing may be there though it was counted as lost.
    assert len(found) >= acknowledged


def test_a_torn_last_line_is_left_out_until_the_next_writer_repairs_it(
    make_log: Callable[..., UsageLog], folder: Path
) -> None:
    folder.mkdir()
    (folder / "usage.log").write_text(
        '{"schema":1,"ts":"2026-11-22T01:00:00.000Z","n":1}\n{"schema":1,"ts":"20'
    )
    assert numbers(folder) == [1]
    make_log().append({"n": 2})
    first, torn, last = read(folder)
    assert (fields_of(first)["n"], fields_of(last)["n"]) == (1, 2)
    assert torn.damaged is not None
    assert (torn.line, torn.offset) == (2, 51)


def test_a_line_torn_by_another_process_is_noticed_within_a_second(
    make_log: Callable[..., UsageLog], folder: Path, clock: Clock
) -> None:
    log = make_log()
    log.append({"n": 1})
    with (folder / "usage.log").open("a") as other:
        other.write('{"schema":1,"torn":"')
    clock.advance(1.5)
    log.append({"n": 2})
    assert (folder / "usage.log").read_text().splitlines()[1] == '{"schema":1,"torn":"'


@pytest.mark.parametrize("vanished", ["file", "folder"])
def test_a_deleted_log_is_made_again(
    make_log: Callable[..., UsageLog], folder: Path, clock: Clock, vanished: str
) -> None:
    log = make_log()
    log.append({"n": 1})
    (folder / "usage.log").unlink()
    if vanished == "folder":
        folder.rmdir()
    clock.advance(1.5)
    assert log.append({"n": 2})
    assert numbers(folder) == [2]


def test_a_folder_that_cannot_be_made_is_tried_again_a_second_later(
    make_log: Callable[..., UsageLog], folder: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write_text("a file where the folder should be")
    log = make_log()
    assert log.append({"n": 1}) is False
    folder.unlink()
    assert log.append({"n": 2}) is False, "too early to try again"
    clock.advance(1.5)
    assert log.append({"n": 3}) is True
    assert numbers(folder) == [3]
    assert (log.failures, log.lines_written) == (2, 1)
    assert len(caplog.records) == 2


@POSIX
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_raises_nothing(make_log: Callable[..., UsageLog], folder: Path) -> None:
    folder.mkdir(mode=0o500)
    log = make_log()
    assert log.append({"n": 1}) is False
    assert log.last_error is not None
    assert log.last_error.startswith("EACCES")


def test_a_clock_without_sense_is_counted_and_does_not_raise(folder: Path) -> None:
    log = UsageLog(folder, wall=lambda: float("nan"))
    assert log.append({"n": 1}) is False
    assert log.failures == 1


# --- reading ---


def test_a_missing_folder_holds_no_lines(tmp_path: Path) -> None:
    assert list(read(tmp_path / "nothing")) == []


def test_damaged_lines_are_counted_with_their_place_and_stop_nothing(folder: Path) -> None:
    folder.mkdir()
    lines = [
        b'{"n":1}',
        b"\x00\x00\x00\x00",
        b'{"n":',
        b"",
        b'{"n":2,"text":"' + b"x" * 1_000_000 + b'"}',
        b"x" * (MAX_READ_BYTES + 10),
        b"\xff\xfe",
        b'{"n":"\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"12",
        b'\x00\x00{"schema":1,"n":3}',
        b'{"n":4}\r',
    ]
    (folder / "usage.log").write_bytes(b"\n".join(lines) + b"\n")
    reading = read(folder)
    records = list(reading)
    assert [record.fields["n"] for record in records if record.fields] == [1, 2, 3, 4]
    assert [record.line for record in records if record.damaged] == [2, 3, 6, 7, 8, 9, 10, 11]
    assert (reading.lines, reading.damaged) == (12, 8)
    assert records[1].offset == 8
    assert records[-1].offset == (folder / "usage.log").stat().st_size - len(b'{"n":4}\r\n')


def test_a_whole_line_behind_a_torn_one_is_found() -> None:
    whole = b'{"schema":1,"ts":"2026-11-22T12:00:00.065Z","n":7}\n'
    for cut in range(1, len(whole) - 1):
        assert parse_line(whole[:cut] + whole) == json.loads(whole), cut


def test_a_rotated_file_without_a_last_newline_is_read_to_its_end(folder: Path) -> None:
    folder.mkdir()
    (folder / "usage-2026-11-21.log").write_text('{"n":1}\n{"n":2}')
    (folder / "usage.log").write_text('{"n":3}\n{"n":4}')
    (folder / "usage-notes.log").write_text("not ours\n")
    assert numbers(folder) == [1, 2, 3]


@given(st.binary(max_size=300))
def test_no_bytes_make_the_parser_raise(line: bytes) -> None:
    assert isinstance(parse_line(line), dict | Damaged)


LEGACY = [
    ("Attempting invocation with together_llama...", "attempt", {"provider": "together_llama"}),
    (
        "Using groq_llama (llama-3.1-8b-instant)",
        "using",
        {"provider": "groq_llama", "model": "llama-3.1-8b-instant"},
    ),
    (
        "Error with groq_llama: 429 Client Error: Too Many",
        "error",
        {"provider": "groq_llama", "error_message": "429 Client Error: Too Many"},
    ),
    ("groq_llama is disabled for 5.0 minutes", "disabled", {"provider": "groq_llama", "length_s": 300.0}),
    ("Invoking together_llama as fallback...", "failover", {"provider": "together_llama"}),
    (
        "Using fallback together_llama (meta-llama/Llama-3-70b-chat-hf)",
        "using_fallback",
        {"provider": "together_llama", "model": "meta-llama/Llama-3-70b-chat-hf"},
    ),
    (
        "Successfully generated response using fallback together_llama",
        "rescue",
        {"provider": "together_llama"},
    ),
    ("Successfully generated response using groq_llama", "success", {"provider": "groq_llama"}),
    ("Press CTRL+C to quit - or not", "other", {}),
    ("", "other", {}),
]


@pytest.mark.parametrize(("message", "event", "expected"), LEGACY)
def test_a_line_of_the_original_text_format_becomes_fields(
    message: str, event: str, expected: dict[str, object]
) -> None:
    fields = parse_line(f"2025-02-28 08:58:53,065 - root - INFO - {message}\r\n".encode())
    assert fields == {
        "ts": "2025-02-28T08:58:53.065Z",
        "kind": "legacy",
        "event": event,
        "level": "INFO",
        "logger": "root",
        "message": message,
        **expected,
    }


@pytest.mark.parametrize(
    "line",
    ["2025-02-30 08:58:53,065 - root - INFO - x", "2025-02-28 08:58:53 - root - INFO - x", "Traceback (most"],
)
def test_what_only_looks_like_the_original_format_is_damaged(line: str) -> None:
    assert isinstance(parse_line(line.encode()), Damaged)


def test_a_long_hostile_text_line_is_parsed_in_linear_time() -> None:
    line = b"2025-02-28 08:58:53,065 - root - INFO - Using " + b" (" * 500_000
    started = time.process_time()
    fields = parse_line(line)
    assert time.process_time() - started < 5
    assert isinstance(fields, dict)
    assert fields["event"] == "other"


def test_an_original_log_is_kept_as_the_file_of_its_day(
    make_log: Callable[..., UsageLog], folder: Path
) -> None:
    folder.mkdir()
    (folder / "usage.log").write_text("2025-02-28 08:58:53,065 - root - INFO - Using groq_llama (m)\n")
    make_log().append({"kind": "state"})
    assert file_names(folder) == ["usage-2025-02-28.log", "usage.log"]
    assert [fields_of(record)["kind"] for record in read(folder)] == ["legacy", "state"]


# --- lines ---

FAILED = AttemptReport(
    number=1,
    role=Role.FIRST,
    provider="groq_llama",
    model="llama-3.1-8b-instant",
    outcome="rate_limited",
    failure=Failure(
        kind=FailureKind.RATE_LIMITED,
        status=429,
        code="rate_limit_exceeded",
        message="slow down",
        retry_after_s=7.66,
        provider_request_id="req-1",
    ),
    duration_s=0.1234567,
)
OK = AttemptReport(
    number=2,
    role=Role.FAILOVER,
    provider="together_llama",
    model="openai/gpt-oss-120b",
    outcome="ok",
    probe=True,
    started_s=0.2,
    duration_s=0.8,
    time_to_first_token_s=0.3,
    usage=Usage(input_tokens=10, output_tokens=20, reasoning_tokens=3, cached_tokens=4),
    cost_usd=0.00001,
    response_model="openai/gpt-oss-120b",
    finish_reason="stop",
    skipped_events=2,
    provider_request_id="req-2",
)
ANSWER = Answer(
    request_id="r1",
    choices=(Choice(index=0, message={"role": "assistant", "content": "Tokyo."}, finish_reason="stop"),),
    provider="together_llama",
    model="openai/gpt-oss-120b",
    usage=Usage(input_tokens=10, output_tokens=20, reasoning_tokens=3, cached_tokens=4),
    cost_usd=0.00001,
    latency_s=1.0,
    time_to_first_token_s=0.5,
    attempts=(FAILED, OK),
    activity_log=(),
    degraded=False,
)


BROKEN = replace(
    FAILED,
    outcome="stream_truncated",
    failure=Failure(kind=FailureKind.STREAM_TRUNCATED, delivered=True),
    usage=Usage(input_tokens=5, output_tokens=40),
    usage_estimated=True,
)
WENT_ON = replace(OK, continues=160)
JOINED = replace(
    ANSWER,
    attempts=(BROKEN, WENT_ON),
    parts=(
        AnswerPart(provider="groq_llama", model="llama-3.1-8b-instant", characters=160),
        AnswerPart(provider="together_llama", model="openai/gpt-oss-120b", characters=80),
    ),
)


def attempt_of(
    report: AttemptReport,
    cooldown_s: float | None = None,
    disabled: str | None = None,
    previous: AttemptReport | None = None,
) -> dict[str, object]:
    return attempt_line(
        request_id="r1",
        source="api",
        route="auto",
        report=report,
        previous=previous,
        stream=True,
        drill=False,
        cooldown_s=cooldown_s,
        disabled=disabled,
    )


def request_of(*, log_content: bool = False, answer: Answer = ANSWER) -> dict[str, object]:
    return request_line(
        request_id="r1",
        source="chat",
        route="auto",
        stream=False,
        outcome="ok",
        duration_s=1.0,
        attempts=answer.attempts,
        answer=answer,
        log_content=log_content,
        prompt=[{"role": "user", "content": "What is the capital of Japan?"}],
        api_key_name="alice",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )


def failed_request() -> dict[str, object]:
    return request_line(
        request_id="r2",
        source="api",
        route="groq_llama",
        stream=True,
        outcome="error",
        duration_s=2.0,
        attempts=(FAILED,),
        error_type="rate_limited",
        error_message="slow down",
        http_status=429,
    )


def test_a_failed_attempt_says_why_and_what_it_led_to() -> None:
    assert attempt_of(FAILED, cooldown_s=8.0, disabled="model") == {
        "kind": "attempt",
        "request_id": "r1",
        "source": "api",
        "route": "auto",
        "attempt": 1,
        "role": "first",
        "provider": "groq_llama",
        "request_model": "llama-3.1-8b-instant",
        "outcome": "rate_limited",
        "error_type": "rate_limited",
        "http_status": 429,
        "error_code": "rate_limit_exceeded",
        "error_message": "slow down",
        "retry_after_s": 7.66,
        "cooldown_s": 8.0,
        "disabled": "model",
        "started_s": 0.0,
        "duration_s": 0.123457,
        "provider_request_id": "req-1",
        "stream": True,
        "probe": False,
        "drill": False,
        "skipped_events": 0,
    }


def test_a_good_attempt_has_tokens_and_no_error() -> None:
    line = attempt_of(OK)
    assert line["outcome"] == "ok"
    assert not [name for name in line if name.startswith("error")]
    assert (line["input_tokens"], line["output_tokens"], line["cost_usd"]) == (10, 20, 0.00001)
    assert (line["probe"], line["skipped_events"], line["role"]) == (True, 2, "failover")


def test_an_attempt_that_goes_on_says_from_where_and_after_whose_failure() -> None:
    line = attempt_of(WENT_ON, previous=BROKEN)
    assert (line["continues"], line["previous_provider"], line["previous_error_type"]) == (
        160,
        "groq_llama",
        "stream_truncated",
    )
    assert attempt_of(BROKEN)["usage_estimated"] is True
    plain = attempt_of(OK)
    assert not {"continues", "previous_provider", "usage_estimated"} & set(plain)


def test_a_request_in_parts_names_everybody_and_one_in_one_piece_nobody() -> None:
    line = request_of(answer=JOINED)
    assert (line["providers"], line["seams"]) == (["groq_llama", "together_llama"], 1)
    assert line["usage_estimated"] is True
    assert not {"providers", "seams", "usage_estimated"} & set(request_of())


def test_a_rescued_request_names_who_was_asked_first_and_who_answered() -> None:
    line = request_of()
    assert (line["first_provider"], line["provider"]) == ("groq_llama", "together_llama")
    assert (line["attempts"], line["failovers"], line["rescued"]) == (2, 1, True)
    assert line["response_model"] == "openai/gpt-oss-120b"


def test_content_is_written_only_where_it_was_asked_for() -> None:
    assert "Japan" not in json.dumps(request_of())
    assert "Tokyo" not in json.dumps(request_of())
    line = request_of(log_content=True)
    assert line["prompt"] == [{"role": "user", "content": "What is the capital of Japan?"}]
    assert line["response"] == "Tokyo."


def test_a_failed_request_adds_up_what_its_attempts_used() -> None:
    line = failed_request()
    assert "provider" not in line
    assert "input_tokens" not in line
    assert (line["outcome"], line["error_type"], line["rescued"]) == ("error", "rate_limited", False)
    cancelled = request_line(
        request_id="r3", source="api", route="auto", stream=True, outcome="cancelled", duration_s=2.0,
        attempts=(FAILED, OK, OK),
    )  # fmt: skip
    assert (cancelled["input_tokens"], cancelled["cost_usd"], cancelled["failovers"]) == (20, 0.00002, 2)


def test_a_state_line_says_from_what_to_what_until_when_and_by_whom() -> None:
    line = state_line(
        provider="groq_llama",
        from_state="ready",
        to_state="cooling_down",
        by="router",
        until=NOON,
        length_s=8.0,
    )
    assert line == {
        "kind": "state",
        "provider": "groq_llama",
        "from": "ready",
        "to": "cooling_down",
        "until": "2026-11-22T12:00:00.065Z",
        "length_s": 8.0,
        "by": "router",
    }
    endless = state_line(
        provider="p", from_state="ready", to_state="disabled", by="router", until=float("inf")
    )
    assert "until" not in endless


# --- documentation ---


def documented_fields() -> dict[str, set[str]]:
    """Kind of line -> fields, as the tables of docs/usage-log.md have them."""
    fields: dict[str, set[str]] = {}
    for row in (ROOT / "docs" / "usage-log.md").read_text().splitlines():
        if match := re.match(r"\| `(\w+)` \| ([a-z, ]+) \|.*\|.*\|.*\|.*\|$", row):
            for kind in match[2].split(", "):
                fields.setdefault(kind, set()).add(match[1])
    return fields


def test_the_documentation_lists_every_field_and_no_other(
    make_log: Callable[..., UsageLog], folder: Path
) -> None:
    state = state_line(
        provider="p", from_state="ready", to_state="off", by="api", model="m", reason="r", until=NOON, length_s=1.0,
        request_id="r1",
    )  # fmt: skip
    written = [
        attempt_of(FAILED, cooldown_s=8.0, disabled="model"),
        attempt_of(WENT_ON, previous=BROKEN),
        attempt_of(BROKEN),
        request_of(log_content=True, answer=JOINED),
        failed_request(),
        state,
    ]
    log = make_log(instance="i")
    emitted: dict[str, set[str]] = {}
    for line in written:
        assert log.append({**line, "request_id": "x" * 100_000})
    legacy = [
        parse_line(f"2025-02-28 08:58:53,065 - root - INFO - {message}".encode()) for message, _, _ in LEGACY
    ]
    for fields in [*(fields_of(record) for record in read(folder)), *legacy]:
        assert isinstance(fields, Mapping)
        emitted.setdefault(str(fields["kind"]), set()).update(fields)
    assert documented_fields() == emitted


def test_the_documentation_lists_every_event_of_the_original_format() -> None:
    page = (ROOT / "docs" / "usage-log.md").read_text()
    assert [event for _, event, _ in LEGACY if f"`{event}`" not in page] == []


def test_a_failed_attempt_and_what_it_changed_are_written_in_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    wiring = assemble(
        Settings(
            providers=(provider("a", "http://a.invalid"), provider("b", "http://b.invalid")),
            routing=RoutingPolicy(retries=0),
            log=LogSettings(folder=tmp_path),
            source=tmp_path / "providers.yaml",
        ),
        clock=clock,
    )
    pieces: list[list[str]] = []
    write = os.write

    def noted(descriptor: int, data: bytes) -> int:
        if b'"kind"' in data:
            pieces.append([str(json.loads(line)["kind"]) for line in data.splitlines()])
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", noted)
    script = Script(clock).add("a", Reply.error_body(500)).add("b", Reply.text("Hello"))
    with ModelRouter(wiring, transport=ScriptedTransport(script)) as router:
        assert router.invoke("Hi").text == "Hello"
    assert pieces == [["attempt", "state"], ["attempt", "request"]]
