"""What stands around every answer of the program, the dashboard's included: `Envelope` outside, `Gate` inside it.

The envelope gives a request its id and an answer its security headers. The gate lets in who may come in, counts who is in,
and hands bodies on through a limit. Pure ASGI: nothing is ever buffered, so that streams stay streams.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fallback.api.access import Access
from fallback.api.attend import LINE_KEY, MARKS_KEY, Line
from fallback.api.connections import STATE_KEY, Connections
from fallback.api.errors import Refusal
from fallback.api.limits import Admission, LimitedBody, check_length
from fallback.api.refusing import family_of, refusal_response
from fallback.config import ApiSettings
from fallback.intake import new_request_id

__all__ = ["CONTENT_SECURITY_POLICY", "Envelope", "Gate", "Rules"]

CONTENT_SECURITY_POLICY = (
    "img-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
"""Streamlit's page runs under it; what a model writes cannot make a browser call another host."""

_HEADERS = (
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
)
_RAW_HEADERS = tuple((name.encode(), value.encode()) for name, value in _HEADERS)
_MARKS = "".join(f"{name}: {value}\r\n" for name, value in _HEADERS).encode()
_DEMO = (b"x-fallback-demo", b"1")
_DISCARDED_BYTES = 16 * 1024
"""So much of a body that nobody reads is taken off the line; a longer one ends the connection."""


@dataclass(kw_only=True)
class Rules:
    """What the gate goes by while the program runs. Belongs to one event loop."""

    access: Access
    limits: ApiSettings
    admission: Admission
    connections: Connections
    refused: Counter[str] = field(default_factory=Counter)
    """How often a request was turned down, by `error_type`."""


class Envelope:
    """Adds the headers, and gives each request the id that its answer, its errors and the usage log name."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        startup_problem: Callable[[], str | None] = lambda: None,
        is_demo: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wrap `app`; `startup_problem` says in plain words why it could not start, None: no such words.

        `is_demo` says whether the providers are simulated.
        """
        self._app = app
        self._startup_problem = startup_problem
        self._is_demo = is_demo

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""

        async def plainly(message: Message) -> None:
            problem = self._startup_problem()
            if message["type"] == "lifespan.startup.failed" and problem is not None:
                # In the place of a traceback, which the server would print.
                message = {**message, "message": problem}
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, plainly if scope["type"] == "lifespan" else send)
            return
        request_id = new_request_id()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        # Whoever answers with headers of its own, stricter ones, says so here.
        state["own_headers"] = False
        ours = family_of(scope["path"]) != "page"
        own = (b"x-request-id", request_id.encode())
        if ours:
            demo = b"%s: %s\r\n" % _DEMO if self._is_demo() else b""
            state[MARKS_KEY] = b"%s: %s\r\n%s%s" % (*own, _MARKS, demo)

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                if ours or state["own_headers"]:
                    # Our own routes set none of these, so nothing has to be looked for.
                    more = _RAW_HEADERS if ours else ()
                    message["headers"] = [*message.get("headers", ()), own, *more]
                else:
                    headers = MutableHeaders(scope=message)
                    headers["x-request-id"] = request_id
                    for name, value in _HEADERS:
                        headers[name] = value
                if self._is_demo():
                    message["headers"].append(_DEMO)
            await send(message)

        await self._app(scope, receive, marked)


