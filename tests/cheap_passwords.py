"""Hashes of passwords that cost a hundredth of the real ones: the program takes any costs, and tests need not wait."""

from __future__ import annotations

import hashlib

from fallback.signin import PasswordHash

__all__ = ["cheap_hash"]


def cheap_hash(password: str) -> PasswordHash:
    salt = hashlib.sha256(password.encode()).digest()[:16]
    digest = hashlib.scrypt(password.encode(), salt=salt, n=1024, r=1, p=1, dklen=32)
    return PasswordHash(n=1024, r=1, p=1, salt=salt, digest=digest)
