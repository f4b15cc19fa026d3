"""The API under /v1: OpenAI's shapes to the letter, whatever the providers do and whatever comes in."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shlex
import socket
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from openai_api import (
    CONFIG,
    HELLO,
    JSON,
    KEY,
    PATH,
    TOOLS,
    application,
    ask,
    choice,
    chunk,
    provider_body,
    provider_stream,
    read,
    scripted,
    scripted_app,
    serving,
)
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message

from fallback.api import Program
from fallback.api.closing import Closing
from fallback.api.middleware import Envelope
from fallback.api.openai import errors as errors_module
from fallback.api.openai import wanted as wanted_module
from fallback.api.openai.chunks import Chunks
from fallback.api.openai.completion import completion_object, completion_reply
from fallback.api.openai.wanted import DEADLINE_HEADER
from fallback.api.routes import routes
from fallback.core.models import Answer, AttemptReport, Choice, Role, Usage
from fallback.router import AsyncModelRouter, get_router
from fallback.standin import Fault, StandInThread
from fallback.testing import FakeClock, Reply, Script

MAX_BODY_BYTES = 1024 * 1024
DOCS = Path(__file__).parents[1] / "docs" / "http.md"


@pytest.fixture
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        server.tenant("groq_llama", dialect="groq", text="Tokyo is the capital.")
        server.tenant("together_llama", dialect="together", text="Tokyo is the capital.")
        yield server


@pytest.fixture
def config(standin: StandInThread, tmp_path: Path) -> Path:
    file = tmp_path / "providers.yaml"
    file.write_text(CONFIG.format(base=standin.base_url))
    (tmp_path / ".env").write_text(f"TEST_GROQ_KEY={KEY}\n")
    return file


@pytest.fixture
def client(config: Path) -> Iterator[TestClient]:
    with TestClient(application(Program(config))) as client:
        yield client


def asked(standin: StandInThread) -> int:
    return sum(standin.tenant(name).counters.requests for name in ("groq_llama", "together_llama"))


def everywhere(standin: StandInThread, fault: Fault) -> None:
    for name in ("groq_llama", "together_llama"):
        standin.tenant(name).always(fault)


# A plain answer


def test_plain_answer_has_openais_shape(client: TestClient) -> None:
    reply = ask(client)
    body = reply.json()
    request_id = reply.headers["x-request-id"]
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["content-length"] == str(len(reply.content))
    assert list(body) == ["id", "object", "created", "model", "choices", "usage", "fallback"]
    assert body["id"] == f"chatcmpl-{request_id.removeprefix('req_')}"
    assert (body["object"], body["model"]) == ("chat.completion", "model-a")
    assert body["created"] > 1_700_000_000
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Tokyo is the capital.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    usage = body["usage"]
    assert set(usage) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert usage["completion_tokens"] == 4
    assert usage["total_tokens"] == usage["prompt_tokens"] + 4 > 4


def test_answer_tells_how_it_came_about(client: TestClient, standin: StandInThread) -> None:
    standin.tenant("groq_llama").always(Fault(kind="status", status=503))
    reply = ask(client)
    body = reply.json()
    account = body["fallback"]
    assert body["model"] == account["model"] == "vendor/model-b"
    assert {name: reply.headers[name] for name in reply.headers if name.startswith("x-fallback")} == {
        "x-fallback-provider": "together_llama",
        "x-fallback-attempts": "2",
        "x-fallback-degraded": "false",
    }
    assert account["request_id"] == reply.headers["x-request-id"]
    assert (account["provider"], account["providers"]) == ("together_llama", ["together_llama"])
    assert (account["seams"], account["degraded"]) == ([], False)
    assert [(each["provider"], each["outcome"]) for each in account["attempts"]] == [
        ("groq_llama", "overloaded"),
        ("together_llama", "ok"),
    ]
    assert "Error with groq_llama: overloaded (HTTP 503)" in account["activity_log"]


def degraded() -> Answer:
    report = AttemptReport(number=1, role=Role.FIRST, provider="local_smollm", model="small", outcome="ok")
    return Answer(
        request_id="req_1",
        choices=(Choice(index=0, message={"role": "assistant", "content": "Tokyo"}, finish_reason="stop"),),
        provider="local_smollm",
        model="small",
        usage=Usage(),
        cost_usd=0.0,
        latency_s=1.0,
        time_to_first_token_s=None,
        attempts=(report,),
        activity_log=(),
        degraded=True,
    )


def test_degraded_answer_says_so() -> None:
    account = completion_object(degraded())["fallback"]
    assert (account["degraded"], account["note"]) == (True, "small offline model, may be wrong")
    assert completion_reply(degraded()).headers["x-fallback-degraded"] == "true"


def test_usage_has_the_details_that_a_provider_told() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    message = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    body = ask(scripted(provider_body(choices=[message], usage=usage))).json()
    assert body["usage"] == {**usage, "total_tokens": 14}


def test_tool_calls_and_foreign_words_are_brought_into_shape() -> None:
    call = {"id": "call_1", "function": {"name": "weather", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body = ask(
        scripted(provider_body(choices=[{"index": 0, "message": message, "finish_reason": "tool_use"}]))
    ).json()
    assert body["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [{**call, "type": "function"}],
    }
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    eos = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "eos"}
    assert ask(scripted(provider_body(choices=[eos]))).json()["choices"][0]["finish_reason"] == "stop"


def test_every_choice_and_its_logprobs_are_passed_on() -> None:
    logprobs = {"content": [{"token": "Hi", "logprob": -0.1, "bytes": None, "top_logprobs": []}]}
    choices = [
        {
            "index": number,
            "message": {"role": "assistant", "content": f"Hi {number}"},
            "finish_reason": reason,
            "logprobs": logprobs,
        }
        for number, reason in enumerate(("stop", "length"))
    ]
    body = ask(scripted(provider_body(choices=choices)), n=2).json()
    assert [
        (each["index"], each["message"]["content"], each["finish_reason"]) for each in body["choices"]
    ] == [
        (0, "Hi 0", "stop"),
        (1, "Hi 1", "length"),
    ]
    assert [each["logprobs"] for each in body["choices"]] == [logprobs, logprobs]


# What is asked of the provider


def test_every_parameter_reaches_the_provider_known_or_not(
    client: TestClient, standin: StandInThread
) -> None:
    passed = {
        "temperature": 0.25,
        "top_p": 0.9,
        "max_completion_tokens": 3,
        "stop": ["\n"],
        "seed": 7,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 2,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"50256": -100},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
        "tools": TOOLS,
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "user": "somebody",
        "metadata": {"a": "b"},
        "of_tomorrow": [{"deep": 1.5}],
    }
    assert ask(client, model="groq_llama", stop_token=None, **passed).status_code == 200
    sent = standin.tenant("groq_llama").last_requests[0].body
    assert {name: sent[name] for name in passed} == passed
    assert (sent["model"], sent["messages"]) == ("model-a", HELLO)
    assert not {"max_tokens", "stop_token", "deadline_s"} & set(sent)


def test_every_kind_of_message_reaches_the_provider(client: TestClient, standin: StandInThread) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "name": "Ann", "content": [{"type": "text", "text": "What is this?"}, image]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "user", "content": ""},
    ]
    assert ask(client, messages=messages, model="together_llama").status_code == 200
    messages[0] = {"role": "system", "content": "Be brief."}  # the name that everybody knows
    assert standin.tenant("together_llama").last_requests[0].body["messages"] == messages
    assert ask(client, messages=messages).status_code == 200
    messages[5] = {"role": "assistant", "content": "No."}  # Groq knows no refusals
    assert standin.tenant("groq_llama").last_requests[0].body["messages"] == messages


def test_messages_of_the_system_alone_are_a_request(client: TestClient) -> None:
    assert ask(client, messages=[{"role": "system", "content": "Say hello."}]).status_code == 200


@pytest.mark.parametrize(
    ("model", "provider", "answering"),
    [
        ("auto", "groq_llama", "model-a"),
        (None, "groq_llama", "model-a"),
        ("backwards", "together_llama", "vendor/model-b"),
        ("together_llama", "together_llama", "vendor/model-b"),
        ("vendor/model-b", "together_llama", "vendor/model-b"),
    ],
)
def test_model_names_a_route_a_provider_or_a_model(
    client: TestClient, model: str | None, provider: str, answering: str
) -> None:
    reply = ask(client, model=model)
    assert (reply.headers["x-fallback-provider"], reply.json()["model"]) == (provider, answering)


def test_null_counts_as_left_out(client: TestClient, standin: StandInThread) -> None:
    nothing = dict.fromkeys(
        ("model", "temperature", "max_tokens", "n", "stream", "stream_options", "tools", "stop", "seed", "x")
    )
    assert ask(client, **nothing).status_code == 200
    assert set(standin.tenant("groq_llama").last_requests[0].body) == {
        "model", "messages", "stream", "stream_options",
    }  # fmt: skip


def test_header_sets_the_deadline(client: TestClient, standin: StandInThread) -> None:
    everywhere(standin, Fault(kind="hang", seconds=9))
    for stream in (False, True):
        reply = ask(client, stream=stream, headers={"x-fallback-deadline-s": "0.2"})
        error = reply.json()["error"]
        assert (reply.status_code, error["type"], error["code"]) == (504, "server_error", "deadline_exceeded")
        assert reply.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan", "inf", "1e3", "1_0", "", "9" * 400, "٣"])
def test_header_that_is_no_number_of_seconds_is_400(
    client: TestClient, standin: StandInThread, seconds: str
) -> None:
    reply = ask(client, headers={"x-fallback-deadline-s": seconds.encode()})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "x-fallback-deadline-s")
    assert asked(standin) == 0


# Streams


def test_stream_has_openais_shape(client: TestClient) -> None:
    reply = ask(client, stream=True)
    streamed = read(reply.text)
    first, *_, last = streamed.chunks
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (reply.headers["cache-control"], reply.headers["x-accel-buffering"]) == ("no-store", "no")
    assert streamed.done
    assert streamed.text == "Tokyo is the capital."
    for each in streamed.chunks[:-1]:
        assert list(each) == ["id", "object", "created", "model", "choices"]
        assert [set(one) for one in each["choices"]] == [{"index", "delta", "logprobs", "finish_reason"}]
    assert {each["id"] for each in streamed.chunks} == {
        f"chatcmpl-{reply.headers['x-request-id'].removeprefix('req_')}"
    }
    assert {(each["created"], each["model"]) for each in streamed.chunks} == {(first["created"], "model-a")}
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "Tokyo"}
    assert streamed.deltas_of("role") == ["assistant"]
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert streamed.finish_reasons == [(0, "stop")]
    assert last["fallback"]["providers"] == ["groq_llama"]
    assert set(last["fallback"]) == set(ask(client).json()["fallback"])


def test_usage_is_the_last_chunk_where_it_is_asked_for(client: TestClient) -> None:
    streamed = read(ask(client, stream=True, stream_options={"include_usage": True}).text)
    *others, last = streamed.chunks
    assert [each["usage"] for each in others] == [None] * len(others)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4
    assert last["fallback"]["provider"] == "groq_llama"
    assert streamed.finish_reasons == [(0, "stop")]
    assert streamed.done


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None}])
def test_usage_is_not_sent_where_nobody_asked(client: TestClient, options: Any) -> None:
    assert all(
        "usage" not in each for each in read(ask(client, stream=True, stream_options=options).text).chunks
    )


def test_what_a_provider_adds_to_every_piece_is_left_out(client: TestClient) -> None:
    streamed = read(ask(client, stream=True, model="together_llama").text)
    assert streamed.text == "Tokyo is the capital."
    assert streamed.deltas_of("role") == ["assistant"]
    assert streamed.deltas_of("token_id") == []


def test_parallel_tool_calls_come_in_pieces_with_their_indexes(client: TestClient) -> None:
    options: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": True}
    whole = ask(client, **options).json()["choices"][0]
    streamed = read(ask(client, stream=True, **options).text)
    pieces = [piece for pieces in streamed.deltas_of("tool_calls") for piece in pieces]
    assert len(pieces) > 4
    for index, call in enumerate(whole["message"]["tool_calls"]):
        own = [piece for piece in pieces if piece["index"] == index]
        assert (own[0]["id"], own[0]["type"]) == (call["id"], "function")
        assert own[0]["function"]["name"] == call["function"]["name"]
        assert "".join(piece["function"]["arguments"] for piece in own) == call["function"]["arguments"]
    assert len(whole["message"]["tool_calls"]) == 2
    assert whole["message"]["content"] is None
    assert whole["finish_reason"] == "tool_calls"
    assert streamed.finish_reasons == [(0, "tool_calls")]
    assert streamed.chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert streamed.chunks[0]["choices"][0]["delta"]["content"] is None


def test_tool_calls_without_an_index_get_one() -> None:
    calls = [{"id": name, "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    client = scripted(
        provider_body(choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}])
    )
    streamed = read(ask(client, stream=True).text)
    assert [[call["index"] for call in calls] for calls in streamed.deltas_of("tool_calls")] == [[0, 1]]


def test_each_of_several_choices_begins_and_ends_by_itself(client: TestClient) -> None:
    streamed = read(ask(client, stream=True, n=3).text)
    for index in range(3):
        assert streamed.deltas_of("role", index) == ["assistant"]
        assert "".join(streamed.deltas_of("content", index)) == "Tokyo is the capital."
    assert streamed.finish_reasons == [(0, "stop"), (1, "stop"), (2, "stop")]
    assert ["fallback" in each for each in streamed.chunks].count(True) == 1


def test_logprobs_are_passed_on_in_openais_shape_alone() -> None:
    logprobs = {"content": [{"token": "To", "logprob": -0.1, "bytes": None, "top_logprobs": []}]}
    client = scripted(
        provider_stream(
            chunk(choice({"role": "assistant", "content": "To"}, logprobs=logprobs)),
            chunk(choice({"content": "kyo"}, logprobs=logprobs)),
            chunk(choice({"content": "."}, logprobs=-0.5)),
            chunk(choice({}, "stop")),
        )
    )
    streamed = read(ask(client, stream=True, logprobs=True).text)
    assert [each["choices"][0]["logprobs"] for each in streamed.chunks] == [logprobs, logprobs, None, None]
    assert streamed.text == "Tokyo."


def test_reasoning_is_passed_on_and_empty_members_are_not() -> None:
    client = scripted(
        provider_stream(
            chunk(choice({"role": "assistant", "content": "", "reasoning": None})),
            chunk(choice({"reasoning_content": "Hm."})),
            chunk(choice({"content": "Tokyo", "tool_calls": [], "function_call": None, "refusal": ""})),
            chunk(choice({"content": ""})),
            chunk(choice({}, "stop")),
        )
    )
    streamed = read(ask(client, stream=True).text)
    assert [each["choices"][0]["delta"] for each in streamed.chunks] == [
        {"role": "assistant", "content": "", "reasoning_content": "Hm."},
        {"content": "Tokyo"},
        {},
    ]


def test_answer_in_one_piece_is_streamed_all_the_same(client: TestClient, standin: StandInThread) -> None:
    standin.tenant("groq_llama").always(Fault(kind="json_for_stream"))
    streamed = read(ask(client, stream=True).text)
    assert (streamed.text, streamed.finish_reasons, streamed.done) == (
        "Tokyo is the capital.", [(0, "stop")], True,
    )  # fmt: skip


def test_choice_of_which_nothing_was_delivered_is_told_at_the_end() -> None:
    streamed = read(Chunks("req_1", created=1, include_usage=False).end(degraded()).decode())
    assert [each["choices"][0]["delta"] for each in streamed.chunks] == [
        {"role": "assistant", "content": "Tokyo"},
        {},
    ]
    assert streamed.chunks[0]["model"] == "small"


def test_failover_before_the_first_piece_leaves_no_trace_in_the_stream(
    client: TestClient, standin: StandInThread
) -> None:
    standin.tenant("groq_llama").always(Fault(kind="status", status=500))
    reply = ask(client, stream=True)
    streamed = read(reply.text)
    assert (reply.headers["x-fallback-provider"], reply.headers["x-fallback-attempts"]) == (
        "together_llama",
        "2",
    )
    assert reply.headers["x-fallback-degraded"] == "false"
    assert (streamed.text, streamed.chunks[0]["model"]) == ("Tokyo is the capital.", "vendor/model-b")
    assert [each["outcome"] for each in streamed.chunks[-1]["fallback"]["attempts"]] == ["server_error", "ok"]


def test_stream_that_another_provider_goes_on_with_is_one_stream(
    client: TestClient, standin: StandInThread
) -> None:
    standin.tenant("groq_llama").always(Fault(kind="cut", after_words=2))
    reply = ask(client, stream=True)
    streamed = read(reply.text)
    assert streamed.text == "Tokyo is the capital."
    assert (streamed.finish_reasons, streamed.done) == ([(0, "stop")], True)
    assert len({(each["id"], each["created"], each["model"]) for each in streamed.chunks}) == 1
    assert streamed.chunks[0]["model"] == "model-a"
    assert streamed.deltas_of("role") == ["assistant"]
    assert (reply.headers["x-fallback-provider"], reply.headers["x-fallback-attempts"]) == ("groq_llama", "1")
    account = streamed.chunks[-1]["fallback"]
    assert (account["providers"], account["seams"]) == (["groq_llama", "together_llama"], [8])
    assert account["parts"] == [
        {"provider": "groq_llama", "model": "model-a", "characters": 8},
        {"provider": "together_llama", "model": "vendor/model-b", "characters": 13},
    ]


@pytest.mark.parametrize("include_usage", [True, False])
def test_stream_that_breaks_ends_with_an_error_alone(
    client: TestClient, standin: StandInThread, include_usage: bool
) -> None:
    everywhere(standin, Fault(kind="cut", after_words=2))
    reply = ask(client, stream=True, stream_options={"include_usage": include_usage})
    streamed = read(reply.text)
    assert reply.status_code == 200
    assert streamed.text.startswith("Tokyo is")
    assert streamed.finish_reasons == []
    assert "[DONE]" not in reply.text
    assert streamed.error is not None
    assert set(streamed.error) == {"message", "type", "param", "code", "fallback"}
    assert (streamed.error["type"], streamed.error["code"]) == ("server_error", "stream_broken")
    assert [each["outcome"] for each in streamed.error["fallback"]["attempts"]] == ["stream_truncated"] * 2


def test_finish_reason_of_a_stream_that_breaks_later_is_not_told() -> None:
    client = scripted(
        provider_stream(
            chunk(choice({"content": "One."})),
            chunk({**choice({"content": "Two"}), "index": 1}),
            chunk(choice({}, "stop")),
            chunk(error={"message": "out of memory", "code": 500}),
            done=False,
        )
    )
    streamed = read(ask(client, stream=True, n=2).text)
    assert (streamed.finish_reasons, streamed.done) == ([], False)
    assert streamed.error is not None


def test_stream_of_a_tool_call_that_breaks_is_not_gone_on_with(standin: StandInThread) -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"ci'}}
    client = scripted(
        provider_stream(
            chunk(choice({"role": "assistant", "content": None, "tool_calls": [call]})), done=False
        ),
        Reply.text("Hello"),
    )
    streamed = read(ask(client, stream=True).text)
    assert streamed.error is not None
    assert streamed.finish_reasons == []
    assert [each["provider"] for each in streamed.error["fallback"]["attempts"]] == ["a"]


def test_stream_that_nobody_begins_has_a_status_of_its_own(
    client: TestClient, standin: StandInThread
) -> None:
    everywhere(standin, Fault(kind="status", status=500))
    reply = ask(client, stream=True)
    assert (reply.status_code, reply.headers["content-type"]) == (503, "application/json")
    assert reply.headers["x-fallback-attempts"] == "2"
    assert [each["outcome"] for each in reply.json()["error"]["fallback"]["attempts"]] == ["server_error"] * 2


def test_stream_of_an_unknown_model_is_404(client: TestClient) -> None:
    assert ask(client, stream=True, model="gpt-9").status_code == 404


# Over a real connection: what a test client in the same process cannot show


def open_request(port: int, **body: Any) -> HTTPConnection:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", PATH, json.dumps({"messages": HELLO, **body}), JSON)
    return connection


def skip_to(reply: HTTPResponse, beginning: bytes) -> bytes:
    while True:
        line = reply.readline()
        assert line, "the stream ended"
        if line.startswith(beginning):
            return line


def test_silent_stream_is_kept_alive_with_comments(config: Path, standin: StandInThread) -> None:
    standin.tenant("groq_llama").always(Fault(kind="stall", after_words=2, seconds=9))
    with serving(Program(config, keep_alive_s=0.02)) as (port, _):
        connection = open_request(port, stream=True)
        reply = connection.getresponse()
        skip_to(reply, b"data: ")
        assert skip_to(reply, b":") == b": keep-alive\n"
        assert skip_to(reply, b":") == b": keep-alive\n"
        reply.close()
        connection.close()


def test_head_waits_no_longer_than_the_keep_alive(config: Path, standin: StandInThread) -> None:
    standin.tenant("groq_llama").always(Fault(kind="slow_first_token", seconds=0.3))
    with serving(Program(config, keep_alive_s=0.02)) as (port, _):
        connection = open_request(port, stream=True)
        reply = connection.getresponse()
        assert reply.status == 200
        assert reply.readline() == b": keep-alive\n"
        assert reply.headers["x-fallback-attempts"] == "1"
        assert reply.headers["x-fallback-provider"] is None  # nobody knows yet who will answer
        assert read(reply.read().decode().lstrip("\n")).text == "Tokyo is the capital."
        connection.close()


def test_failure_after_a_keep_alive_is_told_inside_the_stream(config: Path, standin: StandInThread) -> None:
    everywhere(standin, Fault(kind="hang", seconds=9))
    with serving(Program(config, keep_alive_s=0.02)) as (port, _):
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        headers = {**JSON, "x-fallback-deadline-s": "0.3"}
        connection.request("POST", PATH, json.dumps({"messages": HELLO, "stream": True}), headers)
        reply = connection.getresponse()
        streamed = read(reply.read().decode())
        assert reply.status == 200
        assert (streamed.chunks, streamed.done) == ([], False)
        assert streamed.error is not None
        assert streamed.error["code"] == "deadline_exceeded"
        connection.close()


@pytest.mark.parametrize("stream", [True, False])
def test_caller_who_leaves_ends_the_call_to_the_provider(
    config: Path, standin: StandInThread, stream: bool
) -> None:
    groq = standin.tenant("groq_llama")
    groq.always(Fault(kind="stall", after_words=2, seconds=9))
    with serving(Program(config)) as (port, _):
        connection = open_request(port, stream=stream)
        if stream:
            reply = connection.getresponse()
            skip_to(reply, b"data: ")
            reply.close()
        assert groq.wait_for(lambda counters: counters.in_flight == 1, 3)
        connection.close()
        assert groq.wait_for(lambda counters: counters.aborted == 1, 3)
        assert standin.tenant("together_llama").counters.requests == 0


@pytest.mark.parametrize("how", ["plain", "stream", "begun stream"])
def test_end_of_the_program_ends_an_answer_with_a_word(
    config: Path, standin: StandInThread, how: str
) -> None:
    groq = standin.tenant("groq_llama")
    begun = how == "begun stream"
    groq.always(Fault(kind="stall", after_words=2, seconds=9) if begun else Fault(kind="hang", seconds=9))
    program = Program(config)
    with serving(program) as (port, loop):
        connection = open_request(port, stream=how != "plain")
        assert groq.wait_for(lambda counters: counters.in_flight == 1, 3)
        if begun:
            reply = connection.getresponse()
            skip_to(reply, b"data: ")
        loop.call_soon_threadsafe(program.closing.begin)
        if begun:
            streamed = read(reply.read().decode().lstrip("\n"))
            assert not streamed.done
            assert streamed.error is not None
            error = streamed.error
        else:
            reply = connection.getresponse()
            assert (reply.status, reply.headers["retry-after"]) == (503, "5")
            error = json.loads(reply.read())["error"]
        assert error["code"] == "shutting_down"
        assert groq.wait_for(lambda counters: counters.aborted == 1, 3)
        connection.close()


async def call_until_it_stands_still(
    app: ASGIApp, stands_still: Callable[[Message], bool], then: Callable[[], object] = lambda: None
) -> list[Message]:
    """Ask for a stream as a caller who stops reading at a message; `then` is done there. Returns what was sent."""
    body = json.dumps({"messages": HELLO, "stream": True}).encode()
    told = [{"type": "http.request", "body": body}]
    sent: list[Message] = []

    async def receive() -> Message:
        return told.pop() if told else await asyncio.Future()

    async def send(message: Message) -> None:
        sent.append(message)
        if stands_still(message):
            then()
            await asyncio.Future()

    headers = [(b"content-type", b"application/json")]
    async with asyncio.timeout(10):
        await app({"type": "http", "method": "POST", "path": PATH, "headers": headers}, receive, send)
    return sent


def test_caller_who_does_not_read_counts_as_gone() -> None:
    script = Script(FakeClock()).add("a", Reply.text("one", "two", "three"))
    app = scripted_app(script, keep_alive_s=0.02, send_limit_s=0.05)
    sent = asyncio.run(call_until_it_stands_still(app, lambda message: b"two" in message.get("body", b"")))
    assert [message["type"] for message in sent] == ["http.response.start", *["http.response.body"] * 2]
    assert script.open == 0


def test_caller_who_does_not_even_take_the_head_counts_as_gone() -> None:
    script = Script(FakeClock()).add("a", Reply.text("one", "two", "three"))
    app = scripted_app(script, keep_alive_s=0.02, send_limit_s=0.05)
    sent = asyncio.run(call_until_it_stands_still(app, lambda message: "status" in message))
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert script.open == 0


def test_stream_that_is_said_to_its_end_gets_no_last_word() -> None:
    async def course() -> list[Message]:
        closing = Closing()
        app = scripted_app(Script(FakeClock()).add("a", Reply.text("one")), closing=closing)
        return await call_until_it_stands_still(
            app, lambda message: not message.get("more_body", True), closing.begin
        )

    last, before = reversed(asyncio.run(course())[-2:])
    assert (last["more_body"], before["more_body"]) == (False, True)
    assert last["body"].endswith(b"data: [DONE]\n\n")


HALVES = {
    "half of the head": b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconte",
    "half of the body": b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b'content-length: 100\r\n\r\n{"messages": [',
    "half of a chunk": b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b'transfer-encoding: chunked\r\n\r\n40\r\n{"messages"',
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n",
}


@pytest.mark.parametrize("case", HALVES)
def test_request_that_stops_half_way_harms_nobody_else(
    config: Path, standin: StandInThread, case: str
) -> None:
    with serving(Program(config)) as (port, _):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as caller:
            caller.sendall(HALVES[case])
            connection = open_request(port)
            assert connection.getresponse().status == 200
            connection.close()
        connection = open_request(port)
        assert connection.getresponse().status == 200
        connection.close()
    assert asked(standin) == 2


def test_pipelined_requests_are_answered_in_order(config: Path) -> None:
    def request(model: str) -> bytes:
        body = json.dumps({"model": model, "messages": HELLO}).encode()
        head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    with (
        serving(Program(config)) as (port, _),
        socket.create_connection(("127.0.0.1", port), timeout=10) as caller,
    ):
        caller.sendall(request("groq_llama") + request("nobody") + request("together_llama"))
        received = b""
        while received.count(b"chat.completion") < 2:
            data = caller.recv(65536)
            assert data
            received += data
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"404", b"200"]
    assert (
        received.index(b'"model-a"') < received.index(b"model_not_found") < received.rindex(b"vendor/model-b")
    )


# Bad input: OpenAI's error, and no provider hears of it

BAD: dict[str, tuple[bytes | dict[str, Any], str | None, str]] = {
    "no body": (b"", None, 'the body is empty: send a JSON object such as {"model": "auto", "messages"'),
    "not JSON": (b"messages=hello", None, "not JSON: Expecting value in line 1, column 1"),
    "half of it": (b'{"messages": [', None, "not JSON"),
    "not UTF-8": (b'{"model": "\xff"}', None, "not UTF-8 (byte 11)"),
    "NaN": (b'{"messages": [], "temperature": NaN}', None, "NaN is not JSON"),
    "Infinity": (b'{"messages": [], "top_p": -Infinity}', None, "-Infinity is not JSON"),
    "infinite float": (b'{"messages": [], "top_p": 1e999}', None, "a number is too large"),
    "huge int": (b'{"messages": [], "seed": 1' + b"0" * 400 + b"}", None, "a number is too large"),
    "unreadable int": (b'{"messages": [], "seed": 1' + b"0" * 9000 + b"}", None, "a number is too large"),
    "key twice": (b'{"model":"a","model":"b"}', None, 'the key "model" stands twice'),
    "inner key twice": (b'{"messages":[{"role":"user","role":"user"}]}', None, 'the key "role" stands twice'),
    "list": (b"[1]", None, "not a list"),
    "null": (b"null", None, "not null"),
    "deep": (b'{"messages":' + b"[" * 100 + b"]" * 100 + b"}", None, "more than 64 levels"),
    "deeper": (b'{"messages":' + b"[" * 10_000 + b"]" * 10_000 + b"}", None, "more than 64 levels"),
    "deep objects": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, None, "more than 64 levels"),
    "deep and unfinished": (b'{"messages":' + b"[" * 300_000, None, "more than 64 levels"),
    "lone surrogate": (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', None, "half of a character"),
    "no messages": ({}, "messages", "messages is missing"),
    "null messages": ({"messages": None}, "messages", "messages is missing"),
    "messages as a text": ({"messages": "a"}, "messages", "messages must be a list"),
    "empty messages": ({"messages": []}, "messages", "messages is empty"),
    "too many messages": ({"messages": [{}] * 10_001}, "messages", "at most 10000"),
    "message as a text": ({"messages": ["a"]}, "messages[0]", "must be an object"),
    "unknown role": ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role", "must be one of"),
    "no content": ({"messages": [*HELLO, {"role": "user"}]}, "messages[1].content", "must be a text or a list"),
    "number as content": ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content", "must be a text"),
    "no parts": ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "must be a text"),
    "text among parts": ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content", "must be"),
    "silent assistant": ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content", "must be"),
    "model of a wrong type": ({"messages": HELLO, "model": 1}, "model", "must be a name"),
    "blank model": ({"messages": HELLO, "model": " "}, "model", "must be a name"),
    "hot": ({"messages": HELLO, "temperature": 3}, "temperature", "must be a number from 0 to 2"),
    "no tokens": ({"messages": HELLO, "max_tokens": 0}, "max_tokens", "must be a whole number"),
    "no newer tokens": ({"messages": HELLO, "max_completion_tokens": 0}, "max_completion_tokens", "whole number"),
    "tokens as a text": ({"messages": HELLO, "max_completion_tokens": "5"}, "max_completion_tokens", "whole"),
    "stream as a text": ({"messages": HELLO, "stream": "yes"}, "stream", "must be true or false"),
    "options alone": ({"messages": HELLO, "stream_options": {}}, "stream_options", "goes with stream: true"),
    "options as a list": ({"messages": HELLO, "stream": True, "stream_options": []}, "stream_options", "object"),
    "usage as a text": (
        {"messages": HELLO, "stream": True, "stream_options": {"include_usage": "y"}},
        "stream_options.include_usage",
        "must be true or false",
    ),
    "no choices": ({"messages": HELLO, "n": 0}, "n", "from 1 to 128"),
    "too many choices": ({"messages": HELLO, "n": 129}, "n", "from 1 to 128"),
    "choices as a truth": ({"messages": HELLO, "n": True}, "n", "from 1 to 128"),
    "tools as an object": ({"messages": HELLO, "tools": {}}, "tools", "a list of objects"),
    "tools of texts": ({"messages": HELLO, "tools": ["a"]}, "tools", "a list of objects"),
    "tool choice as a number": ({"messages": HELLO, "tool_choice": 1}, "tool_choice", "a text or an object"),
    "form as a text": ({"messages": HELLO, "response_format": "json"}, "response_format", "an object"),
    "stop as a number": ({"messages": HELLO, "stop": 1}, "stop", "a text or a list of texts"),
    "stop of numbers": ({"messages": HELLO, "stop": [1]}, "stop", "a text or a list of texts"),
    "seed as a text": ({"messages": HELLO, "seed": "1"}, "seed", "a whole number"),
    "user as a number": ({"messages": HELLO, "user": 1}, "user", "a text"),
    "top_p as a text": ({"messages": HELLO, "top_p": "1"}, "top_p", "a number"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_400_and_reaches_no_provider(
    client: TestClient, standin: StandInThread, case: str
) -> None:
    body, param, sentence = BAD[case]
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = client.post(PATH, content=raw, headers=JSON)
    assert (reply.status_code, reply.headers["content-type"]) == (400, "application/json")
    assert set(reply.json()) == {"error"}
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert sentence in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["code"] in {"invalid_json", "invalid_value"}
    assert asked(standin) == 0


def test_unknown_model_is_404_and_names_the_known_ones(client: TestClient, standin: StandInThread) -> None:
    reply = ask(client, model="gpt-9")
    error = reply.json()["error"]
    assert reply.status_code == 404
    assert (error["type"], error["param"], error["code"]) == (
        "invalid_request_error",
        "model",
        "model_not_found",
    )
    assert "auto, backwards, groq_llama, together_llama, model-a, vendor/model-b" in error["message"]
    assert asked(standin) == 0


def test_body_beyond_the_limit_is_413(client: TestClient, standin: StandInThread) -> None:
    reply = ask(client, messages=[{"role": "user", "content": "a" * MAX_BODY_BYTES}])
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
    assert asked(standin) == 0


def test_chunked_body_beyond_the_limit_is_413(config: Path, standin: StandInThread) -> None:
    pieces = [b'{"messages": "', *[b"a" * (MAX_BODY_BYTES // 16)] * 17]
    with serving(Program(config)) as (port, _):
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("POST", PATH, iter(pieces), JSON, encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()
    assert asked(standin) == 0


def test_body_in_many_pieces_is_taken(config: Path) -> None:
    body = json.dumps({"messages": HELLO}).encode()
    with serving(Program(config)) as (port, _):
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request(
            "POST", PATH, iter(body[i : i + 1] for i in range(len(body))), JSON, encode_chunked=True
        )
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "multipart/form-data"},
        {**JSON, "content-encoding": "gzip"},
    ],
)
def test_anything_but_plain_json_is_415(
    client: TestClient, standin: StandInThread, headers: dict[str, str]
) -> None:
    reply = client.post(PATH, content=json.dumps({"messages": HELLO}), headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert asked(standin) == 0


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", PATH, "POST, OPTIONS"),
        ("HEAD", PATH, "POST, OPTIONS"),
        ("PUT", PATH, "POST, OPTIONS"),
        ("DELETE", PATH, "POST, OPTIONS"),
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("DELETE", "/v1/models/auto", "GET, HEAD, OPTIONS"),
    ],
)
def test_wrong_method_is_405_and_says_what_is_allowed(
    client: TestClient, method: str, path: str, allow: str
) -> None:
    reply = client.request(method, path, content=b"{" * 10_000)
    assert (reply.status_code, reply.headers["allow"]) == (405, allow)
    if method != "HEAD":
        error = reply.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "method_not_supported")


def test_options_says_what_is_allowed_and_permits_no_other_origin(client: TestClient) -> None:
    headers = {"origin": "https://example.com", "access-control-request-method": "POST"}
    reply = client.options(PATH, headers=headers)
    assert (reply.status_code, reply.headers["allow"], reply.content) == (204, "POST, OPTIONS", b"")
    assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/embeddings", "/v1/completions", PATH + "/", "/v1/responses"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_every_other_path_is_404_in_the_same_shape(client: TestClient, path: str, method: str) -> None:
    reply = client.request(method, path, json={"input": "a", "model": "b"})
    assert reply.status_code == 404
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", "unknown_url")
    assert path in error["message"]
    assert "POST /v1/chat/completions and GET /v1/models" in error["message"]


# When no provider has an answer


def refused(code: str, message: str) -> str:
    return json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": code}})


@pytest.mark.parametrize(
    ("code", "message", "told"),
    [
        ("context_length_exceeded", "Please reduce the length of the messages", "context_length_exceeded"),
        ("content_policy_violation", "refused by our safety system", "content_policy_violation"),
        ("odd", "'stop' may hold at most 4 texts", "invalid_value"),
    ],
)
def test_request_that_is_at_fault_itself_is_400(
    client: TestClient, standin: StandInThread, code: str, message: str, told: str
) -> None:
    everywhere(standin, Fault(kind="status", status=400, body=refused(code, message)))
    reply = ask(client)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["code"]) == (400, "invalid_request_error", told)
    assert error["fallback"]["attempts"][0]["status"] == 400


def test_rate_limited_everywhere_is_429_with_whole_seconds(
    client: TestClient, standin: StandInThread
) -> None:
    everywhere(standin, Fault(kind="status", status=429, retry_after="6.2"))
    reply = ask(client)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["code"]) == (
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
    )
    assert re.fullmatch(r"[78]", reply.headers["retry-after"])
    assert "x-should-retry" not in reply.headers
    assert [each["outcome"] for each in error["fallback"]["attempts"]] == ["rate_limited"] * 2


def test_failed_everywhere_is_503_with_the_whole_account(client: TestClient, standin: StandInThread) -> None:
    everywhere(standin, Fault(kind="status", status=500))
    reply = ask(client)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["code"]) == (503, "server_error", "providers_failed")
    assert reply.headers["x-should-retry"] == "false"
    assert "groq_llama: server_error (HTTP 500)" in error["message"]
    assert error["fallback"]["request_id"] == reply.headers["x-request-id"]
    assert error["fallback"]["activity_log"][0] == "Attempting invocation with groq_llama..."
    assert [each["provider"] for each in error["fallback"]["attempts"]] == ["groq_llama", "together_llama"]


def test_nobody_to_ask_is_503(client: TestClient) -> None:
    for name in ("groq_llama", "together_llama"):
        get_router().set_enabled(name, False)
    for stream in (False, True):
        reply = ask(client, stream=stream)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "providers_failed")
        assert "switched off" in reply.json()["error"]["message"]


def test_key_that_a_provider_echoes_appears_nowhere(
    client: TestClient, standin: StandInThread, caplog: pytest.LogCaptureFixture
) -> None:
    standin.tenant("groq_llama").always(Fault(kind="echo_key"))
    replies = [ask(client).text, ask(client, stream=True).text]
    get_router().set_enabled("together_llama", False)
    replies += [ask(client).text, ask(client, stream=True).text]
    assert standin.tenant("groq_llama").last_requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in "".join(replies) + caplog.text


class Broken:
    """A program whose router fails in a way that nobody foresaw."""

    keep_alive_s = 10.0
    send_limit_s = 30.0

    @property
    def router(self) -> AsyncModelRouter:
        raise LookupError(f"the text of an exception may hold {KEY}")

    @property
    def closing(self) -> Closing:
        raise AssertionError


@pytest.mark.parametrize("path", [PATH, "/v1/models"])
def test_unexpected_exception_is_500_without_its_text(caplog: pytest.LogCaptureFixture, path: str) -> None:
    client = TestClient(Starlette(routes=routes(Broken()), middleware=[Middleware(Envelope)]))
    with caplog.at_level(logging.ERROR):
        reply = ask(client) if path == PATH else client.get(path)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["code"]) == (500, "server_error", "internal_error")
    assert reply.headers["x-request-id"] in caplog.text
    assert "LookupError" in caplog.text
    assert KEY not in reply.text + caplog.text


def test_text_that_is_no_text_does_not_stop_an_answer() -> None:
    # A header that is not UTF-8 reaches the message of a failure as halves of characters.
    page = Reply(headers={"content-type": "text/\udcff"}, body=[b"?"])
    client = scripted(page, Reply.text("Hello"))
    reply = ask(client)
    assert reply.json()["choices"][0]["message"]["content"] == "Hello"
    assert reply.json()["fallback"]["attempts"][0]["outcome"] == "malformed_response"


# Models


def test_models_lists_whatever_model_may_name(client: TestClient) -> None:
    reply = client.get("/v1/models")
    body = reply.json()
    assert (reply.status_code, body["object"]) == (200, "list")
    assert [each["id"] for each in body["data"]] == [
        "auto", "backwards", "groq_llama", "together_llama", "model-a", "vendor/model-b",
    ]  # fmt: skip
    for each in body["data"]:
        assert set(each) == {"id", "object", "created", "owned_by", "fallback"}
        assert each["object"] == "model"
        assert each["created"] > 1_700_000_000
        assert (
            ask(client, model=each["id"]).headers["x-fallback-provider"] == each["fallback"]["providers"][0]
        )
    kinds = {each["id"]: (each["fallback"]["kind"], each["owned_by"]) for each in body["data"]}
    assert kinds["auto"] == ("auto", "llm-fallback-system")
    assert kinds["backwards"] == ("route", "llm-fallback-system")
    assert kinds["groq_llama"] == ("provider", "groq_llama")
    assert kinds["vendor/model-b"] == ("model", "together_llama")


@pytest.mark.parametrize("path", ["auto", "vendor/model-b", "vendor%2Fmodel-b"])
def test_one_model_is_told_by_its_name(client: TestClient, path: str) -> None:
    reply = client.get(f"/v1/models/{path}")
    listed = {each["id"]: each for each in client.get("/v1/models").json()["data"]}
    assert reply.json() == listed[path.replace("%2F", "/")]
    assert client.head(f"/v1/models/{path}").status_code == 200


@pytest.mark.parametrize("path", ["gpt-9", "", "a" * 5000, "%00", "é"])
def test_model_that_does_not_exist_is_404(client: TestClient, path: str) -> None:
    reply = client.get(f"/v1/models/{path}")
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (404, "model", "model_not_found")
    assert "choose one of: auto, backwards" in error["message"]
    assert len(error["message"]) < 1000


# The documentation


def test_documentation_names_every_route_field_header_and_code(
    client: TestClient, standin: StandInThread
) -> None:
    text = DOCS.read_text(encoding="utf-8")
    headings = set(re.findall(r"^#+ (.+)$", text, re.MULTILINE))
    assert {
        "POST /v1/chat/completions",
        "GET /v1/models",
        "GET /v1/models/{model}",
        "Errors under /v1",
    } <= headings
    own = text[text.index("## POST /v1/chat/completions") : text.index("## GET /api/providers")]
    named = set(re.findall(r"`([a-z_.-]+)`", own))
    rows = set(re.findall(r"`([^`]+)`", "".join(re.findall(r"^\|[^|]+\|", text, re.MULTILINE))))
    plain = ask(client)
    account = set(plain.json()["fallback"]) | set(completion_object(degraded())["fallback"])
    assert account - named == set()
    models = client.get("/v1/models").json()
    parts = plain.json()["fallback"]["parts"][0]
    standin.tenant("groq_llama").always(Fault(kind="status", status=400))
    standin.tenant("together_llama").always(Fault(kind="status", status=400))
    error = ask(client).json()["error"]
    fields = {*account, *parts, *plain.json()["fallback"]["attempts"][0], *models, *models["data"][0], *error}
    fields |= set(models["data"][0]["fallback"])
    headers = {name for reply in (plain, ask(client)) for name in reply.headers if name.startswith("x-")}
    assert (fields | headers | {DEADLINE_HEADER, "x-should-retry"}) - rows == set()
    assert set(wanted_module._READ_HERE) - rows == set()
    assert set(errors_module._CODES.values()) - named == set()


@pytest.mark.parametrize(
    "command", re.findall(r"curl[^`]*?/v1/[^`]*?(?=\n```)", DOCS.read_text(encoding="utf-8"))
)
def test_commands_of_the_documentation_work(client: TestClient, command: str) -> None:
    words = shlex.split(command.replace("\\\n", " "))
    path = next(word for word in words if word.startswith("http")).removeprefix("http://localhost:5000")
    if "-d" in words:
        reply = client.post(path, content=words[words.index("-d") + 1], headers=JSON)
    else:
        reply = client.get(path)
    assert reply.status_code == 200
