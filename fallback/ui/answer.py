"""Drawing one turn: the attempts as steps, the answer, and what is to be said about it.

Theory of operation: `Drawing` keeps the places on the page and takes snapshots of a turn, one or many; each draws only
what changed. A running turn and one of the history are drawn by the same code, so nothing jumps when the answer is whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.elements.lib.mutable_status_container import StatusContainer

from fallback.activity import DEGRADED_NOTE, failure_text
from fallback.core.models import (
    AttemptFailed,
    AttemptStarted,
    CandidateSkipped,
    Event,
    Role,
    Waiting,
)
from fallback.ui.text_safety import Block, blocks, clean, plain
from fallback.ui.turns import Seam, TurnState, TurnView
from fallback.ui.wording import consequence, cost, duration, no_answer, reason

__all__ = ["Drawing", "show_account", "show_question"]

_Color = Literal["gray", "orange"]

SHOWN_CHARACTERS = 200_000
"""Of one answer: more than that and the browser stalls."""


class Drawing:
    """The places of one answer on the page."""

    def __init__(self, *, latest: bool) -> None:
        """Take the places. `latest` says whether it is the last turn: its steps stay open where something failed."""
        self._latest = latest
        self._summary: StatusContainer | None = None
        self._step: StatusContainer | None = None
        self._step_text: DeltaGenerator | None = None
        self._events_drawn = 0
        self._summary_place = st.container()
        self._body = st.container()
        self._places: list[DeltaGenerator] = []
        self._blocks: list[Block] = []

    def show(self, view: TurnView) -> None:
        """Draw what is new in `view`. While the turn runs something is always sent: Stop takes effect with it."""
        if self._summary is None:
            self._summary = self._summary_place.status(_headline(view), type="compact")
        for event in view.events[self._events_drawn :]:
            self._draw_event(event)
        self._events_drawn = len(view.events)
        self._end_step(view)
        self._draw_text(view.text, view.seams)
        failed = any(isinstance(event, AttemptFailed) for event in view.events)
        ill = view.state in {TurnState.FAILED, TurnState.BROKEN}
        self._summary.update(
            label=_headline(view),
            state="running" if view.running else "complete" if view.state is TurnState.DONE else "error",
            expanded=self._latest and (failed or ill),
        )

    def _draw_event(self, event: Event) -> None:
        summary = self._summary
        if summary is None:
            return
        match event:
            case CandidateSkipped():
                short = plain(event.reason.partition(":")[0])
                label = f":gray[{plain(event.provider)} skipped: {short}]"
                with summary.expander(label, type="step", icon=":material/redo:"):
                    st.caption(f"{plain(event.reason)}.")
            case AttemptStarted():
                label = f"{_doing(event)} **{plain(event.provider)}** :gray[{plain(event.model)}]"
                self._step = summary.status(label, type="step")
                self._step_text = self._step.empty()
                self._step_text.caption("Waiting for the first words.")
            case AttemptFailed() if self._step is not None and self._step_text is not None:
                told = reason(event.failure.kind)
                self._step.update(
                    label=f"**{plain(event.provider)}** {told.what}", state="error", expanded=True
                )
                self._step_text.caption(_failure_lines(event))
                self._step = self._step_text = None
            case Waiting() if self._step is None:
                summary.caption(f"Trying {plain(event.provider)} again in {duration(event.seconds)}.")

    def _end_step(self, view: TurnView) -> None:
        """Say in the step of the attempt that answers how far it is."""
        if self._step is None or self._step_text is None:
            return
        if view.state is TurnState.DONE and view.answer is not None:
            last = view.answer.attempts[-1]
            first = last.time_to_first_token_s
            told = f"First words after {duration(first)}, all of it" if first is not None else "Answered"
            self._step_text.caption(f"{told} after {duration(last.duration_s)}.")
            did = "answered" if last.continues is None else "finished the answer"
            self._step.update(
                label=f"**{plain(last.provider)}** {did} with :gray[{plain(last.response_model or last.model)}]",
                state="complete",
            )
        elif view.state is TurnState.STOPPED:
            self._step_text.caption("Stopped by you.")
            self._step.update(label=f"**{plain(_asked(view))}** was stopped", state="error")
        elif view.text:
            self._step_text.caption("Writing the answer.")
        if not view.running:
            self._step = self._step_text = None

    def _draw_text(self, text: str, seams: Sequence[Seam]) -> None:
        shown = [seam for seam in seams if seam.at < min(len(text), SHOWN_CHARACTERS)]
        wanted = [
            block if block.cut is None else replace(block, text=_seam_line(shown[block.cut]))
            for block in blocks(text[:SHOWN_CHARACTERS], [seam.at for seam in shown])
        ]
        if len(text) > SHOWN_CHARACTERS:
            wanted.append(Block(text=f"*Only the first {SHOWN_CHARACTERS:,} characters are shown.*"))
        for position, block in enumerate(wanted):
            if position == len(self._places):
                self._places.append(self._body.empty())
                self._blocks.append(block)
            elif self._blocks[position] == block:
                continue
            self._blocks[position] = block
            _draw_block(self._places[position], block)
        for place in self._places[len(wanted) :]:
            place.empty()
        del self._places[len(wanted) :], self._blocks[len(wanted) :]


def _draw_block(place: DeltaGenerator, block: Block) -> None:
    if block.code:
        place.code(block.text, language=block.language)
    else:
        place.markdown(block.text, anchors=False)


def _seam_line(seam: Seam) -> str:
    who = f"{plain(seam.before)} broke off here, {plain(seam.after)} goes on"
    return f":small[:gray[─── :material/link: {who} ───]]"


def _asked(view: TurnView) -> str:
    """Return the name of the provider that was asked last."""
    return next(event.provider for event in reversed(view.events) if isinstance(event, AttemptStarted))


def _doing(event: AttemptStarted) -> str:
    if event.continues is not None:
        return "Going on with"
    match event.role:
        case Role.FIRST:
            return "Asking"
        case Role.RETRY:
            return "Asking once more:"
        case Role.FAILOVER:
            return "Falling back to"


def _failure_lines(event: AttemptFailed) -> str:
    told = reason(event.failure.kind)
    sentences = [text for text in (consequence(event), told.advice) if text]
    lines = [plain(" ".join(sentences))] if sentences else []
    words = f": {event.failure.message}" if event.failure.message else ""
    lines.append(f"{plain(failure_text(event.failure))} after {duration(event.duration_s)}{plain(words)}")
    return "  \n".join(lines)


def _headline(view: TurnView) -> str:
    """Return the one line that stands for all the steps."""
    failed = [event for event in view.events if isinstance(event, AttemptFailed)]
    names = list(dict.fromkeys(event.provider for event in failed))
    match view.state:
        case TurnState.RUNNING:
            return _progress(view, names)
        case TurnState.DONE if view.answer is not None:
            answer = view.answer
            if answer.seams:
                return f"{_listed(list(answer.providers))} answered together in {duration(answer.latency_s)}"
            told = f"{plain(answer.provider)} answered in {duration(answer.latency_s)}"
            others = [name for name in names if name != answer.provider]
            return f"{told} after {_listed(others)} failed" if others else told
        case TurnState.STOPPED:
            return f"Stopped after {duration(view.elapsed_s)}"
        case TurnState.BROKEN:
            return f"{_listed(names[-1:]) or 'The provider'} broke off after {duration(view.elapsed_s)}"
        case _:
            return "No answer" if not names else f"No answer: {_listed(names)} failed"


def _progress(view: TurnView, failed: list[str]) -> str:
    current = next((event for event in reversed(view.events) if isinstance(event, AttemptStarted)), None)
    if current is None:
        return ":shimmer[Choosing a provider]"
    clock = f":gray[{view.attempt_s:.0f} s]" if view.attempt_s >= 1 else ""
    name = plain(current.provider)
    if view.text:
        doing = "is answering" if current.continues is None else "goes on with the answer"
        return f":shimmer[{name} {doing}] {clock}"
    before = (
        f"{_listed([failed[-1]])} failed, asking" if failed and failed[-1] != current.provider else "Asking"
    )
    return f":shimmer[{before} {name}] {clock}"


def _listed(names: list[str]) -> str:
    shown = [plain(name) for name in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else ""


def show_question(question: str) -> None:
    """Draw what was asked, letter for letter."""
    with st.chat_message("user", avatar=":material/person:"):
        st.text(clean(question))


def show_account(view: TurnView) -> None:
    """Draw what stands under an answer: how it ended, by whom, how long, how much, and the activity log."""
    if view.state is TurnState.FAILED:
        _show_failure(view)
    for label, icon, color in _marks(view):
        st.badge(label, icon=icon, color=color)
    if view.state is TurnState.BROKEN and view.error is not None:
        st.caption(plain(no_answer(view.error).advice))
    facts = " · ".join(_facts(view))
    if facts:
        st.caption(facts)
    if view.log:
        with st.expander("Activity log", type="compact"):
            st.code(clean("\n".join(view.log)), language=None, wrap_lines=True)


def _show_failure(view: TurnView) -> None:
    with st.container(border=True, gap="xsmall"):
        if view.error is None:
            st.markdown("**Something went wrong inside the program.**")
            st.caption("Its output tells more. The question can be asked again.")
            return
        told = no_answer(view.error)
        st.markdown(f"**{plain(told.what)}**")
        st.markdown(plain(told.advice))
        st.caption(plain(str(view.error)))


def _marks(view: TurnView) -> Iterator[tuple[str, str, _Color]]:
    if view.state is TurnState.STOPPED:
        yield "stopped", ":material/stop_circle:", "gray"
    if view.state is TurnState.BROKEN:
        yield "incomplete: the provider broke off", ":material/link_off:", "orange"
    if view.answer is not None and view.answer.truncated:
        yield "cut by the token limit", ":material/content_cut:", "orange"
    if _degraded(view):
        yield DEGRADED_NOTE, ":material/offline_bolt:", "orange"


def _degraded(view: TurnView) -> bool:
    if view.answer is not None:
        return view.answer.degraded
    started = [event for event in view.events if isinstance(event, AttemptStarted)]
    return bool(view.text and started and started[-1].degraded)


def _facts(view: TurnView) -> Iterator[str]:
    answer = view.answer
    if answer is None:
        started = [event for event in view.events if isinstance(event, AttemptStarted)]
        if view.text and started:
            yield f"**{plain(started[-1].provider)}**"
            yield plain(started[-1].model)
            yield duration(view.elapsed_s)
        return
    yield f"**{' + '.join(map(plain, answer.providers))}**"
    yield plain(answer.model)
    if answer.time_to_first_token_s is not None:
        yield f"first words {duration(answer.time_to_first_token_s)}"
    yield f"total {duration(answer.latency_s)}"
    if answer.usage.total_tokens:
        about = "about " if answer.usage_estimated else ""
        yield f"{about}{answer.usage.input_tokens:,} + {answer.usage.output_tokens:,} tokens"
    yield plain(cost(answer.cost_usd))
