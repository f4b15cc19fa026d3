"""A small OpenID provider on this machine: discovery, authorize, token, keys, end of session. It signs in whoever one says.

Its page asks for an e-mail address and believes it; `verified` says what it claims about that. Sources: OpenID Connect Core 1.0,
Discovery 1.0, RP-Initiated Logout 1.0; RFC 7636 (PKCE).
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, CLIENT_SECRET = "the-dashboard", "known to the dashboard and to the provider"


@dataclass(kw_only=True)
class OidcProvider:
    """The provider, and what it was asked. A context manager."""

    verified: object = True
    """What it claims as `email_verified`; None: it claims nothing."""
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    ended: list[dict[str, str]] = field(default_factory=list)
    """The queries of those who were sent to it to sign out."""
    _key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "one"}))
    _server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"provider": self}))
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def secrets_toml(self, origin: str) -> str:
        """Return the file with which a dashboard at `origin` trusts this provider."""
        return (
            f'[auth]\nredirect_uri = "{origin}/oauth2callback"\ncookie_secret = "a secret for tests alone"\n'
            f'client_id = "{CLIENT}"\nclient_secret = "{CLIENT_SECRET}"\n'
            f'server_metadata_url = "{self.url}/.well-known/openid-configuration"\n'
        )

    def metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "end_session_endpoint": f"{self.url}/end",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
        }

    def code(self, asked: dict[str, str], email: str) -> str:
        code = secrets.token_urlsafe(16)
        self.codes[code] = {**asked, "email": email}
        return code

    def tokens(self, form: dict[str, str]) -> dict[str, Any] | None:
        """Return what a code is worth, once; None where anything about it is wrong."""
        asked = self.codes.pop(form.get("code", ""), None)
        if asked is None or form.get("redirect_uri") != asked["redirect_uri"]:
            return None
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != asked["code_challenge"]:
            return None
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.url, "sub": asked["email"], "aud": CLIENT, "iat": now, "exp": now + 300,
            "nonce": asked["nonce"], "email": asked["email"], "name": "Somebody",
        }  # fmt: skip
        if self.verified is not None:
            claims["email_verified"] = self.verified
        id_token = jwt.encode({"alg": "RS256", "kid": "one"}, claims, self._key)
        return {"access_token": "nothing", "token_type": "Bearer", "expires_in": 300, "id_token": id_token}

    def keys(self) -> dict[str, Any]:
        return {"keys": [{**self._key.as_dict(private=False), "use": "sig", "alg": "RS256"}]}


class _Handler(BaseHTTPRequestHandler):
    provider: OidcProvider

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        match parts.path:
            case "/.well-known/openid-configuration":
                self._json(self.provider.metadata())
            case "/jwks":
                self._json(self.provider.keys())
            case "/authorize" if "email" in query:
                email = query.pop("email")
                answer = (
                    {"error": "access_denied"} if not email else {"code": self.provider.code(query, email)}
                )
                self._redirect(f"{query['redirect_uri']}?{urlencode({**answer, 'state': query['state']})}")
            case "/authorize":
                hidden = "".join(f'<input type=hidden name="{n}" value="{v}">' for n, v in query.items())
                self._html(
                    f"<!doctype html><title>Provider</title><link rel=icon href='data:,'><form>{hidden}"
                    "<label>E-mail <input name=email></label><button>Continue</button></form>"
                )
            case "/end":
                self.provider.ended.append(query)
                self._redirect(query["post_logout_redirect_uri"])
            case _:
                self.send_error(404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        expected = base64.b64encode(f"{CLIENT}:{CLIENT_SECRET}".replace(" ", "+").encode()).decode()
        plain = base64.b64encode(f"{CLIENT}:{CLIENT_SECRET}".encode()).decode()
        trusted = self.headers.get("authorization") in {f"Basic {expected}", f"Basic {plain}"}
        tokens = self.provider.tokens(form) if trusted else None
        self._json({"error": "invalid_grant"} if tokens is None else tokens, 400 if tokens is None else 200)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base
        """Say nothing."""

    def _json(self, value: object, status: int = 200) -> None:
        self._answer(json.dumps(value).encode(), "application/json", status)

    def _html(self, text: str) -> None:
        self._answer(text.encode(), "text/html; charset=utf-8", 200)

    def _answer(self, body: bytes, kind: str, status: int) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _redirect(self, location: str) -> None:
        self.send_response(302)
        self.send_header("location", location)
        self.send_header("content-length", "0")
        self.end_headers()
