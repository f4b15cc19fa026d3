"""Streamed tool calls of providers that tell them otherwise than OpenAI does."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_api import ask, choice, chunk, provider_body, provider_stream, read, scripted

from fallback.providers.calls import CallOrder

Part = dict[str, Any]
TWO = [("weather", '{"city": "Tokyo"}'), ("time", '{"zone": "JST"}')]


def part(name: str | None, arguments: str, **more: Any) -> Part:
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    return {"function": function, **more}


def said(calls: list[Part]) -> list[tuple[str, str]]:
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


def put_together(chunks: list[dict[str, Any]]) -> list[Part]:
    """Do with the parts what OpenAI's clients do: id, type and name count once, arguments are appended at the index."""
    calls: dict[int, Part] = {}
    for told in (
        each for made in chunks for c in made["choices"] for each in c["delta"].get("tool_calls", ())
    ):
        function = told["function"]
        if told["index"] not in calls:
            assert set(told) == {"index", "id", "type", "function"}, (
                "the first part of a call tells all of it"
            )
            calls[told["index"]] = {"id": told["id"], "type": told["type"], "function": dict(function)}
            continue
        assert set(told) == {"index", "function"}, "what is said is not said again"
        assert set(function) == {"arguments"}
        calls[told["index"]]["function"]["arguments"] += function["arguments"]
    assert list(calls) == list(range(len(calls)))
    return list(calls.values())


STREAMS: dict[str, list[list[Part]]] = {
    "without an index": [[part(*call, id=call[0], type="function")] for call in TWO],
    "without an index, in one event": [[part(*call, id=call[0], type="function") for call in TWO]],
    "all with one index": [[part(*call, id=call[0], index=0)] for call in TWO],
    "all with one index, in pieces": [
        piece
        for name, text in TWO
        for piece in ([part(name, text[:5], id=name, index=0)], [part(None, text[5:], index=0)])
    ],
    "without an id": [[part(*call, index=index)] for index, call in enumerate(TWO)],
    "with an empty id": [[part(*call, index=index, id="")] for index, call in enumerate(TWO)],
    "without an id or an index": [[part(*call)] for call in TWO],
    "without an index, in pieces": [
        piece for name, text in TWO for piece in ([part(name, text[:5], id=name)], [part(None, text[5:])])
    ],
    "all of it in every piece": [
        [part(name, piece, id=name, index=index, type="function")]
        for index, (name, text) in enumerate(TWO)
        for piece in (text[:5], text[5:])
    ],
    "another id in every piece": [
        piece
        for index, (name, text) in enumerate(TWO)
        for piece in (
            [part(name, text[:5], id=f"{name}1", index=index)],
            [part(None, text[5:], id=f"{name}2", index=index)],
        )
    ],
    "numbered from elsewhere": [[part(*TWO[0], id="a", index=False)], [part(*TWO[1], id="b", index=-4)]],
}


@pytest.mark.parametrize("told", STREAMS.values(), ids=STREAMS)
def test_calls_come_in_the_form_of_openai(told: list[list[Part]]) -> None:
    def reply() -> Any:
        events = [chunk(choice({"tool_calls": parts})) for parts in told]
        return provider_stream(*events, chunk(choice({}, "tool_calls")))

    streamed = put_together(read(ask(scripted(reply()), stream=True).text).chunks)
    plain = ask(scripted(reply())).json()["choices"][0]["message"]["tool_calls"]
    for calls in (streamed, plain):
        assert said(calls) == TWO
        assert [call["type"] for call in calls] == ["function", "function"]
        assert len({call["id"] for call in calls}) == 2
        assert all(isinstance(call["id"], str) and call["id"] for call in calls)
        assert all("index" not in call for call in plain)


def test_a_whole_answer_without_ids_gets_some() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [part(*call) for call in TWO]}
    body = provider_body(choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}])
    calls = ask(scripted(body)).json()["choices"][0]["message"]["tool_calls"]
    assert said(calls) == TWO
    assert all(re.fullmatch("call_[0-9a-f]{24}", call["id"]) for call in calls)


def test_each_choice_has_calls_of_its_own() -> None:
    events = [
        chunk({"index": index, "delta": {"tool_calls": [part(*call, id="same", index=0)]}})
        for index, call in enumerate(TWO)
    ]
    ends = [
        chunk({"index": index, "delta": {}, "finish_reason": "tool_calls"}) for index, _ in enumerate(TWO)
    ]
    answer = ask(scripted(provider_stream(*events, *ends)), n=2).json()
    assert [said(each["message"]["tool_calls"]) for each in answer["choices"]] == [TWO[:1], TWO[1:]]


_parts = st.lists(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "index": st.sampled_from([0, 1, 5, -1, None, True, "0"]),
                "id": st.sampled_from(["a", "b", "", None, 7]),
                "type": st.sampled_from(["function", "custom", None]),
                "function": st.sampled_from([{"name": "f"}, {"name": "", "arguments": "1"}, None, 3]),
                "custom": st.just({"input": "x"}),
            },
        ),
        max_size=3,
    ),
    max_size=5,
)


@given(_parts)
def test_whatever_the_parts_say_each_gets_its_place(told: list[list[Part]]) -> None:
    order, begun = CallOrder(), set()
    for parts in told:
        placed = order.placed(parts)
        assert len(placed) == len(parts)
        for each in placed:
            assert type(each["index"]) is int
            assert each["index"] >= 0
            assert ("id" in each) == (each["index"] not in begun)
            begun.add(each["index"])
