"""Drawing the upper part of the page: who answers, and the providers' cards."""

from __future__ import annotations

import time
from collections.abc import Sequence

import streamlit as st

from fallback.recent import ProviderHealth
from fallback.router import ModelRouter
from fallback.ui.providers.controls import end_cooldown, end_drill, show_switch, start_trial, trials
from fallback.ui.providers.drill_menu import show_drill_menu
from fallback.ui.providers.overview import Answering, Card, Overview
from fallback.ui.providers.sparkline import sparkline
from fallback.ui.providers.states import percent
from fallback.ui.providers.trials import Trial
from fallback.ui.text_safety import plain
from fallback.ui.visitors import control
from fallback.ui.wording import duration

__all__ = ["show_cards", "show_summary"]

FIGURE_WIDTH = 136
SHOWN_TRIAL_S = 60.0
"""How long the result of a test call stays on its card."""


def show_summary(shown: Overview) -> None:
    """Draw who answers now, who would if that one failed, and how it went of late."""
    requests = shown.requests
    asked = requests.answered + requests.failed
    share = percent(requests.answered / asked) if asked else "—"
    drills = "no drill running" if not shown.drills else _count(shown.drills, "drill") + " running"
    with st.grid(4, min_column_width=150, gap="small", border=True):
        _show_fact("Answers now", _answering(shown.now), plain(shown.now.note))
        _show_fact("If that one fails", _answering(shown.then), plain(shown.then.note))
        told = f"{requests.answered:,} of {asked:,}" if asked else "no requests yet"
        rescued = f", {requests.rescued:,} of them by a failover" if requests.rescued else ""
        _show_fact("Requests answered, 15 min", share, told + rescued)
        _show_fact("Ready", f"{shown.ready} of {len(shown.cards)}", drills)


def _show_fact(title: str, fact: str, note: str) -> None:
    st.markdown(f":small[:gray[{title}]]  \n**{fact}**  \n:small[:gray[{note}]]")


def _answering(answering: Answering) -> str:
    if answering.name is None:
        return ":red[:material/block: Nobody]"
    mark = ":green[:material/check_circle:]" if answering.ready else ":orange[:material/timer:]"
    return f"{mark} {plain(answering.name)}"


def show_cards(router: ModelRouter, shown: Overview) -> None:
    """Draw a card for each provider, in the order asked."""
    with st.grid(max(1, min(4, len(shown.cards))), min_column_width=270, gap="small"):
        for card in shown.cards:
            with st.container(border=True, height="stretch", gap="small", key=f"providers_card_{card.name}"):
                _show_card(router, card)


def _show_card(router: ModelRouter, card: Card) -> None:
    # Few elements, each with much text: what a refresh costs is the number of elements.
    trial = trials().latest(card.name)
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", gap="small"
    ):
        st.markdown(f"## :gray[{card.place}] {plain(card.name)}", anchors=False, width="stretch")
        show_switch(router, card)
    st.markdown(_standing(card))
    if card.can_end_cooldown or card.drill is not None:
        _show_remedies(router, card)
    _show_figures(card.health)
    st.markdown(_history(card, trial))
    st.space("stretch")
    _show_buttons(router, card, trial)


def _standing(card: Card) -> str:
    model = plain(card.status.model)
    lines = [f":gray[{model}]"]
    if card.status.retired and card.status.state != "disabled":
        retired = ", ".join(plain(name) for name in card.status.retired)
        lines.append(
            f":violet-badge[:material/published_with_changes: Model retired] {retired}; serving {model}"
        )
    if card.status.degraded:
        lines.append(":gray[Small embedded model: better than nothing, may be wrong.]")
    if card.explanation:
        lines.append(plain(card.explanation))
    if card.drill is not None:
        left, text = plain(card.drill.left), plain(card.drill.text)
        lines.append(f":orange-badge[:material/science: Drill {left}] {text}")
    return f":{card.badge.color}-badge[{card.badge.icon} {card.badge.label}]  \n{_small_lines(lines)}"


def _small_lines(lines: Sequence[str]) -> str:
    return "  \n".join(f":small[{line}]" for line in lines)


def _show_remedies(router: ModelRouter, card: Card) -> None:
    with st.container(horizontal=True, gap="small"):
        if card.can_end_cooldown:
            resting = card.status.state in {"cooling_down", "probing"}
            st.button(
                "End cooldown" if resting else "Try again",
                key=f"providers_end_cooldown_{card.name}",
                icon=":material/restart_alt:",
                **control(
                    router, "Make it and its models ready at once, whatever they rest or are disabled for"
                ),
                on_click=end_cooldown,
                args=(router, card.name),
            )
        if card.drill is not None:
            st.button(
                "End drill",
                key=f"providers_end_drill_{card.name}",
                icon=":material/stop_circle:",
                **control(router, "End it, and the cooldown that it led to"),
                on_click=end_drill,
                args=(router, card.name),
            )


def _show_figures(health: ProviderHealth) -> None:
    decided = health.successes + health.failures
    if not decided:
        return
    facts = [
        ("Answered", "—" if health.success_rate is None else percent(health.success_rate)),
        ("Calls", f"{decided:,}"),
        ("p95", _time(health.p95_s)),
        ("First words", _time(health.ttft_p50_s)),
    ]
    with st.container(horizontal=True, wrap=False, gap="small"):
        lines = [f":gray[{label}] **{value}**" for label, value in facts]
        st.markdown(_small_lines(lines), width="stretch")
        with st.container(width=FIGURE_WIDTH, gap="xxsmall"):
            st.metric(
                "Median time",
                _time(health.p50_s),
                help="Half of the answers took no longer than this. The line is the median of each of the last "
                "15 minutes. All figures are of that time, without cancelled calls and injected faults.",
            )
            drawn = sparkline(health.sparkline)
            if drawn is not None:
                # Not st.image, which puts a button of its own on every picture.
                st.markdown(drawn.markdown)


def _history(card: Card, trial: Trial | None) -> str:
    error = card.error
    lines = [f":gray[Left of its rate limit] **{card.headroom}**"] if card.headroom else []
    if error is None:
        lines.append(":gray[No error on record.]")
    else:
        told = f": {plain(error.text)}" if error.text else ""
        drill = " :orange-badge[:material/science: drill]" if error.drill else ""
        lines.append(f"**Last error** {error.when}{told}{drill}")
        if error.message:
            lines.append(f":gray[{plain(error.message)}]")
    if trial is not None and trial.running:
        lines.append(":shimmer[Testing…]")
    elif trial is not None and time.monotonic() - trial.ended < SHOWN_TRIAL_S:
        icon = ":green[:material/check_circle:]" if trial.passed else ":red[:material/error:]"
        lines.append(f"{icon} **Test** {plain(trial.text)}")
    return _small_lines(lines)


def _show_buttons(router: ModelRouter, card: Card, trial: Trial | None) -> None:
    with st.container(horizontal=True, gap="small"):
        st.button(
            "Test now",
            key=f"providers_test_{card.name}",
            icon=":material/play_arrow:",
            **control(
                router,
                "Ask it one small question, even while it is resting or disabled. An answer makes it ready.",
                disabled=trial is not None and trial.running,
            ),
            on_click=start_trial,
            args=(router, card.name),
        )
        show_drill_menu(router, card.name, running=card.drill is not None)


def _time(length_s: float | None) -> str:
    return "—" if length_s is None else duration(length_s)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
