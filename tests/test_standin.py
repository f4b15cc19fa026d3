"""The stand-in provider: every answer and every fault through real sockets."""

import ast
import asyncio
import contextlib
import fcntl
import gc
import gzip
import http.client
import json
import signal
import socket
import subprocess
import sys
import termios
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests

import fallback.standin
from fallback.standin import (
    FAULT_KINDS,
    Case,
    Fault,
    FaultKind,
    StandIn,
    StandInThread,
    Tenant,
    load_cases,
    refused_port,
)

CASES = load_cases(Path(__file__).parent / "wire_cases.yaml")
SERVED = [case for case in CASES.values() if case.status is not None]
WORDS = [f"w{number}" for number in range(1, 61)]
KEY = "test-key-not-real"
HANG = 30.0  # a silence that no test sits out


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread(cases=CASES) as running:
        yield running


@pytest.fixture
def tenant(standin: StandInThread, request: pytest.FixtureRequest) -> Tenant:
    return standin.tenant(f"t{abs(hash(request.node.nodeid))}", dialect="groq")


def ask(stream: bool = False, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "say it"}], "stream": stream, **more}


@dataclass
class Raw:
    """What a plain socket saw. `ending` is "eof", "reset" or "silence"."""

    status: int
    headers: dict[str, str]
    body: bytes
    ending: str

    def unframed(self) -> tuple[bytes, bool]:
        """Give the body without its framing, and whether it came whole."""
        if "content-length" in self.headers:
            return self.body, len(self.body) == int(self.headers["content-length"])
        rest, out = self.body, b""
        while rest:
            line, _, rest = rest.partition(b"\r\n")
            size = int(line, 16)
            if size == 0:
                return out, rest == b"\r\n"
            out, rest = out + rest[:size], rest[size + 2 :]
        return out, False


