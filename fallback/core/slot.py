"""One provider as the roster keeps it.

What may not live here: decisions (roster), the lock, the clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fallback.core.breaker import Breaker
from fallback.core.learned import Learned
from fallback.core.models import Candidate, Headroom
from fallback.core.standing import Simulation, SlotSpec

__all__ = ["Breakers", "Slot"]


class Breakers(NamedTuple):
    """The breakers of one provider: of the whole, and of each model."""

    whole: Breaker
    models: Mapping[str, Breaker]


class Slot:
    """One provider: its switch, its breakers, its models in succession. Roster holds the lock around it.

    A drill gets breakers of its own, which are thrown away when it ends: what it leads to never mixes with what is so.
    """

    __slots__ = (
        "breakers",
        "candidates",
        "enabled",
        "headroom",
        "learned",
        "name",
        "real",
        "simulation",
        "unavailable",
    )

    def __init__(self, spec: SlotSpec) -> None:
        self.name = spec.name
        self.candidates = spec.candidates
        self.enabled = spec.enabled
        self.unavailable = spec.unavailable
        self.simulation: Simulation | None = None
        self.headroom: tuple[Headroom, float] | None = None
        """What was left of its rate limit, and the instant at which it said so."""
        self.learned = {candidate.model: Learned() for candidate in spec.candidates}
        """What each model's answers taught, drills left out."""
        self.real = self._fresh()
        self.breakers = self.real
        """Those in force: the real ones, or those of a drill."""

    def simulate(self, simulation: Simulation | None) -> None:
        """Begin a drill with breakers of its own, or end the one under way."""
        self.simulation = simulation
        self.breakers = self.real
        if simulation is Simulation.FAULT:
            gone = [name for name, breaker in self.real.models.items() if breaker.gone]
            self.breakers = self._fresh()
            for name in gone:
                self.breakers.models[name].disable(0, reason="model_unavailable", now=0.0)

    def _fresh(self) -> Breakers:
        return Breakers(Breaker(), {candidate.model: Breaker() for candidate in self.candidates})

    def serving(self) -> Candidate | None:
        """Return the first model in the succession that is not disabled for good."""
        for candidate in self.candidates:
            if self._in_service(candidate):
                return candidate
        return None

    def named(self, model: str) -> Candidate | None:
        """Return the candidate of that name, where it is not disabled for good."""
        return next((c for c in self.candidates if c.model == model and self._in_service(c)), None)

    def _in_service(self, candidate: Candidate) -> bool:
        return not self.breakers.models[candidate.model].gone
