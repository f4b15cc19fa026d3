"""What a connection takes in: requests behind one another, trailers, offers of other protocols, bodies that come late."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
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
from fallback.api.connections import STATE_KEY, Connections
from fallback.config import ApiSettings
from fallback.standin import StandInThread

H2C = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
WEBSOCKET = (
    "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
HEALTH = f"GET /healthz HTTP/1.1\r\n{KEEP}\r\n".encode()
LAST_HEALTH = f"GET /healthz HTTP/1.1\r\n{KEEP}connection: close\r\n\r\n".encode()


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        server.tenant("groq_llama", dialect="groq", text="Tokyo is the capital.")
        yield server


@pytest.fixture(scope="module")
def usual(standin: StandInThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(tmp_path_factory.mktemp("usual"), standin) as port:
        yield port


def figure(port: int, name: str) -> float:
    metrics = exchange(port, f"GET /metrics HTTP/1.1\r\n{KEEP}connection: close\r\n\r\n".encode()).decode()
    found = re.search(rf"^{name} ([\d.]+)$", metrics, re.MULTILINE)
    assert found, metrics
    return float(found[1])


def on_uvloop(
    app: ASGIApp,
    caller: Callable[[int], Awaitable[None]],
    *,
    ws: Any = "none",
    limits: ApiSettings | None = None,
) -> Connections:
    """Serve `app` until `caller`, who is given the port, has done; return what is open then."""

    async def run() -> Connections:
        config = uvicorn.Config(app, http=GuardedProtocol, ws=ws, lifespan="off", log_config=None)
        config.load()
        state, connections = ServerState(), Connections(limits or ApiSettings())
        listening = await asyncio.get_running_loop().create_server(
            lambda: GuardedProtocol(config=config, server_state=state, app_state={STATE_KEY: connections}),
            "127.0.0.1",
            0,
        )
        try:
            async with asyncio.timeout(20):
                await caller(listening.sockets[0].getsockname()[1])
        finally:
            listening.close()
            for each in tuple(state.connections):
                each.transport.abort()  # where the caller failed, or the loop would not end
            await asyncio.sleep(0)
        return connections

    with asyncio.Runner(loop_factory=pytest.importorskip("uvloop").new_event_loop) as runner:
        return runner.run(run())


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the path and the body, or without having read the latter where the path is /early."""
    if scope["type"] != "http":
        return
    body, more = b"", scope["path"] != "/early"
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    names = ",".join(name.decode() for name, _ in scope["headers"])
    await Response(f"[{scope['path']} {names} {body.decode()}]")(scope, receive, send)


# Offers of another protocol


@pytest.mark.parametrize("offer", [H2C, WEBSOCKET])
@pytest.mark.parametrize("cut", [0, 40, "head", -10])
def test_offer_of_another_protocol_costs_nobody_the_body(usual: int, offer: str, cut: int | str) -> None:
    whole = post(b'{"prompt": "Hello"}', more=offer) + LAST_HEALTH
    place = whole.index(b"\r\n\r\n") + 4 if isinstance(cut, str) else cut
    with connected(usual) as caller:
        caller.sendall(whole[:place])
        time.sleep(0.05)
        caller.sendall(whole[place:])
        answer = rest_of(caller)
    assert statuses(answer) == [200, 200]
    assert b"Tokyo is the capital." in answer


def test_body_behind_an_offer_is_not_taken_for_a_request(usual: int) -> None:
    hidden = post(b'{"prompt": "hidden"}')
    head, body = post(hidden, more=H2C).split(b"\r\n\r\n", 1)
    with connected(usual) as caller:
        caller.sendall(head + b"\r\n\r\n")
        time.sleep(0.05)
        caller.sendall(body)
        time.sleep(0.05)
        caller.sendall(LAST_HEALTH)
        assert statuses(rest_of(caller)) == [400, 200]


def test_many_offers_behind_one_another_are_all_answered(usual: int) -> None:
    one = f"GET /healthz HTTP/1.1\r\n{KEEP}{H2C}\r\n".encode()
    assert statuses(exchange(usual, one * 500 + LAST_HEALTH)) == [200] * 501


