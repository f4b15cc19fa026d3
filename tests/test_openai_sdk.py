"""OpenAI's own Python client against the running program: whatever it can ask for here, and every error as its class."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolUnionParam
from openai_api import CONFIG, TOOLS, serving
from pydantic import BaseModel

from fallback.api import Program
from fallback.router import get_router
from fallback.standin import Fault, StandInThread

WHOLE = "Tokyo is the capital of Japan, and has been for a long time."
ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of Japan?"}]
TOOLS_ASKED: Any = TOOLS


@pytest.fixture(scope="module")
def server() -> Iterator[StandInThread]:
    with StandInThread() as standin:
        yield standin


@pytest.fixture(scope="module")
def base_url(server: StandInThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("program")
    file = folder / "providers.yaml"
    file.write_text(CONFIG.format(base=server.base_url))
    (folder / ".env").write_text("TEST_GROQ_KEY=test-key-not-real\n")
    with serving(Program(file, keep_alive_s=0.05)) as (port, _):
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture
def standin(server: StandInThread, base_url: str) -> StandInThread:
    """The providers as they are at first, and with nothing held against them."""
    for name, dialect in (("groq_llama", "groq"), ("together_llama", "together")):
        tenant = server.tenant(name)
        tenant.reset()
        tenant.configure(dialect=dialect, text=WHOLE)
        get_router().set_enabled(name, True)
        get_router().switchboard.end_cooldown(name, by="test")
    return server


@pytest.fixture
def client(standin: StandInThread, base_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=20) as client:
        yield client


def everywhere(standin: StandInThread, fault: Fault) -> None:
    for name in ("groq_llama", "together_llama"):
        standin.tenant(name).always(fault)


# Answers


def test_plain_answer(client: OpenAI) -> None:
    completion = client.chat.completions.create(model="auto", messages=ASKED)
    choice = completion.choices[0]
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (WHOLE, "assistant", "stop")
    assert choice.message.refusal is None
    assert completion.id.startswith("chatcmpl-")
    assert completion.object == "chat.completion"
    assert completion.model == "model-a"
    assert completion.usage is not None
    assert (
        completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    )
    assert (completion.model_extra or {})["fallback"]["provider"] == "groq_llama"
    assert completion._request_id == (completion.model_extra or {})["fallback"]["request_id"]


def test_stream_with_usage(client: OpenAI) -> None:
    with client.chat.completions.create(
        model="auto", messages=ASKED, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    *pieces, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == WHOLE
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-1].choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == len(WHOLE.split())
    assert all(chunk.usage is None for chunk in pieces)
    assert (last.model_extra or {})["fallback"]["provider"] == "groq_llama"


def test_streaming_helper_puts_the_same_completion_together(client: OpenAI) -> None:
    with client.chat.completions.stream(model="auto", messages=ASKED, n=2) as stream:
        kinds = {event.type for event in stream}
        completion = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert [choice.message.content for choice in completion.choices] == [WHOLE, WHOLE]
    assert [choice.finish_reason for choice in completion.choices] == ["stop", "stop"]


def test_asynchronous_client(standin: StandInThread, base_url: str) -> None:
    async def ask() -> tuple[str | None, str, list[str]]:
        async with AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
            plain, stream, models = await asyncio.gather(
                client.chat.completions.create(model="auto", messages=ASKED),
                client.chat.completions.create(model="auto", messages=ASKED, stream=True),
                client.models.list(),
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            return plain.choices[0].message.content, text, [model.id for model in models.data]

    plain, streamed, models = asyncio.run(ask())
    assert (plain, streamed) == (WHOLE, WHOLE)
    assert "auto" in models


def test_tools_plain_and_in_pieces(client: OpenAI) -> None:
    options: dict[str, Any] = {"tools": TOOLS_ASKED, "tool_choice": "required", "parallel_tool_calls": True}
    plain = client.chat.completions.create(model="auto", messages=ASKED, **options)
    with client.chat.completions.stream(model="auto", messages=ASKED, **options) as stream:
        names = [event.name for event in stream if event.type == "tool_calls.function.arguments.done"]
        streamed = stream.get_final_completion()
    assert names == ["weather", "time"]
    for completion in (plain, streamed):
        choice = completion.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        assert [
            (call.id, call.type, call.function.name, call.function.arguments)
            for call in choice.message.tool_calls or []
            if call.type == "function"
        ] == [
            ("call_0", "function", "weather", '{"city": "w1", "days": 1}'),
            ("call_1", "function", "time", '{"city": "w1", "days": 1}'),
        ]


def test_conversation_with_a_tools_result_goes_on(client: OpenAI, standin: StandInThread) -> None:
    tools: list[ChatCompletionToolUnionParam] = TOOLS_ASKED
    first = client.chat.completions.create(model="auto", messages=ASKED, tools=tools, tool_choice="required")
    answered: Any = first.choices[0].message
    call = answered.tool_calls[0]
    client.chat.completions.create(
        model="auto",
        messages=[*ASKED, answered, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}],
    )
    sent = standin.tenant("groq_llama").last_requests[-1].body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[1]["tool_calls"][0]["function"]["name"] == "weather"


def test_images_reach_the_provider(client: OpenAI, standin: StandInThread) -> None:
    image = "data:image/png;base64," + "A" * 100_000
    client.chat.completions.create(
        model="auto",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": image, "detail": "low"}},
                ],
            }
        ],
    )
    sent = standin.tenant("groq_llama").last_requests[-1].body["messages"][0]["content"]
    assert sent[1]["image_url"] == {"url": image, "detail": "low"}


class City(BaseModel):
    """What a structured answer is to hold."""

    name: str


def test_structured_answers_are_parsed(client: OpenAI, standin: StandInThread) -> None:
    standin.tenant("groq_llama").configure(text='{"name": "Tokyo"}')
    completion = client.chat.completions.parse(model="auto", messages=ASKED, response_format=City)
    assert completion.choices[0].message.parsed == City(name="Tokyo")
    assert (completion.model_extra or {})["fallback"]["provider"] == "groq_llama"
    sent = standin.tenant("groq_llama").last_requests[-1].body["response_format"]
    assert (sent["type"], sent["json_schema"]["name"]) == ("json_schema", "City")
    with client.chat.completions.stream(model="auto", messages=ASKED, response_format=City) as stream:
        streamed = stream.get_final_completion()
    assert streamed.choices[0].message.parsed == City(name="Tokyo")
    assert streamed.model == "model-a"


def test_answers_are_put_back_into_the_conversation_as_the_client_keeps_them(
    client: OpenAI, standin: StandInThread
) -> None:
    tools: Any = [
        {"type": "function", "function": {**tool["function"], "strict": True}} for tool in TOOLS_ASKED
    ]
    options: dict[str, Any] = {"model": "auto", "tools": tools, "tool_choice": "required"}
    with client.chat.completions.stream(messages=ASKED, **options) as stream:
        streamed = stream.get_final_completion().choices[0].message
    plain = client.chat.completions.create(model="auto", messages=ASKED).choices[0].message
    parsed = client.chat.completions.parse(messages=ASKED, **options).choices[0].message
    for message in (streamed, plain, plain.model_dump(), parsed):
        messages: Any = [*ASKED, message, *ASKED]
        completion = client.chat.completions.create(model="auto", messages=messages)
        assert (completion.model_extra or {})["fallback"]["provider"] == "groq_llama"


def test_further_parameters_reach_the_provider(client: OpenAI, standin: StandInThread) -> None:
    completion = client.chat.completions.create(
        model="auto",
        messages=ASKED,
        n=2,
        logprobs=True,
        top_logprobs=2,
        seed=7,
        stop=["\n"],
        max_completion_tokens=3,
        user="somebody",
        extra_body={"of_tomorrow": True},
    )
    assert [(choice.index, choice.finish_reason) for choice in completion.choices] == [
        (0, "length"),
        (1, "length"),
    ]
    sent = standin.tenant("groq_llama").last_requests[-1].body
    assert {name: sent[name] for name in ("n", "logprobs", "top_logprobs", "seed", "stop", "user", "of_tomorrow")} == {
        "n": 2, "logprobs": True, "top_logprobs": 2, "seed": 7, "stop": ["\n"], "user": "somebody", "of_tomorrow": True,
    }  # fmt: skip


def test_models_are_listed_and_found(client: OpenAI) -> None:
    listed = [model.id for model in client.models.list()]
    assert listed == ["auto", "backwards", "groq_llama", "together_llama", "model-a", "vendor/model-b"]
    for name in listed:
        assert client.models.retrieve(name).id == name
        assert client.chat.completions.create(model=name, messages=ASKED).choices[0].message.content == WHOLE


def test_headers_tell_who_answered(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="backwards", messages=ASKED)
    assert raw.headers["x-fallback-provider"] == "together_llama"
    assert raw.headers["x-fallback-attempts"] == "1"
    assert raw.parse().model == "vendor/model-b"


# Failover


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="status", status=500),
        Fault(kind="status", status=429, retry_after="30"),
        Fault(kind="status", status=401),
        Fault(kind="reset"),
        Fault(kind="html"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_failover_is_not_noticed(client: OpenAI, standin: StandInThread, fault: Fault) -> None:
    standin.tenant("groq_llama").always(fault)
    plain = client.chat.completions.create(model="auto", messages=ASKED)
    assert (plain.choices[0].message.content, plain.model) == (WHOLE, "vendor/model-b")
    with client.chat.completions.stream(model="auto", messages=ASKED) as stream:
        assert stream.get_final_completion().choices[0].message.content == WHOLE


def test_seam_is_not_noticed(client: OpenAI, standin: StandInThread) -> None:
    standin.tenant("groq_llama").always(Fault(kind="cut", after_words=5))
    with client.chat.completions.stream(model="auto", messages=ASKED) as stream:
        chunks = [event.chunk for event in stream if event.type == "chunk"]
        completion = stream.get_final_completion()
    assert completion.choices[0].message.content == WHOLE
    assert completion.choices[0].finish_reason == "stop"
    assert len({(chunk.id, chunk.model) for chunk in chunks}) == 1
    account = (chunks[-1].model_extra or {})["fallback"]
    assert account["providers"] == ["groq_llama", "together_llama"]
    assert account["seams"] == [len("Tokyo is the capital of")]


def test_keep_alives_are_not_noticed(client: OpenAI, standin: StandInThread) -> None:
    standin.tenant("groq_llama").always(Fault(kind="slow_first_token", seconds=0.3))
    stream = client.chat.completions.create(model="auto", messages=ASKED, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == WHOLE


# Errors


def fails(client: OpenAI, **options: Any) -> openai.APIError:
    with pytest.raises(openai.APIError) as caught:
        client.chat.completions.create(**{"model": "auto", "messages": ASKED, **options})
    return caught.value


@pytest.mark.parametrize(
    ("fault", "kind", "status", "code"),
    [
        (Fault(kind="status", status=500), openai.InternalServerError, 503, "providers_failed"),
        (
            Fault(kind="status", status=429, retry_after="6"),
            openai.RateLimitError,
            429,
            "rate_limit_exceeded",
        ),
        (Fault(kind="status", status=400), openai.BadRequestError, 400, "invalid_value"),
    ],
)
def test_failure_of_everybody_is_the_clients_own_exception(
    client: OpenAI,
    standin: StandInThread,
    fault: Fault,
    kind: type[openai.APIStatusError],
    status: int,
    code: str,
) -> None:
    everywhere(standin, fault)
    for stream in (False, True):
        for name in ("groq_llama", "together_llama"):
            get_router().switchboard.end_cooldown(name, by="test")
        error = fails(client, stream=stream)
        assert type(error) is kind
        assert isinstance(error, openai.APIStatusError)
        assert (error.status_code, error.code) == (status, code)
        assert error.request_id == error.response.headers["x-request-id"]
        assert isinstance(error.body, dict)
        assert [each["provider"] for each in error.body["fallback"]["attempts"]] == [
            "groq_llama",
            "together_llama",
        ]


def test_wrong_arguments_are_a_bad_request(client: OpenAI) -> None:
    error = fails(client, temperature=3)
    assert type(error) is openai.BadRequestError
    assert error.param == "temperature"


def test_unknown_model_and_path_are_not_found(client: OpenAI) -> None:
    error = fails(client, model="gpt-9")
    assert type(error) is openai.NotFoundError
    assert (error.code, error.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="auto", input="Hello")


def test_deadline_is_kept_and_not_asked_for_again(standin: StandInThread, base_url: str) -> None:
    everywhere(standin, Fault(kind="hang", seconds=9))
    with OpenAI(
        base_url=base_url, api_key="unused", default_headers={"x-fallback-deadline-s": "0.3"}
    ) as client:
        error = fails(client)
        assert type(error) is openai.InternalServerError
        assert (error.status_code, error.code) == (504, "deadline_exceeded")
    # The client would have asked twice more.
    assert sum(standin.tenant(name).counters.requests for name in ("groq_llama", "together_llama")) <= 2


def test_rate_limit_is_waited_for_by_the_client(standin: StandInThread, base_url: str) -> None:
    limited = Fault(kind="status", status=429, retry_after="1")
    for name in ("groq_llama", "together_llama"):
        standin.tenant(name).play(limited)
    with OpenAI(base_url=base_url, api_key="unused", max_retries=1) as client:
        completion = client.chat.completions.create(model="auto", messages=ASKED)
    assert completion.choices[0].message.content == WHOLE


def test_stream_that_breaks_raises_and_is_never_taken_for_whole(
    client: OpenAI, standin: StandInThread
) -> None:
    everywhere(standin, Fault(kind="cut", after_words=3))
    received: list[str] = []
    reasons: set[str | None] = set()

    def take() -> None:
        for chunk in client.chat.completions.create(model="auto", messages=ASKED, stream=True):
            received.append(chunk.choices[0].delta.content or "")
            reasons.add(chunk.choices[0].finish_reason)

    with pytest.raises(openai.APIError) as caught:
        take()
    assert WHOLE.startswith("".join(received))
    assert received
    assert reasons == {None}
    assert caught.value.code == "stream_broken"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["fallback"]["activity_log"]


def test_caller_who_stops_reading_ends_the_call_to_the_provider(
    client: OpenAI, standin: StandInThread
) -> None:
    groq = standin.tenant("groq_llama")
    groq.always(Fault(kind="stall", after_words=2, seconds=9))
    before = groq.counters.aborted
    with client.chat.completions.create(model="auto", messages=ASKED, stream=True) as stream:
        next(iter(stream))
    assert groq.wait_for(lambda counters: counters.aborted == before + 1, 3)
