"""The state of one (provider, model), or of one provider as a whole.

Theory of operation: a breaker is READY, COOLING_DOWN until an instant, or DISABLED (for good, or until an instant at
which one request may look again). Whoever wants to pass asks `admission(now)`, and reserves in the same locked call
with `reserve`. Once a cooldown is over the breaker lets one request through at a time, the probe: its success makes
the breaker READY, its failure starts the next cooldown.

Every change of phase raises `generation`. A permit carries the generation it was given under, and a result that comes
back under another generation changes nothing: a slow call that began before an outage cannot end it. The one exception
is a wait that a provider announces while it rests already: of several calls at once the later answers may name a later
end. A cooldown is never shortened by a later failure.

What may not live here: the clock (`now` comes in), the jitter (lengths come in jittered), the lock (roster's).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["AHEAD_S", "LADDER_S", "Admission", "Breaker", "BreakerState", "Phase", "Transition"]

LADDER_S = (10.0, 20.0, 30.0)
"""Length of a cooldown that nobody announced: the first, the second, and every further one in a row. Seconds."""

MAX_COOLDOWN_S = 86_400.0

AHEAD_S = 5.0
"""A request that comes so shortly before the end of a cooldown nobody announced books the probe for that end. With a request
every few seconds a provider is then looked at as soon as its rest is over, and not when the next request happens to come."""


class Phase(StrEnum):
    """What a breaker is doing."""

    READY = "ready"
    COOLING_DOWN = "cooling_down"
    DISABLED = "disabled"


class Admission(StrEnum):
    """What a breaker says to whoever wants to pass."""

    OPEN = "open"
    PROBE = "probe"
    """The cooldown is over: one request may pass to see."""
    CLOSED = "closed"


# Of what every attempt asks for: in Python 3.11 an enum looks its member up by a slow way each time it is named.
_READY = Phase.READY
_OPEN = Admission.OPEN
_CLOSED = Admission.CLOSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A change of phase, for the log."""

    before: Phase
    after: Phase
    reason: str
    length_s: float | None = None
    """How long the new phase lasts at least; None: no end is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerState:
    """A cooldown, or a disablement that has an end, as one process tells it to another."""

    left_s: float
    """Seconds until it is over."""
    announced: bool
    reason: str
    step: int
    """How many cooldowns in a row nobody announced."""
    disabled: bool = False


class Breaker:
    """One breaker. Not safe for threads by itself: the roster holds its lock around every call."""

    __slots__ = ("_ladder_step", "announced", "generation", "phase", "probe", "reason", "strikes", "until")

    def __init__(self) -> None:
        self.phase = Phase.READY
        self.generation = 0
        self.until: float | None = None
        self.announced = False
        self.reason = ""
        self.strikes = 0
        self.probe: int | None = None
        self._ladder_step = 0

    @property
    def gone(self) -> bool:
        """Whether it is disabled without an end."""
        return self.phase is Phase.DISABLED and self.until is None

    def admission(self, now: float) -> Admission:
        """Return whether a request may pass at the instant `now`."""
        if self.phase is _READY:
            return _OPEN
        if self.until is None or now < self.until or self.probe is not None:
            return _CLOSED
        return Admission.PROBE

    def nearly_over(self, now: float) -> bool:
        """Return whether a cooldown that nobody announced ends in a moment, with nobody about to look then."""
        return (
            self.phase is Phase.COOLING_DOWN
            and not self.announced
            and self.probe is None
            and self.until is not None
            and now < self.until <= now + AHEAD_S
        )

    def book(self, permit: int) -> None:
        """Keep the probe slot for `permit`, which looks when the cooldown is over."""
        self.probe = permit

    def reserve(self, permit: int, now: float) -> bool:
        """Take the probe slot for `permit` where this breaker asks for a probe. Returns whether it did."""
        if self.phase is _READY or self.admission(now) is not Admission.PROBE:
            return False
        self.probe = permit
        return True

    def release(self, permit: int) -> None:
        """Give the probe slot back where `permit` holds it."""
        if self.probe == permit:
            self.probe = None

    def succeed(self, generation: int) -> Transition | None:
        """Take note of a success that was permitted under `generation`."""
        if generation != self.generation:
            return None
        self.strikes = 0
        self._ladder_step = 0
        return None if self.phase is _READY else self._become(_READY, "answered again")

    def strike(self, generation: int, limit: int) -> bool:
        """Count a failure that brings no cooldown by itself. Returns whether it brings one now.

        It does when `limit` in a row are reached, and at once where it was the probe that failed.
        """
        if generation != self.generation:
            return False
        self.strikes += 1
        return self.strikes >= limit or self.phase is not Phase.READY

    def next_length_s(self, base_s: float | None) -> float:
        """Return the length of a cooldown that nobody announced: `base_s` where one is set, else the next step."""
        if base_s is not None:
            return base_s
        return LADDER_S[min(self._ladder_step, len(LADDER_S) - 1)]

    def cool_down(
        self, generation: int, *, length_s: float, announced: bool, reason: str, now: float
    ) -> Transition | None:
        """Leave it alone for `length_s` seconds from `now`, never ending sooner than a cooldown already running."""
        until = now + min(max(length_s, 0.0), MAX_COOLDOWN_S)
        if generation != self.generation:
            return self._prolong(until, reason, now) if announced else None
        if self.phase is Phase.DISABLED and (self.until is None or self.until > until):
            return None
        if not announced:
            self._ladder_step += 1
        if self.until is not None and self.until > until:
            until, reason = self.until, self.reason
        else:
            self.announced = announced
        return self._become(Phase.COOLING_DOWN, reason, until=until, now=now)

    def _prolong(self, until: float, reason: str, now: float) -> Transition | None:
        """Put off the end of a cooldown under way. Whoever is already looking whether it is over knows better."""
        resting = self.phase is Phase.COOLING_DOWN and self.probe is None and self.until is not None
        if not resting or until <= (self.until or 0.0):
            return None
        self.until, self.reason, self.announced = until, reason, True
        return Transition(before=self.phase, after=self.phase, reason=reason, length_s=until - now)

    def disable(
        self, generation: int, *, reason: str, now: float, recheck_s: float | None = None
    ) -> Transition | None:
        """Leave it alone until `enable`, or until one request may look again after `recheck_s` seconds."""
        if generation != self.generation:
            return None
        if self.phase is Phase.DISABLED and self.until is None:
            return None
        until = None if recheck_s is None else max(now + recheck_s, self.until or 0.0)
        self.announced = False
        return self._become(Phase.DISABLED, reason, until=until, now=now)

    def export(self, now: float) -> BreakerState | None:
        """Return what others should know; None where it is ready, over, or disabled without an end."""
        if self.phase is Phase.READY or self.until is None or self.until <= now:
            return None
        return BreakerState(
            left_s=self.until - now,
            announced=self.announced,
            reason=self.reason,
            step=self._ladder_step,
            disabled=self.phase is Phase.DISABLED,
        )

    def adopt(self, state: BreakerState | None, now: float) -> Transition | None:
        """Take over what another process found out: None, that it is ready; a cooldown never ends sooner for it."""
        if self.phase is Phase.DISABLED and self.until is None:
            return None
        if state is None:
            return self.reset("answered again elsewhere")
        until = now + min(state.left_s, MAX_COOLDOWN_S)
        if self.until is not None and self.until >= until:
            return None
        self._ladder_step = max(self._ladder_step, state.step)
        self.announced = state.announced
        phase = Phase.DISABLED if state.disabled else Phase.COOLING_DOWN
        return self._become(phase, state.reason, until=until, now=now)

    def reset(self, reason: str) -> Transition | None:
        """Make it READY by hand: the cooldown is ended, or what disabled it was put right."""
        self.strikes = 0
        self._ladder_step = 0
        return self._become(Phase.READY, reason) if self.phase is not Phase.READY else None

    def _become(
        self, phase: Phase, reason: str, *, until: float | None = None, now: float = 0.0
    ) -> Transition:
        before = self.phase
        self.phase = phase
        self.generation += 1
        self.until = until
        self.reason = "" if phase is Phase.READY else reason
        self.strikes = 0
        length_s = None if until is None else until - now
        return Transition(before=before, after=phase, reason=reason, length_s=length_s)
