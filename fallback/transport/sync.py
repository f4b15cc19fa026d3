"""The transport of ModelRouter: requests, one pool of connections, a watchdog that keeps every limit.

Theory of operation: urllib3's timeouts count per read, so a peer that sends a byte now and then is never late. Here no
socket has a timeout; a call carries one instant by which its present step must be over, and a watchdog thread shuts
the connection down when it is not: the wait under way then ends at once, be it in DNS, TLS, headers or body. The same
shutdown is how another thread makes a call end (a plain close() would leave a thread that reads from the socket
waiting).
"""

from __future__ import annotations

import time
from http.client import HTTPException
from typing import Any, Self

import requests
import urllib3
from requests.structures import CaseInsensitiveDict

from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.providers.base import WireRequest
from fallback.transport.base import DRAIN_S, Cancellation, Environment, Head
from fallback.transport.connections import Adapter
from fallback.transport.names import Names
from fallback.transport.watchdog import Call, Watchdog

__all__ = ["RequestsResponse", "RequestsTransport"]

READ_BYTES = 64 * 1024
HEADERS_KNOWN = 256

_FOREIGN = (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError, ValueError)


class RequestsResponse:
    """A response of RequestsTransport."""

    def __init__(self, response: requests.Response, call: Call, transport: RequestsTransport) -> None:
        self._raw = response.raw
        self._call = call
        self._transport = transport
        self._at_end = False
        self._closed = False
        self._failure: TransportError | None = None
        headers: dict[str, str] = {}
        for name, value in self._raw.headers.items():
            key = name.lower()
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        self.head = Head(status=self._raw.status, headers=headers)

    def read(self, limit_s: float) -> bytes:
        """Return the next bytes as they arrive, b"" at the end. Raises TransportError, again and again once it did."""
        if self._at_end:
            return b""
        if self._closed:
            raise TransportError(FailureKind.CANCELLED, Phase.BODY, "the response was closed")
        if self._failure is not None:
            raise self._failure
        call = self._call
        call.watch(time.monotonic() + limit_s)
        error: Exception | None = None
        data = b""
        try:
            data = self._raw.read1(READ_BYTES, decode_content=False)
        except _FOREIGN as caught:
            error = caught
        if data:
            return data
        # A connection that was shut down looks like one whose peer is done.
        if error is not None or call.ended:
            self._failure = _translated(error, call, Phase.BODY)
            self._discard()
            raise self._failure from error
        self._at_end = True
        return b""

    def close(self) -> None:
        """Give the connection back where the body is at its end, else close it."""
        if self._closed:
            return
        if not self._call.over and not self._at_end:
            self._drain()
        self._closed = True
        if self._at_end:
            self._raw.release_conn()
        self._discard()

    def _discard(self) -> None:
        """Let go of the connection; close it, unless urllib3 gave it back with the last byte."""
        over = self._call.over
        self._call.let_go()
        self._transport.forget(self._call)
        if not over:
            self._raw.close()

    def _drain(self) -> None:
        """Read the last bytes of a body whose answer is whole: they nearly always stand in the buffer already."""
        if self._call.ended:
            return
        try:
            for _ in range(2):
                if not self.read(DRAIN_S):
                    return
        except TransportError:
            return


