"""The connections of DirectTransport: what makes one useless, what is kept, and how bytes are taken in.

What all transports have in common stands in test_transport_async and test_transport_parity.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_server import (
    ANSWER,
    CHUNKED,
    OK,
    RawServer,
    hangs,
    read_request,
    request_to,
    reset,
    says,
    self_signed,
    tls_server,
)

from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.providers.base import WireRequest
from fallback.standin import refused_port
from fallback.transport import direct
from fallback.transport.direct import DirectTransport
from fallback.transport.http1 import MAX_UNREAD_BYTES, Connection, Reply
from fallback.transport.names import Names


def with_transport(scenario: Callable[[DirectTransport], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def run() -> None:
        transport = DirectTransport(**options)
        try:
            await scenario(transport)
        finally:
            await transport.close()
        await asyncio.sleep(0)

    asyncio.run(run())


async def call(transport: DirectTransport, url: str) -> bytes:
    response = await transport.send(request_to(url), connect_s=2, limit_s=5)
    data = b""
    while piece := await response.read(5):
        data += piece
    await response.close()
    return data


# Whole answers, and what is sent beside them


@pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"x", b"\x00"])
@pytest.mark.parametrize("later", [False, True])
def test_bytes_that_nobody_asked_for_are_nobodys_answer(extra: bytes, later: bool) -> None:
    with RawServer(says(*((ANSWER, 0.05, extra, 0.2) if later else (ANSWER + extra, 0.2)))) as server:

        async def scenario(transport: DirectTransport) -> None:
            assert await call(transport, server.url) == b"{}"
            if later:
                await asyncio.to_thread(server.wait_closed)
            assert await call(transport, server.url) == b"{}"

        with_transport(scenario)
        assert server.accepted == 2


@pytest.mark.parametrize("head", [OK + b"Connection: close\r\n", b"HTTP/1.0 200 OK\r\n"])
def test_connection_that_the_provider_is_about_to_close_is_not_used_again(head: bytes) -> None:
    with RawServer(says(head + b"Content-Length: 2\r\n\r\n{}", 0.2)) as server:

        async def scenario(transport: DirectTransport) -> None:
            for _ in range(2):
                assert await call(transport, server.url) == b"{}"

        with_transport(scenario)
        assert server.accepted == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    ],
    ids=["another protocol", "interim answers without end", "two framings"],
)
def test_what_is_no_plain_answer_is_malformed(answer: bytes) -> None:
    with RawServer(says(answer, 0.2)) as server:

        async def scenario(transport: DirectTransport) -> None:
            with pytest.raises(TransportError) as caught:
                await call(transport, server.url)
            assert (caught.value.kind, caught.value.phase) == (
                FailureKind.MALFORMED_RESPONSE,
                Phase.HEADERS,
            )

        with_transport(scenario)


def test_body_that_nobody_reads_stays_in_the_kernel() -> None:
    size = 8 * 1024 * 1024
    with RawServer(says(OK + b"Content-Length: %d\r\n\r\n" % size + b"a" * size)) as server:

        async def scenario(transport: DirectTransport) -> None:
            response = await transport.send(request_to(server.url), connect_s=2, limit_s=5)
            assert isinstance(response, Reply)
            for _ in range(20):
                await asyncio.sleep(0.005)
            # The loop hands over at most so much at once.
            assert response._unread <= MAX_UNREAD_BYTES + 256 * 1024
            data = 0
            while piece := await response.read(5):
                data += len(piece)
            assert data == size

        with_transport(scenario)


def answers_early(head: bytes, over: threading.Event) -> Callable[[socket.socket], None]:
    """Answer before the body of the request is there, of which nothing is taken."""

    def behave(conn: socket.socket) -> None:
        conn.recv(10)
        conn.sendall(head + b"Content-Length: 2\r\n\r\n{}")
        over.wait(5)

    return behave


@pytest.mark.parametrize("head", [OK, OK + b"Connection: close\r\n"], ids=["stays", "closes"])
def test_connection_on_which_a_request_is_stuck_is_closed_with_its_answer(head: bytes) -> None:
    over = threading.Event()
    with RawServer(answers_early(head, over)) as server:

        async def scenario(transport: DirectTransport) -> None:
            response = await transport.send(request_to(server.url, b"x" * 20_000_000), connect_s=2, limit_s=5)
            assert await response.read(5) == b"{}"
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (transport._open, transport._idle) == (set(), {})

        with_transport(scenario)
        over.set()


def test_connections_that_a_provider_has_forgotten_cost_one_call_and_not_one_each() -> None:
    together = threading.Barrier(3)

    def behave(conn: socket.socket) -> None:
        read_request(conn)
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(1)
        conn.sendall(ANSWER)
        if conn.recv(1):
            reset(conn)  # as from behind a device that knows the connection no longer

    with RawServer(behave) as server:

        async def scenario(transport: DirectTransport) -> None:
            assert await asyncio.gather(*(call(transport, server.url) for _ in range(3))) == [b"{}"] * 3
            with pytest.raises(TransportError):
                await call(transport, server.url)
            together.abort()
            assert await call(transport, server.url) == b"{}"
            assert server.accepted == 4

        with_transport(scenario)


def test_idle_connection_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "KEEP_ALIVE_S", 0.05)

    def stays(conn: socket.socket) -> None:
        read_request(conn)
        conn.sendall(ANSWER)
        conn.recv(1)

    with RawServer(stays) as server:

        async def scenario(transport: DirectTransport) -> None:
            assert await call(transport, server.url) == b"{}"
            assert await asyncio.to_thread(server.wait_closed)
            assert transport._idle == {}

        with_transport(scenario)


@pytest.mark.parametrize("on_uvloop", [False, True])
def test_connection_that_is_made_while_the_transport_closes_carries_no_request(
    monkeypatch: pytest.MonkeyPatch, on_uvloop: bool
) -> None:
    made = Connection.connection_made
    closing: list[asyncio.Task[None]] = []

    async def run() -> None:
        transport = DirectTransport()

        def closes(connection: Connection, line: asyncio.Transport) -> None:
            made(connection, line)
            closing.append(asyncio.create_task(transport.close()))

        monkeypatch.setattr(Connection, "connection_made", closes)
        with pytest.raises(TransportError) as caught:
            await transport.send(request_to(server.url), connect_s=5, limit_s=5)
        assert (caught.value.kind, caught.value.phase) == (FailureKind.CANCELLED, Phase.CONNECT)
        await asyncio.gather(*closing)
        assert transport.under_way == 0

    with (
        RawServer(hangs()) as server,
        asyncio.Runner(
            loop_factory=pytest.importorskip("uvloop").new_event_loop if on_uvloop else None
        ) as runner,
    ):
        runner.run(run())


# Where a request goes


def found_at(*ports: int) -> Names:
    """Names that all are looked up as these ports of this machine."""

    def addresses(*_: Any, flags: int = 0, **__: Any) -> Sequence[Any]:
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "a name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]

    return Names(addresses)


def test_next_address_of_a_host_is_tried_where_one_refuses() -> None:
    with RawServer(says(ANSWER)) as server, refused_port() as dead:

        async def scenario(transport: DirectTransport) -> None:
            assert await call(transport, "http://provider.invalid/v1") == b"{}"

        with_transport(scenario, names=found_at(dead, server.port))


@pytest.mark.parametrize(
    ("url", "line", "host"),
    [
        ("http://a.example/v1/chat?x=1", b"POST /v1/chat?x=1 HTTP/1.1", b"Host: a.example"),
        ("http://a.example:8080", b"POST / HTTP/1.1", b"Host: a.example:8080"),
        ("https://A.example/\u00e4 b", b"POST /%C3%A4%20b HTTP/1.1", b"Host: a.example"),
        ("https://b\u00fccher.example/", b"POST / HTTP/1.1", b"Host: xn--bcher-kva.example"),
        ("http://name:word@a.example/v1", b"POST /v1 HTTP/1.1", b"Host: a.example"),
        ("http://[::1]:5000/v1", b"POST /v1 HTTP/1.1", b"Host: [::1]:5000"),
    ],
)
def test_address_is_made_fit_for_the_wire(url: str, line: bytes, host: bytes) -> None:
    lines = direct._target_of(wire(url)).head.split(b"\r\n")
    assert lines[0] == line
    assert host in lines
    assert b"word@" not in b"".join(lines)
    assert lines[-1] == b"Content-Length: "


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("http://", ()),
        ("ftp://a.example/", ()),
        ("http://a.example:99999/", ()),
        ("http://a.example/", (("X-Name", "a\r\nX-Other: b"),)),
        ("http://a.example/", (("X-Na\nme", "a"),)),
        ("http://a.example/", (("X-Name", "a\udcff"),)),
    ],
)
def test_address_or_header_that_is_none_is_never_sent(url: str, headers: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(TransportError) as caught:
        direct._target_of(wire(url, headers))
    assert (caught.value.kind, caught.value.phase) == (FailureKind.CONNECTION, Phase.CONNECT)


def test_header_that_is_none_is_not_told_to_anybody() -> None:
    value = f"{'not'}-told\n"  # no line of this test holds it, which a traceback shows too
    with pytest.raises(TransportError) as caught:
        direct._target_of(wire("http://a.example/", (("Authorization", value),)))
    assert value.strip() not in "".join(traceback.format_exception(caught.value))


def test_name_that_ends_in_a_dot_is_the_one_of_the_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = self_signed(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with tls_server(says(ANSWER), certificate) as server:

        async def scenario(transport: DirectTransport) -> None:
            assert await call(transport, "https://provider.invalid./v1") == b"{}"

        with_transport(scenario, names=found_at(server.port))


def wire(url: str, headers: tuple[tuple[str, str], ...] = ()) -> WireRequest:
    return WireRequest(provider="p", url=url, headers=headers, body=b"{}", streamed=False)


# Bytes in any pieces


class Pipe:
    """As much of a transport as a connection uses."""

    def __init__(self) -> None:
        self.sent = b""
        self.ended = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.ended

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.ended = True

    close = abort

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


BODIES = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a response, and the body that it holds."""
    parts = draw(BODIES)
    body = b"".join(parts)
    if draw(st.booleans()):
        return OK + b"Content-Length: %d\r\n\r\n" % len(body) + body, body
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    trailer = draw(st.sampled_from([b"", b"X-Late: 1\r\n"]))
    return CHUNKED + chunks + b"0\r\n" + trailer + b"\r\n", body