def test_offer_is_no_accident_that_the_log_tells(caplog: pytest.LogCaptureFixture) -> None:
    async def caller(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /a HTTP/1.1\r\n{KEEP}{H2C}\r\n".encode() + LAST_HEALTH)
        assert statuses(await reader.read()) == [200, 200]
        writer.close()

    on_uvloop(echo, caller)
    assert [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"] == []


def test_websocket_behind_a_request_under_way_is_none_and_its_connection_is_forgotten_in_the_end() -> None:
    async def caller(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEALTH + f"GET /socket HTTP/1.1\r\n{KEEP}{WEBSOCKET}\r\n".encode() + LAST_HEALTH)
        assert statuses(await reader.read()) == [200, 200, 200]
        writer.close()
        await asyncio.sleep(0.05)  # until the server has heard of it

    assert len(on_uvloop(echo, caller, ws="auto")) == 0


def test_websocket_is_still_one() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    async def caller(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /socket HTTP/1.1\r\n{KEEP}{WEBSOCKET}\r\n".encode())
        assert statuses(await reader.readuntil(b"\r\n\r\n")) == [101]
        writer.close()

    assert len(on_uvloop(app, caller, ws="auto")) == 0


def test_websocket_is_not_asked_for_with_a_body_to_be_taken() -> None:
    async def caller(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST /a HTTP/1.1\r\nhost: a\r\n{WEBSOCKET}content-length: 5\r\n\r\nhello".encode())
        writer.write(LAST_HEALTH)
        answer = await reader.read()
        assert statuses(answer) == [200, 200]
        assert b" hello]" in answer
        writer.close()

    on_uvloop(echo, caller, ws="auto")


# Trailers


def test_trailer_is_not_among_the_headers(usual: int) -> None:
    body = b'{"prompt": "Hello"}'
    head = f"POST /api/generate HTTP/1.1\r\n{KEEP}transfer-encoding: chunked\r\n\r\n".encode()
    chunk = b"%x;a=b\r\n%s\r\n0\r\nhost: evil.example\r\ncontent-type: text/plain\r\n\r\n" % (len(body), body)
    assert statuses(exchange(usual, head + chunk + LAST_HEALTH)) == [200, 200]


@pytest.mark.parametrize("beside", [b"x: y\r\n", b"x: ", b"aaaaaaaa"])
def test_trailer_without_end_is_cut_off(usual: int, beside: bytes) -> None:
    before = figure(usual, "fallback_http_connections_cut_total")
    with connected(usual) as endless:
        endless.sendall(f"POST /api/generate HTTP/1.1\r\n{KEEP}transfer-encoding: chunked\r\n\r\n".encode())
        endless.sendall(b"4000\r\n" + b" " * 0x4000 + b"\r\n0\r\n" + beside)
        sent = 0
        try:
            while sent < 50_000_000:
                sent += endless.send((b"y\r\n" + beside if beside.endswith(b" ") else beside) * 4096)
        except OSError:
            pass
    assert sent < 50_000_000
    assert figure(usual, "fallback_http_connections_cut_total") > before
    assert_it_answers(usual)


# Requests behind one another


def test_who_is_always_one_request_ahead_may_send_chunks_in_pieces() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.01)  # until the next one is here
        await echo(scope, receive, send)

    async def caller(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        long = f"GET /a HTTP/1.1\r\nhost: a\r\nx: {'x' * 1000}\r\n\r\n".encode()
        writer.write(long)
        for _ in range(20):
            writer.write(long)
            await reader.readuntil(b"]")
        writer.write(
            b"POST /b HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for piece in (b"5\r\n", b"hello", b"\r\n", b"0\r\n", b"\r\n"):
            await asyncio.sleep(0.03)
            writer.write(piece)
        assert b" hello]" in await reader.read()
        writer.close()

    limits = ApiSettings(max_header_bytes=2048)
    assert len(on_uvloop(app, caller, limits=limits)) == 0


def test_no_more_than_a_piece_of_a_flood_waits_as_requests() -> None:
    most = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal most
        line = scope["state"][LINE_KEY]
        most = max(most, len(line.pipeline))
        await receive()
        await asyncio.sleep(0)  # so that more can come
        await Response("")(scope, receive, send)

    async def caller(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        count = 20_000
        sending = asyncio.create_task(_all(writer, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * count))
        answered, rest = 0, b""
        while answered < count:
            piece = await reader.read(1 << 20)
            assert piece, answered
            parts = (rest + piece).split(b"HTTP/1.1 200 OK")
            answered, rest = answered + len(parts) - 1, parts[-1][-14:]
        await sending
        writer.close()

    on_uvloop(app, caller)
    assert 0 < most < 1000


async def _all(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def test_requests_are_the_same_wherever_their_bytes_are_cut() -> None:
    body = b"one\r\n\r\ntwo"
    requests = [
        f"POST /a HTTP/1.1\r\nhost: a\r\n{H2C}content-length: {len(body)}\r\n\r\n".encode() + body,
        b"POST /b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nt: u\r\n\r\n",
        b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nGET / HTT",
        b"GET /c HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: a, websocket\r\n\r\n",
        b"POST /d HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 3\r\n\r\nend",
    ]
    answers = [
        b"[/a host,connection,content-length one\r\n\r\ntwo]", b"[/b host,transfer-encoding abcde]",
        b"[/early host,content-length ]", b"[/c host,connection ]", b"[/d host,connection,content-length end]",
    ]  # fmt: skip
    whole = b"".join(requests)

    async def caller(port: int) -> None:
        for cut in range(len(whole)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(whole[:cut])
            await asyncio.sleep(0.001)
            writer.write(whole[cut:])
            found = re.findall(rb"\[.*?\]", await reader.read(), re.DOTALL)
            assert found == answers, cut
            writer.close()

    assert len(on_uvloop(echo, caller)) == 0


def test_request_before_others_hears_that_its_caller_has_left(caplog: pytest.LogCaptureFixture) -> None:
    begun, over = asyncio.Event(), asyncio.Event()
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        begun.set()
        heard.append((await receive())["type"])
        over.set()

    async def caller(port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEALTH * 3)
        await begun.wait()
        writer.transport.abort()
        async with asyncio.timeout(5):
            await over.wait()
        await asyncio.sleep(0)  # until the server has heard of it too

    on_uvloop(app, caller)
    assert heard == ["http.disconnect"]
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


# Answers that come before the body


@contextmanager
def answered_before_its_body(folder: Path, standin: StandInThread) -> Iterator[tuple[int, socket.socket]]:
    """A port, and a caller there who has its answer and still owes a body of five bytes."""
    with serving(folder, standin, header_timeout_s=0.2) as port, connected(port) as caller:
        caller.sendall(f"POST /healthz HTTP/1.1\r\n{KEEP}content-length: 5\r\n\r\n".encode())
        assert statuses(caller.recv(65536)) == [405]
        yield port, caller


def test_body_that_comes_after_its_answer_is_not_the_beginning_of_headers(
    standin: StandInThread, tmp_path: Path
) -> None:
    with answered_before_its_body(tmp_path, standin) as (port, caller):
        caller.sendall(b"hello")
        time.sleep(0.6)
        caller.sendall(LAST_HEALTH)
        assert statuses(rest_of(caller)) == [200]
        assert figure(port, "fallback_http_connections_cut_total") == 0


def test_body_that_does_not_come_after_its_answer_is_not_answered_again(
    standin: StandInThread, tmp_path: Path
) -> None:
    with answered_before_its_body(tmp_path, standin) as (_, caller):
        caller.sendall(b"hel")
        assert rest_of(caller) == b""


def test_caller_who_was_not_told_to_go_on_is_told_that_the_connection_closes(usual: int) -> None:
    """It may leave out the body (RFC 9110, section 10.1.1), and then its next request would be taken for that."""
    with connected(usual) as caller:
        caller.sendall(
            f"POST /v1/nothing HTTP/1.1\r\n{KEEP}expect: 100-continue\r\ncontent-length: 90\r\n\r\n".encode()
        )
        answer = rest_of(caller)
    assert statuses(answer) == [404]
    assert b"connection: close\r\n" in answer


def test_caller_who_was_told_to_go_on_keeps_the_connection(usual: int) -> None:
    body = b'{"prompt": "Hello"}'
    with connected(usual) as caller:
        caller.sendall(post(b"", more="expect: 100-continue\r\n", length=len(body)))
        assert statuses(caller.recv(65536)) == [100]
        caller.sendall(body + LAST_HEALTH)
        assert statuses(rest_of(caller)) == [200, 200]
