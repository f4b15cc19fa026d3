"""A whole answer under /v1 that goes to its connection at once is the answer that ASGI would have sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any

import pytest
from api_sockets import KEEP, assert_it_answers, connected, exchange, rest_of, serving, statuses

from fallback.api.connection import GuardedProtocol
from fallback.api.openai.reply import Reply
from fallback.standin import Fault, StandInThread

pytest.importorskip("httptools")

TELLS_ITSELF_APART = ("x-request-id", "date", "content-length", "connection")
ASKED = {"model": "model-a", "messages": [{"role": "user", "content": "What is the capital of Japan?"}]}


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        server.tenant("groq_llama", dialect="groq", text="Tokyo is the capital.")
        yield server


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each answer went out at once, as they were given."""
    told: list[bool] = []
    inner = GuardedProtocol.answer

    def noted(self: GuardedProtocol, *arguments: Any) -> bool:
        told.append(inner(self, *arguments))
        return told[-1]

    monkeypatch.setattr(GuardedProtocol, "answer", noted)
    return told


def request(
    method: str = "POST", path: str = "/v1/chat/completions", *, more: str = "", **body: Any
) -> bytes:
    content = json.dumps({**ASKED, **body}).encode()
    return (
        f"{method} {path} HTTP/1.1\r\n{KEEP}{more}content-length: {len(content)}\r\n\r\n".encode() + content
    )


