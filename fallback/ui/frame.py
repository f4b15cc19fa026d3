"""The frame around every page: navigation, title, icon, width. Streamlit runs this file on every interaction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import streamlit as st

from fallback.router import get_router
from fallback.ui.arrival import ARRIVED
from fallback.ui.text_safety import plain
from fallback.ui.visitors import show_account, visitor

TITLE = "LLM Fallback"
ICON = Path(__file__).with_name("icon.png")
# Streamlit leaves a tenth of an ordinary screen empty above a page, makes room for a script, and leaves a button's tooltip
# lying over the popover that the button has opened.
STYLE = """<style>
[data-testid=stMainBlockContainer] {padding-top: 4.5rem; padding-bottom: 3rem}
[data-testid=stElementContainer]:has(> .stHtml > script) {display: none}
body:has([data-testid=stPopoverButton][aria-expanded=true]:is(:hover, :focus)) [data-testid=stTooltipContent] {display: none}
</style>"""
SCRIPT = f"<script>{Path(__file__).with_name('page.js').read_text(encoding='utf-8')}</script>"
_SHOWN = "page_shown"
PAGES_FOLDER = Path(__file__).resolve().parents[2] / "pages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One page: its file in pages/, and how it stands in the navigation."""

    file: str
    title: str
    layout: Literal["centered", "wide"]
    about: str
    """One sentence, shown where the mouse rests on it."""


ENTRIES = (
    Entry(
        file="chat.py",
        title="Chat",
        layout="centered",
        about="Ask a question and watch which provider answers it.",
    ),
    Entry(
        file="providers.py",
        title="Providers",
        layout="wide",
        about="Watch every provider's health, switch one off, or let one fail on purpose.",
    ),
    Entry(
        file="analytics.py",
        title="Analytics",
        layout="wide",
        about="See how often failover happened, why, what it saved and what it cost.",
    ),
)


def show() -> None:
    """Draw the navigation and run the page that is chosen."""
    # No icons: a page's would be fetched from another host, to stand in the tab until ours does.
    pages = [
        st.Page(
            PAGES_FOLDER / entry.file,
            title=entry.title,
            url_path="start" if entry is ENTRIES[0] else None,
            help=entry.about,
        )
        for entry in ENTRIES
    ]
    # The first page is found at "/" alone. Who types its name is to find it too, and that needs a page of its own.
    first = ENTRIES[0]
    pages.append(
        st.Page(
            PAGES_FOLDER / first.file, title=first.title, url_path=Path(first.file).stem, visibility="hidden"
        )
    )
    chosen = st.navigation(pages, position="top")
    layout = next(entry.layout for entry in ENTRIES if entry.title == chosen.title)
    st.set_page_config(page_title=f"{chosen.title} · {TITLE}", page_icon=ICON, layout=layout)
    st.logo(ICON, size="large")
    st.html(STYLE)
    st.html(SCRIPT, unsafe_allow_javascript=True)
    someone = visitor(get_router())
    if someone is None:
        st.warning("Your sign-in is over.", icon=":material/lock:")
        st.html("<a href='/sign-in' target='_self'>Sign in</a>")
        return
    show_account(someone)
    banner = get_router().wiring.settings.banner
    if banner:
        st.info(plain(banner), icon=":material/science:")
    st.session_state[ARRIVED] = st.session_state.get(_SHOWN) != chosen.title
    st.session_state[_SHOWN] = chosen.title
    chosen.run()


show()
