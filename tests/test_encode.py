"""From a request to the call that asks one candidate."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallback.core.models import ChatRequest, Message, Usage
from fallback.providers.base import WireRequest
from fallback.providers.embedded import EmbeddedProvider
from fallback.providers.groq import GroqProvider
from fallback.providers.openai_compatible import OpenAICompatibleProvider
from fallback.providers.settings import ModelSettings, Price, ProviderSettings, Secret
from fallback.providers.together import TogetherDecoder, TogetherProvider

KEY = "test-key-not-real"
HELLO: Message = {"role": "user", "content": "Hello"}
REMOTE = (OpenAICompatibleProvider, GroqProvider, TogetherProvider)


def settings_of(**options: Any) -> ProviderSettings:
    options = {
        "name": "p",
        "type": "openai",
        "endpoint": "https://provider.example/v1/chat/completions",
        "models": (ModelSettings(name="m"), ModelSettings(name="next")),
        "api_key": Secret(KEY),
        **options,
    }
    return ProviderSettings(**options)


def wire(
    provider: OpenAICompatibleProvider,
    *,
    model: int = 0,
    messages: tuple[Message, ...] = (HELLO,),
    **options: Any,
) -> WireRequest:
    request = ChatRequest(request_id="r", messages=messages, **options)
    return provider.encode(request, provider.candidates()[model])


def body(provider: OpenAICompatibleProvider, **options: Any) -> dict[str, Any]:
    encoded = wire(provider, **options)
    found = json.loads(encoded.body)
    assert isinstance(found, dict)
    assert found["stream"] is encoded.streamed
    return found


@pytest.mark.parametrize("kind", REMOTE)
def test_the_call_names_the_model_that_is_asked_and_carries_the_messages(kind: Any) -> None:
    provider = kind(settings_of())
    encoded = wire(provider, model=1)
    assert encoded.url == "https://provider.example/v1/chat/completions"
    assert encoded.provider == "p"
    found = json.loads(encoded.body)
    assert (found["model"], found["messages"], found["stream"]) == ("next", [HELLO], True)


def test_usage_of_a_stream_is_asked_for_where_it_does_not_come_by_itself() -> None:
    assert body(GroqProvider(settings_of()))["stream_options"] == {"include_usage": True}
    assert "stream_options" not in body(TogetherProvider(settings_of()))
    plain = body(GroqProvider(settings_of(stream_upstream=False)))
    assert plain["stream"] is False
    assert "stream_options" not in plain


def test_unknown_parameters_of_the_caller_pass_through() -> None:
    extra = {"tools": [{"type": "function", "function": {"name": "f"}}], "seed": 7, "logprobs": True, "n": 2}
    found = body(OpenAICompatibleProvider(settings_of()), extra=extra)
    assert {name: found[name] for name in extra} == extra


def test_what_is_ours_to_say_the_caller_cannot_change_by_the_back_door() -> None:
    extra = {"model": "x", "messages": [], "stream": False, "stream_options": {"include_usage": False}}
    found = body(OpenAICompatibleProvider(settings_of()), extra=extra)
    assert (found["model"], found["messages"], found["stream"]) == ("m", [HELLO], True)
    assert found["stream_options"] == {"include_usage": True}
    assert "stream_options" not in body(TogetherProvider(settings_of()), extra=extra)
    assert extra["stream"] is False, "the caller's own mapping is left as it is"


@pytest.mark.parametrize(
    ("own", "asked", "sent"),
    [(None, None, None), (0.7, None, 0.7), (0.7, 0.0, 0.0), (None, 1.5, 1.5), (0.0, None, 0.0)],
)
def test_the_callers_temperature_comes_before_the_providers_own(
    own: float | None, asked: float | None, sent: float | None
) -> None:
    provider = OpenAICompatibleProvider(settings_of(temperature=own))
    assert body(provider, temperature=asked).get("temperature") == sent


@pytest.mark.parametrize(
    ("own", "asked", "sent"), [(None, None, None), (100, None, 100), (100, 7, 7), (None, 7, 7)]
)
def test_the_callers_max_tokens_come_before_the_providers_own(
    own: int | None, asked: int | None, sent: int | None
) -> None:
    provider = OpenAICompatibleProvider(settings_of(max_tokens=own))
    assert body(provider, max_tokens=asked).get("max_tokens") == sent


def test_max_completion_tokens_stand_alone() -> None:
    found = body(
        OpenAICompatibleProvider(settings_of(max_tokens=100)),
        max_tokens=50,
        extra={"max_completion_tokens": 9},
    )
    assert found["max_completion_tokens"] == 9
    assert "max_tokens" not in found


def test_together_is_told_the_limit_by_its_older_name() -> None:
    found = body(
        TogetherProvider(settings_of(max_tokens=100)), max_tokens=7, extra={"max_completion_tokens": 9}
    )
    assert found["max_tokens"] == 9
    assert "max_completion_tokens" not in found


def test_embedded_model_keeps_to_the_limit_by_either_name() -> None:
    provider = EmbeddedProvider(settings_of(max_tokens=100))
    assert body(provider, extra={"max_completion_tokens": 9})["max_tokens"] == 9
    assert body(provider, max_tokens=8)["max_tokens"] == 8
    assert body(provider, extra={"max_completion_tokens": 500})["max_tokens"] == 100


@given(st.text(max_size=40))
@settings(deadline=None)
def test_any_text_arrives_as_it_was_and_half_a_character_as_a_question_mark(text: str) -> None:
    messages: tuple[Message, ...] = ({"role": "user", "content": text},)
    assert body(OpenAICompatibleProvider(settings_of()), messages=messages)["messages"][0]["content"] == text
    half: tuple[Message, ...] = ({"role": "user", "content": text + "\ud83d"},)
    assert (
        body(OpenAICompatibleProvider(settings_of()), messages=half)["messages"][0]["content"] == text + "?"
    )


CALL: dict[str, Any] = {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{}"}}
# What OpenAI's Python client sends for a message of `chat.completions.stream` that is put back into the conversation.
PUT_BACK: Message = {
    "role": "assistant",
    "content": None,
    "refusal": None,
    "annotations": None,
    "audio": None,
    "function_call": None,
    "parsed": None,
    "tool_calls": [{**CALL, "index": 0, "function": {**CALL["function"], "parsed_arguments": {}}}],
}


@pytest.mark.parametrize("kind", REMOTE)
def test_null_members_of_an_answer_put_back_are_left_out(kind: Any) -> None:
    sent = body(kind(settings_of()), messages=(HELLO, PUT_BACK))["messages"]
    assert sent[0] == HELLO
    assert sorted(sent[1]) == ["content", "role", "tool_calls"]
    assert sent[1]["content"] is None


def test_groq_gets_of_an_answer_put_back_what_it_knows() -> None:
    theirs: Message = {
        "role": "assistant",
        "content": "Tokyo.",
        "name": "bot",
        "reasoning": "easy",
        "reasoning_content": "easy",
        "annotations": [],
        "model": "other",
        "tool_calls": [],
    }
    groq = GroqProvider(settings_of())
    sent = body(groq, messages=(HELLO, theirs, PUT_BACK))["messages"]
    assert sent[1] == {"role": "assistant", "content": "Tokyo.", "name": "bot", "reasoning": "easy"}
    assert sent[2] == {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert body(OpenAICompatibleProvider(settings_of()), messages=(theirs,))["messages"] == [theirs]


@pytest.mark.parametrize("kind", [*REMOTE, EmbeddedProvider])
def test_developer_is_told_as_the_system_which_everybody_knows(kind: Any) -> None:
    asked = ({"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello"})
    sent = body(kind(settings_of()), messages=asked)["messages"]
    assert sent == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert asked[0]["role"] == "developer"


def test_groq_is_not_told_of_what_it_refuses_where_nothing_is_wanted_of_it() -> None:
    nothing = {"logprobs": False, "top_logprobs": 0, "logit_bias": {}}
    assert not nothing.keys() & body(GroqProvider(settings_of()), extra=nothing).keys()
    wanted = {"logprobs": True, "top_logprobs": 2, "logit_bias": {"7": 1}}
    assert wanted.items() <= body(GroqProvider(settings_of()), extra=wanted).items()


def test_groq_is_told_a_refusal_as_the_text_that_it_was() -> None:
    refused: Message = {"role": "assistant", "content": None, "refusal": "I will not."}
    sent = body(GroqProvider(settings_of()), messages=(refused,))["messages"]
    assert sent == [{"role": "assistant", "content": "I will not."}]


def test_what_is_no_answer_and_what_is_no_function_reaches_groq_as_it_is() -> None:
    asked: Message = {"role": "user", "content": "Hello", "refusal": None}
    custom = {"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}
    called: Message = {"role": "assistant", "content": None, "tool_calls": [custom, 3]}
    assert body(GroqProvider(settings_of()), messages=(asked, called))["messages"] == [asked, called]


def test_groq_is_asked_for_an_answer_in_a_schema_in_one_piece() -> None:
    schema = {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}}
    groq = body(GroqProvider(settings_of()), extra=schema)
    assert groq["stream"] is False
    assert "stream_options" not in groq
    assert groq["response_format"] == schema["response_format"]
    assert body(GroqProvider(settings_of()), extra={"response_format": {"type": "json_object"}})["stream"]
    assert body(GroqProvider(settings_of()), extra={"response_format": "json_schema"})["stream"]
    assert body(TogetherProvider(settings_of()), extra=schema)["stream"] is True


def test_the_key_stands_in_the_authorization_header_and_nowhere_else() -> None:
    for kind in REMOTE:
        provider = kind(settings_of(headers={"X-Title": "t"}))
        encoded = wire(provider)
        headers = dict(encoded.headers)
        assert headers.pop("Authorization") == f"Bearer {KEY}"
        assert headers["X-Title"] == "t"
        assert headers["Content-Type"] == "application/json"
        assert KEY not in repr(headers)
        assert KEY.encode() not in encoded.body
        assert KEY not in encoded.url
    keyless = OpenAICompatibleProvider(settings_of(api_key=None, needs_key=False))
    assert "Authorization" not in dict(wire(keyless).headers)


def test_headers_are_the_same_object_at_every_call() -> None:
    provider = GroqProvider(settings_of())
    assert wire(provider).headers is wire(provider, model=1).headers


def test_no_representation_shows_the_key() -> None:
    own = settings_of()
    provider = GroqProvider(own)
    encoded = wire(provider)
    for thing in (own, own.api_key, provider, encoded, [own], {"x": encoded}, vars(provider).get("settings")):
        for shown in (repr(thing), str(thing), f"{thing}", f"{thing!r}"):
            assert KEY not in shown
            assert KEY[:6] not in shown
    assert repr(Secret(KEY)) == "Secret(***)"


def test_a_secret_is_compared_and_kept_and_never_pickled() -> None:
    secret = Secret(KEY)
    assert secret == Secret(KEY)
    assert secret != Secret("another")
    assert secret != KEY
    assert len({secret, Secret(KEY)}) == 1
    assert secret.reveal() == KEY
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(secret, protocol)
    with pytest.raises(TypeError, match="not pickled"):
        copy.deepcopy(settings_of())


def test_a_missing_key_is_named_with_what_to_set() -> None:
    missing = settings_of(api_key=None, key_variables=("P_API_KEY", "OPENAI_API_KEY"))
    assert (
        OpenAICompatibleProvider(missing).unavailable() == "no key: set P_API_KEY or OPENAI_API_KEY in .env"
    )
    assert OpenAICompatibleProvider(settings_of(api_key=None)).unavailable() == "no key"
    assert OpenAICompatibleProvider(settings_of(api_key=None, needs_key=False)).unavailable() is None
    assert OpenAICompatibleProvider(settings_of()).unavailable() is None


def test_the_cost_is_that_of_the_model_and_unknown_without_a_price() -> None:
    priced = ModelSettings(name="m", price=Price(input_usd_per_1m=0.5, output_usd_per_1m=2.0))
    provider = GroqProvider(settings_of(models=(priced, ModelSettings(name="next"))))
    usage = Usage(input_tokens=1_000_000, output_tokens=500_000)
    assert provider.cost_usd("m", usage) == pytest.approx(1.5)
    assert provider.cost_usd("next", usage) is None
    assert provider.cost_usd("nobody", usage) is None


def test_candidates_carry_the_settings_of_their_provider() -> None:
    own = settings_of(stream_upstream=False, response_timeout_s=9.0, first_token_timeout_s=4.0)
    first, second = GroqProvider(own).candidates()
    assert [first.key, second.key] == [("p", "m"), ("p", "next")]
    assert (first.stream_upstream, first.response_timeout_s, first.first_token_timeout_s) == (False, 9.0, 4.0)
    assert not first.degraded


def test_only_together_reads_the_legacy_shape() -> None:
    assert isinstance(TogetherProvider(settings_of()).decoder(wall=0.0, max_bytes=1), TogetherDecoder)
    assert not isinstance(GroqProvider(settings_of()).decoder(wall=0.0, max_bytes=1), TogetherDecoder)


def embedded(window: int | None = 4096, **options: Any) -> EmbeddedProvider:
    models = (ModelSettings(name="small", context_window=window),)
    return EmbeddedProvider(
        settings_of(type="local", endpoint="", models=models, api_key=None, needs_key=False, **options)
    )


def test_the_embedded_model_keeps_its_own_temperature() -> None:
    assert body(embedded(), temperature=1.9)["temperature"] == 0.2
    assert body(embedded(temperature=0.5), temperature=1.9)["temperature"] == 0.5
    assert body(embedded(temperature=0.0))["temperature"] == 0.0


@pytest.mark.parametrize(
    ("own", "asked", "sent"),
    [(None, None, 160), (None, 20, 20), (None, 900, 160), (300, 900, 300), (300, 20, 20)],
)
def test_of_max_tokens_the_embedded_model_takes_the_smaller(
    own: int | None, asked: int | None, sent: int
) -> None:
    assert body(embedded(max_tokens=own), max_tokens=asked)["max_tokens"] == sent


def test_the_embedded_model_is_given_nothing_that_it_does_not_know() -> None:
    found = body(embedded(), extra={"tools": [], "top_logprobs": 3, "user": "u", "stop": None})
    assert set(found) == {
        "model",
        "messages",
        "temperature",
        "top_p",
        "max_tokens",
        "stream",
        "stream_options",
    }
    assert embedded().candidates()[0].degraded
    assert "Authorization" not in dict(wire(embedded()).headers)


@pytest.mark.parametrize(
    "wish",
    [
        {"stop": "END"},
        {"stop": ["5", "six"]},
        {"seed": 0},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}},
    ],
)
def test_the_embedded_model_keeps_to_the_form_that_is_asked_for(wish: dict[str, Any]) -> None:
    assert body(embedded(), extra=wish).items() >= wish.items()


def test_each_call_of_the_embedded_model_has_its_own_connection() -> None:
    assert dict(wire(embedded()).headers)["Connection"] == "close"


def test_of_content_in_parts_the_embedded_model_gets_the_text() -> None:
    parts = [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {}},
        {"type": "text", "text": "this?"},
    ]
    assert body(embedded(), messages=({"role": "user", "content": parts},))["messages"] == [
        {"role": "user", "content": "What is\nthis?"}
    ]


def test_old_messages_go_first_where_the_history_is_long() -> None:
    messages = tuple({"role": "user", "content": f"{n} " + "word " * 100} for n in range(200))
    kept = body(embedded(), messages=messages)["messages"]
    assert 1 < len(kept) < 200
    assert kept == list(messages[-len(kept) :])


def test_a_smaller_window_holds_less() -> None:
    messages = tuple({"role": "user", "content": f"{n} " + "word " * 40} for n in range(50))
    lengths = [len(body(embedded(window), messages=messages)["messages"]) for window in (300, 600, 1000)]
    assert lengths == sorted(set(lengths))


TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text(max_size=300)}
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None)
@given(TURNS, st.one_of(st.none(), st.integers(1, 3000)))
def test_the_last_message_is_always_kept_and_the_order_too(turns: list[Message], window: int | None) -> None:
    kept = body(embedded(window), messages=tuple(turns))["messages"]
    if len(turns) > 1 and turns[0]["role"] == "system":
        assert kept.pop(0) == turns[0]
    assert kept
    assert kept == turns[-len(kept) :]


def test_a_system_prompt_outlasts_the_old_parts_of_the_conversation() -> None:
    system: Message = {"role": "system", "content": "Answer in French."}
    turns = [{"role": "user", "content": f"{n} " + "word " * 40} for n in range(50)]
    kept = body(embedded(4096), messages=(system, *turns))["messages"]
    assert kept[0] == system
    assert kept[1:] == turns[-len(kept) + 1 :]
    assert 2 < len(kept) < 51
