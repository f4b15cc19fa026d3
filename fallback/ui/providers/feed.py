"""The event feed: what changed, when, why, by whom. One Markdown text, so that it costs little to send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from types import MappingProxyType
from typing import Final

from fallback.recent import ChangeRecord
from fallback.ui.providers.states import account_of
from fallback.ui.text_safety import plain
from fallback.ui.wording import duration

__all__ = ["feed"]

_MARKS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "ready": ("green", "check_circle"),
        "cooling_down": ("orange", "timer"),
        "disabled": ("red", "block"),
        "retired": ("violet", "published_with_changes"),
        "not_configured": ("gray", "key_off"),
        "on": ("green", "toggle_on"),
        "off": ("gray", "power_settings_new"),
        "drill": ("orange", "science"),
        "no_drill": ("orange", "science"),
        "order": ("blue", "swap_vert"),
    }
)
_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ready": "is ready",
        "cooling_down": "is cooling down",
        "disabled": "is disabled",
        "retired": "is retired",
        "not_configured": "cannot be used",
        "on": "was switched on",
        "off": "was switched off",
        "drill": "has a drill",
        "no_drill": "had its drill ended",
        "order": "moved in the order",
    }
)
_SAYS_IT_ALREADY: Final = frozenset({"on", "off"})


def feed(changes: Sequence[ChangeRecord], *, zone: tzinfo, today: datetime) -> str:
    """Return the changes as Markdown, one a line, in the order given; times are those of `zone`."""
    return "\n\n".join(f":small[{_line(change, zone, today)}]" for change in changes)


def _line(change: ChangeRecord, zone: tzinfo, today: datetime) -> str:
    color, icon = _MARKS.get(change.to_state, ("gray", "info"))
    word = _WORDS.get(change.to_state) or f"is {change.to_state}"
    model = f" :gray[{plain(change.model)}]" if change.model is not None else ""
    parts = [
        f"`{_when(change.ts, zone, today)}`",
        f":{color}[:material/{icon}:]",
        f"**{plain(change.provider)}**{model} {plain(word)}",
    ]
    if change.length_s is not None:
        parts.append(f"for {duration(change.length_s)}")
    why = _why(change)
    line = " ".join(parts) + (f": {plain(why)}" if why else "")
    mark = " :orange-badge[drill]" if change.to_state in {"drill", "no_drill"} or change.by == "drill" else ""
    return f"{line}{mark} :gray[· by {plain(change.by or 'the program')}]"


def _why(change: ChangeRecord) -> str:
    if not change.reason or change.to_state in _SAYS_IT_ALREADY:
        return ""
    told = account_of(change.reason)
    if told is not None:
        return f"it {told.what}"
    return change.reason.removeprefix("order: ")


def _when(ts: float, zone: tzinfo, today: datetime) -> str:
    try:
        moment = datetime.fromtimestamp(ts, UTC).astimezone(zone)
    except (OverflowError, OSError, ValueError):
        return "some time"
    return f"{moment:%H:%M:%S}" if moment.date() == today.date() else f"{moment:%d %b %H:%M}"
