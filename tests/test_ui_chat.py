"""The Chat page, driven as a browser would drive it, with the stand-in behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Block

from fallback.activity import DEGRADED_NOTE
from fallback.config import load
from fallback.router import ModelRouter, get_router, set_router
from fallback.standin import Fault, StandInThread, Tenant
from fallback.ui import chat
from fallback.ui.conversations import Conversation, Conversations
from fallback.ui.turns import Options, Turn, TurnState
from fallback.wiring import assemble

FRAME = str(Path(__file__).resolve().parents[1] / "fallback/ui/frame.py")
LIMITED = Fault(kind="status", status=429, retry_after="300")
BOUND_S = 20.0
"""How long anything may take before the test gives up."""

Start = Callable[..., ModelRouter]


@pytest.fixture
def standin() -> Iterator[StandInThread]:
    with StandInThread() as running:
        running.tenant("groq_llama", dialect="groq", text="Tokyo, says Groq.")
        running.tenant("together_llama", dialect="together", text="Tokyo, says Together.")
        yield running


@pytest.fixture
def start(tmp_path: Path, standin: StandInThread) -> Iterator[Start]:
    """Give a function that sets the program's router up, from these lines of `providers:`, or from the usual two."""
    routers: list[ModelRouter] = []

    def begin(*lines: str) -> ModelRouter:
        groq, together = standin.tenant("groq_llama").url, standin.tenant("together_llama").url
        price = "input_usd_per_1m: 100, output_usd_per_1m: 100"
        usual = (
            f"{{name: groq_llama, type: groq, endpoint: '{groq}', model: small, priority: 1, {price}}}",
            f"{{name: together_llama, type: together, endpoint: '{together}', model: large, priority: 2}}",
        )
        file = tmp_path / "providers.yaml"
        text = "".join(f"  - {line}\n" for line in lines or usual)
        file.write_text(f"providers:\n{text}routing: {{retries: 0, idle_timeout_s: 5}}\n")
        # Not started: an embedded model would look for its weights, and say what it finds, in its own time.
        router = ModelRouter(assemble(load(file, environ={})))
        routers.append(router)
        set_router(router)
        return router

    chat.conversations.clear()
    yield begin
    for conversation in list(chat.conversations()._by_id.values()):
        conversation.stop()
        assert all(turn.wait_ended(BOUND_S) for turn in conversation.turns)
    set_router(None)
    for router in routers:
        router.close()
        router.wiring.close()


def opened(**query: str) -> AppTest:
    page = AppTest.from_file(FRAME, default_timeout=BOUND_S)
    for name, value in query.items():
        page.query_params[name] = value
    return checked(page.run())


def checked(page: AppTest) -> AppTest:
    assert not page.exception
    return page


def ask(page: AppTest, question: str) -> AppTest:
    return checked(page.chat_input[0].set_value(question).run())


def shown(page: AppTest | Block) -> str:
    """Return every text on the page, without the marks that plain() puts before punctuation."""
    found: list[str] = []
    for kind in ("title", "markdown", "caption", "text", "code", "status", "expander"):
        found += [
            str(getattr(element, "label", "") or getattr(element, "value", "")) for element in page.get(kind)
        ]
    return "\n".join(found).replace("\\", "")


def bodies(tenant: Tenant) -> list[Any]:
    return [request.body for request in tenant.last_requests]


def test_the_first_page_suggests_questions_and_shows_the_order(start: Start) -> None:
    start()
    page = opened()
    assert "What would you like to know?" in shown(page)
    assert "groq_llama" in shown(page)
    assert page.chat_input[0].placeholder == "Ask anything"
    assert page.button(key="chat_new").disabled
    assert page.button(key="chat_regenerate").disabled


def test_a_question_is_answered_with_the_account_of_it(start: Start) -> None:
    start()
    page = ask(opened(), "Capital of *Japan*?")
    assert page.chat_message[0].text[0].value == "Capital of *Japan*?"
    assert "Tokyo, says Groq." in shown(page.chat_message[1])
    account = shown(page)
    assert "**groq_llama** · small · first words" in account
    assert "tokens · $0.00" in account
    assert "Successfully generated response using groq_llama" in account
    assert page.status[0].state == "complete"
    assert "What would you like to know?" not in account


