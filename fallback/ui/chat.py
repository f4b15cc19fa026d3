"""The Chat page: what is on it, and what its controls do.

Theory of operation: every control is a callback that changes the conversation, then the page is drawn from it. The run
that finds an answer being written follows it until it is whole and draws the page once more. Stop in the input field ends
the run at its next drawing; so does a browser that goes away. The first means that the answer is not wanted any more, the
second does not: the answer goes on, and the page finds it when it comes back.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import streamlit as st
from streamlit import runtime
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.scriptrunner import StopException, get_script_run_ctx

from fallback.core.roster import ProviderStatus
from fallback.router import ModelRouter, get_router
from fallback.ui.answer import Drawing, show_account, show_question
from fallback.ui.conversations import Conversation, Conversations
from fallback.ui.text_safety import plain
from fallback.ui.turns import Options, Turn

__all__ = ["conversations", "show_chat"]

ICON = Path(__file__).with_name("icon.png")

REPAINT_S = 0.05
BEAT_S = 0.1
"""How long the page waits at most before it draws: until then it does not notice that it is to stop."""
AFTERLOOK_S = 0.3
LEAVING_S = 0.05
"""How long a browser that goes away takes to be taken off the list."""
LONGEST_QUESTION = 100_000

ADDRESS = "c"
"""The query parameter that holds the conversation's id."""
CONVERSATION = "chat_conversation"
PROMPT = "chat_prompt"
TYPED = "chat_typed"
NOTICE_READ = "chat_notice_read"
MODEL, SYSTEM, TEMPERATURE, MAX_TOKENS = "chat_model", "chat_system", "chat_temperature", "chat_max_tokens"

_LAMPS: Mapping[str, tuple[str, str]] = {
    "ready": ("green", "check_circle"),
    "not_configured": ("gray", "key_off"),
    "disabled": ("red", "block"),
}
"""Told apart by their shapes too. Any other state is one of waiting."""

SUGGESTIONS: Sequence[tuple[str, str]] = (
    (":material/public:", "What is the capital of Japan?"),
    (":material/bolt:", "What does a circuit breaker do?"),
    (":material/code:", "Write a Python function that retries with backoff"),
    (":material/edit:", "Write a haiku about a server that never sleeps"),
)


@st.cache_resource(show_spinner=False)
def conversations() -> Conversations:
    """Return the conversations of this program."""
    return Conversations()


def show_chat(router: ModelRouter) -> None:
    """Draw the page, and follow the answer that is being written, if there is one."""
    conversation, gone = _current()
    turns = conversation.turns if conversation else ()
    _recall_options(turns)
    typed = bool(st.session_state.pop(TYPED, False))
    # Looked at once: an answer that ends meanwhile is drawn, with its controls, by the run after this one.
    running = turns[-1] if turns and turns[-1].running else None
    statuses = router.status()
    _show_controls(router, statuses, begun=bool(turns), running=running is not None, typed=typed)
    # Both have places of their own: emptied, they vanish at once, while what merely is not drawn stays until the
    # run has ended, and a run lasts as long as an answer.
    welcome, notice = st.empty(), st.empty()
    if not turns:
        with welcome.container():
            _show_welcome(statuses, gone=gone)
    _show_notice(notice, router, statuses)
    for turn in turns:
        show_question(turn.question)
        if turn is running:
            _follow(turn)
        else:
            _show_answer(turn, latest=turn is turns[-1])


def _current() -> tuple[Conversation | None, bool]:
    """Return the conversation of this page, and whether one was wanted that is no longer kept."""
    wanted = st.query_params.get(ADDRESS) or st.session_state.get(CONVERSATION)
    found = conversations().find(wanted) if wanted else None
    if found is None:
        st.query_params.pop(ADDRESS, None)
        st.session_state.pop(CONVERSATION, None)
        return None, wanted is not None
    st.session_state[CONVERSATION] = found.id
    if st.query_params.get(ADDRESS) != found.id:
        st.query_params[ADDRESS] = found.id
    return found, False


def _recall_options(turns: Sequence[Turn]) -> None:
    """Set the options as they were for the last question, where this browser session has none of its own yet."""
    options = turns[-1].options if turns else Options()
    st.session_state.setdefault(MODEL, options.model)
    st.session_state.setdefault(SYSTEM, options.system)
    st.session_state.setdefault(TEMPERATURE, options.temperature)
    st.session_state.setdefault(MAX_TOKENS, options.max_tokens)


