"""From the body of a chat completions call to the request that it makes.

https://platform.openai.com/docs/api-reference/chat/create

Theory of operation: a few members are read here (model, messages, temperature, max_tokens, stream, stream_options); every
other one goes to the provider as it came, known or not, so that what OpenAI adds tomorrow works at once. Those whose shape
has long been settled are looked at for their type: a mistake is then told at once, and no provider is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from fallback.core.errors import RequestError
from fallback.core.models import ChatRequest
from fallback.core.values import valueclass
from fallback.intake import MAX_TOKENS, chat_request

__all__ = ["DEADLINE_HEADER", "Wanted", "wanted"]

DEADLINE_HEADER = "x-fallback-deadline-s"
"""Seconds for everything together. A header, so that the body stays OpenAI's, and a client can send it with every call."""

MAX_CHOICES = 128

_READ_HERE = frozenset({"model", "messages", "temperature", "max_tokens", "stream", "stream_options"})
_SECONDS = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")


@valueclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a caller wants."""

    chat: ChatRequest
    stream: bool
    include_usage: bool
    """Whether a stream is to end with a chunk that tells the usage."""


def wanted(
    body: Mapping[str, Any],
    *,
    request_id: str,
    deadline: bytes | None = None,
    api_key_name: str | None = None,
    traceparent: str | None = None,
) -> Wanted:
    """Return what `body` asks for. `deadline` is the value of the header. Raises RequestError."""
    stream = body.get("stream")
    if not isinstance(stream, bool | None):
        raise RequestError("stream must be true or false", param="stream")
    if body.get("messages") is None:
        raise RequestError(
            'messages is missing: send a list such as [{"role": "user", "content": "..."}]', param="messages"
        )
    extra = {name: value for name, value in body.items() if value is not None and name not in _READ_HERE}
    for name in extra.keys() & _SHAPES.keys():
        what, fits = _SHAPES[name]
        if not fits(extra[name]):
            raise RequestError(f"{name} must be {what}", param=name)
    chat = chat_request(
        messages=body["messages"],
        model="auto" if body.get("model") is None else body["model"],
        temperature=body.get("temperature"),
        max_tokens=body.get("max_tokens"),
        deadline_s=None if deadline is None else _seconds(deadline),
        source="api",
        request_id=request_id,
        extra=extra,
        wire=True,
        api_key_name=api_key_name,
        traceparent=traceparent,
    )
    return Wanted(chat=chat, stream=bool(stream), include_usage=_include_usage(body, bool(stream)))


def _include_usage(body: Mapping[str, Any], stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not stream:
        raise RequestError("stream_options goes with stream: true", param="stream_options")
    if not isinstance(options, dict):
        raise RequestError("stream_options must be an object", param="stream_options")
    include = options.get("include_usage")
    if not isinstance(include, bool | None):
        raise RequestError(
            "stream_options.include_usage must be true or false", param="stream_options.include_usage"
        )
    return bool(include)


def _seconds(header: bytes) -> float:
    value = float(header) if _SECONDS.fullmatch(header) else 0.0
    if value <= 0:
        raise RequestError(
            f"the header {DEADLINE_HEADER} must be a number of seconds above 0", param=DEADLINE_HEADER
        )
    return value


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_stop(value: object) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(text, str) for text in value)
    )


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


_SHAPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "n": (f"a whole number from 1 to {MAX_CHOICES}", lambda v: _is_whole(v) and 1 <= v <= MAX_CHOICES),
    "max_completion_tokens": (
        f"a whole number from 1 to {MAX_TOKENS:,}",
        lambda v: _is_whole(v) and 1 <= v <= MAX_TOKENS,
    ),
    "seed": ("a whole number", _is_whole),
    "stop": ("a text or a list of texts", _is_stop),
    "top_p": ("a number", _is_number),
    "presence_penalty": ("a number", _is_number),
    "frequency_penalty": ("a number", _is_number),
    "tools": ("a list of objects", _are_objects),
    "functions": ("a list of objects", _are_objects),
    "tool_choice": ("a text or an object", lambda v: isinstance(v, str | dict)),
    "parallel_tool_calls": ("true or false", lambda v: isinstance(v, bool)),
    "response_format": ("an object", lambda v: isinstance(v, dict)),
    "logit_bias": ("an object", lambda v: isinstance(v, dict)),
    "user": ("a text", lambda v: isinstance(v, str)),
}
