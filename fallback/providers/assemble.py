"""The pieces of a streamed answer put together, or a whole body taken apart, in OpenAI's shape.

Theory of operation: an assembly collects, for each choice, the text, the reasoning, the tool calls (by their index) and
the finish_reason. Usage is taken from wherever a provider puts it (`usage`, `x_groq.usage`), the last one counts: Groq
sends the same figures twice.
https://platform.openai.com/docs/api-reference/chat/streaming
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fallback.core.models import Choice, Usage
from fallback.providers.calls import CallOrder

__all__ = ["Assembly", "Piece"]

_TEXTS = ("content", "reasoning", "reasoning_content", "refusal")
MAX_CHOICES = 128
MOST_TOKENS = 10**12 - 1
"""More is no count."""


class Piece(NamedTuple):
    """A piece of the answer: what one chunk held."""

    text: str
    """Of choice 0."""
    choices: tuple[Mapping[str, Any], ...]
    """Each with index, delta, logprobs and finish_reason."""
    substance: bool
    """Whether it holds text or a part of a tool call."""
    alive: bool
    """Whether a token came: text, reasoning or a part of a tool call."""


class _Partial:
    """One choice while it grows."""

    __slots__ = ("calls", "finish_reason", "logprobs", "order", "rest", "role", "texts")

    def __init__(self) -> None:
        self.role = "assistant"
        self.texts: dict[str, list[str]] = {}
        self.calls: dict[int, dict[str, Any]] = {}
        self.order: CallOrder | None = None
        self.rest: dict[str, Any] = {}
        self.finish_reason: str | None = None
        self.logprobs: dict[str, list[Any]] = {}

    @property
    def blank(self) -> bool:
        for name in ("content", "refusal"):
            for part in self.texts.get(name, ()):
                if not part.isspace():
                    return False
        return not self.calls and "function_call" not in self.rest

    def placed(self, delta: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a delta with the parts of tool calls in OpenAI's form: each one with its index."""
        calls = delta.get("tool_calls")
        if not calls:
            return delta
        if self.order is None:
            self.order = CallOrder()
        return {**delta, "tool_calls": self.order.placed(calls)}

    def add(self, delta: Mapping[str, Any]) -> bool:
        """Take one placed delta. Returns whether it holds text or a part of a tool call."""
        substance = False
        for name, value in delta.items():
            if name in _TEXTS and (isinstance(value, str) or value is None):
                if value:
                    self.texts.setdefault(name, []).append(value)
                    substance = substance or name in {"content", "refusal"}
            elif name == "tool_calls" and isinstance(value, list):
                for call in value:
                    self._add_call(call)
                    substance = True
            elif name == "function_call" and isinstance(value, dict):
                _merge_into(self.rest, name, value)
                substance = True
            elif name == "role" and isinstance(value, str):
                self.role = value
            elif value is not None and name != "token_id":
                self.rest[name] = value
        return substance

    def _add_call(self, call: Mapping[str, Any]) -> None:
        whole = self.calls.setdefault(call["index"], {})
        for name, value in call.items():
            if name == "function" and isinstance(value, dict):
                _merge_into(whole, "function", value)
            elif name != "index" and value is not None:
                whole[name] = value

    def add_logprobs(self, logprobs: Any) -> None:
        """Take the log probabilities of one chunk."""
        if isinstance(logprobs, dict):
            for name, values in logprobs.items():
                if isinstance(values, list):
                    self.logprobs.setdefault(name, []).extend(values)

    def choice(self, index: int) -> Choice:
        message: dict[str, Any] = {"role": self.role, "content": None}
        for name, parts in self.texts.items():
            message[name] = "".join(parts)
        if message["content"] is None and not self.calls:
            message["content"] = ""
        if self.calls:
            message["tool_calls"] = [self.calls[key] for key in sorted(self.calls)]
        message.update(self.rest)
        return Choice(
            index=index,
            message=message,
            finish_reason=self.finish_reason or "stop",
            logprobs=self.logprobs or None,
        )


