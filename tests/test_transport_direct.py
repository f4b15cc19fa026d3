"""The connections of DirectTransport: what makes one useless, what is kept, and how bytes are taken in.

What all transports have in common stands in test_transport_async and test_transport_parity.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_server import ANSWER, CHUNKED, OK, RawServer, read_request, request_to, says

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


# Where a request goes


def test_next_address_of_a_host_is_tried_where_one_refuses() -> None:
    with RawServer(says(ANSWER)) as server, refused_port() as dead:

        def addresses(*_: Any, flags: int = 0, **__: Any) -> Sequence[Any]:
            if flags:
                raise socket.gaierror(socket.EAI_NONAME, "a name")
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
                for port in (dead, server.port)
            ]

        async def scenario(transport: DirectTransport) -> None:
            assert await call(transport, "http://provider.invalid/v1") == b"{}"

        with_transport(scenario, names=Names(addresses))


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
    ],
)
def test_address_or_header_that_is_none_is_never_sent(url: str, headers: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(TransportError) as caught:
        direct._target_of(wire(url, headers))
    assert (caught.value.kind, caught.value.phase) == (FailureKind.CONNECTION, Phase.CONNECT)


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
