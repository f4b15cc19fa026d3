"""All transports must make the same of what a server does: one list of behaviours, over real sockets."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import pytest
from raw_server import (
    ANSWER,
    CHUNKED,
    OK,
    Behaviour,
    RawServer,
    hangs,
    request_to,
    says,
    says_then_resets,
    trickles,
)

from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.transport.asynchronous import AiohttpTransport
from fallback.transport.base import AsyncTransport
from fallback.transport.direct import DirectTransport
from fallback.transport.sync import RequestsTransport

CONNECTION, MALFORMED, TIMEOUT = FailureKind.CONNECTION, FailureKind.MALFORMED_RESPONSE, FailureKind.TIMEOUT
HEADERS, BODY = Phase.HEADERS, Phase.BODY
LIMIT_S = 0.6


@dataclass(frozen=True)
class Came:
    """What a transport made of a server's behaviour."""

    status: int | None = None
    body: bytes = b""
    kind: FailureKind | None = None
    phase: Phase | None = None


def fetch_sync(url: str, limit_s: float) -> Came:
    status, body = None, b""
    with RequestsTransport() as transport:
        try:
            response = transport.send(request_to(url), connect_s=1, limit_s=limit_s)
            try:
                status = response.head.status
                while data := response.read(limit_s):
                    body += data
            finally:
                response.close()
        except TransportError as error:
            return Came(status, body, error.kind, error.phase)
    return Came(status, body)


async def fetch_async(transport: AsyncTransport, url: str, limit_s: float) -> Came:
    status, body = None, b""
    try:
        response = await transport.send(request_to(url), connect_s=1, limit_s=limit_s)
        try:
            status = response.head.status
            while data := await response.read(limit_s):
                body += data
        finally:
            await response.close()
    except TransportError as error:
        return Came(status, body, error.kind, error.phase)
    finally:
        await transport.close()
    return Came(status, body)


def long_header(size: int) -> bytes:
    return OK + b"X-Long: " + b"a" * size + b"\r\nContent-Length: 2\r\n\r\n{}"


def many_headers(count: int) -> bytes:
    return OK + b"".join(b"X-%d: 1\r\n" % n for n in range(count)) + b"Content-Length: 2\r\n\r\n{}"


