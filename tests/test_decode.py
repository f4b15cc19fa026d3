"""Responses that hold an answer, streamed or in one body; those that hold none: test_decode_failures.py."""

from __future__ import annotations

import copy
import gzip
import itertools
import zlib
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import DONE, HTML, JSON, SSE, Read, body, chunk, event, text

from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.core.models import Usage
from fallback.providers.assemble import Assembly

RESET = TransportError(FailureKind.CONNECTION, Phase.BODY, "reset")
END = chunk(finish="stop") + DONE
USAGE = {"prompt_tokens": 45, "completion_tokens": 3, "total_tokens": 48}


def test_a_stream_is_put_together() -> None:
    read = Read([chunk({"role": "assistant", "content": ""}) + text("Hel", "lo"), END])
    assert read.text == "Hello"
    assert [piece.text for piece in read.pieces] == ["", "Hel", "lo", ""]
    assert [piece.substance for piece in read.pieces] == [False, True, True, False]
    assert read.decoded.choices[0].message == {"role": "assistant", "content": "Hello"}
    assert read.decoded.choices[0].finish_reason == "stop"
    assert read.decoded.response_model == "m"
    assert read.decoder.done


def test_one_body_is_an_answer_in_one_piece() -> None:
    read = Read([body("Hel"), b""], headers={**JSON, "x-request-id": "req_1"})
    assert read.text == "Hel"
    assert [piece.text for piece in read.pieces] == ["Hel"]
    assert read.decoded.provider_request_id == "req_1"
    assert read.decoder.done


@pytest.mark.parametrize("type_", ["application/json", "Application/JSON; charset=utf-8", "x/problem+json"])
def test_the_content_type_decides_and_not_what_was_asked_for(type_: str) -> None:
    assert Read([body()], headers={"content-type": type_}).text == "Hello"
    assert Read([text("Hello") + END], headers=SSE).text == "Hello"


def test_tool_calls_in_pieces_are_put_together_by_their_index() -> None:
    def call(index: int, **function: str) -> dict[str, object]:
        return {"index": index, "function": function}

    first = {"index": 0, "id": "call_a", "type": "function", "function": {"name": "look", "arguments": ""}}
    second = {"index": 1, "id": "call_b", "type": "function", "function": {"name": "find", "arguments": "{"}}
    read = Read(
        [
            chunk({"role": "assistant", "content": None, "tool_calls": [first]}),
            chunk({"tool_calls": [call(0, arguments='{"q":')]}),
            chunk({"tool_calls": [second, call(0, arguments="1}")]}),
            chunk({"tool_calls": [call(1, arguments="}")]}),
            chunk(finish="tool_calls"),
        ]
    )
    message = read.decoded.choices[0].message
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "call_a", "type": "function", "function": {"name": "look", "arguments": '{"q":1}'}},
        {"id": "call_b", "type": "function", "function": {"name": "find", "arguments": "{}"}},
    ]
    assert read.decoded.choices[0].finish_reason == "tool_calls"
    assert read.pieces[0].substance
    assert read.pieces[0].alive


def test_a_function_call_of_the_old_kind_is_put_together() -> None:
    parts: list[dict[str, str]] = [{"name": "look"}, {"arguments": "{"}, {"arguments": "}"}]
    read = Read([*(chunk({"function_call": part}) for part in parts), chunk(finish="function_call")])
    assert read.decoded.choices[0].message["function_call"] == {"name": "look", "arguments": "{}"}


def test_several_choices_are_told_apart_and_all_awaited() -> None:
    pieces = [chunk({"content": "b"}, index=1), chunk({"content": "a"}), chunk(finish="stop")]
    assert Read([*pieces, DONE]).failure.kind is FailureKind.STREAM_TRUNCATED
    read = Read([*pieces, chunk({"content": "!"}, finish="length", index=1), DONE])
    assert [(c.index, c.message["content"], c.finish_reason) for c in read.decoded.choices] == [
        (0, "a", "stop"),
        (1, "b!", "length"),
    ]
    assert "".join(piece.text for piece in read.pieces) == "a"


def test_reasoning_is_kept_apart_from_the_text_and_counts_as_life() -> None:
    read = Read([chunk({"reasoning": "Let "}), chunk({"reasoning": "me"}), text("Yes"), END])
    assert read.decoded.choices[0].message["reasoning"] == "Let me"
    assert read.text == "Yes"
    assert [(piece.alive, piece.substance) for piece in read.pieces[:3]] == [
        (True, False),
        (True, False),
        (True, True),
    ]


