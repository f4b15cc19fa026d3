"""The limits of a connection: over real sockets, since a test client in the process cannot misbehave."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from api_sockets import KEEP, assert_it_answers, connected, exchange, post, rest_of, serving, statuses
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from fallback.api.attend import LINE_KEY
from fallback.api.connection import GuardedProtocol
from fallback.api.connections import Connections
from fallback.config import ApiSettings
from fallback.standin import Fault, StandInThread


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        server.tenant("groq_llama", dialect="groq", text="Tokyo is the capital.")
        yield server


# Slow senders


def test_body_that_does_not_come_is_refused_and_the_connection_closed(
    standin: StandInThread, tmp_path: Path
) -> None:
    with serving(tmp_path, standin, body_timeout_s=0.2) as port, connected(port) as slow:
        slow.sendall(post(b'{"prompt"', length=1000))
        answer = rest_of(slow)
        assert statuses(answer) == [408]
        assert b'"error_type":"body_timeout"' in answer
        assert b"connection: close" in answer
        assert_it_answers(port)


def test_body_that_trickles_in_is_refused_for_all_its_life_signs(
    standin: StandInThread, tmp_path: Path
) -> None:
    with serving(tmp_path, standin, body_timeout_s=0.3) as port, connected(port) as slow:
        slow.sendall(post(b"", length=100_000))
        slow.settimeout(0.02)
        answer = b""
        for _ in range(500):
            try:
                slow.sendall(b"a")
                piece = slow.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            if not piece:
                break
            answer += piece
        else:
            pytest.fail("it was never cut off")
        assert statuses(answer) == [408]
        assert_it_answers(port)


@pytest.mark.parametrize(
    "sent", [b"G", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: "]
)
def test_headers_that_do_not_end_are_refused(standin: StandInThread, tmp_path: Path, sent: bytes) -> None:
    with serving(tmp_path, standin, header_timeout_s=0.2) as port, connected(port) as slow:
        slow.sendall(sent)
        assert statuses(rest_of(slow)) == [408]
        assert_it_answers(port)


def test_headers_that_trickle_in_are_refused_too(standin: StandInThread, tmp_path: Path) -> None:
    with serving(tmp_path, standin, header_timeout_s=0.3) as port, connected(port) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        slow.settimeout(0.02)
        for _ in range(500):
            try:
                slow.sendall(b"x-a: b\r\n")
                if statuses(slow.recv(65536)) == [408]:
                    return
            except TimeoutError:
                continue
            except OSError:
                return
        pytest.fail("it was never cut off")


def test_connection_on_which_nothing_happens_is_closed(standin: StandInThread, tmp_path: Path) -> None:
    with serving(tmp_path, standin, keep_alive_timeout_s=0.4) as port, ExitStack() as stack:
        silent, used = (stack.enter_context(connected(port)) for _ in range(2))
        used.sendall(f"GET /healthz HTTP/1.1\r\n{KEEP}\r\n".encode())
        assert statuses(rest_of(used)) == [200]
        assert rest_of(silent) == b""


class Transport(asyncio.Transport):
    """A transport that notes what is done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []
        self.unsent = 0

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return bool(self.done)

    def close(self) -> None:
        self.done.append("closed")

    def abort(self) -> None:
        self.done.append("aborted")


class Cycle:
    """A request and its answer."""

    response_complete = False
    more_body = False


def open_connection(limits: ApiSettings) -> tuple[Any, Transport]:
    """Return a connection without a server, opened at the instant 0."""
    connection: Any = GuardedProtocol.__new__(GuardedProtocol)
    transport = Transport()
    connection.transport, connection.cycle, connection._guard = transport, None, Connections(limits)
    connection._since = connection._head_since = connection._unsent_since = 0.0
    connection._busy, connection._head_bytes, connection._unsent = False, 0, 0
    return connection, transport