def raw(tenant: Tenant, body: dict[str, Any], *, silence_s: float = 3.0, method: str = "POST") -> Raw:
    """Send one request from a plain socket and read until it ends, or nothing comes for `silence_s`."""
    host, _, path = tenant.url.removeprefix("http://").partition("/")
    payload = json.dumps(body).encode()
    lines = (
        f"{method} /{path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
    )
    data = b""
    ending = "eof"
    with socket.create_connection(("127.0.0.1", int(host.partition(":")[2]))) as client:
        client.sendall(f"{lines}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        client.settimeout(silence_s)
        try:
            while piece := client.recv(1 << 20):
                data += piece
        except ConnectionResetError:
            ending = "reset"
        except TimeoutError:
            ending = "silence"
    if not data.startswith(b"HTTP/1.1 ") or b"\r\n\r\n" not in data:
        return Raw(0, {}, data, ending)
    head, _, rest = data.partition(b"\r\n\r\n")
    status_line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    return Raw(int(status_line.split()[1]), headers, rest, ending)


def whole(tenant: Tenant, body: dict[str, Any]) -> bytes:
    body_bytes, complete = raw(tenant, body).unframed()
    assert complete
    return body_bytes


def events(body: bytes) -> list[Any]:
    """Give the JSON of every data line that holds one, "[DONE]" as it is, None for one that cannot be read."""
    found: list[Any] = []
    for line in body.splitlines():
        if line.startswith(b"data: "):
            try:
                found.append("[DONE]" if line == b"data: [DONE]" else json.loads(line[6:]))
            except ValueError:
                found.append(None)
    return found


def said(found: list[Any], index: int = 0) -> str:
    choices = [choice for event in found if isinstance(event, dict) for choice in event.get("choices", [])]
    return "".join(c["delta"].get("content") or "" for c in choices if c["index"] == index)


def finishes(found: list[Any]) -> list[str]:
    choices = [choice for event in found if isinstance(event, dict) for choice in event.get("choices", [])]
    return [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]


def shape(value: Any) -> Any:
    """Give the structure of a JSON value: keys without values, the first entry of a list."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else type(value).__name__


# ---- good answers


@pytest.mark.parametrize(("dialect", "case"), [("groq", "groq_ok"), ("together", "together_ok")])
def test_a_plain_answer_has_the_recorded_shape_and_headers(tenant: Tenant, dialect: str, case: str) -> None:
    tenant.configure(dialect=dialect)
    seen = raw(tenant, ask())
    answer = json.loads(seen.body)
    assert shape(answer) == shape(json.loads(CASES[case].body))
    assert answer["choices"][0]["message"]["content"] == " ".join(WORDS)
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (2, 60, 62)
    recorded = {name for name, _ in CASES[case].headers}
    assert recorded - set(seen.headers) <= {"x-api-received"}
    assert seen.headers["content-type"] == dict(CASES[case].headers)["content-type"]


@pytest.mark.parametrize(
    ("dialect", "case", "options"),
    [
        ("groq", "groq_stream_ok_include_usage", {"stream_options": {"include_usage": True}}),
        ("groq", "groq_stream_ok_x_groq_usage", {}),
        ("together", "together_stream_ok", {}),
    ],
)
def test_a_stream_has_the_recorded_events(
    tenant: Tenant, dialect: str, case: str, options: dict[str, Any]
) -> None:
    recorded = events(CASES[case].body)
    text = said(recorded)
    tokens = [said([event]) for event in recorded if event != "[DONE]" and said([event])]
    tenant.configure(dialect=dialect, text=text if len(tokens) == 1 else " ".join(tokens))
    seen = raw(tenant, ask(stream=True, **options))
    body, complete = seen.unframed()
    assert complete
    assert seen.headers["content-type"] == dict(CASES[case].headers)["content-type"]
    got = events(body)

    def plain_shape(event: Any) -> Any:
        found = shape(event)
        if isinstance(found, dict) and "x_groq" in found:
            found["x_groq"].pop("seed", None)
        for choice in (
            found["choices"] if isinstance(found, dict) and isinstance(found["choices"], list) else []
        ):
            choice["delta"].pop("token_id", None)
            choice.pop("seed", None)
        return found

    assert [plain_shape(event) for event in got] == [plain_shape(event) for event in recorded]


def test_openai_sends_usage_of_a_stream_only_when_asked(tenant: Tenant) -> None:
    tenant.configure(dialect="openai")
    bare = events(whole(tenant, ask(stream=True)))
    assert said(bare).split() == WORDS
    assert not any(event.get("usage") for event in bare[:-1])
    asked = events(whole(tenant, ask(stream=True, stream_options={"include_usage": True})))
    assert asked[-2]["choices"] == []
    assert asked[-2]["usage"] == {"prompt_tokens": 2, "completion_tokens": 60, "total_tokens": 62}


@pytest.mark.parametrize("dialect", ["groq", "together", "openai"])
def test_n_choices_come_whole_and_max_tokens_cuts_with_length(tenant: Tenant, dialect: str) -> None:
    tenant.configure(dialect=dialect)
    found = events(whole(tenant, ask(stream=True, n=3, max_tokens=5)))
    assert [said(found, index) for index in range(3)] == [" ".join(WORDS[:5])] * 3
    assert finishes(found) == ["length"] * 3
    plain = json.loads(whole(tenant, ask(n=2)))
    assert [choice["index"] for choice in plain["choices"]] == [0, 1]
    assert plain["usage"]["completion_tokens"] == 120
    assert plain["choices"][0]["finish_reason"] == "stop"


def test_a_demanded_tool_is_called_in_pieces(tenant: Tenant) -> None:
    def tool(name: str) -> dict[str, Any]:
        schema = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
        return {"type": "function", "function": {"name": name, "parameters": schema}}

    tools = [tool("first"), tool("second")]
    named = ask(stream=True, tools=tools, tool_choice={"type": "function", "function": {"name": "second"}})
    found = events(whole(tenant, named))
    parts = [
        c["delta"]["tool_calls"][0] for e in found[:-1] for c in e["choices"] if "tool_calls" in c["delta"]
    ]
    assert parts[0]["function"]["name"] == "second"
    assert len(parts) > 3
    assert json.loads("".join(part["function"]["arguments"] for part in parts)) == {"city": "w1", "days": 1}
    assert finishes(found) == ["tool_calls"]
    both = json.loads(whole(tenant, ask(tools=tools, tool_choice="required", parallel_tool_calls=True)))
    calls = both["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["first", "second"]
    one = json.loads(whole(tenant, ask(tools=tools, tool_choice="required")))
    assert len(one["choices"][0]["message"]["tool_calls"]) == 1
    unasked = json.loads(whole(tenant, ask(tools=tools)))
    assert unasked["choices"][0]["message"]["content"]


def test_the_legacy_path_answers_in_the_legacy_shape(standin: StandInThread) -> None:
    answer = requests.post(
        f"{standin.base_url}/old/inference", json={"model": "m", "prompt": "a b c"}, timeout=5
    )
    recorded = shape(json.loads(CASES["together_legacy_inference_ok"].body))
    got = answer.json()
    assert set(shape(got)) == set(recorded)
    assert got["output"]["usage"] == {"prompt_tokens": 3, "completion_tokens": 60, "total_tokens": 63}
    assert got["output"]["choices"][0]["text"].split() == WORDS


def test_models_are_listed_as_the_dialect_has_it(standin: StandInThread) -> None:
    url = f"{standin.base_url}/lists/v1/models"
    standin.tenant("lists", dialect="openai", models=("a", "b"))
    assert [entry["id"] for entry in requests.get(url, timeout=5).json()["data"]] == ["a", "b"]
    standin.tenant("lists", dialect="together")
    assert [entry["id"] for entry in requests.get(url, timeout=5).json()] == ["a", "b"]


@pytest.mark.parametrize(
    ("dialect", "status", "code"),
    [("groq", 404, "model_not_found"), ("together", 400, "model_not_available")],
)
def test_a_retired_model_is_refused_and_another_one_answers(
    tenant: Tenant, dialect: str, status: int, code: str
) -> None:
    tenant.configure(dialect=dialect, retired_models=("m",))
    seen = raw(tenant, ask())
    assert (seen.status, json.loads(seen.body)["error"]["code"]) == (status, code)
    assert raw(tenant, ask() | {"model": "other"}).status == 200


def test_ids_differ_and_the_time_is_now(tenant: Tenant) -> None:
    first, second = json.loads(whole(tenant, ask())), json.loads(whole(tenant, ask()))
    assert first["id"] != second["id"]
    assert abs(first["created"] - time.time()) < 10


# ---- continuing


def continued(tenant: Tenant, begun: str, ask_for_more: str | None = None) -> str:
    messages = [{"role": "user", "content": "say it"}, {"role": "assistant", "content": begun}]
    if ask_for_more is not None:
        messages.append({"role": "user", "content": ask_for_more})
    return said(events(whole(tenant, ask(stream=True) | {"messages": messages})))


def test_a_prefill_is_gone_on_from_ignored_or_refused(tenant: Tenant) -> None:
    begun = " ".join(WORDS[:40])
    assert begun + continued(tenant, begun) == " ".join(WORDS)
    tenant.configure(overlap_words=2)
    assert continued(tenant, begun) == " " + " ".join(WORDS[38:])
    tenant.configure(prefill="ignore")
    assert continued(tenant, begun) == " ".join(WORDS)
    tenant.configure(prefill="refuse")
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": begun}]
    assert raw(tenant, ask() | {"messages": messages}).status == 400


def test_groq_refuses_what_it_does_not_know_in_an_answer_and_a_stream_that_keeps_to_a_schema(
    tenant: Tenant,
) -> None:
    call: dict[str, Any] = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    known: dict[str, Any] = {
        "role": "assistant",
        "content": None,
        "reasoning": "r",
        "name": "n",
        "tool_calls": [call],
    }
    schema = {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}}

    def status(answer: dict[str, Any], **more: Any) -> int:
        messages = [{"role": "user", "content": "x"}, answer, {"role": "user", "content": "y"}]
        return raw(tenant, ask(**more) | {"messages": messages}).status

    assert status(known, **schema) == status(known, stream=True) == 200
    unknown = [
        known | {"refusal": None},
        known | {"tool_calls": [call | {"index": 0}]},
        known | {"tool_calls": [call | {"function": call["function"] | {"parsed_arguments": {}}}]},
    ]
    assert [status(answer) for answer in unknown] == [400] * 3
    assert status(known, stream=True, **schema) == 400
    tenant.configure(dialect="together")
    assert [status(answer, stream=True, **schema) for answer in unknown] == [200] * 3


def test_being_asked_to_continue_goes_on_only_then(tenant: Tenant) -> None:
    begun = " ".join(WORDS[:40])
    assert begun + continued(tenant, begun, "Please go on from exactly there.") == " ".join(WORDS)
    assert continued(tenant, begun, "What is the capital of Japan?") == " ".join(WORDS)
    assert continued(tenant, " ".join(WORDS), "continue") == " ".join(WORDS)
    tenant.configure(on_ask="ignore")
    assert continued(tenant, begun, "Please continue.") == " ".join(WORDS)


# ---- faults


def answered(tenant: Tenant, fault: Fault, *, stream: bool, silence_s: float = 3.0) -> Raw:
    tenant.play(fault)
    seen = raw(tenant, ask(stream=stream), silence_s=silence_s)
    assert tenant.wait_for(lambda counters: counters.in_flight == 0)
    return seen


def silence_of(ending: str) -> float:
    """Return the seconds without a byte after which nothing more is expected; a busy machine takes its time."""
    return 1.0 if ending == "silence" else 10.0


@pytest.mark.parametrize("status", [401, 402, 403, 404, 413, 429, 498, 500, 502, 503, 504, 524, 529])
def test_a_status_comes_with_an_error_of_the_dialect_or_the_given_body(tenant: Tenant, status: int) -> None:
    usual = answered(tenant, Fault(kind="status", status=status, retry_after="7"), stream=True)
    assert (usual.status, usual.headers["retry-after"]) == (status, "7")
    assert json.loads(usual.body)["error"]["message"]
    page = answered(tenant, Fault(kind="status", status=status, html=True), stream=False)
    assert page.headers["content-type"].startswith("text/html")
    assert page.body.startswith(b"<!DOCTYPE html>")
    own = Fault(kind="status", status=status, body="odd", content_type="text/odd", headers={"X-Own": "1"})
    seen = answered(tenant, own, stream=False)
    assert (seen.body, seen.headers["content-type"], seen.headers["x-own"]) == (b"odd", "text/odd", "1")


def one(kind: FaultKind, **settings: Any) -> Fault:
    return Fault(kind=kind, **settings)


# fault, what a stream then shows: status, ending, whole framing, words said, finish reasons, [DONE] there
STREAM_FAULTS: list[tuple[Fault, tuple[int, str, bool, int, list[str], bool]]] = [
    (one("none"), (200, "eof", True, 60, ["stop"], True)),
    (one("reset"), (0, "reset", False, 0, [], False)),
    (one("close"), (0, "eof", False, 0, [], False)),
    (one("hang", seconds=HANG), (0, "silence", False, 0, [], False)),
    (one("hang_after_headers", seconds=HANG), (200, "silence", False, 0, [], False)),
    (one("slow_first_token", seconds=0.05), (200, "eof", True, 60, ["stop"], True)),
    (one("stall", after_words=7, seconds=HANG), (200, "silence", False, 7, [], False)),
    (one("cut", after_words=40), (200, "eof", True, 40, [], False)),
    (one("cut", after_words=40, ending="close"), (200, "eof", False, 40, [], False)),
    (one("cut", after_words=40, ending="reset"), (200, "reset", False, 40, [], False)),
    (one("error_event"), (200, "eof", True, 0, [], False)),
    (one("error_event", after_words=9, shape="event"), (200, "eof", True, 9, [], False)),
    (one("malformed_event"), (200, "eof", True, 60, ["stop"], True)),
    (one("malformed_event", after_words=30), (200, "eof", True, 60, ["stop"], True)),
    (one("no_finish"), (200, "eof", True, 60, [], True)),
    (one("no_done"), (200, "eof", True, 60, ["stop"], False)),
    (one("content_filter", after_words=4), (200, "eof", True, 4, ["content_filter"], True)),
    (one("empty"), (200, "eof", True, 0, ["stop"], True)),
    (one("no_choices"), (200, "eof", True, 0, [], True)),
    (one("wrong_type"), (200, "eof", True, 60, ["stop"], True)),
    (one("keepalives", count=3, interval_s=0.0), (200, "eof", True, 60, ["stop"], True)),
    (one("keepalives", interval_s=HANG), (200, "silence", False, 0, [], False)),
    (one("crlf"), (200, "eof", True, 60, ["stop"], True)),
    (one("split", split_bytes=3), (200, "eof", True, 60, ["stop"], True)),
    (one("invalid_utf8", after_words=20), (200, "eof", True, 60, ["stop"], True)),
    (one("trickle", interval_s=0.0), (200, "eof", True, 60, ["stop"], True)),
    (one("trickle", part="headers", interval_s=0.0), (200, "eof", True, 60, ["stop"], True)),
    (one("empty_body"), (200, "eof", True, 0, [], False)),
]


@pytest.mark.parametrize(("fault", "expected"), STREAM_FAULTS, ids=lambda value: getattr(value, "kind", ""))
def test_a_fault_of_a_stream_does_what_it_says(
    tenant: Tenant, fault: Fault, expected: tuple[int, str, bool, int, list[str], bool]
) -> None:
    seen = answered(tenant, fault, stream=True, silence_s=silence_of(expected[1]))
    body, complete = seen.unframed() if seen.status else (b"", False)
    found = events(body)
    count = len(said(found).split())
    assert said(found).split() == WORDS[:count]
    assert (seen.status, seen.ending, complete, count, finishes(found), "[DONE]" in found) == expected


# fault, what a plain answer then shows: status, ending, whole framing, JSON readable
PLAIN_FAULTS: list[tuple[Fault, tuple[int, str, bool, bool]]] = [
    (one("reset"), (0, "reset", False, False)),
    (one("close"), (0, "eof", False, False)),
    (one("hang", seconds=HANG), (0, "silence", False, False)),
    (one("hang_after_headers", seconds=HANG), (200, "silence", False, False)),
    (one("stall", after_words=7, seconds=HANG), (200, "silence", False, False)),
    (one("cut", after_words=40), (200, "eof", True, False)),
    (one("cut", after_words=40, ending="close"), (200, "eof", False, False)),
    (one("cut", after_words=40, ending="reset"), (200, "reset", False, False)),
    (one("malformed_event"), (200, "eof", True, False)),
    (one("truncated_json"), (200, "eof", False, False)),
    (one("empty_body"), (200, "eof", True, False)),
    (one("html"), (200, "eof", True, False)),
    (one("keepalives", count=3, interval_s=0.0), (200, "eof", True, True)),
    (one("slow_first_token", seconds=0.05), (200, "eof", True, True)),
    (one("trickle", interval_s=0.0), (200, "eof", True, True)),
    (one("trickle", part="headers", interval_s=0.0), (200, "eof", True, True)),
    (one("split", split_bytes=3), (200, "eof", True, True)),
    (one("invalid_utf8"), (200, "eof", True, False)),
]


@pytest.mark.parametrize(("fault", "expected"), PLAIN_FAULTS, ids=lambda value: getattr(value, "kind", ""))
def test_a_fault_of_a_plain_answer_does_what_it_says(
    tenant: Tenant, fault: Fault, expected: tuple[int, str, bool, bool]
) -> None:
    seen = answered(tenant, fault, stream=False, silence_s=silence_of(expected[1]))
    body, complete = seen.unframed() if seen.status else (b"", False)
    readable = False
    with contextlib.suppress(ValueError):
        readable = json.loads(body)["choices"][0]["message"]["content"].split() == WORDS
    assert (seen.status, seen.ending, complete, readable) == expected


@pytest.mark.parametrize("stream", [False, True])
def test_faults_of_content_look_as_described(tenant: Tenant, stream: bool) -> None:
    def body_of(fault: Fault) -> bytes:
        return answered(tenant, fault, stream=stream).unframed()[0]

    assert KEY in json.loads(body_of(one("echo_key")))["error"]["message"]
    assert json.loads(body_of(one("error_200", status=429)))["error"]["code"] == 429
    assert answered(tenant, one("html"), stream=stream).headers["content-type"].startswith("text/html")
    assert answered(tenant, one("wrong_type"), stream=stream).headers["content-type"].startswith("text/plain")
    assert b"\xff\xfe" in body_of(one("invalid_utf8"))
    moved = answered(tenant, one("redirect", location="http://127.0.0.1:9/x"), stream=stream)
    assert (moved.status, moved.headers["location"]) == (302, "http://127.0.0.1:9/x")
    assert not answered(tenant, one("garbage"), stream=stream).body.startswith(b"HTTP")
    blank = body_of(one("empty", text="  \n"))
    text = said(events(blank)) if stream else json.loads(blank)["choices"][0]["message"]["content"]
    assert text == "  \n"
    none = body_of(one("no_choices"))
    assert (
        all(event["choices"] == [] for event in events(none)[:-1])
        if stream
        else not json.loads(none)["choices"]
    )


def test_an_error_event_has_the_asked_shape_and_a_malformed_one_is_in_its_place(tenant: Tenant) -> None:
    named = answered(
        tenant, one("error_event", after_words=2, shape="event", status=400), stream=True
    ).unframed()[0]
    assert b"\n\nevent: error\ndata: {" in named
    assert events(named)[-1]["error"]["status_code"] == 400
    bare = answered(tenant, one("error_event", body='{"error":"odd"}'), stream=True).unframed()[0]
    assert bare == b'data: {"error":"odd"}\n\n'
    found = events(answered(tenant, one("malformed_event", after_words=30), stream=True).unframed()[0])
    assert len(said(found[: found.index(None)]).split()) == 30
    assert json.loads(answered(tenant, one("error_event"), stream=False).body)["error"]["status_code"] == 503


def test_forms_can_be_swapped(tenant: Tenant) -> None:
    plain = answered(tenant, one("json_for_stream"), stream=True)
    assert json.loads(plain.body)["choices"][0]["message"]["content"].split() == WORDS
    stream = answered(tenant, one("stream_for_json"), stream=False)
    assert said(events(stream.unframed()[0])).split() == WORDS
    unfinished = answered(tenant, one("no_finish"), stream=False)
    assert json.loads(unfinished.body)["choices"][0]["finish_reason"] is None


@pytest.mark.parametrize("stream", [False, True])
def test_gzip_is_true_or_a_lie(tenant: Tenant, stream: bool) -> None:
    seen = answered(tenant, one("gzip"), stream=stream)
    assert seen.headers["content-encoding"] == "gzip"
    text = gzip.decompress(seen.unframed()[0])
    assert (
        said(events(text)) if stream else json.loads(text)["choices"][0]["message"]["content"]
    ).split() == WORDS
    lie = answered(tenant, one("bad_gzip"), stream=stream)
    assert lie.headers["content-encoding"] == "gzip"
    with pytest.raises(zlib.error):
        gzip.decompress(lie.unframed()[0])


@pytest.mark.parametrize("stream", [False, True])
def test_bodies_can_be_huge_and_lines_without_end(tenant: Tenant, stream: bool) -> None:
    huge = answered(tenant, one("huge_body", mib=2), stream=stream)
    body, complete = huge.unframed()
    text = said(events(body)) if stream else json.loads(body)["choices"][0]["message"]["content"]
    assert complete
    assert len(text) == 2 * 1024 * 1024
    line = answered(tenant, one("endless_line", mib=1), stream=stream).unframed()[0]
    assert len(line) > 1024 * 1024
    assert b"\n" not in line


def test_small_pieces_crlf_and_comments_are_on_the_wire(tenant: Tenant) -> None:
    split = answered(tenant, one("split", split_bytes=5), stream=True).body
    assert {line for line in split.split(b"\r\n")[::2] if line} <= {b"5", b"4", b"3", b"2", b"1", b"0"}
    crlf = answered(tenant, one("crlf"), stream=True).unframed()[0]
    assert crlf.count(b"\n") == crlf.count(b"\r\n") > 100
    comments = answered(tenant, one("keepalives", count=3, interval_s=0.0), stream=True).unframed()[0]
    assert comments.startswith(b": OPENROUTER PROCESSING\n\n" * 3 + b"data: ")


def test_delays_are_kept(tenant: Tenant) -> None:
    def seconds(stream: bool) -> float:
        start = time.monotonic()
        whole(tenant, ask(stream=stream))
        return time.monotonic() - start

    tenant.configure(words=6, first_token_s=0.1, per_token_s=0.02)
    assert 0.19 <= seconds(stream=True) < 1
    assert 0.19 <= seconds(stream=False) < 1
    tenant.configure(first_token_s=0.0, per_token_s=0.0)
    tenant.play(one("slow_first_token", seconds=0.1), one("trickle", interval_s=0.0002))
    assert seconds(stream=True) >= 0.1
    assert seconds(stream=False) >= 0.05


def test_every_kind_of_fault_is_tested_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [kind for kind in FAULT_KINDS if f'"{kind}"' not in source] == []


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "explode"},
        {"kind": "status"},
        {"kind": "status", "status": 42},
        {"kind": "stall", "interval_s": 1.0},
        {"kind": "cut", "ending": "bang"},
        {"kind": "hang", "seconds": -1.0},
        {"kind": "split", "split_bytes": 0},
        {"kind": "case", "case": CASES["any_connect_refused"]},
    ],
    ids=str,
)
def test_a_fault_that_makes_no_sense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Fault(**settings)


# ---- recorded cases


@pytest.mark.parametrize("case", SERVED, ids=lambda case: case.id)
def test_a_recorded_case_is_replayed_byte_for_byte(tenant: Tenant, case: Case) -> None:
    asked = time.time()
    ending = "silence" if case.transport else "eof"
    seen = answered(tenant, one("case", case=case), stream=case.stream, silence_s=silence_of(ending))
    body, complete = seen.unframed()
    assert (seen.status, body) == (case.status, case.body)
    assert (seen.ending, complete) == (ending, ending == "eof")
    for name, value in case.headers:
        if "{{" in value:
            assert 29 < parsedate_to_datetime(seen.headers[name]).timestamp() - asked < 32
        else:
            assert seen.headers[name] == value
    framing = {"transfer-encoding"} if case.stream else {"content-length"}
    assert set(seen.headers) == {name for name, _ in case.headers} | framing | {"connection"}


def test_cases_without_an_answer_hang_or_are_not_served(tenant: Tenant) -> None:
    hanging = answered(tenant, one("case", case=CASES["any_no_first_byte"]), stream=True, silence_s=0.2)
    assert (hanging.body, hanging.ending) == (b"", "silence")
    with refused_port() as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)


def test_a_broken_case_file_lists_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "cases.yaml"
    path.write_text("- {id: a, status: 200}\n- {id: b, transport: odd}\n", encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        load_cases(path)
    assert "[0]" in str(caught.value)
    assert "[1]" in str(caught.value)


# ---- tenants, counters, control


def test_a_script_is_used_up_once_and_then_the_default_repeats(tenant: Tenant) -> None:
    tenant.always(one("status", status=503))
    tenant.play(one("none"), one("status", status=429))
    assert [raw(tenant, ask()).status for _ in range(4)] == [200, 429, 503, 503]
    tenant.always(None)
    assert raw(tenant, ask()).status == 200


def test_a_probability_draws_the_same_again_from_the_same_seed(tenant: Tenant) -> None:
    def run(seed: int) -> list[int]:
        tenant.configure(default=one("status", status=500), probability=0.5, seed=seed)
        return [raw(tenant, ask()).status for _ in range(16)]

    assert run(1) == run(1) != run(2)
    assert set(run(1)) == {200, 500}


def test_tenants_do_not_share_anything(standin: StandInThread) -> None:
    bad, good = standin.tenant("bad/one", dialect="together"), standin.tenant("good")
    bad.always(one("status", status=500))
    assert (raw(bad, ask()).status, raw(good, ask()).status) == (500, 200)
    assert (bad.counters.requests, good.counters.requests) == (1, 1)
    assert bad.last_requests[0].path == "/bad/one/v1/chat/completions"
    assert standin.tenant("bad/one").settings.dialect == "together"


def test_requests_and_connections_are_counted_and_kept(tenant: Tenant) -> None:
    with requests.Session() as session:
        for number in range(3):
            headers = {"Authorization": f"Bearer {KEY}", "X-Number": str(number)}
            session.post(tenant.url, json=ask(stream=number == 1), headers=headers, timeout=5)
    assert tenant.wait_for(lambda c: (c.requests, c.connections, c.aborted, c.in_flight) == (3, 1, 0, 0))
    assert [seen.headers["x-number"] for seen in tenant.last_requests] == ["0", "1", "2"]
    assert tenant.last_requests[1].body == ask(stream=True)
    tenant.reset()
    assert (tenant.counters.requests, tenant.last_requests) == (0, [])


@pytest.mark.parametrize("kind", ["hang", "hang_after_headers", "stall", "huge_body", "keepalives"])
def test_a_caller_who_goes_away_is_noticed_at_once(tenant: Tenant, kind: FaultKind) -> None:
    tenant.play(one(kind))
    host, port = tenant.url.split("/")[2].split(":")
    connection = http.client.HTTPConnection(host, int(port))
    connection.request("POST", "/" + tenant.url.split("/", 3)[3], json.dumps(ask(stream=True)))
    assert tenant.wait_for(lambda counters: counters.in_flight == 1)
    left = time.monotonic()
    connection.close()
    assert tenant.wait_for(lambda counters: (counters.in_flight, counters.aborted) == (0, 1))
    assert time.monotonic() - left < 0.5


def test_a_caller_who_ends_its_side_and_reads_nothing_has_gone_away(tenant: Tenant) -> None:
    tenant.play(one("huge_body"))
    host, port = tenant.url.split("/")[2].split(":")
    connection = http.client.HTTPConnection(host, int(port))
    connection.request("POST", "/" + tenant.url.split("/", 3)[3], json.dumps(ask(stream=True)))
    assert tenant.wait_for(lambda counters: counters.in_flight == 1)
    arrived, before = bytearray(4), b""
    while bytes(arrived) != before or not any(arrived):  # until the buffers between the two are full
        before = bytes(arrived)
        time.sleep(0.05)
        fcntl.ioctl(connection.sock, termios.FIONREAD, arrived)
    connection.sock.shutdown(socket.SHUT_WR)
    assert tenant.wait_for(lambda counters: (counters.in_flight, counters.aborted) == (0, 1), timeout_s=2)
    connection.close()


def test_a_caller_who_has_it_all_and_leaves_has_not_gone_away(tenant: Tenant) -> None:
    tenant.always(one("no_done"))
    host, port = tenant.url.split("/")[2].split(":")
    for _ in range(30):
        connection = http.client.HTTPConnection(host, int(port))
        connection.request("POST", "/" + tenant.url.split("/", 3)[3], json.dumps(ask(stream=True)))
        connection.getresponse().read()
        connection.close()
    assert tenant.wait_for(lambda counters: (counters.in_flight, counters.requests) == (0, 30))
    assert tenant.counters.aborted == 0


def test_the_control_api_sets_shows_and_resets(standin: StandInThread) -> None:
    control = f"{standin.base_url}/_standin/tenants/remote"
    script = [{"kind": "case", "case": "groq_429_tpm"}, {"kind": "cut", "after_words": 3}]
    config = {"dialect": "groq", "words": 5, "script": script, "default": {"kind": "status", "status": 503}}
    assert requests.put(control, json=config, timeout=5).status_code == 200
    tenant = standin.tenant("remote")
    assert tenant.settings.words == 5
    assert raw(tenant, ask()).headers["retry-after"] == "5"
    assert said(events(raw(tenant, ask(stream=True)).unframed()[0])) == "w1 w2 w3"
    assert raw(tenant, ask()).status == 503
    shown = requests.get(control, timeout=5).json()
    assert (shown["requests"], shown["config"]["default"]) == (3, {"kind": "status", "status": 503})
    assert shown["last_requests"][0]["headers"]["authorization"] == f"Bearer {KEY}"
    again = {name: value for name, value in shown["config"].items() if name != "script"} | {"script": script}
    assert requests.put(control, json=again, timeout=5).json()["config"]["script"] == script
    reset = requests.delete(control, timeout=5).json()
    assert (reset["requests"], reset["config"]["default"], reset["config"]["words"]) == (0, None, 60)
    assert "remote" in requests.get(f"{standin.base_url}/_standin/tenants", timeout=5).json()["tenants"]


@pytest.mark.parametrize(
    "config",
    [
        {"wrods": 5},
        {"words": "five"},
        {"dialect": "klingon"},
        {"script": [{"kind": "case", "case": "unknown"}]},
        {"script": [{"kind": "stall", "colour": 1}]},
        {"default": {"kind": "hang", "seconds": "long"}},
        {"default": 3},
        {"probability": 2},
        {"headers": 1},
        [],
    ],
    ids=str,
)
def test_the_control_api_refuses_what_makes_no_sense(standin: StandInThread, config: Any) -> None:
    url = f"{standin.base_url}/_standin/tenants/refusing"
    answer = requests.put(url, json=config, timeout=5)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


# ---- whatever clients do


def talk(standin: StandInThread, data: bytes) -> bytes:
    """Send bytes, end the sending side, and read to the end."""
    with socket.create_connection(("127.0.0.1", standin.port)) as client:
        client.settimeout(5)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(65536):
                received += piece
    return received


START = b"POST /v1/chat/completions HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hello\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (START + b"no colon\r\n\r\n", b"400"),
        (START + b"content-length: -1\r\n\r\n", b"400"),
        (START + b"content-length: " + b"9" * 5000 + b"\r\n\r\n", b"413"),
        (START + b"content-length: 16777217\r\n\r\n", b"413"),
        (START + b"transfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n", b"400"),
        (START + b"transfer-encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (START + b"transfer-encoding: chunked\r\n\r\nfffffff\r\n", b"413"),
        (START + b"x: " + b"y" * 70000 + b"\r\n\r\n", b"431"),
        (START + b"content-length: 3\r\n\r\nabc", b"400"),
        (START + b"content-length: 2\r\n\r\n[]", b"400"),
        (START + b"content-length: 14\r\n\r\n" + b'{"model": "m"}', b"400"),
        (START + b"content-length: 20000\r\n\r\n" + b"[" * 20000, b"400"),
        (b"GET /v1/chat/completions HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /elsewhere HTTP/1.1\r\n\r\n", b"404"),
    ],
    ids=lambda value: value[-24:].decode("latin-1") if len(value) < 200 else "long",
)
def test_a_bad_request_gets_its_status_and_the_server_lives_on(
    standin: StandInThread, data: bytes, status: bytes
) -> None:
    assert talk(standin, data).split(b" ")[1] == status
    assert raw(standin.tenant("alive"), ask()).status == 200


def test_a_body_above_the_limit_is_refused_while_it_is_still_being_sent(standin: StandInThread) -> None:
    answer = requests.post(f"{standin.base_url}/v1/chat/completions", data=b"x" * (17 << 20), timeout=10)
    assert answer.status_code == 413


def test_a_caller_who_floods_the_connection_during_an_answer_is_cut_off(tenant: Tenant) -> None:
    tenant.play(one("hang"))
    payload = json.dumps(ask()).encode()
    path = tenant.url.split("/", 3)[3]
    with socket.create_connection(("127.0.0.1", int(tenant.url.split(":")[2].split("/")[0]))) as client:
        client.settimeout(5)
        start = f"POST /{path} HTTP/1.1\r\ncontent-length: {len(payload)}\r\n\r\n".encode()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            client.sendall(start + payload + b"x" * (40 << 20))
    assert tenant.wait_for(lambda counters: counters.in_flight == 0)


def test_a_chunked_request_in_small_pieces_and_two_at_once_are_understood(tenant: Tenant) -> None:
    host, _, path = tenant.url.removeprefix("http://").partition("/")
    payload = json.dumps(ask(max_tokens=1)).encode()
    chunks = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in (payload[:7], payload[7:]))
    request = (
        f"POST /{path} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        + chunks
        + b"0\r\nt: 1\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", int(host.split(":")[1]))) as client:
        client.settimeout(5)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request:
            client.sendall(bytes([byte]))
        client.sendall(request)
        received = b""
        while received.count(b'"service_tier"') < 2:
            received += client.recv(65536)
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert tenant.counters.connections == 1


# ---- in process, and as a program


def test_inside_an_event_loop_it_answers_aiohttp_from_a_reply_of_ones_own() -> None:
    async def reply(body: Any) -> str:
        await asyncio.sleep(0)
        return f"you said {body['messages'][-1]['content']}"

    async def run() -> tuple[str, str]:
        async with StandIn() as standin, aiohttp.ClientSession() as session:
            tenant = standin.tenant("own", reply=reply)
            async with session.post(tenant.url, json=ask(stream=True)) as streamed:
                first = said(events(await streamed.read()))
            tenant.configure(reply=lambda _: "plainly")
            async with session.post(tenant.url, json=ask()) as plain:
                return first, (await plain.json())["choices"][0]["message"]["content"]

    assert asyncio.run(run()) == ("you said say it", "plainly")


def test_stopping_ends_hanging_answers_at_once_and_the_port_can_be_taken_again() -> None:
    with StandInThread() as standin:
        port = standin.port
        tenant = standin.tenant("x")
        tenant.always(one("hang"))
        client = socket.create_connection(("127.0.0.1", port))
        payload = json.dumps(ask()).encode()
        client.sendall(
            b"POST /x/v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(payload) + payload
        )
        assert tenant.wait_for(lambda counters: counters.in_flight == 1)
        started = time.monotonic()
    assert time.monotonic() - started < 1
    assert tenant.counters.aborted == 0
    with client:
        client.settimeout(2)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    with StandInThread(port=port) as again, pytest.raises(OSError):
        StandInThread(port=again.port).start()


def test_the_program_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "fallback.standin",
        "--port",
        "0",
        "--dialect",
        "together",
        "--text",
        "as told",
    ]
    cases = str(Path(__file__).parent / "wire_cases.yaml")
    with subprocess.Popen([*command, "--cases", cases], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            url = program.stdout.readline().split()[-1]
            answer = requests.post(f"{url}/v1/chat/completions", json=ask(), timeout=5).json()
            fault = {"default": {"kind": "case", "case": "groq_500"}}
            assert requests.put(f"{url}/_standin/tenants/x", json=fault, timeout=5).status_code == 200
            assert requests.post(f"{url}/x/v1/chat/completions", json=ask(), timeout=5).status_code == 500
        finally:
            program.send_signal(signal.SIGTERM)
            assert program.wait(timeout=5) == 0
    assert answer["choices"][0]["message"]["content"] == "as told"
    assert answer["metadata"] == {"weight_version": "default"}


def test_the_program_says_in_one_line_why_it_cannot_start(standin: StandInThread) -> None:
    command = [sys.executable, "-m", "fallback.standin", "--port", str(standin.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_it_imports_nothing_else_of_the_project() -> None:
    allowed = set(sys.stdlib_module_names) | {"yaml"}
    for path in Path(fallback.standin.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.startswith("fallback.standin") or name.partition(".")[0] in allowed, (
                    path.name,
                    name,
                )


@pytest.mark.parametrize("turns", range(8))
def test_connection_made_while_it_stops_is_ended_like_all_others(turns: int) -> None:
    wrong: list[object] = []

    async def connect_and_stop() -> bytes:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: wrong.append(context))
        standin = StandIn()
        await standin.start()
        with socket.create_connection(("127.0.0.1", standin.port)) as caller:
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(10):
                await standin.stop()
            assert not standin.connections
            caller.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                return caller.recv(1)
        return b""

    assert asyncio.run(connect_and_stop()) == b""
    gc.collect()
    assert wrong == []