def test_logprobs_of_the_pieces_are_joined() -> None:
    read = Read(
        [
            chunk({"content": "a"}, logprobs={"content": [{"token": "a"}], "refusal": None}),
            chunk({"content": "b"}, logprobs={"content": [{"token": "b"}]}),
            END,
        ]
    )
    assert read.decoded.choices[0].logprobs == {"content": [{"token": "a"}, {"token": "b"}]}


def test_usage_that_is_sent_twice_counts_once() -> None:
    pieces = [text("Hi"), chunk(finish="stop", x_groq={"usage": USAGE}, usage=USAGE)]
    read = Read([*pieces, event({"choices": [], "usage": USAGE}), DONE])
    assert read.decoded.usage == Usage(input_tokens=45, output_tokens=3)


def test_usage_is_found_wherever_it_stands() -> None:
    details = {
        **USAGE,
        "completion_tokens_details": {"reasoning_tokens": 2},
        "prompt_tokens_details": {"cached_tokens": 40},
    }
    whole = Usage(input_tokens=45, output_tokens=3, reasoning_tokens=2, cached_tokens=40)
    assert Read([text("Hi"), chunk(finish="stop", x_groq={"usage": details})]).decoded.usage == whole
    assert Read([body(usage=details)], headers=JSON).decoded.usage == whole
    assert Read([body(usage=None)], headers=JSON).decoded.usage == Usage()
    assert (
        Read([body(usage={"prompt_tokens": -1, "completion_tokens": "3"})], headers=JSON).decoded.usage
        == Usage()
    )


def test_an_answer_that_its_budget_ended_is_an_answer_even_without_text() -> None:
    read = Read([chunk({"reasoning": "hm"}), chunk(finish="length")])
    assert (read.text, read.decoded.choices[0].finish_reason) == ("", "length")
    assert Read([body("", finish="length")], headers=JSON).text == ""


def test_a_refusal_in_words_is_an_answer() -> None:
    read = Read([chunk({"refusal": "I will "}), chunk({"refusal": "not"}), END])
    assert read.decoded.choices[0].message["refusal"] == "I will not"


def test_malformed_events_of_a_good_stream_are_skipped_and_counted() -> None:
    bad = [
        b"{",
        b"\xff",
        b"",
        b"[]",
        b"7",
        b'"x"',
        b'{"choices":7}',
        b'{"choices":[7]}',
        b'{"choices":[{"delta":7}]}',
    ]
    bad += [b'{"choices":[{"delta":{"tool_calls":[7]}}]}', b'{"a":1e999}'[:-1]]
    read = Read([text("Hel"), *(event(data) for data in bad), text("lo"), END])
    assert read.text == "Hello"
    assert read.decoded.skipped_events == len(bad)


def test_what_is_no_part_of_the_answer_is_passed_over() -> None:
    read = Read([b": keep-alive\n\n", event({"type": "ping"}), event({"choices": []}), text("Hi"), END])
    assert read.text == "Hi"
    assert read.decoded.skipped_events == 0


@pytest.mark.parametrize("done", [DONE, b"data:[DONE]\n\n", b"data: [DONE] \r\n\r\n"])
def test_after_done_nothing_counts_any_more(done: bytes) -> None:
    read = Read([text("Hi") + chunk(finish="stop") + done, text("more"), event({"error": "late"})])
    assert read.text == "Hi"
    assert read.decoder.done


@pytest.mark.parametrize("broken", [RESET, TransportError(FailureKind.TIMEOUT, Phase.BODY, "silence")])
def test_once_every_choice_is_finished_a_broken_line_does_no_harm(broken: TransportError) -> None:
    read = Read([text("Hi"), chunk(finish="stop")], broken=broken)
    assert read.text == "Hi"
    assert read.decoder.settled


def test_an_end_without_done_is_an_end() -> None:
    assert Read([text("Hi"), chunk(finish="stop")]).text == "Hi"
    assert Read([text("Hi"), chunk(finish="stop")[:-2]]).text == "Hi"
    assert Read([text("Hi"), chunk(finish="stop") + b"data: [DONE]"]).text == "Hi"


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_a_compressed_body_is_unpacked_though_nobody_asked_for_it(encoding: str, pack: object) -> None:
    assert callable(pack)
    headers = {**SSE, "content-encoding": encoding}
    packed = pack(text("Hel", "lo") + END)
    assert Read([packed[at : at + 1] for at in range(len(packed))], headers=headers).text == "Hello"
    assert Read([pack(body())], headers={**JSON, "content-encoding": encoding.upper()}).text == "Hello"


