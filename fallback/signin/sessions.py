"""What stands in the cookie of somebody who gave a password: a role, an end, a name for the session, and a signature.

Theory of operation: `operator.1795000000.Zk3…` and its HMAC-SHA256. The key is made of the secret and of both passwords'
hashes, so that a changed secret or password ends every session. Sessions that were signed out are remembered until they
would have ended, by this process.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from collections import OrderedDict

from itsdangerous import BadSignature, Signer

from fallback.signin.visitor import Role, Visitor

__all__ = ["Revoked", "Sessions"]

_SIGNED = re.compile(r"(operator|viewer)\.(\d{1,12})\.([\w-]{22})")
MAX_CHARS = 200
MAX_REVOKED = 10_000
NAME_BYTES = 16


class Sessions:
    """Makes and reads what stands in the cookie."""

    def __init__(self, secret: bytes, *parts: str) -> None:
        """Sign with `secret`; a session of other `parts` does not count."""
        key = hashlib.sha256(b"\0".join((secret, *(part.encode() for part in parts)))).digest()
        self._signer = Signer(
            key, salt="fallback.session", key_derivation="hmac", digest_method=hashlib.sha256
        )

    def issue(self, role: Role, *, now: float, length_s: float) -> str:
        """Return the text of a new session that lasts `length_s` seconds."""
        value = f"{role}.{math.ceil(now + length_s)}.{secrets.token_urlsafe(NAME_BYTES)}"
        return self._signer.sign(value).decode("ascii")

    def visitor(self, text: str, now: float) -> Visitor | None:
        """Return whose session `text` is; None where it is nobody's, or over at the instant `now`."""
        if len(text) > MAX_CHARS or not text.isascii():
            return None
        try:
            value = self._signer.unsign(text).decode("ascii")
        except BadSignature:
            return None
        match = _SIGNED.fullmatch(value)
        if match is None or now >= int(match[2]):
            return None
        return Visitor(role=Role(match[1]), session=match[3], until=float(match[2]))


class Revoked:
    """The sessions that were signed out and would not be over yet. Only the last `MAX_REVOKED` are remembered."""

    def __init__(self) -> None:
        self._until: OrderedDict[str, float] = OrderedDict()

    def add(self, session: str, until: float, now: float) -> None:
        """Let `session`, which would end at the instant `until`, be over."""
        self._until[session] = until
        while self._until and (len(self._until) > MAX_REVOKED or next(iter(self._until.values())) <= now):
            self._until.popitem(last=False)

    def __contains__(self, session: str) -> bool:
        return session in self._until
