"""STATE_URL and STATE_PREFIX: what they accept, and that no message holds a password."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from test_config_api import problems, read

from fallback.config import StateServer
from fallback.providers.settings import Secret
from fallback.state import SQLiteStateStore
from fallback.state.redis_store import RedisStateStore
from fallback.wiring import assemble

HIDDEN = "this-is-the-password"


def server(folder: Path, url: str, prefix: str = "") -> StateServer:
    found = read(folder, {"STATE_URL": url, "STATE_PREFIX": prefix}).state
    assert found is not None
    return found


def test_without_a_url_state_is_in_a_file(tmp_path: Path) -> None:
    settings = read(tmp_path, {"STATE_PREFIX": "mine:"})
    assert settings.state is None
    wiring = assemble(settings)
    assert isinstance(wiring.switchboard._store, SQLiteStateStore)


def test_url_leads_to_a_store_on_that_server(tmp_path: Path) -> None:
    wiring = assemble(read(tmp_path, {"STATE_URL": f"redis://:{HIDDEN}@cache.invalid/3?prefix=team-a:"}))
    store = wiring.switchboard._store
    assert isinstance(store, RedisStateStore)
    store._exchange.fail("a test")
    assert (store.warning or "").startswith("state server cache.invalid:6379/3 cannot be used: a test; ")
    assert HIDDEN not in repr(wiring)


@pytest.mark.parametrize(
    ("url", "place", "prefix"),
    [
        ("redis://cache.example.com", "cache.example.com:6379/0", "fallback:"),
        ("redis://cache.example.com:7000/3", "cache.example.com:7000/3", "fallback:"),
        ("REDIS://cache/", "cache:6379/0", "fallback:"),
        ("redis://:secret@cache?db=2", "cache:6379/2", "fallback:"),
        ("rediss://ada:p%40ss%2Fword@cache:6380/1?prefix=x:", "cache:6380/1", "x:"),
        (
            "rediss://cache?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=none&ssl_check_hostname=false",
            "cache:6379/0",
            "fallback:",
        ),
        ("redis://[::1]:6379/0?prefix={team}:", "[::1]:6379/0", "{team}:"),
        ("unix:///run/valkey/valkey.sock", "/run/valkey/valkey.sock/0", "fallback:"),
        ("unix://ada:secret@/run/v%20k.sock?db=4", "/run/v k.sock/4", "fallback:"),
    ],
)
def test_url_names_the_server(tmp_path: Path, url: str, place: str, prefix: str) -> None:
    found = server(tmp_path, url)
    assert (found.place, found.prefix) == (place, prefix)
    assert "secret" not in repr(found)
    options = redis.Redis.from_url(found.url.reveal()).connection_pool.connection_kwargs
    where = options.get("path") or f"{options['host']}:{options.get('port', 6379)}".lower()
    assert place.replace("[", "").replace("]", "") == f"{where}/{options.get('db', 0)}"


def test_password_arrives_as_it_was_meant(tmp_path: Path) -> None:
    found = server(tmp_path, "redis://ada:p%40ss%2Fw%3Frd%23@cache/0")
    options = redis.Redis.from_url(found.url.reveal()).connection_pool.connection_kwargs
    assert (options["username"], options["password"]) == ("ada", "p@ss/w?rd#")


def test_prefix_of_the_variable_wins_over_that_of_the_url(tmp_path: Path) -> None:
    assert server(tmp_path, "redis://cache?prefix=url:", "variable:") == StateServer(
        url=Secret("redis://cache"), place="cache:6379/0", prefix="variable:"
    )


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("cache:6379", "expected redis://[user:password@]host[:port][/database]"),
        ("http://cache", "expected redis://"),
        (f"redis://:{HIDDEN}@", "expected redis://"),
        ("redis://cache:0", "expected redis://"),
        ("redis://cache:port", "expected redis://"),
        ("redis://cache:70000", "expected redis://"),
        (f"redis://:{HIDDEN}#1@cache", "characters such as @ : / ? # in user or password"),
        (f"redis://:{HIDDEN}/1@cache", "characters such as @ : / ? # in user or password"),
        (f"redis://:{HIDDEN}?1@cache", "characters such as @ : / ? # in user or password"),
        ("redis://cache#x", "expected redis://"),
        ("redis://[::1", "expected redis://"),
        (f"redis://{HIDDEN}@cache", "a user name without a password"),
        ("redis://cache/first", "expected the number of the database, once"),
        ("redis://cache/1?db=2", "expected the number of the database, once"),
        ("redis://cache/-1", "expected the number of the database, once"),
        ("redis://cache?prefx=a", 'an unknown option; did you mean "prefix"?'),
        (f"redis://cache?{HIDDEN}=a", "an unknown option after the question mark; known are prefix, db"),
        ("redis://cache?ssl_ca_certs=a", "an unknown option"),
        ("rediss://cache?ssl_cert_reqs=maybe", "ssl_cert_reqs: expected required or none"),
        ("redis://cache?prefix=a b", "prefix: expected 1 to 64 letters"),
        ("redis://cache?prefix=", "prefix: expected 1 to 64 letters"),
        ("unix://run/redis.sock", "a socket has an absolute path"),
        ("unix:///", "a socket has an absolute path"),
    ],
)
def test_wrong_url_is_one_problem_that_quotes_nothing(tmp_path: Path, url: str, sentence: str) -> None:
    [problem] = problems(tmp_path, {"STATE_URL": url})
    assert problem.startswith("STATE_URL: ")
    assert sentence in problem
    assert HIDDEN not in problem


@pytest.mark.parametrize("prefix", ["a b", "x" * 65, "ü", 'a"b'])
def test_wrong_prefix_is_a_problem(tmp_path: Path, prefix: str) -> None:
    [problem] = problems(tmp_path, {"STATE_PREFIX": prefix})
    assert problem == "STATE_PREFIX: expected 1 to 64 letters, digits or any of _ . : { } / -"