class RequestsTransport:
    """Sends with requests' HTTPAdapter. Safe for threads: any number of calls at once."""

    def __init__(self, environment: Environment | None = None, *, names: Names | None = None) -> None:
        """Make a transport with a pool of its own. `names` is replaced by tests."""
        self._environment = environment or Environment()
        self._watchdog = Watchdog(time.monotonic)
        self._adapter = Adapter(self._environment, names or Names())
        self._headers: dict[int, tuple[Any, CaseInsensitiveDict[str]]] = {}
        self._calls: set[Call] = set()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(
        self,
        request: WireRequest,
        *,
        connect_s: float,
        limit_s: float,
        cancellation: Cancellation | None = None,
    ) -> RequestsResponse:
        """Send `request` and return the response when its headers are in. Raises TransportError."""
        started = time.monotonic()
        due = started + limit_s
        call = Call(self._watchdog, connect_due=min(started + connect_s, due), due=due)
        self._calls.add(call)
        done = False
        try:
            call.watch(call.connect_due)
            if cancellation is not None:
                cancellation.attach(call.abort)
            if self._closed or call.aborted:
                raise TransportError(FailureKind.CANCELLED, Phase.CONNECT, "aborted")
            proxy = self._environment.proxy(request.url)
            response = self._adapter.send_call(call, self._prepared(request), proxy)
            done = True
            return RequestsResponse(response, call, self)
        except _FOREIGN as error:
            raise _translated(error, call, Phase.HEADERS if call.connected else Phase.CONNECT) from error
        finally:
            if not done:
                call.let_go()
                self.forget(call)

    def forget(self, call: Call) -> None:
        """Take note that `call` is over."""
        self._calls.discard(call)

    def close(self) -> None:
        """Abort what is under way and close the pool. What is sent afterwards is cancelled."""
        self._closed = True
        for call in tuple(self._calls):
            call.abort()
        self._watchdog.close()
        self._adapter.close()

    def _prepared(self, request: WireRequest) -> requests.PreparedRequest:
        """Fill a prepared request by hand: all that Session.post would do again at every call is done once."""
        known = self._headers.get(id(request.headers))
        if known is None or known[0] is not request.headers:
            if len(self._headers) >= HEADERS_KNOWN:
                self._headers.clear()
            known = (request.headers, CaseInsensitiveDict(request.headers))
            self._headers[id(request.headers)] = known
        prepared = requests.PreparedRequest()
        prepared.method = "POST"
        prepared.url = request.url
        prepared.headers = known[1].copy()
        prepared.headers["Content-Length"] = str(len(request.body))
        prepared.body = request.body
        return prepared


def _translated(error: BaseException | None, call: Call, phase: Phase) -> TransportError:
    """Return the TransportError that stands for `error`, or for the end that somebody made of `call`."""
    if call.aborted:
        return TransportError(FailureKind.CANCELLED, phase, "aborted")
    if call.expired:
        return TransportError(FailureKind.TIMEOUT, phase, _LATE[phase])
    chain = _chain(error)
    if phase is Phase.CONNECT:
        return TransportError(FailureKind.CONNECTION, phase, _unconnected(chain))
    # Every exception of requests is an OSError too; it is what they wrap that counts.
    lost = any(isinstance(e, OSError) and not isinstance(e, requests.RequestException) for e in chain)
    if phase is Phase.HEADERS and not lost and any(isinstance(e, (HTTPException, ValueError)) for e in chain):
        return TransportError(FailureKind.MALFORMED_RESPONSE, phase, "what came back is not HTTP")
    return TransportError(FailureKind.CONNECTION, phase, "the connection was closed")


def _unconnected(chain: list[BaseException]) -> str:
    if any(isinstance(e, (requests.exceptions.SSLError, urllib3.exceptions.SSLError)) for e in chain):
        return "TLS failed"
    if any(isinstance(e, (requests.exceptions.ProxyError, urllib3.exceptions.ProxyError)) for e in chain):
        return "the proxy cannot be reached or refused"
    return "no connection"


_LATE = {
    Phase.CONNECT: "no connection in time",
    Phase.HEADERS: "no answer in time",
    Phase.BODY: "silence in the middle of the answer",
}


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return `error` and everything inside it: libraries wrap the cause as an argument or as a context."""
    found: list[BaseException] = []
    pending: list[Any] = [error]
    while pending and len(found) < 16:
        item = pending.pop()
        if isinstance(item, BaseException) and item not in found:
            found.append(item)
            pending += [item.__cause__, item.__context__, getattr(item, "reason", None), *item.args]
    return found
