"""Who may use the HTTP API, and how much of it: the `api` block, API_KEYS and ALLOWED_HOSTS.

Of a key only its SHA-256 is kept, and its name: what is compared, logged and shown holds nothing that opens a door.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from fallback.config.section import Number, Section, given
from fallback.core.errors import Problem

__all__ = ["API_NUMBERS", "ApiKey", "ApiSettings", "read_allowed_hosts", "read_api", "read_api_keys"]

MIN_KEY_CHARS = 16
MAX_KEY_FILE_BYTES = 1024 * 1024
_KEY = re.compile(r"[!-~]+")
_KEY_LINE = re.compile(r"(?P<name>[A-Za-z0-9_.-]{1,64})\s*:\s*(?P<digest>[0-9a-fA-F]{64})")
_ENDING = re.compile(
    r".*\.(cfg|conf|csv|dat|env|ini|json|keys?|list|lst|md|pem|secrets?|sha256|text|toml|txt|ya?ml)",
    re.IGNORECASE | re.DOTALL,
)
_ROOTED = re.compile(r"((~[\w.-]*|\.{0,2})/|[A-Za-z]:[/\\])[\w ./\\-]*")
_ROOT = re.compile(
    r"/(app|config|data|etc|home|mnt|opt|private|root|run|secrets|srv|tmp|usr|var|Users|Volumes)/"
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_WORD = re.compile(r"([A-Z]?[a-z]*|[A-Z]+)[0-9]{0,4}")
_HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key that opens the API, as far as this program knows it."""

    name: str
    """What the usage log calls it."""
    digest: bytes
    """SHA-256 of the key, 32 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """The limits of the HTTP server. Durations in seconds; docs/configuration.md says what each is for."""

    max_body_bytes: int = 1024 * 1024
    max_requests: int = 512
    """Requests under /api and /v1 that may be under way at once in one process."""
    requests_per_minute: int | None = None
    """Of one key, or of one address where there are no keys; None: any number."""
    max_connections: int = 4096
    max_header_bytes: int = 32 * 1024
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    min_body_bytes_per_s: int = 500
    """Below it a body is refused before its time is over; 0: no minimum."""
    send_timeout_s: float = 30.0
    keep_alive_timeout_s: float = 60.0


_SECONDS = Number(low=0, high=86_400, above=True)
API_NUMBERS: Final[Mapping[str, Number]] = MappingProxyType(
    {
        "max_body_bytes": Number(low=1024, high=256 * 1024**2, whole=True),
        "max_requests": Number(low=1, high=100_000, whole=True),
        "requests_per_minute": Number(low=1, high=1_000_000, whole=True),
        "max_connections": Number(low=1, high=100_000, whole=True),
        "max_header_bytes": Number(low=1024, high=1024**2, whole=True),
        "header_timeout_s": _SECONDS,
        "body_timeout_s": _SECONDS,
        "min_body_bytes_per_s": Number(low=0, high=1024**3, whole=True),
        "send_timeout_s": _SECONDS,
        "keep_alive_timeout_s": _SECONDS,
    }
)


def read_api(top: Section) -> ApiSettings:
    """Return the limits in the block `api` of the file."""
    block = top.section("api", tuple(API_NUMBERS))
    values = {
        key: block.whole(key, accepted) if accepted.whole else block.number(key, accepted)
        for key, accepted in API_NUMBERS.items()
    }
    return ApiSettings(**given(**values))


def read_api_keys(variables: Mapping[str, str], folder: Path, problems: list[Problem]) -> tuple[ApiKey, ...]:
    """Return the keys that API_KEYS lists, or that the file it names holds; none where it is not set.

    A relative path is taken from `folder`. No problem quotes the variable: whatever it holds may be a key.
    """
    value = variables.get("API_KEYS", "")
    if not value:
        return ()
    found: list[tuple[str, ApiKey]] = []
    noted = len(problems)
    file = _key_file(value, folder)
    if file is not None:
        found = _keys_of_file(file, problems)
    else:
        for number, key in enumerate(filter(None, map(str.strip, value.split(","))), 1):
            if _looks_like_a_file(key):
                message = (
                    f"key {number} looks like the name of a file: name one file alone, or list random keys"
                )
                problems.append(Problem(path="API_KEYS", message=message))
            elif len(key) < MIN_KEY_CHARS or not _KEY.fullmatch(key):
                message = (
                    f"key {number} is too short or holds a space or a character outside ASCII: expected at least "
                    f"{MIN_KEY_CHARS} characters, separated by commas, or the path of a file that exists"
                )
                problems.append(Problem(path="API_KEYS", message=message))
            digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
            found.append((f"key {number}", ApiKey(name=f"key-{number}", digest=digest)))
    if not found and len(problems) == noted:
        # Set, and yet without a key: somebody meant to lock the door.
        problems.append(Problem(path="API_KEYS", message="holds no key; remove it to serve without keys"))
    _note_twice(found, problems)
    return tuple(key for _, key in found)


def _key_file(value: str, folder: Path) -> Path | None:
    is_named = "," not in value and _looks_like_a_file(value)
    path = Path(value)
    try:
        file = folder / path.expanduser()
        return file if is_named or file.is_file() else None
    except (OSError, RuntimeError, ValueError):
        # A home folder that is not known, a text too long for a path.
        return path if is_named else None


def _looks_like_a_file(text: str) -> bool:
    """Return whether `text` was meant as the name of a file: taken for a key, anybody could guess it.

    Random keys are none of it, though base64 holds slashes and other alphabets dots: they do not end in a file's usual
    ending, and what stands between their slashes is no word.
    """
    if _ENDING.fullmatch(text):
        return True
    if _ROOT.match(text) or (_ROOTED.fullmatch(text) and not _BASE64.fullmatch(text)):
        return True
    has_sign = text.startswith(("~", ".")) or "/" in text or "\\" in text
    return has_sign and all(map(_WORD.fullmatch, re.split(r"[ ._~:/\\-]+", text)))


def _keys_of_file(file: Path, problems: list[Problem]) -> list[tuple[str, ApiKey]]:
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_KEY_FILE_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else type(error).__name__
        message = f"the file that it names cannot be read ({reason})"
        if isinstance(error, FileNotFoundError):
            message = "the file that it names is not there (a relative path is taken from the folder of providers.yaml)"
        problems.append(Problem(path="API_KEYS", message=message))
        return []
    found: list[tuple[str, ApiKey]] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()  # noqa: PLW2901 - only what stands in it counts
        if not line or line.startswith("#"):
            continue
        match = _KEY_LINE.fullmatch(line)
        if match is None:
            message = f"line {number} of its file: expected name:sha256, the latter as 64 hexadecimal digits"
            problems.append(Problem(path="API_KEYS", message=message))
        else:
            key = ApiKey(name=match["name"], digest=bytes.fromhex(match["digest"]))
            found.append((f"line {number} of its file", key))
    return found


def _note_twice(found: list[tuple[str, ApiKey]], problems: list[Problem]) -> None:
    names: set[str] = set()
    digests: set[bytes] = set()
    for where, key in found:
        if key.name in names or key.digest in digests:
            problems.append(
                Problem(path="API_KEYS", message=f"{where}: the same key or name stands there twice")
            )
        names.add(key.name)
        digests.add(key.digest)


def read_allowed_hosts(variables: Mapping[str, str], problems: list[Problem]) -> tuple[str, ...]:
    """Return the names in ALLOWED_HOSTS, in small letters: `llm.example.com`, `*.example.com`, or `*` for any."""
    hosts: list[str] = []
    for host in filter(None, map(str.strip, variables.get("ALLOWED_HOSTS", "").lower().split(","))):
        if host != "*" and (not _HOST.fullmatch(host) or len(host) > 255) and not _is_address(host):
            message = "expected names such as llm.example.com or *.example.com, separated by commas, without port or scheme"
            problems.append(Problem(path="ALLOWED_HOSTS", message=message))
            break
        hosts.append(host.rstrip("."))
    return tuple(hosts)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