WHOLE = Came(200, b"{}")
SERVED: dict[str, tuple[Behaviour, Came]] = {
    "a sized body": (says(ANSWER), WHOLE),
    "a chunked body": (says(CHUNKED + b"2\r\n{}\r\n0\r\n\r\n"), WHOLE),
    "chunk extensions and a trailer": (says(CHUNKED + b"2;a=b\r\n{}\r\n0\r\nX-End: 1\r\n\r\n"), WHOLE),
    "a body until the end of the connection": (says(OK + b"Connection: close\r\n\r\n{}"), WHOLE),
    "a body until the end, without a word": (says(OK + b"\r\n{}"), WHOLE),
    "a coding that is no framing": (says(OK + b"Transfer-Encoding: identity\r\n\r\n{}"), WHOLE),
    "lines that end in LF alone": (says(b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}"), WHOLE),
    "a header on two lines": (says(OK + b"X-A: a\r\n b\r\nContent-Length: 2\r\n\r\n{}"), WHOLE),
    "a control character in a header": (says(OK + b"X-A: a\x01b\r\nContent-Length: 2\r\n\r\n{}"), WHOLE),
    "a padded chunk size": (says(CHUNKED + b"2  \r\n{}\r\n0\r\n\r\n"), WHOLE),
    "HTTP/1.0": (says(b"HTTP/1.0 200 OK\r\n\r\n{}"), WHOLE),
    "an empty body": (says(OK + b"Content-Length: 0\r\n\r\n"), Came(200)),
    "204 without a body": (says(b"HTTP/1.1 204 No Content\r\n\r\n"), Came(204)),
    "103 Early Hints first": (
        says(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + ANSWER),
        WHOLE,
    ),
    "100 Continue first": (says(b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER), WHOLE),
    "a head in two pieces": (says(ANSWER[:20], 0.05, ANSWER[20:]), WHOLE),
    "a header of 20 KB": (says(long_header(20_000)), WHOLE),
    "80 headers": (says(many_headers(80)), WHOLE),
    "a redirect": (says(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"), Came(302)),
    "RST before headers": (says_then_resets(b""), Came(kind=CONNECTION, phase=HEADERS)),
    "closed before headers": (says(b""), Came(kind=CONNECTION, phase=HEADERS)),
    "closed inside the status line": (says(b"HTTP/1.1 20"), Came(kind=CONNECTION, phase=HEADERS)),
    "closed inside the headers": (says(OK + b"Content-Le"), Came(kind=CONNECTION, phase=HEADERS)),
    "closed between headers": (says(OK + b"Content-Length: 2\r\n"), Came(kind=CONNECTION, phase=HEADERS)),
    "RST inside the headers": (says_then_resets(OK + b"Content-Le"), Came(kind=CONNECTION, phase=HEADERS)),
    "not HTTP": (says(b"SSH-2.0-OpenSSH_9.6\r\n"), Came(kind=MALFORMED, phase=HEADERS)),
    "not HTTP, binary": (says(b"\x15\x03\x01\x00\x02\x02\x50\r\n\r\n"), Came(kind=MALFORMED, phase=HEADERS)),
    "a status that is no number": (says(b"HTTP/1.1 abc OK\r\n\r\n"), Came(kind=MALFORMED, phase=HEADERS)),
    "a header line of 100 KB": (says(long_header(100_000)), Came(kind=MALFORMED, phase=HEADERS)),
    "300 headers": (says(many_headers(300)), Came(kind=MALFORMED, phase=HEADERS)),
    "a header line without a colon": (
        says(OK + b"nonsense\r\nContent-Length: 2\r\n\r\n{}"),
        Came(kind=MALFORMED, phase=HEADERS),
    ),
    "a length that is no number": (
        says(OK + b"Content-Length: two\r\n\r\n{}"),
        Came(kind=MALFORMED, phase=HEADERS),
    ),
    "two lengths": (
        says(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
        Came(kind=MALFORMED, phase=HEADERS),
    ),
    "silence before headers": (hangs(), Came(kind=TIMEOUT, phase=HEADERS)),
    "silence inside headers": (hangs(OK + b"X-"), Came(kind=TIMEOUT, phase=HEADERS)),
    "headers byte by byte": (trickles(OK, b"X-A: 1\r\n"), Came(kind=TIMEOUT, phase=HEADERS)),
    "a status line byte by byte": (trickles(b"", b"HTTP/1.1 200 "), Came(kind=TIMEOUT, phase=HEADERS)),
    "closed before the promised length": (
        says(OK + b"Content-Length: 9\r\n\r\n{}"),
        Came(200, b"{}", CONNECTION, BODY),
    ),
    "RST in a sized body": (
        says_then_resets(OK + b"Content-Length: 9\r\n\r\n{}"),
        Came(200, b"{}", CONNECTION, BODY),
    ),
    "RST in a chunked body": (says_then_resets(CHUNKED + b"2\r\n{}\r\n"), Came(200, b"{}", CONNECTION, BODY)),
    "closed between chunks": (says(CHUNKED + b"2\r\n{}\r\n"), Came(200, b"{}", CONNECTION, BODY)),
    "closed inside a chunk": (says(CHUNKED + b"9\r\n{}"), Came(200, b"{}", CONNECTION, BODY)),
    "closed inside a chunk size": (says(CHUNKED + b"2\r\n{}\r\n1"), Came(200, b"{}", CONNECTION, BODY)),
    "closed inside what may be the last chunk": (
        says(CHUNKED + b"2\r\n{}\r\n0"),
        Came(200, b"{}", CONNECTION, BODY),
    ),
    "closed before the last empty line": (
        says(CHUNKED + b"2\r\n{}\r\n0\r\n"),
        Came(200, b"{}", CONNECTION, BODY),
    ),
    "a chunk size that is no number": (
        says(CHUNKED + b"2\r\n{}\r\n", 0.1, b"zz\r\n{}\r\n0\r\n\r\n"),
        Came(200, b"{}", CONNECTION, BODY),
    ),
    "a negative chunk size": (
        says(CHUNKED + b"2\r\n{}\r\n", 0.1, b"-5\r\n{}\r\n0\r\n\r\n"),
        Came(200, b"{}", CONNECTION, BODY),
    ),
    "no line end after a chunk": (
        says(CHUNKED + b"2\r\n{}\r\n", 0.1, b"2\r\n{}XX2\r\n{}\r\n0\r\n\r\n"),
        Came(200, b"{}{}", CONNECTION, BODY),
    ),
    "an endless chunk size": (
        says(CHUNKED + b"2\r\n{}\r\n", 0.1, b"1" * 200_000),
        Came(200, b"{}", CONNECTION, BODY),
    ),
    "silence before the body": (
        hangs(OK + b"Content-Length: 2\r\n\r\n"),
        Came(200, kind=TIMEOUT, phase=BODY),
    ),
    "silence in a body until the end of the connection": (
        hangs(OK + b"\r\n{}"),
        Came(200, b"{}", TIMEOUT, BODY),
    ),
    "silence in the body": (
        hangs(OK + b"Content-Length: 9\r\n\r\n{}"),
        Came(200, b"{}", TIMEOUT, BODY),
    ),
    "a chunk extension byte by byte": (trickles(CHUNKED + b"2;", b"a"), Came(200, kind=TIMEOUT, phase=BODY)),
    "a trailer byte by byte": (
        trickles(CHUNKED + b"2\r\n{}\r\n0\r\n", b"X-A: 1\r\n"),
        Came(200, b"{}", TIMEOUT, BODY),
    ),
}


@pytest.mark.parametrize("driver", ["sync", "direct", "direct-uvloop", "aiohttp"])
@pytest.mark.parametrize("name", SERVED)
def test_what_a_server_does_is_translated_alike(name: str, driver: str) -> None:
    behave, expected = SERVED[name]
    limit_s = LIMIT_S if expected.kind is TIMEOUT else 5.0
    with RawServer(behave) as server:
        began = time.monotonic()
        if driver == "sync":
            came = fetch_sync(server.url, limit_s)
        else:
            transport = AiohttpTransport() if driver == "aiohttp" else DirectTransport()
            made = pytest.importorskip("uvloop").new_event_loop if driver == "direct-uvloop" else None
            with asyncio.Runner(loop_factory=made) as runner:
                came = runner.run(fetch_async(transport, server.url, limit_s))
        took_s = time.monotonic() - began
        assert came == expected
        assert server.accepted == 1
        assert server.wait_closed(), "the connection is not left open"
    if expected.kind is TIMEOUT:
        assert took_s > 0.9 * LIMIT_S
    assert took_s < 4
