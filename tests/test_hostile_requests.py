"""Odd and hostile requests: a clear 4xx or a closed connection, the program alive and answering others."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from api_sockets import KEEP, assert_it_answers, connected, exchange, post, serving, statuses

from fallback.api.server import raise_file_limit
from fallback.standin import StandInThread


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        server.tenant("groq_llama", dialect="groq", text="Tokyo is the capital.")
        yield server


@pytest.fixture(scope="module")
def usual(standin: StandInThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server with the usual limits."""
    with serving(tmp_path_factory.mktemp("usual"), standin) as port:
        yield port


# Too much


@pytest.mark.parametrize("size", [40_000, 400_000])
def test_headers_that_are_too_long_are_refused(usual: int, size: int) -> None:
    raw = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * size + b"\r\n\r\n"
    assert statuses(exchange(usual, raw)) in ([431], [])
    assert_it_answers(usual)


def test_many_headers_are_refused(usual: int) -> None:
    raw = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 20_000 + b"\r\n"
    assert statuses(exchange(usual, raw)) in ([431], [])
    assert_it_answers(usual)


def test_headers_up_to_the_limit_are_taken(usual: int) -> None:
    raw = f"GET /healthz HTTP/1.1\r\n{KEEP}connection: close\r\nx: {'a' * 30_000}\r\n\r\n".encode()
    assert statuses(exchange(usual, raw)) == [200]


def test_a_long_body_right_behind_its_headers_is_no_long_header(usual: int) -> None:
    body = json.dumps({"prompt": "a" * 500_000}).encode()
    assert statuses(exchange(usual, post(body, more="connection: close\r\n"))) == [200]


def test_long_line_of_a_request_is_refused(usual: int) -> None:
    assert statuses(exchange(usual, b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n")) in (
        [431],
        [],
    )
    assert_it_answers(usual)


def test_body_without_end_to_a_path_that_reads_none_is_cut_off(usual: int) -> None:
    with connected(usual) as endless:
        endless.sendall(f"POST /healthz HTTP/1.1\r\n{KEEP}content-length: 100000000\r\n\r\n".encode())
        sent = 0
        try:
            while sent < 50_000_000:
                sent += endless.send(b"a" * 65536)
        except OSError:
            pass
        assert sent < 50_000_000
    assert_it_answers(usual)


# Odd and hostile requests: a clear 4xx or a closed connection, and others are served

HOSTILE = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a1030300") + b"\x00" * 160,
    "zeros": b"\x00" * 1000,
    "no version": b"GET /api/providers\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "unknown version": b"GET /healthz HTTP/9.9\r\nhost: localhost\r\n\r\n",
    "no host": b"GET /api/providers HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /api/providers HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n",
    "space before colon": b"GET /api/providers HTTP/1.1\r\nhost : localhost\r\n\r\n",
    "folded header": b"GET /api/providers HTTP/1.1\r\nhost: localhost\r\nx: a\r\n b\r\n\r\n",
    "zero byte in a header": b"GET /api/providers HTTP/1.1\r\nhost: localhost\r\nx: a\x00b\r\n\r\n",
    "length and chunks": b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "two lengths": b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
    "list of lengths": b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4, 5\r\n\r\nabcde",
    "negative length": b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
    "length in words": b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: many\r\n\r\n",
    "length beyond all": b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: " + b"9" * 40 + b"\r\n\r\n",
    "plus in the length": b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: +4\r\n\r\nabcd",
    "unknown encoding": b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: xchunked\r\n\r\n",
    "chunked, but not last": b"POST /api/generate HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked, gzip\r\n\r\n",
    "chunk of a wrong size": b"POST /api/generate HTTP/1.1\r\n" + KEEP.encode() + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    "chunk of a negative size": b"POST /api/generate HTTP/1.1\r\n" + KEEP.encode() + b"transfer-encoding: chunked\r\n\r\n-1\r\n",
    "CONNECT": b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n",
    "star": b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "whole address of another": b"GET http://evil.example/api/providers HTTP/1.1\r\nhost: evil.example\r\n\r\n",
    "unknown method": b"BREW /api/generate HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "bytes in the path": b"GET /api/\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "escapes in the path": b"GET /api/%ff%fe%00%2e%2e HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "upgrade": b"GET /api/providers HTTP/1.1\r\nhost: evil.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_request_gets_4xx_or_a_closed_connection(
    usual: int, standin: StandInThread, case: str
) -> None:
    asked = standin.tenant("groq_llama").counters.requests
    found = statuses(exchange(usual, HOSTILE[case]))
    assert all(400 <= status < 500 for status in found), found
    assert len(found) <= 1
    assert standin.tenant("groq_llama").counters.requests == asked
    assert_it_answers(usual)


def test_garbage_behind_a_request_under_way_is_not_answered_into_its_answer(
    usual: int, standin: StandInThread
) -> None:
    answer = exchange(usual, post(b'{"prompt": "a"}') + b"\x00\x01garbage\r\n\r\n")
    assert statuses(answer) in ([200], [])
    assert b"Invalid HTTP" not in answer
    assert_it_answers(usual)


def test_half_a_request_and_a_caller_who_leaves_disturb_nobody(usual: int, standin: StandInThread) -> None:
    whole = post(b'{"prompt": "Hello", "stream": true}')
    for cut in range(0, len(whole), 7):
        with connected(usual) as connection:
            connection.sendall(whole[:cut])
    assert_it_answers(usual)


def test_pipelined_requests_are_answered_in_their_order(usual: int) -> None:
    raw = post(b'{"prompt": "a"}') + b"GET /api/nothing HTTP/1.1\r\nhost: localhost\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    assert statuses(exchange(usual, raw * 3 + last)) == [200, 404] * 3 + [200]


def test_flood_of_pipelined_requests_is_answered_without_being_held_in_memory(usual: int) -> None:
    one = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with connected(usual) as connection:
        sending = threading.Thread(target=lambda: connection.sendall(one * 20_000), daemon=True)
        sending.start()
        count, left = 0, b""
        while count < 20_000:
            piece = connection.recv(1 << 20)
            assert piece, count
            left += piece
            found = left.count(b"HTTP/1.1 200 OK")
            count += found
            left = left[left.rfind(b"HTTP/1.1 200 OK") + 1 :] if found else left
        sending.join(10)
    assert_it_answers(usual)


def test_a_thousand_idle_connections_disturb_nobody(usual: int) -> None:
    raise_file_limit()
    with ExitStack() as stack:
        for number in range(1000):
            idle = stack.enter_context(connected(usual))
            if number % 2:
                idle.sendall(b"GET /healthz HTTP/1.1\r\nhost: local")
        assert_it_answers(usual)
        metrics = exchange(
            usual, f"GET /metrics HTTP/1.1\r\n{KEEP}connection: close\r\n\r\n".encode()
        ).decode()
        found = re.search(r"^fallback_http_connections ([\d.]+)$", metrics, re.MULTILINE)
        assert found
        assert float(found[1]) >= 1000
    assert_it_answers(usual)