def test_a_suggestion_is_a_question(start: Start, standin: StandInThread) -> None:
    start()
    page = opened()
    checked(page.button(key="chat_suggestion_0").click().run())
    question = chat.SUGGESTIONS[0][1]
    assert page.chat_message[0].text[0].value == question
    assert bodies(standin.tenant("groq_llama"))[0]["messages"][-1]["content"] == question


def test_a_failover_is_shown_step_by_step(start: Start, standin: StandInThread) -> None:
    start()
    standin.tenant("groq_llama").always(LIMITED)
    page = ask(opened(), "Capital of Japan?")
    whole, first, second = page.status
    assert whole.label.replace("\\", "").startswith("together_llama answered in")
    assert "after groq_llama failed" in whole.label.replace("\\", "")
    assert (first.label.replace("\\", ""), first.state) == ("**groq_llama** is rate limited", "error")
    assert "Left alone for 5 min." in shown(first)
    assert "rate_limited (HTTP 429)" in shown(first)
    assert (second.state, "answered with" in second.label) == ("complete", True)
    assert page.status[0].proto.expanded
    log = page.code[-1].value
    assert "groq_llama is disabled for 5." in log
    assert "Invoking together_llama as fallback..." in log
    assert "cost unknown" in shown(page)


def test_a_provider_that_cools_down_is_skipped_quietly(start: Start, standin: StandInThread) -> None:
    start()
    standin.tenant("groq_llama").always(LIMITED)
    page = ask(ask(opened(), "One?"), "Two?")
    skipped = [label for label in (e.label.replace("\\", "") for e in page.expander) if "skipped" in label]
    assert len(skipped) == 1
    assert skipped[0].startswith(":gray[groq_llama skipped: cooling down for")
    assert not page.status[-2].proto.expanded
    assert standin.tenant("groq_llama").counters.requests == 1


def test_when_nobody_answers_a_card_says_what_to_do(start: Start, standin: StandInThread) -> None:
    start()
    for name in ("groq_llama", "together_llama"):
        standin.tenant(name).always(Fault(kind="status", status=503))
    page = ask(opened(), "Capital of Japan?")
    account = shown(page)
    assert page.status[0].state == "error"
    assert "No answer: groq_llama and together_llama failed" in account
    assert "**No provider could answer.**" in account
    assert "together_llama is overloaded" in account.replace("**", "")
    assert "No answer: all providers failed" in page.code[-1].value


def test_a_failed_question_is_not_told_to_anyone_again(start: Start, standin: StandInThread) -> None:
    start()
    groq = standin.tenant("groq_llama")
    standin.tenant("together_llama").always(Fault(kind="status", status=400))
    groq.play(Fault(kind="status", status=400))
    page = ask(ask(opened(), "One?"), "Two?")
    assert "Tokyo, says Groq." in shown(page)
    assert [message["content"] for message in bodies(groq)[-1]["messages"]] == ["Two?"]


def test_a_broken_stream_keeps_its_text_and_says_so(start: Start, standin: StandInThread) -> None:
    start()
    standin.tenant("groq_llama", words=60).always(Fault(kind="cut", after_words=2, ending="reset"))
    get_router().set_enabled("together_llama", False)
    page = ask(opened(), "Capital of Japan?")
    account = shown(page)
    assert "Tokyo, says" in account
    assert "incomplete: the provider broke off" in account
    assert "groq_llama broke off after" in account
    assert "What had arrived is kept." in account


def test_an_answer_of_two_providers_shows_where_one_went_on(start: Start, standin: StandInThread) -> None:
    start()
    text = "Tokyo is the capital of Japan."
    groq, together = standin.tenant("groq_llama"), standin.tenant("together_llama")
    groq.configure(text=text)
    together.configure(text=text)
    groq.always(Fault(kind="cut", after_words=3, ending="reset"))
    page = ask(opened(), "Capital of Japan?")
    drawn = [block.value for block in page.chat_message[1].markdown]
    seam = next(place for place, value in enumerate(drawn) if "broke off here" in value)
    assert "groq\\_llama broke off here, together\\_llama goes on" in drawn[seam]
    assert (drawn[seam - 1], drawn[seam + 1]) == ("Tokyo is the", "capital of Japan.")
    account = shown(page)
    assert "groq_llama and together_llama answered together in" in account
    assert "**together_llama** finished the answer with" in account
    assert "incomplete" not in account
    ask(page, "And of France?")
    assert bodies(together)[-1]["messages"][1]["content"] == text


