"""Passwords, as far as the program knows them: scrypt hashes.

Theory of operation: a hash is a text, `scrypt:N:R:P:SALT:HASH`, with salt and hash in URL-safe base64. A colon parts it, since a
dollar sign means something in shells and in the .env files of Docker Compose; one that is parted by dollar signs is read all
the same. What is typed is compared in its Unicode normal form NFKC, so that the keyboard it was typed on does not matter.

Sources: RFC 7914 (scrypt), RFC 8265 (preparation of passwords), OWASP's password storage cheat sheet (the costs).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import unicodedata
from dataclasses import dataclass

__all__ = ["MAX_PASSWORD_CHARS", "MIN_PASSWORD_CHARS", "PasswordHash", "looks_like_a_hash"]

MIN_PASSWORD_CHARS = 8
MAX_PASSWORD_CHARS = 1024
MAX_MEMORY_BYTES = 256 * 1024**2
SALT_BYTES = 16
DIGEST_BYTES = 32
COST, BLOCK, PARALLEL = 2**14, 8, 5
"""16 MiB, and some 0.15 s of one core."""
MAX_PARALLEL = 64

_PARTS = re.compile(
    r"scrypt[:$](\d{1,9})[:$](\d{1,3})[:$](\d{1,3})[:$]([\w-]{11,128})=*[:$]([\w-]{22,128})=*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordHash:
    """The scrypt hash of a password, and how it came about."""

    n: int
    """The cost, a power of two."""
    r: int
    p: int
    salt: bytes
    digest: bytes

    @classmethod
    def of(cls, password: str, *, salt: bytes | None = None) -> PasswordHash:
        """Return the hash of `password` under `salt`, by default a random one."""
        salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
        digest = _scrypt(password, COST, BLOCK, PARALLEL, salt, DIGEST_BYTES)
        return cls(n=COST, r=BLOCK, p=PARALLEL, salt=salt, digest=digest)

    @classmethod
    def parse(cls, text: str) -> PasswordHash:
        """Return the hash that `text` writes. Raises ValueError, whose message quotes nothing of it."""
        match = _PARTS.fullmatch(text)
        if match is None:
            raise ValueError("expected scrypt:N:R:P:SALT:HASH as `python -m fallback password` prints it")
        n, r, p = (int(part) for part in match.groups()[:3])
        if n < 1024 or n & (n - 1) or r < 1 or not 1 <= p <= MAX_PARALLEL:
            raise ValueError("its costs make no sense: N is a power of two from 1024, R and P are from 1")
        if 128 * r * (n + p) > MAX_MEMORY_BYTES:
            raise ValueError(f"its costs take more than {MAX_MEMORY_BYTES // 1024**2} MiB for each sign-in")
        try:
            salt, digest = (_decoded(part) for part in match.groups()[3:])
        except binascii.Error:
            raise ValueError("its salt or its hash is not base64") from None
        return cls(n=n, r=r, p=p, salt=salt, digest=digest)

    def text(self) -> str:
        """Return it as `parse` reads it."""
        return f"scrypt:{self.n}:{self.r}:{self.p}:{_encoded(self.salt)}:{_encoded(self.digest)}"

    def matches(self, password: str) -> bool:
        """Return whether it is the hash of `password`, compared in constant time. Takes as long as the costs say."""
        if len(password) > MAX_PASSWORD_CHARS:
            return False
        digest = _scrypt(password, self.n, self.r, self.p, self.salt, len(self.digest))
        return hmac.compare_digest(digest, self.digest)

    def __repr__(self) -> str:
        return "PasswordHash(***)"


def looks_like_a_hash(text: str) -> bool:
    """Return whether `text` is meant as a hash, be it a good one or not."""
    return text.startswith(("scrypt:", "scrypt$"))


def _scrypt(password: str, n: int, r: int, p: int, salt: bytes, length: int) -> bytes:
    normal = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(normal, salt=salt, n=n, r=r, p=p, maxmem=MAX_MEMORY_BYTES * 2, dklen=length)


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
