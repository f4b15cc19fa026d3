"""Requests by what happened in them: what one of their attempts must be like."""

from __future__ import annotations

from dataclasses import dataclass

from fallback.analytics.grid import MICRO
from fallback.analytics.selection import Selection, of_request

__all__ = ["Through", "condition"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Through:
    """An attempt that a request must have. None: anything; what a line does not say of the attempt before is derived from it."""

    since: float | None = None
    """Unix seconds: it ended then or later."""
    until: float | None = None
    """Unix seconds: it ended before."""
    failover: bool = False
    """Whether it must have gone on from another candidate."""
    failed: bool = False
    """Whether it must have failed; a cancelled one did not."""
    provider: str | None = None
    outcome: str | None = None
    previous_provider: str | None = None
    previous_error_type: str | None = None


def condition(like: Through, chosen: Selection, name: str) -> str:
    """Return the condition for a request with such an attempt. `name` is what its values are called in `chosen`."""
    parts = [f"ts >= {round(like.since * MICRO)}"] if like.since is not None else []
    parts += [f"ts < {round(like.until * MICRO)}"] if like.until is not None else []
    parts += ["role = 'failover'"] if like.failover else []
    parts += ["outcome NOT IN ('ok', 'cancelled')"] if like.failed else []
    parts += [] if chosen.filters.drills else ["NOT drill"]
    for column in ("provider", "outcome", "previous_provider", "previous_error_type"):
        wanted = getattr(like, column)
        if wanted is not None:
            parts.append(f"coalesce({column}, '') = {chosen.value(f'{name}_{column}', wanted)}")
    return of_request(" AND ".join(parts) or "true")
