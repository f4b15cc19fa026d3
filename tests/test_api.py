"""The HTTP API: what callers get for good and bad requests, whatever the providers do."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from openai_api import application, serving
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from fallback.api import Program
from fallback.api.closing import Closing
from fallback.api.encode import answer_object
from fallback.api.middleware import CONTENT_SECURITY_POLICY, Envelope
from fallback.api.routes import GENERATE_FIELDS, routes
from fallback.config import ApiSettings
from fallback.core.errors import ConfigError
from fallback.core.models import Answer, AttemptReport, Choice, Role, Usage
from fallback.router import AsyncModelRouter, ModelRouter, get_router, set_router
from fallback.standin import Fault, StandInThread

KEY = "test-key-not-real"
MAX_BODY_BYTES = ApiSettings().max_body_bytes
JSON = {"content-type": "application/json"}
CONFIG = """
providers:
  - name: groq_llama
    type: groq
    endpoint: {base}/groq_llama/openai/v1/chat/completions
    api_key_env: TEST_GROQ_KEY
    model: model-a
    context_window: 8192
    input_usd_per_1m: 1
    output_usd_per_1m: 2
  - name: together_llama
    type: together
    endpoint: {base}/together_llama/v1/chat/completions
    model: model-b
routing:
  retries: 0
