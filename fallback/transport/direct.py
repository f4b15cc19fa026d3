"""The transport of AsyncModelRouter: connections of its own, kept and used again.

Theory of operation: a request takes the connection to its host that became free last, or opens one; `http1` speaks over it.
Names are looked up on threads that can be left behind, and all addresses of a host are tried, a quarter of a second apart
(RFC 8305). Through a proxy requests go with aiohttp, which knows how; it costs three times as much, and is not loaded before.

A client library in its place was measured: aiohttp takes a third of what a whole request costs this program.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from socket import gaierror
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
from aiohappyeyeballs import start_connection

from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.providers.base import WireRequest
from fallback.transport.base import KEEP_ALIVE_S, AsyncResponse, Environment
from fallback.transport.http1 import Connection
from fallback.transport.names import Address, Names

if TYPE_CHECKING:
    from fallback.transport.asynchronous import AiohttpTransport

__all__ = ["DirectTransport"]

NEXT_ADDRESS_S = 0.25
MOST_TARGETS = 256

Place = tuple[str, str, int]
"""Scheme, host and port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Where requests of one kind go, and what they all begin with."""

    place: Place
    head: bytes
    """Everything but the length of the body."""


class DirectTransport:
    """Sends over HTTP/1.1. Belongs to the event loop that first sends with it."""

    def __init__(self, environment: Environment | None = None, *, names: Names | None = None) -> None:
        """Make a transport, which opens nothing before the first request. `names` is replaced by tests."""
        self.closed = False
        self._environment = environment or Environment()
        self._names = names or Names()
        self._targets: dict[tuple[str, tuple[tuple[str, str], ...]], _Target] = {}
        self._idle: dict[Place, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._connecting: set[asyncio.Timeout] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._proxied: AiohttpTransport | None = None

    @property
    def under_way(self) -> int:
        """How many requests are under way."""
        busy = sum(connection.busy for connection in self._open)
        proxied = self._proxied.under_way if self._proxied is not None else 0
        return busy + len(self._connecting) + proxied

    async def send(self, request: WireRequest, *, connect_s: float, limit_s: float) -> AsyncResponse:
        """Send `request` and return the response when its headers are in. Raises TransportError."""
        if self.closed:
            raise TransportError(FailureKind.CANCELLED, Phase.CONNECT, "aborted")
        if self._environment.proxy(request.url) is not None:
            return await self._through_proxy().send(request, connect_s=connect_s, limit_s=limit_s)
        target = self._target(request)
        connection = self._kept(target.place)
        if connection is None:
            loop = asyncio.get_running_loop()
            until = loop.time() + limit_s
            connection = await self._opened(target.place, connect_s, limit_s)
            limit_s = until - loop.time()
        reply = connection.ask(target.head + b"%d\r\n\r\n" % len(request.body), request.body)
        try:
            await reply.begun(limit_s)
        except TransportError as error:
            if connection.idle_since and error.kind is FailureKind.CONNECTION:
                self._leave_idle(target.place)
            raise
        return reply

    async def close(self) -> None:
        """Abort what is under way and close every connection. What is sent afterwards is cancelled."""
        self.closed = True
        loop = asyncio.get_running_loop()
        for limit in tuple(self._connecting):
            if not limit.expired():
                limit.reschedule(loop.time())
        for connection in tuple(self._open):
            connection.cancel()
        self._idle.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._proxied is not None:
            await self._proxied.close()
        await asyncio.sleep(0)  # the loop closes what was aborted in its next turn

    def _target(self, request: WireRequest) -> _Target:
        key = (request.url, request.headers)
        target = self._targets.get(key)
        if target is None:
            if len(self._targets) >= MOST_TARGETS:
                self._targets.clear()
            target = self._targets[key] = _target_of(request)
        return target

    def _kept(self, place: Place) -> Connection | None:
        """Return the connection to `place` that became free last and can still be used."""
        kept = self._idle.get(place)
        while kept:
            connection = kept.pop()
            if connection.usable:
                return connection
        return None

    async def _opened(self, place: Place, connect_s: float, limit_s: float) -> Connection:
        """Return a new connection to `place`. Raises TransportError."""
        scheme, host, port = place
        context = self._environment.tls if scheme == "https" else None
        limit = asyncio.timeout(min(connect_s, limit_s))
        self._connecting.add(limit)
        try:
            async with limit:
                addresses: Sequence[Address] = _literal(host, port)
                if not addresses:
                    addresses = await asyncio.wrap_future(self._names.look_up(host, port))
                return await self._connected(addresses, place, context)
        except (OSError, UnicodeError) as error:  # TimeoutError and those of ssl among them
            if self.closed:
                raise TransportError(FailureKind.CANCELLED, Phase.CONNECT, "aborted") from error
            raise _unconnected(error) from error
        finally:
            self._connecting.discard(limit)

    async def _connected(
        self, addresses: Sequence[Address], place: Place, context: ssl.SSLContext | None
    ) -> Connection:
        loop = asyncio.get_running_loop()
        made = await start_connection(
            [(family, kind, protocol, "", address) for family, kind, protocol, _, address in addresses],
            happy_eyeballs_delay=NEXT_ADDRESS_S,
            interleave=1,
            loop=loop,
        )
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            _, connection = await loop.create_connection(
                lambda: Connection(
                    lambda each: self._free(each, place), lambda each: self._lost(each, place)
                ),
                sock=made,
                ssl=context,
                # A name may end in a dot, which no certificate has.
                server_hostname=place[1].rstrip(".") if context is not None else None,
            )
        except BaseException:
            made.close()
            raise
        if self.closed:
            connection.abort()
            raise ConnectionAbortedError("the transport was closed meanwhile")
        self._open.add(connection)
        return connection

    def _free(self, connection: Connection, place: Place) -> None:
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.setdefault(place, []).append(connection)
        if self._timer is None:
            self._timer = loop.call_later(KEEP_ALIVE_S, self._sweep)

    def _leave_idle(self, place: Place) -> None:
        """Close what is idle there: one of these ended as it was used again, and so may the others, under the very retry."""
        for connection in self._idle.pop(place, ()):
            connection.abort()

    def _lost(self, connection: Connection, place: Place) -> None:
        self._open.discard(connection)
        kept = self._idle.get(place)
        if kept and connection in kept:
            kept.remove(connection)

    def _sweep(self) -> None:
        """Close what has been idle for too long; something on the way may have forgotten it."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = None
        for place, kept in tuple(self._idle.items()):
            fresh = [each for each in kept if now - each.idle_since < KEEP_ALIVE_S]
            for connection in kept[: len(kept) - len(fresh)]:
                connection.abort()
            if fresh:
                self._idle[place] = fresh
            else:
                del self._idle[place]
        if self._idle:
            self._timer = loop.call_later(KEEP_ALIVE_S / 4, self._sweep)

    def _through_proxy(self) -> AiohttpTransport:
        if self._proxied is None:
            from fallback.transport.asynchronous import AiohttpTransport

            self._proxied = AiohttpTransport(self._environment, names=self._names)
        return self._proxied


