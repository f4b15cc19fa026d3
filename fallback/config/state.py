"""Where switches and cooldowns are shared, if not in a file beside the log: STATE_URL and STATE_PREFIX.

A URL may hold a password, so no problem quotes any of it, and only `StateServer.place` is ever shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from fallback.config.section import nearest
from fallback.core.errors import Problem
from fallback.providers.settings import Secret

__all__ = ["StateServer", "read_state_server"]

DEFAULT_PREFIX: Final = "fallback:"
DEFAULT_PORT: Final = 6379
_SCHEMES: Final = ("redis", "rediss", "unix")
_PREFIX = re.compile(r"[A-Za-z0-9_.:{}/-]{1,64}")
_TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_CHOICES: Final = {"ssl_cert_reqs": ("required", "none"), "ssl_check_hostname": ("true", "false")}


@dataclass(frozen=True, slots=True, kw_only=True)
class StateServer:
    """The Valkey or Redis server that all replicas share."""

    url: Secret
    """redis://, rediss:// or unix://, as redis-py takes it."""
    place: str
    """Host, port and database, or the path of the socket: what people are shown."""
    prefix: str = DEFAULT_PREFIX
    """What the name of every key there begins with."""


def read_state_server(variables: Mapping[str, str], problems: list[Problem]) -> StateServer | None:
    """Return the server that STATE_URL names; None where it is not set, or `problems` were noted."""
    url = variables.get("STATE_URL", "")
    prefix = variables.get("STATE_PREFIX", "")
    if prefix and not _PREFIX.fullmatch(prefix):
        problems.append(Problem(path="STATE_PREFIX", message=_PREFIX_MESSAGE))
    if not url:
        return None
    complaint, server = _read(url, prefix)
    if complaint:
        problems.append(Problem(path="STATE_URL", message=complaint))
    return server


_SHAPE: Final = (
    "expected redis://[user:password@]host[:port][/database], rediss:// the same with TLS, or "
    "unix://[user:password@]/path/of/the/socket[?db=database]"
)
_ENCODE: Final = "characters such as @ : / ? # in user or password are written as %40 %3A %2F %3F %23"
_PREFIX_MESSAGE: Final = "expected 1 to 64 letters, digits or any of _ . : { } / -"


def _read(url: str, prefix: str) -> tuple[str | None, StateServer | None]:
    """Return what is wrong with `url`, or else the server that it names."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return f"{_SHAPE}; {_ENCODE}", None
    scheme = parts.scheme.lower()
    if scheme not in _SCHEMES or parts.fragment or port == 0:
        return f"{_SHAPE}; {_ENCODE}", None
    if scheme == "unix" and (len(parts.path) < 2 or parts.hostname):
        return f"{_SHAPE}; a socket has an absolute path", None
    if scheme != "unix" and not parts.hostname:
        return f"{_SHAPE}; {_ENCODE}", None
    if parts.username and not parts.password:
        return "a user name without a password: redis://user:password@host, or redis://:password@host", None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    complaint = _complaint(options, scheme)
    if complaint:
        return complaint, None
    path_database = "" if scheme == "unix" else parts.path.strip("/")
    database = options.get("db", path_database) or "0"
    if not database.isascii() or not database.isdigit() or (path_database and "db" in options):
        return "expected the number of the database, once: redis://host/0", None
    named = options.pop("prefix", "")
    query = f"?{urlencode(options)}" if options else ""
    clean = f"{scheme}://{parts.netloc}{parts.path}{query}"
    place = unquote(parts.path) if scheme == "unix" else _shown(parts.hostname or "", port)
    server = StateServer(
        url=Secret(clean), place=f"{place}/{database}", prefix=prefix or named or DEFAULT_PREFIX
    )
    return None, server


def _complaint(options: Mapping[str, str], scheme: str) -> str | None:
    known = ("prefix", "db", *(_TLS_OPTIONS if scheme == "rediss" else ()))
    for name, value in options.items():
        if name not in known:
            # Not quoted: it may be a piece of a password that holds a question mark.
            return f"an unknown option{nearest(name, known)} after the question mark; known are {', '.join(known)}"
        if name in _CHOICES and value.lower() not in _CHOICES[name]:
            return f"{name}: expected {' or '.join(_CHOICES[name])}"
    if not _PREFIX.fullmatch(options.get("prefix", DEFAULT_PREFIX)):
        return f"prefix: {_PREFIX_MESSAGE}"
    return None


def _shown(host: str, port: int | None) -> str:
    return f"[{host}]:{port or DEFAULT_PORT}" if ":" in host else f"{host}:{port or DEFAULT_PORT}"