def test_only_the_time_without_a_request_counts_as_idle() -> None:
    connection, transport = open_connection(ApiSettings(keep_alive_timeout_s=10))
    connection.check(9.0)
    connection.cycle, connection._busy = Cycle(), True  # a request comes in
    connection.check(500.0)
    connection.cycle.response_complete = True  # and is answered
    connection.check(501.0)
    connection.check(510.0)
    assert transport.done == []
    connection.check(511.0)
    assert transport.done == ["closed"]


def test_caller_who_takes_something_of_an_answer_now_and_then_is_not_cut_off() -> None:
    connection, transport = open_connection(ApiSettings(send_timeout_s=10))
    connection.cycle = Cycle()
    for now, transport.unsent in ((0, 900), (9, 900), (9.5, 800), (19, 800), (19.4, 0), (40, 500), (49, 500)):
        connection.check(now)
    assert transport.done == []
    connection.check(50.0)
    assert transport.done == ["aborted"]


def test_connection_too_many_is_closed_with_a_word(standin: StandInThread, tmp_path: Path) -> None:
    with serving(tmp_path, standin, max_connections=2) as port, ExitStack() as stack:
        first, second = (stack.enter_context(connected(port)) for _ in range(2))
        for each in (first, second):
            each.sendall(f"GET /healthz HTTP/1.1\r\n{KEEP}\r\n".encode())
            assert statuses(each.recv(65536)) == [200]
        with connected(port) as third:
            assert statuses(rest_of(third)) == [503]
        first.close()
        until = time.monotonic() + 5
        while statuses(exchange(port, f"GET /healthz HTTP/1.1\r\n{KEEP}\r\n".encode())) != [200]:
            assert time.monotonic() < until


def test_request_too_many_is_told_at_once_and_health_is_told_all_the_same(
    standin: StandInThread, tmp_path: Path
) -> None:
    with serving(tmp_path, standin, max_requests=1) as port, connected(port) as busy:
        standin.tenant("groq_llama").always(Fault(kind="hang", seconds=20))
        busy.sendall(post(b'{"prompt": "a"}'))
        assert standin.tenant("groq_llama").wait_for(lambda counters: counters.in_flight == 1, 5)
        answer = exchange(port, post(b'{"prompt": "a"}', more="connection: close\r\n"))
        assert statuses(answer) == [503]
        assert b"retry-after: 1\r\n" in answer
        assert b'"error_type":"overloaded"' in answer
        assert statuses(exchange(port, f"GET /healthz HTTP/1.1\r\n{KEEP}\r\n".encode())) == [200]
        busy.close()
        assert standin.tenant("groq_llama").wait_for(lambda counters: counters.in_flight == 0, 5)
        standin.tenant("groq_llama").reset()
        assert_it_answers(port)


def test_caller_who_does_not_read_a_stream_is_cut_off(standin: StandInThread, tmp_path: Path) -> None:
    with serving(tmp_path, standin, send_timeout_s=0.3) as port:
        groq = standin.tenant("groq_llama")
        groq.configure(text=" ".join(["x" * 5000] * 1500))
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", port))
            deaf.sendall(post(b'{"prompt": "a", "stream": true}'))
            wanted = {"fallback_http_connections_cut_total 1.0", "fallback_http_requests_in_flight 0.0"}
            until, figures = time.monotonic() + 20, set[str]()
            while not wanted <= figures and time.monotonic() < until:
                asked = f"GET /metrics HTTP/1.1\r\n{KEEP}connection: close\r\n\r\n"
                figures = set(exchange(port, asked.encode()).decode().splitlines())
            assert wanted <= figures
        groq.configure(text="Tokyo is the capital.")
        assert_it_answers(port)


