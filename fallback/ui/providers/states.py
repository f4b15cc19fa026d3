"""What state a provider is in, in words, an icon and a colour. Functions from values to texts; no Streamlit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from fallback.core.errors import FailureKind
from fallback.core.roster import ProviderStatus
from fallback.ui.wording import account_of

__all__ = [
    "Color",
    "StateBadge",
    "account_of",
    "ago",
    "badge",
    "clock",
    "explanation",
    "may_be_asked",
    "percent",
]

Color = Literal["green", "orange", "blue", "red", "violet", "gray"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateBadge:
    """A state for people: the words say it, icon and colour only repeat it."""

    label: str
    icon: str
    color: Color


_DISABLED: Final[Mapping[str, str]] = MappingProxyType(
    {
        FailureKind.AUTHENTICATION: "wrong key",
        FailureKind.PERMISSION_DENIED: "not permitted",
        FailureKind.QUOTA_EXHAUSTED: "out of credit",
        FailureKind.MODEL_UNAVAILABLE: "no model left",
    }
)


def badge(status: ProviderStatus) -> StateBadge:
    """Return the badge of a provider in this state."""
    match status.state:
        case "ready":
            return StateBadge(label="Ready", icon=":material/check_circle:", color="green")
        case "cooling_down":
            left = f" {clock(status.until_s)}" if status.until_s is not None else ""
            return StateBadge(label=f"Cooling down{left}", icon=":material/timer:", color="orange")
        case "probing":
            return StateBadge(label="Probing", icon=":material/network_check:", color="blue")
        case "off":
            label = "Off" if not status.enabled else "Off by a drill"
            return StateBadge(label=label, icon=":material/power_settings_new:", color="gray")
        case "not_configured":
            return StateBadge(label="Not configured", icon=":material/key_off:", color="gray")
        case _:
            why = _DISABLED.get(status.reason)
            label = f"Disabled: {why}" if why else "Disabled"
            return StateBadge(label=label, icon=":material/block:", color="red")


def explanation(status: ProviderStatus, *, drilled: bool = False) -> str:
    """Return what the state means and what a person can do about it; "" where there is nothing to say.

    `drilled`: a drill has led to it, so that there is nothing to mend.
    """
    told = account_of(status.reason)
    match status.state:
        case "ready":
            return ""
        case "cooling_down":
            return (
                f"It {told.what}, and is left alone for a while." if told else "It is left alone for a while."
            )
        case "probing" if may_be_asked(status):
            return "The cooldown is over: the next request finds out whether it is back."
        case "probing":
            return "One request is finding out whether it is back."
        case "off":
            if status.enabled:
                return "A drill lets it count as switched off."
            return "It gets no request until somebody switches it on."
        case "not_configured":
            return f"{status.text[:1].upper()}{status.text[1:]}."
        case _:
            again = (
                f" One request looks again in {clock(status.until_s)}." if status.until_s is not None else ""
            )
            if drilled and told:
                return f"It {told.what}, as its drill wants it."
            what = f"It {told.what}." if told else f"{status.text[:1].upper()}{status.text[1:]}."
            advice = f" {told.advice}" if told and told.advice else ""
            return f"{what}{advice}{again}"


def may_be_asked(status: ProviderStatus) -> bool:
    """Return whether the next request may go there: it is ready, or waits for a probe that nobody has begun."""
    # A probe under way has an `until_s`, the end of the cooldown; one that waits for a request has none.
    return status.state == "ready" or (status.state == "probing" and status.until_s is None)


def clock(length_s: float) -> str:
    """Return a time that is left as a clock shows it: "0:24", "14:59", "1:00:00"."""
    # Rounded up: a clock that shows 0:00 while there is still time left looks stuck.
    seconds = max(0, -int(-length_s // 1))
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def ago(length_s: float) -> str:
    """Return how long ago something was: "just now", "40 s ago", "5 min ago", "3 h ago", "2 days ago"."""
    if length_s < 10:
        return "just now"
    if length_s < 60:
        return f"{length_s // 10 * 10:.0f} s ago"
    if length_s < 3600:
        return f"{length_s // 60:.0f} min ago"
    if length_s < 48 * 3600:
        return f"{length_s // 3600:.0f} h ago"
    return f"{length_s // 86_400:.0f} days ago"


def percent(share: float) -> str:
    """Return a share of 0..1 in percent, which says 100 % of nothing but all: "100 %", "99.7 %", "8 %"."""
    value = share * 100
    if value in {0.0, 100.0}:
        return f"{value:.0f} %"
    if value >= 99:
        return f"{min(value, 99.9):.1f} %"
    return f"{max(value, 1.0):.0f} %"