def _options() -> Options:
    state = st.session_state
    return Options(
        model=state.get(MODEL) or "auto",
        system=state.get(SYSTEM) or "",
        temperature=state.get(TEMPERATURE),
        max_tokens=state.get(MAX_TOKENS),
    )


def _ask(question: str) -> None:
    if not question.strip():
        return
    conversation, _ = _current()
    if conversation is None:
        conversation = conversations().create()
        st.session_state[CONVERSATION] = conversation.id
    if conversation.ask(get_router(), question, _options()):
        conversations().trim()
    else:
        st.toast("An answer is still being written. Stop it first, or wait for its end.")


def _submit() -> None:
    st.session_state[TYPED] = True
    _ask(st.session_state[PROMPT] or "")


def _regenerate() -> None:
    conversation, _ = _current()
    if conversation is not None:
        conversation.regenerate(get_router(), _options())


def _stop() -> None:
    conversation, _ = _current()
    if conversation is not None and (turn := conversation.running) is not None:
        turn.stop()
        turn.wait_ended(1.0)


def _begin_anew() -> None:
    st.query_params.pop(ADDRESS, None)
    st.session_state.pop(CONVERSATION, None)


def _show_controls(
    router: ModelRouter, statuses: Sequence[ProviderStatus], *, begun: bool, running: bool, typed: bool
) -> None:
    # In the bottom by name: where Streamlit puts it there by itself, it also scrolls the page to its end as it comes.
    with st.bottom:
        st.chat_input(
            "Ask anything",
            key=PROMPT,
            max_chars=LONGEST_QUESTION,
            submit_mode="stop",
            disabled=running and not typed,
            on_submit=_submit,
        )
    with st.bottom, st.container(horizontal=True, gap="small", vertical_alignment="center"):
        _show_options(router, statuses)
        st.button(
            "New chat",
            key="chat_new",
            icon=":material/add:",
            type="tertiary",
            help="Begin a new conversation. This one stays under its address.",
            disabled=not begun,
            on_click=_begin_anew,
        )
        st.button(
            "Regenerate",
            key="chat_regenerate",
            icon=":material/refresh:",
            type="tertiary",
            help="Ask the last question again, with the options as they are now",
            disabled=running or not begun,
            on_click=_regenerate,
        )
        if running and not typed:  # else the input field has the button
            st.button(
                "Stop",
                key="chat_stop",
                icon=":material/stop_circle:",
                type="tertiary",
                help="Stop writing, and keep what there is",
                on_click=_stop,
            )


def _show_options(router: ModelRouter, statuses: Sequence[ProviderStatus]) -> None:
    labels = {"auto": "Automatic"}
    labels |= {route: f"Route {route}" for route in router.wiring.settings.routing.routes}
    labels |= {status.name: status.name for status in statuses}
    if st.session_state[MODEL] not in labels:
        st.session_state[MODEL] = "auto"
    chosen = labels[st.session_state[MODEL]]
    with st.popover(
        plain(chosen),
        icon=":material/tune:",
        help="Provider, system prompt, temperature, length",
        key="chat_options",
    ):
        st.selectbox(
            "Provider",
            list(labels),
            format_func=lambda name: labels.get(name, name),
            key=MODEL,
            help="Automatic asks the providers in their order. A provider chosen by name is asked first, and the others after it.",
            persist_state="session",
        )
        st.text_area(
            "System prompt",
            key=SYSTEM,
            height=100,
            max_chars=20_000,
            placeholder="None",
            help="Said to the model before the conversation, with every question.",
            persist_state="session",
        )
        left, right = st.columns(2)
        left.number_input(
            "Temperature",
            min_value=0.0,
            max_value=2.0,
            value=None,
            step=0.1,
            format="%.1f",
            key=TEMPERATURE,
            placeholder="Default",
            help="From 0 (always the likeliest words) to 2. Empty: each provider's own setting.",
            persist_state="session",
        )
        right.number_input(
            "Max tokens",
            min_value=1,
            max_value=1_000_000,
            value=None,
            step=64,
            key=MAX_TOKENS,
            placeholder="Default",
            help="The longest answer, in tokens. Empty: each provider's own setting.",
            persist_state="session",
        )


