"""What the page's controls do: callbacks that change the switchboard, and the row of controls above the cards."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fallback.drills import PRESETS
from fallback.router import ModelRouter
from fallback.ui.providers.overview import Card, Overview
from fallback.ui.providers.trials import Trials
from fallback.ui.text_safety import plain
from fallback.ui.visitors import NOT_FOR_VIEWERS, REFUSED, control, for_operators, visitor

__all__ = [
    "close_menu",
    "end_cooldown",
    "end_drill",
    "hold_room",
    "menu_key",
    "notify",
    "show_switch",
    "show_toolbar",
    "start_trial",
    "trials",
]

NOTICES = "providers_notices"
AWAITED = "providers_awaited"
SWITCH = "providers_on"
PRESET_MENU = "providers_presets"
PRESET_HEIGHT_PX = 400
ORDER_MENU = "providers_order"
ORDER_ROW_PX = 56


@st.cache_resource(show_spinner=False)
def trials() -> Trials:
    """Return the test calls of this program."""
    return Trials()


def menu_key(menu: str) -> str:
    """Return the key of the menu of that name: another one after each `close_menu`."""
    return f"{menu}_{st.session_state.get(f'{menu}_closed', 0)}"


def close_menu(menu: str) -> None:
    """Let the menu be shut in the next drawing."""
    # A new key, because a refresh that is on its way still says that the old menu is open, and would open it again.
    count = f"{menu}_closed"
    st.session_state[count] = st.session_state.get(count, 0) + 1


def hold_room(menu: DeltaGenerator, height_px: int) -> None:
    """Let a menu that is shut be as high as what will stand in it."""
    # The browser places a menu as it opens, before its content has come: an empty one fits under the last button of a
    # screen, stays there, and its content would have to be scrolled in a strip.
    menu.space(height_px)


def notify(text: str) -> None:
    """Let the page say `text`, which is Markdown, once it is drawn."""
    st.session_state.setdefault(NOTICES, []).append(text)


def show_notices() -> None:
    """Say what callbacks left to be said, and how the test calls of this viewer went."""
    for text in st.session_state.pop(NOTICES, ()):
        st.toast(text)
    if st.session_state.pop(REFUSED, False):
        st.toast(NOT_FOR_VIEWERS, icon=":material/lock:")
    awaited: dict[str, int] = st.session_state.get(AWAITED, {})
    for name, number in list(awaited.items()):
        trial = trials().latest(name)
        if trial is not None and trial.number == number and trial.running:
            continue
        del awaited[name]
        if trial is not None and trial.number == number:
            icon = ":material/check_circle:" if trial.passed else ":material/error:"
            st.toast(f"Test of {plain(name)}: {plain(trial.text)}", icon=icon)


@for_operators
def start_trial(router: ModelRouter, _by: str, name: str) -> None:
    """Ask the provider one small question in the background."""
    st.session_state.setdefault(AWAITED, {})[name] = trials().start(router, name)


@for_operators
def end_cooldown(router: ModelRouter, by: str, name: str) -> None:
    """Make the provider ready by hand."""
    router.switchboard.end_cooldown(name, by=by)


@for_operators
def end_drill(router: ModelRouter, by: str, name: str) -> None:
    """End the provider's drill."""
    router.switchboard.set_drill(name, None, by=by)


def show_switch(router: ModelRouter, card: Card) -> None:
    """Draw the switch of one provider as it stands now, whoever threw it."""
    # Only a click ever moves a switch that is drawn: one that somebody else has thrown is a new one. Were the old one set
    # anew, the browser would send that back like a click, and a refresh on its way would throw it once more.
    name, on = card.name, card.status.enabled
    number, began = st.session_state.get(f"{SWITCH}_{name}", (0, on))
    if st.session_state.get(switch_key(name, number), began) != on:
        number, began = number + 1, on
    st.session_state[f"{SWITCH}_{name}"] = (number, began)
    st.toggle(
        "Gets requests",
        value=began,
        key=switch_key(name, number),
        **control(
            router,
            "Switched off it gets no request from the next one on, in every process that shares this state.",
        ),
        on_change=_switch,
        args=(router, name, number),
    )


def switch_key(name: str, number: int) -> str:
    """Return the key of the switch that is drawn for provider `name` after others have thrown it `number` times."""
    return f"{SWITCH}_{name}_{number}"


