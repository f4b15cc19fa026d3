"""The transport of AsyncModelRouter through a proxy, and where httptools cannot be had: aiohttp, one session for one event loop.

Theory of operation: an asyncio.timeout around each step bounds it whatever the peer does, and the cancellation of a task
closes its connection. A connection is given back by aiohttp itself with the last byte of its body; one that is not at
its end is aborted, since a plain close would first wait for the peer to take what is still to be written.
"""

from __future__ import annotations

import asyncio
import io
import socket
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.providers.base import WireRequest
from fallback.transport.base import DRAIN_S, KEEP_ALIVE_S, MAX_HEADER_BYTES, MAX_HEADERS, Environment, Head
from fallback.transport.names import Names

__all__ = ["AiohttpResponse", "AiohttpTransport"]

DNS_CACHE_S = 60
LARGE_BODY_BYTES = 1024 * 1024

_FOREIGN = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError)


class _Reached:
    """How far a call has come: its connection, once it stands."""

    transport: asyncio.Transport | None = None


_reached: ContextVar[_Reached] = ContextVar("reached")


class _Connector(aiohttp.TCPConnector):
    """Notes which connection a call got."""

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109 - aiohttp's signature
        connection = await super().connect(req, traces, timeout)
        _reached.get().transport = connection.transport
        return connection


class _Resolver(AbstractResolver):
    """Looks names up outside of the loop's executor, whose few threads a dead name server would block for everyone."""

    def __init__(self, names: Names) -> None:
        self._names = names

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await asyncio.wrap_future(self._names.look_up(host, port))
        return [
            ResolveResult(
                hostname=host, host=found[4][0], port=found[4][1], family=found[0], proto=found[2], flags=0
            )
            for found in addresses
            if family in {socket.AF_UNSPEC, found[0]}
        ]

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


def _note(lost: asyncio.Future[None]) -> None:
    """Take note of how a connection ended, so that asyncio does not complain that nobody did."""
    if not lost.cancelled():
        lost.exception()


class AiohttpResponse:
    """A response of AiohttpTransport."""

    def __init__(self, response: aiohttp.ClientResponse, owner: AiohttpTransport) -> None:
        self._response = response
        self._owner = owner
        self._failure: TransportError | None = None
        self._closed = False
        connection = response.connection
        protocol = connection.protocol if connection is not None else None
        self._lost = protocol.closed if protocol is not None else None
        if self._lost is not None:
            self._lost.add_done_callback(self._wake)
            # A connection that is lost later, in the pool or under another call, is news to nobody here.
            self._lost.remove_done_callback(_note)
            self._lost.add_done_callback(_note)
        headers: dict[str, str] = {}
        for raw_name, raw_value in response.raw_headers:
            # As the sync transport reads them; aiohttp's own decoding can leave surrogates behind.
            key, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        self.head = Head(status=response.status, headers=headers)

    async def read(self, limit_s: float) -> bytes:
        """Return the next bytes as they arrive, b"" at the end. Raises TransportError, again and again once it did."""
        if self._closed:
            raise TransportError(FailureKind.CANCELLED, Phase.BODY, "the response was closed")
        if self._failure is not None:
            raise self._failure
        content = self._response.content
        try:
            if data := content.read_nowait():
                return data  # it is here already, which takes no time
            async with asyncio.timeout(limit_s):
                return await content.readany()
        except asyncio.CancelledError:
            self.abort()
            raise
        except _FOREIGN as error:
            self._failure = self._translated(error)
            self.abort()
            raise self._failure from error

    def _wake(self, lost: asyncio.Future[None]) -> None:
        """End a read that would go on for ever: aiohttp closes the connection on broken chunks and tells no reader."""
        _note(lost)
        content = self._response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection was closed"))

    def _leave(self) -> None:
        self._owner.forget(self)
        if self._lost is not None:
            self._lost.remove_done_callback(self._wake)

    def _translated(self, error: Exception) -> TransportError:
        if self._owner.closed:
            return TransportError(FailureKind.CANCELLED, Phase.BODY, "aborted")
        if isinstance(error, TimeoutError):
            return TransportError(FailureKind.TIMEOUT, Phase.BODY, "silence in the middle of the answer")
        return TransportError(FailureKind.CONNECTION, Phase.BODY, "the connection was closed")

    async def close(self) -> None:
        """Give the connection back where the body is at its end, else close it. Safe to call twice."""
        if self._closed:
            return
        content = self._response.content
        try:
            # The last bytes of a body whose answer is whole nearly always stand in the buffer already.
            for _ in range(2):
                if self._failure is not None or self._response.closed or not await self.read(DRAIN_S):
                    break
        except TransportError:
            pass  # aborted already
        if content.at_eof() and content.exception() is None:
            self._leave()
            self._response.release()
        else:
            self.abort()
        self._closed = True

    def abort(self) -> None:
        """Close the connection at once."""
        self._leave()
        connection = self._response.connection
        transport = connection.transport if connection is not None else None
        self._response.close()
        if transport is not None:
            transport.abort()


