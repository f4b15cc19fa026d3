"""What is done to providers from outside of requests: switches, order, drills, and what other processes found out.

Theory of operation: the base of the roster, with the same lock around the same slots. Every change takes effect with
the next `admit`, and is returned for the log.

What may not live here: permits and their outcomes (`roster`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from fallback.core.breaker import BreakerState, Transition
from fallback.core.models import Headroom
from fallback.core.slot import Slot
from fallback.core.standing import Simulation, StateChange

__all__ = ["Controls", "changed"]


class Controls:
    """All providers in their order, as people and other processes reach them. Safe for threads."""

    def __init__(self, slots: Mapping[str, Slot], lock: AbstractContextManager[object]) -> None:
        """Take the slots by name, in the order asked, and the lock around them."""
        self._slots = slots
        self._lock = lock
        self._order = tuple(slots)

    @property
    def providers(self) -> tuple[str, ...]:
        """The names in the order asked."""
        return self._order

    def set_enabled(self, provider: str, enabled: bool, *, by: str) -> tuple[StateChange, ...]:
        """Throw the switch of `provider`. Takes effect with the next `admit`."""
        with self._lock:
            slot = self._slots[provider]
            if slot.enabled == enabled:
                return ()
            slot.enabled = enabled
            before, after = ("off", "on") if enabled else ("on", "off")
            reason = "switched on" if enabled else "switched off"
            return (
                StateChange(provider=provider, model=None, before=before, after=after, reason=reason, by=by),
            )

    def is_order(self, names: object) -> bool:
        """Return whether `names` are all providers, each once."""
        return isinstance(names, (list, tuple)) and sorted(map(str, names)) == sorted(self._slots)

    def set_order(self, names: Sequence[str] | None, *, by: str) -> tuple[StateChange, ...]:
        """Ask in the order of `names` from the next request on; None: as they were given at first.

        Raises ValueError where `names` are not all providers, each once.
        """
        if names is not None and not self.is_order(names):
            raise ValueError(f"an order names every provider once: {', '.join(self._slots)}")
        with self._lock:
            before, after = self._order, tuple(self._slots if names is None else names)
            self._order = after
            if before == after:
                return ()
            reason = "order: " + ", ".join(after)
            moved = next(name for place, name in enumerate(after) if before[place] != name)
            return (
                StateChange(provider=moved, model=None, before="order", after="order", reason=reason, by=by),
            )

    def simulate(self, provider: str, simulation: Simulation | None) -> None:
        """Let a drill make something of `provider`; None: it ended, and what it led to ends with it."""
        with self._lock:
            self._slots[provider].simulate(simulation)

    def simulated(self, provider: str) -> bool:
        """Return whether a drill is on for `provider`."""
        return self._slots[provider].simulation is not None

    def export(self, provider: str, model: str | None, now: float) -> BreakerState | None:
        """Return the cooldown of `provider`, or of one model of it, for other processes; None where there is none."""
        with self._lock:
            whole, models = self._slots[provider].real
            return (whole if model is None else models[model]).export(now)

    def adopt(self, provider: str, model: str | None, state: BreakerState | None, now: float) -> None:
        """Take over what another process found out about `provider`, or about one model of it."""
        with self._lock:
            whole, models = self._slots[provider].real
            breaker = whole if model is None else models.get(model)
            if breaker is not None:
                breaker.adopt(state, now)

    def fresh_lessons(self, provider: str, model: str) -> tuple[tuple[float, ...], bool]:
        """Return the times to the first token (s) that `model` took since the last call, and whether it refuses a prefill."""
        with self._lock:
            learned = self._slots[provider].learned[model]
            return learned.fresh(), learned.prefill_refused

    def adopt_lessons(
        self, provider: str, model: str, times_s: Sequence[float], *, prefill_refused: bool
    ) -> None:
        """Take over what all processes together learned about `model`, the oldest first; unknown models are passed over."""
        with self._lock:
            learned = self._slots[provider].learned.get(model)
            if learned is not None:
                learned.adopt(times_s)
                learned.prefill_refused = learned.prefill_refused or prefill_refused

    def headroom(self, provider: str) -> tuple[Headroom, float] | None:
        """Return what `provider` last said is left of its rate limit, and the instant at which it did."""
        return self._slots[provider].headroom

    def adopt_headroom(self, provider: str, headroom: Headroom, at: float) -> None:
        """Take over what `provider` told another process at the instant `at`, where nothing newer is known here."""
        with self._lock:
            slot = self._slots[provider]
            if slot.headroom is None or slot.headroom[1] < at:
                slot.headroom = (headroom, at)

    def set_unavailable(self, provider: str, reason: str | None) -> tuple[StateChange, ...]:
        """Say why `provider` cannot be used at all; None: it can."""
        with self._lock:
            slot = self._slots[provider]
            if slot.unavailable == reason:
                return ()
            before = "ready" if slot.unavailable is None else "not_configured"
            slot.unavailable = reason
            after = "ready" if reason is None else "not_configured"
            return (
                StateChange(
                    provider=provider, model=None, before=before, after=after, reason=reason or "available"
                ),
            )

    def end_cooldown(self, provider: str, *, by: str) -> tuple[StateChange, ...]:
        """Make `provider` and its models ready by hand, disabled ones included."""
        with self._lock:
            slot = self._slots[provider]
            reason = "ended by hand"
            moves: list[tuple[str | None, Transition | None]] = []
            for whole, models in {id(slot.real): slot.real, id(slot.breakers): slot.breakers}.values():
                moves.append((None, whole.reset(reason)))
                moves += [(name, breaker.reset(reason)) for name, breaker in models.items()]
            return tuple(changed(slot.name, name, move, by) for name, move in moves if move is not None)


def changed(provider: str, model: str | None, move: Transition, by: str = "router") -> StateChange:
    """Return what the move of one breaker means for `provider`, or one model of it."""
    return StateChange(
        provider=provider,
        model=model,
        before=move.before,
        after=move.after,
        reason=move.reason,
        length_s=move.length_s,
        by=by,
    )
