"""What is looked at: time range and filters. All of it stands in the address, so that a link shows the same to others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from fallback.analytics import Choices, Filters

__all__ = ["RANGES", "Chosen", "offset_s", "show_filters", "zone"]

RANGES: Final[dict[str, float | None]] = {
    "15 min": 900.0,
    "1 h": 3_600.0,
    "6 h": 21_600.0,
    "24 h": 86_400.0,
    "7 d": 604_800.0,
    "30 d": 2_592_000.0,
    "all": None,
    "custom": None,
}
"""What a range is called, and how long it is; None: it has no length of its own."""
USUAL = "24 h"
OUTCOMES: Final[dict[str, str]] = {
    "answered": "ok",
    "failed": "error",
    "cancelled": "cancelled",
    "rescued": "rescued",
    "embedded model": "degraded",
}
"""What people call an outcome, and what the analytics do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What the controls say."""

    since_s: float | None
    """How far back from the end, in seconds; None with `begin` None: everything."""
    begin: float | None
    """Unix seconds; None: `since_s` says it."""
    end: float | None
    """Unix seconds; None: now."""
    filters: Filters
    live: bool
    problem: str = ""
    """What is wrong with them; "" where nothing is."""

    def ends(self, now: float) -> tuple[float | None, float]:
        """Return from when on and until when, in Unix seconds; None: from the beginning of the log."""
        end = now if self.end is None else self.end
        if self.begin is not None:
            return min(self.begin, end), end
        return (None if self.since_s is None else end - self.since_s), end

    @property
    def narrowed(self) -> bool:
        """Whether any filter leaves something out."""
        return replace(self.filters, drills=False) != Filters()


def zone() -> tzinfo:
    """Return the time zone of the browser; UTC where it does not tell."""
    name = st.context.timezone
    if name:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass
    offset = st.context.timezone_offset
    return UTC if offset is None else timezone(-timedelta(minutes=offset))


def offset_s() -> int:
    """Return what the browser's clock is ahead of UTC now, in seconds."""
    offset = datetime.now(zone()).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())


def show_filters(choices: Choices, now: float) -> Chosen:
    """Draw the controls and return what they say."""
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom", key="analytics_controls"):
        range_ = st.segmented_control(
            "Time range",
            list(RANGES),
            default=USUAL,
            required=True,
            key="range",
            bind="query-params",
            help="How far back from now. Every chart and figure is of this time; custom takes any beginning and end.",
        )
        live = st.toggle(
            "Live",
            value=True,
            key="live",
            bind="query-params",
            help="Look for new lines of the log every 10 seconds. Switched off, everything stands still.",
        )
        drills = st.toggle(
            "With drills",
            key="drills",
            bind="query-params",
            help="Count requests and attempts with a fault that was injected on purpose, too. Without it they are left out.",
        )
    begin, end, problem = (None, None, "") if range_ != "custom" else _custom(now)
    return Chosen(
        since_s=RANGES.get(range_ or USUAL),
        begin=begin,
        end=end,
        filters=replace(_narrowing(choices), drills=drills),
        live=live,
        problem=problem,
    )


def _narrowing(choices: Choices) -> Filters:
    several = len(choices.instances) > 1
    with st.grid(5 if several else 4, min_column_width=150, gap="small", key="analytics_filters"):
        providers = _several(
            "Provider", "provider", choices.providers, "that took part: asked first, asked later, or answered"
        )
        routes = _several(
            "Route",
            "route",
            choices.routes,
            "that the caller asked for: auto, a route, a provider or a model",
        )
        sources = _several(
            "Source", "source", choices.sources, "the requests came from: chat, api, python, cli, test, demo"
        )
        outcomes = _several(
            "Outcome",
            "outcome",
            tuple(OUTCOMES),
            "the requests had; charts of single attempts (failovers, latency, failures, cost) do not look at it",
        )
        # Where one process wrote everything there is nothing to choose from.
        instances = (
            _several(
                "Instance", "instance", choices.instances, "of the processes with these names (INSTANCE_NAME)"
            )
            if several
            else ()
        )
    return Filters(
        providers=providers,
        instances=instances,
        routes=routes,
        sources=sources,
        outcomes=tuple(OUTCOMES[name] for name in outcomes),
    )


def _several(label: str, key: str, options: tuple[str, ...], what: str) -> tuple[str, ...]:
    picked: list[str] = st.multiselect(
        label,
        options,
        key=key,
        bind="query-params",
        placeholder="All",
        help=f"Only those {what}. Nothing chosen: all.",
    )
    return tuple(picked)


def _custom(now: float) -> tuple[float, float, str]:
    here = zone()
    today = datetime.fromtimestamp(now, here).replace(tzinfo=None, second=0, microsecond=0)
    midnight = today.replace(hour=0, minute=0)
    with st.container(horizontal=True, gap="small", key="analytics_custom"):
        first = st.datetime_input(
            "From",
            value=midnight - timedelta(days=1),
            key="from",
            bind="query-params",
            step=timedelta(minutes=15),
            width=220,
            help="When it begins, by the clock of your browser.",
        )
        last = st.datetime_input(
            "To",
            value=midnight,
            key="to",
            bind="query-params",
            step=timedelta(minutes=15),
            width=220,
            help="When it ends, by the clock of your browser.",
        )
    begin, end = (moment.replace(tzinfo=here).timestamp() for moment in (first, last))
    if begin >= end:
        return (
            begin,
            begin + 60.0,
            "The beginning lies behind the end. Shown is the minute after the beginning.",
        )
    return begin, end, ""
