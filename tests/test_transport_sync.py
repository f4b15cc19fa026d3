"""RequestsTransport over real sockets. What both transports make of a broken server stands in test_transport_parity."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
    in_thread,
    read_request,
    request_to,
    self_signed,
    tls_server,
    trickles,
    tunnel,
    wait_until,
)

from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.standin import Fault, StandInThread, Tenant, refused_port
from fallback.transport import Cancellation, connections
from fallback.transport.base import Environment
from fallback.transport.names import Address, Names
from fallback.transport.sync import RequestsTransport
from fallback.transport.watchdog import Call, Watchdog


@pytest.fixture
def transport() -> Iterator[RequestsTransport]:
    with RequestsTransport() as transport:
        yield transport


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as standin:
        yield standin


@pytest.fixture
def tenant(standin: StandInThread, request: pytest.FixtureRequest) -> Tenant:
    return standin.tenant(f"t{abs(hash(request.node.name))}")


def call(
    transport: RequestsTransport,
    url: str,
    body: bytes = PLAIN,
    *,
    connect_s: float = 2.0,
    limit_s: float = 5.0,
    until: Callable[[bytes], bool] = lambda data: False,
    cancellation: Cancellation | None = None,
) -> bytes:
    """Send, read to the end or until `until`, close; return the body."""
    response = transport.send(
        request_to(url, body), connect_s=connect_s, limit_s=limit_s, cancellation=cancellation
    )
    data = b""
    try:
        while not until(data):
            piece = response.read(limit_s)
            if not piece:
                break
            data += piece
    finally:
        response.close()
    return data


def failure_of(work: Callable[[], object]) -> tuple[FailureKind, Phase]:
    with pytest.raises(TransportError) as caught:
        work()
    return caught.value.kind, caught.value.phase


# Connections and what is sent over them


def test_calls_share_one_connection(transport: RequestsTransport, tenant: Tenant) -> None:
    for _ in range(5):
        assert b"w60" in call(transport, tenant.url)
    assert tenant.counters.requests == 5
    assert tenant.counters.connections == 1


def test_a_stream_closed_at_its_done_event_gives_its_connection_back(
    transport: RequestsTransport, tenant: Tenant
) -> None:
    for _ in range(5):
        assert b"[DONE]" in call(transport, tenant.url, CHAT, until=lambda data: b"[DONE]" in data)
    assert tenant.counters.connections == 1


def test_a_response_closed_early_is_not_reused(transport: RequestsTransport, tenant: Tenant) -> None:
    tenant.configure(words=2000, per_token_s=0.01)
    call(transport, tenant.url, CHAT, until=lambda data: b"w1" in data)
    assert tenant.wait_for(lambda seen: seen.aborted == 1)
    tenant.configure(words=1, per_token_s=0.0)
    call(transport, tenant.url, CHAT)
    assert tenant.counters.connections == 2


def test_closing_twice_and_reading_afterwards_are_harmless(
    transport: RequestsTransport, tenant: Tenant
) -> None:
    response = transport.send(request_to(tenant.url), connect_s=1, limit_s=5)
    while response.read(1):
        pass
    response.close()
    response.close()
    assert response.read(1) == b""
    assert failure_of(lambda: closed_early(transport, tenant).read(1)) == (
        FailureKind.CANCELLED,
        Phase.BODY,
    )


def closed_early(transport: RequestsTransport, tenant: Tenant) -> Any:
    tenant.always(Fault(kind="hang_after_headers"))
    response = transport.send(request_to(tenant.url), connect_s=1, limit_s=5)
    response.close()
    return response


def test_a_pooled_connection_that_the_server_closed_is_replaced_without_an_error(
    transport: RequestsTransport,
) -> None:
    def once(conn: socket.socket) -> None:
        read_request(conn)
        conn.sendall(ANSWER)

    with RawServer(once) as server:
        for count in range(1, 4):
            assert call(transport, server.url) == b"{}"
            assert server.wait_closed(count)
        assert server.accepted == 3


def test_a_connection_idle_for_long_is_not_used_again(
    transport: RequestsTransport, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(transport, tenant.url)
    monkeypatch.setattr(connections, "KEEP_ALIVE_S", -1.0)  # instead of waiting for half a minute
    call(transport, tenant.url)
    assert tenant.counters.connections == 2


def test_cookies_are_neither_kept_nor_sent(transport: RequestsTransport, tenant: Tenant) -> None:
    tenant.configure(headers={"Set-Cookie": "session=1; Path=/"})
    call(transport, tenant.url)
    call(transport, tenant.url)
    assert all("cookie" not in seen.headers for seen in tenant.last_requests)


def test_redirects_are_not_followed(
    transport: RequestsTransport, standin: StandInThread, tenant: Tenant
) -> None:
    other = standin.tenant("redirected-to")
    tenant.always(Fault(kind="redirect", location=other.url))
    response = transport.send(request_to(tenant.url), connect_s=1, limit_s=5)
    assert response.head.status == 302
    response.close()
    assert other.counters.requests == 0


def test_a_refusal_with_retry_after_is_not_repeated(transport: RequestsTransport, tenant: Tenant) -> None:
    tenant.always(Fault(kind="status", status=503, retry_after="1"))
    began = time.monotonic()
    call(transport, tenant.url)
    assert tenant.counters.requests == 1
    assert time.monotonic() - began < 0.9


def test_headers_are_sent_as_given(transport: RequestsTransport, tenant: Tenant) -> None:
    call(transport, tenant.url, PLAIN)
    headers = tenant.last_requests[0].headers
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"] == "tests"
    assert headers["content-length"] == str(len(PLAIN))
    assert tenant.last_requests[0].body == json.loads(PLAIN)


def test_a_compressed_body_is_passed_on_as_it_came(transport: RequestsTransport, tenant: Tenant) -> None:
    tenant.always(Fault(kind="gzip"))
    assert call(transport, tenant.url).startswith(b"\x1f\x8b")


def test_response_header_names_are_in_lower_case_and_repeated_ones_joined(
    transport: RequestsTransport,
) -> None:
    head = OK + b"X-Twice: a\r\nx-tWICE: b\r\nX-Bytes: caf\xc3\xa9\r\nContent-Length: 0\r\n\r\n"
    with RawServer(hangs(head)) as server:
        response = transport.send(request_to(server.url), connect_s=1, limit_s=5)
        assert response.head.headers["x-twice"] == "a, b"
        assert response.head.headers["x-bytes"] == "caf\u00c3\u00a9"
        response.close()


# The environment


def test_a_proxy_of_the_environment_is_used_and_obeys_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def proxy(conn: socket.socket) -> None:
        seen.append(read_request(conn))
        conn.sendall(ANSWER)
        seen.append(read_request(conn))
        conn.recv(1)

    with RawServer(proxy) as server:
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{server.port}")
        monkeypatch.setenv("no_proxy", "")
        with RequestsTransport() as transport:
            monkeypatch.delenv("http_proxy")  # read once
            url = "http://provider.invalid/v1/chat/completions"
            assert call(transport, url) == b"{}"
            late = failure_of(lambda: call(transport, url, limit_s=0.3))
            assert late == (FailureKind.TIMEOUT, Phase.HEADERS)
            assert server.wait_closed()
    assert seen[0].startswith(b"POST http://provider.invalid/v1/chat/completions HTTP/1.1\r\n")
    assert server.accepted == 1


def test_no_proxy_and_loopback_go_directly(monkeypatch: pytest.MonkeyPatch, tenant: Tenant) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "internal.example,10.0.0.0/8")
    environment = Environment()
    assert environment.proxy("http://internal.example/v1") is None
    assert environment.proxy("https://10.1.2.3/v1") is None
    assert environment.proxy("http://[::1]:1234/v1") is None
    for host in ("localhost", "LOCALHOST.", "a.localhost", "127.8.9.1"):
        assert environment.proxy(f"http://{host}/v1") is None
    assert environment.proxy("https://api.groq.com/v1") == "http://127.0.0.1:1"
    with RequestsTransport(environment) as transport:
        assert b"w60" in call(transport, tenant.url)


def test_a_proxy_that_is_down_and_one_of_another_kind_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://provider.invalid/v1"
    monkeypatch.setenv("no_proxy", "")
    with refused_port() as port:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        with RequestsTransport() as transport, pytest.raises(TransportError) as refused:
            call(transport, url)
    assert (refused.value.kind, refused.value.phase) == (FailureKind.CONNECTION, Phase.CONNECT)
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with RequestsTransport() as transport, pytest.raises(TransportError, match="only http and https proxies"):
        call(transport, url)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls"))


def test_a_certificate_that_nobody_signed_is_refused(transport: RequestsTransport, certificate: Path) -> None:
    with (
        tls_server(hangs(ANSWER), certificate) as server,
        pytest.raises(TransportError, match="TLS failed") as caught,
    ):
        call(transport, server.url)
    assert (caught.value.kind, caught.value.phase) == (FailureKind.CONNECTION, Phase.CONNECT)


def test_the_ca_bundle_of_the_environment_is_trusted(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))

    def serve(conn: socket.socket) -> None:
        while read_request(conn):
            conn.sendall(ANSWER)

    with tls_server(serve, certificate) as server, RequestsTransport() as transport:
        assert call(transport, server.url) == b"{}"
        assert call(transport, server.url) == b"{}"
        assert server.accepted == 1
        with pytest.raises(TransportError, match="TLS failed"):
            call(transport, server.url.replace("localhost", "127.0.0.1"))


def test_a_ca_bundle_that_cannot_be_read_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with RequestsTransport() as transport, pytest.raises(TransportError, match="certificate authorities"):
        call(transport, "https://localhost:1/v1")


def test_tls_through_a_tunnel_of_the_proxy_can_be_cancelled(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setenv("no_proxy", "")
    reached = threading.Event()

    def serve(conn: socket.socket) -> None:
        read_request(conn)
        conn.sendall(ANSWER)
        read_request(conn)
        reached.set()
        conn.recv(1)

    with tls_server(serve, certificate) as server, RawServer(tunnel(server.port)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        with RequestsTransport() as transport:
            # The proxy leads every name to the server; its certificate names this one too.
            url = "https://provider.invalid/v1"
            assert call(transport, url) == b"{}"
            cancellation = Cancellation()
            running = in_thread(lambda: call(transport, url, cancellation=cancellation))
            assert reached.wait(3)
            cancellation.cancel()
            assert failure_of(running) == (FailureKind.CANCELLED, Phase.HEADERS)
            assert server.wait_closed()
        assert proxy.accepted == 1


# Limits


def test_refused_and_unknown_names_are_connection_failures(transport: RequestsTransport) -> None:
    with refused_port() as port, pytest.raises(TransportError, match="connection refused") as caught:
        call(transport, f"http://127.0.0.1:{port}/v1")
    assert (caught.value.kind, caught.value.phase) == (FailureKind.CONNECTION, Phase.CONNECT)

    def unknown(host: str, *_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    with RequestsTransport(names=Names(unknown)) as other, pytest.raises(TransportError) as nameless:
        call(other, "http://nowhere.invalid/v1")
    assert (nameless.value.kind, nameless.value.phase) == (FailureKind.CONNECTION, Phase.CONNECT)
    assert nameless.value.detail == "the name cannot be resolved"


class SlowNames:
    """A name server that answers when it is told to. Counts the look-ups of names."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.asked = 0

    def __call__(self, host: str, port: int, *, flags: int = 0, **_: Any) -> Any:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        self.asked += 1
        self.answer.wait(10)
        return socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)


