"""Logs of several replicas as one: any set of folders, files, patterns and addresses in stores, each file once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from analytics_logs import NOON, append, attempt, change, encoded, request, rescue
from file_server import FileServer, Manner, serving
from fsspec.implementations.memory import MemoryFileSystem

from fallback.analytics import (
    Analytics,
    Filters,
    Through,
    attempts,
    choices,
    lines,
    problems,
    requests,
    states,
    stores,
    totals,
    window,
)
from fallback.analytics.places import Places
from fallback.analytics.sources import MovedError
from fallback.analytics.stores import Store

DAY = window(NOON - 86_400, NOON + 86_400, first_ts=None)


class Clock:
    """Time for the stores: later by more than any pause whenever it is asked, so that they are asked anew every time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now

    def later(self) -> None:
        self.now += 1_000.0


Open = Callable[..., Analytics]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reading(tmp_path: Path, clock: Clock) -> Iterator[Open]:
    """Give a function that opens the analytics of these places."""
    made: list[Analytics] = []

    def begin(*sources: object) -> Analytics:
        named = [str(source) for source in sources]
        analytics = Analytics(tmp_path / "own", sources=named, wall=lambda: NOON)
        analytics.places = Places(tmp_path / "own", named, monotonic=clock)
        made.append(analytics)
        return analytics

    yield begin
    for analytics in made:
        analytics.close()


def counted(analytics: Analytics, filters: Filters | None = None) -> int:
    analytics.refresh()
    return int(totals(analytics, DAY, filters or Filters()).requests[0])


def names(analytics: Analytics, filters: Filters | None = None) -> list[str]:
    analytics.refresh()
    return sorted(requests(analytics, DAY, filters or Filters(), limit=1_000).request_id)


def replica(folder: Path, name: str, *ids: str, file: str = "usage.log") -> None:
    append(folder / file, [request(NOON, each, instance=name) for each in ids])


# --- folders, files and patterns ---


def test_folders_files_and_patterns_are_read_as_one_log(tmp_path: Path, reading: Open) -> None:
    replica(tmp_path / "a", "a", "a1", file="usage-2026-11-21.log")
    replica(tmp_path / "a", "a", "a2")
    replica(tmp_path / "b", "b", "b1")
    replica(tmp_path / "more/c", "c", "c1")
    replica(tmp_path / "more/d", "d", "d1")
    replica(tmp_path / "kept", "e", "e1", file="copied by hand.log")
    (tmp_path / "more/c/analytics.duckdb").write_bytes(b"nothing to read")
    found = reading(tmp_path / "a", tmp_path / "b", tmp_path / "more/*", tmp_path / "kept/copied by hand.log")
    assert names(found) == ["a1", "a2", "b1", "c1", "d1", "e1"]
    assert (found.coverage.files, found.coverage.damaged, found.coverage.warning) == (6, 0, None)
    assert choices(found).instances == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*/usage.log", ["a", "b"]),
        ("*/usage*.log", ["a", "b", "old", "other"]),
        ("**", ["a", "b", "deep", "old"]),
        ("*/*.log", ["a", "b", "old", "other"]),
        ("[a]", ["a", "old"]),
        ("**/usage.log", ["a", "b", "deep"]),
        ("a/usage-*.log", ["old"]),
    ],
)
def test_a_pattern_finds_folders_and_the_logs_in_them(
    tmp_path: Path, reading: Open, pattern: str, found: list[str]
) -> None:
    replica(tmp_path / "logs/a", "a", "a")
    replica(tmp_path / "logs/a", "a", "old", file="usage-2026-11-21.log")
    replica(tmp_path / "logs/b", "b", "b")
    replica(tmp_path / "logs/b", "b", "other", file="usage.backup.log")
    replica(tmp_path / "logs/b/below", "c", "deep")
    assert names(reading(tmp_path / "logs" / pattern)) == found


def test_what_is_named_twice_counts_once(tmp_path: Path, reading: Open) -> None:
    replica(tmp_path / "a", "a", "a1", "a2")
    replica(tmp_path / "a/below", "b", "b1")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "hard.log").hardlink_to(tmp_path / "a/usage.log")
    found = reading(
        tmp_path / "a", f"{tmp_path}/a/", tmp_path / "a/usage.log", tmp_path / "link", tmp_path / "**",
        tmp_path / "a/below", tmp_path / "*", tmp_path / "hard.log", tmp_path / "a/us*",
    )  # fmt: skip
    assert counted(found) == 3
    assert (found.coverage.lines, found.coverage.files) == (3, 2)


