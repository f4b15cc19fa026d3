"""The lines of the usage log that tell of changes of providers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fallback.core.errors import FailureKind
from fallback.core.roster import StateChange
from fallback.usage_log import state_line

__all__ = ["change_lines"]


def change_lines(
    changes: Iterable[StateChange], wall: float, request_id: str | None = None
) -> list[Mapping[str, object]]:
    """Return the lines of the usage log that tell of `changes`, made at the Unix time `wall`."""
    return [
        state_line(
            provider=change.provider,
            model=change.model,
            from_state=change.before,
            to_state="retired" if _retired(change) else change.after,
            reason=change.reason,
            until=None if change.length_s is None else wall + change.length_s,
            length_s=change.length_s,
            by=change.by,
            request_id=request_id,
        )
        for change in changes
    ]


def _retired(change: StateChange) -> bool:
    return change.after == "disabled" and change.reason == FailureKind.MODEL_UNAVAILABLE