def test_an_answer_cut_by_the_token_limit_is_marked(start: Start, standin: StandInThread) -> None:
    start()
    page = opened()
    page.number_input(key="chat_max_tokens").set_value(1)
    assert "cut by the token limit" in shown(ask(page, "Capital of Japan?"))


def test_the_conversation_is_told_with_every_question(start: Start, standin: StandInThread) -> None:
    start()
    page = opened()
    page.text_area(key="chat_system").set_value("Be brief.")
    ask(ask(page, "One?"), "Two?")
    said = [(m["role"], m["content"]) for m in bodies(standin.tenant("groq_llama"))[-1]["messages"]]
    assert said == [
        ("system", "Be brief."),
        ("user", "One?"),
        ("assistant", "Tokyo, says Groq."),
        ("user", "Two?"),
    ]


def test_the_options_reach_the_provider_that_was_chosen(start: Start, standin: StandInThread) -> None:
    start()
    page = opened()
    page.selectbox(key="chat_model").set_value("together_llama")
    page.number_input(key="chat_temperature").set_value(0.3)
    page.number_input(key="chat_max_tokens").set_value(77)
    page = ask(page, "Capital of Japan?")
    assert "Tokyo, says Together." in shown(page)
    sent = bodies(standin.tenant("together_llama"))[0]
    assert (sent["temperature"], sent["max_tokens"]) == (0.3, 77)
    assert standin.tenant("groq_llama").counters.requests == 0


def test_regenerate_replaces_the_last_answer_and_asks_with_the_options_of_now(
    start: Start, standin: StandInThread
) -> None:
    start()
    page = ask(ask(opened(), "One?"), "Two?")
    standin.tenant("groq_llama").configure(text="Kyoto, once.")
    page.number_input(key="chat_temperature").set_value(1.5)
    checked(page.button(key="chat_regenerate").click().run())
    assert len(page.chat_message) == 4
    assert "Kyoto, once." in shown(page.chat_message[3])
    sent = bodies(standin.tenant("groq_llama"))[-1]
    assert sent["temperature"] == 1.5
    assert [message["content"] for message in sent["messages"]] == ["One?", "Tokyo, says Groq.", "Two?"]


def test_a_reload_finds_the_conversation_and_its_options(start: Start) -> None:
    start()
    page = opened()
    page.text_area(key="chat_system").set_value("Be brief.")
    ask(page, "Capital of Japan?")
    again = opened(c=page.query_params["c"])
    assert "Tokyo, says Groq." in shown(again)
    assert again.text_area(key="chat_system").value == "Be brief."


def test_a_new_chat_begins_empty_and_leaves_the_old_one_where_it_was(start: Start) -> None:
    start()
    page = ask(opened(), "Capital of Japan?")
    old = page.query_params["c"]
    checked(page.button(key="chat_new").click().run())
    assert len(page.chat_message) == 0
    assert "c" not in page.query_params
    ask(page, "And of France?")
    assert page.query_params["c"] != old
    assert len(opened(c=old).chat_message) == 2


def test_an_unknown_conversation_is_told_of_and_its_id_not_taken_over(start: Start) -> None:
    start()
    page = opened(c="chosen-by-somebody")
    assert "no longer kept" in shown(page)
    ask(page, "Capital of Japan?")
    assert page.query_params["c"] != "chosen-by-somebody"
    assert len(page.query_params["c"]) >= 22


def test_markdown_of_a_model_loads_nothing(start: Start, standin: StandInThread) -> None:
    start()
    hostile = "![x](https://example.org/x.png)\n```rust\nvec![1]\n```\n"
    standin.tenant("groq_llama").configure(text=hostile)
    page = ask(opened(), "Go on?")
    assert all("![" not in element.value for element in page.markdown)
    assert page.code[0].value == "vec![1]"


def test_words_of_a_provider_are_shown_and_not_read_as_markup(start: Start, standin: StandInThread) -> None:
    start()
    body = '{"error": {"message": "![x](https://example.org/x.png) :red[no]", "code": "rate_limit_exceeded"}}'
    standin.tenant("groq_llama").always(Fault(kind="status", status=429, body=body))
    page = ask(opened(), "Capital of Japan?")
    assert all("![" not in element.value and ":red[" not in element.value for element in page.caption)
    assert "![x](https://example.org/x.png)" in shown(page)


