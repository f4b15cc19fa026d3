"""What the page shows, as values: who answers, and a card for each provider. Functions of one moment; no Streamlit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fallback.core.roster import ProviderStatus
from fallback.drills import Drill
from fallback.recent import ProviderHealth, RecentSnapshot, RequestFigures
from fallback.ui.providers.states import StateBadge, account_of, ago, badge, clock, explanation, may_be_asked

__all__ = ["Answering", "Card", "ErrorNote", "Overview", "RunningDrill", "answering", "overview"]


PASSING = "That passes by itself; if it happens often, ask it later in the order."
"""The advice for a failure that nobody can do anything about at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """Who would be asked. `name` None: nobody could be."""

    name: str | None
    note: str
    """Its model, or why it would be asked though it is not ready, or why nobody could be."""
    ready: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningDrill:
    """A drill under way: what it does, and how long yet."""

    text: str
    left: str
    """"4:32 left", or that it is ended by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorNote:
    """The last failed call, in plain words."""

    when: str
    text: str
    """What happened and what to do about it; "" where the card says so already."""
    message: str
    """The provider's status and own words, as they came: not safe to draw as Markdown."""
    drill: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One provider."""

    place: int
    """1 for the one that is asked first."""
    status: ProviderStatus
    badge: StateBadge
    explanation: str
    drill: RunningDrill | None
    health: ProviderHealth
    error: ErrorNote | None
    can_end_cooldown: bool
    headroom: str
    """What is left of its rate limit: "29 of 30 requests, 5,900 tokens"; "" where it is not known."""

    @property
    def name(self) -> str:
        """The provider's name."""
        return self.status.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The upper part of the page."""

    now: Answering
    then: Answering
    """Who would answer if the first one failed."""
    requests: RequestFigures
    ready: int
    drills: int
    cards: tuple[Card, ...]


def overview(
    statuses: Sequence[ProviderStatus], drills: Mapping[str, Drill], snapshot: RecentSnapshot, wall: float
) -> Overview:
    """Return what is to be shown at the Unix time `wall`. `statuses` stand in the order asked."""
    now = answering(statuses)
    cards = tuple(
        _card(place, status, drills.get(status.name), snapshot.provider(status.name), wall)
        for place, status in enumerate(statuses, start=1)
    )
    return Overview(
        now=now,
        then=answering([status for status in statuses if status.name != now.name], others=True),
        requests=snapshot.requests,
        ready=sum(status.state == "ready" for status in statuses),
        drills=sum(card.drill is not None for card in cards),
        cards=cards,
    )


def answering(statuses: Sequence[ProviderStatus], *, others: bool = False) -> Answering:
    """Return who would be asked first: the first that may be, else the one whose cooldown ends soonest.

    `others`: there is another one, which is not among them.
    """
    first = next((status for status in statuses if may_be_asked(status)), None)
    if first is not None:
        note = first.model if first.state == "ready" else f"{first.model}, to see whether it is back"
        return Answering(name=first.name, note=note, ready=True)
    resting = [status for status in statuses if status.state in {"cooling_down", "probing"}]
    if resting:
        soonest = min(resting, key=lambda status: status.until_s or 0.0)
        return Answering(
            name=soonest.name, note="it is resting, but so is everybody: it recovers soonest", ready=False
        )
    if not statuses:
        return Answering(name=None, note="there is no other provider", ready=False)
    states = {status.state for status in statuses}
    why = "switched off" if states == {"off"} else "off, disabled or not configured"
    return Answering(name=None, note=f"every {'other ' if others else ''}provider is {why}", ready=False)


def _card(
    place: int, status: ProviderStatus, drill: Drill | None, health: ProviderHealth, wall: float
) -> Card:
    return Card(
        place=place,
        status=status,
        badge=badge(status),
        explanation=explanation(status, drilled=drill is not None),
        drill=None if drill is None else RunningDrill(text=drill.text, left=_left(drill, wall)),
        health=health,
        error=_error(status, health, wall),
        can_end_cooldown=status.state in {"cooling_down", "disabled", "probing"} or bool(status.retired),
        headroom=_headroom(status),
    )


def _left(drill: Drill, wall: float) -> str:
    left_s = drill.left_s(wall)
    return "until ended by hand" if left_s is None else f"{clock(left_s)} left"


def _error(status: ProviderStatus, health: ProviderHealth, wall: float) -> ErrorNote | None:
    error = health.last_error
    if error is None:
        return None
    told = account_of(error.kind)
    text = f"It {told.what}." if told else f"It failed: {error.kind}."
    if told and not error.drill:
        text = f"{text} {told.advice or PASSING}"
    # A provider that rests or is disabled for this very failure is explained at the top of its card.
    explained = status.state in {"cooling_down", "disabled"} and status.reason == error.kind
    code = f"HTTP {error.status}" if error.status is not None else ""
    return ErrorNote(
        when=ago(wall - error.ts),
        text="" if explained else text,
        message=": ".join(part for part in (code, error.message) if part),
        drill=error.drill,
    )


def _headroom(status: ProviderStatus) -> str:
    left, age_s = status.headroom, status.headroom_age_s or 0.0
    if left is None:
        return ""
    told = (
        ("requests", left.remaining_requests, left.limit_requests, left.reset_requests_s),
        ("tokens", left.remaining_tokens, left.limit_tokens, left.reset_tokens_s),
    )
    return ", ".join(
        f"{remaining:,}{f' of {limit:,}' if limit is not None else ''} {what}"
        for what, remaining, limit, reset_s in told
        # After its reset more is left than was said, and nobody knows how much.
        if remaining is not None and (reset_s is None or age_s < reset_s)
    )