class CountingNames(Names):
    """Tells who waits for a name."""

    def __init__(self, getaddrinfo: Callable[..., Any]) -> None:
        super().__init__(getaddrinfo)
        self.waiting: list[str] = []

    def look_up(self, host: str, port: int) -> Future[Sequence[Address]]:
        result = super().look_up(host, port)
        self.waiting.append(host)
        return result


@pytest.fixture
def slow_names() -> Iterator[SlowNames]:
    names = SlowNames()
    yield names
    names.answer.set()


def test_the_connect_limit_bounds_the_look_up_of_a_name(slow_names: SlowNames) -> None:
    with RequestsTransport(names=Names(slow_names)) as transport:
        began = time.monotonic()
        failed = failure_of(lambda: call(transport, "http://slow.invalid/v1", connect_s=0.3, limit_s=8))
        assert failed == (FailureKind.TIMEOUT, Phase.CONNECT)
        assert 0.25 < time.monotonic() - began < 4


def test_many_calls_that_wait_for_one_name_share_its_look_up(
    slow_names: SlowNames, tenant: Tenant, standin: StandInThread
) -> None:
    url = tenant.url.replace("127.0.0.1", "slow.invalid")
    names = CountingNames(slow_names)
    with RequestsTransport(names=names) as transport, ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(call, transport, url) for _ in range(8)]
        wait_until(lambda: len(names.waiting) == 8)  # a call that comes after the answer asks anew
        slow_names.answer.set()
        assert all(b"w60" in done.result(timeout=5) for done in calls)
    assert slow_names.asked == 1


