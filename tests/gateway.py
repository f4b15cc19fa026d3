"""Debian's nginx with the configuration of deploy/nginx, the places alone put in: ports, addresses and folders."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from test_main import ROOT

SHIPPED = ROOT / "deploy" / "nginx"
NOBODY = 65534
REPLICAS = ("api-1", "api-2", "api-3")


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """A running nginx."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    def ask(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> tuple[HTTPConnection, HTTPResponse]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {"content-type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        connection.request(method, path, body, sent)
        return connection, connection.getresponse()

    def answer(self, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, bytes]:
        connection, reply = self.ask(method, path, body, **headers)
        content = reply.read()
        connection.close()
        return reply.status, content

    def log(self) -> str:
        return (self.folder / "stderr").read_text()


def require_nginx() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("nginx is missing; CI has to install it")
        pytest.skip("nginx is not installed (Debian: apt-get install nginx-light)")
    return found


@contextmanager
def state_server() -> Iterator[str]:
    """Run Debian's Redis; yield its URL."""
    program = shutil.which("redis-server")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is missing; CI has to install it")
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait_until_it_listens(process, port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()
            process.wait(10)


def placed(text: str, *places: tuple[str, str]) -> str:
    """Return `text` with each place put in; all of them have to be there."""
    for shipped, here in places:
        assert shipped in text, shipped
        text = text.replace(shipped, here)
    return text


@contextmanager
def gateway(replicas: Sequence[int], dashboard: int) -> Iterator[Gateway]:
    """Run nginx before the replicas and the dashboard, which listen on these ports of 127.0.0.1."""
    program = require_nginx()
    # Not pytest's folder, which is closed to others.
    with tempfile.TemporaryDirectory() as folder:
        yield from _running(program, Path(folder), replicas, dashboard)


def _running(program: str, folder: Path, replicas: Sequence[int], dashboard: int) -> Iterator[Gateway]:
    port = free_port()
    upstreams = placed(
        (SHIPPED / "upstreams.conf").read_text(),
        *(
            (f"{name}:5000 resolve", f"127.0.0.1:{there}")
            for name, there in zip(REPLICAS, replicas, strict=True)
        ),
        ("dashboard:5000 resolve", f"127.0.0.1:{dashboard}"),
    )
    config = placed(
        (SHIPPED / "nginx.conf").read_text(),
        ("listen 8080;", f"listen 127.0.0.1:{port};"),
        ("/tmp/", f"{folder}/"),
        ("include /etc/nginx/upstreams.conf;", f"include {folder}/upstreams.conf;"),
        ("/dev/stdout", f"{folder}/access"),
    )
    (folder / "upstreams.conf").write_text(upstreams)
    (folder / "nginx.conf").write_text(config)
    options: dict[str, Any] = {}
    if os.geteuid() == 0:
        # As in the container, where nothing of it is root.
        options = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        os.chown(folder, NOBODY, NOBODY)
    with (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [program, "-e", "stderr", "-c", str(folder / "nginx.conf"), "-g", "daemon off;"],
            cwd="/", stdin=subprocess.DEVNULL, stdout=err, stderr=err, **options,
        )  # fmt: skip
        running = Gateway(process=process, port=port, folder=folder)
        try:
            _wait_until_it_listens(process, port, running.log)
            yield running
            process.send_signal(signal.SIGQUIT)
            assert process.wait(20) == 0
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(10)


def _wait_until_it_listens(
    process: subprocess.Popen[bytes], port: int, told: Callable[[], str] = lambda: ""
) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            assert process.poll() is None, told()
            assert time.monotonic() < until, told()
            time.sleep(0.05)
        else:
            return