"""


@pytest.fixture
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        server.tenant("groq_llama", dialect="groq", text="Tokyo is the capital.")
        server.tenant("together_llama", dialect="together", text="It is Tokyo.")
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


def ask(client: TestClient, **body: Any) -> Any:
    return client.post("/api/generate", json={"prompt": "What is the capital of Japan?", **body})


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        if block.startswith("event: "):
            name, _, data = block.partition("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def asked(standin: StandInThread) -> int:
    return sum(standin.tenant(name).counters.requests for name in ("groq_llama", "together_llama"))


# A good answer


def test_answer_names_provider_tokens_cost_and_what_happened(client: TestClient) -> None:
    reply = ask(client, system="Be brief.")
    answer = reply.json()
    assert reply.status_code == 200
    assert list(answer)[:4] == ["response", "provider", "model", "activity_log"]
    assert (answer["response"], answer["provider"], answer["model"]) == (
        "Tokyo is the capital.", "groq_llama", "model-a",
    )  # fmt: skip
    assert answer["activity_log"] == [
        "Attempting invocation with groq_llama...",
        "Using groq_llama (model-a)",
        "Successfully generated response using groq_llama",
    ]
    usage = answer["usage"]
    assert usage["output_tokens"] == 4
    assert usage["total_tokens"] == usage["input_tokens"] + 4
    assert answer["cost_usd"] == pytest.approx((usage["input_tokens"] + 8) / 1e6)
    assert answer["finish_reason"] == "stop"
    assert 0 < answer["time_to_first_token_s"] <= answer["latency_s"] < 5
    assert answer["request_id"] == reply.headers["x-request-id"]
    assert answer["degraded"] is False
    assert "note" not in answer
    assert [attempt["outcome"] for attempt in answer["attempts"]] == ["ok"]


def test_failover_shows_both_attempts(client: TestClient, standin: StandInThread) -> None:
    standin.tenant("groq_llama").always(Fault(kind="status", status=503))
    answer = ask(client).json()
    assert (answer["response"], answer["provider"]) == ("It is Tokyo.", "together_llama")
    failed, good = answer["attempts"]
    assert (failed["provider"], failed["role"], failed["outcome"], failed["status"]) == (
        "groq_llama", "first", "overloaded", 503,
    )  # fmt: skip
    assert (good["number"], good["role"], good["outcome"], good["status"]) == (2, "failover", "ok", 200)
    assert "Error with groq_llama: overloaded (HTTP 503)" in answer["activity_log"]
    assert answer["cost_usd"] is None  # together_llama has no price here: unknown, not free


def test_every_parameter_reaches_the_provider(client: TestClient, standin: StandInThread) -> None:
    ask(
        client,
        system="Be brief.",
        messages=[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}],
        model="together_llama",
        temperature=0.25,
        max_tokens=7,
        deadline_s=5,
    )
    assert standin.tenant("groq_llama").counters.requests == 0
    sent = standin.tenant("together_llama").last_requests[0].body
    assert [message["role"] for message in sent["messages"]] == ["system", "user", "assistant", "user"]
    assert (sent["temperature"], sent["max_tokens"]) == (0.25, 7)


def test_null_counts_as_left_out(client: TestClient) -> None:
    assert ask(client, **dict.fromkeys(set(GENERATE_FIELDS) - {"prompt"})).status_code == 200


def test_characters_are_sent_as_they_are(client: TestClient, standin: StandInThread) -> None:
    standin.tenant("groq_llama").configure(text="東京 – é 🗼")
    reply = ask(client)
    assert "東京 – é 🗼" in reply.content.decode("utf-8")
    assert reply.headers["content-type"] == "application/json"


def test_degraded_answer_says_so() -> None:
    answer = Answer(
        request_id="req_1",
        choices=(Choice(index=0, message={"role": "assistant", "content": "Tokyo"}, finish_reason="stop"),),
        provider="local_smollm",
        model="small",
        usage=Usage(),
        cost_usd=0.0,
        latency_s=1.0,
        time_to_first_token_s=None,
        attempts=(
            AttemptReport(number=1, role=Role.FIRST, provider="local_smollm", model="small", outcome="ok"),
        ),
        activity_log=(),
        degraded=True,
    )
    made = answer_object(answer)
    assert made["note"] == "small offline model, may be wrong"
    assert made["time_to_first_token_s"] is None


# Streams


def test_stream_tells_attempts_and_text_and_ends_with_the_whole_answer(
    client: TestClient, standin: StandInThread
) -> None:
    standin.tenant("groq_llama").always(Fault(kind="status", status=500))
    reply = ask(client, stream=True)
    events = events_of(reply.text)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-accel-buffering"] == "no"
    names = [name for name, _ in events]
    assert names[:3] == ["attempt", "attempt_failed", "attempt"]
    assert set(names[3:-1]) == {"delta"}
    assert names[-1] == "done"
    assert "".join(data["text"] for name, data in events if name == "delta") == "It is Tokyo."
    assert all(set(data) == {"text"} for name, data in events if name == "delta")
    done = events[-1][1]
    assert done["response"] == "It is Tokyo."
    assert set(done) == set(ask(client).json())
    assert done["request_id"] == reply.headers["x-request-id"]
    failed = events[1][1]
    assert (failed["provider"], failed["outcome"], failed["status"]) == ("groq_llama", "server_error", 500)
    told = [line for name, data in events[:-1] for line in data.get("activity_log", ())]
    assert done["activity_log"][: len(told)] == told


def test_provider_that_is_left_out_is_told_in_the_stream(client: TestClient, standin: StandInThread) -> None:
    get_router().set_enabled("groq_llama", False)
    events = events_of(ask(client, stream=True).text)
    assert events[0] == (
        "skipped",
        {
            "provider": "groq_llama",
            "model": None,
            "reason": "switched off",
            "activity_log": ["Skipping groq_llama: switched off"],
        },
    )
    assert events[1][0] == "attempt"


def test_stream_that_breaks_ends_with_error_and_never_with_done(
    client: TestClient, standin: StandInThread
) -> None:
    standin.tenant("groq_llama").always(Fault(kind="cut", after_words=2))
    get_router().set_enabled("together_llama", False)
    events = events_of(ask(client, stream=True).text)
    names = [name for name, _ in events]
    assert "delta" in names
    assert "done" not in names
    assert names[-1] == "error"
    assert set(events[-1][1]) == {"error", "error_type", "request_id", "activity_log"}
    assert events[-1][1]["error_type"] == "stream_broken"


def test_stream_without_anybody_to_ask_has_a_status_of_its_own(client: TestClient) -> None:
    for name in ("groq_llama", "together_llama"):
        get_router().set_enabled(name, False)
    reply = ask(client, stream=True)
    assert (reply.status_code, reply.json()["error_type"]) == (503, "providers_failed")
    assert "switched off" in reply.json()["error"]


def test_stream_of_an_unknown_model_is_404(client: TestClient) -> None:
    reply = ask(client, stream=True, model="gpt-9")
    assert (reply.status_code, reply.json()["error_type"]) == (404, "unknown_model")


# Over a real connection: what a test client in the same process cannot show


def open_request(port: int, **body: Any) -> tuple[HTTPConnection, HTTPResponse]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/api/generate", json.dumps({"prompt": "Hello", **body}), JSON)
    return connection, connection.getresponse()


def test_caller_who_leaves_a_stream_ends_the_call_to_the_provider(
    config: Path, standin: StandInThread
) -> None:
    groq = standin.tenant("groq_llama")
    groq.always(Fault(kind="stall", after_words=2, seconds=9))
    with serving(Program(config)) as (port, _):
        connection, reply = open_request(port, stream=True)
        while not reply.readline().startswith(b"event: delta"):
            pass
        left = time.monotonic()
        reply.close()
        connection.close()
        assert groq.wait_for(lambda counters: counters.aborted == 1, 3)
        assert time.monotonic() - left < 1
        assert standin.tenant("together_llama").counters.requests == 0


def test_caller_who_leaves_a_plain_request_ends_the_call_to_the_provider(
    config: Path, standin: StandInThread
) -> None:
    groq = standin.tenant("groq_llama")
    groq.always(Fault(kind="hang", seconds=9))
    with serving(Program(config)) as (port, _):
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/api/generate", b'{"prompt": "Hello"}', JSON)
        assert groq.wait_for(lambda counters: counters.in_flight == 1, 3)
        connection.close()
        assert groq.wait_for(lambda counters: counters.aborted == 1, 3)


def test_silent_stream_is_kept_alive_with_comments(config: Path, standin: StandInThread) -> None:
    standin.tenant("groq_llama").always(Fault(kind="stall", after_words=2, seconds=9))
    with serving(Program(config, keep_alive_s=0.02)) as (port, _):
        connection, reply = open_request(port, stream=True)
        while not reply.readline().startswith(b"event: delta"):
            pass
        while reply.readline() != b": keep-alive\n":
            pass
        reply.close()
        connection.close()


@pytest.mark.parametrize("stream", [True, False])
def test_end_of_the_program_ends_an_answer_with_a_word(
    config: Path, standin: StandInThread, stream: bool
) -> None:
    groq = standin.tenant("groq_llama")
    groq.always(Fault(kind="hang", seconds=9))
    program = Program(config)
    with serving(program) as (port, loop):
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/api/generate", json.dumps({"prompt": "Hello", "stream": stream}), JSON)
        assert groq.wait_for(lambda counters: counters.in_flight == 1, 3)
        loop.call_soon_threadsafe(program.closing.begin)
        reply = connection.getresponse()
        text = reply.read().decode()
        connection.close()
        error = events_of(text)[-1][1] if stream else json.loads(text)
        assert reply.status == (200 if stream else 503)
        assert error["error_type"] == "shutting_down"
        assert groq.wait_for(lambda counters: counters.aborted == 1, 3)


def test_body_that_announces_too_much_is_refused_before_it_is_sent(
    config: Path, standin: StandInThread
) -> None:
    with serving(Program(config)) as (port, _):
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        connection.putrequest("POST", "/api/generate")
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(10 * MAX_BODY_BYTES))
        connection.endheaders()
        reply = connection.getresponse()
        assert reply.status == 413
        assert json.loads(reply.read())["error_type"] == "body_too_large"
        connection.close()


def test_chunked_body_is_counted(config: Path, standin: StandInThread) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(17):
            yield b"a" * (MAX_BODY_BYTES // 16)

    with serving(Program(config)) as (port, _):
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("POST", "/api/generate", pieces(), JSON, encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()
    assert asked(standin) == 0


# Bad input: a sentence that says what to change, and no provider hears of it

BAD: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "no body": (b"", "the body is empty"),
    "blank body": (b"  \n", "the body is empty"),
    "not JSON": (b"prompt=hello", "not JSON: Expecting value in line 1, column 1"),
    "half of it": (b'{"prompt": "a', "not JSON"),
    "not UTF-8": (b'{"prompt": "\xff"}', "not UTF-8 (byte 12)"),
    "UTF-16": ('{"prompt": "a"}'.encode("utf-16"), "not UTF-8"),
    "NaN": (b'{"prompt": "a", "temperature": NaN}', "NaN is not JSON"),
    "Infinity": (b'{"prompt": "a", "deadline_s": -Infinity}', "-Infinity is not JSON"),
    "infinite float": (b'{"prompt": "a", "deadline_s": 1e999}', "a number is too large"),
    "huge int": (b'{"prompt": "a", "deadline_s": 1' + b"0" * 400 + b"}", "a number is too large"),
    "unreadable int": (b'{"prompt": "a", "deadline_s": 1' + b"0" * 9000 + b"}", "a number is too large"),
    "key twice": (b'{"prompt": "a", "prompt": "b"}', 'the key "prompt" stands twice'),
    "inner key twice": (b'{"messages": [{"role": "user", "role": "user"}]}', 'the key "role" stands twice'),
    "list": (b'["a"]', "not a list"),
    "text": (b'"a"', "not a text"),
    "null": (b"null", "not null"),
    "number": (b"1", "not a number"),
    "too deep": (b'{"messages": ' + b"[" * 100 + b"]" * 100 + b"}", "nested more than 64 levels"),
    "far too deep": (b'{"prompt": ' + b"[" * 300_000, "nested more than 64 levels"),
    "lone surrogate": (b'{"prompt": "\\ud83d"}', "half of a character"),
    "surrogate in a part": (
        b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "\\udc00"}]}]}',
        "half of a character",
    ),
    "no prompt": ({"system": "Be brief."}, "there is no question"),
    "empty prompt": ({"prompt": ""}, "prompt is empty"),
    "blank prompt": ({"prompt": " \n"}, "prompt is empty"),
    "prompt of a wrong type": ({"prompt": 5}, "prompt must be a text"),
    "prompt as a list": ({"prompt": ["a"]}, "prompt must be a text"),
    "system of a wrong type": ({"prompt": "a", "system": 1}, "system must be a text"),
    "messages as a text": ({"messages": "a"}, "messages must be a list"),
    "unknown role": ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role must be one of"),
    "message without content": ({"messages": [{"role": "user"}]}, "messages[0].content must be"),
    "model of a wrong type": ({"prompt": "a", "model": 1}, "model must be a name"),
    "hot temperature": ({"prompt": "a", "temperature": 3}, "temperature must be a number from 0 to 2"),
    "negative temperature": ({"prompt": "a", "temperature": -0.1}, "temperature must be"),
    "temperature as a text": ({"prompt": "a", "temperature": "0.5"}, "temperature must be"),
    "temperature as a truth": ({"prompt": "a", "temperature": True}, "temperature must be"),
    "no tokens": ({"prompt": "a", "max_tokens": 0}, "max_tokens must be a whole number"),
    "negative tokens": ({"prompt": "a", "max_tokens": -5}, "max_tokens must be a whole number"),
    "half a token": ({"prompt": "a", "max_tokens": 1.5}, "max_tokens must be a whole number"),
    "no time": ({"prompt": "a", "deadline_s": 0}, "deadline_s must be"),
    "negative time": ({"prompt": "a", "deadline_s": -1}, "deadline_s must be"),
    "stream as a text": ({"prompt": "a", "stream": "yes"}, "stream must be true or false"),
    "unknown key": ({"prompt": "a", "temprature": 0.5}, "'temprature'; did you mean \"temperature\"?"),
    "quite unknown key": ({"prompt": "a", "xyz": 1}, "'xyz'; known are prompt, system"),
    "key of odd characters": ({"prompt": "a", "\u202eé": 1}, "unknown key '\\u202e\\xe9'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_400_and_reaches_no_provider(
    client: TestClient, standin: StandInThread, case: str
) -> None:
    body, sentence = BAD[case]
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = client.post("/api/generate", content=raw, headers=JSON)
    assert reply.status_code == 400
    error = reply.json()
    assert set(error) == {"error", "error_type", "request_id", "activity_log"}
    assert sentence in error["error"]
    assert error["request_id"] == reply.headers["x-request-id"]
    assert asked(standin) == 0


def test_unknown_model_is_404_and_names_the_known_ones(client: TestClient, standin: StandInThread) -> None:
    reply = ask(client, model="gpt-9")
    assert (reply.status_code, reply.json()["error_type"]) == (404, "unknown_model")
    assert "auto, groq_llama, together_llama, model-a, model-b" in reply.json()["error"]
    assert asked(standin) == 0


def test_prompt_of_10_mib_is_413(client: TestClient, standin: StandInThread) -> None:
    reply = ask(client, prompt="a" * 10 * MAX_BODY_BYTES)
    assert (reply.status_code, reply.json()["error_type"]) == (413, "body_too_large")
    assert asked(standin) == 0


def test_body_of_exactly_1_mib_is_taken(client: TestClient) -> None:
    body = '{"prompt": "a"}'.ljust(MAX_BODY_BYTES)
    assert client.post("/api/generate", content=body, headers=JSON).status_code == 200
    assert client.post("/api/generate", content=body + " ", headers=JSON).status_code == 413


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/jsonx"},
        {"content-type": "application/json; charset=latin-1"},
        {**JSON, "content-encoding": "gzip"},
    ],
)
def test_anything_but_plain_json_in_utf8_is_415(
    client: TestClient, standin: StandInThread, headers: dict[str, str]
) -> None:
    reply = client.post("/api/generate", content=b'{"prompt": "a"}', headers=headers)
    assert (reply.status_code, reply.json()["error_type"]) == (415, "unsupported_media_type")
    assert asked(standin) == 0


@pytest.mark.parametrize("header", ["application/json; charset=UTF-8", 'Application/JSON;charset="utf-8"'])
def test_json_with_its_charset_is_taken(client: TestClient, header: str) -> None:
    headers = {"content-type": header}
    assert client.post("/api/generate", content=b'{"prompt": "a"}', headers=headers).status_code == 200


def test_byte_order_mark_is_taken(client: TestClient) -> None:
    body = b'\xef\xbb\xbf{"prompt": "a"}'
    assert client.post("/api/generate", content=body, headers=JSON).status_code == 200


# When no provider has an answer


def everywhere(standin: StandInThread, fault: Fault) -> None:
    for name in ("groq_llama", "together_llama"):
        standin.tenant(name).always(fault)


def refused(code: str, message: str) -> str:
    return json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": code}})


def test_rate_limited_everywhere_is_429_with_whole_seconds(
    client: TestClient, standin: StandInThread
) -> None:
    everywhere(standin, Fault(kind="status", status=429, retry_after="6.2"))
    reply = ask(client)
    assert (reply.status_code, reply.json()["error_type"]) == (429, "rate_limited")
    assert re.fullmatch(r"[78]", reply.headers["retry-after"])
    assert any(
        "Error with together_llama: rate_limited (HTTP 429)" in x for x in reply.json()["activity_log"]
    )


def test_stream_while_everybody_cools_down_is_429_too(client: TestClient, standin: StandInThread) -> None:
    everywhere(standin, Fault(kind="status", status=429, retry_after="60"))
    ask(client)
    reply = ask(client, stream=True)
    if reply.status_code == 200:  # the one that recovers soonest was asked anyway
        assert events_of(reply.text)[-1][1]["error_type"] == "rate_limited"
    else:
        assert reply.status_code == 429


def test_failed_everywhere_is_503(client: TestClient, standin: StandInThread) -> None:
    everywhere(standin, Fault(kind="status", status=500))
    reply = ask(client)
    error = reply.json()
    assert (reply.status_code, error["error_type"]) == (503, "providers_failed")
    assert "groq_llama: server_error (HTTP 500)" in error["error"]
    assert error["activity_log"][0] == "Attempting invocation with groq_llama..."


def test_deadline_is_504(client: TestClient, standin: StandInThread) -> None:
    everywhere(standin, Fault(kind="hang", seconds=9))
    reply = ask(client, deadline_s=0.2)
    assert (reply.status_code, reply.json()["error_type"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize(
    ("code", "message", "error_type"),
    [
        ("context_length_exceeded", "Please reduce the length of the messages", "context_window_exceeded"),
        ("content_policy_violation", "refused by our safety system", "content_policy"),
    ],
)
def test_request_that_is_at_fault_itself_is_400(
    client: TestClient, standin: StandInThread, code: str, message: str, error_type: str
) -> None:
    everywhere(standin, Fault(kind="status", status=400, body=refused(code, message)))
    reply = ask(client)
    assert (reply.status_code, reply.json()["error_type"]) == (400, error_type)


def test_key_that_a_provider_echoes_appears_nowhere(
    client: TestClient, standin: StandInThread, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    standin.tenant("groq_llama").always(Fault(kind="echo_key"))
    replies = [ask(client).text, ask(client, stream=True).text, client.get("/readyz").text]
    get_router().set_enabled("together_llama", False)
    replies += [ask(client).text, ask(client, stream=True).text]
    assert standin.tenant("groq_llama").last_requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in "".join(replies) + caplog.text
    logged = "".join(file.read_bytes().decode("latin-1") for file in (tmp_path / "logs").iterdir())
    assert "authentication" in logged
    assert KEY not in logged


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


def test_unexpected_exception_is_500_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    app = Starlette(routes=routes(Broken()), middleware=[Middleware(Envelope)])
    with caplog.at_level(logging.ERROR):
        reply = ask(TestClient(app))
    error = reply.json()
    assert (reply.status_code, error["error_type"]) == (500, "internal_error")
    assert error["request_id"] in caplog.text
    assert "LookupError" in caplog.text
    assert KEY not in reply.text + caplog.text


# The other routes


def test_healthz_is_ok_whatever_the_providers_do(client: TestClient) -> None:
    for name in ("groq_llama", "together_llama"):
        get_router().set_enabled(name, False)
    reply = client.get("/healthz")
    assert (reply.status_code, reply.json()) == (200, {"status": "ok"})
    assert client.head("/healthz").status_code == 200


def test_readyz_tells_the_state_of_every_provider(client: TestClient) -> None:
    reply = client.get("/readyz")
    assert (reply.status_code, reply.json()["status"]) == (200, "ready")
    for name in ("groq_llama", "together_llama"):
        get_router().set_enabled(name, False)
    reply = client.get("/readyz")
    assert (reply.status_code, reply.json()["status"]) == (503, "not_ready")
    first = reply.json()["providers"][0]
    assert (first["name"], first["state"], first["model"]) == ("groq_llama", "off", "model-a")
    assert "off" in first["text"]


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/nothing", "/api/generate/"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_unknown_path_is_404_as_json(client: TestClient, path: str, method: str) -> None:
    reply = client.request(method, path)
    assert (reply.status_code, reply.json()["error_type"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/api/generate", "POST, OPTIONS"),
        ("PUT", "/api/generate", "POST, OPTIONS"),
        ("HEAD", "/api/generate", "POST, OPTIONS"),
        ("POST", "/healthz", "GET, HEAD, OPTIONS"),
        ("DELETE", "/readyz", "GET, HEAD, OPTIONS"),
    ],
)
def test_wrong_method_is_405_as_json_and_says_what_is_allowed(
    client: TestClient, method: str, path: str, allow: str
) -> None:
    reply = client.request(method, path)
    assert (reply.status_code, reply.headers["allow"]) == (405, allow)
    assert method == "HEAD" or reply.json()["error_type"] == "method_not_allowed"


def test_options_says_what_is_allowed_and_permits_no_other_origin(client: TestClient) -> None:
    headers = {"origin": "https://example.com", "access-control-request-method": "POST"}
    reply = client.options("/api/generate", headers=headers)
    assert (reply.status_code, reply.headers["allow"]) == (204, "POST, OPTIONS")
    assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/healthz", "/api/nothing", "/outside"])
def test_every_answer_carries_the_security_headers_and_an_id_of_its_own(
    client: TestClient, path: str
) -> None:
    first, second = client.get(path), client.get(path)
    assert first.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert first.headers["x-content-type-options"] == "nosniff"
    assert first.headers["referrer-policy"] == "no-referrer"
    assert re.fullmatch(r"req_[0-9a-f]{32}", first.headers["x-request-id"])
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


# Start and end


def test_router_of_the_program_is_the_dashboards_and_ends_with_it(config: Path) -> None:
    with TestClient(application(Program(config))):
        assert get_router().invoke("Hello").text == "Tokyo is the capital."
    with pytest.raises(RuntimeError):
        get_router()


def test_router_that_was_set_before_is_used_and_left_open(config: Path, standin: StandInThread) -> None:
    with ModelRouter(config) as router:
        set_router(router)
        try:
            with TestClient(application(Program("does-not-exist.yaml"))) as client:
                assert ask(client).status_code == 200
            assert get_router() is router
            assert router.invoke("Hello").text == "Tokyo is the capital."
        finally:
            set_router(None)


def test_environment_names_another_configuration(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALLBACK_CONFIG", str(config))
    with TestClient(application(Program("does-not-exist.yaml"))) as client:
        assert client.get("/readyz").json()["providers"][0]["name"] == "groq_llama"


def test_wrong_configuration_stops_the_start_with_its_problems_alone(tmp_path: Path) -> None:
    file = tmp_path / "providers.yaml"
    file.write_text("providers:\n  - name: a\n    modle: b\n")
    program = Program(file)
    app = application(program)
    told: list[dict[str, Any]] = []

    async def start() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None:
            told.append(message)

        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)

    with pytest.raises(ConfigError):
        asyncio.run(start())
    assert told[0]["type"] == "lifespan.startup.failed"
    assert 'providers[0].modle: unknown key; did you mean "model"?' in told[0]["message"]
    assert "Traceback" not in told[0]["message"]


# The documentation


def test_documentation_names_every_route_field_and_status(client: TestClient, standin: StandInThread) -> None:
    text = Path(__file__).parents[1].joinpath("docs/http.md").read_text()
    rows = set(re.findall(r"^\| `([^`]+)`", text, re.MULTILINE))
    headings = set(re.findall(r"^#+ `?([^`\n]+)`?$", text, re.MULTILINE))
    assert {"POST /api/generate", "GET /healthz", "GET /readyz"} <= headings
    answer = ask(client).json()
    get_router().set_enabled("groq_llama", False)
    skipped = events_of(ask(client, stream=True).text)
    get_router().set_enabled("groq_llama", True)
    standin.tenant("groq_llama").always(Fault(kind="status", status=500))
    events = skipped + events_of(ask(client, stream=True).text)
    fields = set(answer) | {"note"} | set(answer["usage"]) | set(answer["attempts"][0])
    fields |= set(client.get("/readyz").json()["providers"][0]) | set(client.get("/api/x").json())
    fields |= set(GENERATE_FIELDS) | {name for _, data in events for name in data}
    fields |= {name for name, _ in events} | {"waiting", "error"}
    assert fields - rows == set()
    statuses = {
        "200",
        "204",
        "400",
        "401",
        "403",
        "404",
        "421",
        "405",
        "408",
        "413",
        "415",
        "429",
        "500",
        "503",
        "504",
    }
    assert statuses - rows == set()