def test_a_cancelled_call_does_not_wait_for_a_name(slow_names: SlowNames) -> None:
    with RequestsTransport(names=Names(slow_names)) as transport:
        cancellation = Cancellation()
        running = in_thread(
            lambda: call(
                transport, "http://slow.invalid/v1", connect_s=8, limit_s=8, cancellation=cancellation
            )
        )
        wait_until(lambda: slow_names.asked == 1)
        began = time.monotonic()
        cancellation.cancel()
        assert failure_of(running) == (FailureKind.CANCELLED, Phase.CONNECT)
        assert time.monotonic() - began < 4


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port whose backlog is full: a connection to it is neither made nor refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = []
        for _ in range(8):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            waiting.append(sock)
        yield port
        for sock in waiting:
            sock.close()


def test_the_connect_limit_bounds_the_connection(transport: RequestsTransport, deaf_port: int) -> None:
    began = time.monotonic()
    failed = failure_of(lambda: call(transport, f"http://127.0.0.1:{deaf_port}/v1", connect_s=0.3, limit_s=8))
    assert failed == (FailureKind.TIMEOUT, Phase.CONNECT)
    assert 0.25 < time.monotonic() - began < 4


def test_a_call_that_is_still_connecting_can_be_cancelled(
    transport: RequestsTransport, deaf_port: int
) -> None:
    cancellation = Cancellation()
    url = f"http://127.0.0.1:{deaf_port}/v1"
    running = in_thread(lambda: call(transport, url, connect_s=8, limit_s=8, cancellation=cancellation))
    time.sleep(0.2)  # nothing tells that a connect is under way
    cancellation.cancel()
    began = time.monotonic()
    assert failure_of(running) == (FailureKind.CANCELLED, Phase.CONNECT)
    assert time.monotonic() - began < 4


