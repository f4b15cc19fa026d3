"""What the roster takes and gives: providers, permits and refusals, changes, and the state that people see."""

from __future__ import annotations

from enum import StrEnum

from fallback.core.models import Candidate, Headroom
from fallback.core.policy import Scope
from fallback.core.values import valueclass

__all__ = [
    "Permit",
    "ProviderStatus",
    "Refusal",
    "Settlement",
    "Simulation",
    "SlotSpec",
    "StateChange",
    "Why",
    "seconds",
]


@valueclass(frozen=True, slots=True, kw_only=True)
class SlotSpec:
    """A provider as the roster knows it: its models in succession, and why it cannot be used where it cannot."""

    name: str
    candidates: tuple[Candidate, ...]
    enabled: bool = True
    unavailable: str | None = None


class Simulation(StrEnum):
    """What a drill makes of a provider."""

    OFF = "off"
    """It counts as switched off."""
    FAULT = "fault"
    """Its calls are answered by the drill: it is asked even where it has no key."""


class Why(StrEnum):
    """Why a provider is not asked."""

    OFF = "off"
    NOT_CONFIGURED = "not_configured"
    DISABLED = "disabled"
    COOLING_DOWN = "cooling_down"
    PROBING = "probing"
    """Its cooldown is over and a probe is finding out whether it is back, or is about to be sent."""
    UNSUITED = "unsuited"
    """It cannot take this request (window too small), or has been asked already."""
    BEYOND = "beyond"
    """It cannot give what this request asks for, and would make something up: see `reach`."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A provider is not asked: why, in a word and in a sentence, and when that ends where it is known."""

    provider: str
    model: str | None
    why: Why
    text: str
    reason: str = ""
    """The failure kind that led to it."""
    until: float | None = None
    announced: bool = False
    """Whether the provider itself said when a cooldown ends."""
    due: bool = False
    """Whether its cooldown, whose end nobody announced, is over, and no probe is under way yet."""
    nearly: bool = False
    """Whether it is over in a moment, and no probe is booked for that yet."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """Leave to ask one candidate once. Settled exactly once."""

    id: int
    candidate: Candidate
    provider_generation: int
    model_generation: int
    probe: bool
    drilled: bool = False
    """Whether a drill is on for the provider."""
    not_before: float | None = None
    """The instant for which a probe is booked; None: at once."""


@valueclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """A provider, or one model of it (`model` not None), changed its state."""

    provider: str
    model: str | None
    before: str
    after: str
    reason: str
    length_s: float | None = None
    by: str = "router"


@valueclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What an outcome did to the state."""

    changes: tuple[StateChange, ...] = ()
    cooldown_s: float | None = None
    disabled: Scope | None = None


@valueclass(frozen=True, slots=True, kw_only=True)
class ProviderStatus:
    """One provider as people see it. `until_s` is seconds from now; None: no end is known."""

    name: str
    state: str
    """ready, cooling_down, probing, off, not_configured, disabled"""
    model: str
    """The model that serves now, or would."""
    text: str
    """The state in words, with the reason."""
    reason: str = ""
    until_s: float | None = None
    retired: tuple[str, ...] = ()
    """Models before `model` in the succession that the provider says are gone."""
    degraded: bool = False
    enabled: bool = True
    headroom: Headroom | None = None
    """What it last said is left of its rate limit; None: it never said."""
    headroom_age_s: float | None = None
    """How long ago that was."""


def seconds(length_s: float) -> str:
    """Return a length of time as people say it: "24 s", "5.0 minutes", "2.0 hours"."""
    if length_s < 100:
        return f"{length_s:.0f} s" if length_s >= 1 else "1 s"
    return f"{length_s / 60:.1f} minutes" if length_s < 7200 else f"{length_s / 3600:.1f} hours"
