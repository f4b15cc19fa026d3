"""urllib3's connections, made so that the call which uses one can be ended, and so that broken framing is noticed.

Theory of operation: requests offers no way to hand something to the connection that a request will use, so the call of a
thread stands in a thread-local variable while it is sent. A connection knows its call from `request` until the pool gets
it back (urllib3 does that by itself, with the last byte of a body); from then on the call cannot reach it any more.
http.client takes the end of a connection for the end of headers, half a chunk size for a whole one, and more of that
kind; `_Response` does not.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from email.errors import FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, RemoteDisconnected
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.transport.base import KEEP_ALIVE_S, Environment
from fallback.transport.names import Names
from fallback.transport.watchdog import Call

__all__ = ["Adapter"]

POOL_SIZE = 128
MAX_INTERIM = 100
"""So many interim responses are passed over; one more counts as the answer, which it cannot be."""

_current = threading.local()


class _Lines(io.BufferedReader):
    """Reads lines that end as lines do."""

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n") and len(line) != size:
            raise RemoteDisconnected("the connection ended in the middle of a line")
        return line


class _Readable:
    """What http.client needs of a socket in order to read from it."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def makefile(self, mode: str) -> _Lines:
        return _Lines(self._sock.makefile(mode, buffering=0))


class _Response(HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(_Readable(sock), *args, **kwargs)  # type: ignore[arg-type]

    def begin(self) -> None:
        super().begin()
        # http.client passes over 100 alone, and takes 103 (Early Hints, RFC 8297) for the answer.
        for _ in range(MAX_INTERIM):
            if not 100 < self.status < 200 or self.status == HTTPStatus.SWITCHING_PROTOCOLS:
                break
            self.headers = self.msg = None  # type: ignore[assignment] # as before a response
            super().begin()
        broken = (FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect)
        if any(isinstance(defect, broken) for defect in self.headers.defects):
            raise HTTPException("a header line without a name")
        if self.length is None and not self.chunked and "content-length" in self.headers:
            raise HTTPException("a content-length that is no number")

    def _read_next_chunk_size(self) -> int:
        size: int = super()._read_next_chunk_size()  # type: ignore[misc]
        if size < 0:
            raise ValueError("a negative chunk size")
        return size

    def _safe_read(self, amt: int) -> bytes:
        data: bytes = super()._safe_read(amt)  # type: ignore[misc]
        # Bodies are read with read1, so what comes this way is the line end after a chunk.
        if data != b"\r\n":
            raise HTTPException("a chunk that is longer than its size")
        return data


class _Held:
    """Mixed into urllib3's connections: tells the call of this thread which socket it uses."""

    sock: Any
    host: str
    port: int
    response_class: Any = _Response
    idle_since: float | None = None
    _call: Call | None = None

    def _new_conn(self) -> socket.socket:
        # urllib3 strips the last dot of `host`, with which a name server takes the name as it stands.
        host = getattr(self, "_dns_host", self.host)
        return _connect(host, self.port, _current.call, _current.names)

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        call: Call = _current.call
        call.connection_made()

    def request(self, *args: Any, **kwargs: Any) -> None:
        call: Call = _current.call
        self._call = call
        if self.idle_since is not None and self.sock is not None:
            call.hold(self.sock)
            call.connection_made()
        self.idle_since = None
        super().request(*args, **kwargs)  # type: ignore[misc]

    def let_go(self) -> bool:
        """Take note that the pool gets it back. True: it may serve another call."""
        call, self._call = self._call, None
        self.idle_since = time.monotonic()
        return call is None or call.let_go()

    def stale(self) -> bool:
        """Whether it was idle for so long that the peer may have forgotten it."""
        return self.idle_since is not None and time.monotonic() - self.idle_since > KEEP_ALIVE_S


class _HeldConnection(_Held, HTTPConnection):
    pass


class _HeldSecureConnection(_Held, HTTPSConnection):
    pass


class _LettingGo:
    """Mixed into urllib3's pools: what comes back is out of reach of the call that used it, before another one gets it."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection = super()._get_conn(timeout)  # type: ignore[misc]
        if connection.stale():
            connection.close()
        return connection

    def _put_conn(self, conn: Any) -> None:
        if conn is not None and not conn.let_go():
            conn.close()
        super()._put_conn(conn)  # type: ignore[misc]


class _HeldPool(_LettingGo, HTTPConnectionPool):
    ConnectionCls = _HeldConnection


class _HeldSecurePool(_LettingGo, HTTPSConnectionPool):
    ConnectionCls = _HeldSecureConnection


_POOLS = {"http": _HeldPool, "https": _HeldSecurePool}


class Adapter(HTTPAdapter):
    """requests' adapter over such connections, with one TLS context for all of them."""

    def __init__(self, environment: Environment, names: Names) -> None:
        self._environment = environment
        self._names = names
        super().__init__(pool_connections=32, pool_maxsize=POOL_SIZE)

    def send_call(self, call: Call, prepared: Any, proxy: str | None) -> Any:
        """Send `prepared` as `call`; everything that limits it is up to the watchdog."""
        _current.call = call
        _current.names = self._names
        proxies = {"http": proxy, "https": proxy} if proxy else None
        try:
            return self.send(prepared, stream=True, timeout=None, proxies=proxies)
        finally:
            del _current.call

    def close(self) -> None:
        """Close every idle connection; urllib3 would leave that to the garbage collector."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - only keys() may be iterated
                pool = manager.pools.get(key)
                if pool is not None:
                    pool.close()
        super().close()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Return the pools of connections through `proxy`."""
        if proxy.lower().startswith("https:"):
            kwargs["proxy_ssl_context"] = self._environment.tls
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Add the TLS context: without it, each connection reads all certificate authorities anew (40 ms)."""
        host, tls = super().build_connection_pool_key_attributes(request, verify, cert)
        if host["scheme"] == "https":
            tls["ssl_context"] = self._environment.tls
        return host, tls

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Do nothing: the TLS context knows the certificate authorities."""


def _connect(host: str, port: int, call: Call, names: Names) -> socket.socket:
    """Return a connected socket by `call.connect_due`, trying each address in turn."""
    error: OSError | None = None
    addresses = _resolve(host, port, call, names)
    for position, (family, kind, protocol, _, address) in enumerate(addresses):
        left_s = call.connect_due - time.monotonic()
        if left_s <= 0 or call.ended:
            break
        others = len(addresses) - position - 1
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(left_s / 2 if others else left_s)
            call.hold(sock)
            sock.connect(address)
            sock.settimeout(None)
        except OSError as failure:
            error = failure
            sock.close()
        else:
            return sock
    if call.aborted:
        raise TransportError(FailureKind.CANCELLED, Phase.CONNECT, "aborted") from error
    if error is None or isinstance(error, TimeoutError) or call.expired:
        raise TransportError(FailureKind.TIMEOUT, Phase.CONNECT, "no connection in time") from error
    refused = isinstance(error, ConnectionRefusedError)
    text = "connection refused" if refused else (error.strerror or "no connection").lower()
    raise TransportError(FailureKind.CONNECTION, Phase.CONNECT, text) from error


def _resolve(host: str, port: int, call: Call, names: Names) -> Any:
    future = names.look_up(host, port)
    call.wait_for(future.cancel)
    try:
        return future.result(timeout=max(0.0, call.connect_due - time.monotonic()))
    except (CancelledError, FutureTimeoutError) as error:
        if call.aborted:
            raise TransportError(FailureKind.CANCELLED, Phase.CONNECT, "aborted") from error
        text = "the name was not resolved in time"
        raise TransportError(FailureKind.TIMEOUT, Phase.CONNECT, text) from error
    except OSError as error:
        raise TransportError(FailureKind.CONNECTION, Phase.CONNECT, "the name cannot be resolved") from error
