"""What a plan says to do next: try a candidate, wait, or give up."""

from __future__ import annotations

from enum import StrEnum

from fallback.core.kinds import FailureKind
from fallback.core.models import Candidate, Failure, Role, Timeouts
from fallback.core.standing import Permit, Refusal
from fallback.core.values import valueclass

__all__ = ["CANCELLED", "GiveUp", "GiveUpReason", "Step", "Try", "Wait"]

CANCELLED = Failure(kind=FailureKind.CANCELLED, message="the caller went away")


@valueclass(frozen=True, slots=True, kw_only=True)
class Try:
    """Ask this candidate."""

    permit: Permit
    number: int
    role: Role
    timeouts: Timeouts
    skipped: tuple[Refusal, ...] = ()
    """Providers that come before it and are not asked; each is named once a request."""
    probes: tuple[Permit, ...] = ()
    """Leave to look, beside this attempt, whether providers are back; each is to be settled with the roster."""

    @property
    def candidate(self) -> Candidate:
        """Whom to ask."""
        return self.permit.candidate


@valueclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Let `seconds` pass, then ask for the next step."""

    seconds: float
    provider: str


class GiveUpReason(StrEnum):
    """Why nothing is left to try."""

    REJECTED = "rejected"
    """The request itself is at fault."""
    RATE_LIMITED = "rate_limited"
    DEADLINE = "deadline"
    FAILED = "failed"
    NONE_AVAILABLE = "none_available"
    """Every provider is off or not configured."""
    BROKEN = "broken"
    """Text had been delivered when the stream broke."""


@valueclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Nothing is left to try."""

    reason: GiveUpReason
    failure: Failure | None = None
    """The failure that decided, where there is one."""
    provider: str | None = None
    """Whose failure that was."""
    retry_after_s: float | None = None
    skipped: tuple[Refusal, ...] = ()


Step = Try | Wait | GiveUp