@for_operators
def _switch(router: ModelRouter, by: str, name: str, number: int) -> None:
    if st.session_state[f"{SWITCH}_{name}"][0] == number:
        router.set_enabled(name, bool(st.session_state[switch_key(name, number)]), by=by)


def show_toolbar(router: ModelRouter, shown: Overview) -> None:
    """Draw the page's title, and what concerns all providers: presets, the end of all drills, the order."""
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key="providers_toolbar"):
        st.title("Providers", anchor=False, width="stretch")
        _show_presets(router)
        st.button(
            "End all drills",
            key="providers_end_drills",
            icon=":material/healing:",
            **control(
                router,
                "Let every provider be itself again; cooldowns that drills led to end with them.",
                disabled=not shown.drills,
            ),
            on_click=_end_drills,
            args=(router,),
        )
        _show_order(router, [card.name for card in shown.cards])
    someone = visitor(router)
    if someone is not None and not someone.may_operate:
        st.caption(f":material/visibility: {NOT_FOR_VIEWERS}")


def _show_presets(router: ModelRouter) -> None:
    menu = st.popover(
        "Simulate an outage",
        icon=":material/science:",
        **control(router, "Let several providers fail on purpose, for five minutes"),
        key=menu_key(PRESET_MENU),
        on_change="rerun",
    )
    if not menu.open:
        hold_room(menu, PRESET_HEIGHT_PX)
        return
    with menu:
        st.caption("Each lasts five minutes and ends all other drills. Requests of everybody are affected.")
        for number, preset in enumerate(PRESETS.values()):
            text = f"{preset.text[:1].upper()}{preset.text[1:]}."
            st.button(
                preset.name,
                key=f"providers_preset_{number}",
                width="stretch",
                **control(router, text),
                on_click=_start_preset,
                args=(router, preset.name),
            )
            st.caption(text)


@for_operators
def _start_preset(router: ModelRouter, by: str, title: str) -> None:
    concerned = router.switchboard.start_preset(title, by=by)
    close_menu(PRESET_MENU)
    names = ", ".join(plain(name) for name in concerned)
    notify(f"{title}: {names}" if concerned else f"{title} concerns none of these providers.")


@for_operators
def _end_drills(router: ModelRouter, by: str) -> None:
    router.switchboard.end_drills(by=by)


def _show_order(router: ModelRouter, names: Sequence[str]) -> None:
    menu = st.popover(
        "Order",
        icon=":material/swap_vert:",
        **control(router, "Change the order in which the providers are asked"),
        key=menu_key(ORDER_MENU),
        on_change="rerun",
    )
    if not menu.open:
        hold_room(menu, ORDER_ROW_PX * (len(names) + 2))
        return
    of_file = [provider.name for provider in router.wiring.settings.providers]
    with menu:
        st.caption(
            "Asked from top to bottom, until one answers. It holds for every viewer and survives a restart."
        )
        for place, name in enumerate(names):
            with st.container(horizontal=True, vertical_alignment="center", gap="small", wrap=False):
                st.markdown(f":gray[{place + 1}] **{plain(name)}**", width="stretch")
                _show_move(router, names, place, -1)
                _show_move(router, names, place, +1)
        st.button(
            "Back to the file's order",
            key="providers_order_reset",
            icon=":material/restart_alt:",
            width="stretch",
            **control(
                router, "The order of the priorities in providers.yaml", disabled=list(names) == of_file
            ),
            on_click=_set_order,
            args=(router, None),
        )


def _show_move(router: ModelRouter, names: Sequence[str], place: int, step: int) -> None:
    name, target = names[place], place + step
    word = "up" if step < 0 else "down"
    moved = list(names)
    possible = 0 <= target < len(names)
    if possible:
        moved[place], moved[target] = moved[target], moved[place]
    st.button(
        word.capitalize(),
        # By place: so the focus stays where it is while the names move.
        key=f"providers_{word}_{place + 1}",
        icon=f":material/arrow_{word}ward:",
        **control(router, f"Ask {plain(name)} {'earlier' if step < 0 else 'later'}", disabled=not possible),
        on_click=_set_order,
        args=(router, moved),
    )


@for_operators
def _set_order(router: ModelRouter, by: str, names: Sequence[str] | None) -> None:
    router.switchboard.set_order(names, by=by)