@settings(deadline=None)
@given(several=st.lists(answers(), min_size=1, max_size=3), data=st.data())
def test_answers_are_the_same_however_their_bytes_are_cut(
    several: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    async def run() -> None:
        pipe = Pipe()
        freed: list[Connection] = []
        connection = Connection(freed.append, lambda _: None)
        connection.connection_made(cast("asyncio.Transport", pipe))
        for number, (answer, body) in enumerate(several, 1):
            reply = connection.ask(b"POST", b"{}")
            cuts = data.draw(st.lists(st.integers(1, len(answer) - 1), max_size=8))
            edges = [0, *sorted(set(cuts)), len(answer)]
            for begin, end in itertools.pairwise(edges):
                assert len(freed) == number - 1
                connection.data_received(answer[begin:end])
            await reply.begun(1)
            assert reply.head.status == 200
            came = b""
            while piece := await reply.read(1):
                came += piece
            assert came == body
            assert len(freed) == number
            assert not connection.busy

    asyncio.run(run())


@settings(deadline=None)
@given(answer=answers(), data=st.data())
def test_answer_that_is_cut_off_is_never_whole(answer: tuple[bytes, bytes], data: st.DataObject) -> None:
    raw, body = answer
    cut = data.draw(st.integers(0, len(raw) - 1))

    async def run() -> None:
        connection = Connection(lambda _: pytest.fail("it is not whole"), lambda _: None)
        connection.connection_made(cast("asyncio.Transport", Pipe()))
        reply = connection.ask(b"POST", b"{}")
        if cut:
            connection.data_received(raw[:cut])
        connection.connection_lost(None)
        came = b""

        async def whole() -> None:
            nonlocal came
            await reply.begun(1)
            while piece := await reply.read(1):
                came += piece

        with pytest.raises(TransportError) as caught:
            await whole()
        assert caught.value.kind is FailureKind.CONNECTION
        assert body.startswith(came)

    asyncio.run(run())


def asked() -> tuple[Connection, Reply, Pipe]:
    """A connection over which a request was sent, its reply, and what is below it."""
    pipe = Pipe()
    connection = Connection(lambda _: None, lambda _: None)
    connection.connection_made(cast("asyncio.Transport", pipe))
    return connection, connection.ask(b"POST", b"{}"), pipe


def in_one_turn(limit_s: float, *, then: Callable[[], None]) -> None:
    """Let `then` happen in the turn of the loop in which `limit_s` is over, behind it."""
    loop = asyncio.get_running_loop()
    loop.call_later(limit_s / 2, time.sleep, limit_s)
    loop.call_later(limit_s * 1.1, then)


def test_answer_that_comes_in_the_turn_in_which_the_time_is_over_is_not_late() -> None:
    async def run() -> None:
        connection, reply, _ = asked()
        head = OK + b"Content-Length: 4\r\n\r\n"
        in_one_turn(0.05, then=lambda: connection.data_received(head))
        await reply.begun(0.05)
        in_one_turn(0.05, then=lambda: connection.data_received(b"{}"))
        assert await reply.read(0.05) == b"{}"
        connection.data_received(b"{}")
        assert await reply.read(1) == b"{}"
        assert await reply.read(1) == b""

    asyncio.run(run())


@pytest.mark.parametrize(
    "start", [CHUNKED + b"0\r\nX-A: ", CHUNKED + b"2\r\n{}\r\n1;"], ids=["trailer", "chunk"]
)
def test_what_comes_beside_a_body_has_an_end(start: bytes) -> None:
    async def run() -> None:
        connection, reply, pipe = asked()
        connection.data_received(start)
        for _ in range(10):
            connection.data_received(b"a" * 65536)
        assert pipe.ended
        await reply.begun(1)
        if start.endswith(b";"):
            assert await reply.read(1) == b"{}"
        with pytest.raises(TransportError) as caught:
            await reply.read(1)
        assert (caught.value.kind, caught.value.phase) == (FailureKind.CONNECTION, Phase.BODY)

    asyncio.run(run())


def test_body_in_chunks_within_another_coding_is_not_whole_before_its_last_one() -> None:
    async def run() -> None:
        connection, reply, _ = asked()
        connection.data_received(OK + b"Transfer-Encoding: identity, chunked\r\n\r\n2\r\n{}")
        connection.connection_lost(None)
        await reply.begun(1)
        assert await reply.read(1) == b"{}"
        with pytest.raises(TransportError):
            await reply.read(1)

    asyncio.run(run())


def test_body_that_is_given_up_before_the_connection_ends_is_not_whole() -> None:
    async def run() -> None:
        connection, reply, _ = asked()
        connection.data_received(OK + b"\r\n{}")
        await reply.begun(1)
        assert await reply.read(1) == b"{}"
        reading = asyncio.create_task(reply.read(5))
        await asyncio.sleep(0)
        reply.abort()
        connection.connection_lost(None)  # as an event loop says it of a connection that was aborted
        with pytest.raises(TransportError):
            await reading

    asyncio.run(run())
