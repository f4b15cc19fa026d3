"""Shared state on a Redis server: what the contract in test_state.py does not show, and every way in which a server fails."""

from __future__ import annotations

import contextlib
import itertools
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ports import free_port
from raw_server import self_signed
from redis_server import RedisServer, redis_server
from test_state import KEYS, PUT_VALUES, Begin, Heard, begin, longest, until, values

from fallback.providers.settings import Secret
from fallback.state import Merge, Value, keep_latest
from fallback.state.claims import HOLD_S, RENEW_S, Claims
from fallback.state.entry import TOMBSTONE_S
from fallback.state.ledger import Ledger
from fallback.state.redis_store import RedisStateStore
from fallback.state.server import Server, connect
from fallback.state.server_exchange import KEEP_S, MAX_RETRY_S, PRUNE_S, RECONCILE_S, ServerExchange
from fallback.testing import FakeClock

__all__ = ["begin"]

PASSWORD = "a-Password:with/odd?signs#1"
ENCODED = "a-Password%3Awith%2Fodd%3Fsigns%231"
PREFIXES = itertools.count()
MEANWHILE = "; switches and cooldowns hold in this program alone until it can"


# --- rounds in the order that the test wants, on a clock that stands still ---


class Desk:
    """One process without its threads: rounds happen when the test says so."""

    def __init__(
        self, url: Secret, prefix: str, name: str, clock: FakeClock, merge: Merge, wall: Callable[[], float]
    ) -> None:
        self.ledger = Ledger(instance=name, merge=merge, wall=wall)
        self.claims = Claims(clock=clock)
        self.servers: list[Server] = []

        def server() -> Server:
            self.servers.append(Server(lambda: connect(url), prefix))
            return self.servers[-1]

        self.exchange = ServerExchange(
            server, self.ledger, self.claims, place="the-server", wall=wall, clock=clock
        )

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


class Office:
    """Desks on the shared server, under a prefix of their own."""

    def __init__(self, server: RedisServer, clock: FakeClock) -> None:
        self.clock = clock
        self.prefix = f"office{next(PREFIXES)}:"
        self.client: Any = server.client()
        self._url = Secret(server.url)
        self._desks: list[Desk] = []

    def desk(
        self, name: str = "a", merge: Merge = keep_latest, wall: Callable[[], float] | None = None
    ) -> Desk:
        self._desks.append(Desk(self._url, self.prefix, name, self.clock, merge, wall or self.clock.wall))
        return self._desks[-1]

    def wipe(self) -> None:
        for key in self.client.scan_iter(f"{self.prefix}*"):
            self.client.delete(key)

    def copy(self) -> tuple[bytes | None, dict[bytes, bytes]]:
        return self.client.get(f"{self.prefix}stamp"), self.client.hgetall(f"{self.prefix}entries")

    def restore(self, copy: tuple[bytes | None, dict[bytes, bytes]]) -> None:
        """Let the server fall back to an older copy of itself."""
        self.wipe()
        stamp, entries = copy
        if stamp is not None:
            self.client.set(f"{self.prefix}stamp", stamp)
            self.client.hset(f"{self.prefix}entries", mapping=entries)

    def keys(self) -> list[str]:
        return sorted(key.decode() for key in self.client.hkeys(f"{self.prefix}entries"))

    def close(self) -> None:
        for desk in self._desks:
            desk.exchange.drop()
        self.client.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def office(shared_redis: RedisServer, clock: FakeClock) -> Iterator[Office]:
    made = Office(shared_redis, clock)
    yield made
    made.close()


def test_round_without_news_asks_one_small_question(office: Office) -> None:
    one, two = office.desk("a"), office.desk("b")
    one.put("one", {})
    one.round()
    assert two.round() == [("one", {})]
    before = office.client.info("commandstats")
    assert two.round() == []
    after = office.client.info("commandstats")
    counted = {
        name: stats["calls"] - before.get(name, {"calls": 0})["calls"] for name, stats in after.items()
    }
    assert {name: calls for name, calls in counted.items() if calls and "info" not in name} == {
        "cmdstat_get": 1
    }