def test_without_a_key_a_note_says_where_keys_go_until_it_is_read(start: Start) -> None:
    url = "https://provider.invalid/v1/chat/completions"
    router = start(
        f"{{name: groq_llama, type: groq, endpoint: '{url}', model: m, priority: 1}}",
        f"{{name: groq_other, type: groq, endpoint: '{url}', model: n, priority: 2}}",
        f"{{name: together_llama, type: together, endpoint: '{url}', model: o, priority: 3}}",
        "{name: local_smollm, type: local, model: SmolLM2, priority: 4, model_path: missing.gguf}",
    )
    router.context.roster.set_unavailable("local_smollm", None)
    page = opened()
    assert "so the small model inside this program answers" in shown(page)
    assert "`GROQ_API_KEY` or `TOGETHER_LLAMA_API_KEY`" in shown(page)
    router.context.roster.set_unavailable("local_smollm", "libgomp1 is missing")
    assert "the embedded model cannot run:** libgomp1 is missing." in shown(checked(page.run()))
    checked(page.button(key="chat_notice").click().run())
    assert "No API key is set" not in shown(page)


def test_with_a_provider_that_may_be_asked_there_is_no_note(start: Start) -> None:
    start()
    assert "No API key is set" not in shown(opened())


def draw_an_answer_of_the_embedded_model() -> None:
    from fallback.core.models import Answer, AttemptReport, Choice, Role, Usage
    from fallback.ui.answer import Drawing, show_account
    from fallback.ui.turns import Options, TurnState, TurnView

    choice = Choice(index=0, message={"role": "assistant", "content": "Tokyo"}, finish_reason="stop")
    report = AttemptReport(number=1, role=Role.FIRST, provider="embedded", model="m", outcome="ok")
    answer = Answer(
        request_id="r",
        choices=(choice,),
        provider="embedded",
        model="m",
        usage=Usage(input_tokens=3, output_tokens=4),
        cost_usd=0.0,
        latency_s=2.0,
        time_to_first_token_s=0.5,
        attempts=(report,),
        activity_log=(),
        degraded=True,
    )
    view = TurnView(
        question="?",
        options=Options(),
        state=TurnState.DONE,
        text="Tokyo",
        events=(),
        log=(),
        elapsed_s=2.0,
        attempt_s=2.0,
        answer=answer,
    )
    Drawing(latest=True).show(view)
    show_account(view)


def test_an_answer_of_the_embedded_model_is_marked() -> None:
    page = checked(AppTest.from_function(draw_an_answer_of_the_embedded_model).run(timeout=BOUND_S))
    assert DEGRADED_NOTE in shown(page)
    assert "**embedded** · m · first words 0.50 s · total 2.0 s · 3 + 4 tokens · free" in shown(page)


# Turns and conversations, without a page.


class Gate:
    """Lets a stand-in answer only when told to."""

    def __init__(self, text: str = "late") -> None:
        self.asked, self.open = Event(), Event()
        self.text = text

    def __call__(self, _: Any) -> str:
        self.asked.set()
        assert self.open.wait(BOUND_S)
        return self.text


def stalled(standin: StandInThread) -> None:
    """Make the first provider send some words and then nothing more."""
    standin.tenant("groq_llama").configure(text="one two three four five six")
    standin.tenant("groq_llama").always(Fault(kind="stall", after_words=3, seconds=BOUND_S))


def text_arrives(turn: Turn) -> None:
    seen = -1
    for _ in range(100):
        if "one two" in turn.view().text:
            return
        seen = turn.wait(seen, BOUND_S / 100)
    raise AssertionError("no text came")


def test_stop_keeps_the_text_and_closes_the_call_upstream(start: Start, standin: StandInThread) -> None:
    router = start()
    stalled(standin)
    turn = Turn("Go on?", Options())
    turn.start(router, [])
    text_arrives(turn)
    turn.stop()
    assert turn.wait_ended(2.0)
    view = turn.view()
    assert view.state is TurnState.STOPPED
    assert view.text.startswith("one two")
    assert view.log[-1] == "Stopped"
    assert [message["content"] for message in turn.messages()] == ["Go on?", view.text]


def test_what_was_stopped_is_shown_as_stopped_when_the_page_comes_back(
    start: Start, standin: StandInThread
) -> None:
    router = start()
    stalled(standin)
    conversation = chat.conversations().create()
    conversation.ask(router, "Go on?", Options())
    text_arrives(conversation.turns[0])
    conversation.stop()
    assert conversation.turns[0].wait_ended(2.0)
    page = opened(c=conversation.id)
    assert "stopped" in shown(page)
    assert "one two" in shown(page)
    steps = {element.label.replace("\\", ""): element.state for element in page.status}
    assert steps["**groq_llama** was stopped"] == "error", "a step that was not finished has a tick"
    assert not page.button(key="chat_regenerate").disabled