def _literal(host: str, port: int) -> list[Address]:
    """Return `host` as an address where it is one by itself."""
    try:
        version = ip_address(host).version
    except ValueError:
        return []
    if version == 4:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]
    # What comes after a % has to be looked up: it is the name of a network interface.
    found = (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0))
    return [] if "%" in host else [found]


def _target_of(request: WireRequest) -> _Target:
    """Return where `request` goes, its address and headers made fit for the wire as requests does it."""
    try:
        prepared = requests.Request("POST", request.url, headers=dict(request.headers)).prepare()
        parts = urlsplit(prepared.url or "")
        host, scheme = parts.hostname, parts.scheme
        port = parts.port or (443 if scheme == "https" else 80)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [f"POST {path} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}"]
        lines += [
            f"{name}: {_text(value)}" for name, value in prepared.headers.items() if name != "Content-Length"
        ]
        head = "\r\n".join([*lines, "Content-Length: "]).encode()
    except ValueError:
        # Its words may hold the header that is none, and with it a key.
        raise TransportError(FailureKind.CONNECTION, Phase.CONNECT, "no connection") from None
    if not host or scheme not in {"http", "https"}:
        raise TransportError(FailureKind.CONNECTION, Phase.CONNECT, "no connection")
    return _Target(place=(scheme, host, port), head=head)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def _unconnected(error: Exception) -> TransportError:
    """Return what stands for `error`, because of which there is no connection."""
    match error:
        case TimeoutError() if not isinstance(error, ssl.SSLError):
            return TransportError(FailureKind.TIMEOUT, Phase.CONNECT, "no connection in time")
        case gaierror() | UnicodeError():
            text = "the name cannot be resolved"
        case ssl.SSLError():
            text = "TLS failed"
        case ConnectionRefusedError():
            text = "connection refused"
        case _:
            text = "no connection"
    return TransportError(FailureKind.CONNECTION, Phase.CONNECT, text)
