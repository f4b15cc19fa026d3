"""Who looks at the dashboard, and what they may do there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["ANYBODY", "Role", "Visitor"]


class Role(StrEnum):
    """What somebody may do on the dashboard."""

    OPERATOR = "operator"
    """Everything."""
    VIEWER = "viewer"
    """Look, and chat; change no provider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Somebody who may use the dashboard."""

    role: Role
    email: str | None = None
    """What an OpenID provider says; None where a password was given, or nothing."""
    session: str = ""
    """Tells one sign-in from another; "" where nobody signs in."""
    until: float | None = None
    """When the sign-in ends, in Unix time; None: never."""

    @property
    def may_operate(self) -> bool:
        """Whether they may switch, reorder, drill and test providers."""
        return self.role is Role.OPERATOR


ANYBODY: Final = Visitor(role=Role.OPERATOR)
"""The visitor of a dashboard that asks nobody."""
