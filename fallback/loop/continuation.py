"""The request by which another candidate is asked to go on with an answer that broke off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fallback.core.models import ChatRequest, Message

__all__ = ["CHARACTERS_PER_TOKEN", "begun_in", "continued", "may_be_continued"]

_PLEA = (
    "Your last message was cut off by a technical fault. Repeat its last few words exactly as they stand there, "
    "and go on from where it stops. Write nothing else: no comment, and no other part of it again."
)
"""The few words said again show to the letter where the rest belongs: a new message begins without the blank that may have
to stand before it, and a word that was cut in two is written anew."""
CHARACTERS_PER_TOKEN = 4
"""Roughly, of English text: what was delivered comes off the caller's token budget."""


def may_be_continued(request: ChatRequest) -> bool:
    """Return whether text of an answer to `request` can be gone on with: one answer, in no prescribed form."""
    wanted = request.extra.get("n")
    form = request.extra.get("response_format")
    plain = form is None or (isinstance(form, dict) and form.get("type") == "text")
    return plain and (wanted is None or wanted == 1)


def continued(request: ChatRequest, text: str, *, prefill: bool) -> ChatRequest:
    """Return `request` as it is put to whoever is to go on with `text`.

    With `prefill` the text stands as the last message, for the candidate to go on inside it; without, a short message
    of the user asks for the rest.
    """
    messages = list(request.messages)
    if messages and messages[-1].get("role") == "assistant" and isinstance(messages[-1].get("content"), str):
        # The caller had begun the answer, as a prefill of its own.
        text = f"{messages.pop()['content']}{text}"
    rest: list[Message] = [{"role": "assistant", "content": text}]
    if not prefill:
        rest.append({"role": "user", "content": _PLEA})
    used = len(text) // CHARACTERS_PER_TOKEN
    budget = request.max_tokens
    if budget is not None:
        budget = max(1, budget - used)
    extra = dict(request.extra)
    if isinstance(extra.get("max_completion_tokens"), int):
        extra["max_completion_tokens"] = max(1, extra["max_completion_tokens"] - used)
    return replace(request, messages=(*messages, *rest), max_tokens=budget, extra=extra)


def begun_in(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the text that `messages`, made by `continued`, ask to go on with; None: they ask for an answer of its own."""
    asked = messages[:-1] if messages and messages[-1].get("content") == _PLEA else messages
    text = asked[-1].get("content") if asked and asked[-1].get("role") == "assistant" else None
    return text if isinstance(text, str) and text else None
