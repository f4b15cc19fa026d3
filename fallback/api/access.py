"""Who may use the program: from what network, under what name, with what key.

Theory of operation: three questions, each a function of the request's first lines.

1. Did it come in over the network, for a part of the program that asks nobody who they are: the API without keys, the dashboard
   without a sign-in? Then it is not served, unless the program was started with `--insecure`. main.py refuses such a start;
   this is for every other server that the application is given to.
2. Is `Host` a name of this program? A page on the internet can let a name of its own point at 127.0.0.1 (DNS rebinding),
   and the browser then takes this program for that page's own server. It cannot do so with an address or with localhost,
   so those always pass, and every other name has to be known.
3. Is there a key, and is it one of ours? Only digests are kept; all of them are compared, each in constant time.

What may not live here: reading the configuration (config), answering (middleware).
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from fallback.api.errors import Refusal
from fallback.config import ApiKey

__all__ = ["Access", "is_local"]

MAX_DECIDED = 1000
_CHALLENGE = 'Bearer realm="llm-fallback"'


@functools.lru_cache(maxsize=256)
def is_local(address: str) -> bool:
    """Return whether only this machine reaches `address`: a loopback address, or no address at all (a socket file)."""
    found = _address(address)
    return found is None or found.is_loopback


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


@dataclass(frozen=True, kw_only=True)
class Access:
    """The rules of one running program."""

    keys: Sequence[ApiKey] = ()
    hosts: Sequence[str] = ()
    """Names under which the program is reached, in small letters; `*.` before one stands for all below, `*` for any."""
    signs_in: bool | None = None
    """Whether the dashboard asks who is there; None: there is no dashboard."""
    insecure: bool = False
    """Whether others may be served without keys and without a sign-in."""
    _decided: dict[tuple[bytes, str | None], bool] = field(default_factory=dict, repr=False, compare=False)
    """Hosts that were looked at: nearly every request has the same one."""

    def check_network(self, server: str | None, family: str = "api") -> None:
        """Raise Refusal where `server`, the address that was connected to, is not to be served.

        `family` is what was asked for, as `refusing.family_of` says.
        """
        if self.insecure or server is None or is_local(server):
            return
        is_dashboard = family == "page" and self.signs_in is not None
        if self.signs_in if is_dashboard else self.keys or (family == "probe" and self.signs_in):
            return
        if is_dashboard and self.keys:
            message = "the dashboard is there for its own machine alone: set DASHBOARD_PASSWORD in .env to serve others"
            raise Refusal(403, "not_local", message)
        message = "this program serves its own machine alone: set API_KEYS in .env, or start it with --insecure, to serve others"
        raise Refusal(403, "not_local", message)

    def check_host(self, hosts: Sequence[bytes], server: str | None) -> None:
        """Raise Refusal where `hosts`, the Host headers of a request, are not one name of this program."""
        if len(hosts) != 1:
            raise Refusal(400, "wrong_host", "the header Host has to be there once")
        case = (hosts[0], server)
        known = self._decided.get(case)
        if known is None:
            if len(self._decided) >= MAX_DECIDED:
                self._decided.clear()
            known = self._decided[case] = self._knows(hosts[0], server)
        if not known:
            message = "this program has another name: list the one in your request's Host in ALLOWED_HOSTS"
            raise Refusal(421, "wrong_host", message)

    def key_name(self, authorizations: Sequence[bytes]) -> str | None:
        """Return the name of the key in `authorizations`, the Authorization headers of a request.

        None where the program has no keys. Raises Refusal where none of them is in there.
        """
        if not self.keys:
            return None
        if not authorizations:
            message = "an API key is needed: send the header Authorization: Bearer <key>"
            raise Refusal(401, "no_api_key", message, {"www-authenticate": _CHALLENGE})
        scheme, _, key = authorizations[0].partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        name: str | None = None
        for known in self.keys:
            if hmac.compare_digest(known.digest, digest):
                name = known.name
        if name is None or scheme.lower() != b"bearer" or len(authorizations) > 1:
            message = "the API key is not one of this program's"
            challenge = f'{_CHALLENGE}, error="invalid_token"'
            raise Refusal(401, "wrong_api_key", message, {"www-authenticate": challenge})
        return name

    def _knows(self, host: bytes, server: str | None) -> bool:
        name = _name(host)
        if name is None:
            return False
        return (
            _address(name) is not None
            or name == "localhost"
            or name.endswith(".localhost")
            or name in self._own
            or name == server
            or any(_matches(name, pattern) for pattern in self.hosts)
        )

    @functools.cached_property
    def _own(self) -> frozenset[str]:
        machine = socket.gethostname().lower()
        return frozenset({machine, machine.partition(".")[0]} - {""})


def _name(host: bytes) -> str | None:
    """Return the name in a Host header, without its port, in small letters; None where it is none."""
    try:
        text = host.decode("ascii").lower().strip()
    except UnicodeDecodeError:
        return None
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        valid = bracket and (not rest or (rest.startswith(":") and rest[1:].isdigit()))
        return inside if valid else None
    name, colon, port = text.partition(":")
    if colon and not port.isdigit():
        return None
    return name.removesuffix(".") or None


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return name.endswith(pattern[1:])
    return pattern in {"*", name} or pattern.strip("[]") == name