def test_the_connect_limit_bounds_the_tls_handshake(transport: RequestsTransport) -> None:
    with RawServer(lambda conn: conn.recv(1 << 20) and conn.recv(1)) as server:
        began = time.monotonic()
        url = f"https://127.0.0.1:{server.port}/v1"
        failed = failure_of(lambda: call(transport, url, connect_s=0.3, limit_s=8))
        assert failed == (FailureKind.TIMEOUT, Phase.CONNECT)
        assert 0.25 < time.monotonic() - began < 4
        assert server.wait_closed()


def test_sending_a_large_body_may_take_longer_than_connecting(transport: RequestsTransport) -> None:
    def slow_reader(conn: socket.socket) -> None:
        time.sleep(0.5)
        read_request(conn)
        conn.sendall(ANSWER)

    with RawServer(slow_reader) as server:
        assert call(transport, server.url, b"x" * 20_000_000, connect_s=0.2, limit_s=8) == b"{}"


def test_a_body_that_nobody_reads_is_late(transport: RequestsTransport) -> None:
    def deaf(conn: socket.socket) -> None:
        wait_until(lambda: over.is_set(), 5)

    over = threading.Event()
    with RawServer(deaf) as server:
        failed = failure_of(lambda: call(transport, server.url, b"x" * 20_000_000, limit_s=0.3))
        over.set()
    assert failed == (FailureKind.TIMEOUT, Phase.HEADERS)


def test_a_read_may_wait_longer_than_the_headers_did(transport: RequestsTransport) -> None:
    def late_body(conn: socket.socket) -> None:
        read_request(conn)
        conn.sendall(OK + b"Content-Length: 2\r\n\r\n")
        time.sleep(0.6)
        conn.sendall(b"{}")

    with RawServer(late_body) as server:
        response = transport.send(request_to(server.url), connect_s=0.3, limit_s=0.3)
        assert response.read(5) == b"{}"
        response.close()


