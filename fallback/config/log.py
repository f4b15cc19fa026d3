"""What the environment says about the usage log: the name of this process in its lines, and what logs are looked at."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from fallback.core.errors import Problem

__all__ = ["read_instance", "read_sources"]

MAX_NAME_CHARS = 128
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def read_instance(variables: Mapping[str, str], problems: list[Problem]) -> str | None:
    """Return INSTANCE_NAME, else the name of this machine; None where it has none that can be printed."""
    name = variables.get("INSTANCE_NAME")
    if name is None:
        machine = socket.gethostname()
        return machine if _is_name(machine) else None
    if not _is_name(name):
        message = f"expected a name of at most {MAX_NAME_CHARS} printable characters"
        problems.append(Problem(path="INSTANCE_NAME", message=message))
        return None
    return name


def read_sources(variables: Mapping[str, str], folder: Path, problems: list[Problem]) -> tuple[str, ...]:
    """Return the places that USAGE_LOGS names, each once: whole paths and patterns, and addresses.

    They are separated by commas, paths by the separator of PATH as well. A relative path is taken from `folder`. No problem
    quotes an address: it may hold a key.
    """
    found: dict[str, None] = {}
    for place in _places(variables.get("USAGE_LOGS", "")):
        if not place.isprintable():
            problems.append(Problem(path="USAGE_LOGS", message="a character in it cannot be printed"))
        elif _URL.match(place):
            message = _url_complaint(place)
            if message is None:
                found[place] = None
            else:
                problems.append(Problem(path="USAGE_LOGS", message=message))
        else:
            try:
                found[os.path.normpath(folder / Path(place).expanduser())] = None
            except RuntimeError:
                problems.append(Problem(path="USAGE_LOGS", message="the home folder of ~ is not known"))
    return tuple(found)


def _places(value: str) -> Iterator[str]:
    """Split at commas and separators of PATH; the rest of a part behind an address's beginning is the address."""
    for part in value.split(","):
        match = _URL.search(part)
        paths = part if match is None else part[: match.start()]
        yield from filter(None, map(str.strip, paths.split(os.pathsep)))
        if match is not None:
            address = part[match.start() :].strip()
            yield address.removeprefix("file://") if address.startswith("file:///") else address


def _url_complaint(address: str) -> str | None:
    try:
        url = urlsplit(address)
    except ValueError:
        return "one of the addresses is none"
    if url.username or url.password:
        return "an address holds a name or a password: put them where the store's library looks for them (docs/analytics.md)"
    if not (url.netloc or url.path.strip("/")):
        return "one of the addresses names no place"
    return None


def _is_name(text: str) -> bool:
    return 0 < len(text) <= MAX_NAME_CHARS and text.isprintable()
