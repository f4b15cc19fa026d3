"""Both transports for an event loop over real sockets. What all make of a broken server stands in test_transport_parity."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from raw_server import (
    ANSWER,
    CHAT,
    CHUNKED,
    OK,
    PLAIN,
    RawServer,
    hangs,
    read_request,
    request_to,
    reset,
    says,
    self_signed,
    tls_server,
    tunnel,
    wait_until,
)

from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.standin import Fault, StandInThread, Tenant, refused_port
from fallback.transport.asynchronous import AiohttpTransport
from fallback.transport.base import AsyncResponse
from fallback.transport.direct import DirectTransport
from fallback.transport.names import Names

Kind = DirectTransport | AiohttpTransport
Scenario = Callable[[Kind], Coroutine[Any, Any, None]]

_kind: ContextVar[tuple[type[Kind], bool]] = ContextVar("kind")


@pytest.fixture(
    params=[(DirectTransport, False), (DirectTransport, True), (AiohttpTransport, False)],
    ids=["direct", "direct-uvloop", "aiohttp"],
    autouse=True,
)
def kind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Say which transport `with_transport` makes, and on which event loop."""
    token = _kind.set(request.param)
    yield
    _kind.reset(token)


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as standin:
        yield standin


@pytest.fixture
def tenant(standin: StandInThread, request: pytest.FixtureRequest) -> Tenant:
    return standin.tenant(f"t{abs(hash(request.node.name))}")


def with_transport(scenario: Scenario, **options: Any) -> None:
    """Run `scenario` on an event loop with a transport, which is closed afterwards; nobody may complain."""
    made, on_uvloop = _kind.get()

    async def run() -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        transport = made(**options)
        try:
            await scenario(transport)
        finally:
            await transport.close()
        await asyncio.sleep(0)
        assert complaints == []

    with asyncio.Runner(
        loop_factory=pytest.importorskip("uvloop").new_event_loop if on_uvloop else None
    ) as runner:
        runner.run(run())


async def call(
    transport: Kind,
    url: str,
    body: bytes = PLAIN,
    *,
    connect_s: float = 2.0,
    limit_s: float = 5.0,
    until: Callable[[bytes], bool] = lambda data: False,
) -> bytes:
    """Send, read to the end or until `until`, close; return the body."""
    response = await transport.send(request_to(url, body), connect_s=connect_s, limit_s=limit_s)
    data = b""
    try:
        while not until(data):
            piece = await response.read(limit_s)
            if not piece:
                break
            data += piece
    finally:
        await response.close()
    return data


async def failure_of(work: Awaitable[Any]) -> tuple[FailureKind, Phase]:
    with pytest.raises(TransportError) as caught:
        await work
    return caught.value.kind, caught.value.phase


async def came(condition: Callable[[], bool]) -> None:
    """Wait for something on another thread."""
    await asyncio.to_thread(wait_until, condition)


def test_calls_share_one_connection(tenant: Tenant) -> None:
    async def scenario(transport: Kind) -> None:
        for _ in range(5):
            assert b"w60" in await call(transport, tenant.url)

    with_transport(scenario)
    assert tenant.counters.connections == 1


def test_a_stream_closed_at_its_done_event_gives_its_connection_back(tenant: Tenant) -> None:
    async def scenario(transport: Kind) -> None:
        for _ in range(5):
            await call(transport, tenant.url, CHAT, until=lambda data: b"[DONE]" in data)

    with_transport(scenario)
    assert tenant.counters.connections == 1


def test_a_pooled_connection_that_is_reset_later_makes_nobody_complain() -> None:
    def in_two_pieces(conn: socket.socket) -> None:
        says(ANSWER[:-2], 0.05, ANSWER[-2:], 0.05)(conn)
        reset(conn)

    with RawServer(in_two_pieces) as server:

        async def scenario(transport: Kind) -> None:
            assert await call(transport, server.url) == b"{}"
            await came(lambda: server.closed == 1)
            assert await call(transport, server.url) == b"{}"
            gc.collect()

        with_transport(scenario)


