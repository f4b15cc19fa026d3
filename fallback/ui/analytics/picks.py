"""What was clicked on the charts: it narrows the table of requests, until it is cleared."""

from __future__ import annotations

from typing import Any, Final

import streamlit as st

from fallback.analytics import Through
from fallback.ui.charts import PICK
from fallback.ui.charts.words import kind_label, moment

__all__ = ["chart_key", "clear", "pickable", "picks", "remember", "take_news", "words"]

_PICKED: Final = "analytics_picked"
_NEWS: Final = "analytics_picked_news"
_CLEARED: Final = "analytics_cleared"


def words(pick: Through, utc_offset_s: int) -> str:
    """Return what was picked, without a verb: "failovers (rate limited), Tue 24 Nov 15:00 to 16:00"."""
    told = "failovers" if pick.failover else "failures"
    if pick.previous_provider and pick.provider:
        told += f" from {pick.previous_provider} to {pick.provider}"
    elif pick.provider:
        told += f" of {pick.provider}"
    kind = pick.previous_error_type or pick.outcome
    if kind:
        told += f" ({kind_label(kind)})"
    if pick.since is not None and pick.until is not None:
        first, last = (moment(ts, utc_offset_s) for ts in (pick.since, pick.until))
        told += f", {first} to {last[-5:] if first[:-5] == last[:-5] else last}"
    return told


def pickable(chart: str) -> bool:
    """Return whether a click on that chart picks something."""
    return chart in {"failovers", "pairs", "failures"}


def chart_key(chart: str) -> str:
    """Return the key of a chart: another one after each `clear`, so that nothing on it stays marked."""
    return f"analytics_{chart}_{st.session_state.get(_CLEARED, 0)}"


def remember(chart: str, key: str) -> None:
    """Take over what is selected on the chart of that key."""
    state: Any = st.session_state.get(key)
    found = state.selection.get(PICK) if state is not None else None
    picked: dict[str, dict[str, Any]] = st.session_state.setdefault(_PICKED, {})
    if isinstance(found, list) and found and isinstance(found[0], dict):
        picked[chart] = dict(found[0])
    else:
        picked.pop(chart, None)
    st.session_state[_NEWS] = True


def take_news() -> bool:
    """Return whether something was picked since the last time this was asked."""
    return bool(st.session_state.pop(_NEWS, False))


def clear() -> None:
    """Let nothing be picked."""
    st.session_state.pop(_PICKED, None)
    st.session_state[_CLEARED] = st.session_state.get(_CLEARED, 0) + 1


def picks() -> tuple[Through, ...]:
    """Return what is picked, one for each chart that was clicked."""
    picked: dict[str, dict[str, Any]] = st.session_state.get(_PICKED, {})
    return tuple(_through(chart, values) for chart, values in picked.items())


def _through(chart: str, values: dict[str, Any]) -> Through:
    def text(field: str) -> str | None:
        return str(values.get(field) or "") or None

    match chart:
        case "failovers":
            return Through(
                failover=True,
                previous_error_type=text("name"),
                since=float(values["since_s"]),
                until=float(values["until_s"]),
            )
        case "pairs":
            return Through(
                failover=True, previous_provider=text("from_provider"), provider=text("to_provider")
            )
        case _:
            return Through(failed=True, provider=text("provider"), outcome=text("name"))
