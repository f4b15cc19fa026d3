"""Shared state: every process sees the same, it lasts, and no state of the disk stops anybody.

The contract holds for every kind of store; a further kind joins by a `Machine` of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_server import RedisServer

from fallback.state import (
    JSON,
    Entry,
    MemoryStateStore,
    Merge,
    SQLiteStateStore,
    StateStore,
    Value,
    keep_latest,
)
from fallback.state.claims import HOLD_S, RENEW_S, Claims
from fallback.state.exchange import LOCKED_S, RETRY_S, Exchange
from fallback.state.ledger import Ledger, settle
from fallback.testing import FakeClock

ROOT = Path(__file__).resolve().parent.parent
DAY_S = 86_400.0
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")


def until(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    """Wait for a thread or a process."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)


def longest(existing: Entry | None, value: Value) -> Value:
    """Never shorten a cooldown, as the router wants it."""
    if existing is None or existing.value is None or value is None or not existing.key.startswith("breaker/"):
        return value
    return value if end_of(value) >= end_of(existing.value) else existing.value


def end_of(value: Mapping[str, JSON]) -> float:
    until_s = value["until"]
    assert isinstance(until_s, float | int)
    return until_s


def values(store: StateStore) -> dict[str, Value]:
    return {key: entry.value for key, entry in store.entries().items()}


class Heard:
    """Collects what a store tells."""

    def __init__(self) -> None:
        self.calls: list[Sequence[Entry]] = []

    def __call__(self, changed: Sequence[Entry]) -> None:
        self.calls.append(changed)

    @property
    def entries(self) -> list[Entry]:
        return [entry for call in list(self.calls) for entry in call]

    @property
    def values(self) -> list[tuple[str, Value]]:
        return [(entry.key, entry.value) for entry in self.entries]


class Machine:
    """A place where stores share their state. `store` stands for one process each."""

    def __init__(self) -> None:
        self.opened: list[StateStore] = []

    def make(self, instance: str, merge: Merge, wall: Callable[[], float]) -> StateStore:
        raise NotImplementedError

    def store(
        self, instance: str, *, merge: Merge = keep_latest, wall: Callable[[], float] = time.time
    ) -> StateStore:
        store = self.make(instance, merge, wall)
        self.opened.append(store)
        return store

    def started(self, instance: str, *, merge: Merge = keep_latest) -> tuple[StateStore, Heard]:
        store, heard = self.store(instance, merge=merge), Heard()
        store.start(heard)
        return store, heard

    def close(self) -> None:
        for store in self.opened:
            store.close()


class OneMemory(Machine):
    """Stores in the memory of this process."""

    def make(self, instance: str, merge: Merge, wall: Callable[[], float]) -> StateStore:
        first = self.opened[0] if self.opened else None
        assert first is None or isinstance(first, MemoryStateStore)
        return MemoryStateStore(instance=instance, merge=merge, wall=wall, shared_with=first)


class OneFile(Machine):
    """Stores over one SQLite file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def make(self, instance: str, merge: Merge, wall: Callable[[], float]) -> StateStore:
        return SQLiteStateStore(self.path, instance=instance, merge=merge, poll_s=0.01, wall=wall)


class OneServer(Machine):
    """Stores on one Redis server."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self.server = server
        self.prefix = f"test{next(PREFIXES)}:"

    def make(self, instance: str, merge: Merge, wall: Callable[[], float]) -> StateStore:
        return self.server.store(instance, prefix=self.prefix, merge=merge, wall=wall)


PREFIXES = itertools.count()
KINDS = ["memory", "sqlite", "redis"]


@contextlib.contextmanager
def machine_of(kind: str, request: pytest.FixtureRequest) -> Iterator[Machine]:
    with tempfile.TemporaryDirectory() as folder:
        machine: Machine
        match kind:
            case "memory":
                machine = OneMemory()
            case "sqlite":
                machine = OneFile(Path(folder, "state.sqlite"))
            case _:
                machine = OneServer(request.getfixturevalue("shared_redis"))
        try:
            yield machine
        finally:
            machine.close()


@pytest.fixture(params=KINDS)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with machine_of(request.param, request) as machine:
        yield machine


# --- the contract of every store ---


def test_a_put_shows_at_once_in_its_own_process(machine: Machine) -> None:
    store, _ = machine.started("a")
    store.put("switch/groq_llama", {"enabled": False}, by="Ada")
    entry = store.entries()["switch/groq_llama"]
    assert (entry.key, entry.value, entry.by, entry.origin) == (
        "switch/groq_llama",
        {"enabled": False},
        "Ada",
        "a",
    )


def test_a_put_before_the_start_counts(machine: Machine) -> None:
    store = machine.store("a")
    store.put("order", {"names": ["b", "a"]}, by="Ada")
    assert values(store) == {"order": {"names": ["b", "a"]}}
    store.start(Heard())
    assert store.flush()
    _, heard = machine.started("b")
    assert heard.values == [("order", {"names": ["b", "a"]})]


def test_another_process_is_told_of_a_put(machine: Machine) -> None:
    store, _ = machine.started("a")
    other, heard = machine.started("b")
    store.put("drill/groq_llama", {"kind": "429", "seed": 7}, by="Ada")
    until(lambda: heard.calls)
    (entry,) = heard.entries
    assert (entry.value, entry.by, entry.origin) == ({"kind": "429", "seed": 7}, "Ada", "a")
    assert entry.revision > 0
    assert other.entries()["drill/groq_llama"] == entry
    assert store.flush()
    assert store.entries() == other.entries()


def test_a_process_is_not_told_of_its_own_puts(machine: Machine) -> None:
    store, heard = machine.started("a")
    other, other_heard = machine.started("b")
    store.put("switch/x", {"enabled": False}, by="Ada")
    until(lambda: other_heard.calls)
    other.put("switch/y", {"enabled": False}, by="Bob")
    until(lambda: heard.calls)
    assert heard.values == [("switch/y", {"enabled": False})]
    assert other_heard.values == [("switch/x", {"enabled": False})]


def test_everything_present_is_told_before_start_returns(machine: Machine) -> None:
    first, _ = machine.started("a")
    first.put("one", {"n": 1}, by="Ada")
    first.put("two", {"n": 2}, by="Ada")
    first.put("gone", {"n": 3}, by="Ada")
    first.put("gone", None, by="Ada")
    assert first.flush()
    second, heard = machine.started("b")
    assert len(heard.calls) == 1
    assert sorted(heard.values) == [("one", {"n": 1}), ("two", {"n": 2})]
    assert second.entries() == first.entries()


