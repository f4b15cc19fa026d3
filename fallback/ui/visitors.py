"""Who looks at this page, and what they may do: asked anew in every run of a page and in every callback.

Theory of operation: the door in front of the program (`api.doorway`) lets in whoever has signed in; this looks at the same cookies
once more, since a browser may send any event over a WebSocket that is open, also for a button that is greyed out, and a
sign-in may be over by then. A callback that changes a provider is marked `for_operators`, and so does nothing for others.

What may not live here: passwords and cookies themselves (signin).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from html import escape
from typing import Concatenate, ParamSpec, TypedDict

import streamlit as st

from fallback.router import ModelRouter
from fallback.signin import ANYBODY, Stranger, Visitor

__all__ = [
    "NOT_FOR_VIEWERS",
    "REFUSED",
    "Control",
    "by_whom",
    "control",
    "for_operators",
    "show_account",
    "visitor",
]

P = ParamSpec("P")

NOT_FOR_VIEWERS = "You are signed in as a viewer: only operators change providers and test them."
REFUSED = "visitors_refused"
"""The key under which it stands that something was refused, until the page has said so."""
NAME = "dashboard"

# In Streamlit's own bar at the top, left of its menu, where it is on every page and takes no room of the page.
_STYLE = """<style>
.st-key-account { position: fixed; top: 0.85rem; right: 3.75rem; z-index: 999991; width: auto; max-width: 45vw; }
.st-key-account .account { display: flex; align-items: center; justify-content: flex-end; gap: 0.75rem; margin: 0; }
.st-key-account .who { opacity: 0.75; font-size: 0.875rem; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.st-key-account button { font: inherit; font-size: 0.875rem; padding: 0.25rem 0.75rem; min-height: 2rem; white-space: nowrap;
  border: 1px solid currentColor; border-radius: 0.5rem; background: none; color: inherit; cursor: pointer; }
.st-key-account button:focus-visible { outline: 2px solid currentColor; outline-offset: 2px; }
@media (max-width: 40rem) { .st-key-account .who { display: none } }
</style>"""


def visitor(router: ModelRouter) -> Visitor | None:
    """Return who looks at this page; None: nobody who may."""
    door = router.wiring.door
    if not door.guarded:
        return ANYBODY
    try:
        found = door.visitor(st.context.cookies)
    except Stranger:
        return None
    by_provider = found is not None and found.email is not None
    # Streamlit looks at its cookie by itself, and at the address that the browser is at.
    return None if by_provider and not st.user.get("is_logged_in", False) else found


class Control(TypedDict):
    """How a control of Streamlit's is drawn that only operators may use."""

    disabled: bool
    help: str


def control(router: ModelRouter, text: str, *, disabled: bool = False) -> Control:
    """Return how such a control is drawn for this visitor; `text` is its help where they may use it."""
    someone = visitor(router)
    if someone is not None and someone.may_operate:
        return {"disabled": disabled, "help": text}
    return {"disabled": True, "help": NOT_FOR_VIEWERS}


def by_whom(someone: Visitor) -> str:
    """Return what the log calls a visitor who changed something."""
    return NAME if someone.email is None else f"{NAME} ({someone.email[:180]})"


def for_operators(
    act: Callable[Concatenate[ModelRouter, str, P], None],
) -> Callable[Concatenate[ModelRouter, P], None]:
    """Return `act` as a callback that does nothing for a visitor who may not; it is told who it is, for the log."""

    @functools.wraps(act)
    def acting(router: ModelRouter, /, *args: P.args, **kwargs: P.kwargs) -> None:
        someone = visitor(router)
        if someone is None or not someone.may_operate:
            st.session_state[REFUSED] = True
            return
        act(router, by_whom(someone), *args, **kwargs)

    return acting


def show_account(someone: Visitor) -> None:
    """Draw who is signed in, and the way out; nothing where nobody signs in."""
    if someone is ANYBODY:
        return
    who = escape(someone.email) if someone.email is not None else str(someone.role).capitalize()
    with st.container(key="account"):
        # A form, and not a button of Streamlit's: only an answer of the server takes back a cookie that no script can see.
        st.html(
            f"{_STYLE}<form class='account' method='post' action='/sign-out'>"
            f"<span class='who'>{who}</span><button type='submit'>Sign out</button></form>"
        )
