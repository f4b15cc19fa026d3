"""The page: what stands where, and how often it is drawn anew.

Theory of operation: a browser draws what comes in one go before it shows any of it, and two dozen charts take it seconds. So who
comes to the page is sent the figures alone, made of what the browser has from the beginning on (`show_figures`); when it has them it
asks for the rest by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import pandas as pd
import streamlit as st

from fallback.analytics import Analytics, CacheError, Choices, requests, window
from fallback.router import ModelRouter
from fallback.ui.analytics.downloads import show_downloads
from fallback.ui.analytics.filters import Chosen, offset_s, show_filters, zone
from fallback.ui.analytics.frames import View, names
from fallback.ui.analytics.picks import take_news
from fallback.ui.analytics.reading import read_on, show_coverage, show_empty
from fallback.ui.analytics.requests import show_requests
from fallback.ui.analytics.sections import STYLE, show_charts, show_figures
from fallback.ui.arrival import just_arrived
from fallback.ui.charts import Canvas
from fallback.ui.text_safety import plain

__all__ = ["show_analytics"]

EVERY_S = 10.0
"""How often a live page looks for new lines."""
SOON_S = 0.4
"""How long after the figures the browser asks for the charts: long enough to have drawn them, and to have loaded what draws the filters."""
_ASKED = "analytics_charts_asked"
MOST_DOWNLOADED = 100_000
"""Requests in one file."""
_STOOD = "analytics_stood_still"

_TITLES = {
    "requests": "Requests",
    "totals": "Figures",
    "totals_over_time": "Figures over time",
    "failovers_over_time": "Failovers over time, by reason",
    "failover_pairs": "Failovers from one provider to the next",
    "latency": "Time to answer",
    "latency_over_time": "Time to answer, over time",
    "latency_distribution": "Time to answer, distribution",
    "failures": "Failures by provider and kind",
    "availability": "Availability by day",
    "states": "States of the providers",
    "consumption": "Tokens and cost over time",
}


def show_analytics(router: ModelRouter) -> None:
    """Draw the page; while it is live its parts are drawn anew by themselves."""
    analytics = router.wiring.analytics()
    st.title("Analytics", anchor=False)
    st.html(STYLE)
    with _told(analytics):
        read_on(analytics)
        coverage = analytics.coverage
        if coverage.first_ts is None:
            _wait_for_lines(analytics)
        else:
            _show_parts(router, analytics, names(analytics, coverage))


def _show_parts(router: ModelRouter, analytics: Analytics, known: Choices) -> None:
    chosen = show_filters(known, router.context.wall())
    if chosen.problem:
        st.warning(chosen.problem, icon=":material/warning:")
    every_s = EVERY_S if chosen.live else None
    first = just_arrived()
    # At the same place both times, so that a call of the browser that comes late finds it there, and nothing to do.
    with st.container(key="analytics_rest"):
        asking = st.empty()
    st.fragment(_show_charts, run_every=every_s)(router, analytics, chosen, first)
    if not first:
        st.fragment(_show_requests, run_every=every_s)(router, analytics, chosen)
    with asking:
        st.fragment(_ask_for_the_rest, run_every=SOON_S if first else None)(first)


def _ask_for_the_rest(first: bool) -> None:
    """Draw the whole page where only the `first` of it was sent, when the browser calls this after the page has."""
    if first and st.session_state.get(_ASKED):
        st.rerun(scope="app")
    st.session_state[_ASKED] = first


@st.fragment(run_every=EVERY_S)
def _wait_for_lines(analytics: Analytics) -> None:
    with _told(analytics):
        analytics.refresh()
        coverage = analytics.coverage
        if coverage.first_ts is not None:
            st.rerun(scope="app")
        show_coverage(analytics, coverage, "Nothing in the log yet")
    show_empty()


@contextmanager
def _told(analytics: Analytics) -> Iterator[None]:
    """Say on the page what went wrong with the cache within the block; while it runs the cache stays open."""
    try:
        with analytics.hold():
            yield
    except CacheError as error:
        st.error(plain(f"{str(error)[:1].upper()}{str(error)[1:]}."), icon=":material/error:")


def _show_charts(router: ModelRouter, analytics: Analytics, chosen: Chosen, first: bool) -> None:
    """Draw the figures and, but for the `first` time, the charts: both times at the same place, so that the figures stay as they are."""
    with _told(analytics):
        shown = _view(router, analytics, chosen)
        _show_bar(shown, chosen)
        show_figures(shown)
        if not first:
            show_charts(shown, _canvas(router, shown))
    if take_news():
        st.rerun(scope="app")


def _show_bar(shown: View, chosen: Chosen) -> None:
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", key="analytics_bar"
    ):
        with st.container(width="stretch"):
            show_coverage(shown.analytics, shown.coverage, _as_of(shown, chosen))
        show_downloads({name: (title, _maker(shown, name)) for name, title in _TITLES.items()})
    if chosen.filters.drills:
        st.info(
            "With drills: faults that were injected on purpose are counted too.", icon=":material/science:"
        )


def _show_requests(router: ModelRouter, analytics: Analytics, chosen: Chosen) -> None:
    with _told(analytics):
        show_requests(_view(router, analytics, chosen))


def _view(router: ModelRouter, analytics: Analytics, chosen: Chosen) -> View:
    """Return what there is to see now; where the page stands still, at the moment when it was stopped."""
    if chosen.live:
        st.session_state.pop(_STOOD, None)
        analytics.refresh()
        now = router.context.wall()
    else:
        now = float(st.session_state.setdefault(_STOOD, router.context.wall()))
    since, until = chosen.ends(now)
    first_ts = analytics.coverage.first_ts
    span = window(since, until, first_ts=first_ts, utc_offset_s=offset_s())
    return View(analytics, span, chosen.filters, until=until)


def _canvas(router: ModelRouter, shown: View) -> Canvas:
    configured = [provider.name for provider in router.wiring.settings.providers]
    others = sorted(set(names(shown.analytics, shown.coverage).providers) - set(configured))
    dark = st.context.theme.type == "dark"
    return Canvas(window=shown.window, providers=(*configured, *others), dark=dark, pick=True)


def _as_of(shown: View, chosen: Chosen) -> str:
    here = zone()
    first, last = (datetime.fromtimestamp(ts, here) for ts in (shown.window.since, shown.until))
    if chosen.live and chosen.end is None:
        return plain(f"{first:%a %d %b %H:%M} to now, {last:%H:%M:%S}")
    return plain(f"{first:%a %d %b %H:%M} to {last:%a %d %b %H:%M}")


def _maker(shown: View, name: str) -> Callable[[], pd.DataFrame]:
    if name == "requests":
        return lambda: requests(shown.analytics, shown.window, shown.filters, limit=MOST_DOWNLOADED)
    return lambda: shown.ask(name)