def read(answer: bytes) -> tuple[dict[str, str], bytes]:
    """Return the headers, each of which has to stand there once, and the body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    headers = BytesHeaderParser().parsebytes(head.partition(b"\r\n")[2])
    assert len(headers.keys()) == len(set(headers.keys()))
    assert headers["content-length"] == str(len(body))
    return {name.lower(): value for name, value in headers.items()}, body


def alike(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in TELLS_ITSELF_APART}


@pytest.mark.parametrize("wanted", [{}, {"model": "nobody"}, {"stream": "yes"}])
def test_both_ways_send_the_same(
    standin: StandInThread, tmp_path: Path, at_once: list[bool], wanted: dict[str, Any]
) -> None:
    with serving(tmp_path, standin) as port:
        answers = [exchange(port, request(more=more, **wanted)) for more in ("", "connection: close\r\n")]
    assert at_once == [True, False]
    (first, content), (second, other) = map(read, answers)
    assert alike(first) == alike(second)
    assert {"date", "x-request-id", "content-security-policy"} <= first.keys()
    assert "connection" not in first
    assert second["connection"] == "close"
    shown, expected = json.loads(content), json.loads(other)
    assert shown.keys() == expected.keys()
    if not wanted:
        assert shown["id"] == f"chatcmpl-{first['x-request-id'].removeprefix('req_')}"
        assert shown["choices"] == expected["choices"]


def test_a_request_after_the_other_is_answered_on_the_same_connection(
    standin: StandInThread, tmp_path: Path, at_once: list[bool]
) -> None:
    with serving(tmp_path, standin) as port, connected(port) as caller:
        for _ in range(3):
            caller.sendall(request())
            answer = b""
            while not answer.endswith(b"}}"):
                answer += caller.recv(65536)
            headers, body = read(answer)
            assert headers["x-fallback-provider"] == "groq_llama"
            assert json.loads(body)["choices"][0]["message"]["content"] == "Tokyo is the capital."
    assert at_once == [True] * 3


def test_requests_sent_together_are_answered_one_after_the_other(
    standin: StandInThread, tmp_path: Path, at_once: list[bool]
) -> None:
    with serving(tmp_path, standin) as port:
        answers = exchange(port, request() + request(model="nobody") + request("GET", "/v1/models"))
        assert statuses(answers) == [200, 404, 200]
        assert answers.index(b"Tokyo is the capital.") < answers.index(b"model_not_found")
        assert at_once == [False, False, True]  # the last one has nobody behind it
        assert_it_answers(port)


def test_an_answer_without_a_body_to_a_head_request_has_none(
    standin: StandInThread, tmp_path: Path, at_once: list[bool]
) -> None:
    with serving(tmp_path, standin) as port:
        answer = exchange(port, f"HEAD /v1/models HTTP/1.1\r\n{KEEP}\r\n".encode())
    assert statuses(answer) == [200]
    assert answer.endswith(b"\r\n\r\n")
    assert at_once == [False]


def test_a_caller_who_has_left_gets_nothing_and_harms_nobody(
    standin: StandInThread, tmp_path: Path, at_once: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    with serving(tmp_path, standin) as port:
        standin.tenant("groq_llama").always(Fault(kind="hang"))
        with connected(port) as caller:
            caller.sendall(request())
            assert standin.tenant("groq_llama").wait_for(lambda counters: counters.in_flight == 1)
        assert standin.tenant("groq_llama").wait_for(lambda counters: counters.aborted == 1)
        standin.tenant("groq_llama").reset()
        standin.tenant("groq_llama").configure(text="Tokyo is the capital.")
        assert_it_answers(port)
    assert at_once in ([], [False])
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("value", ["a\r\nset-cookie: x", "a\nb", "a\rb", "a\0b"])
def test_no_header_becomes_two(value: str) -> None:
    class Line:
        def answer(self, *_: object) -> bool:
            pytest.fail("it was sent")

    scope = {"state": {"fallback.line": Line(), "fallback.marks": b""}}
    with pytest.raises(ValueError, match="line end"):
        Reply(headers={"x-fallback-provider": value}).sent_at_once(scope)


def chunked(body: bytes, more: str = "") -> bytes:
    head = f"POST /v1/chat/completions HTTP/1.1\r\n{KEEP}{more}transfer-encoding: chunked\r\n\r\n".encode()
    return head + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        (request().replace(b"application/json", b"text/plain"), 415),
        (chunked(json.dumps({**ASKED, "user": "x" * 4000}).encode()), 413),
    ],
)
def test_who_is_told_that_the_connection_closes_is_not_served_on_it(
    standin: StandInThread, tmp_path: Path, at_once: list[bool], refused: bytes, status: int
) -> None:
    with serving(tmp_path, standin, max_body_bytes=2048) as port, connected(port) as caller:
        caller.sendall(refused)
        answer = rest_of(caller)  # which ends
        assert statuses(answer) == [status]
        assert b"connection: close" in answer
        assert at_once == []
        assert standin.tenant("groq_llama").counters.requests == 0


def test_interim_response_comes_before_the_answer(
    standin: StandInThread, tmp_path: Path, at_once: list[bool]
) -> None:
    with serving(tmp_path, standin) as port:
        asked = request(more="expect: 100-continue\r\n")
        for sent, status in ((asked, 200), (asked[:-1] + b"]", 400)):
            answer = exchange(port, sent)
            assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 %d " % status)
            assert answer.count(b"HTTP/1.1 ") == 2
    assert at_once == [True, True]


def test_server_without_httptools_serves_one_request_after_the_other(
    standin: StandInThread, tmp_path: Path
) -> None:
    script = (
        "import sys\n"
        "sys.modules['httptools'] = sys.modules['uvicorn.protocols.http.httptools_impl'] = None\n"
        "from pathlib import Path\n"
        "from api_sockets import KEEP, connected, serving\n"
        "from fallback.api.connection import GuardedProtocol\n"
        "from fallback.standin import StandInThread\n"
        "assert GuardedProtocol.__mro__[1].__name__ == 'H11Protocol'\n"
        "with StandInThread() as standin, serving(Path(sys.argv[1]), standin) as port, connected(port) as caller:\n"
        "    for _ in range(3):\n"
        "        caller.sendall(f'GET /v1/models HTTP/1.1\\r\\n{KEEP}\\r\\n'.encode())\n"
        "        answer = b''\n"
        "        while not answer.endswith(b']}'):\n"
        "            piece = caller.recv(65536)\n"
        "            assert piece, 'it was closed'\n"
        "            answer += piece\n"
        "        print(answer[:15].decode())\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parents[1], Path(__file__).parent)))},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert told.stdout.split("\n") == ["HTTP/1.1 200 OK"] * 3 + [""], told.stderr
