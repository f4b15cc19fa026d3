"""Texts of providers, made fit to be shown: no key, no account id, one line, bounded."""

from __future__ import annotations

import re

__all__ = ["redact", "without_key"]

_MASK = "***"
_PATTERNS = (
    re.compile(r"\b(?:sk|gsk|tgp|pk|key|rk)[-_][A-Za-z0-9_\-]{6,}"),
    re.compile(r"\bBearer\s+\S+", re.IGNORECASE),
    re.compile(r"\b(?:org|user|acct|proj|team)[-_](?:[A-Za-z0-9]{4,}\b|(?=\w*[0-9])\w{4,})"),
    re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,64}\.[\w.]+"),
    re.compile(r"\b(?=[A-Za-z0-9_\-]*[0-9])(?=[A-Za-z0-9_\-]*[A-Za-z])[A-Za-z0-9_]{32,}\b"),
)
_END_LENGTH = 6
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


def redact(text: str, key: str, *, limit: int = 300) -> str:
    """Return `text` on one line of at most `limit` characters, without `key`, its ends, or account ids.

    `key` is the key that was sent, "" for none. A short key counts too: providers echo those whole.
    """
    text = _one_line(text, key, 8 * limit)
    for pattern in _PATTERNS:
        text = pattern.sub(_MASK, text)
    text = _without_ends(text, key)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def without_key(text: str, key: str, *, limit: int) -> str:
    """Return `text` on one line of at most `limit` characters, without `key` and its ends: for ids and names."""
    if not text:
        return text
    return _without_ends(_one_line(text, key, limit), key)[:limit]


def _one_line(text: str, key: str, limit: int) -> str:
    # Before the cut, which would leave a part of the key that no longer matches.
    text = (text.replace(key, _MASK) if key else text)[:limit]
    if text.isprintable() and "  " not in text and text.strip() == text:
        return text  # nearly every one
    return " ".join(_CONTROL.sub(" ", text).split())


def _without_ends(text: str, key: str) -> str:
    whole = len(key) >= 2 * _END_LENGTH
    if _MASK not in text and not (whole and (key[:_END_LENGTH] in text or key[-_END_LENGTH:] in text)):
        return text
    # Word by word: a key that the provider masked itself still shows its ends.
    ends = (_MASK, key[:_END_LENGTH], key[-_END_LENGTH:]) if whole else (_MASK,)
    return " ".join(_MASK if any(end in word for end in ends) else word for word in text.split(" "))