def test_what_is_left_of_a_rate_limit_is_read_on_success() -> None:
    headroom = Read([body()], headers={**JSON, "x-ratelimit-remaining-requests": "7"}).decoded.headroom
    assert headroom is not None
    assert headroom.remaining_requests == 7


def test_the_legacy_answer_of_together_is_understood() -> None:
    legacy = {"model": "x", "output": {"choices": [{"text": "Hello"}], "usage": USAGE}}
    read = Read([orjson.dumps(legacy)], headers=JSON, together=True)
    assert (read.text, read.decoded.response_model, read.decoded.usage.input_tokens) == ("Hello", "x", 45)
    assert Read([body()], headers=JSON, together=True).text == "Hello"
    assert Read([orjson.dumps(legacy)], headers=JSON).failure.kind is FailureKind.EMPTY_RESPONSE


RECORDED = b"".join(
    [
        b"\xef\xbb\xbf: hello\r\n\r\n",
        chunk({"role": "assistant", "content": "\u00e9\U0001f600"}).replace(b"\n", b"\r\n"),
        event(b"{broken"),
        chunk({"reasoning": "r"}),
        chunk({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}).replace(b"\n", b"\r"),
        chunk({"content": " text"}, logprobs={"content": [1]}),
        chunk(finish="tool_calls", usage=USAGE),
        DONE,
        text("after"),
    ]
)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, len(RECORDED)), max_size=20),
    st.booleans(),
    st.sampled_from([len(RECORDED), len(RECORDED) // 2, len(RECORDED) // 3, 10]),
)
def test_any_split_of_a_stream_gives_the_same_answer_or_failure(
    cuts: list[int], packed: bool, length: int
) -> None:
    whole = RECORDED[:length]
    headers = SSE
    if packed:
        whole, headers = gzip.compress(whole, mtime=0), {**SSE, "content-encoding": "gzip"}
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    split = [whole[a:b] for a, b in itertools.pairwise(edges)]
    once, often = Read([whole], headers=headers), Read(split, headers=headers)
    assert often.result == once.result
    assert often.pieces == once.pieces
    assert (length == len(RECORDED)) == (not hasattr(once.result, "kind"))


def test_a_page_is_no_answer_even_if_it_holds_one() -> None:
    assert Read([body()], headers=HTML).failure.kind is FailureKind.MALFORMED_RESPONSE


# What nearly every chunk looks like takes a shorter way, to the same end.

_deltas = st.fixed_dictionaries(
    {},
    optional={
        "content": st.sampled_from(["", "a", "b ", None, 7]),
        "role": st.just("assistant"),
        "reasoning": st.just("hm"),
        "tool_calls": st.just([{"index": 0, "id": "c", "function": {"name": "look", "arguments": "{}"}}]),
    },
)
_choices = st.fixed_dictionaries(
    {"delta": st.just({"content": "text"}) | _deltas | st.none()},
    optional={
        "index": st.sampled_from([0, 1, None, False, 0.0]),
        "finish_reason": st.sampled_from([None, "", "stop", 3]),
        "logprobs": st.sampled_from([None, {"content": [{"token": "a"}]}]),
    },
)
_chunks = st.fixed_dictionaries(
    {"choices": st.lists(_choices, max_size=2) | st.none()},
    optional={
        "model": st.sampled_from(["one", "another", 5]),
        "usage": st.sampled_from([None, USAGE]),
        "x_groq": st.sampled_from([None, {"usage": USAGE}]),
    },
)


@given(chunks=st.lists(_chunks, min_size=1, max_size=6))
def test_the_short_way_of_a_chunk_leads_where_the_long_one_does(chunks: list[dict[str, Any]]) -> None:
    class LongWay(Assembly):
        def _more_text(self, chunk: Mapping[str, Any]) -> None:
            pass

    def outcome(assembly: Assembly) -> list[object]:
        told: list[object] = []
        for each in copy.deepcopy(chunks):
            try:
                told.append(assembly.take_chunk(each))
            except ValueError:
                told.append(ValueError)
        return [*told, assembly.choices(), assembly.usage, assembly.model, assembly.settled, assembly.blank]

    assert outcome(Assembly()) == outcome(LongWay())
