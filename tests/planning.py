"""A roster in a line, and a plan carried out by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fallback.core.errors import FailureKind
from fallback.core.models import Candidate, ChatRequest, Failure
from fallback.core.plan import GiveUp, Try, Wait, start
from fallback.core.policy import RoutingPolicy
from fallback.core.roster import Roster, SlotSpec


def failure(kind: FailureKind, **options: Any) -> Failure:
    return Failure(kind=kind, **options)


def candidate(provider: str, number: int = 1, **options: Any) -> Candidate:
    return Candidate(provider=provider, model=f"{provider}{number}", **options)


def roster(
    *names: str,
    models: Mapping[str, int] | None = None,
    windows: Mapping[str, int | None] | None = None,
    policy: RoutingPolicy | None = None,
    jitter: float = 0.0,
) -> Roster:
    """Return a roster of `names`, each with so many models as `models` says (1), named a1, a2, ..."""
    counts, sizes = models or {}, windows or {}
    slots = [
        SlotSpec(
            name=name,
            candidates=tuple(
                candidate(name, number, context_window=sizes.get(name))
                for number in range(1, counts.get(name, 1) + 1)
            ),
        )
        for name in names
    ]
    return Roster(slots, policy or RoutingPolicy(), jitter=lambda: jitter)


class Course:
    """One request, driven by hand: `run` obeys the plan until it ends."""

    def __init__(
        self, whom: Roster, *, model: str = "auto", now: float = 0.0, deadline_s: float = 60.0, **asked: Any
    ):
        """`asked` are further members of the ChatRequest."""
        self.now = now
        self.plan = start(
            ChatRequest(
                request_id="r", **{"messages": (), "model": model, "deadline_s": deadline_s, **asked}
            ),
            whom,
            now,
        )
        self.tries: list[Try] = []
        self.waits: list[float] = []
        self._end: GiveUp | None = None

    @property
    def asked(self) -> list[str]:
        return [step.candidate.model for step in self.tries]

    @property
    def end(self) -> GiveUp:
        assert self._end is not None, "it ended with an answer"
        return self._end

    def run(self, outcome: Callable[[Try], Failure | None], *, takes_s: float = 0.0) -> list[str]:
        """Let every attempt take `takes_s` and end as `outcome` says. Returns the models asked, in order."""
        while True:
            step = self.plan.next_step(self.now)
            match step:
                case GiveUp():
                    self._end = step
                    return self.asked
                case Wait():
                    self.waits.append(step.seconds)
                    self.now += step.seconds
                case Try():
                    self.tries.append(step)
                    self.now += min(takes_s, step.timeouts.total_s)
                    came = outcome(step)
                    self.plan.record(step, came, self.now)
                    if came is None:
                        return self.asked
