"""A real Redis server for tests: Debian's `redis-server` on a Unix socket, or on a port of 127.0.0.1 where a test needs one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from fallback.providers.settings import Secret
from fallback.state.redis_store import RedisStateStore

__all__ = ["RedisServer", "redis_server", "shared_redis"]

START_S = 20.0


class RedisServer:
    """One server process in a folder of its own. `options` are those of redis.conf."""

    def __init__(self, folder: Path, *, port: int = 0, options: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.port = port
        self.socket = folder / "redis.sock"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0" if self.port else f"unix://{self.socket}"

    def client(self, **options: Any) -> redis.Redis:
        """Return a client of the test's own."""
        return redis.Redis(unix_socket_path=str(self.socket), **options)

    def store(self, instance: str = "a", *, url: str | None = None, **options: Any) -> RedisStateStore:
        """Return a store on this server."""
        return RedisStateStore(Secret(url or self.url), place="the-server", instance=instance, **options)

    def start(self, *more: str) -> None:
        command = [
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket),
            "--dir", str(self.folder), "--save", "", "--appendonly", "no", "--daemonize", "no", *self._options, *more,
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + START_S
        while True:
            try:
                with self.client() as client:
                    client.ping()
            except (redis.exceptions.AuthenticationError, redis.exceptions.ResponseError):
                return  # it is there, and asks for a password
            except redis.exceptions.ConnectionError:
                pass
            else:
                return
            assert self._process.poll() is None, "redis-server ended"
            assert time.monotonic() < end, "redis-server did not start"
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash does; what it held in memory is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
        self._process = None


def _require() -> None:
    if shutil.which("redis-server") is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is missing; CI has to install it")
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")


@contextlib.contextmanager
def redis_server(*options: str, port: int = 0) -> Iterator[RedisServer]:
    """Run a server for as long as the block lasts; skip the test where none is installed."""
    _require()
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder), port=port, options=options)
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """Give the server that all tests share which leave it as they found it, each under a prefix of its own."""
    with redis_server() as server:
        yield server
