"""The page: what stands where, and how often it is drawn anew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fallback.recent import RecentSnapshot
from fallback.router import ModelRouter
from fallback.ui.providers.cards import show_cards, show_summary
from fallback.ui.providers.charts import last_calls_chart, medians_chart
from fallback.ui.providers.controls import show_notices, show_toolbar
from fallback.ui.providers.feed import feed
from fallback.ui.providers.overview import overview
from fallback.ui.text_safety import plain

__all__ = ["show_providers"]

CARDS_EVERY_S = 2.0
CHARTS_EVERY_S = 10.0
LOOK_EVERY_S = 0.75
"""How often a browser asks whether somebody changed something: nearly free, so that changes show within a second.

The rest of the second is for the drawing."""
SEEN = "providers_seen_version"
STYLE = """<style>
.stMain h2 {padding: 0.25rem 0}
[class*=st-key-providers_on_] p {font-size: 0}
[class*=st-key-providers_on_] p::after {font-size: 0.875rem; content: "Off"; content: "Off" / ""}
[class*=st-key-providers_on_] [data-selected=true] p::after {content: "On"; content: "On" / ""}
</style>"""
"""Streamlit leaves more room around a heading than a card has.

A switch keeps the name of what it switches, for who hears it; beside it is seen how it stands, as soon as it is thrown.
"""
FEED_SHOWN = 12
"""How many changes are shown at once; the older ones on request."""


def show_providers(router: ModelRouter) -> None:
    """Draw the page; its two parts are drawn anew by themselves."""
    st.html(STYLE)
    top = st.container()
    charts, events = st.columns([3, 2], gap="medium")
    with top:
        _show_live(router, events)
    with charts:
        _show_charts(router)
    _look_for_changes(router)


@st.fragment(run_every=LOOK_EVERY_S)
def _look_for_changes(router: ModelRouter) -> None:
    """Draw the page anew at once where somebody else changed something since it was drawn."""
    if st.session_state.get(SEEN) != router.switchboard.version:
        st.session_state[SEEN] = router.switchboard.version
        st.rerun(scope="app")


@st.fragment(run_every=CARDS_EVERY_S)
def _show_live(router: ModelRouter, events: DeltaGenerator) -> None:
    """Draw the cards, and the feed into `events`: a second fragment would cost each viewer a second run."""
    recent, switchboard = router.wiring.recent, router.switchboard
    st.session_state[SEEN] = switchboard.version
    recent.refresh()
    snapshot = recent.snapshot()
    warning = switchboard.warning
    if warning:
        st.warning(plain(warning), icon=":material/warning:")
    shown = overview(router.status(), switchboard.drills(), snapshot, router.context.wall())
    show_toolbar(router, shown)
    show_summary(shown)
    show_cards(router, shown)
    show_notices()
    with events:
        _show_feed(snapshot)


@st.fragment(run_every=CHARTS_EVERY_S)
def _show_charts(router: ModelRouter) -> None:
    recent = router.wiring.recent
    recent.refresh()
    snapshot = recent.snapshot()
    names = [status.name for status in router.status()]
    dark = st.context.theme.type == "dark"
    st.markdown("## Last calls", anchors=False)
    calls = last_calls_chart(names, snapshot.last_calls, dark=dark)
    if calls is None:
        st.caption("No calls yet. Ask something on the Chat page, or press Test now.")
    else:
        st.caption(calls.note)
        st.vega_lite_chart(calls.frame, calls.spec, alt=calls.alt, key="providers_last_calls")
    st.markdown("## Median time to answer, last 15 minutes", anchors=False)
    medians = medians_chart(names, snapshot, dark=dark)
    if medians is None:
        st.caption("No answers in the last 15 minutes.")
    else:
        st.vega_lite_chart(medians.frame, medians.spec, alt=medians.alt, key="providers_medians")
    if snapshot.problem:
        st.caption(f":material/warning: {plain(snapshot.problem)}")


def _show_feed(snapshot: RecentSnapshot) -> None:
    st.markdown("## What changed", anchors=False)
    if not snapshot.changes:
        st.caption("Nothing yet. Cooldowns, switches, drills and changes of the order will be listed here.")
        return
    zone = _zone()
    newest, older = snapshot.changes[:FEED_SHOWN], snapshot.changes[FEED_SHOWN:]
    with st.container(border=True, key="providers_feed"):
        st.markdown(feed(newest, zone=zone, today=datetime.now(zone)), anchors=False)
        if older:
            # Not a box that scrolls: it would catch a thumb on a phone, and no key but the mouse's wheel moves it.
            with st.expander("Older changes", key="providers_feed_older"):
                st.markdown(feed(older, zone=zone, today=datetime.now(zone)), anchors=False)


def _zone() -> tzinfo:
    """Return the time zone of the browser; UTC where it does not tell."""
    offset = st.context.timezone_offset
    return UTC if offset is None else timezone(-timedelta(minutes=offset))
