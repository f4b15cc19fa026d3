"""Lists of people: e-mail addresses, and domains that stand for everybody there.

An entry is `alice@example.com`, `@example.com` (or `example.com`) for a domain, not those below it, or `*` for whoever
the OpenID provider signs in. Case does not matter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["People"]

_DOMAIN = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+"
_EMAIL = re.compile(rf"[^\s@,;\"<>()]{{1,64}}@{_DOMAIN}")
_ENTRY = re.compile(rf"\*|@?{_DOMAIN}|{_EMAIL.pattern}")


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """A list of people."""

    emails: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    everybody: bool = False

    @classmethod
    def parse(cls, text: str) -> People:
        """Return the list that `text` writes, separated by commas. Raises ValueError with the number of a bad entry."""
        emails: set[str] = set()
        domains: set[str] = set()
        entries = [entry.strip().lower() for entry in text.split(",")]
        for number, entry in enumerate(entries, 1):
            if not entry:
                continue
            if not _ENTRY.fullmatch(entry):
                raise ValueError(
                    f"entry {number}: expected an e-mail address, a domain such as @example.com, or *"
                )
            name, at, domain = entry.rpartition("@")
            if name and at:
                emails.add(entry)
            elif entry != "*":
                domains.add(domain)
        return cls(emails=frozenset(emails), domains=frozenset(domains), everybody="*" in entries)

    def __bool__(self) -> bool:
        return bool(self.emails or self.domains or self.everybody)

    def __contains__(self, email: str | None) -> bool:
        if self.everybody:
            return True
        # Whatever is not plainly one address belongs to nobody: what comes after the last @ may not be its domain.
        folded = (email or "").lower()
        if not _EMAIL.fullmatch(folded):
            return False
        return folded in self.emails or folded.rpartition("@")[2] in self.domains