def test_of_two_writes_at_once_the_merge_decides_as_if_they_came_one_after_the_other(office: Office) -> None:
    one, two = office.desk("a", longest), office.desk("b", longest)
    one.round(), two.round()
    one.put("breaker/x", {"until": 200.0})
    one.put("switch/x", {"until": 200.0})
    two.put("breaker/x", {"until": 100.0})
    two.put("switch/x", {"until": 100.0})
    one.round()
    assert two.round() == [("breaker/x", {"until": 200.0})], "it decided upon what it had not seen yet"
    one.round()
    assert one.values == two.values == {"breaker/x": {"until": 200.0}, "switch/x": {"until": 100.0}}


def test_put_held_back_by_an_outage_does_not_undo_a_later_one(office: Office, clock: FakeClock) -> None:
    one, two = office.desk("a"), office.desk("b")
    one.round(), two.round()
    two.put("switch/x", {"by": "early"})
    two.put("switch/y", {"by": "late"})
    two.exchange.fail("a test")
    clock.advance(1)
    one.put("switch/x", {"by": "meanwhile"})
    one.round()
    clock.advance(MAX_RETRY_S)
    assert two.round() == [("switch/x", {"by": "meanwhile"})]
    assert two.warning == ""
    one.round()
    assert one.values == two.values == {"switch/x": {"by": "meanwhile"}, "switch/y": {"by": "late"}}


def test_what_a_wiped_server_lacks_is_written_back_and_the_newest_revision_wins(office: Office) -> None:
    old, new = office.desk("a"), office.desk("b")
    old.put("switch/x", {"n": 1})
    old.put("switch/y", {"n": 1})
    old.round(), new.round()
    new.put("switch/x", {"n": 2})
    new.round()  # and the other one does not hear of it
    revision = new.ledger.entries()["switch/x"].revision
    office.wipe()
    old.round()
    assert office.keys() == ["switch/x", "switch/y"]
    new.round()
    assert old.round() == [("switch/x", {"n": 2})]
    assert old.ledger.entries() == new.ledger.entries()
    assert old.ledger.entries()["switch/x"].revision == revision
    assert old.values == {"switch/x": {"n": 2}, "switch/y": {"n": 1}}


def test_change_after_a_wipe_is_newer_than_everything_before_it(office: Office) -> None:
    one, two = office.desk("a"), office.desk("b")
    for n in range(9):
        one.put("switch/x", {"n": n})
        one.round(), two.round()
    office.wipe()
    fresh = office.desk("c")
    fresh.put("switch/x", {"n": "new"})
    fresh.round()
    assert one.round() == two.round() == [("switch/x", {"n": "new"})]
    assert office.desk("d").round() == [("switch/x", {"n": "new"})]


def test_deletion_outlives_a_wipe(office: Office) -> None:
    one, two = office.desk("a"), office.desk("b")
    one.put("switch/x", {"n": 1})
    one.round(), two.round()
    one.put("switch/x", None)
    one.round()
    office.wipe()
    two.round()  # it has not heard of the deletion, and writes the switch back
    one.round()
    assert two.round() == [("switch/x", None)]
    assert office.desk("c").round() == []


def test_server_that_falls_back_to_an_older_copy_of_itself_loses_nothing(office: Office) -> None:
    one, two = office.desk("a"), office.desk("b")
    one.put("switch/x", {"n": 1})
    one.put("switch/z", {"n": 1})
    one.round(), two.round()
    older = office.copy()
    one.put("switch/x", {"n": 2})
    one.put("switch/y", {"n": 2})
    one.put("switch/z", None)
    one.round(), two.round()
    office.restore(older)
    fresh = office.desk("c")
    fresh.put("switch/w", {"n": 3})
    fresh.round()
    one.round(), two.round(), fresh.round()
    expected = {"switch/x": {"n": 2}, "switch/y": {"n": 2}, "switch/w": {"n": 3}}
    assert one.values == two.values == fresh.values == expected
    assert one.ledger.entries() == two.ledger.entries() == fresh.ledger.entries()


