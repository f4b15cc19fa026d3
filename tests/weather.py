"""Simulated providers: what each one does with a call that reaches it at a given instant.

Theory of operation: a provider has a schedule of weathers. The weather at the instant of a call decides how all of that
call goes; a reply is a list of instants and of what comes at each, so that nothing runs and nothing waits. Everybody
would say the same sixty words, hence a word that is missing, doubled or out of order is somebody's fault.

What may not live here: the router, and what it ought to make of this (simulation).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Any

from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.loop import Send
from fallback.transport import Head

WORDS = 60
WHOLE = " ".join(f"word{number}" for number in range(1, WORDS + 1))

FINE = frozenset({"up", "json", "garbage", "comments"})
"""Weathers in which a call is answered whole, and soon."""

WORD_S = 0.005
KEEP_ALIVE_S = 0.7
ENFORCED_S = 0.001
"""A window is over for the provider itself a little before the end that it announces, to allow for rounding."""

_SSE = {"content-type": "text/event-stream"}
_JSON = {"content-type": "application/json"}
_HTML = {"content-type": "text/html; charset=utf-8"}

_ERRORS: Mapping[str, tuple[int, str | None, str]] = {
    "unauthorised": (401, "invalid_api_key", "no"),
    "forbidden": (403, None, "this account may not"),
    "forbidden_model": (403, None, "this account may not use this model"),
    "no_credit": (402, "insufficient_quota", "no credit is left"),
    "too_large": (413, None, "too large"),
    "window": (400, "context_length_exceeded", "longer than the context"),
    "filtered": (400, "content_policy_violation", "not about this"),
    "invalid": (400, None, "cannot be read"),
    "rejected": (400, "json_validate_failed", "fumbled"),
    "busy": (503, None, "over capacity"),
    "error": (500, None, "something broke"),
    "late": (504, None, "upstream was late"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What a provider does with a call. The numbers mean what the kind makes of them."""

    kind: str = "up"
    words: int = 40
    """After how many words a stream breaks."""
    wait_s: float = 8.0
    """Of a rate limit: its length. Of a slow stream: between two pieces. Of a slow start: until the first."""
    head_s: float = 0.02
    """Until the headers are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How a provider speaks."""

    prefill: str = "continue"
    """continue, ignore or refuse a last message of the assistant."""
    asked: str = "continue"
    """continue or ignore the wish to go on."""
    overlap_words: int = 0
    """Words said again before it goes on, where it was asked in words."""
    pieces: str = "leading"
    """leading (" w2"), trailing ("w1 ") or letters: how the text is cut."""
    usual_s: float = 0.05
    """Until the first piece."""
    limit: tuple[int, float] | None = None
    """So many calls in so many seconds; more are refused with the rest of the window as Retry-After."""
    tells_limit: bool = False
    """Whether the headers of every answer tell what is left of that."""


class Reply:
    """One response on its way: read it piece by piece, each with the instant at which it is there."""

    def __init__(self, status: int, headers: Mapping[str, str], parts: Iterator[tuple[float, Any]]) -> None:
        self.head = Head(status=status, headers=headers)
        self.closed = False
        self._parts = parts
        self._next: tuple[float, Any] | None = None

    def read(self, now: float, limit_s: float) -> tuple[float, bytes | TransportError]:
        """Return the instant at which a read that begins `now` comes back, and what with."""
        assert not self.closed, "a response was read after it was closed"
        self._next = self._next or next(self._parts, (now, b""))
        at, came = max(now, self._next[0]), self._next[1]
        if at > now + limit_s:
            return now + limit_s, TransportError(FailureKind.TIMEOUT, Phase.BODY, "silence")
        self._next = None
        return at, came


