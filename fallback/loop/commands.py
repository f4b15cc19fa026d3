"""What a course asks its driver to do, and what all courses share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from fallback.core.models import Event
from fallback.core.roster import Permit, Roster, StateChange
from fallback.core.values import valueclass
from fallback.providers.base import BaseProvider, WireRequest

__all__ = ["Aside", "Close", "Command", "Probe", "Read", "RoutingContext", "Send", "Sleep", "Turn"]


@valueclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send a request; everything until its headers are in must be over in `limit_s`."""

    request: WireRequest
    connect_s: float
    limit_s: float


@valueclass(frozen=True, slots=True)
class Read:
    """Read the next bytes of the body."""

    limit_s: float


@valueclass(frozen=True, slots=True)
class Close:
    """Be done with the response."""


@valueclass(frozen=True, slots=True)
class Sleep:
    """Let time pass."""

    seconds: float


@valueclass(frozen=True, slots=True)
class Probe:
    """Begin to drive a ProbeCourse for `permit`, and wait for nothing. From here on the permit is the driver's."""

    permit: Permit


@valueclass(frozen=True, slots=True)
class Aside:
    """Do `work`, which may wait for a disk or a server, where it keeps no event loop waiting; the answer is its result."""

    work: Callable[[], object]


Command = Send | Read | Close | Sleep | Probe | Aside | Event


class Turn(Protocol):
    """The right of one probe to look at a provider, among all processes that share what they know."""

    def take(self) -> bool:
        """Return whether this probe may look now. May wait for a disk or a server, for a second or two."""

    def give_back(self) -> None:
        """Let others look. Waits for nothing, and changes nothing where it was not taken."""


@valueclass(frozen=True, slots=True, kw_only=True)
class RoutingContext:
    """What every request shares."""

    providers: Mapping[str, BaseProvider]
    roster: Roster
    record: Callable[..., object]
    """Appends the lines that it is given to the usage log, together; never raises."""
    changed: Callable[[Sequence[StateChange]], object]
    """Is told the changes of providers that a request made, once they are in the log."""
    clock: Callable[[], float]
    """Seconds of a monotonic clock."""
    wall: Callable[[], float]
    """Unix time in seconds."""
    turn: Callable[[str], Turn]
    """Gives the turn that a probe of a provider, by its name, has to take first."""
    log_content: bool = False