def test_entries_that_vanish_without_a_write_are_missed_within_half_a_minute(
    office: Office, clock: FakeClock
) -> None:
    one = office.desk("a")
    one.put("switch/x", {"n": 1})
    one.round()
    office.client.delete(f"{office.prefix}entries")
    one.round()
    assert office.keys() == []
    clock.advance(RECONCILE_S)
    one.round()
    assert office.keys() == ["switch/x"]


def test_tombstones_go_after_a_day_and_what_was_put_stays(office: Office, clock: FakeClock) -> None:
    one = office.desk("a")
    one.put("switch/untouched", {"n": 1})
    one.put("switch/deleted", {"n": 1})
    one.round()
    one.put("switch/deleted", None)
    one.round()
    clock.advance(TOMBSTONE_S - 60)
    one.round()
    assert office.keys() == ["switch/deleted", "switch/untouched"]
    clock.advance(KEEP_S - TOMBSTONE_S + PRUNE_S)
    one.round()
    one.round()
    assert office.keys() == ["switch/untouched"]
    assert one.values == {"switch/untouched": {"n": 1}}


@pytest.mark.parametrize(
    "record",
    [
        b"nonsense",
        b"",
        b"x {}",
        b"7 [1]",
        b"7 \xff\xfe",
        b'7 {"value":[],"by":"","at":1,"origin":""}',
        b'7 {"value":{},"by":1,"at":1,"origin":""}',
        b"7 " + b"[" * 100_000,
    ],
)
def test_record_that_somebody_has_spoilt_is_passed_over(office: Office, record: bytes) -> None:
    one = office.desk("a")
    one.put("good", {"n": 1})
    one.round()
    office.client.hset(f"{office.prefix}entries", "spoilt", record)
    two = office.desk("b")
    two.round()
    assert two.values == {"good": {"n": 1}}
    two.put("spoilt", {"n": 2})
    two.round(), two.round()
    assert sorted(office.desk("c").round()) == [("good", {"n": 1}), ("spoilt", {"n": 2})]
    assert two.warning == ""


def test_more_keys_than_one_write_takes_are_written(office: Office) -> None:
    one = office.desk("a")
    for n in range(501):
        one.put(f"switch/{n}", {"n": n})
    one.round()
    assert one.ledger.pending() == ()
    assert len(office.desk("b").round()) == 501


def test_claim_lasts_while_it_is_renewed_and_not_much_longer_than_its_process(
    office: Office, clock: FakeClock
) -> None:
    one = office.desk("a")
    claim = one.claims.claim("probe/x", lambda: False)
    claim.take()
    one.round()
    key = f"{office.prefix}claim:probe/x"
    assert office.client.get(key) == claim.owner.encode()
    assert 0 < office.client.pttl(key) <= HOLD_S * 1000
    office.client.pexpire(key, 1)
    clock.advance(RENEW_S)
    one.round()
    assert office.client.pttl(key) > HOLD_S * 500, "renewed"
    office.client.delete(key)
    clock.advance(RENEW_S)
    one.round()
    assert office.client.get(key) == claim.owner.encode(), "a wipe does not end it"
    claim.give_back()
    one.round()
    assert office.client.get(key) is None


def test_claim_that_ran_out_is_not_taken_from_its_next_owner(office: Office) -> None:
    one, two = office.desk("a"), office.desk("b")
    first, second = (desk.claims.claim("probe/x", lambda: False) for desk in (one, two))
    key = f"{office.prefix}claim:probe/x"
    first.take()
    one.round()
    office.client.delete(key)
    second.take()
    two.round()
    first.give_back()
    one.round()
    assert office.client.get(key) == second.owner.encode()


def test_revisions_go_on_from_the_highest_where_the_clock_of_the_server_was_set_back(office: Office) -> None:
    one, two = office.desk("a"), office.desk("b")
    ahead = 2**52
    office.client.set(f"{office.prefix}stamp", ahead)
    office.client.hset(
        f"{office.prefix}entries", "switch/x", f'{ahead} {{"value":{{"n":1}},"by":"","at":1,"origin":""}}'
    )
    one.round()
    office.wipe()
    one.round()
    assert two.round() == [("switch/x", {"n": 1})]
    two.put("switch/x", {"n": 2})
    two.round()
    assert one.round() == [("switch/x", {"n": 2})]
    assert one.ledger.entries()["switch/x"].revision > ahead


