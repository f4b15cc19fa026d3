"""Signing in through an OpenID provider, and out again. It is Streamlit that speaks with the provider: this stands around it.

Theory of operation: Streamlit has routes of its own for st.login and st.logout. A browser never calls those by itself: where
somebody wants in or out, `Doorway` has checked that, and what Streamlit would be asked is made here and what it answers is
looked at. Where the browser wanted to go before it left for the provider stands in a cookie meanwhile, as Streamlit
brings everybody back to "/".

What may not live here: who may come in (signin).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fallback.api.forms import local_target
from fallback.signin import OIDC_COOKIE, OidcSettings

__all__ = ["CALLBACK", "NEXT_COOKIE", "begin", "come_back", "configure_streamlit", "leave"]

CALLBACK = "/oauth2callback"
NEXT_COOKIE = "fallback_next"
NEXT_FOR_S = 600
"""How long somebody may take at the provider's."""
_LOGIN, _LOGOUT = "/auth/login", "/auth/logout"

Change = Callable[[list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]]


def configure_streamlit(oidc: OidcSettings) -> None:
    """Let st.login go by the settings that were checked, wherever Streamlit would look for some by itself."""
    # Here, because the API alone runs without Streamlit.
    from streamlit.runtime.secrets import secrets_singleton

    secrets_singleton.merge_programmatic_secrets({"auth": dict(oidc.section)})


async def begin(
    app: ASGIApp, name: str, target: str, scope: Scope, receive: Receive, send: Send, **attributes: Any
) -> None:
    """Send a browser to the provider `name`, and from there to `target`."""
    from streamlit.auth_util import encode_provider_token

    query = urlencode({"provider": encode_provider_token(name)}).encode()
    response = Response()
    response.set_cookie(NEXT_COOKIE, urlencode({"to": target}), max_age=NEXT_FOR_S, **attributes)

    def change(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        return [*headers, *_cookies(response.raw_headers)]

    await app(_as_get(scope, _LOGIN, query), receive, _changed(send, change))


async def come_back(
    app: ASGIApp, wanted: str | None, scope: Scope, receive: Receive, send: Send, **attributes: Any
) -> None:
    """Serve a browser that comes from the provider; `wanted` is its cookie NEXT_COOKIE.

    Where Streamlit found nothing wrong it goes to where it wanted to, else to the sign-in page, which says so.
    """
    target = local_target(parse_qs(wanted or "").get("to", ["/"])[0])
    asked = parse_qs(scope["query_string"].decode("ascii", "replace"))
    failed = "/sign-in?failed=1" if {"code", "error"} & set(asked) else "/sign-in"
    response = Response()
    response.delete_cookie(NEXT_COOKIE, **attributes)

    def change(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        signed_in = any(_sets(value, OIDC_COOKIE) for _, value in _cookies(headers))
        location = (target if signed_in else failed).encode("ascii", "replace")
        kept = [each for each in headers if each[0].lower() not in {b"location", b"set-cookie"}]
        # Streamlit leaves Secure out, for the sake of a browser's fault on http://localhost.
        more = b"; Secure" if attributes.get("secure") else b""
        theirs = [
            (name, value if b"; secure" in value.lower() else value + more)
            for name, value in _cookies(headers)
        ]
        return [*kept, (b"location", location), *theirs, *_cookies(response.raw_headers)]

    await app(scope, receive, _changed(send, change))


async def leave(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[str, list[tuple[bytes, bytes]]]:
    """Return where a browser that signs out has to go, and the headers that take Streamlit's cookies back."""
    heard: list[Message] = []

    async def hearing(message: Message) -> None:
        heard.append(message)

    await app(_as_get(scope, _LOGOUT, b""), receive, hearing)
    headers: list[tuple[bytes, bytes]] = list(heard[0].get("headers", ()))
    location = next((value.decode("latin-1") for name, value in headers if name.lower() == b"location"), "/")
    return location, _cookies(headers)


def _cookies(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [each for each in headers if each[0].lower() == b"set-cookie"]


def _sets(cookie: bytes, name: str) -> bool:
    """Return whether a Set-Cookie header gives the cookie `name` a value."""
    found, _, value = cookie.partition(b";")[0].partition(b"=")
    return found.strip() == name.encode() and value.strip(b' "') != b""


def _as_get(scope: Scope, path: str, query: bytes) -> Scope:
    """Return `scope` as a GET of `path`, for a route of Streamlit's."""
    return {**scope, "method": "GET", "path": path, "raw_path": path.encode(), "query_string": query}


def _changed(send: Send, change: Change) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [each for each in message.get("headers", ()) if each[0].lower() != b"cache-control"]
            message = {**message, "headers": [*change(kept), (b"cache-control", b"no-store")]}
        await send(message)

    return sending