def test_a_response_closed_early_is_not_reused(tenant: Tenant) -> None:
    tenant.configure(words=2000, per_token_s=0.01)

    async def scenario(transport: Kind) -> None:
        await call(transport, tenant.url, CHAT, until=lambda data: b"w1" in data)
        await came(lambda: tenant.counters.aborted == 1)
        tenant.configure(words=1, per_token_s=0.0)
        await call(transport, tenant.url, CHAT)

    with_transport(scenario)
    assert tenant.counters.connections == 2


def test_closing_twice_is_harmless_and_a_closed_response_is_not_read(tenant: Tenant) -> None:
    tenant.always(Fault(kind="hang_after_headers"))

    async def scenario(transport: Kind) -> None:
        response = await transport.send(request_to(tenant.url), connect_s=1, limit_s=5)
        await response.close()
        await response.close()
        response.abort()
        assert await failure_of(response.read(1)) == (FailureKind.CANCELLED, Phase.BODY)

    with_transport(scenario)


def test_a_pooled_connection_that_the_server_closed_is_replaced_without_an_error() -> None:
    def once(conn: socket.socket) -> None:
        read_request(conn)
        conn.sendall(ANSWER)

    with RawServer(once) as server:

        async def scenario(transport: Kind) -> None:
            for count in range(1, 4):
                assert await call(transport, server.url) == b"{}"
                await came(lambda count=count: server.closed >= count)  # type: ignore[misc]

        with_transport(scenario)
        assert server.accepted == 3


def test_cookies_redirects_and_retries_are_not_for_us(standin: StandInThread, tenant: Tenant) -> None:
    other = standin.tenant("redirected-to-by-async")
    tenant.configure(headers={"Set-Cookie": "session=1; Path=/"})

    async def scenario(transport: Kind) -> None:
        await call(transport, tenant.url)
        await call(transport, tenant.url)
        tenant.always(Fault(kind="redirect", location=other.url))
        response = await transport.send(request_to(tenant.url), connect_s=1, limit_s=5)
        assert response.head.status == 302
        await response.close()
        tenant.always(Fault(kind="status", status=503, retry_after="1"))
        await call(transport, tenant.url)

    with_transport(scenario)
    assert all("cookie" not in seen.headers for seen in tenant.last_requests)
    assert (tenant.counters.requests, other.counters.requests) == (4, 0)


def test_headers_are_sent_as_given_and_a_compressed_body_is_passed_on(tenant: Tenant) -> None:
    tenant.always(Fault(kind="gzip"))

    async def scenario(transport: Kind) -> None:
        assert (await call(transport, tenant.url)).startswith(b"\x1f\x8b")

    with_transport(scenario)
    headers = tenant.last_requests[0].headers
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"] == "tests"
    assert headers["content-length"] == str(len(PLAIN))


def test_response_header_names_are_in_lower_case_and_repeated_ones_joined() -> None:
    head = OK + b"X-Twice: a\r\nx-tWICE: b\r\nX-Bytes: caf\xc3\xa9\xff\r\nContent-Length: 0\r\n\r\n"
    with RawServer(hangs(head)) as server:

        async def scenario(transport: Kind) -> None:
            response = await transport.send(request_to(server.url), connect_s=1, limit_s=5)
            assert response.head.headers["x-twice"] == "a, b"
            assert response.head.headers["x-bytes"] == "caf\u00c3\u00a9\u00ff"
            await response.close()

        with_transport(scenario)


def test_a_large_body_is_sent_without_a_warning(tenant: Tenant) -> None:
    body = PLAIN[:-1] + b', "note": "' + b"x" * 3_000_000 + b'"}'

    async def scenario(transport: Kind) -> None:
        assert b"w60" in await call(transport, tenant.url, body)

    with_transport(scenario)
    assert tenant.last_requests[0].headers["content-length"] == str(len(body))