def test_claim_that_nobody_wants_any_more_is_not_taken(office: Office) -> None:
    one = office.desk("a")
    claim = one.claims.claim("probe/x", lambda: False)
    claim.take()
    claim.give_back()
    one.round()
    assert office.client.get(f"{office.prefix}claim:probe/x") is None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 2), KEYS, PUT_VALUES),
        st.tuples(st.just("round"), st.integers(0, 2)),
        st.tuples(st.just("fail"), st.integers(0, 2)),
        st.tuples(st.just("stop"), st.integers(0, 2)),
        st.tuples(st.just("wipe")),
        st.tuples(st.just("copy")),
        st.tuples(st.just("restore")),
        st.tuples(st.just("pass"), st.sampled_from([0.5, 5.0])),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_processes_agree_after_any_mix_of_puts_outages_restarts_wipes_and_old_copies(
    shared_redis: RedisServer, steps: list[tuple[object, ...]]
) -> None:
    clock, names = FakeClock(), itertools.count()
    office = Office(shared_redis, clock)

    def fresh() -> Desk:
        return office.desk(f"process-{next(names)}", longest)

    desks, copy = [fresh(), fresh(), fresh()], office.copy()
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
                desks[who] = fresh()
            case ("wipe",):
                office.wipe()
            case ("copy",):
                copy = office.copy()
            case ("restore",):
                office.restore(copy)
            case ("pass", float(seconds)):
                clock.advance(seconds)
    clock.advance(MAX_RETRY_S + RECONCILE_S)
    for one in (*desks, *desks, *desks):
        one.round()
    last = fresh()
    last.round()
    first, second, third = (one.ledger.entries() for one in desks)
    assert first == second == third == last.ledger.entries()
    assert all(one.warning == "" and not one.ledger.pending() for one in desks)
    office.close()


# --- the threads around it, and a server that fails ---


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as made:
        yield made


Make = Callable[..., RedisStateStore]


@pytest.fixture
def started() -> Iterator[Make]:
    made: list[RedisStateStore] = []

    def make(server: RedisServer, instance: str = "a", **options: Any) -> RedisStateStore:
        made.append(server.store(instance, **options))
        made[-1].start(Heard())
        return made[-1]

    yield make
    for store in made:
        store.close()