def on_uvloop(app: ASGIApp, caller: Callable[[int], Awaitable[None]]) -> None:
    """Serve `app` until `caller`, who is given the port, has done."""

    async def run() -> None:
        config = uvicorn.Config(app, http=GuardedProtocol, ws="none", lifespan="off", log_config=None)
        config.load()
        state = ServerState()
        listening = await asyncio.get_running_loop().create_server(
            lambda: GuardedProtocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        async with asyncio.timeout(10):
            await caller(listening.sockets[0].getsockname()[1])
        listening.close()

    with asyncio.Runner(loop_factory=pytest.importorskip("uvloop").new_event_loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("pipelined", [False, True])
def test_answer_to_a_caller_who_has_left_goes_nowhere_without_a_word(
    caplog: pytest.LogCaptureFixture, pipelined: bool
) -> None:
    """On uvloop, which raises where a lost connection is written to; uvicorn tells only the last request of its loss."""
    begun, left, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        scope["state"][LINE_KEY].watch(left.set)
        await left.wait()
        try:
            await Response("too late")(scope, receive, send)
            await asyncio.sleep(0)  # until everything is written
        finally:
            over.set()

    async def caller(port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        one = f"GET / HTTP/1.1\r\n{KEEP}\r\n".encode()
        writer.write(one * 2 if pipelined else one)
        await begun.wait()
        writer.transport.abort()
        await over.wait()

    on_uvloop(app, caller)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_request_behind_the_last_one_that_is_answered_is_not_begun(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["path"])
        await asyncio.sleep(0.05)  # until the one behind it is here
        await Response("refused", headers={"connection": "close"})(scope, receive, send)

    async def caller(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /first HTTP/1.1\r\n{KEEP}\r\n".encode())
        writer.write(f"POST /second HTTP/1.1\r\n{KEEP}content-length: 100\r\n\r\n{{".encode())
        assert statuses(await reader.read()) == [200]
        writer.close()

    on_uvloop(app, caller)
    assert asked == ["/first"]
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_connections_that_have_ended_are_forgotten() -> None:
    class Ended(GuardedProtocol):
        def __init__(self) -> None:
            """No server is needed to be counted."""

        def check(self, now: float) -> None:
            checked.append(now)

    checked: list[float] = []

    async def run() -> Connections:
        connections = Connections(ApiSettings(header_timeout_s=0.04, max_connections=1))
        one: Any = Ended()
        assert connections.add(one)
        assert not connections.add(Ended())
        while not checked:  # noqa: ASYNC110 - it waits for another object's timer
            await asyncio.sleep(0)
        connections.discard(one)
        return connections

    connections = asyncio.run(run())
    assert (len(connections), connections.cut_off) == (0, 1)


@pytest.mark.parametrize("announced", [True, False])
def test_caller_who_sends_on_after_a_refusal_can_read_it(
    standin: StandInThread, tmp_path: Path, announced: bool
) -> None:
    piece = b"a" * 65536
    with serving(tmp_path, standin, max_body_bytes=100_000) as port, connected(port) as caller:
        length = f"content-length: {3 * 1024 * 1024}" if announced else "transfer-encoding: chunked"
        caller.sendall(f"POST /api/generate HTTP/1.1\r\n{KEEP}{length}\r\n\r\n".encode())
        framed = piece if announced else b"10000\r\n" + piece + b"\r\n"
        for _ in range(48):
            caller.sendall(framed)
        assert statuses(rest_of(caller)) == [413]
        assert_it_answers(port)


def test_caller_who_never_stops_sending_after_a_refusal_is_cut_off(
    standin: StandInThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fallback.api.connection.LINGER_BYTES", 1_000_000)
    with serving(tmp_path, standin, max_body_bytes=100_000) as port, connected(port) as caller:

        def send_on() -> None:
            for _ in range(10_000):
                caller.sendall(b"10000\r\n" + b"a" * 65536 + b"\r\n")

        caller.sendall(f"POST /api/generate HTTP/1.1\r\n{KEEP}transfer-encoding: chunked\r\n\r\n".encode())
        with pytest.raises(OSError):
            send_on()
        assert_it_answers(port)