def test_proxies_of_the_environment_are_used(monkeypatch: pytest.MonkeyPatch, tenant: Tenant) -> None:
    seen: list[bytes] = []

    def proxy(conn: socket.socket) -> None:
        seen.append(read_request(conn))
        conn.sendall(ANSWER)

    with RawServer(proxy) as server, refused_port() as dead:
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{server.port}")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{dead}")
        monkeypatch.setenv("no_proxy", "")

        async def scenario(transport: Kind) -> None:
            assert await call(transport, "http://provider.invalid/v1") == b"{}"
            down = await failure_of(call(transport, "https://provider.invalid/v1"))
            assert down == (FailureKind.CONNECTION, Phase.CONNECT)
            assert b"w60" in await call(transport, tenant.url), "loopback goes directly"

        with_transport(scenario)
    assert seen[0].startswith(b"POST http://provider.invalid/v1 HTTP/1.1\r\n")
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")

    async def unsupported(transport: Kind) -> None:
        with pytest.raises(TransportError, match="only http and https proxies"):
            await call(transport, "http://provider.invalid/v1")

    with_transport(unsupported)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls"))


def test_certificates_are_checked_against_the_bundle_of_the_environment(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(conn: socket.socket) -> None:
        while read_request(conn):
            conn.sendall(ANSWER)

    with tls_server(serve, certificate) as server:

        async def refused(transport: Kind) -> None:
            with pytest.raises(TransportError, match="TLS failed") as caught:
                await call(transport, server.url)
            assert (caught.value.kind, caught.value.phase) == (FailureKind.CONNECTION, Phase.CONNECT)

        async def trusted(transport: Kind) -> None:
            assert await call(transport, server.url) == b"{}"
            assert await call(transport, server.url) == b"{}"
            with pytest.raises(TransportError, match="TLS failed"):
                await call(transport, server.url.replace("localhost", "127.0.0.1"))

        with_transport(refused)
        accepted = server.accepted
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        with_transport(trusted)
        assert server.accepted == accepted + 2


def test_tls_through_a_tunnel_of_the_proxy_can_be_cancelled(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setenv("no_proxy", "")
    reached = threading.Event()

    def serve(conn: socket.socket) -> None:
        read_request(conn)
        reached.set()
        conn.recv(1)

    with tls_server(serve, certificate) as server, RawServer(tunnel(server.port)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")

        async def scenario(transport: Kind) -> None:
            task = asyncio.create_task(call(transport, "https://provider.invalid/v1"))
            await came(reached.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await came(lambda: server.closed == 1)

        with_transport(scenario)


# Limits


def test_refused_and_unknown_names_are_connection_failures() -> None:
    def unknown(host: str, *_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    async def scenario(transport: Kind) -> None:
        with refused_port() as port, pytest.raises(TransportError, match="connection refused") as refused:
            await call(transport, f"http://127.0.0.1:{port}/v1")
        assert (refused.value.kind, refused.value.phase) == (FailureKind.CONNECTION, Phase.CONNECT)
        with pytest.raises(TransportError, match="the name cannot be resolved") as nameless:
            await call(transport, "http://nowhere.invalid/v1")
        assert (nameless.value.kind, nameless.value.phase) == (FailureKind.CONNECTION, Phase.CONNECT)

    with_transport(scenario, names=Names(unknown))


@pytest.mark.parametrize(("connect_s", "limit_s"), [(0.3, 8.0), (8.0, 0.3), (0.3, 0.3)])
def test_both_limits_bound_the_look_up_of_a_name(connect_s: float, limit_s: float) -> None:
    answer = threading.Event()

    def slow(host: str, port: int, *, flags: int = 0, **_: Any) -> Any:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        answer.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "late")

    async def scenario(transport: Kind) -> None:
        began = time.monotonic()
        late = await failure_of(
            call(transport, "http://slow.invalid/v1", connect_s=connect_s, limit_s=limit_s)
        )
        assert late == (FailureKind.TIMEOUT, Phase.CONNECT)
        assert 0.25 < time.monotonic() - began < 4

    with_transport(scenario, names=Names(slow))
    answer.set()


def test_the_connect_limit_bounds_the_tls_handshake() -> None:
    with RawServer(lambda conn: conn.recv(1 << 20) and conn.recv(1)) as server:

        async def scenario(transport: Kind) -> None:
            url = f"https://127.0.0.1:{server.port}/v1"
            late = await failure_of(call(transport, url, connect_s=0.3, limit_s=8))
            assert late == (FailureKind.TIMEOUT, Phase.CONNECT)
            await came(lambda: server.closed == 1)

        with_transport(scenario)


def test_a_body_that_nobody_reads_is_late_and_its_connection_is_dropped_at_once() -> None:
    over = threading.Event()
    with RawServer(lambda conn: over.wait(10)) as server:

        async def scenario(transport: Kind) -> None:
            late = await failure_of(call(transport, server.url, b"x" * 20_000_000, limit_s=0.3))
            assert late == (FailureKind.TIMEOUT, Phase.HEADERS)

        with_transport(scenario)
        over.set()


# Cancelling


@pytest.mark.parametrize(
    "fault", [Fault(kind="hang"), Fault(kind="hang_after_headers"), Fault(kind="stall", after_words=3)]
)
def test_cancelling_the_task_closes_the_connection_at_once(tenant: Tenant, fault: Fault) -> None:
    tenant.always(fault)

    async def read_on(transport: Kind, responses: list[AsyncResponse]) -> None:
        response = await transport.send(request_to(tenant.url, CHAT), connect_s=1, limit_s=30)
        responses.append(response)  # held on to and not closed: the cancellation alone must do it
        while await response.read(30):
            pass

    async def scenario(transport: Kind) -> None:
        responses: list[AsyncResponse] = []
        task = asyncio.create_task(read_on(transport, responses))
        await came(lambda: tenant.counters.in_flight == 1)
        await asyncio.sleep(0.1)  # until it reads
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await came(lambda: tenant.counters.aborted == 1)
        assert time.monotonic() - began < 2

    with_transport(scenario)


def test_cancelling_a_read_over_tls_closes_the_connection_at_once(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with tls_server(hangs(CHUNKED + b"2\r\n{}\r\n"), certificate) as server:

        async def scenario(transport: Kind) -> None:
            response = await transport.send(request_to(server.url), connect_s=2, limit_s=5)
            assert await response.read(2) == b"{}"
            task = asyncio.create_task(response.read(30))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await came(lambda: server.closed == 1)

        with_transport(scenario)


@pytest.mark.parametrize("fault", [Fault(kind="hang"), Fault(kind="hang_after_headers")])
def test_an_outer_cancellation_that_meets_the_limit_stays_a_cancellation(
    tenant: Tenant, fault: Fault
) -> None:
    tenant.always(fault)

    async def met(transport: Kind) -> bool:
        loop = asyncio.get_running_loop()
        began, held = loop.time(), []
        task = asyncio.create_task(call(transport, tenant.url, limit_s=0.3))

        def hold_up() -> None:
            held.append(loop.time())
            time.sleep(0.2)

        # Both callbacks run in one turn of the loop, which is held up meanwhile.
        loop.call_later(0.25, hold_up)
        loop.call_later(0.31, task.cancel)
        ended = (await asyncio.gather(task, return_exceptions=True))[0]
        if held[0] - began > 0.29:
            return False  # the limit may have had a turn of its own
        assert isinstance(ended, asyncio.CancelledError), ended
        assert task.cancelled()
        return True

    async def scenario(transport: Kind) -> None:
        while not await met(transport):
            pass

    with_transport(scenario)


def test_an_outer_timeout_ends_a_call_as_a_timeout_of_its_own(tenant: Tenant) -> None:
    tenant.always(Fault(kind="hang"))

    async def scenario(transport: Kind) -> None:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.2):
                await call(transport, tenant.url, limit_s=30)
        assert not isinstance(caught.value, TransportError)
        await came(lambda: tenant.counters.aborted == 1)

    with_transport(scenario)


def test_a_hundred_tasks_with_cancels_leave_nothing_behind(standin: StandInThread) -> None:
    tenant = standin.tenant("async-crowd", words=20, per_token_s=0.01)

    async def scenario(transport: Kind) -> None:
        tasks = [asyncio.create_task(call(transport, tenant.url, CHAT, limit_s=20)) for _ in range(100)]
        loop = asyncio.get_running_loop()
        for number, task in enumerate(tasks):
            if number % 2:
                loop.call_later(number * 0.004, task.cancel)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for number, result in enumerate(results):
            whole = isinstance(result, bytes) and b"[DONE]" in result
            assert whole or (number % 2 and isinstance(result, asyncio.CancelledError))
        await came(lambda: tenant.counters.in_flight == 0)
        assert transport.under_way == 0

    with_transport(scenario)


# Closing the transport


@pytest.mark.parametrize(
    ("fault", "phase"), [(Fault(kind="hang"), Phase.HEADERS), (Fault(kind="hang_after_headers"), Phase.BODY)]
)
def test_closing_the_transport_ends_what_is_under_way(tenant: Tenant, fault: Fault, phase: Phase) -> None:
    tenant.always(fault)

    async def scenario(transport: Kind) -> None:
        tasks = [asyncio.create_task(call(transport, tenant.url, limit_s=30)) for _ in range(3)]
        await came(lambda: tenant.counters.in_flight == 3)
        await asyncio.sleep(0.1)  # until they read
        await transport.close()
        await transport.close()
        for task in tasks:
            async with asyncio.timeout(2):
                assert await failure_of(task) == (FailureKind.CANCELLED, phase)
        await came(lambda: tenant.counters.aborted == 3)
        assert await failure_of(call(transport, tenant.url)) == (FailureKind.CANCELLED, Phase.CONNECT)
        assert tenant.counters.requests == 3

    with_transport(scenario)


def test_closing_the_transport_ends_a_call_that_is_not_connected_yet() -> None:
    answer, asked = threading.Event(), threading.Event()

    def slow(host: str, port: int, *, flags: int = 0, **_: Any) -> Any:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        asked.set()
        answer.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "late")

    async def scenario(transport: Kind) -> None:
        task = asyncio.create_task(call(transport, "http://slow.invalid/v1", connect_s=30, limit_s=30))
        await came(asked.is_set)
        await transport.close()
        async with asyncio.timeout(2):
            assert await failure_of(task) == (FailureKind.CANCELLED, Phase.CONNECT)

    with_transport(scenario, names=Names(slow))
    answer.set()


def test_closing_the_transport_does_not_wait_for_a_body_that_nobody_reads() -> None:
    over = threading.Event()

    def answers_at_once(conn: socket.socket) -> None:
        conn.recv(1024)
        conn.sendall(CHUNKED)
        over.wait(10)
        wait_until(lambda: not conn.recv(1 << 20), 10)

    with RawServer(answers_at_once) as server:

        async def scenario(transport: Kind) -> None:
            response = await transport.send(request_to(server.url, b"x" * 20_000_000), connect_s=2, limit_s=5)
            task = asyncio.create_task(response.read(30))
            await asyncio.sleep(0.1)
            async with asyncio.timeout(2):
                await transport.close()
                assert await failure_of(task) == (FailureKind.CANCELLED, Phase.BODY)

        with_transport(scenario)
        over.set()


def test_a_transport_that_sent_nothing_is_closed_without_a_word() -> None:
    async def scenario(transport: Kind) -> None:
        await transport.close()

    with_transport(scenario)