def test_the_same_ids_and_names_in_two_replicas_are_two_of_everything(tmp_path: Path, reading: Open) -> None:
    for name, failed in (("a", "groq"), ("b", "mistral")):
        told = [
            {**line, "instance": name} for line in rescue(NOON, "same", failed=failed, answered="together")
        ]
        append(tmp_path / name / "usage.log", told)
    found = reading(tmp_path / "a", tmp_path / "b")
    assert counted(found) == 2
    assert list(attempts(found, "same").instance) == ["a", "a", "b", "b"]
    assert list(attempts(found, "same", ("b",)).provider) == ["mistral", "together"]
    assert set(lines(found, "same", ("b",)).file) == {str(tmp_path / "b/usage.log")}
    assert len(lines(found, "same")) == 6
    of_groq = requests(found, DAY, Filters(), through=(Through(failed=True, provider="groq"),))
    assert list(of_groq.instance) == ["a"]
    part = requests(found, DAY, Filters(providers=("mistral",)))
    assert list(part.instance) == ["b"]


def test_a_filter_by_instance_holds_for_requests_attempts_and_states(tmp_path: Path, reading: Open) -> None:
    for name, state in (("a", "cooling_down"), ("b", "disabled")):
        append(
            tmp_path / name / "usage.log",
            [
                attempt(NOON - 60, name, instance=name),
                request(NOON - 60, name, instance=name),
                {**change(NOON - 30, "groq", "ready", state), "instance": name},
            ],
        )
    append(tmp_path / "a/usage.log", [request(NOON - 50, "old")])
    found = reading(tmp_path / "a", tmp_path / "b")
    assert names(found) == ["a", "b", "old"]
    assert names(found, Filters(instances=("a",))) == ["a"]
    assert counted(found, Filters(instances=("a", "b"))) == 2
    assert int(totals(found, DAY, Filters(instances=("b",))).latency_p50_s[0]) == 1
    assert "cooling_down" not in set(states(found, DAY, Filters(instances=("b",))).state)


def test_every_log_may_be_rotated_on_its_own(tmp_path: Path, reading: Open) -> None:
    found = reading(tmp_path / "*")
    for name in ("a", "b"):
        replica(tmp_path / name, name, f"{name}1")
    assert counted(found) == 2
    (tmp_path / "a/usage.log").rename(tmp_path / "a/usage-2026-11-22.log")
    replica(tmp_path / "a", "a", "a2")
    assert found.refresh().lines == 1, "a renamed file is known again"
    assert names(found) == ["a1", "a2", "b1"]
    (tmp_path / "b/usage.log").rename(tmp_path / "b/usage-2026-11-22.log")
    replica(tmp_path / "b", "b", "b2")
    assert found.refresh().lines == 1
    (tmp_path / "a/usage-2026-11-22.log").unlink()
    assert names(found) == ["a2", "b1", "b2"]


def test_a_damaged_line_is_named_with_its_folder(tmp_path: Path, reading: Open) -> None:
    replica(tmp_path / "a", "a", "a1")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/usage.log").write_bytes(b"nonsense\n" + encoded(request(NOON, "b1")))
    found = reading(tmp_path / "a", tmp_path / "b")
    assert counted(found) == 2
    assert list(problems(found).file) == [str(tmp_path / "b/usage.log")]


