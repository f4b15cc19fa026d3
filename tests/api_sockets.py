"""A program over real sockets, and callers who may misbehave."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn

from fallback.api import Program
from fallback.api.connection import GuardedProtocol
from fallback.api.server import application
from fallback.standin import StandInThread

__all__ = ["KEEP", "assert_it_answers", "connected", "exchange", "post", "rest_of", "serving", "statuses"]

KEEP = "host: localhost\r\ncontent-type: application/json\r\n"
CONFIG = """
providers:
  - name: groq_llama
    type: groq
    endpoint: {base}/groq_llama/openai/v1/chat/completions
    model: model-a
routing: {{retries: 0}}
api: {limits}
"""


@contextmanager
def serving(folder: Path, standin: StandInThread, **limits: float) -> Iterator[int]:
    """Serve with `limits`; give the port."""
    standin.tenant("groq_llama").reset()
    standin.tenant("groq_llama").configure(text="Tokyo is the capital.")
    file = folder / "providers.yaml"
    file.write_text(CONFIG.format(base=standin.base_url, limits=json.dumps(limits)))
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application(Program(file)), http=GuardedProtocol, ws="none", lifespan="on", log_level="critical",
        timeout_graceful_shutdown=3,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
    thread.start()
    port: int = listener.getsockname()[1]
    until = time.monotonic() + 10
    while not server.started and time.monotonic() < until:
        thread.join(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def connected(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=15)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def rest_of(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes, or says nothing more."""
    whole = b""
    try:
        while piece := connection.recv(65536):
            whole += piece
    except (ConnectionResetError, TimeoutError):
        pass
    return whole


def exchange(port: int, raw: bytes) -> bytes:
    """Send `raw` and nothing after it, and return everything that comes back."""
    with connected(port) as connection:
        with suppress(OSError):  # it may be refused before it is whole
            connection.sendall(raw)
        connection.settimeout(5 if b"connection: close" in raw else 1)
        return rest_of(connection)


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


def assert_it_answers(port: int) -> None:
    """The program is alive, and serves others."""
    body = b'{"prompt": "Hello"}'
    head = f"POST /api/generate HTTP/1.1\r\n{KEEP}connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    answer = exchange(port, head.encode() + body)
    assert statuses(answer) == [200]
    assert b"Tokyo is the capital." in answer


def post(body: bytes, *, more: str = "", length: int | None = None) -> bytes:
    announced = len(body) if length is None else length
    return f"POST /api/generate HTTP/1.1\r\n{KEEP}{more}content-length: {announced}\r\n\r\n".encode() + body