class Gate:
    """Lets requests in by the rules, which are there once the program runs."""

    def __init__(self, app: ASGIApp, *, rules: Callable[[], Rules | None]) -> None:
        """Wrap `app`; `rules` gives None while the program is not running."""
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._marked(scope, send))
            return
        rules = self._rules()
        if rules is None:
            if scope["type"] == "http":
                refusal = Refusal(503, "starting", "the program is not running yet", {"retry-after": "1"})
                await self._refuse(refusal, scope, receive, send)
            return
        try:
            admitted = _admit(scope, rules)
        except Refusal as refusal:
            rules.refused[refusal.error_type] += 1
            await self._refuse(refusal, scope, receive, send)
            return
        if admitted is None:
            await self._app(scope, receive, send)
            return
        if admitted.chunked or admitted.length is not None:
            line: Line | None = scope["state"].get(LINE_KEY)
            # A body that is announced and here already is neither too long nor late.
            if admitted.chunked or line is None or not line.is_received:
                receive = LimitedBody(receive, rules.limits, line)
        try:
            await self._app(scope, receive, send)
        finally:
            rules.admission.leave()

    def _marked(self, scope: Scope, send: Send) -> Send:
        """Return `send` of a lifespan; what it has begun the server's connections are told of."""

        async def marked(message: Message) -> None:
            rules = self._rules()
            if message["type"] == "lifespan.startup.complete" and rules is not None and "state" in scope:
                scope["state"][STATE_KEY] = rules.connections
            await send(message)

        return marked

    async def _refuse(self, refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": str(refusal)[:120]})
            return
        if _has_long_body(scope):
            refusal.headers["connection"] = "close"
        response = refusal_response(refusal, scope["path"], scope["state"]["request_id"])
        await response(scope, receive, send)


class _Headers:
    """What the gate reads of the headers of a request."""

    __slots__ = ("_found", "_pairs")

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self._pairs = pairs
        self._found = dict(pairs)

    def all(self, name: bytes) -> Sequence[bytes]:
        """Return the values of each header of that name."""
        if len(self._found) < len(self._pairs):  # one of them is there more than once
            return [value for each, value in self._pairs if each == name]
        value = self._found.get(name)
        return () if value is None else (value,)

    @property
    def length(self) -> bytes | None:
        """The announced length of the body."""
        return self._found.get(b"content-length")

    @property
    def chunked(self) -> bool:
        """Whether a body comes in chunks."""
        return b"transfer-encoding" in self._found


def _admit(scope: Scope, rules: Rules) -> _Headers | None:
    """Raise Refusal where the request is not let in; return its headers where it is counted, and has to be counted out."""
    access = rules.access
    address = scope.get("server")
    server = address[0] if address else None
    headers = _Headers(scope["headers"])
    path: str = scope["path"]
    if "\n" in path:
        # To a route's pattern "/metrics" and a line end is /metrics, to everybody else it is another path.
        raise Refusal(404, "not_found", "there is nothing under a path with a line end")
    family = family_of(path)
    # The figures are the API's: to others than this machine they need its keys. What asks for health needs none.
    access.check_network(server, "api" if path == "/metrics" else family)
    state: dict[str, Any] = scope.setdefault("state", {})
    state["api_key_name"] = None
    # Kubernetes and load balancers ask these two by address or under names of their own.
    if path not in {"/healthz", "/readyz"}:
        access.check_host(headers.all(b"host"), server)
    if family == "page" or path == "/healthz":
        return None
    if path == "/readyz":
        state["may_see_details"] = _may_see_details(access, headers, server)
        return None
    key_name = access.key_name(headers.all(b"authorization"))
    if family == "probe":
        return None
    state["api_key_name"] = key_name
    # Before it is counted in, so that a body that is too long need not be counted out.
    check_length(headers.length, rules.limits)
    client = scope.get("client")
    rules.admission.enter(key_name or (client[0] if client else ""), asyncio.get_running_loop().time())
    return headers


def _may_see_details(access: Access, headers: _Headers, server: str | None) -> bool:
    """Return whether a caller of /readyz may read more than the status."""
    try:
        access.check_network(server)
        access.check_host(headers.all(b"host"), server)
        access.key_name(headers.all(b"authorization"))
    except Refusal:
        return False
    return True


def _has_long_body(scope: Scope) -> bool:
    headers = _Headers(scope["headers"])
    length = headers.length
    if length is None:
        return headers.chunked
    return not length.isdigit() or len(length) > 9 or int(length) > _DISCARDED_BYTES
