"""What the environment says about the usage log: the name of this process in its lines."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from fallback.core.errors import Problem

__all__ = ["read_instance"]

MAX_NAME_CHARS = 128


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


def _is_name(text: str) -> bool:
    return 0 < len(text) <= MAX_NAME_CHARS and text.isprintable()
