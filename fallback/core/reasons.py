"""Why a provider is not asked, and how it stands, in the words that people read.

What may not live here: changes of anything. These functions look at a slot, under the roster's lock.
"""

from __future__ import annotations

from fallback.core.breaker import Admission, Breaker, Phase
from fallback.core.models import Candidate
from fallback.core.slot import Slot
from fallback.core.standing import ProviderStatus, Refusal, Simulation, Why, seconds

__all__ = ["barred", "closed_by", "due", "nearly_over", "no_model_left", "status_of"]


def barred(slot: Slot, candidate: Candidate | None, *, force: bool = False) -> Refusal | None:
    """Say what keeps everybody from asking; None: nothing does. `force` looks past what disabled it."""
    if not slot.enabled:
        return Refusal(provider=slot.name, model=None, why=Why.OFF, text="switched off")
    if slot.simulation is Simulation.OFF:
        return Refusal(provider=slot.name, model=None, why=Why.OFF, text="switched off by a drill")
    if slot.unavailable is not None and slot.simulation is None:
        return Refusal(provider=slot.name, model=None, why=Why.NOT_CONFIGURED, text=slot.unavailable)
    if slot.breakers.whole.gone and not force:
        reason = slot.breakers.whole.reason
        return Refusal(
            provider=slot.name, model=None, why=Why.DISABLED, text=f"disabled: {reason}", reason=reason
        )
    return no_model_left(slot) if candidate is None else None


def no_model_left(slot: Slot) -> Refusal:
    """Say that the provider told of every model that it is gone."""
    reason = "model_unavailable"
    text = "disabled: no model of it is left"
    return Refusal(provider=slot.name, model=None, why=Why.DISABLED, text=text, reason=reason)


def closed_by(slot: Slot, candidate: Candidate, closed: list[Breaker], now: float) -> Refusal:
    """Say how long the breakers in `closed` (at least one) keep requests out."""
    # One that is disabled speaks first: unlike a cooldown it is an obstacle to everybody.
    last = max(closed, key=lambda b: (b.phase is Phase.DISABLED and now < (b.until or 0.0), b.until or 0.0))
    left_s = (last.until or now) - now
    if left_s <= 0:
        why, text = Why.PROBING, f"being probed ({last.reason})"
    else:
        why, text = Why.COOLING_DOWN, f"cooling down for {seconds(left_s)} ({last.reason})"
        if last.phase is Phase.DISABLED:
            why, text = Why.DISABLED, f"disabled: {last.reason}; looked at again in {seconds(left_s)}"
    return Refusal(
        provider=slot.name,
        model=candidate.model,
        why=why,
        text=text,
        reason=last.reason,
        until=last.until,
        announced=any(breaker.announced for breaker in closed),
        nearly=nearly_over(closed, now),
    )


def nearly_over(closed: list[Breaker], now: float) -> bool:
    """Return whether a probe can be booked for the end of every cooldown in `closed`."""
    return all(breaker.nearly_over(now) for breaker in closed)


def due(slot: Slot, candidate: Candidate, ended: list[Breaker]) -> Refusal:
    """Say that the cooldowns in `ended` are over, and that a probe looks before requests do."""
    last = max(ended, key=lambda breaker: breaker.until or 0.0)
    return Refusal(
        provider=slot.name,
        model=candidate.model,
        why=Why.PROBING,
        text=f"being probed ({last.reason})",
        reason=last.reason,
        until=last.until,
        due=True,
    )


def status_of(slot: Slot, now: float) -> ProviderStatus:
    """Return the provider as people see it at the instant `now`."""
    candidate = slot.serving()
    shown = candidate or slot.candidates[-1]
    retired = tuple(
        other.model
        for other in slot.candidates
        if slot.breakers.models[other.model].phase is Phase.DISABLED and other is not candidate
    )
    refusal = barred(slot, candidate)
    if refusal is None and candidate is not None:
        refusal = _resting(slot, candidate, now)
    until_s = None if refusal is None or refusal.until is None else max(0.0, refusal.until - now)
    return ProviderStatus(
        name=slot.name,
        state="ready" if refusal is None else refusal.why.value,
        model=shown.model,
        text="ready" if refusal is None else refusal.text,
        reason="" if refusal is None else refusal.reason,
        until_s=until_s,
        retired=retired,
        degraded=shown.degraded,
        enabled=slot.enabled,
        headroom=slot.headroom[0] if slot.headroom else None,
        headroom_age_s=now - slot.headroom[1] if slot.headroom else None,
    )


def _resting(slot: Slot, candidate: Candidate, now: float) -> Refusal | None:
    pair = (slot.breakers.whole, slot.breakers.models[candidate.model])
    closed = [breaker for breaker in pair if breaker.admission(now) is Admission.CLOSED]
    if closed:
        return closed_by(slot, candidate, closed, now)
    ended = [breaker for breaker in pair if breaker.admission(now) is Admission.PROBE]
    if not ended:
        return None
    background = any(not breaker.announced for breaker in ended)
    text = "cooldown over: the next request " + ("sends a probe" if background else "is the probe")
    return Refusal(provider=slot.name, model=None, why=Why.PROBING, text=text)
