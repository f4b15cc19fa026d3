"""The door of one running program: it knows whose cookies these are, and who gave which password."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping

from itsdangerous import BadSignature, URLSafeTimedSerializer

from fallback.providers.settings import Secret
from fallback.signin.attempts import Attempts
from fallback.signin.sessions import Revoked, Sessions
from fallback.signin.settings import DashboardSettings, OidcSettings
from fallback.signin.visitor import ANYBODY, Role, Visitor

__all__ = ["COOKIE", "OIDC_COOKIE", "Door", "Stranger"]

COOKIE = "fallback_session"
OIDC_COOKIE = "_streamlit_user"
"""Streamlit's name for it."""
MAX_CHUNKS = 20
MAX_COOKIE_CHARS = 8192


class Stranger(Exception):  # noqa: N818 - it is an answer, not an accident
    """Somebody whom the OpenID provider signed in, and who is on no list. The message is their address."""


class Door:
    """Lets visitors of the dashboard in. Safe for threads, but for `attempts`."""

    def __init__(
        self, settings: DashboardSettings, session_secret: Secret | None, *, wall: Callable[[], float]
    ) -> None:
        """Without a `session_secret` one is made up, and sessions end with the program."""
        self.settings = settings
        self.attempts = Attempts()
        self._wall = wall
        self._revoked = Revoked()
        secret = session_secret.reveal().encode() if session_secret else secrets.token_bytes(32)
        hashes = (settings.password, settings.viewer_password)
        self._sessions = Sessions(secret, *("" if each is None else each.text() for each in hashes))

    @property
    def guarded(self) -> bool:
        """Whether anybody has to sign in."""
        return self.settings.guarded

    def visitor(self, cookies: Mapping[str, str]) -> Visitor | None:
        """Return whose `cookies` these are, by their names; None: nobody's who may come in.

        Where nobody has to sign in that is ANYBODY. Raises Stranger for a valid sign-in of somebody on no list.
        """
        if not self.guarded:
            return ANYBODY
        now = self._wall()
        found = self._sessions.visitor(cookies[COOKIE], now) if self._asks_for_one(cookies) else None
        if found is None and self.settings.oidc is not None:
            found = self._of_provider(cookies, self.settings.oidc, now)
        return None if found is None or found.session in self._revoked else found

    def sign_in(self, password: str) -> str | None:
        """Return the text for the cookie of whoever knows `password`; None where it is wrong. Takes some 0.3 s."""
        role: Role | None = None
        # Each is tried, so that the time does not tell which one was right.
        for candidate, known in (
            (Role.VIEWER, self.settings.viewer_password),
            (Role.OPERATOR, self.settings.password),
        ):
            if known is not None and known.matches(password):
                role = candidate
        if role is None:
            return None
        return self._sessions.issue(role, now=self._wall(), length_s=self.settings.session_s)

    def sign_out(self, visitor: Visitor) -> None:
        """End the session of `visitor`, wherever its cookie is still kept."""
        if visitor.session and visitor.until is not None:
            self._revoked.add(visitor.session, visitor.until, self._wall())

    def left_s(self, visitor: Visitor) -> float | None:
        """Return how many seconds the sign-in of `visitor` still lasts; None: for ever."""
        return None if visitor.until is None else max(0.0, visitor.until - self._wall())

    def _asks_for_one(self, cookies: Mapping[str, str]) -> bool:
        return self.settings.password is not None and COOKIE in cookies

    def _of_provider(self, cookies: Mapping[str, str], oidc: OidcSettings, now: float) -> Visitor | None:
        claims, signed = _claims(cookies, oidc.cookie_secret.reveal())
        if claims is None or claims.get("is_logged_in") is not True or claims.get("origin") != oidc.origin:
            return None
        until = signed + self.settings.session_s
        if now >= until:
            return None
        email = claims.get("email")
        verified = claims.get("email_verified", True)
        shown = email.lower() if isinstance(email, str) and (verified is True or verified == "true") else None
        if shown in self.settings.operators:
            role = Role.OPERATOR
        elif shown in self.settings.viewers:
            role = Role.VIEWER
        else:
            raise Stranger(shown or "an account without a verified e-mail address")
        # Of what was signed, and not of the cookie: a signature can be written in more than one way.
        session = hashlib.sha256(f"{signed} {json.dumps(claims, sort_keys=True)}".encode()).hexdigest()
        return Visitor(role=role, email=shown, session=session, until=until)


def _claims(cookies: Mapping[str, str], secret: str) -> tuple[dict[str, object] | None, float]:
    """Return what Streamlit's cookie says about somebody, and when it was signed; None where it is not Streamlit's.

    A long one is split: then the cookie of that name says `chunks-N`, and the text is in `NAME_1` to `NAME_N`.
    """
    text, signed = _unsigned(cookies, OIDC_COOKIE, secret)
    if text is not None and text.startswith("chunks-"):
        count = text.removeprefix("chunks-")
        if not count.isdigit() or len(count) > 3 or int(count) > MAX_CHUNKS:
            return None, 0.0
        parts = [_unsigned(cookies, f"{OIDC_COOKIE}_{number + 1}", secret)[0] for number in range(int(count))]
        text = None if None in parts else "".join(part for part in parts if part)
    if text is None:
        return None, 0.0
    try:
        claims = json.loads(text)
    except ValueError:
        return None, 0.0
    return (claims, signed) if isinstance(claims, dict) else (None, 0.0)


def _unsigned(cookies: Mapping[str, str], name: str, secret: str) -> tuple[str | None, float]:
    value = cookies.get(name, "")
    if not value or len(value) > MAX_COOKIE_CHARS:
        return None, 0.0
    try:
        # As Streamlit signs it: the cookie's name is the salt.
        text, signed = URLSafeTimedSerializer(secret, salt=name).loads(value, return_timestamp=True)
    except BadSignature:
        return None, 0.0
    return (text, signed.timestamp()) if isinstance(text, str) else (None, 0.0)
