"""From what came over HTTP to an outcome: whole, cleanly refused, or wrong. A reader of its own, which shares nothing with the program.

What is wrong: another text than the right one, its end without all of it, an error without the shape that docs/http.md promises,
anything after the last event, a status that is not in the table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.soak.ledger import Outcome
from benchmarks.soak.questions import Question

__all__ = ["Stream", "plain_outcome", "refused_outcome"]

LOGGED = frozenset({"providers_failed", "rate_limited", "deadline_exceeded", "stream_broken"})
"""Ends of a request that the router saw, and so wrote down."""
NOT_ASKED = frozenset({"overloaded", "starting", "shutting_down", "too_many_requests"})
STATUSES = {
    "providers_failed": 503,
    "rate_limited": 429,
    "deadline_exceeded": 504,
    "overloaded": 503,
    "starting": 503,
    "shutting_down": 503,
    "too_many_requests": 429,
}


def _wrong(detail: str, request_id: str = "") -> Outcome:
    return Outcome(kind="wrong", detail=detail, request_id=request_id)


def _error_type(told: Any) -> str | None:
    """Return the type of an error in either of the two shapes; None where it has neither."""
    error = told.get("error") if isinstance(told, dict) else None
    if isinstance(error, str) and error and isinstance(told.get("error_type"), str):
        return str(told["error_type"]) if told.get("request_id") else None
    if isinstance(error, dict) and error.get("message") and {"type", "param", "code"} <= error.keys():
        code = str(error["code"])
        return "rate_limited" if code == "rate_limit_exceeded" else code
    return None


def _clean_error(told: Any, status: int | None, headers: Mapping[str, str], request_id: str) -> Outcome:
    """Judge an error; `status` None: it came inside a stream."""
    kind = _error_type(told)
    if kind is None or kind not in LOGGED | NOT_ASKED:
        return _wrong(f"an error that must not be: {status} {json.dumps(told)[:300]}", request_id)
    if status is not None and STATUSES.get(kind) != status:
        return _wrong(f"{kind} with status {status}", request_id)
    if status == 429 and not headers.get("retry-after", "").isdigit():
        return _wrong("429 without retry-after", request_id)
    return Outcome(kind="error", detail=kind, request_id=request_id if kind in LOGGED else "")


def plain_outcome(
    question: Question, status: int, headers: Mapping[str, str], body: bytes, *, openai: bool
) -> Outcome:
    """Judge an answer in one piece."""
    request_id = headers.get("x-request-id", "")
    try:
        told = json.loads(body)
    except ValueError:
        return _wrong(f"not JSON, with {status}: {body[:200]!r}", request_id)
    if status != 200:
        return _clean_error(told, status, headers, request_id)
    if openai:
        choice, account = told["choices"][0], told["fallback"]
        text, finish_reason = _said(choice["message"]), choice["finish_reason"]
    else:
        text, finish_reason, account = told["response"], told["finish_reason"], told
    if account["request_id"] != request_id:
        return _wrong(f"answer names the request {account['request_id']}", request_id)
    return _judged(question, text, finish_reason, account, request_id)


def _said(message: Mapping[str, Any]) -> str:
    calls = message.get("tool_calls")
    if calls:
        return "" if len(calls) != 1 else str(calls[0]["function"]["arguments"])
    return message.get("content") or ""


def _judged(
    question: Question, text: str, finish_reason: str | None, account: Mapping[str, Any], request_id: str
) -> Outcome:
    expected = question.expected
    if text != expected:
        how = "cut short" if expected.startswith(text) else "not the right one"
        return _wrong(f"answer {how}: expected {expected[:2000]!r}, got {text[:2000]!r}", request_id)
    if finish_reason != question.finish_reason:
        return _wrong(f"finish_reason {finish_reason!r} of {question.form}", request_id)
    return Outcome(
        kind="right",
        request_id=request_id,
        seams=len(account["seams"]),
        attempts=len(account["attempts"]),
    )


def refused_outcome(status: int, headers: Mapping[str, str], body: bytes, allowed: frozenset[int]) -> Outcome:
    """Judge what rubbish was answered with."""
    request_id = headers.get("x-request-id", "")
    if status not in allowed:
        return _wrong(f"rubbish got {status}, not one of {sorted(allowed)}: {body[:200]!r}", request_id)
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    if _error_type(told) is None:
        return _wrong(f"rubbish got {status} without an error in words: {body[:200]!r}", request_id)
    return Outcome(kind="refused", detail=str(status))


class Stream:
    """Reads a stream of one of the two shapes, and judges it at its end."""

    def __init__(self, question: Question, headers: Mapping[str, str], *, openai: bool) -> None:
        self.pieces = 0
        """Pieces of text so far."""
        self._question = question
        self._request_id = headers.get("x-request-id", "")
        self._openai = openai
        self._text: list[str] = []
        self._rest = b""
        self._name = ""
        self._finish_reason: str | None = None
        self._account: Mapping[str, Any] | None = None
        self._error: Any = None
        self._done = False
        self._complaint = ""

    def feed(self, data: bytes) -> None:
        """Take bytes as they come."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"event: "):
                self._name = line[7:].decode()
            elif line.startswith(b"data: "):
                self._take(line[6:])
            elif line and not line.startswith(b":"):
                self._complain(f"a line that is no event: {line[:100]!r}")

    def _complain(self, what: str) -> None:
        self._complaint = self._complaint or what

    def _take(self, data: bytes) -> None:
        if self._done or self._error is not None:
            self._complain(f"something after the end: {data[:100]!r}")
        elif data == b"[DONE]":
            self._done = True
        else:
            try:
                told = json.loads(data)
            except ValueError:
                self._complain(f"an event that is not JSON: {data[:100]!r}")
                return
            if self._openai:
                self._take_chunk(told)
            else:
                self._take_event(told)

    def _take_event(self, told: Any) -> None:
        match self._name:
            case "delta":
                self._say(told["text"])
            case "done":
                self._done, self._account, self._finish_reason = True, told, told["finish_reason"]
                if told["response"] != "".join(self._text):
                    self._complain("the whole answer differs from its pieces")
            case "error":
                self._error = told

    def _take_chunk(self, told: Any) -> None:
        if "error" in told:
            self._error = told
            return
        self._account = told.get("fallback", self._account)
        for choice in told["choices"]:
            delta = choice["delta"]
            self._say(delta.get("content") or "")
            for call in delta.get("tool_calls") or ():
                self._say(call.get("function", {}).get("arguments") or "")
            self._finish_reason = choice["finish_reason"] or self._finish_reason

    def _say(self, text: str) -> None:
        if text:
            self.pieces += 1
            self._text.append(text)

    def outcome(self) -> Outcome:
        """Judge the stream, now that its body has come to its proper end."""
        if self._rest and not self._complaint:
            self._complain(f"half an event at the end: {self._rest[:100]!r}")
        if self._complaint:
            return _wrong(self._complaint, self._request_id)
        text = "".join(self._text)
        if self._error is not None:
            if self._finish_reason is not None:
                return _wrong("an error after a finish_reason", self._request_id)
            if not self._question.expected.startswith(text):
                return _wrong(f"before an error something else: {text[:2000]!r}", self._request_id)
            return _clean_error(self._error, None, {}, self._request_id)
        if not self._done or self._account is None:
            return _wrong(f"a stream that just ends, after {len(text)} characters", self._request_id)
        return _judged(self._question, text, self._finish_reason, self._account, self._request_id)
