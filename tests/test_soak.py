"""The soak: its judge knows right from wrong, and a short run of it finds the program right."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks.soak.answers import Stream, plain_outcome, refused_outcome
from benchmarks.soak.ledger import Acknowledged, Ledger, Outcome
from benchmarks.soak.logs import DiskFull, LogFindings, examine
from benchmarks.soak.questions import Question, answer_to, reply
from benchmarks.soak.verdicts import Run, complaints, verdicts
from benchmarks.soak.watch import Sample, flat

ROOT = Path(__file__).parents[1]
HEADERS = {"x-request-id": "req_1"}
QUESTION = Question(token="q1")
WHOLE = QUESTION.expected
ACCOUNT = {"request_id": "req_1", "seams": [], "attempts": [{}]}


# The judge of answers


def generated(text: str, **changes: Any) -> bytes:
    return json.dumps({"response": text, "finish_reason": "stop", **ACCOUNT, **changes}).encode()


def events(*told: tuple[str, dict[str, Any]]) -> bytes:
    return b"".join(f"event: {name}\ndata: {json.dumps(each)}\n\n".encode() for name, each in told)


def chunks(*texts: str, finish: str | None = "stop") -> bytes:
    told: list[dict[str, Any]] = [
        {"choices": [{"delta": {"content": text}, "finish_reason": None}]} for text in texts
    ]
    told.append({"choices": [{"delta": {}, "finish_reason": finish}], "fallback": ACCOUNT})
    return b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in told)


def judged(data: bytes, *, openai: bool) -> Outcome:
    stream = Stream(QUESTION, HEADERS, openai=openai)
    for start in range(0, len(data), 7):
        stream.feed(data[start : start + 7])
    return stream.outcome()


DONE = ("done", json.loads(generated(WHOLE)))
BROKEN = {"error": "it broke off", "error_type": "stream_broken", "request_id": "req_1", "activity_log": []}


def test_every_question_has_an_answer_of_its_own_that_the_provider_gives() -> None:
    random = Random(1)
    questions = [Question.drawn(serial, random, forms=("words", "talk", "json")) for serial in range(1, 500)]
    assert len({question.token for question in questions}) == len(questions)
    for question in questions:
        body = {"messages": question.messages(), **question.extras()}
        assert reply(body) == question.expected
        words = question.expected.split(" ")
        assert len(set(words)) == len(words), "a word that is doubled or moved would not show"


def test_right_answers_are_right() -> None:
    right = Outcome(kind="right", request_id="req_1", attempts=1)
    assert plain_outcome(QUESTION, 200, HEADERS, generated(WHOLE), openai=False) == right
    assert judged(events(("delta", {"text": WHOLE}), DONE), openai=False) == right
    assert (
        judged(b": keep-alive\n\n" + chunks(WHOLE[:9], WHOLE[9:]) + b"data: [DONE]\n\n", openai=True) == right
    )


@pytest.mark.parametrize(
    "body",
    [
        generated(WHOLE[:-1]),
        generated(WHOLE + " " + WHOLE),
        generated(answer_to("q2")),
        generated(WHOLE, finish_reason="length"),
        generated(WHOLE, request_id="req_2"),
        b"<html>",
    ],
    ids=["cut", "doubled", "of another question", "marked as cut", "of another request", "a page"],
)
def test_wrong_answers_are_wrong(body: bytes) -> None:
    assert plain_outcome(QUESTION, 200, HEADERS, body, openai=False).kind == "wrong"


@pytest.mark.parametrize(
    "data",
    [
        chunks(WHOLE),
        chunks(WHOLE[:5], WHOLE[4:]) + b"data: [DONE]\n\n",
        chunks(WHOLE[:5], WHOLE[6:]) + b"data: [DONE]\n\n",
        chunks(WHOLE, finish=None) + b"data: [DONE]\n\n",
        chunks(WHOLE) + b"data: [DONE]\n\n" + chunks("more"),
        chunks(WHOLE) + b"data: [DO",
        chunks(WHOLE) + b"data: {\n\ndata: [DONE]\n\n",
        chunks(WHOLE[:5]) + b'data: {"error": {"message": "x", "type": "server_error", "param": null, "code": "stream_broken"}}\n\n',
        chunks("no", finish=None) + b'data: {"error": {"message": "x", "type": "server_error", "param": null, "code": "stream_broken"}}\n\n',
        chunks(WHOLE[:5], finish=None) + b'data: {"error": {"message": "x", "type": "server_error", "param": null, "code": "internal_error"}}\n\n',
        chunks(WHOLE[:5], finish=None) + b'data: {"error": "what"}\n\n',
        b"",
    ],
    ids=[
        "no [DONE]", "a letter twice", "a letter lost", "no finish_reason", "more after the end", "half an end", "half an event",
        "an error after finish_reason", "another text before the error", "an accident inside", "an error without shape", "nothing",
    ],
)  # fmt: skip
def test_wrong_streams_are_wrong(data: bytes) -> None:
    assert judged(data, openai=True).kind == "wrong"


def test_stream_that_ends_in_words_is_an_error_and_no_wrong_answer() -> None:
    broken = events(("delta", {"text": WHOLE[:9]}), ("error", BROKEN))
    assert judged(broken, openai=False) == Outcome(kind="error", detail="stream_broken", request_id="req_1")
    assert judged(broken + events(DONE), openai=False).kind == "wrong"
    assert judged(events(("delta", {"text": "no"}), ("error", BROKEN)), openai=False).kind == "wrong"


@pytest.mark.parametrize(
    ("status", "kind", "headers", "expected"),
    [
        (503, "providers_failed", {}, "error"),
        (504, "deadline_exceeded", {}, "error"),
        (429, "rate_limited", {"retry-after": "3"}, "error"),
        (429, "rate_limited", {}, "wrong"),
        (500, "internal_error", {}, "wrong"),
        (503, "deadline_exceeded", {}, "wrong"),
        (400, "invalid_request", {}, "wrong"),
    ],
)
def test_errors_have_the_status_of_their_kind(
    status: int, kind: str, headers: dict[str, str], expected: str
) -> None:
    body = json.dumps({**BROKEN, "error_type": kind}).encode()
    assert plain_outcome(QUESTION, status, HEADERS | headers, body, openai=False).kind == expected


def test_rubbish_has_to_be_refused_in_words() -> None:
    body = json.dumps({**BROKEN, "error_type": "invalid_json"}).encode()
    assert refused_outcome(400, HEADERS, body, frozenset({400})).kind == "refused"
    assert refused_outcome(200, HEADERS, body, frozenset({400})).kind == "wrong"
    assert refused_outcome(400, HEADERS, b"no", frozenset({400})).kind == "wrong"


# The ledger, the logs, the figures


def test_lost_connection_is_excused_by_a_kill_alone() -> None:
    ledger = Ledger()
    now = time.monotonic()
    ledger.take("plain", Outcome(kind="broken", detail="reset"), now)
    assert (ledger.wrong_count, ledger.counts["plain", "wrong"]) == (1, 1)
    ledger.kills.append((now - 60, now - 50))
    ledger.take("plain", Outcome(kind="broken", detail="reset"), now)
    assert ledger.wrong_count == 2
    ledger.kills.append((now - 1, now + 1))
    ledger.take("plain", Outcome(kind="broken", detail="reset"), now)
    assert (ledger.wrong_count, ledger.counts["plain", "broken"]) == (2, 1)


def log_line(request_id: str, kind: str = "request", outcome: str = "ok") -> str:
    return json.dumps({"schema": 1, "ts": "2026-11-22T21:31:53.065Z", "kind": kind, "request_id": request_id, "outcome": outcome})  # fmt: skip


def test_log_is_held_against_what_callers_were_told(tmp_path: Path) -> None:
    lines = [
        log_line("good", "attempt"), log_line("good"), log_line("twice"), log_line("twice"), log_line("other", outcome="cancelled"),
        '{"schema":1,"ts":"2026', log_line("fewer"), "a key: secret-key",
    ]  # fmt: skip
    (tmp_path / "usage.log").write_text("\n".join(lines) + "\n")
    told = {name: Acknowledged(outcome="ok", at=0.0) for name in ("twice", "other", "lost")}
    told["good"] = Acknowledged(outcome="ok", at=0.0, attempts=1)
    told["fewer"] = Acknowledged(outcome="ok", at=0.0, attempts=2)
    told["lost on a full disk"] = Acknowledged(outcome="ok", at=101.0)
    full = [DiskFull(replica="a", began=100.0, ended=102.0, counted=3.0)]
    found = examine([tmp_path], told, full, ["secret-key"])
    assert (found.missing, found.twice, found.damaged) == (["lost"], ["twice"], 2)
    assert (found.missing_at_full_disk, found.counted_at_full_disk) == (1, 3.0)
    assert found.other_outcome == ["other: told ok, logged cancelled"]
    assert found.attempts_differ == ["fewer: told 2, logged 0"]
    assert found.secrets == ["usage.log holds secret-key"]


def test_memory_that_grows_is_not_flat() -> None:
    growing = [
        Sample(at=float(second), memory_mib=60 + second / 10, files=9, threads=3) for second in range(300)
    ]
    assert not flat(growing, lambda each: each.memory_mib, margin=10.0, share=0.1).holds
    assert flat(growing, lambda each: each.files, margin=10.0).holds


def test_accidents_are_found_in_what_a_program_prints() -> None:
    usual = (
        "/a/usage.log cannot be written (EFBIG: File too large); requests go on, their lines are lost\n"
        "state server 127.0.0.1:1/0 cannot be used (no connection (ConnectionError)); the program goes on\n"
        "Worker 1 ended with status -9; another one takes its place.\n"
    )
    assert complaints(usual) == []
    accident = "req_1 failed with KeyError\nTraceback (most recent call last):\n  x\nasyncio.QueueFull\nValueError: x\n"
    assert len(complaints(usual + accident)) == 3
    assert complaints("Task was destroyed but it is pending!\n")


def good_run() -> Run:
    ledger = Ledger(failovers=1, seams=1)
    for path in ("/v1/chat/completions", "/api/generate"):
        for how in ("streamed", "plain"):
            ledger.counts[f"{path} {how}", "right"] = 1
    samples = [Sample(at=float(second), memory_mib=60, files=9, threads=3) for second in range(300)]
    return Run(
        seconds=300, ledger=ledger, full=(), log=LogFindings(), samples=samples, agree=True, calm_right=4, calm_asked=4,
        left_open=0, redirects_followed=0, statuses=(0,),
    )  # fmt: skip


def spoil(run: Run, what: str) -> None:
    """Let something be found that must not be."""
    match what:
        case "wrong":
            run.ledger.accuse("a wrong answer")
        case "vacuous":
            run.ledger.counts.clear()
        case "grown":
            run.samples = [
                Sample(at=float(second), memory_mib=60 + second, files=second, threads=second)
                for second in range(300)
            ]
        case "unseen":
            run.samples = []
        case "uncounted":
            run.log.missing_at_full_disk = 1
        case "damaged":
            run.log.damaged = 1
        case "missing" | "twice" | "other_outcome" | "attempts_differ" | "secrets":
            getattr(run.log, what).append("x")
        case "statuses":
            run.statuses = (0, None)
        case "told_secrets" | "complaints" | "not_broken":
            setattr(run, what, ["x"])
        case "agree":
            run.agree = False
        case "calm_right" | "left_open" | "redirects_followed":
            setattr(run, what, 3)


@pytest.mark.parametrize(
    "what",
    [
        "wrong", "vacuous", "grown", "unseen", "uncounted", "damaged", "missing", "twice", "other_outcome", "attempts_differ",
        "secrets", "statuses", "told_secrets", "complaints", "not_broken", "agree", "calm_right", "left_open", "redirects_followed",
    ],
)  # fmt: skip
def test_each_thing_that_must_not_be_breaks_a_verdict(what: str) -> None:
    assert all(verdict.holds for verdict in verdicts(good_run()))
    run = good_run()
    spoil(run, what)
    assert any(verdict.holds is False for verdict in verdicts(run))


# The program


@pytest.mark.program
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.timeout(400)
def test_program_stands_half_a_minute_of_everything() -> None:
    # Over SQLite here; .ci/run has five minutes of it with a state server.
    options = ("--minutes", "0.5", "--seed", "7", "--callers", "10", "--sqlite")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", *options],
        cwd=ROOT, capture_output=True, text=True, timeout=390, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no wrong answer" in done.stdout
    assert "2 workers, state in SQLite" in done.stdout
