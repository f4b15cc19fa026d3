"""Whether a browser has just come to the page, by a link, a reload or the navigation, or draws it again."""

from __future__ import annotations

from typing import Final

import streamlit as st

__all__ = ["ARRIVED", "just_arrived"]

ARRIVED: Final = "page_arrived"
"""Where the frame says so, before it runs the page."""


def just_arrived() -> bool:
    """Whether the browser shows nothing of the page yet."""
    return bool(st.session_state.get(ARRIVED, False))
