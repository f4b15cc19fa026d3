"""The chunks of a streamed completion, each one server-sent event.

https://platform.openai.com/docs/api-reference/chat-streaming

Theory of operation: everything but the choices is the same in every chunk of a stream, so it is built once. What a provider
puts into a delta beside the answer (a role every time, empty members, ids of tokens) is left out. A finish_reason waits until
the answer is whole: a stream that breaks after it must not look finished. However many providers took part, it is one
completion with one id; its model is the one that began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from fallback.api.encode import answer_account
from fallback.api.openai.completion import completion_id, finish_reason, usage_object
from fallback.api.openai.reply import json_bytes
from fallback.core.models import Answer, Choice, Delta

__all__ = ["Chunks"]

_LEFT_OUT = frozenset({"role", "token_id"})
_DONE = b"data: [DONE]\n\n"

_Delta = Mapping[str, Any]


class Chunks:
    """Makes the chunks of one completion."""

    def __init__(self, request_id: str, *, created: int, include_usage: bool) -> None:
        """Begin a completion at Unix time `created`; `include_usage`: its last chunk tells the usage, null in the others."""
        self._id = completion_id(request_id)
        self._created = created
        self._include_usage = include_usage
        self._head = b""
        self._text_head = b""
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._begun: set[int] = set()

    def piece(self, event: Delta) -> bytes:
        """Return the chunk for one piece of the answer; b"" where it holds nothing to be seen."""
        if not self._head:
            self._set_model(event.model)
        choices = event.choices
        if len(choices) == 1 and choices[0]["index"] == 0 and 0 in self._begun:
            delta, logprobs = choices[0]["delta"], choices[0]["logprobs"]
            if len(delta) == 1 and not logprobs and isinstance(content := delta.get("content"), str):
                return self._text(content)
        shown = [made for choice in choices if (made := self._shown(choice)) is not None]
        return self._chunk(shown) if shown else b""

    def end(self, answer: Answer) -> bytes:
        """Return the last chunks and the end of the stream."""
        if not self._head:
            self._set_model(answer.model)
        made = b"".join(
            self._chunk([self._unsaid(choice)])
            for choice in answer.choices
            if choice.index not in self._begun
        )
        ends = [[_choice(choice.index, {}, None, finish_reason(choice))] for choice in answer.choices]
        account = {"fallback": answer_account(answer)}
        if self._include_usage:
            last = self._chunk([], {"usage": usage_object(answer.usage), **account})
        else:
            last = self._chunk(ends.pop(), account)
        return made + b"".join(self._chunk(end) for end in ends) + last + _DONE

    def _set_model(self, model: str) -> None:
        frame = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": model,
        }
        self._head = b"data: " + json_bytes(frame)[:-1] + b',"choices":'
        self._text_head = self._head + b'[{"index":0,"delta":{"content":'

    def _text(self, content: str) -> bytes:
        if not content:
            return b""
        # The form that nearly every chunk has.
        return b"".join(
            (
                self._text_head,
                orjson.dumps(content),
                b'},"logprobs":null,"finish_reason":null}]',
                self._tail,
            )
        )

    def _chunk(self, choices: Sequence[Mapping[str, Any]], more: Mapping[str, Any] | None = None) -> bytes:
        tail = self._tail
        if more is not None:
            tail = b"," + json_bytes(more)[1:] + b"\n\n"
            if self._include_usage and "usage" not in more:
                tail = b',"usage":null' + tail
        return self._head + json_bytes(choices) + tail

    def _shown(self, choice: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the choice of a provider's chunk as it is shown, None where nothing of it is."""
        index = choice["index"]
        delta: dict[str, Any] = {
            name: value
            for name, value in choice["delta"].items()
            if name not in _LEFT_OUT and value not in (None, "", [])
        }
        logprobs = choice["logprobs"]
        if not isinstance(logprobs, dict):
            logprobs = None
        if not delta and logprobs is None:
            return None
        if index not in self._begun:
            self._begun.add(index)
            content = None if "tool_calls" in delta or "function_call" in delta else ""
            delta = {"role": "assistant", "content": content, **delta}
        return _choice(index, delta, logprobs, None)

    def _unsaid(self, choice: Choice) -> Mapping[str, Any]:
        """Return a choice of which nothing was delivered: one that came to blanks, say."""
        message = {"role": "assistant", "content": "", **choice.message}
        return _choice(choice.index, message, choice.logprobs, None)


def _choice(index: int, delta: _Delta, logprobs: Any, reason: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