def test_a_page_that_comes_back_follows_the_answer_under_way(start: Start, standin: StandInThread) -> None:
    router = start()
    gate = Gate("Tokyo, at last.")
    standin.tenant("groq_llama").configure(reply=lambda asked: _in_thread(gate, asked))
    conversation = chat.conversations().create()
    conversation.ask(router, "Go on?", Options())
    assert gate.asked.wait(BOUND_S)
    gate.open.set()
    page = opened(c=conversation.id)
    assert "Tokyo, at last." in shown(page)
    assert page.status[0].state == "complete"


async def _in_thread(gate: Gate, asked: Any) -> str:
    import asyncio

    return await asyncio.to_thread(gate, asked)


def test_stop_before_the_first_word_leaves_nothing_to_tell(start: Start, standin: StandInThread) -> None:
    router = start()
    standin.tenant("groq_llama").always(Fault(kind="hang", seconds=BOUND_S))
    turn = Turn("Go on?", Options())
    turn.start(router, [])
    turn.wait(0, BOUND_S)
    turn.stop()
    assert turn.wait_ended(2.0)
    assert turn.view().state is TurnState.STOPPED
    assert turn.messages() == ()


def test_a_second_question_waits_for_the_first_answer(start: Start, standin: StandInThread) -> None:
    router = start()
    stalled(standin)
    conversation = Conversation()
    assert conversation.ask(router, "One?", Options())
    assert not conversation.ask(router, "Two?", Options())
    assert not conversation.regenerate(router, Options())
    conversation.stop()
    assert conversation.turns[0].wait_ended(2.0)
    assert conversation.regenerate(router, Options())
    assert [turn.question for turn in conversation.turns] == ["One?"]
    conversation.stop()
    assert conversation.turns[0].wait_ended(2.0)


def test_two_tabs_that_ask_at_once_begin_one_answer(start: Start, standin: StandInThread) -> None:
    import threading

    router = start()
    stalled(standin)
    conversation = Conversation()
    both = Barrier(2)
    began: list[bool] = []

    def tab() -> None:
        both.wait(BOUND_S)
        began.append(conversation.ask(router, "One?", Options()))

    tabs = [threading.Thread(target=tab) for _ in range(2)]
    for thread in tabs:
        thread.start()
    for thread in tabs:
        thread.join(BOUND_S)
    assert sorted(began) == [False, True]
    conversation.stop()
    assert conversation.turns[0].wait_ended(2.0)


def test_wrong_options_fail_the_turn_with_what_to_change(start: Start) -> None:
    turn = Turn("Go on?", Options(model="nobody"))
    turn.start(start(), [])
    assert turn.wait_ended(BOUND_S)
    view = turn.view()
    assert view.state is TurnState.FAILED
    assert "model 'nobody' does not exist here" in view.log[0]


def test_a_router_that_closes_ends_the_turn(start: Start, standin: StandInThread) -> None:
    router = start()
    stalled(standin)
    turn = Turn("Go on?", Options())
    turn.start(router, [])
    text_arrives(turn)
    router.close()
    assert turn.wait_ended(2.0)
    assert turn.view().state is not TurnState.DONE
    assert turn.view().text.startswith("one two")


def test_the_oldest_conversation_goes_when_there_are_too_many() -> None:
    kept = Conversations(max_conversations=3)
    first, second, third = (kept.create() for _ in range(3))
    assert kept.find(first.id) is first
    kept.create()
    assert kept.find(second.id) is None
    assert kept.find(first.id) is first
    assert kept.find(third.id) is third
    assert len(kept) == 3


def test_the_oldest_conversation_goes_when_they_hold_too_much(start: Start) -> None:
    router = start()
    kept = Conversations(max_characters=1000)
    old, new = kept.create(), kept.create()
    for conversation in (old, new):
        conversation.ask(router, "x" * 900, Options())
        assert conversation.turns[0].wait_ended(BOUND_S)
    kept.trim()
    assert kept.find(old.id) is None
    assert kept.find(new.id) is new


def test_ids_cannot_be_guessed() -> None:
    kept = Conversations()
    ids = {kept.create().id for _ in range(100)}
    assert len(ids) == 100
    assert all(len(conversation_id) >= 22 for conversation_id in ids)