class Assembly:
    """All choices of one answer."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.model: str | None = None
        self._partials: dict[int, _Partial] = {}

    @property
    def settled(self) -> bool:
        """Whether there are choices and every one has its finish_reason."""
        for partial in self._partials.values():
            if partial.finish_reason is None:
                return False
        return bool(self._partials)

    @property
    def begun(self) -> int:
        """How many choices have begun."""
        return len(self._partials)

    @property
    def blank(self) -> bool:
        """Whether no choice holds text or a tool call, though none ran out of its token budget."""
        partials = self._partials.values()
        return all(p.blank and p.finish_reason != "length" for p in partials)

    @property
    def filtered(self) -> bool:
        """Whether a choice ended because of its content."""
        return any(p.finish_reason == "content_filter" for p in self._partials.values())

    def choices(self) -> tuple[Choice, ...]:
        """Return the choices in order."""
        return tuple(self._partials[index].choice(index) for index in sorted(self._partials))

    def take_chunk(self, chunk: Mapping[str, Any]) -> Piece | None:
        """Take one chunk of a stream and return the piece it holds, None where it holds none.

        Raises ValueError, with nothing taken, where the chunk has not the shape of one.
        """
        piece = self._more_text(chunk)
        if piece is not None:
            return piece
        raws = _choices(chunk, "delta")
        self._take_frame(chunk)
        return self._take(raws, "delta") if raws else None

    def take_whole(self, body: Mapping[str, Any]) -> Piece | None:
        """Take a body that is not streamed and return it as one piece, None where it has no choices.

        Raises ValueError, with nothing taken, where the body has not the shape of an answer.
        """
        raws = _choices(body, "message")
        self._take_frame(body)
        # The legacy API of Together has no finish_reason; an answer in one body is whole by itself.
        return self._take(raws, "message", unsaid="stop") if raws else None

    def _more_text(self, chunk: Mapping[str, Any]) -> Piece | None:
        """Take a chunk that holds more text of the one answer and nothing else, as nearly all do; None: it is another."""
        choices = chunk.get("choices")
        if type(choices) is not list or len(choices) != 1 or type(raw := choices[0]) is not dict:
            return None
        delta, partial = raw.get("delta"), self._partials.get(0)
        if (
            partial is None
            or type(delta) is not dict
            or len(delta) != 1
            or type(text := delta.get("content")) is not str
            or not text
            or raw.get("index") != 0
            or raw.get("finish_reason") is not None
            or raw.get("logprobs") is not None
            or chunk.get("usage") is not None
            or "x_groq" in chunk
        ):
            return None
        if type(model := chunk.get("model")) is str:
            self.model = model
        partial.texts.setdefault("content", []).append(text)
        return Piece(
            text, ({"index": 0, "delta": delta, "logprobs": None, "finish_reason": None},), True, True
        )

    def _take(self, raws: list[dict[str, Any]], key: str, *, unsaid: str | None = None) -> Piece:
        """Take the choices of a body or chunk; `unsaid` is the finish_reason of one that tells none."""
        shown: list[Mapping[str, Any]] = []
        text, substance, alive = "", False, False
        for position, raw in enumerate(raws):
            index = raw.get("index")
            if not isinstance(index, int):
                index = position
            partial = self._partials.get(index)
            if partial is None:
                partial = self._partials[index] = _Partial()
            delta = partial.placed(raw.get(key) or {})
            if partial.add(delta):
                substance = alive = True
            elif delta.get("reasoning") or delta.get("reasoning_content"):
                alive = True
            if index == 0:
                content = delta.get("content") or delta.get("refusal")
                if isinstance(content, str):
                    text += content
            logprobs, finish_reason = raw.get("logprobs"), raw.get("finish_reason")
            if unsaid is not None and not (finish_reason and isinstance(finish_reason, str)):
                finish_reason = unsaid
            if logprobs is not None:
                partial.add_logprobs(logprobs)
            if finish_reason and isinstance(finish_reason, str):
                partial.finish_reason = finish_reason
            shown.append(
                {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
            )
        return Piece(text, tuple(shown), substance, alive)

    def _take_frame(self, body: Mapping[str, Any]) -> None:
        """Take what stands around the choices."""
        if isinstance(body.get("model"), str):
            self.model = body["model"]
        usage = body.get("usage")
        if not isinstance(usage, dict):
            own = body.get("x_groq")
            usage = own.get("usage") if isinstance(own, dict) else None
        if isinstance(usage, dict):
            self.usage = _usage(usage)


def _choices(body: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    raws = body.get("choices") or []
    if not isinstance(raws, list) or len(raws) > MAX_CHOICES:
        raise ValueError("choices is not a list of reasonable length")
    for raw in raws:
        if not isinstance(raw, dict):
            raise ValueError("a choice is not an object")
        part = raw.get(key)
        if not part:
            continue
        if not isinstance(part, dict):
            raise ValueError("a choice holds no object")
        calls = part.get("tool_calls")
        if calls and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
            raise ValueError("tool_calls is not a list of objects")
    return raws


def _usage(usage: Mapping[str, Any]) -> Usage:
    output, prompt = usage.get("completion_tokens_details"), usage.get("prompt_tokens_details")
    reasoning_tokens = _count(output.get("reasoning_tokens")) if isinstance(output, dict) else 0
    cached_tokens = _count(prompt.get("cached_tokens")) if isinstance(prompt, dict) else 0
    return Usage(
        input_tokens=_count(usage.get("prompt_tokens")),
        output_tokens=_count(usage.get("completion_tokens")),
        reasoning_tokens=reasoning_tokens,
        cached_tokens=cached_tokens or _count(usage.get("cached_tokens")),
    )


def _count(value: Any) -> int:
    # `type`, as True is an instance of int.
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else 0


def _merge_into(owner: dict[str, Any], key: str, part: Mapping[str, Any]) -> None:
    """Append the texts of `part` to those of `owner[key]`, name by name: how streamed arguments come."""
    if not isinstance(owner.get(key), dict):
        owner[key] = {}
    whole = owner[key]
    for name, value in part.items():
        if isinstance(value, str) and isinstance(whole.get(name), str):
            whole[name] += value
        elif value is not None:
            whole[name] = value
