"""What a drilled provider sends, as a value: waits, a head, pieces of a body, an end.

The bytes are those of OpenAI's chat completions, which every decoder here understands.
https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from fallback.core.errors import FailureKind, Phase
from fallback.drills.drill import DrillKind
from fallback.drills.opening import announced, opening
from fallback.transport.base import Head

__all__ = ["ANSWER", "Broken", "Piece", "Scene", "good_scene", "scene_of"]

ANSWER = "This is a simulated answer: a drill is active for this provider."

_EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
_JSON = {"content-type": "application/json"}
_PAGE = b"<!DOCTYPE html>\n<html><head><title>Drill</title></head><body><h1>Simulated by a drill</h1></body></html>\n"
_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes that come together, and how long they let wait. Infinity: they never come."""

    data: bytes
    after_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """How the transport fails."""

    kind: FailureKind
    phase: Phase
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The whole of one call."""

    head: Head | None = None
    """None: no headers come; it ends with `broken`, or in silence where that is None too."""
    body: tuple[Piece, ...] = ()
    broken: Broken | None = None
    """None: the body ends as it should."""


def _lost(phase: Phase, detail: str) -> Scene:
    return Scene(broken=Broken(kind=FailureKind.CONNECTION, phase=phase, detail=detail))


def _refusal(
    status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
) -> Scene:
    body = {"error": {"message": f"Simulated by a drill: {message}", "type": "drill", "code": code}}
    return Scene(
        head=Head(status=status, headers={**_JSON, **(headers or {})}),
        body=(Piece(data=json.dumps(body).encode()),),
    )


_CLOSED = Broken(kind=FailureKind.CONNECTION, phase=Phase.BODY, detail="the connection was closed (drill)")

_FIXED: Mapping[DrillKind, Scene] = {
    # The router asks nobody who is off; what was on its way there meets nobody.
    DrillKind.OFF: _lost(Phase.CONNECT, "switched off (drill)"),
    DrillKind.REFUSED: _lost(Phase.CONNECT, "connection refused (drill)"),
    DrillKind.RESET: _lost(Phase.HEADERS, "the connection was closed (drill)"),
    DrillKind.SILENT: Scene(),
    DrillKind.UNAUTHORIZED: _refusal(401, "the key is not accepted", "invalid_api_key"),
    DrillKind.SERVER_ERROR: _refusal(500, "something went wrong"),
    DrillKind.OVERLOADED: _refusal(503, "no room for more requests"),
    DrillKind.HTML: Scene(
        head=Head(status=200, headers={"content-type": "text/html"}), body=(Piece(data=_PAGE),)
    ),
}


def scene_of(kind: DrillKind, amount: float, *, model: str, streamed: bool) -> Scene:
    """Return what happens to a call, `amount` being the value of the drill where its kind takes one."""
    count = int(amount)
    match kind:
        case DrillKind.RATE_LIMITED:
            wait = f"{count}" if amount == count else f"{amount}"
            return _refusal(429, "too many requests", "rate_limit_exceeded", {"retry-after": wait})
        case DrillKind.SLOW_FIRST_TOKEN:
            return _slowed(good_scene(model=model, streamed=streamed), first_s=amount)
        case DrillKind.TRICKLE:
            return _slowed(good_scene(model=model, streamed=streamed), first_s=amount, each_s=amount)
        case DrillKind.STALL:
            begun = _begun(count, model=model, streamed=streamed)
            return replace(begun, body=(*begun.body, Piece(data=b"", after_s=inf)))
        case DrillKind.CUT:
            return replace(_begun(count, model=model, streamed=streamed), broken=_CLOSED)
        case DrillKind.MALFORMED_EVENT | DrillKind.NO_FINISH | DrillKind.EMPTY_ANSWER:
            return _misshapen(kind, model=model, streamed=streamed)
        case _:
            return _FIXED[kind]


def good_scene(*, model: str, streamed: bool) -> Scene:
    """Return a whole answer, simulated because nobody can be asked."""
    if not streamed:
        return Scene(head=_ok(_JSON), body=_slices(_whole(model, ANSWER)))
    return _stream(*_words(ANSWER, model), _event(model, {}, "stop"), _DONE)


def _misshapen(kind: DrillKind, *, model: str, streamed: bool) -> Scene:
    text = "" if kind is DrillKind.EMPTY_ANSWER else ANSWER
    if not streamed:
        whole = _whole(model, text, None if kind is DrillKind.NO_FINISH else "stop")
        data = whole[: len(whole) // 2] if kind is DrillKind.MALFORMED_EVENT else whole
        return Scene(head=_ok(_JSON), body=(Piece(data=data),))
    words = _words(text, model)
    match kind:
        case DrillKind.MALFORMED_EVENT:
            torn = _event(model, {"content": " torn"}, None)[:-12] + b"\n\n"
            return _stream(*words[:5], torn, *words[5:], _event(model, {}, "stop"), _DONE)
        case DrillKind.NO_FINISH:
            # The next one goes on with it, so it is no whole answer.
            return _stream(*_words(announced(opening(1)) or "", model), _DONE)
        case _:
            return _stream(_event(model, {"content": ""}, None), _event(model, {}, "stop"), _DONE)


def _slowed(scene: Scene, *, first_s: float, each_s: float = 0.0) -> Scene:
    first, *rest = scene.body
    pieces = (
        Piece(data=first.data, after_s=first_s),
        *(Piece(data=piece.data, after_s=each_s) for piece in rest),
    )
    return Scene(head=scene.head, body=pieces)


def _begun(count: int, *, model: str, streamed: bool) -> Scene:
    """Return the first `count` words of an answer that is longer than that."""
    text = opening(count)
    if streamed:
        return _stream(*_words(text, model))
    whole = _whole(model, text)
    open_text = b'"content": ' + json.dumps(text).encode()[:-1]
    data = whole[: whole.index(open_text) + len(open_text)]
    return Scene(head=_ok(_JSON), body=(Piece(data=data),))


def _ok(headers: Mapping[str, str]) -> Head:
    return Head(status=200, headers=headers)


def _stream(*events: bytes) -> Scene:
    return Scene(head=_ok(_EVENTS), body=tuple(Piece(data=event) for event in events))


def _slices(body: bytes, size: int = 32) -> tuple[Piece, ...]:
    return tuple(Piece(data=body[start : start + size]) for start in range(0, len(body), size))


def _words(text: str, model: str) -> tuple[bytes, ...]:
    return tuple(
        _event(model, {"content": word if position == 0 else f" {word}"}, None)
        for position, word in enumerate(text.split())
    )


def _event(model: str, delta: Mapping[str, Any], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {"id": "drill", "object": "chat.completion.chunk", "model": model, "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _whole(model: str, text: str, finish_reason: str | None = "stop") -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    body = {"id": "drill", "object": "chat.completion", "model": model, "choices": [choice]}
    return json.dumps(body).encode()
