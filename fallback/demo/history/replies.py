"""What a provider of the history sends back, and after how long: bytes that the real decoders read.

What may not live here: what follows from a reply (core), the passing of time (`simulation`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.core.models import Candidate
from fallback.demo.history.callers import Visit
from fallback.demo.history.incidents import Incident, Trouble
from fallback.demo.stage import SLOWER, SPEEDS
from fallback.drills import Drill, DrilledError, DrilledHead
from fallback.drills.scenes import scene_of
from fallback.providers.settings import ProviderSettings
from fallback.transport.base import Head

__all__ = ["Piece", "Replies", "Reply"]

_JSON: Final = {"content-type": "application/json"}
_EVENTS: Final = {"content-type": "text/event-stream"}
_BEGINNING, _REST = "The capital of Japan", " is Tokyo."
"""Of every answer: whoever goes on with a broken one repeats its beginning."""
_EMBEDDED_SPEED: Final = (0.5, 26.0)
_EMBEDDED_READS: Final = 90.0
"""Tokens of a prompt a second."""
_EMBEDDED_MOST: Final = (160, 1024)
"""Tokens of an answer, and of a conversation."""
_CLOUD_READS: Final = 25_000.0
_DRILL_S: Final = 0.004
"""Until a drill, which is in this program, answers."""
_LONGEST_SILENCE_S: Final = 4.0
"""Tokens come all the time; an event of the history stands for so many seconds of them."""
_REASONS: Final = "gpt-oss"
"""Models that think before they answer."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that come together, and how long they let wait. Infinity: they never come."""

    data: bytes
    after_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One call as the transport sees it."""

    head: Head | TransportError | None
    """None: nothing ever comes."""
    after_s: float = 0.0
    """How long the head, or its failure, lets wait."""
    body: Sequence[Piece] = ()
    broken: TransportError | None = None
    """How the body ends; None: as it should."""


_BLIPS: Final = (
    ("server_error", 0.004),
    ("reset", 0.0015),
    ("silent", 0.001),
    ("overloaded", 0.0015),
    ("empty", 0.001),
    ("cut", 0.0008),
    ("stalled", 0.0006),
    ("page", 0.0008),
    ("rejected", 0.0008),
)
"""What goes wrong on any day, and how often."""

_IMPROPER: Final[Mapping[str, tuple[int, str, str]]] = {
    "content_policy": (400, "The request was refused because of its content", "content_policy_violation"),
    "invalid_request": (400, "messages[0].content: expected a string or a list of parts", "invalid_value"),
    "request_too_large": (
        413,
        "Request too large for this model: tokens per minute (TPM)",
        "request_too_large",
    ),
}


class Replies:
    """Makes the replies of all providers. `troubles` gives the incidents of one provider that are under way."""

    def __init__(
        self,
        providers: Sequence[ProviderSettings],
        *,
        troubles: Callable[[str], Sequence[Incident]],
        draw: Random,
    ) -> None:
        self._troubles = troubles
        self._draw = draw
        self._embedded = {provider.name for provider in providers if provider.type == "local"}
        self._speeds: dict[tuple[str, str], tuple[float, float]] = {}
        for place, provider in enumerate(providers):
            before = sum(other.type == provider.type for other in providers[:place])
            first_s, per_s = SPEEDS.get(provider.type, _EMBEDDED_SPEED)
            for later, model in enumerate(provider.models):
                slower = SLOWER ** (before + later)
                self._speeds[provider.name, model.name] = (first_s * slower, per_s / slower)

    def reply(self, visit: Visit, candidate: Candidate, *, now: float, streamed: bool) -> Reply:
        """Return what `candidate` sends to `visit`, `now` seconds after the beginning of the history."""
        slow = 1.0
        for incident in self._troubles(candidate.provider):
            if incident.model is not None and incident.model != candidate.model:
                continue
            if incident.trouble is Trouble.SLOW:
                slow = max(slow, incident.strength)
            elif self._draw.random() < incident.strength:
                return self._in_trouble(incident, candidate, now)
        if candidate.provider in self._embedded:
            return self._answer(visit, candidate, slow, streamed=streamed)
        return self._refusal_of(visit, candidate) or self._blip(visit, candidate, slow, streamed=streamed)

    def drilled(self, drill: Drill, candidate: Candidate, *, streamed: bool) -> Reply:
        """Return what the drill makes of a call."""
        scene = scene_of(drill.kind, drill.value or 0.0, model=candidate.model, streamed=streamed)
        broken = None
        if scene.broken is not None:
            told = scene.broken
            broken = DrilledError(told.kind, told.phase, told.detail, drill.kind)
        after_s = self._draw.lognormvariate(math.log(_DRILL_S), 0.4)
        if scene.head is None:
            return Reply(head=broken, after_s=after_s)
        return Reply(
            head=DrilledHead(status=scene.head.status, headers=scene.head.headers, drill=drill.kind),
            after_s=after_s,
            body=[Piece(piece.data, piece.after_s) for piece in scene.body],
            broken=broken,
        )

    def _in_trouble(self, incident: Incident, candidate: Candidate, now: float) -> Reply:
        left_s = max(1.0, math.ceil(incident.until_s - now)) if math.isfinite(incident.until_s) else 1.0
        match incident.trouble:
            case Trouble.RATE_LIMITED:
                message = (
                    f"Rate limit reached for model `{candidate.model}`. Please try again in {left_s:g}s."
                )
                return self._refusal(429, message, "rate_limit_exceeded", {"retry-after": f"{left_s:g}"})
            case Trouble.OVERLOADED:
                return self._refusal(
                    503, "The model is overloaded, please try again later", "overloaded_error"
                )
            case Trouble.GONE:
                message = f"The model `{candidate.model}` has been decommissioned and is no longer supported"
                return self._refusal(404, message, "model_decommissioned")
            case Trouble.BAD_KEY:
                return self._refusal(401, "Invalid API key", "invalid_api_key")
            case Trouble.NO_CREDIT:
                return self._refusal(402, "Your credit balance is used up", "insufficient_quota")
            case Trouble.CRASHED:
                return self._lost(Phase.CONNECT, "the embedded model is starting again", 0.001)
            case _:
                return self._down()

    def _down(self) -> Reply:
        drawn = self._draw.random()
        if drawn < 0.45:
            return self._lost(Phase.CONNECT, "connection refused", 0.03)
        if drawn < 0.85:
            return self._refusal(503, "Service unavailable", "")
        return Reply(head=None)

    def _refusal_of(self, visit: Visit, candidate: Candidate) -> Reply | None:
        """Refuse a question that no model would take, or that this one has no room for."""
        window = candidate.context_window
        if window is not None and visit.input_tokens + 64 > window:
            message = f"Please reduce the length of the messages: this model has {window} tokens"
            return self._refusal(400, message, "context_length_exceeded")
        if visit.improper is None:
            return None
        return self._refusal(*_IMPROPER[visit.improper])

    def _blip(self, visit: Visit, candidate: Candidate, slow: float, *, streamed: bool) -> Reply:
        drawn = self._draw.random()
        for kind, share in _BLIPS:
            if drawn < share:
                return self._gone_wrong(kind, visit, candidate, streamed=streamed)
            drawn -= share
        return self._answer(visit, candidate, slow, streamed=streamed)

    def _gone_wrong(self, kind: str, visit: Visit, candidate: Candidate, *, streamed: bool) -> Reply:
        match kind:
            case "server_error":
                return self._refusal(500, "Internal server error", "internal_error")
            case "overloaded":
                return self._refusal(
                    503, "The model is overloaded, please try again later", "overloaded_error"
                )
            case "rejected":
                return self._refusal(400, "Failed to generate JSON", "json_validate_failed")
            case "reset":
                return self._lost(Phase.HEADERS, "the connection was closed", 0.4)
            case "silent":
                return Reply(head=None)
            case "page":
                head = Head(status=200, headers={"content-type": "text/html"})
                return Reply(head=head, after_s=0.2, body=[Piece(b"<html><body>Welcome</body></html>")])
        whole = self._answer(visit, candidate, 1.0, streamed=True)
        first = whole.body[0]
        if kind == "empty" or not streamed:
            blank = first.data.replace(_BEGINNING.encode(), b"")
            last = whole.body[-1].data.replace(_REST.encode(), b"").replace(b'"length"', b'"stop"')
            return Reply(
                head=whole.head, body=[Piece(blank, first.after_s), Piece(last, whole.body[-1].after_s)]
            )
        if kind == "stalled":
            return Reply(head=whole.head, body=[first, Piece(b"", math.inf)])
        broken = TransportError(FailureKind.CONNECTION, Phase.BODY, "the connection was closed")
        return Reply(head=whole.head, body=[first, Piece(b": \n\n", 0.3)], broken=broken)

    def _answer(self, visit: Visit, candidate: Candidate, slow: float, *, streamed: bool) -> Reply:
        draw = self._draw
        first_s, per_s = self._speeds[candidate.key]
        asked, most = visit.input_tokens, visit.max_tokens or 2048
        reads = _CLOUD_READS
        if candidate.provider in self._embedded:
            most, asked, reads = min(most, _EMBEDDED_MOST[0]), min(asked, _EMBEDDED_MOST[1]), _EMBEDDED_READS
        thought = int(visit.output_tokens * 0.3) if _REASONS in candidate.model else 0
        said = min(visit.output_tokens + thought, most)
        wait_s = (draw.lognormvariate(math.log(first_s), 0.35) + asked / reads) * slow
        rest_s = said / (per_s * draw.lognormvariate(0.0, 0.2)) * slow
        cached = asked // 2 if visit.source == "chat" and draw.random() < 0.3 else 0
        usage = (
            f'{{"prompt_tokens":{asked},"completion_tokens":{said},"total_tokens":{asked + said},'
            f'"completion_tokens_details":{{"reasoning_tokens":{min(thought, said)}}},'
            f'"prompt_tokens_details":{{"cached_tokens":{cached}}}}}'
        )
        reason = "length" if said < visit.output_tokens + thought else "stop"
        said_id = {"x-request-id": f"req_{draw.getrandbits(80):020x}"}
        start = f'{{"model":"{candidate.model}","choices":[{{"index":0,'
        if not streamed:
            whole = f'{start}"message":{_message(_BEGINNING + _REST)},"finish_reason":"{reason}"}}],"usage":{usage}}}'
            head = Head(status=200, headers={**_JSON, **said_id})
            return Reply(head=head, body=[Piece(whole.encode(), wait_s + rest_s)])
        first = f'data: {start}"delta":{_message(_BEGINNING)}}}]}}\n\n'
        last = f'data: {start}"delta":{_message(_REST)},"finish_reason":"{reason}"}}],"usage":{usage}}}\n\ndata: [DONE]\n\n'
        waits = max(1, math.ceil(rest_s / _LONGEST_SILENCE_S))
        body = [Piece(first.encode(), wait_s)]
        body += [Piece(b": \n\n", rest_s / waits) for _ in range(waits - 1)]
        body.append(Piece(last.encode(), rest_s / waits))
        return Reply(head=Head(status=200, headers={**_EVENTS, **said_id}), body=body)

    def _refusal(
        self, status: int, message: str, code: str, headers: Mapping[str, str] | None = None
    ) -> Reply:
        body = json.dumps({"error": {"message": message, "type": "error", "code": code or None}})
        told = {**_JSON, "x-request-id": f"req_{self._draw.getrandbits(80):020x}", **(headers or {})}
        after_s = self._draw.lognormvariate(math.log(0.12), 0.5)
        return Reply(head=Head(status=status, headers=told), after_s=after_s, body=[Piece(body.encode())])

    def _lost(self, phase: Phase, detail: str, after_s: float) -> Reply:
        error = TransportError(FailureKind.CONNECTION, phase, detail)
        return Reply(head=error, after_s=self._draw.lognormvariate(math.log(after_s), 0.4))


def _message(text: str) -> str:
    return f'{{"role":"assistant","content":"{text}"}}'