@pytest.mark.parametrize("rest", [b"0", b"a", b"\r\n"])
def test_a_read_is_bounded_while_no_byte_of_the_body_comes(transport: RequestsTransport, rest: bytes) -> None:
    start = CHUNKED + (b"2;" if rest == b"a" else b"2\r\n{}\r\n0\r\nX: y" if rest == b"\r\n" else b"")
    if rest == b"\r\n":
        rest = b"\r\nX: y"
    with RawServer(trickles(start, rest)) as server:
        response = transport.send(request_to(server.url), connect_s=1, limit_s=5)
        began = time.monotonic()

        def read() -> None:
            while response.read(0.3):
                pass

        assert failure_of(read) == (FailureKind.TIMEOUT, Phase.BODY)
        assert 0.25 < time.monotonic() - began < 4
        assert failure_of(read) == (FailureKind.TIMEOUT, Phase.BODY), "a late response stays late"
        response.close()
        assert server.wait_closed()


def test_each_read_has_a_limit_of_its_own(transport: RequestsTransport) -> None:
    pieces = 8

    def slow(conn: socket.socket) -> None:
        read_request(conn)
        conn.sendall(OK + b"Content-Length: %d\r\n\r\n" % pieces)
        for _ in range(pieces):
            time.sleep(0.15)
            conn.sendall(b"x")

    with RawServer(slow) as server:
        response = transport.send(request_to(server.url), connect_s=1, limit_s=2)
        assert b"".join(iter(lambda: response.read(1.0), b"")) == b"x" * pieces
        response.close()


# Cancelling


def test_a_call_is_cancelled_before_it_is_sent(transport: RequestsTransport, tenant: Tenant) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    failed = failure_of(lambda: call(transport, tenant.url, cancellation=cancellation))
    assert failed == (FailureKind.CANCELLED, Phase.CONNECT)
    assert tenant.counters.requests == 0


@pytest.mark.parametrize(
    ("fault", "phase"),
    [
        (Fault(kind="hang"), Phase.HEADERS),
        (Fault(kind="hang_after_headers"), Phase.BODY),
        (Fault(kind="stall", after_words=3), Phase.BODY),
    ],
)
def test_another_thread_ends_a_call_and_the_server_sees_it_at_once(
    transport: RequestsTransport, tenant: Tenant, fault: Fault, phase: Phase
) -> None:
    tenant.always(fault)
    cancellation = Cancellation()
    running = in_thread(lambda: call(transport, tenant.url, CHAT, limit_s=30, cancellation=cancellation))
    assert tenant.wait_for(lambda seen: seen.in_flight == 1)
    time.sleep(0.1)  # until it reads
    began = time.monotonic()
    cancellation.cancel()
    assert failure_of(running) == (FailureKind.CANCELLED, phase)
    assert tenant.wait_for(lambda seen: seen.aborted == 1)
    assert time.monotonic() - began < 2


def test_another_thread_ends_a_read_over_tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with tls_server(hangs(CHUNKED + b"2\r\n{}\r\n"), certificate) as server, RequestsTransport() as transport:
        cancellation = Cancellation()
        response = transport.send(request_to(server.url), connect_s=2, limit_s=5, cancellation=cancellation)
        assert response.read(2) == b"{}"
        running = in_thread(lambda: response.read(30))
        time.sleep(0.1)  # until it reads
        cancellation.cancel()
        assert failure_of(running) == (FailureKind.CANCELLED, Phase.BODY)
        response.close()
        assert server.wait_closed()


@pytest.mark.parametrize("body", [PLAIN, CHAT])
def test_neither_a_cancelled_call_that_is_over_nor_its_limit_touches_the_connection_of_the_next(
    transport: RequestsTransport, tenant: Tenant, body: bytes
) -> None:
    cancellation = Cancellation()
    response = transport.send(
        request_to(tenant.url, body), connect_s=2, limit_s=0.4, cancellation=cancellation
    )
    while response.read(0.4):
        pass
    # The body is at its end, the response not closed yet: its connection serves the next call already.
    tenant.configure(words=2, per_token_s=0.5)
    running = in_thread(lambda: call(transport, tenant.url, CHAT, limit_s=5))
    assert tenant.wait_for(lambda seen: seen.in_flight == 1)
    cancellation.cancel()
    response.close()
    time.sleep(0.5)  # beyond the limit of the first call
    assert b"[DONE]" in running()
    assert tenant.counters.connections == 1


