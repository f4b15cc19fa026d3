"""The door of the dashboard, as ASGI: whoever has not signed in gets the sign-in page, and nothing else of it.

Theory of operation: everything that is not the API is the dashboard: its pages, its WebSocket, uploads, downloads, files. A
request for any of it needs a cookie that `signin.Door` knows. Without one a browser that wants a page is sent to /sign-in, and
everything else gets 401; a WebSocket is refused before it is accepted, and one that is open is closed when its sign-in is
over or signed out.

    GET  /sign-in                 the page
    POST /sign-in                 a password: a cookie, and on to where the browser wanted to go
    GET  /sign-in/with/PROVIDER   to the OpenID provider, and back by /oauth2callback (`openid`)
    POST /sign-out

The API passes without a cookie, and says nothing of compression to Streamlit, which would compress its answers: without the dashboard
nobody does, and a stream loses its liveness to it.

Forgery: a form of another site is told by Sec-Fetch-Site and Origin; the cookie is SameSite=Lax, so what another site sends
has none. Redirects go to paths of this program alone.

What may not live here: who is who (signin), the look of the pages (signin_page), the API's keys (access).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, quote

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fallback.api import openid
from fallback.api.encode import JsonResponse
from fallback.api.errors import Refusal
from fallback.api.forms import cookies_of, is_from_here, local_target, read_form
from fallback.api.refusing import family_of, refusal_response
from fallback.api.signin_page import PAGE_HEADERS, leaving_page, sign_in_page, stranger_page
from fallback.api.sockets import Sockets
from fallback.signin import COOKIE, Door, Stranger, Visitor

__all__ = ["Doorway"]

SIGN_IN, SIGN_OUT, WITH = "/sign-in", "/sign-out", "/sign-in/with/"
STREAMLITS_OWN = ("/auth/login", "/auth/logout")
_HASHERS = 2
"""So many passwords are looked at at once: each takes 16 MiB and a core."""
FAILED = "The sign-in did not succeed. Try again."


class Doorway:
    """Stands before the dashboard."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        door: Callable[[], Door | None],
        refused: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Wrap `app`; `door` gives None while the program is not running. `refused` is told why somebody was turned down."""
        self._app = app
        self._door = door
        self._refused = refused
        self._sockets = Sockets()
        self._hashing = asyncio.Semaphore(_HASHERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http" and family_of(scope["path"]) != "page":
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"accept-encoding"]
            await self._app(scope, receive, send)
            return
        door = self._door() if scope["type"] != "lifespan" else None
        if door is None or not door.guarded:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._serve_socket(door, scope, receive, send)
        else:
            await self._serve_page(door, scope, receive, send)

    async def _serve_socket(self, door: Door, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            visitor = door.visitor(cookies_of(Headers(scope=scope)))
        except Stranger:
            visitor = None
        if visitor is None:
            await send({"type": "websocket.close", "code": 1008, "reason": "sign in first"})
            return
        with self._sockets.open(visitor.session, door.left_s(visitor), receive, send) as socket:
            await self._app(scope, socket.receive, socket.send)

    async def _serve_page(self, door: Door, scope: Scope, receive: Receive, send: Send) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        cookies = cookies_of(headers)
        visitor, stranger = _who(door, cookies)
        response: Response | None = None
        if path == SIGN_OUT:
            response = await self._sign_out(door, visitor, headers, scope, receive)
        elif path.startswith(WITH):
            await self._begin(door, path.removeprefix(WITH), scope, receive, send)
        elif path == openid.CALLBACK and door.settings.oidc is not None:
            wanted = cookies.get(openid.NEXT_COOKIE)
            await openid.come_back(self._app, wanted, scope, receive, send, **_attributes(scope))
        elif stranger is not None:
            response = _page(scope, stranger_page(stranger), 403)
        elif path == SIGN_IN:
            response = await self._sign_in(door, visitor, headers, scope, receive)
        elif visitor is None:
            response = _refused(scope, headers)
        elif path in STREAMLITS_OWN:
            # A link on another site could sign somebody out there.
            response = PlainTextResponse("Not here: use /sign-in and /sign-out.\n", 404)
        else:
            await self._app(scope, receive, send if path.startswith("/static/") else _not_stored(send))
        if response is not None:
            await response(scope, receive, send)

    async def _sign_in(
        self, door: Door, visitor: Visitor | None, headers: Headers, scope: Scope, receive: Receive
    ) -> Response:
        if scope["method"] in {"GET", "HEAD"}:
            query = _query(scope)
            target = local_target(query.get("next", "/"))
            if visitor is not None:
                return _redirect(target)
            return _ask(door, scope, target, FAILED if "failed" in query else None)
        if scope["method"] != "POST" or door.settings.password is None:
            allow = "GET" if door.settings.password is None else "GET, POST"
            return PlainTextResponse(f"{SIGN_IN} takes {allow}.\n", 405, {"allow": allow})
        if not is_from_here(headers, may_hide=False):
            return _ask(door, scope, "/", "That form was sent by another site. Try again here.", status=403)
        try:
            form = await read_form(headers, receive)
        except Refusal as refusal:
            return refusal_response(refusal, scope["path"], "")
        return await self._try(door, form, scope)

    async def _try(self, door: Door, form: Mapping[str, str], scope: Scope) -> Response:
        """Answer a password."""
        target = local_target(form.get("next", "/"))
        address = scope["client"][0] if scope.get("client") else ""
        wait_s = door.attempts.take(address, asyncio.get_running_loop().time())
        if wait_s > 0:
            self._refused("too_many_attempts")
            seconds = math.ceil(wait_s)
            problem = f"Too many attempts: try again in {seconds} s."
            return _ask(door, scope, target, problem, status=429, more={"retry-after": str(seconds)})
        async with self._hashing:
            session = await asyncio.to_thread(door.sign_in, form.get("password", ""))
        if session is None:
            self._refused("wrong_password")
            return _ask(door, scope, target, "That is not the password.", status=401)
        door.attempts.give_back(address)
        response = _redirect(target)
        response.set_cookie(
            COOKIE, session, max_age=math.floor(door.settings.session_s), **_attributes(scope)
        )
        return response

    async def _sign_out(
        self, door: Door, visitor: Visitor | None, headers: Headers, scope: Scope, receive: Receive
    ) -> Response:
        if scope["method"] != "POST":
            return _redirect("/")
        # The dashboard's pages hide where they are (no-referrer), and other sites send no cookie along.
        if not is_from_here(headers, may_hide=True):
            return PlainTextResponse("That form was sent by another site.\n", 403)
        if visitor is not None:
            door.sign_out(visitor)
            self._sockets.close(visitor.session)
        response = _redirect(SIGN_IN)
        if door.settings.oidc is not None:
            location, cookies = await openid.leave(self._app, scope, receive)
            if not location.startswith("/"):
                # Not a redirect: what a form may lead to is this program, says the policy of the page it stands in.
                response = _page(scope, leaving_page(location), 200)
            response.raw_headers.extend(cookies)
        response.delete_cookie(COOKIE, **_attributes(scope))
        return response

    async def _begin(self, door: Door, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        oidc = door.settings.oidc
        if oidc is None or name not in oidc.providers or scope["method"] != "GET":
            await PlainTextResponse("There is no such OpenID provider.\n", 404)(scope, receive, send)
            return
        target = local_target(_query(scope).get("next", "/"))
        await openid.begin(self._app, name, target, scope, receive, send, **_attributes(scope))


def _who(door: Door, cookies: Mapping[str, str]) -> tuple[Visitor | None, str | None]:
    """Return the visitor, or else who it is that an OpenID provider signed in and who may not come in."""
    try:
        return door.visitor(cookies), None
    except Stranger as stranger:
        return None, str(stranger)


def _query(scope: Scope) -> dict[str, str]:
    text = scope["query_string"].decode("ascii", "replace")
    try:
        return {name: values[0] for name, values in parse_qs(text, max_num_fields=50).items()}
    except ValueError:
        return {}


def _attributes(scope: Scope) -> dict[str, Any]:
    # The scheme is that of X-Forwarded-Proto where the server trusts the proxy that sent it.
    return {"path": "/", "httponly": True, "samesite": "lax", "secure": scope.get("scheme") == "https"}


def _page(scope: Scope, body: bytes, status: int, more: Mapping[str, str] | None = None) -> Response:
    scope.setdefault("state", {})["own_headers"] = True
    response = Response(body, status, more, "text/html; charset=utf-8")
    response.raw_headers.extend(PAGE_HEADERS)
    return response


def _ask(
    door: Door,
    scope: Scope,
    target: str,
    problem: str | None = None,
    *,
    status: int = 200,
    more: Mapping[str, str] | None = None,
) -> Response:
    """Return the sign-in page."""
    settings = door.settings
    body = sign_in_page(
        password=settings.password is not None,
        providers={} if settings.oidc is None else settings.oidc.providers,
        target=target,
        problem=problem,
    )
    return _page(scope, body, status, more)


def _redirect(target: str) -> Response:
    # Not RedirectResponse, which would quote what is quoted already.
    return Response(status_code=303, headers={"location": target, "cache-control": "no-store"})


def _refused(scope: Scope, headers: Headers) -> Response:
    """Return what somebody gets who has not signed in: a browser that wants a page the way to sign in, all others 401."""
    wants_page = headers.get("sec-fetch-mode") == "navigate" or "text/html" in headers.get("accept", "")
    if scope["method"] == "GET" and wants_page:
        query = scope["query_string"].decode("ascii", "replace")
        wanted = local_target(quote(scope["path"], safe="/") + (f"?{query}" if query else ""))
        return _redirect(SIGN_IN if wanted == "/" else f"{SIGN_IN}?next={quote(wanted, safe='/')}")
    # As JSON: Streamlit's page asks again where its WebSocket was closed, and shows what it is told then.
    told = "You are not signed in, or not any more: reload this page, or open /sign-in."
    return JsonResponse(told, 401, {"cache-control": "no-store"})


def _not_stored(send: Send) -> Send:
    """Return `send`; what goes through it is kept by no browser and no proxy."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [each for each in message.get("headers", ()) if each[0].lower() != b"cache-control"]
            message = {**message, "headers": [*kept, (b"cache-control", b"no-store")]}
        await send(message)

    return sending
