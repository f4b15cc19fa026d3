"""What callers were told, as it comes in: counts, the answers that were acknowledged, and whatever was wrong."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Acknowledged", "Ledger", "Outcome"]

_KEPT_WORDS = 40
KILL_MARGIN_S = 1.0
"""So long after its end a connection to a killed worker may be found in a caller's pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one request.

    kind        `right`, `error` (a clean one), `broken` (the connection), `left` (the caller went away), `refused` (rubbish, and so
                it was told), `wrong`: whatever must not be
    detail      the type of the error, or in what way it is wrong
    request_id  what the program called it, "" where that did not come through
    """

    kind: str
    detail: str = ""
    request_id: str = ""
    seams: int = 0
    attempts: int = 0
    """Calls that the program says it took; 0: it did not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """An end that a caller was told of: `ok` or `error`, at an instant of the monotonic clock."""

    outcome: str
    at: float
    attempts: int = 0


@dataclass(slots=True)
class Ledger:
    """Fed by the callers, all on one event loop."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By way of asking, and kind."""
    errors: Counter[str] = field(default_factory=Counter)
    """Clean errors, by type."""
    acknowledged: dict[str, Acknowledged] = field(default_factory=dict)
    """By request id."""
    wrong: list[str] = field(default_factory=list)
    """What was wrong, in words; the first ones of many."""
    wrong_count: int = 0
    seams: int = 0
    failovers: int = 0
    kills: list[tuple[float, float]] = field(default_factory=list)
    """When workers were killed: from the signal to when the process was gone."""
    repeated_ids: list[str] = field(default_factory=list)

    def take(self, way: str, outcome: Outcome, began: float) -> None:
        """Take down what came of a request that was asked in `way`, at the instant `began`."""
        now = time.monotonic()
        if outcome.kind == "broken" and not self._excused(began, now):
            outcome = Outcome(
                kind="wrong", detail=f"connection lost and no worker was killed: {outcome.detail}"
            )
        self.counts[way, outcome.kind] += 1
        match outcome.kind:
            case "wrong":
                self.accuse(f"{way}: {outcome.detail} {outcome.request_id}".rstrip())
            case "error":
                self.errors[outcome.detail] += 1
        self.seams += outcome.seams
        self.failovers += outcome.attempts > 1
        if outcome.request_id and outcome.kind in {"right", "error"}:
            if outcome.request_id in self.acknowledged:
                self.repeated_ids.append(outcome.request_id)
            self.acknowledged[outcome.request_id] = Acknowledged(
                outcome="ok" if outcome.kind == "right" else "error", at=now, attempts=outcome.attempts
            )

    def accuse(self, what: str) -> None:
        """Take down something that must not be."""
        self.wrong_count += 1
        if len(self.wrong) < _KEPT_WORDS:
            self.wrong.append(what)

    def total(self, *kinds: str) -> int:
        """Return how many requests ended in one of `kinds`, all where none is named."""
        return sum(count for (_, kind), count in self.counts.items() if not kinds or kind in kinds)

    def _excused(self, began: float, ended: float) -> bool:
        return any(
            signalled <= ended and began <= gone + KILL_MARGIN_S
            for signalled, gone in reversed(self.kills[-50:])
        )