def test_a_call_ended_while_its_connection_goes_back_leaves_no_broken_one_in_the_pool(
    transport: RequestsTransport, tenant: Tenant
) -> None:
    for _ in range(30):
        cancellation = Cancellation()
        response = transport.send(request_to(tenant.url), connect_s=2, limit_s=5, cancellation=cancellation)
        canceller = threading.Thread(target=cancellation.cancel)
        canceller.start()
        try:
            while response.read(5):
                pass
        except TransportError as error:
            assert error.kind is FailureKind.CANCELLED  # noqa: PT017 - whether it comes first is a race
        response.close()
        canceller.join()
        assert b"w60" in call(transport, tenant.url)


def test_a_hundred_threads_with_random_cancels_leave_nothing_behind(standin: StandInThread) -> None:
    tenant = standin.tenant("crowd", words=20, per_token_s=0.01)
    dice = random.Random(7)  # seeded, so that a failure can be repeated
    before_threads, before_files = threading.active_count(), open_files()
    outcomes: list[str] = []

    def one(cancel_after_s: float | None) -> None:
        cancellation = Cancellation()
        timer = threading.Timer(cancel_after_s or 0, cancellation.cancel)
        if cancel_after_s is not None:
            timer.start()
        try:
            whole = b"[DONE]" in call(crowded, tenant.url, CHAT, limit_s=20, cancellation=cancellation)
            outcomes.append("whole" if whole else "cut")
        except TransportError as error:
            outcomes.append(error.kind)
        if cancel_after_s is not None:
            timer.join()

    with RequestsTransport() as crowded:
        plans = [dice.choice([None, dice.uniform(0, 0.4)]) for _ in range(100)]
        threads = [threading.Thread(target=one, args=(plan,)) for plan in plans]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
            assert not thread.is_alive()
        assert tenant.wait_for(lambda seen: seen.in_flight == 0)
        assert not crowded._calls
    assert len(outcomes) == 100
    assert set(outcomes) <= {"whole", FailureKind.CANCELLED}
    assert outcomes.count("whole") >= plans.count(None)
    wait_until(lambda: threading.active_count() <= before_threads)
    wait_until(lambda: open_files() <= before_files)


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


# Closing the transport


def test_closing_the_transport_ends_what_is_under_way_and_its_watchdog(tenant: Tenant) -> None:
    tenant.always(Fault(kind="hang"))
    transport = RequestsTransport()
    running = [in_thread(lambda: call(transport, tenant.url, limit_s=30)) for _ in range(3)]
    assert tenant.wait_for(lambda seen: seen.in_flight == 3)
    transport.close()
    transport.close()
    for one in running:
        assert failure_of(one) == (FailureKind.CANCELLED, Phase.HEADERS)
    assert tenant.wait_for(lambda seen: seen.aborted == 3)
    wait_until(lambda: "fallback-watchdog" not in {thread.name for thread in threading.enumerate()})
    assert failure_of(lambda: call(transport, tenant.url)) == (FailureKind.CANCELLED, Phase.CONNECT)
    assert tenant.counters.requests == 3


# The watchdog by itself


def test_a_limit_that_moves_closer_is_kept() -> None:
    now = time.monotonic()
    watchdog = Watchdog(time.monotonic)
    far = Call(watchdog, connect_due=now + 60, due=now + 60)
    far.watch(now + 60)
    near = Call(watchdog, connect_due=now + 60, due=now + 60)
    near.watch(now + 60)
    near.watch(time.monotonic() + 0.1)
    wait_until(lambda: near.expired)
    assert not far.expired
    far.watch(time.monotonic() + 0.1)
    far.watch(time.monotonic() + 60)
    time.sleep(0.3)
    assert not far.expired
    watchdog.close()


def test_ssl_sockets_are_woken_by_a_shutdown_of_their_duplicate(certificate: Path) -> None:
    with tls_server(hangs(), certificate) as server:
        context = ssl.create_default_context(cafile=str(certificate))
        plain = socket.create_connection(("127.0.0.1", server.port))
        with context.wrap_socket(plain, server_hostname="localhost") as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
            held = Call(Watchdog(time.monotonic), connect_due=0, due=0)
            held.hold(sock)
            running = in_thread(lambda: sock.recv(1))
            time.sleep(0.1)  # until it reads
            held.abort()
            with contextlib.suppress(ConnectionResetError):  # what Python 3.13 makes of it now and then
                assert running() == b""
            held.let_go()