class AiohttpTransport:
    """Sends with aiohttp. Belongs to the event loop that first sends with it."""

    def __init__(self, environment: Environment | None = None, *, names: Names | None = None) -> None:
        """Make a transport; the session is opened with the first request. `names` is replaced by tests."""
        self.closed = False
        self._environment = environment or Environment()
        self._names = names or Names()
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, URL] = {}
        self._timeouts: dict[float, aiohttp.ClientTimeout] = {}
        self._sending: set[asyncio.Timeout] = set()
        self._responses: set[AiohttpResponse] = set()

    @property
    def under_way(self) -> int:
        """How many requests are under way."""
        return len(self._sending) + len(self._responses)

    async def send(self, request: WireRequest, *, connect_s: float, limit_s: float) -> AiohttpResponse:
        """Send `request` and return the response when its headers are in. Raises TransportError."""
        if self.closed:
            raise TransportError(FailureKind.CANCELLED, Phase.CONNECT, "aborted")
        proxy = self._environment.proxy(request.url)
        session = self._session or self._open()
        reached = _Reached()
        token = _reached.set(reached)
        limit = asyncio.timeout(limit_s)
        self._sending.add(limit)
        answer: aiohttp.ClientResponse | None = None
        try:
            async with limit:
                answer = await self._post(session, request, proxy, connect_s)
        except _FOREIGN as error:
            phase = Phase.CONNECT if reached.transport is None else Phase.HEADERS
            if self.closed:
                raise TransportError(FailureKind.CANCELLED, phase, "aborted") from error
            raise _translated(error, phase) from error
        finally:
            self._sending.discard(limit)
            _reached.reset(token)
            if answer is None and reached.transport is not None:
                reached.transport.abort()
        response = AiohttpResponse(answer, self)
        self._responses.add(response)
        return response

    async def _post(
        self, session: aiohttp.ClientSession, request: WireRequest, proxy: str | None, connect_s: float
    ) -> aiohttp.ClientResponse:
        url = self._url(request.url)
        secure = url.scheme == "https" or (proxy or "").startswith("https:")
        large = len(request.body) > LARGE_BODY_BYTES  # which aiohttp warns about as plain bytes
        return await session.post(
            url,
            data=io.BytesIO(request.body) if large else request.body,
            headers=request.headers,
            allow_redirects=False,
            timeout=self._timeout(connect_s),
            proxy=proxy,
            ssl=self._environment.tls if secure else True,
        )

    def forget(self, response: AiohttpResponse) -> None:
        """Take note that `response` is over."""
        self._responses.discard(response)

    async def close(self) -> None:
        """Abort what is under way and close the session. What is sent afterwards is cancelled."""
        self.closed = True
        now = asyncio.get_running_loop().time()
        for limit in tuple(self._sending):
            if not limit.expired():
                limit.reschedule(now)
        for response in tuple(self._responses):
            response.abort()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                limit=0,
                ttl_dns_cache=DNS_CACHE_S,
                keepalive_timeout=KEEP_ALIVE_S,
                resolver=_Resolver(self._names),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding",),
            trust_env=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
        )
        return self._session

    def _timeout(self, connect_s: float) -> aiohttp.ClientTimeout:
        made = self._timeouts.get(connect_s)
        if made is None:
            self._timeouts.clear()  # nearly all requests have the same one; the others are many
            made = aiohttp.ClientTimeout(total=None, connect=connect_s, sock_connect=connect_s)
            self._timeouts[connect_s] = made
        return made

    def _url(self, text: str) -> URL:
        url = self._urls.get(text)
        if url is None:
            url = self._urls[text] = URL(text)
        return url


def _translated(error: Exception, phase: Phase) -> TransportError:
    """Return the TransportError that stands for `error`, raised before the headers were in."""
    if phase is Phase.CONNECT:
        if isinstance(error, TimeoutError):
            return TransportError(FailureKind.TIMEOUT, phase, "no connection in time")
        return TransportError(FailureKind.CONNECTION, phase, _unconnected(error))
    if isinstance(error, TimeoutError):
        return TransportError(FailureKind.TIMEOUT, phase, "no answer in time")
    if isinstance(error, (aiohttp.ClientResponseError, HttpProcessingError, ValueError)):
        return TransportError(FailureKind.MALFORMED_RESPONSE, phase, "what came back is not HTTP")
    return TransportError(FailureKind.CONNECTION, phase, "the connection was closed")


def _unconnected(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "the name cannot be resolved"
        case aiohttp.ClientSSLError():
            return "TLS failed"
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return "the proxy cannot be reached or refused"
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
            return "connection refused"
        case _:
            return "no connection"
