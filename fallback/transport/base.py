"""What a transport is, and what both of them share: proxies and certificates, read from the environment once."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies

import certifi
from requests.utils import select_proxy, should_bypass_proxies

from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.core.hosts import is_loopback
from fallback.core.values import valueclass
from fallback.providers.base import WireRequest

__all__ = [
    "AsyncResponse",
    "AsyncTransport",
    "Cancellation",
    "Environment",
    "Head",
    "Last",
    "Response",
    "Transport",
]

KEEP_ALIVE_S = 30.0
"""How long an idle connection is kept: much longer, and something on the way may have forgotten it."""

DRAIN_S = 0.02
"""How long the end of a body whose answer is whole is waited for, so that its connection can be used again."""

MAX_HEADER_BYTES = 65536
MAX_HEADERS = 100
"""The limits of a response's headers are those that http.client has."""


class Last(bytes):
    """The last bytes of a body, where that is known: the next read would give b""."""

    __slots__ = ()


@valueclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Status and headers of a response; header names in lower case, repeated ones joined by a comma."""

    status: int
    headers: Mapping[str, str]


class Cancellation:
    """Lets one thread end what another waits for. One for each request; `cancel` counts for good."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._abort: Callable[[], None] | None = None
        self._lock = threading.Lock()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """End the call under way, and every later one of the same request, at once."""
        self._cancelled.set()
        with self._lock:
            abort = self._abort
        if abort is not None:
            abort()

    def attach(self, abort: Callable[[], None] | None) -> None:
        """Say how the call under way is ended; None: there is none any more."""
        with self._lock:
            self._abort = abort
        if abort is not None and self.cancelled:
            abort()

    def sleep(self, seconds: float) -> None:
        """Sleep, and wake up at once when cancelled."""
        self._cancelled.wait(seconds)


class Response(Protocol):
    """A response whose body is still to be read."""

    head: Head

    def read(self, limit_s: float) -> bytes:
        """Return the next bytes as they arrive, b"" at the end. Raises TransportError, after `limit_s` at the latest.

        Bytes that none follow may be a `Last`.
        """

    def close(self) -> None:
        """Give the connection back where the body is at its end, else close it. Safe to call twice."""


class Transport(Protocol):
    """Sends requests, one thread a call."""

    def send(
        self,
        request: WireRequest,
        *,
        connect_s: float,
        limit_s: float,
        cancellation: Cancellation | None = None,
    ) -> Response:
        """Send `request` and return the response when its headers are in.

        `connect_s` bounds the connection (DNS and TLS included), `limit_s` all of it; `cancellation` ends the call
        from another thread, the reading of its response included. Raises TransportError.
        """

    def close(self) -> None:
        """Close everything."""


class AsyncResponse(Protocol):
    """A response whose body is still to be read."""

    head: Head

    async def read(self, limit_s: float) -> bytes:
        """Return the next bytes as they arrive, b"" at the end. Raises TransportError, after `limit_s` at the latest.

        Bytes that none follow may be a `Last`.
        """

    async def close(self) -> None:
        """Give the connection back where the body is at its end, else close it. Safe to call twice."""

    def abort(self) -> None:
        """Close the connection at once."""


class AsyncTransport(Protocol):
    """Sends requests on the running event loop."""

    async def send(self, request: WireRequest, *, connect_s: float, limit_s: float) -> AsyncResponse:
        """Send `request` and return the response when its headers are in; see Transport.send."""

    async def close(self) -> None:
        """Close everything."""


class Environment:
    """Proxies and certificate authorities as the environment names them, looked up once.

    Read are HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY and REQUESTS_CA_BUNDLE, as requests reads them. Loopback is
    never reached through a proxy: it would be the proxy's own.
    """

    def __init__(self) -> None:
        self._proxies = getproxies()
        self._no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        self._chosen: dict[str, str | None] = {}
        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        self.ca_bundle = bundle or certifi.where()

    def proxy(self, url: str) -> str | None:
        """Return the proxy for `url`, or None. Raises TransportError where it is of a kind that is not supported."""
        if url not in self._chosen:
            self._chosen[url] = self._choose(url)
        proxy = self._chosen[url]
        if proxy is not None and not proxy.lower().startswith(("http://", "https://")):
            text = "only http and https proxies are supported"
            raise TransportError(FailureKind.CONNECTION, Phase.CONNECT, text)
        return proxy

    def _choose(self, url: str) -> str | None:
        if not self._proxies or is_loopback(urlsplit(url).hostname or ""):
            return None
        if should_bypass_proxies(url, no_proxy=self._no_proxy):
            return None
        proxy = select_proxy(url, self._proxies)
        return f"http://{proxy}" if proxy and "://" not in proxy else proxy

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """The TLS context of every connection. Raises TransportError where the certificates cannot be read."""
        folder = Path(self.ca_bundle).is_dir()
        try:
            context = ssl.create_default_context(
                cafile=None if folder else self.ca_bundle, capath=self.ca_bundle if folder else None
            )
        except OSError as error:
            text = "the file of certificate authorities cannot be read"
            raise TransportError(FailureKind.CONNECTION, Phase.CONNECT, text) from error
        context.set_alpn_protocols(["http/1.1"])
        return context
