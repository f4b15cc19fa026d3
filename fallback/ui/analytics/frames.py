"""The frames that the page draws: asked once for each state of the log, window and filters, whoever looks at them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import pandas as pd
import streamlit as st

from fallback.analytics import Analytics, Choices, Coverage, Filters, Window, choices
from fallback.ui.charts import FIGURES

__all__ = ["View", "names"]

T = TypeVar("T")

MOST_KEPT = 200


class _Kept:
    """What was asked for last. Safe for threads; two viewers may ask for the same one at once, and both get it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[object, Any] = OrderedDict()

    def get(self, key: object, make: Callable[[], T]) -> T:
        with self._lock:
            found: T | None = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
                return found
        made = make()
        with self._lock:
            self._found[key] = made
            while len(self._found) > MOST_KEPT:
                self._found.popitem(last=False)
        return made


@st.cache_resource(show_spinner=False)
def _kept() -> _Kept:
    return _Kept()


def _state(analytics: Analytics, coverage: Coverage) -> object:
    """Return what is another one whenever the log says something else."""
    return analytics.folder, id(analytics), coverage.lines, coverage.bytes, coverage.last_ts


def names(analytics: Analytics, coverage: Coverage) -> Choices:
    """Return what can be filtered by."""
    return _kept().get(("names", _state(analytics, coverage)), lambda: choices(analytics))


class View:
    """One window of one log through one set of filters. Its frames are shared: nobody may change one."""

    def __init__(self, analytics: Analytics, window: Window, filters: Filters, *, until: float) -> None:
        self.analytics = analytics
        self.window = window
        self.filters = filters
        self.until = until
        """Unix seconds that were asked for as the end. The window ends with the bucket that it lies in."""
        self.coverage = coverage = analytics.coverage
        self._state = _state(analytics, coverage)

    def ask(self, figure: str) -> pd.DataFrame:
        """Return the frame of that figure."""
        key = (figure, self._state, self.window, self.filters)
        return _kept().get(key, lambda: FIGURES[figure](self.analytics, self.window, self.filters))