def _show_welcome(statuses: Sequence[ProviderStatus], *, gone: bool) -> None:
    if gone:
        st.caption(
            ":material/history: That conversation is no longer kept: conversations live in memory, until the program"
            " ends or newer ones need the room."
        )
    st.space("medium")
    st.title("What would you like to know?", anchor=False, text_alignment="center")
    chain = " :gray[→] ".join(
        f"{_lamp(status)} {plain(status.name)}" for status in statuses if status.enabled
    )
    st.markdown(f":small[:gray[Asked in this order, until one answers:] {chain}]", text_alignment="center")
    st.space("small")
    with st.grid(2, min_column_width=260, gap="small"):
        for position, (icon, question) in enumerate(SUGGESTIONS):
            st.button(
                question,
                key=f"chat_suggestion_{position}",
                icon=icon,
                width="stretch",
                help="Ask this",
                on_click=_ask,
                args=(question,),
            )


def _lamp(status: ProviderStatus) -> str:
    color, icon = _LAMPS.get(status.state, ("orange", "timer"))
    return f":{color}[:material/{icon}:]"


def _show_notice(place: DeltaGenerator, router: ModelRouter, statuses: Sequence[ProviderStatus]) -> None:
    """Say where keys go, while no provider outside this program has one."""
    cloud = [status for status in statuses if not status.degraded]
    if st.session_state.get(NOTICE_READ) or any(status.state != "not_configured" for status in cloud):
        return
    settings = {provider.name: provider for provider in router.wiring.settings.providers}
    variables = _key_variables([settings[status.name].key_variables for status in cloud])
    embedded = [status for status in statuses if status.degraded]
    broken = [status for status in embedded if status.state == "not_configured"]
    if not embedded:
        told = "**No API key is set, and no embedded model is configured,** so nothing can answer yet."
    elif len(broken) == len(embedded):
        told = f"**No API key is set, and the embedded model cannot run:** {plain(broken[0].text)}."
    else:
        told = "**No API key is set,** so the small model inside this program answers, and it may be wrong."
    with place.container(border=True, gap="small"):
        st.markdown(f":material/key: {told}")
        names = " or ".join(f"`{name}`" for name in variables)
        if names:
            st.markdown(
                f"For the large models copy `.env.example` to `.env`, put {names} into it, and start the program again."
            )
        st.button(
            "Got it",
            key="chat_notice",
            help="Hide this note",
            on_click=lambda: st.session_state.update({NOTICE_READ: True}),
        )


def _sheet(turn: Turn) -> DeltaGenerator:
    """Return the place of an answer: an empty one, where the answer before it, to the same question, stood beside it."""
    with st.chat_message("assistant", avatar=ICON):
        first, second = st.empty(), st.empty()
    return second.container() if turn.repeats % 2 else first.container()


def _key_variables(offered: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return where the keys go: of the variables that each provider looks at, one that several share, else its own."""
    counted = Counter(name for names in offered for name in names)
    chosen = (max(names, key=lambda name: counted[name]) for names in offered if names)
    return tuple(dict.fromkeys(chosen))


def _show_answer(turn: Turn, *, latest: bool) -> None:
    view = turn.view()
    with _sheet(turn):
        Drawing(latest=latest).show(view)
        show_account(view)


def _follow(turn: Turn) -> None:
    """Draw the answer as it is written, until it has ended; then the whole page once more."""
    with _sheet(turn):
        drawing = Drawing(latest=True)
        _look_again(turn)
        seen = -1
        try:
            while turn.running:
                seen = turn.wait(seen, BEAT_S)
                drawing.show(turn.view())
                time.sleep(REPAINT_S)
        except StopException:
            if not _left():
                turn.stop()
            raise
    st.rerun()


def _left() -> bool:
    """Return whether the browser went away, as opposed to somebody who pressed Stop."""
    context = get_script_run_ctx()
    if context is None or not runtime.exists():
        return True
    time.sleep(LEAVING_S)
    return not runtime.get_instance().is_active_session(context.session_id)


@st.fragment(run_every=AFTERLOOK_S)
def _look_again(turn: Turn) -> None:
    """Draw the page again once a run that was stopped has left it as it was: these runs wait for the other to end."""
    if not turn.running:
        st.rerun()
