"""What the caller has got of one answer so far, across all the attempts that took part in it.

Theory of operation: pieces of an attempt are held until there is something to see, so that a failure before it costs
nothing; from then on they are passed on as they come. That the answer is at its end is told at the end of a good attempt
alone: whoever hears it may stop listening, and an attempt can still fail after it said so. Where an attempt goes on with what earlier ones delivered, its text
runs through a `Seam`, which drops what is said again, and of its pieces the text alone is passed on.

What may not live here: who is asked (plan), time, the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from fallback.core.models import AnswerPart, Candidate, ChatRequest, Choice, Delta
from fallback.core.seam import Seam
from fallback.loop.continuation import may_be_continued
from fallback.providers.assemble import Piece

__all__ = ["Delivery"]

MOST_CONTINUED = 1_000_000
"""Characters of an answer that another candidate can be asked to go on with: more are in no model's window, and whoever
says so much has lost its way."""


class Delivery:
    """One answer on its way to the caller."""

    def __init__(self, request: ChatRequest, *, live: bool) -> None:
        """With `live` pieces are passed on as they come; without, all of them at the end of a good attempt."""
        self._live = live
        self._plain = may_be_continued(request)
        self._texts: list[str] = []
        self._parts: list[tuple[Candidate, int]] = []
        self._begun = False
        self._candidate: Candidate | None = None
        self._held: list[Piece] = []
        self._endings: list[Mapping[str, Any]] = []
        """The choices that told their finish_reason, as they are to be told once the attempt has ended well."""
        self._seam: Seam | None = None

    @property
    def begun(self) -> bool:
        """Whether the caller has got anything that can be seen."""
        return self._begun

    @property
    def final(self) -> bool:
        """Whether no other candidate can go on with what the caller has got."""
        return self._begun and not (self._plain and len(self.text) <= MOST_CONTINUED)

    @property
    def text(self) -> str:
        """The text of choice 0 that the caller has got."""
        return "".join(self._texts)

    @property
    def continues(self) -> int | None:
        """How many characters the caller has got; None where an attempt that begins now begins the answer."""
        return len(self.text) if self._begun else None

    @property
    def parts(self) -> tuple[AnswerPart, ...]:
        """Who contributed how much of the text, in order."""
        return tuple(
            AnswerPart(provider=candidate.provider, model=candidate.model, characters=characters)
            for candidate, characters in self._parts
        )

    def begin(self, candidate: Candidate, *, prefill: bool) -> None:
        """Take note that `candidate` is asked now; what the one before left held is dropped."""
        self._candidate = candidate
        self._held.clear()
        self._endings.clear()
        self._seam = Seam(self.text, own_message=not prefill) if self._begun else None

    def take(self, pieces: Iterable[Piece]) -> Iterator[Delta]:
        """Take pieces as they came and give those that go to the caller now."""
        if not self._live:
            return
        for piece in pieces:
            if self._seam is not None:
                yield from self._go_on(piece, self._seam)
                continue
            self._held.append(piece)
            if self._begun or (piece.substance and _solid(piece)):
                yield from self._pass_on()

    def end(self) -> Iterator[Delta]:
        """Take the good end of an attempt and give what was still held."""
        if self._seam is not None:
            rest = self._seam.end()
            if rest:
                yield self._delta(rest, (_choice({"content": rest}),))
        yield from self._pass_on()
        if self._endings:
            yield self._delta("", tuple(self._endings))
            self._endings.clear()

    def choices(self, choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
        """Return the choices of the last attempt with the text of all of them."""
        if self._seam is None:
            return choices
        first = choices[0]
        message = {**first.message, "content": self.text}
        # Those of the earlier parts are gone with their streams.
        return (replace(first, message=message, logprobs=None), *choices[1:])

    def _go_on(self, piece: Piece, seam: Seam) -> Iterator[Delta]:
        """Pass a piece of a continuation on: its text as far as it is new, and a tool call as it is."""
        text = seam.feed(piece.text)
        call = _call_of(piece)
        if call:
            text += seam.end()
        delta = {**({"content": text} if text else {}), **call}
        finish_reason = piece.choices[0].get("finish_reason") if piece.choices else None
        if delta:
            yield self._delta(text, (_choice(delta),))
        if finish_reason:
            self._endings.append(_choice({}, finish_reason))

    def _pass_on(self) -> Iterator[Delta]:
        for piece in self._held:
            choices = tuple(self._without_ending(choice) for choice in piece.choices)
            if any(choice["delta"] or choice["logprobs"] for choice in choices):
                yield self._delta(piece.text, choices)
        self._held.clear()

    def _without_ending(self, choice: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keep the finish_reason of `choice` for the end, and return the rest of it."""
        if not choice["finish_reason"]:
            return choice
        self._endings.append({**choice, "delta": {}, "logprobs": None})
        return {**choice, "finish_reason": None}

    def _delta(self, text: str, choices: tuple[Mapping[str, Any], ...]) -> Delta:
        candidate = self._candidate
        assert candidate is not None  # noqa: S101 - begin() comes before every piece
        self._begun = True
        self._texts.append(text)
        if any(_call_in(choice) or choice.get("index", 0) != 0 for choice in choices):
            self._plain = False
        if self._parts and self._parts[-1][0] is candidate:
            self._parts[-1] = (candidate, self._parts[-1][1] + len(text))
        else:
            self._parts.append((candidate, len(text)))
        return Delta(text=text, provider=candidate.provider, model=candidate.model, choices=choices)


def _choice(delta: Mapping[str, Any], finish_reason: Any = None) -> Mapping[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _solid(piece: Piece) -> bool:
    """Whether a piece holds more than blanks: a tool call, or text that can be seen."""
    return bool(piece.text.strip()) or any(
        any(choice["delta"].get(name) for name in ("tool_calls", "function_call", "refusal"))
        or choice["index"] != 0
        for choice in piece.choices
    )


def _call_in(choice: Mapping[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return bool(delta.get("tool_calls") or delta.get("function_call"))


def _call_of(piece: Piece) -> dict[str, Any]:
    """Return the part of a tool call that a piece holds."""
    for choice in piece.choices:
        delta = choice.get("delta") or {}
        return {name: delta[name] for name in ("tool_calls", "function_call") if delta.get(name)}
    return {}