class SimulatedProvider:
    """One provider: its schedule of (seconds it lasts, weather), and its habits. Fine weather follows the last one."""

    def __init__(self, name: str, schedule: Sequence[tuple[float, Weather]], habits: Habits) -> None:
        self.name = name
        self.habits = habits
        self.answered = 0
        """Calls that reached it."""
        self._schedule: list[tuple[float, float, Weather]] = []
        self._window: tuple[float, int] = (-inf, 0)
        begins = 0.0
        for lasts_s, weather in schedule:
            self._schedule.append((begins, begins + lasts_s, weather))
            begins += lasts_s
        self.over = begins
        """The instant at which the last weather of the schedule ends."""

    @property
    def outages(self) -> int:
        """How many weathers of its schedule are bad ones."""
        return sum(weather.kind not in FINE for _, _, weather in self._schedule)

    def weather(self, now: float) -> tuple[Weather, float]:
        """Return the weather at the instant `now` and the instant at which it ends."""
        for begins, ends, weather in self._schedule:
            if begins <= now < ends:
                return weather, ends
        return Weather(), inf

    def fine(self, since: float, until: float) -> bool:
        """Return whether every call from `since` to `until` is answered whole, and soon."""
        return self.habits.limit is None and all(
            weather.kind in FINE and weather.head_s < 0.1
            for begins, ends, weather in self._schedule
            if begins <= until and since < ends
        )

    def call(self, send: Send, now: float) -> tuple[float, Reply | TransportError]:
        """Take a call that is made `now`. Returns the instant at which its headers are there, or what came instead."""
        body = json.loads(send.request.body)
        weather, ends = self.weather(now)
        failed = self._unconnected(weather, send, now)
        if failed is not None:
            return failed
        self.answered += 1
        if weather.head_s > send.limit_s or weather.kind == "silent":
            return now + send.limit_s, TransportError(FailureKind.TIMEOUT, Phase.HEADERS, "no answer in time")
        there = now + weather.head_s
        return there, self._reply(body, weather, there, ends)

    def _unconnected(self, weather: Weather, send: Send, now: float) -> tuple[float, TransportError] | None:
        match weather.kind:
            case "refused":
                return now + 0.001, TransportError(FailureKind.CONNECTION, Phase.CONNECT, "refused")
            case "unroutable":
                limit_s = min(send.connect_s, send.limit_s)
                return now + limit_s, TransportError(FailureKind.TIMEOUT, Phase.CONNECT, "no connection")
            case "reset":
                self.answered += 1
                return now + 0.002, TransportError(FailureKind.CONNECTION, Phase.HEADERS, "reset")
        return None

    def _reply(self, body: Mapping[str, Any], weather: Weather, now: float, ends: float) -> Reply:
        kind = weather.kind
        if kind in _ERRORS:
            return _refusal(*_ERRORS[kind], now=now)
        if kind == "gone" and body["model"] == f"{self.name}-1":
            return _refusal(404, "model_not_found", "this model is gone", now=now)
        if kind == "limited":
            return self._limited(min(weather.wait_s, max(0.0, ends - now)), now)
        headers: dict[str, str] = {}
        if self.habits.limit is not None:
            left, rest_s = self._count(self.habits.limit, now)
            if left < 0:
                return self._limited(rest_s, now)
            if self.habits.tells_limit:
                headers = {
                    "x-ratelimit-remaining-requests": str(left),
                    "x-ratelimit-reset-requests": f"{rest_s:.3f}s",
                }
        said = self._says(body)
        if said is None:
            return _refusal(400, None, "the last message may not be of the assistant", now=now)
        if kind == "empty":
            said = ""
        if kind in {"page", "edge", "elsewhere"}:
            status = {"page": 200, "edge": 403, "elsewhere": 302}[kind]
            return Reply(status, _HTML, _after(now, b"<html>no</html>"))
        if kind in {"json", "half"}:
            whole = _body(said)
            return Reply(
                200, {**_JSON, **headers}, _after(now, whole[: len(whole) // 2] if kind == "half" else whole)
            )
        return Reply(200, {**_SSE, **headers}, _stream(said, weather, self.habits, now))

    def _count(self, limit: tuple[int, float], now: float) -> tuple[int, float]:
        """Count a call. Returns how many are left in this window (negative: this one is too many) and its rest."""
        calls, window_s = limit
        began, made = self._window
        if now >= began + window_s - ENFORCED_S:
            began, made = now, 0
        self._window = (began, made + 1)
        return calls - made - 1, began + window_s - now

    def _limited(self, wait_s: float, now: float) -> Reply:
        return _refusal(429, None, "slow down", now=now, headers={"retry-after": f"{wait_s:.3f}"})

    def _says(self, body: Mapping[str, Any]) -> str | None:
        """Return what it would say to the end; None: it refuses the request in this form."""
        before, asked = begun_answer(body)
        habits = self.habits
        if body.get("max_tokens") == 1 and not before:
            return "OK"
        if before is None:
            return WHOLE
        if not asked and habits.prefill == "refuse":
            return None
        if (habits.asked if asked else habits.prefill) == "ignore":
            return WHOLE
        if not asked:
            return WHOLE[len(before) :]
        words, said = WHOLE.split(), len(before.split())
        if before.rstrip() == WHOLE:
            # It has nothing to add, and still says the last words again, as it is asked to.
            return " ".join(words[-2:])
        if said and not before.endswith((" ", words[said - 1])):
            # It was cut in the middle of a word: whoever says the last words again writes that one anew.
            return " ".join(words[max(0, said - max(2, habits.overlap_words)) :])
        return " ".join(words[max(0, said - habits.overlap_words) :])


def begun_answer(body: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Return the text that a call is to go on with (None: it begins one), and whether it asks for that in words."""
    messages = body["messages"]
    if messages[-1]["role"] == "assistant":
        return str(messages[-1]["content"]), False
    if len(messages) > 1 and messages[-2]["role"] == "assistant":
        return str(messages[-2]["content"]), True
    return None, False


def _after(now: float, data: bytes) -> Iterator[tuple[float, Any]]:
    yield now, data


def _refusal(
    status: int, code: str | None, message: str, *, now: float, headers: Mapping[str, str] | None = None
) -> Reply:
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    return Reply(status, {**_JSON, **(headers or {})}, _after(now, body))


def _stream(said: str, weather: Weather, habits: Habits, now: float) -> Iterator[tuple[float, Any]]:
    kind = weather.kind
    if kind == "mute":
        yield inf, b""
    first_s = weather.wait_s if kind == "slow" else habits.usual_s
    while kind == "keep_alive" or (kind == "comments" and first_s > KEEP_ALIVE_S):
        now, first_s = now + KEEP_ALIVE_S, first_s - KEEP_ALIVE_S
        yield now, b": keep-alive\n\n"
    if kind == "flood":
        for _ in range(10):
            yield now, _WITHOUT_END
    now += first_s
    yield now, b": hello\n\n" + _event("")
    pieces = _pieces(said, habits.pieces)
    gap_s = weather.wait_s if kind == "trickle" else WORD_S
    breaks = kind in {"cut", "torn", "stall", "error_event", "withheld"} and said != "OK"
    for place, piece in enumerate(pieces):
        if breaks and place == weather.words:
            break
        now += gap_s
        yield now, _event(piece) + (b"data: {nonsense\n\n" if kind == "garbage" else b"")
    yield from _ending(kind if breaks or kind in {"no_finish", "late_error"} else "up", now)


def _ending(kind: str, now: float) -> Iterator[tuple[float, Any]]:
    match kind:
        case "stall":
            yield inf, b""
        case "torn":
            yield now, TransportError(FailureKind.CONNECTION, Phase.BODY, "reset")
        case "error_event":
            yield now, b'data: {"error": {"message": "it broke", "code": 500}}\n\n'
        case "late_error":
            yield now, _event("", "stop") + b'data: {"error": {"message": "it broke", "code": 500}}\n\n'
        case "withheld":
            yield now, _event("", "content_filter") + b"data: [DONE]\n\n"
        case "up":
            yield now + WORD_S, _event("", "stop") + _USAGE + b"data: [DONE]\n\n"


@cache
def _event(text: str, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"model": "simulated", "choices": [choice]}).encode() + b"\n\n"


_WITHOUT_END = b"data: " + b"w" * 20_000
_USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 60}}\n\n'


@cache
def _body(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"model": "simulated", "choices": [choice]}).encode()


@cache
def _pieces(text: str, cut: str) -> tuple[str, ...]:
    if cut == "letters":
        return tuple(text[place : place + 4] for place in range(0, len(text), 4))
    words = text.split(" ") if text else []
    if cut == "trailing":
        return tuple(f"{word} " for word in words[:-1]) + tuple(words[-1:])
    return tuple(words[:1]) + tuple(f" {word}" for word in words[1:])
