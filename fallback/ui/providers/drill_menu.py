"""The menu in which a provider's drill is chosen: what goes wrong, how strong, how often, how long."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import streamlit as st

from fallback.drills import DEFAULT_LENGTH_S, KINDS, DrillKind, KindSpec
from fallback.router import ModelRouter
from fallback.ui.providers.controls import close_menu, hold_room, menu_key, notify
from fallback.ui.text_safety import plain
from fallback.ui.visitors import control, for_operators

__all__ = ["show_drill_menu"]

_LENGTHS: Final = MappingProxyType(
    {
        60.0: "1 minute",
        DEFAULT_LENGTH_S: "5 minutes",
        900.0: "15 minutes",
        3600.0: "1 hour",
        0.0: "Until it is ended by hand",
    }
)
_FIRST_KIND: Final = DrillKind.OVERLOADED
HEIGHT_PX = 380
"""With the field that most kinds have for how strong the fault is."""


def show_drill_menu(router: ModelRouter, name: str, *, running: bool) -> None:
    """Draw the menu's button, and the menu where it is open."""
    menu = st.popover(
        "Drill",
        icon=":material/science:",
        **control(router, "Let this provider fail on purpose, to see how requests fare"),
        key=menu_key(_key(name, "menu")),
        on_change="rerun",
    )
    if not menu.open:
        hold_room(menu, HEIGHT_PX)
        return
    with menu:
        st.markdown(f"**Let {plain(name)} fail on purpose**")
        kinds: list[DrillKind] = list(DrillKind)
        kind = st.selectbox(
            "What goes wrong",
            kinds,
            index=kinds.index(_FIRST_KIND),
            format_func=lambda kind: KINDS[kind].label,
            key=_key(name, "kind"),
            persist_state="page",
            help="A fault is made up inside this program. The provider itself is not harmed.",
        )
        spec = KINDS[kind]
        st.caption(f"The provider {spec.text}.")
        _show_value(name, kind, spec)
        left, right = st.columns(2)
        left.number_input(
            "Share of calls, %",
            min_value=1,
            max_value=100,
            value=100,
            step=10,
            key=_key(name, "share"),
            persist_state="page",
            on_change="ignore",
            disabled=kind is DrillKind.OFF,
            help="How many of the calls it strikes, at random; the others pass. Off always strikes all.",
        )
        right.selectbox(
            "For",
            list(_LENGTHS),
            index=list(_LENGTHS).index(DEFAULT_LENGTH_S),
            format_func=lambda length_s: _LENGTHS[length_s],
            key=_key(name, "length"),
            persist_state="page",
            on_change="ignore",
            help="After this it ends by itself, and so do the cooldowns that it led to.",
        )
        st.button(
            "Replace the drill" if running else "Start the drill",
            key=_key(name, "start"),
            icon=":material/play_arrow:",
            width="stretch",
            **control(router, "From the next request on, for every viewer"),
            on_click=_start,
            args=(router, name),
        )


def _show_value(name: str, kind: DrillKind, spec: KindSpec) -> None:
    value = spec.value
    if value is None:
        return
    number = int if value.whole else float
    st.number_input(
        f"{value.meaning[:1].upper()}{value.meaning[1:]}, {value.unit}",
        min_value=number(value.low),
        max_value=number(value.high),
        value=number(value.default),
        step=number(1) if value.whole or value.default >= 1 else 0.1,
        format="%d" if value.whole else "%g",
        key=_key(name, f"value_{kind.value}"),
        persist_state="page",
        on_change="ignore",
        help=f"From {value.low:g} to {value.high:g} {value.unit}",
    )


@for_operators
def _start(router: ModelRouter, by: str, name: str) -> None:
    state = st.session_state
    kind = DrillKind(state[_key(name, "kind")])
    spec: dict[str, object] = {"kind": kind.value, "for_s": state[_key(name, "length")] or None}
    if kind is not DrillKind.OFF:
        spec["probability"] = state[_key(name, "share")] / 100
    if KINDS[kind].value is not None:
        spec["value"] = state[_key(name, f"value_{kind.value}")]
    drill = router.switchboard.set_drill(name, spec, by=by)
    close_menu(_key(name, "menu"))
    if drill is not None:
        notify(f"{plain(name)}: {plain(drill.text)}")


def _key(name: str, what: str) -> str:
    return f"providers_drill_{what}_{name}"