def test_none_deletes_everywhere(machine: Machine) -> None:
    store, _ = machine.started("a")
    store.put("switch/x", {"enabled": False}, by="Ada")
    assert store.flush()
    other, heard = machine.started("b")
    store.put("switch/x", None, by="Bob")
    assert values(store) == {}
    until(lambda: len(heard.calls) == 2)
    (tombstone,) = heard.calls[1]
    assert (tombstone.key, tombstone.value, tombstone.by) == ("switch/x", None, "Bob")
    assert values(other) == {}


def test_a_deleted_key_can_be_put_again(machine: Machine) -> None:
    store, _ = machine.started("a")
    for value in ({"n": 1}, None, {"n": 2}):
        store.put("key", value, by="Ada")
        assert store.flush()
    assert values(store) == {"key": {"n": 2}}
    other, _ = machine.started("b")
    assert values(other) == {"key": {"n": 2}}


def test_revisions_grow_from_write_to_write(machine: Machine) -> None:
    store, _ = machine.started("a")
    revisions = []
    for key in ("one", "two", "one"):
        store.put(key, {}, by="Ada")
        assert store.flush()
        revisions.append(store.entries()[key].revision)
    assert 0 < revisions[0] < revisions[1] < revisions[2]


def test_the_last_put_wins(machine: Machine) -> None:
    first, _ = machine.started("a")
    second, _ = machine.started("b")
    first.put("switch/x", {"enabled": False}, by="Ada")
    assert first.flush()
    second.put("switch/x", {"enabled": True}, by="Bob")
    assert second.flush()
    until(lambda: values(first) == {"switch/x": {"enabled": True}})
    assert first.entries() == second.entries()


def test_a_merge_keeps_another_process_from_shortening_a_cooldown(machine: Machine) -> None:
    first, _ = machine.started("a", merge=longest)
    second, heard = machine.started("b", merge=longest)
    first.put("breaker/x", {"until": 200.0}, by="a")
    first.put("switch/x", {"until": 200.0}, by="a")
    assert first.flush()
    second.put("breaker/x", {"until": 100.0}, by="b")
    second.put("switch/x", {"until": 100.0}, by="b")
    assert second.flush()
    agreed = {"breaker/x": {"until": 200.0}, "switch/x": {"until": 100.0}}
    until(lambda: values(first) == values(second) == agreed)
    assert second.entries()["breaker/x"].by == "a"
    assert ("breaker/x", {"until": 200.0}) in heard.values, "who put less must hear of what stands"


def test_a_merge_lets_a_longer_cooldown_and_its_end_through(machine: Machine) -> None:
    first, _ = machine.started("a", merge=longest)
    second, _ = machine.started("b", merge=longest)
    first.put("breaker/x", {"until": 100.0}, by="a")
    assert first.flush()
    second.put("breaker/x", {"until": 200.0}, by="b")
    assert second.flush()
    until(lambda: values(first) == {"breaker/x": {"until": 200.0}})
    first.put("breaker/x", None, by="Ada")
    until(lambda: values(second) == {})


def test_a_merge_counts_within_one_process_too(machine: Machine) -> None:
    store, _ = machine.started("a", merge=longest)
    store.put("breaker/x", {"until": 200.0}, by="a")
    store.put("breaker/x", {"until": 100.0}, by="a")
    assert values(store) == {"breaker/x": {"until": 200.0}}
    assert store.flush()
    assert values(store) == {"breaker/x": {"until": 200.0}}


def test_a_value_is_a_copy_as_json_knows_it(machine: Machine) -> None:
    store, _ = machine.started("a")
    names: list[JSON] = ["a"]
    value: dict[str, JSON] = {"names": names, "pair": (1, 2.5), "text": "é\ud800\x00", "no": None}
    store.put("order", value, by="Ada")
    names.append("b")
    stored = {"names": ["a"], "pair": [1, 2.5], "text": "é\ud800\x00", "no": None}
    assert values(store) == {"order": stored}
    assert store.flush()
    other, _ = machine.started("b")
    assert values(other) == {"order": stored}


@pytest.mark.parametrize("name", ["switch/ ü 😀", "a\x00b", "'; DROP TABLE entries; --", "x" * 1000])
def test_any_text_is_a_key(machine: Machine, name: str) -> None:
    store, _ = machine.started("a")
    store.put(name, {"n": 1}, by="Ada \ud800" + "x" * 1000)
    assert store.flush()
    other, _ = machine.started("b")
    assert list(other.entries()) == [name]
    assert other.entries()[name].by.startswith("Ada ?xxx")
    assert len(other.entries()[name].by) == 200


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", {}),
        ("x" * 1001, {}),
        ("lone\ud800", {}),
        ("key", {"n": float("nan")}),
        ("key", {"n": float("inf")}),
        ("key", {"n": object()}),
        ("key", {"n": "x" * 70_000}),
        ("key", ["not", "an", "object"]),
        ("key", "text"),
    ],
)
def test_what_is_no_key_or_no_json_object_is_refused(machine: Machine, key: str, value: Value) -> None:
    store, _ = machine.started("a")
    with pytest.raises(ValueError, match=r".+"):
        store.put(key, value, by="Ada")
    assert values(store) == {}


def test_a_store_is_started_once(machine: Machine) -> None:
    store, _ = machine.started("a")
    with pytest.raises(RuntimeError):
        store.start(Heard())
    closed = machine.store("b")
    closed.close()
    with pytest.raises(RuntimeError):
        closed.start(Heard())


def test_a_closed_store_still_answers_and_is_told_nothing(machine: Machine) -> None:
    store, heard = machine.started("a")
    other, _ = machine.started("b")
    store.put("one", {"n": 1}, by="Ada")
    store.close()
    store.close()
    assert values(store)["one"] == {"n": 1}
    store.put("late", {"n": 2}, by="Ada")
    assert values(store)["late"] == {"n": 2}
    other.put("two", {"n": 2}, by="Bob")
    assert other.flush()
    until(lambda: "one" in values(other))
    assert heard.calls == []


def test_entries_do_not_change_under_whoever_reads_them(machine: Machine) -> None:
    store, _ = machine.started("a")
    store.put("one", {"n": 1}, by="Ada")
    before = store.entries()
    store.put("two", {"n": 2}, by="Ada")
    assert list(before) == ["one"]
    with pytest.raises(TypeError):
        before["three"] = before["one"]  # type: ignore[index]


def test_reading_costs_nothing_while_nothing_changes(machine: Machine) -> None:
    store, _ = machine.started("a")
    store.put("one", {"n": 1}, by="Ada")
    assert store.flush()
    assert store.entries() is store.entries()