def test_a_place_without_a_log_is_told_and_the_others_are_read(tmp_path: Path, reading: Open) -> None:
    replica(tmp_path / "a", "a", "a1")
    found = reading(tmp_path / "a", tmp_path / "nowhere", tmp_path / "no*thing")
    assert counted(found) == 1
    assert found.coverage.warning == (
        f"{tmp_path}/nowhere: there is no log; {tmp_path}/no*thing: there is no log"
    )
    replica(tmp_path / "nowhere", "b", "b1")
    assert names(found) == ["a1", "b1"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_keeps_what_it_had(tmp_path: Path, reading: Open) -> None:
    replica(tmp_path / "a", "a", "a1")
    replica(tmp_path / "b", "b", "b1")
    found = reading(tmp_path / "a", tmp_path / "b")
    assert counted(found) == 2
    (tmp_path / "b").chmod(0)
    (tmp_path / "a/usage.log").unlink()
    try:
        assert names(found) == ["b1"]
        assert found.coverage.warning is not None
    finally:
        (tmp_path / "b").chmod(0o755)


def test_other_places_have_a_cache_of_their_own(tmp_path: Path, reading: Open) -> None:
    replica(tmp_path / "a", "a", "a1")
    replica(tmp_path / "own", "own", "own1")
    assert names(reading(tmp_path / "a")) == ["a1"]
    assert names(reading()) == ["own1"]
    assert names(reading(tmp_path / "own", tmp_path / "a")) == ["a1", "own1"]
    caches = {path.name for path in (tmp_path / "own").glob("*.duckdb")}
    assert len(caches) == 3
    assert "analytics.duckdb" in caches
    assert Places(tmp_path, ["x", "y"]).cache_name == Places(tmp_path, ["y", "x", "y"]).cache_name


# --- stores ---


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    fs = MemoryFileSystem()
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def put(fs: MemoryFileSystem, path: str, *ids: str, instance: str = "m") -> None:
    fs.pipe_file(path, b"".join(encoded(request(NOON, each, instance=instance)) for each in ids))


@pytest.mark.parametrize(
    "url",
    ["memory://bucket/a", "memory://bucket/a/", "memory://bucket/*", "memory://bucket/a/usage*.log", "memory://bucket/**/*.log"],
)  # fmt: skip
def test_an_address_in_a_store_is_a_folder_or_a_pattern(
    memory: MemoryFileSystem, reading: Open, url: str
) -> None:
    put(memory, "/bucket/a/usage-2026-11-21.2.log", "two")
    put(memory, "/bucket/a/usage-2026-11-21.log", "one")
    put(memory, "/bucket/a/usage.log", "three")
    memory.pipe_file("/bucket/a/analytics.duckdb", b"nothing to read")
    found = reading(url)
    assert names(found) == ["one", "three", "two"]
    told = lines(found, "three").file
    assert list(told) == ["memory:///bucket/a/usage.log"]


def test_a_grown_object_is_read_on_and_another_one_anew(
    memory: MemoryFileSystem, reading: Open, clock: Clock
) -> None:
    put(memory, "/bucket/usage.log", "a")
    found = reading("memory://bucket", "memory://bucket/usage.log")
    assert found.refresh().lines == 1
    put(memory, "/bucket/usage.log", "a", "b")
    clock.later()
    assert found.refresh().lines == 1
    assert names(found) == ["a", "b"]
    put(memory, "/bucket/usage.log", "x")
    clock.later()
    assert names(found) == ["x"]
    memory.rm_file("/bucket/usage.log")
    clock.later()
    assert names(found) == []


def test_a_store_is_not_asked_at_every_refresh(memory: MemoryFileSystem, reading: Open, clock: Clock) -> None:
    put(memory, "/bucket/usage.log", "a")
    found = reading("memory://bucket")
    assert counted(found) == 1
    put(memory, "/bucket/usage.log", "a", "b")
    assert counted(found) == 1
    clock.later()
    assert counted(found) == 2


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    with serving(tmp_path / "served") as made:
        made.folder.mkdir()
        yield made


def test_a_web_server_gives_new_bytes_in_ranges(server: FileServer, reading: Open, clock: Clock) -> None:
    many = [f"r{number}" for number in range(3_000)]
    replica(server.folder / "a", "a", *many)
    found = reading(f"{server.url}/a/", f"{server.url}/a/usage.log")
    assert counted(found) == 3_000
    whole = (server.folder / "a/usage.log").stat().st_size
    assert whole <= server.sent_bytes < whole + 10_000
    server.sent_bytes = 0
    assert counted(found) == 3_000
    assert server.sent_bytes == 0
    replica(server.folder / "a", "a", "new")
    clock.later()
    assert counted(found) == 3_001
    assert server.sent_bytes < 10_000
    assert len(lines(found, "new")) == 1


def test_an_index_page_is_a_folder_and_patterns_work(server: FileServer, reading: Open) -> None:
    replica(server.folder / "logs/a", "a", "a1")
    replica(server.folder / "logs/a", "a", "a0", file="usage-2026-11-20.log")
    replica(server.folder / "logs/b", "b", "b1")
    (server.folder / "logs/b/state.sqlite").write_bytes(b"no log")
    assert names(reading(f"{server.url}/logs/*/usage*.log")) == ["a0", "a1", "b1"]
    assert names(reading(f"{server.url}/logs/a")) == ["a0", "a1"]


@pytest.mark.parametrize(
    ("manner", "told"),
    [("refuse", "HTTP 403"), ("whole", "the server gives no parts of a file (Range)"), ("cut", "")],
)
def test_a_store_that_fails_is_told_and_local_logs_are_read(
    server: FileServer, reading: Open, clock: Clock, tmp_path: Path, manner: Manner, told: str
) -> None:
    replica(tmp_path / "a", "a", "a1")
    replica(server.folder, "b", "b1", "b2")
    found = reading(tmp_path / "a", f"{server.url}/usage.log?sig=hush-hush")
    assert names(found) == ["a1", "b1", "b2"]
    replica(server.folder, "b", "b3")
    server.manner = manner
    clock.later()
    assert names(found) == ["a1", "b1", "b2"], "what was read before stays"
    warning = found.coverage.warning or ""
    assert f"{server.url}/usage.log" in warning
    assert told in warning
    assert "hush" not in warning
    server.manner = "serve"
    clock.later()
    assert names(found) == ["a1", "b1", "b2", "b3"]
    assert found.coverage.warning is None


def test_a_store_under_another_name_of_its_protocol_keeps_what_it_had_when_it_is_away(
    tmp_path: Path, reading: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica(tmp_path / "logs", "a", "a1")
    address = f"local://{tmp_path / 'logs'}"
    before = reading(address)
    assert names(before) == ["a1"]
    before.close()

    def away(url: str) -> object:
        raise ConnectionError

    monkeypatch.setattr(stores, "_opened", away)
    again = reading(address)
    assert names(again) == ["a1"]
    assert "cannot be read" in (again.coverage.warning or "")


def test_a_file_that_its_store_holds_no_longer_has_moved(memory: MemoryFileSystem, clock: Clock) -> None:
    put(memory, "/bucket/usage.log", "a")
    store = Store("memory://bucket", monotonic=clock)
    store.begin_to_look()
    store.wait()
    (file,) = store.listing().files
    memory.rm_file("/bucket/usage.log")
    clock.later()
    store.begin_to_look()
    store.wait()
    with pytest.raises(MovedError), store.opened(file):
        pass


def test_a_store_that_is_away_is_told(reading: Open, tmp_path: Path) -> None:
    replica(tmp_path / "a", "a", "a1")
    found = reading(tmp_path / "a", "http://127.0.0.1:9/logs/usage.log")
    assert names(found) == ["a1"]
    assert "http://127.0.0.1:9/logs/usage.log cannot be read:" in (found.coverage.warning or "")


def test_a_store_that_does_not_answer_holds_nobody_up_twice(server: FileServer, clock: Clock) -> None:
    replica(server.folder, "b", "b1")
    store = Store(f"{server.url}/usage.log", monotonic=clock)
    store.begin_to_look()
    store.wait()
    assert len(store.listing().files) == 1
    server.manner = "hang"
    clock.later()
    store.begin_to_look()
    assert server.hung.wait(30)
    clock.later()
    store.wait()
    found = store.listing()
    assert len(found.files) == 1
    assert found.problem == f"{server.url}/usage.log cannot be read: it does not answer"
    assert found.may_hold(f"{server.url}/usage.log")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nosuch://bucket/a", "no kind of store is called nosuch"),
        ("gs://bucket/a", "it needs the package gcsfs: pip install gcsfs"),
        ("az://bucket/a", "it needs the package adlfs: pip install adlfs"),
    ],
)
def test_what_is_missing_for_a_store_is_named(url: str, told: str, clock: Clock) -> None:
    package = told.rpartition(" ")[2]
    if package in {"gcsfs", "adlfs"}:
        try:
            __import__(package)
        except ImportError:
            pass
        else:
            pytest.skip(f"{package} is installed")
    store = Store(url, monotonic=clock)
    store.begin_to_look()
    store.wait()
    assert store.listing().problem == f"{url} cannot be read: {told}"


def test_a_reading_that_breaks_off_counts_no_line_twice(
    server: FileServer, reading: Open, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Runs so small that the first lines are in the cache when the next ones are not given.
    for module in ("sources", "stores"):
        monkeypatch.setattr(f"fallback.analytics.{module}.RUN_BYTES", 100_000)
    replica(server.folder, "b", *(f"r{number}" for number in range(3_000)))
    found = reading(f"{server.url}/usage.log")
    server.refuse_after_bytes = 250_000
    found.refresh()
    assert "HTTP 403" in (found.coverage.warning or "")
    assert server.sent_bytes >= 200_000
    assert (found.coverage.lines, counted(found)) == (0, 0)
    server.refuse_after_bytes = None
    clock.later()
    assert counted(found) == 3_000
    assert found.coverage.lines == 3_000