def test_killed_server_stops_nobody_and_everything_agrees_again_after_it(
    server: RedisServer, started: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = started(server, "a"), started(server, "b")
    one.put("switch/before", {"n": 1}, by="Ada")
    until(lambda: "switch/before" in values(two))
    server.kill()
    one.put("switch/one", {"n": 2}, by="Ada")
    two.put("switch/two", {"n": 3}, by="Bob")
    assert not one.flush(0.05)
    until(lambda: one.warning and two.warning)
    assert (one.warning or "").startswith("state server the-server cannot be used: no connection (")
    assert (one.warning or "").endswith(MEANWHILE)
    assert one.claim("probe/x").take(), "nobody can say: each decides for itself"
    assert two.claim("probe/x").take()
    assert values(one) == {"switch/before": {"n": 1}, "switch/one": {"n": 2}}
    server.start()
    everything = {"switch/before": {"n": 1}, "switch/one": {"n": 2}, "switch/two": {"n": 3}}
    until(lambda: values(one) == values(two) == everything)
    until(lambda: one.warning is two.warning is None)
    assert one.entries() == two.entries()
    with server.client() as client:
        assert client.hlen("fallback:entries") == 3
    texts = [record.getMessage() for record in caplog.records]
    assert len([text for text in texts if "cannot be used" in text]) == 2, "an outage is logged once by each"
    assert len([text for text in texts if text == "state server the-server works again"]) == 2


def test_wiped_server_is_filled_again_while_programs_run(server: RedisServer, started: Make) -> None:
    one, two = started(server, "a"), started(server, "b")
    one.put("switch/x", {"n": 1}, by="Ada")
    until(lambda: "switch/x" in values(two))
    with server.client() as client:
        client.flushall()
        until(lambda: client.hlen("fallback:entries") == 1)
    two.put("switch/x", {"n": 2}, by="Bob")
    until(lambda: values(one) == {"switch/x": {"n": 2}})
    assert one.warning is two.warning is None


def test_server_that_stands_still_keeps_nobody_waiting(server: RedisServer, started: Make) -> None:
    one, two = started(server, "a"), started(server, "b")
    one.put("switch/x", {"n": 1}, by="Ada")
    until(lambda: "switch/x" in values(two))
    server.signal(signal.SIGSTOP)
    began = time.monotonic()
    for n in range(1000):
        one.put("switch/x", {"n": n}, by="Ada")
        assert values(one) == {"switch/x": {"n": n}}
    assert time.monotonic() - began < 20.0  # a second for each of a thousand, had they waited
    until(lambda: "no answer within 1 s" in (one.warning or ""))
    began = time.monotonic()
    assert one.claim("probe/x").take()
    assert time.monotonic() - began < 20.0
    server.signal(signal.SIGCONT)
    until(lambda: values(two) == {"switch/x": {"n": 999}}, 20)
    until(lambda: one.warning is two.warning is None, 20)


def test_closing_while_the_server_stands_still_is_bounded(server: RedisServer, started: Make) -> None:
    store = started(server)
    server.signal(signal.SIGSTOP)
    store.put("switch/x", {"n": 1}, by="Ada")
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < 20.0


def test_full_server_is_read_on_and_caught_up_with(server: RedisServer, started: Make) -> None:
    one = started(server, "a")
    one.put("switch/x", {"n": 1}, by="Ada")
    assert one.flush()
    with server.client() as client:
        client.config_set("maxmemory", "1")
        one.put("switch/y", {"n": 2}, by="Ada")
        until(lambda: one.warning)
        assert one.warning == f"state server the-server cannot be used: its memory is full{MEANWHILE}"
        two = started(server, "b")
        assert values(two) == {"switch/x": {"n": 1}}
        assert one.claim("probe/x").take()
        client.config_set("maxmemory", "0")
    until(lambda: "switch/y" in values(two))
    until(lambda: one.warning is None)


def test_replica_is_read_and_written_once_it_is_the_primary(server: RedisServer, started: Make) -> None:
    one = started(server, "a")
    one.put("switch/x", {"n": 1}, by="Ada")
    assert one.flush()
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
        one.put("switch/y", {"n": 2}, by="Ada")
        until(lambda: "it is a replica that takes no writes" in (one.warning or ""))
        two = started(server, "b")
        assert values(two) == {"switch/x": {"n": 1}}
        client.execute_command("REPLICAOF", "NO", "ONE")
    until(lambda: "switch/y" in values(two))
    until(lambda: one.warning is None)


def test_password_is_used_and_never_shown(started: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with redis_server("--requirepass", "another one") as server:
        store = started(server, url=f"unix://:{ENCODED}@{server.socket}")
        store.put("switch/x", {"n": 1}, by="Ada")
        until(lambda: store.warning)
        assert (
            store.warning
            == f"state server the-server cannot be used: user name or password are wrong{MEANWHILE}"
        )
        without = started(server)
        until(lambda: "it asks for a password" in (without.warning or ""))
        shown = repr(store) + repr(vars(store)) + repr(vars(store._exchange))
        with server.client(password="another one") as client:
            client.config_set("requirepass", PASSWORD)
        until(lambda: store.flush(0.1) and store.warning is None)
        assert store.flush()
        with server.client(password=PASSWORD) as client:
            assert client.hlen("fallback:entries") == 1
        shown += repr(store._exchange._server and vars(store._exchange._server))  # type: ignore[attr-defined]
        store.close()
    for text in (shown, caplog.text):
        assert PASSWORD[:10] not in text
        assert ENCODED[:10] not in text


def test_start_without_a_server_is_bounded_and_catches_up(started: Make) -> None:
    port = free_port()
    with redis_server(port=port) as server:
        server.kill()
        began = time.monotonic()
        store = started(server)
        assert time.monotonic() - began < 20.0
        assert "Connection refused" in (store.warning or "")
        store.put("switch/x", {"n": 1}, by="Ada")
        server.start()
        until(lambda: store.warning is None)
        assert store.flush()
        with server.client() as client:
            assert client.hlen("fallback:entries") == 1


def test_something_else_that_listens_there_is_an_outage_like_any_other(started: Make) -> None:
    with redis_server() as server, socket.create_server(("127.0.0.1", 0)) as deaf:
        store = started(server, url=f"redis://127.0.0.1:{deaf.getsockname()[1]}")
        until(lambda: "no answer within 1 s" in (store.warning or ""))
        store.put("switch/x", {"n": 1}, by="Ada")
        assert values(store) == {"switch/x": {"n": 1}}


# redis-py leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_connection_with_tls_checks_whom_it_speaks_to(started: Make, tmp_path: Path) -> None:
    certificate, port = self_signed(tmp_path), free_port()
    files = [word for name in ("cert", "key", "ca-cert") for word in (f"--tls-{name}-file", str(certificate))]
    with redis_server("--tls-port", str(port), "--tls-auth-clients", "no", *files) as server:
        url = f"rediss://localhost:{port}"
        store = started(server, url=f"{url}?ssl_ca_certs={certificate}")
        store.put("switch/x", {"n": 1}, by="Ada")
        assert store.flush(20), store.warning
        strict = started(server, "b", url=url)
        until(lambda: "no connection (" in (strict.warning or ""))
        assert values(strict) == {}


def test_lost_message_and_a_lost_connection_cost_no_change(server: RedisServer, started: Make) -> None:
    one, two = started(server, "a"), started(server, "b")
    with server.client() as client:
        for n, kind in enumerate(("pubsub", "normal", "pubsub")):
            client.client_kill_filter(_type=kind)
            one.put("switch/x", {"n": n}, by="Ada")
            until(lambda n=n: values(two) == {"switch/x": {"n": n}})  # type: ignore[misc]


def test_user_with_few_rights_is_enough_and_one_without_the_channel_still_hears(
    server: RedisServer, started: Make
) -> None:
    commands = "+eval +get +set +hget +hset +hdel +hgetall +del +pexpire +time"
    with server.client() as client:
        for name, more in (("ada", "&fallback:* +publish +subscribe"), ("bob", "")):
            client.execute_command(
                "ACL", "SETUSER", name, "on", ">secret", "~fallback:*", "resetchannels", "-@all",
                *commands.split(), *more.split(),
            )  # fmt: skip
    one, two = (
        started(server, name, url=f"unix://{name}:secret@{server.socket}", poll_s=0.05)
        for name in ("ada", "bob")
    )
    one.put("switch/x", {"n": 1}, by="Ada")
    until(lambda: "switch/x" in values(two))
    two.put("switch/y", {"n": 2}, by="Bob")
    until(lambda: "switch/y" in values(one))
    claim = two.claim("probe/x")
    assert claim.take()
    assert not one.claim("probe/x").take()
    claim.give_back()
    until(one.claim("probe/x").take)
    assert one.warning is two.warning is None


def test_prefix_keeps_two_installations_apart(server: RedisServer, started: Make) -> None:
    one, two = started(server, "a", prefix="one:"), started(server, "b", prefix="two:")
    one.put("switch/x", {"n": 1}, by="Ada")
    assert one.flush()
    claim = one.claim("probe/x")
    assert claim.take()
    assert two.claim("probe/x").take()
    assert two.flush()
    assert values(two) == {}
    with server.client() as client:
        names = {key.decode() for key in client.scan_iter()}
    assert names == {"one:entries", "one:stamp", "one:claim:probe/x", "two:claim:probe/x"}


def test_another_process_sees_a_change_within_a_fraction_of_a_second(
    server: RedisServer, started: Make, begin: Begin
) -> None:
    child = begin(
        """
        import sys, time
        from fallback.providers.settings import Secret
        from fallback.state.redis_store import RedisStateStore
        store = RedisStateStore(Secret(sys.argv[1]), place="the-server", instance="child")
        store.start(lambda changed: print(*(entry.key for entry in changed), time.time(), flush=True))
        print("ready", flush=True)
        sys.stdin.readline()
        store.close()
        """,
        server.url,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "ready\n"
    store = started(server)
    waits = []
    for n in range(10):
        began = time.time()
        store.put(f"key/{n}", {"n": n}, by="parent")
        key, seen = child.stdout.readline().split()
        assert key == f"key/{n}"
        waits.append(float(seen) - began)
    assert min(waits) < 0.2, waits
    assert max(waits) < 5.0, waits  # this machine may be busy
    assert child.communicate("\n", timeout=60) == ("", "")
    assert child.returncode == 0


def test_forked_child_goes_on_with_connections_of_its_own(server: RedisServer, begin: Begin) -> None:
    child = begin(
        """
        import os, sys, time
        from fallback.providers.settings import Secret
        from fallback.state.redis_store import RedisStateStore
        store = RedisStateStore(Secret(sys.argv[1]), place="the-server")
        store.start(lambda changed: None)
        def until(condition):
            end = time.monotonic() + 20
            while not condition():
                assert time.monotonic() < end
                time.sleep(0.005)
        store.put("parent/before", {}, by="parent")
        held = store.claim("probe/x")
        assert held.take()
        parent = store.instance
        pid = os.fork()
        if pid == 0:
            assert store.instance != parent
            store.put("child", {}, by="child")
            assert store.flush(20), store.warning
            assert not store.claim("probe/x").take()
            until(lambda: "parent/after" in store.entries())
            store.close()
            os._exit(0)
        until(lambda: "child" in store.entries())
        store.put("parent/after", {}, by="parent")
        assert os.waitpid(pid, 0)[1] == 0
        assert not store.claim("probe/x").take()
        assert store.warning is None
        store.close()
        """,
        server.url,
    )
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (0, "", "")


def test_program_that_ends_without_closing_loses_nothing(server: RedisServer, begin: Begin) -> None:
    child = begin(
        """
        import sys
        from fallback.providers.settings import Secret
        from fallback.state.redis_store import RedisStateStore
        store = RedisStateStore(Secret(sys.argv[1]), place="the-server")
        store.start(lambda changed: None)
        store.put("switch/x", {"n": 1}, by="child")
        """,
        server.url,
    )
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (0, "", "")
    with server.client() as client:
        assert client.hkeys("fallback:entries") == [b"switch/x"]


def test_of_many_owners_in_many_threads_one_at_a_time_has_a_claim(server: RedisServer, started: Make) -> None:
    stores = [started(server, name) for name in "abc"]
    inside, most, done = [0], [0], []
    lock = threading.Lock()

    def work(store: RedisStateStore) -> None:
        for _ in range(3):
            claim = store.claim("probe/x")
            until(claim.take, 30)
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            with lock:
                inside[0] -= 1
                done.append(1)
            claim.give_back()

    threads = [threading.Thread(target=work, args=(store,)) for store in stores for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, len(done)) == ([1], 18)
    assert all(store.warning is None for store in stores)


def test_a_port_of_another_program_ends_no_thread() -> None:
    asked: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while request := connection.recv(65_536):
                asked.append(request)
                connection.sendall(b":1\r\n" * request.count(b"*"))

    def listen() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=listen, daemon=True).start()
        store = RedisStateStore(
            Secret(f"redis://127.0.0.1:{listener.getsockname()[1]}"), place="the-server", instance="a"
        )
        store.start(lambda _: None)
        try:
            # The listener has met the nonsense once, and asks again.
            until(lambda: sum(b"SUBSCRIBE" in request for request in asked) >= 2)
            assert store.warning is not None
        finally:
            store.close()
            listener.shutdown(socket.SHUT_RDWR)