def test_a_callback_may_use_the_store(machine: Machine) -> None:
    store, _ = machine.started("a")
    other = machine.store("b")

    def answer(changed: Sequence[Entry]) -> None:
        for entry in changed:
            other.put(f"seen/{entry.key}", {}, by="b")

    other.start(answer)
    store.put("one", {}, by="Ada")
    until(lambda: "seen/one" in values(store))


def test_thousands_of_puts_from_many_threads_end_in_the_last_ones(machine: Machine) -> None:
    store, _ = machine.started("a")
    other, heard = machine.started("b")

    def put(thread: int) -> None:
        for n in range(1000):
            store.put(f"breaker/{thread}/{n % 10}", {"n": n}, by="a")

    threads = [threading.Thread(target=put, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.flush(20)
    expected = {f"breaker/{thread}/{last}": {"n": 990 + last} for thread in range(4) for last in range(10)}
    until(lambda: values(other) == expected)
    assert store.entries() == other.entries()
    for call in heard.calls:
        revisions = [entry.revision for entry in call]
        assert revisions == sorted(revisions)


def test_all_is_well_means_no_warning(machine: Machine) -> None:
    store, _ = machine.started("a")
    store.put("one", {}, by="Ada")
    assert store.flush()
    assert store.warning is None


def test_one_owner_at_a_time_has_a_claim(machine: Machine) -> None:
    one, _ = machine.started("a")
    two, _ = machine.started("b")
    first, second, beside = one.claim("probe/x"), two.claim("probe/x"), one.claim("probe/x")
    assert first.take()
    assert first.take()
    assert not second.take()
    assert not beside.take(), "of one process too only one owner has it"
    assert two.claim("probe/y").take()
    second.give_back()
    assert not second.take(), "what another one has cannot be given back"
    first.give_back()
    until(second.take)
    assert not first.take()


def test_who_gets_a_claim_knows_what_its_last_owner_put(machine: Machine) -> None:
    one, _ = machine.started("a")
    two, heard = machine.started("b")
    for n in range(5):
        first, second = one.claim("probe/x"), two.claim("probe/x")
        until(first.take)
        one.put("breaker/x", {"n": n}, by="a")
        first.give_back()
        until(second.take)
        assert heard.values[-1] == ("breaker/x", {"n": n})
        second.give_back()


def test_a_closed_store_gives_its_claims_back_and_stops_nobody(machine: Machine) -> None:
    one, _ = machine.started("a")
    two, _ = machine.started("b")
    claim = one.claim("probe/x")
    assert claim.take()
    if not isinstance(one, MemoryStateStore):
        one.close()
        until(two.claim("probe/x").take)
        assert one.claim("probe/x").take(), "it can ask nobody any more"
    claim.give_back()


KEYS = st.sampled_from(["switch/x", "breaker/x", "breaker/y"])
PUT_VALUES = st.none() | st.integers(0, 20).map(lambda n: {"until": float(n)})
PUTS = st.lists(st.tuples(st.integers(0, 1), KEYS, PUT_VALUES, st.booleans()), max_size=30)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(puts=PUTS)
def test_two_processes_agree_after_any_interleaving_of_puts(
    kind: str, request: pytest.FixtureRequest, puts: list[tuple[int, str, Value, bool]]
) -> None:
    with machine_of(kind, request) as machine:
        stores = [machine.started(name, merge=longest)[0] for name in "ab"]
        for who, key, value, flush in puts:
            stores[who].put(key, value, by="Ada")
            if flush:
                assert stores[who].flush()
        assert all(store.flush() for store in stores)
        until(lambda: stores[0].entries() == stores[1].entries())
        fresh, _ = machine.started("c", merge=longest)
        assert fresh.entries() == stores[0].entries()


# --- the file: rounds in the order that the test wants, on a clock that stands still ---


class Desk:
    """One process without its thread: rounds happen when the test says so."""

    def __init__(
        self,
        path: Path,
        name: str,
        clock: FakeClock,
        merge: Merge = keep_latest,
        wall: Callable[[], float] | None = None,
    ) -> None:
        self.ledger = Ledger(instance=name, merge=merge, wall=wall or clock.wall)
        self.claims = Claims(clock=clock)
        self.exchange = Exchange(path, self.ledger, self.claims, wall=wall or clock.wall, clock=clock)

    def put(self, key: str, value: Value) -> None:
        self.ledger.put(key, value, by="Ada")

    def round(self, *, urgent: bool = False) -> list[tuple[str, Value]]:
        return [(entry.key, entry.value) for entry in self.exchange.round(urgent=urgent)]

    @property
    def values(self) -> dict[str, Value]:
        return {key: entry.value for key, entry in self.ledger.entries().items()}

    @property
    def warning(self) -> str:
        return self.exchange.warning or ""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "state.sqlite"


@pytest.fixture
def desk(path: Path, clock: FakeClock) -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(name: str = "a", merge: Merge = keep_latest) -> Desk:
        made.append(Desk(path, name, clock, merge))
        return made[-1]

    yield make
    for one in made:
        one.exchange.drop()


def rows(path: Path) -> list[tuple[str, str | None]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute('SELECT "key", value FROM entries ORDER BY "key"').fetchall()


def test_a_round_without_news_reads_no_rows(path: Path, desk: Callable[..., Desk]) -> None:
    one, two = desk("a"), desk("b")
    one.put("one", {})
    one.round()
    assert two.round() == [("one", {})]
    statements: list[str] = []
    assert two.exchange._file is not None
    two.exchange._file._connection.set_trace_callback(statements.append)
    assert two.round() == []
    assert statements == ["PRAGMA data_version"]


def test_a_put_wins_over_what_was_not_seen_yet(desk: Callable[..., Desk]) -> None:
    one, two = desk("a"), desk("b")
    one.round(), two.round()
    one.put("switch/x", {"enabled": False})
    one.round()
    two.put("switch/x", {"enabled": True})
    assert two.round() == []
    assert one.round() == [("switch/x", {"enabled": True})]
    assert one.ledger.entries() == two.ledger.entries()


def test_a_put_held_back_by_an_outage_does_not_undo_a_later_one(
    path: Path, clock: FakeClock, desk: Callable[..., Desk]
) -> None:
    one, two = desk("a"), desk("b")
    one.round(), two.round()
    two.put("switch/x", {"by": "early"})
    two.put("switch/y", {"by": "late"})
    two.put("breaker/x", {"until": 5.0})
    two.exchange.fail("a test")
    clock.advance(1)
    one.put("switch/x", {"by": "meanwhile"})
    one.round()
    two.round()
    assert "a test" in two.warning
    clock.advance(RETRY_S)
    assert two.round() == [("switch/x", {"by": "meanwhile"})]
    assert two.warning == ""
    one.round()
    assert one.ledger.entries() == two.ledger.entries()
    assert one.values == {
        "switch/x": {"by": "meanwhile"},
        "switch/y": {"by": "late"},
        "breaker/x": {"until": 5.0},
    }


def test_a_held_back_cooldown_still_counts_where_it_is_the_longer(
    clock: FakeClock, desk: Callable[..., Desk]
) -> None:
    one, two = desk("a", longest), desk("b", longest)
    one.round(), two.round()
    two.put("breaker/x", {"until": 200.0})
    two.put("breaker/y", {"until": 100.0})
    two.exchange.fail("a test")
    clock.advance(RETRY_S)
    one.put("breaker/x", {"until": 150.0})
    one.put("breaker/y", {"until": 150.0})
    one.round()
    two.round()
    one.round()
    assert one.values == two.values == {"breaker/x": {"until": 200.0}, "breaker/y": {"until": 150.0}}


def test_a_put_made_during_a_write_does_not_yield_to_that_write(desk: Callable[..., Desk]) -> None:
    one = desk("a")
    ledger = one.ledger
    one.put("switch/x", {"n": 1})
    during_the_write = ledger.pending()
    one.put("switch/x", {"n": 2})
    (first,) = during_the_write
    assert ledger.written(during_the_write, {"switch/x": replace(first.entry, revision=1)}) == []
    ledger.hold()
    (second,) = ledger.pending()
    written = settle(replace(first.entry, revision=1), second, keep_latest)
    assert written is not None
    assert written.value == {"n": 2}


def test_a_put_after_the_clock_was_set_back_counts(
    path: Path, clock: FakeClock, desk: Callable[..., Desk]
) -> None:
    one, two = desk("a"), Desk(path, "b", clock, wall=lambda: clock.wall() - 3600)
    one.put("switch/x", {"n": 1})
    one.round(), two.round()
    two.put("switch/x", {"n": 2})
    two.round(), one.round()
    assert one.values == {"switch/x": {"n": 2}}
    two.exchange.drop()


def test_tombstones_go_after_a_day_and_what_was_put_stays(
    path: Path, clock: FakeClock, desk: Callable[..., Desk]
) -> None:
    old = desk("a")
    old.put("switch/untouched", {"n": 1})
    old.put("switch/deleted", {"n": 1})
    old.round()
    clock.advance(40 * DAY_S)
    old.put("switch/deleted", None)
    old.round()
    desk("b").round()
    assert [key for key, _ in rows(path)] == ["switch/deleted", "switch/untouched"]
    clock.advance(1.1 * DAY_S)
    fresh = desk("c")
    assert fresh.round() == [("switch/untouched", {"n": 1})]
    assert rows(path) == [("switch/untouched", '{"n":1}')]


def test_revisions_are_never_used_twice(path: Path, clock: FakeClock, desk: Callable[..., Desk]) -> None:
    one, two = desk("a"), desk("b")
    one.put("gone", None)
    one.round(), two.round()
    clock.advance(2 * DAY_S)
    desk("c").round()
    assert rows(path) == []
    one.put("new", {})
    one.round()
    assert one.ledger.entries()["new"].revision == 2
    assert two.round() == [("new", {})]


def claimed(desk: Desk, name: str = "probe/x") -> tuple[bool | None, Callable[[], None]]:
    """Ask for a claim; return whether it was granted, and what gives it back."""
    claim = desk.claims.claim(name, lambda: False)
    claim.take()
    desk.round()
    desk.claims.answer(out=False)
    return claim.granted, claim.give_back


def test_a_claim_ends_with_its_process_and_lasts_while_it_is_renewed(
    clock: FakeClock, desk: Callable[..., Desk]
) -> None:
    one, two = desk("a"), desk("b")
    assert claimed(one)[0] is True
    for _ in range(5):
        clock.advance(RENEW_S)
        one.round()
        assert claimed(two)[0] is False
    answers = []
    for _ in range(3):  # and no round of the first one any more
        clock.advance(HOLD_S / 3 + 0.1)
        answers.append(claimed(two)[0])
    assert answers == [False, False, True], "to ask for it does not prolong it"


def test_a_claim_that_ran_out_is_not_taken_from_its_next_owner(
    clock: FakeClock, desk: Callable[..., Desk]
) -> None:
    one, two = desk("a"), desk("b")
    _, give_back = claimed(one)
    clock.advance(HOLD_S + 0.1)
    assert claimed(two)[0] is True
    give_back()
    one.round()
    assert claimed(desk("c"))[0] is False


def test_a_claim_does_not_outlast_a_clock_that_was_set_back(
    path: Path, clock: FakeClock, desk: Callable[..., Desk]
) -> None:
    assert claimed(desk("a"))[0] is True
    behind = Desk(path, "b", clock, wall=lambda: clock.wall() - 3600)
    assert claimed(behind)[0] is True
    behind.exchange.drop()


@pytest.mark.parametrize("value", ["nonsense", "[1]", b"\xff\xfe", "[" * 100_000])
def test_a_row_that_somebody_has_spoilt_is_passed_over(
    path: Path, desk: Callable[..., Desk], value: object
) -> None:
    one = desk("a")
    one.put("good", {"n": 1})
    one.put("spoilt", {"n": 1})
    one.round()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE entries SET value = CAST(? AS TEXT) WHERE \"key\" = 'spoilt'", (value,))
        connection.commit()
    two = desk("b")
    two.round()
    assert two.values == {"good": {"n": 1}}
    two.put("spoilt", {"n": 2})
    two.round()
    assert desk("c").round() == [("good", {"n": 1}), ("spoilt", {"n": 2})]
    assert two.warning == ""


def spoil_with_random_bytes(path: Path) -> None:
    path.write_bytes(bytes(range(7, 256)) * 40)


def spoil_with_few_bytes(path: Path) -> None:
    path.write_bytes(b"{}")


def spoil_a_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 + 1000 :] = b"\x99" * (len(content) - 5096)
    content[4096:4196] = b"\x77" * 100
    path.write_bytes(content)


def spoil_by_truncation(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def spoil_the_last_pages(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-8192] + b"\x99" * 8192)


def spoil_the_tables(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE entries")
        connection.commit()


def spoil_a_column(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE entries RENAME COLUMN origin TO whence")
        connection.commit()


def spoil_the_version(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 0")


def spoil_the_identity(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM store")
        connection.commit()


SPOILERS = [
    spoil_with_random_bytes,
    spoil_with_few_bytes,
    spoil_a_page,
    spoil_by_truncation,
    spoil_the_last_pages,
    spoil_the_tables,
    spoil_a_column,
    spoil_the_version,
    spoil_the_identity,
]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(
    path: Path, desk: Callable[..., Desk], spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    before = desk("a")
    for n in range(100):
        before.put(f"switch/{n}", {"text": "x" * 100})
    before.round()
    before.exchange.drop()
    spoil(path)
    damaged = path.read_bytes()
    after = desk("b")
    after.put("switch/new", {"n": 1})
    after.round()
    (aside,) = path.parent.glob("state.sqlite.damaged-*")
    assert aside.read_bytes() == damaged
    assert after.warning == (
        f"state store was damaged: set aside as {aside.name}, and a new one begun from memory"
    )
    assert rows(path) == [("switch/new", '{"n":1}')]
    assert len(caplog.records) == 1
    third = desk("c")
    third.round()
    assert (third.values, third.warning) == ({"switch/new": {"n": 1}}, "")


@pytest.mark.parametrize("spoil", SPOILERS[:2])
def test_a_file_damaged_while_in_use_is_begun_anew_from_memory(
    path: Path, clock: FakeClock, desk: Callable[..., Desk], spoil: Callable[[Path], None]
) -> None:
    one, two = desk("a"), desk("b")
    one.put("switch/x", {"n": 1})
    one.round(), two.round()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    spoil(path)
    for _ in range(4):
        one.put("switch/y", {"n": 2})
        one.round(), two.round()
        clock.advance(0.25)
    assert one.values == two.values == {"switch/x": {"n": 1}, "switch/y": {"n": 2}}
    assert rows(path) == [("switch/x", '{"n":1}'), ("switch/y", '{"n":2}')]
    assert len(list(path.parent.glob("state.sqlite.damaged-*Z"))) == 1
    assert "unwritable" not in one.warning + two.warning


def test_only_the_last_five_damaged_files_are_kept(
    path: Path, clock: FakeClock, desk: Callable[..., Desk]
) -> None:
    path.parent.mkdir()
    for n in range(8):
        path.write_bytes(b"damaged %d" % n)
        desk().round()
        for one in path.parent.glob("state.sqlite-*"):
            one.unlink(missing_ok=True)
        if n % 2:
            clock.advance(60)
    kept = sorted(one.read_bytes() for one in path.parent.glob("state.sqlite.damaged-*"))
    assert kept == [b"damaged %d" % n for n in range(3, 8)]


@pytest.mark.parametrize("cut", [0, 1, 40, 2000])
def test_a_write_ahead_log_cut_short_costs_its_last_writes_at_most(
    path: Path, tmp_path: Path, desk: Callable[..., Desk], cut: int
) -> None:
    one = desk("a")
    one.round()
    one.put("switch/x", {"n": 1})
    one.round()
    # As a crash of the machine leaves it: never closed.
    crashed = tmp_path / "crashed"
    shutil.copytree(path.parent, crashed)
    log = crashed / "state.sqlite-wal"
    content = log.read_bytes()
    assert content
    log.write_bytes(content[: len(content) - cut] if cut else content[:100] + os.urandom(len(content) - 100))
    after = Desk(crashed / "state.sqlite", "b", FakeClock())
    after.round()
    after.put("switch/y", {"n": 2})
    after.round()
    assert after.values["switch/y"] == {"n": 2}
    assert "unwritable" not in after.warning
    after.exchange.drop()


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("PRAGMA user_version = 2", "was written by a newer version of this program"),
        ("PRAGMA application_id = 1", "is a database of another program"),
    ],
)
def test_a_file_of_a_newer_version_or_another_program_is_left_alone(
    path: Path, clock: FakeClock, desk: Callable[..., Desk], statement: str, reason: str
) -> None:
    one = desk("a")
    one.put("switch/x", {"n": 1})
    one.round()
    one.exchange.drop()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
    before = path.read_bytes()
    two = desk("b")
    two.put("switch/y", {"n": 2})
    for _ in range(3):
        two.round()
        clock.advance(RETRY_S)
    assert two.values == {"switch/y": {"n": 2}}
    assert two.warning == (
        f"state store unwritable: state.sqlite {reason}; switches and cooldowns last until the program ends"
    )
    assert path.read_bytes() == before
    assert sorted(one.name for one in path.parent.iterdir()) == ["state.sqlite", "state.sqlite.lock"]


def put_a_directory_there(path: Path) -> None:
    path.mkdir(parents=True)


def put_a_file_in_place_of_the_folder(path: Path) -> None:
    path.parent.write_text("in the way")


def put_a_pipe_there(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)


@POSIX
@pytest.mark.parametrize(
    "obstruct", [put_a_directory_there, put_a_file_in_place_of_the_folder, put_a_pipe_there]
)
def test_without_a_place_for_the_file_memory_goes_on_until_there_is_one(
    path: Path,
    clock: FakeClock,
    desk: Callable[..., Desk],
    obstruct: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    obstruct(path)
    one = desk("a")
    one.put("switch/x", {"n": 1})
    for _ in range(5):
        one.round()
        clock.advance(RETRY_S)
    assert one.values == {"switch/x": {"n": 1}}
    assert one.warning.startswith("state store unwritable: ")
    assert len(caplog.records) == 1, "an outage is logged once"
    in_the_way = path if path.exists() else path.parent
    if in_the_way.is_dir():
        in_the_way.rmdir()
    else:
        in_the_way.unlink()
    one.round()
    assert one.warning == ""
    assert rows(path) == [("switch/x", '{"n":1}')]
    assert [record.getMessage() for record in caplog.records[1:]] == [f"{path} works again"]


def test_a_failure_is_not_tried_again_at_once(
    path: Path, clock: FakeClock, desk: Callable[..., Desk]
) -> None:
    put_a_directory_there(path)
    one = desk("a")
    one.put("switch/x", {"n": 1})
    one.round()
    path.rmdir()
    clock.advance(RETRY_S / 2)
    one.round()
    assert not path.exists()
    one.round(urgent=True)
    assert rows(path) == [("switch/x", '{"n":1}')]


def test_a_lock_held_by_another_process_is_waited_for_and_then_called_an_outage(
    path: Path, clock: FakeClock, desk: Callable[..., Desk]
) -> None:
    one, two = desk("a"), desk("b")
    one.round(), two.round()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        one.put("switch/x", {"n": 1})
        one.round()
        assert one.warning == ""
        clock.advance(LOCKED_S)
        one.round()
        assert "another process has locked it" in one.warning
        blocker.execute(
            'INSERT INTO entries ("key", value, "by", at, origin) VALUES (?, ?, ?, ?, ?)',
            ("switch/y", "{}", "Bob", clock.wall(), "c"),
        )
        blocker.execute("COMMIT")
        assert one.round() == [("switch/y", {})], "an outage of writing is none of reading"
        blocker.execute("BEGIN IMMEDIATE")
        clock.advance(RETRY_S)
        one.round()
        assert "another process has locked it" in one.warning
        blocker.execute("ROLLBACK")
    clock.advance(RETRY_S)
    one.round()
    assert one.warning == ""
    assert two.round() == [("switch/y", {}), ("switch/x", {"n": 1})]


@POSIX
def test_a_file_that_another_process_is_opening_is_waited_for(
    path: Path, clock: FakeClock, desk: Callable[..., Desk]
) -> None:
    import fcntl  # not on Windows

    path.parent.mkdir()
    one = desk("a")
    one.put("switch/x", {"n": 1})
    with path.with_name("state.sqlite.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        one.round()
        assert not path.exists()
        assert one.warning == ""
    one.round()
    assert rows(path) == [("switch/x", '{"n":1}')]


def test_a_short_lock_is_no_outage(path: Path, clock: FakeClock, desk: Callable[..., Desk]) -> None:
    one = desk("a")
    one.round()
    for _ in range(3):
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            one.put("switch/x", {"n": 1})
            one.round()
        clock.advance(LOCKED_S)
        one.round()
        assert one.warning == ""
        assert rows(path) == [("switch/x", '{"n":1}')]


@POSIX
@pytest.mark.parametrize("remove", [Path.unlink, lambda path: shutil.rmtree(path.parent)])
def test_a_file_deleted_while_in_use_is_begun_anew_from_memory(
    path: Path, clock: FakeClock, desk: Callable[..., Desk], remove: Callable[[Path], None]
) -> None:
    one, two = desk("a"), desk("b")
    one.put("switch/x", {"n": 1})
    one.put("switch/y", {"n": 1})
    one.round(), two.round()
    remove(path)
    one.put("switch/y", {"n": 2})
    assert one.round() == []
    assert two.round() == [("switch/y", {"n": 2})]
    assert one.round() == []
    assert one.ledger.entries() == two.ledger.entries()
    assert one.values == {"switch/x": {"n": 1}, "switch/y": {"n": 2}}
    assert one.warning + two.warning == ""
    assert rows(path) == [("switch/x", '{"n":1}'), ("switch/y", '{"n":2}')]


def test_what_another_process_put_into_the_new_file_meanwhile_stands(
    path: Path, clock: FakeClock, desk: Callable[..., Desk]
) -> None:
    one, two = desk("a"), desk("b")
    one.put("switch/x", {"n": 1})
    one.round(), two.round()
    path.unlink()
    one.round()
    clock.advance(10)
    one.put("switch/x", {"n": 2})
    one.round()
    assert two.round() == [("switch/x", {"n": 2})]
    assert one.round() == []


def test_a_put_held_back_from_the_old_file_yields_to_a_later_one_in_the_new(
    path: Path, clock: FakeClock, desk: Callable[..., Desk]
) -> None:
    one, two = desk("a"), desk("b")
    for n in range(9):
        one.put("switch/x", {"n": n})
        one.round(), two.round()
    two.put("switch/x", {"by": "early"})
    two.exchange.fail("a test")
    path.unlink()
    clock.advance(1)
    one.put("switch/x", {"by": "meanwhile"})
    one.round()
    assert one.ledger.entries()["switch/x"].revision < 9, "revisions begin anew with the file"
    clock.advance(RETRY_S)
    assert two.round() == [("switch/x", {"by": "meanwhile"})]


def test_a_file_that_comes_back_from_a_copy_is_the_truth(
    path: Path, tmp_path: Path, desk: Callable[..., Desk]
) -> None:
    one = desk("a")
    one.put("switch/x", {"n": 1})
    one.put("switch/y", {"n": 1})
    one.round()
    one.exchange.drop()
    shutil.copy(path, tmp_path / "copy")
    one.put("switch/x", {"n": 2})
    one.put("switch/y", None)
    one.put("switch/z", {"n": 2})
    one.round()
    one.exchange.drop()
    shutil.copy(tmp_path / "copy", path)
    assert sorted(one.round()) == [("switch/x", {"n": 1}), ("switch/y", {"n": 1}), ("switch/z", None)]
    assert one.values == {"switch/x": {"n": 1}, "switch/y": {"n": 1}}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 2), KEYS, PUT_VALUES),
        st.tuples(st.just("round"), st.integers(0, 2)),
        st.tuples(st.just("fail"), st.integers(0, 2)),
        st.tuples(st.just("stop"), st.integers(0, 2)),
        st.tuples(st.just("delete")),
        st.tuples(st.just("pass"), st.sampled_from([0.5, 5.0])),
        st.tuples(st.just("set clock"), st.sampled_from([-3.0, 3.0])),
    ),
    max_size=40,
)


@POSIX
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_processes_agree_after_any_mix_of_puts_outages_restarts_and_deletions(
    steps: list[tuple[object, ...]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clock, path, names = FakeClock(), Path(folder, "state.sqlite"), itertools.count()
        step_s = 0.0

        def fresh() -> Desk:
            return Desk(path, f"process-{next(names)}", clock, longest, lambda: clock.wall() + step_s)

        desks = [fresh(), fresh(), fresh()]
        for step in steps:
            match step:
                case ("put", int(who), str(key), value):
                    desks[who].put(key, value)  # type: ignore[arg-type]
                case ("round", int(who)):
                    desks[who].round()
                case ("fail", int(who)):
                    desks[who].exchange.fail("a test")
                case ("stop", int(who)):
                    desks[who].round(urgent=True)
                    desks[who].exchange.drop()
                    desks[who] = fresh()
                case ("delete",):
                    path.unlink(missing_ok=True)
                case ("pass", float(seconds)):
                    clock.advance(seconds)
                case ("set clock", float(seconds)):
                    step_s += seconds
        clock.advance(RETRY_S + 10)
        for one in (*desks, *desks, *desks):
            one.round()
        last = fresh()
        last.round()
        first, second, third = (one.ledger.entries() for one in desks)
        assert first == second == third == last.ledger.entries()
        assert all(one.warning == "" and not one.ledger.pending() for one in desks)
        for one in (*desks, last):
            one.exchange.drop()


# --- the thread around it ---


@pytest.fixture
def make_store(path: Path) -> Iterator[Callable[..., SQLiteStateStore]]:
    made: list[SQLiteStateStore] = []

    def make(**settings: object) -> SQLiteStateStore:
        made.append(SQLiteStateStore(path, **{"poll_s": 0.01, **settings}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for store in made:
        store.close()


def test_entries_survive_a_restart(make_store: Callable[..., SQLiteStateStore]) -> None:
    first = make_store()
    first.start(Heard())
    first.put("switch/x", {"enabled": False}, by="Ada")
    first.close()
    second, heard = make_store(), Heard()
    second.start(heard)
    assert heard.values == [("switch/x", {"enabled": False})]
    assert second.entries()["switch/x"].origin == first.instance != second.instance


def test_a_put_never_waits_for_a_locked_file(
    path: Path, clock: FakeClock, make_store: Callable[..., SQLiteStateStore]
) -> None:
    store = make_store(clock=clock)
    store.start(Heard())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        for n in range(1000):
            store.put(f"breaker/{n % 7}", {"n": n}, by="a")
        assert time.monotonic() - began < 1.0
        assert not store.flush(0.05)

        def warned() -> bool:
            clock.advance(LOCKED_S)  # again and again: nothing tells when it first met the lock
            return bool(store.warning)

        until(warned)
        began = time.monotonic()
        store.close()
        assert time.monotonic() - began < 3.0
        assert len(store.entries()) == 7


def test_starting_on_a_locked_file_is_bounded(
    path: Path, make_store: Callable[..., SQLiteStateStore]
) -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as blocker:
        blocker.execute("PRAGMA locking_mode = EXCLUSIVE")
        blocker.execute("CREATE TABLE t (n)")
        blocker.execute("BEGIN EXCLUSIVE")
        store = make_store()
        began = time.monotonic()
        store.start(Heard())
        assert time.monotonic() - began < 5.0
        assert "another process has locked it" in (store.warning or "")


def test_a_callback_or_merge_that_fails_does_not_end_the_watching(
    make_store: Callable[..., SQLiteStateStore], caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    def failing(changed: Sequence[Entry]) -> None:
        heard.extend(entry.key for entry in changed)
        raise LookupError("a test")

    broken = True

    def merging(existing: Entry | None, value: Value) -> Value:
        if broken and threading.current_thread() is not threading.main_thread():
            raise LookupError("a test")
        return value

    one, two = make_store(), make_store(merge=merging)
    one.start(Heard())
    two.start(failing)
    one.put("first", {}, by="Ada")
    until(lambda: heard == ["first"])
    two.put("second", {}, by="Bob")
    until(lambda: "LookupError: a test" in (two.warning or ""))
    broken = False
    assert two.flush()
    assert two.warning is None
    one.put("third", {}, by="Ada")
    until(lambda: heard == ["first", "third"])
    until(lambda: len([record for record in caplog.records if record.exc_info]) >= 3)


def test_no_lock_is_held_while_a_callback_runs(make_store: Callable[..., SQLiteStateStore]) -> None:
    one, two = make_store(), make_store()
    one.start(Heard())
    inside, leave = threading.Event(), threading.Event()

    def slow(_: Sequence[Entry]) -> None:
        inside.set()
        leave.wait(10)

    two.start(slow)
    one.put("one", {}, by="Ada")
    assert inside.wait(10)
    two.put("two", {}, by="Bob")
    assert set(values(two)) == {"one", "two"}
    leave.set()
    until(lambda: set(values(one)) == {"one", "two"})


def test_a_store_closed_from_its_own_callback_ends(
    make_store: Callable[..., SQLiteStateStore], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = make_store(), make_store()
    one.start(Heard())
    two.start(lambda _: two.close())
    one.put("one", {}, by="Ada")
    until(lambda: two._thread is not None and not two._thread.is_alive())
    assert caplog.records == []


# --- several processes ---


Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Start processes; none of them outlives the test."""
    with contextlib.ExitStack() as begun:

        def start(script: str, *arguments: object) -> subprocess.Popen[str]:
            command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)]
            pipe = subprocess.PIPE
            child = subprocess.Popen(command, cwd=ROOT, text=True, stdin=pipe, stdout=pipe, stderr=pipe)
            begun.enter_context(child)
            begun.callback(child.kill)
            return child

        yield start


def finish(child: subprocess.Popen[str]) -> str:
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert err == ""
    return out


def test_another_process_sees_a_change_in_under_a_second(
    path: Path, begin: Begin, make_store: Callable[..., SQLiteStateStore]
) -> None:
    child = begin(
        """
        import sys, time
        from pathlib import Path
        from fallback.state import SQLiteStateStore
        store = SQLiteStateStore(Path(sys.argv[1]), instance="child")
        store.start(lambda changed: print(*(entry.key for entry in changed), time.time(), flush=True))
        print("ready", flush=True)
        sys.stdin.readline()
        store.put("from/child", {"n": 1}, by="child")
        sys.stdin.readline()
        store.close()
        """,
        path,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "ready\n"
    store = make_store(poll_s=0.25)
    store.start(Heard())
    waits = []
    for n in range(3):
        began = time.time()
        store.put(f"key/{n}", {"n": n}, by="parent")
        key, seen = child.stdout.readline().split()
        assert key == f"key/{n}"
        waits.append(float(seen) - began)
    assert min(waits) < 1.0, waits
    assert max(waits) < 5.0, waits  # this machine may be busy
    child.stdin.write("\n")
    child.stdin.flush()
    until(lambda: "from/child" in values(store))
    finish(child)


def test_many_processes_beginning_at_once_share_one_file(path: Path, begin: Begin) -> None:
    script = """
        import sys, time
        from pathlib import Path
        from fallback.state import SQLiteStateStore
        me = sys.argv[2]
        sys.stdin.readline()
        store = SQLiteStateStore(Path(sys.argv[1]), instance=me, poll_s=0.05)
        store.start(lambda changed: None)
        for n in range(200):
            store.put(f"key/{me}/{n % 20}", {"n": n}, by=me)
        assert store.flush(20), store.warning
        end = time.monotonic() + 30
        while len(store.entries()) < 60 and time.monotonic() < end:
            time.sleep(0.01)
        store.close()
        print(len(store.entries()), store.warning)
        """
    children = [begin(script, path, name) for name in "abc"]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    assert [finish(child) for child in children] == ["60 None\n"] * 3
    assert len(rows(path)) == 60


def test_what_a_killed_process_had_written_stays(
    path: Path, begin: Begin, make_store: Callable[..., SQLiteStateStore]
) -> None:
    child = begin(
        """
        import sys
        from pathlib import Path
        from fallback.state import SQLiteStateStore
        store = SQLiteStateStore(Path(sys.argv[1]), instance="child")
        store.start(lambda changed: None)
        store.put("switch/x", {"enabled": False}, by="child")
        print(store.flush(10), flush=True)
        sys.stdin.readline()
        """,
        path,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "True\n"
    child.kill()
    child.communicate(timeout=20)
    store = make_store()
    store.start(Heard())
    assert values(store) == {"switch/x": {"enabled": False}}


def test_a_program_that_ends_without_closing_ends_and_loses_nothing(path: Path, begin: Begin) -> None:
    child = begin(
        """
        import sys
        from pathlib import Path
        from fallback.state import SQLiteStateStore
        store = SQLiteStateStore(Path(sys.argv[1]))
        store.start(lambda changed: None)
        store.put("switch/x", {"n": 1}, by="child")
        """,
        path,
    )
    finish(child)
    assert rows(path) == [("switch/x", '{"n":1}')]


@POSIX
def test_a_forked_child_goes_on_with_a_connection_of_its_own(path: Path, begin: Begin) -> None:
    child = begin(
        """
        import os, sys, time
        from pathlib import Path
        from fallback.state import SQLiteStateStore
        links = Path("/proc/self/fd")
        def none_open():
            if links.exists():
                files = [os.readlink(link) for link in links.iterdir() if link.is_symlink()]
                assert not [name for name in files if "state.sqlite" in name], files
        os.register_at_fork(before=none_open)
        store = SQLiteStateStore(Path(sys.argv[1]), poll_s=0.01)
        store.start(lambda changed: None)
        def until(condition):
            end = time.monotonic() + 20
            while not condition():
                assert time.monotonic() < end
                time.sleep(0.005)
        store.put("parent/before", {}, by="parent")
        parent = store.instance
        children = []
        for n in range(3):
            pid = os.fork()
            if pid == 0:
                assert store.instance != parent
                store.put(f"child/{n}", {}, by="child")
                assert store.flush(20), store.warning
                until(lambda: "parent/after" in store.entries())
                assert store.entries()["parent/before"].origin == parent
                store.close()
                os._exit(0)
            children.append(pid)
        until(lambda: {"child/0", "child/1", "child/2"} <= store.entries().keys())
        store.put("parent/after", {}, by="parent")
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        assert store.warning is None
        store.close()
        """,
        path,
    )
    finish(child)
    assert [key for key, _ in rows(path)] == [
        "child/0",
        "child/1",
        "child/2",
        "parent/after",
        "parent/before",
    ]


@POSIX
def test_a_forked_child_does_not_write_again_what_its_parent_has_put(path: Path, begin: Begin) -> None:
    child = begin(
        """
        import os, sqlite3, sys, time
        from pathlib import Path
        from fallback.state import SQLiteStateStore
        store = SQLiteStateStore(Path(sys.argv[1]), poll_s=0.01)
        store.start(lambda changed: None)
        store.put("switch/x", {"n": 1}, by="parent")
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.read(reading, 1)
            assert store.flush(20)
            print(store.entries()["switch/x"].value, flush=True)
            store.close()
            os._exit(0)
        store.put("switch/x", {"n": 2}, by="parent")
        assert store.flush(20)
        os.write(writing, b"x")
        assert os.waitpid(pid, 0)[1] == 0
        time.sleep(0.1)
        print(store.entries()["switch/x"].value)
        store.close()
        """,
        path,
    )
    assert finish(child) == "{'n': 2}\n{'n': 2}\n"


@POSIX
def test_a_full_disk_stops_nothing_and_is_caught_up_with(path: Path, begin: Begin) -> None:
    child = begin(
        """
        import resource, sys, time
        from pathlib import Path
        from fallback.state import SQLiteStateStore
        path = Path(sys.argv[1])
        store = SQLiteStateStore(path, poll_s=0.01)
        store.start(lambda changed: None)
        store.put("switch/x", {"n": 0}, by="child")
        assert store.flush(10)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name("state.sqlite-wal").stat().st_size, hard))
        for n in range(50):
            store.put(f"switch/{n}", {"text": "x" * 1000}, by="child")
        assert not store.flush(0.5)
        print(store.warning, len(store.entries()))
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert store.flush(10), store.warning
        print(store.warning)
        store.close()
        """,
        path,
    )
    child_out, child_err = child.communicate(timeout=60)
    assert child.returncode == 0, child_err
    outage, after = child_out.splitlines()
    assert outage.startswith("state store unwritable: ")
    assert outage.endswith("; switches and cooldowns last until the program ends 51")
    assert after == "None"
    assert child_err.count("cannot be used") == 1
    assert len(rows(path)) == 51


AS_NOBODY = """
    import os, sys, time
    from pathlib import Path
    from fallback.state import SQLiteStateStore
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    store = SQLiteStateStore(Path(sys.argv[1]), poll_s=0.01)
    store.start(lambda changed: print(*(entry.key for entry in changed), flush=True))
    store.put("switch/y", {"n": 1}, by="nobody")
    print(store.flush(0.3), store.warning, sorted(store.entries()), flush=True)
    sys.stdin.readline()
    print(store.flush(10), store.warning, flush=True)
    store.close()
"""
UNWRITABLE = "False state store unwritable: {}; switches and cooldowns last until the program ends {}\n"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that every user of the machine can enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@POSIX
def test_an_unwritable_folder_leaves_memory_until_it_is_writable(open_folder: Path, begin: Begin) -> None:
    open_folder.chmod(0o555)
    child = begin(AS_NOBODY, open_folder / "state.sqlite")
    assert child.stdout is not None
    assert child.stdout.readline() == UNWRITABLE.format("Permission denied", ["switch/y"])
    open_folder.chmod(0o777)
    out, err = child.communicate("\n", timeout=60)
    assert (child.returncode, out) == (0, "True None\n"), err
    assert rows(open_folder / "state.sqlite") == [("switch/y", '{"n":1}')]


@POSIX
def test_a_read_only_file_is_read_and_written_when_that_is_allowed_again(
    open_folder: Path, begin: Begin
) -> None:
    path = open_folder / "state.sqlite"
    keeper = SQLiteStateStore(path, poll_s=0.01)
    keeper.start(Heard())
    keeper.put("switch/x", {"n": 1}, by="root")
    keeper.close()
    open_folder.chmod(0o777)
    path.chmod(0o444)
    path.with_name("state.sqlite.lock").chmod(0o444)
    child = begin(AS_NOBODY, path)
    assert child.stdout is not None
    assert child.stdout.readline() == "switch/x\n", "what cannot be written is read all the same"
    assert child.stdout.readline() == UNWRITABLE.format(
        "attempt to write a readonly database", ["switch/x", "switch/y"]
    )
    for one in open_folder.iterdir():
        one.chmod(0o666)
    out, err = child.communicate("\n", timeout=60)
    assert (child.returncode, out) == (0, "True None\n"), err
    assert [key for key, _ in rows(path)] == ["switch/x", "switch/y"]
