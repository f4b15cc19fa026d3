"""From a caller's arguments to a ChatRequest.

Everything that can be wrong with them is found here, before any provider is asked.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from fallback.core.errors import RequestError
from fallback.core.models import ChatRequest, Message

__all__ = ["chat_request", "new_request_id"]

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "refusal", "audio")
"""With one of these an answer of the assistant needs no text."""
MAX_MESSAGES = 10_000
MAX_TOKENS = 10_000_000


def new_request_id() -> str:
    """Return a fresh id for a request: "req_" and 32 hexadecimal digits."""
    return f"req_{secrets.token_hex(16)}"


def chat_request(
    prompt: Any = None,
    *,
    messages: Any = None,
    system: Any = None,
    model: Any = "auto",
    temperature: Any = None,
    max_tokens: Any = None,
    deadline_s: Any = None,
    source: str = "python",
    request_id: str | None = None,
    extra: Mapping[str, Any] | None = None,
    wire: bool = False,
    api_key_name: str | None = None,
    traceparent: str | None = None,
) -> ChatRequest:
    """Return the request that these arguments make.

    Give `prompt`, or `messages`, or both: the prompt then is the last user message. `system` goes first. `temperature`
    is 0 to 2, `max_tokens` a whole number above 0, `deadline_s` seconds above 0. Raises RequestError, whose message
    says what to change. The types are loose on purpose: what comes in over HTTP is checked here.

    `wire`: `messages` and `extra` came out of JSON as a chat completions call, which also takes messages without a
    question, and empty ones.
    """
    if not isinstance(model, str) or not model.strip():
        raise RequestError("model must be a name, or left out for automatic choice", param="model")
    if wire:
        whole = _wire_messages(messages)
    else:
        whole = _messages(prompt, messages, system)
        _refuse_what_is_no_json("messages", whole)
        _refuse_what_is_no_json("extra", extra or {})
    return ChatRequest(
        request_id=request_id or new_request_id(),
        messages=whole,
        model=model.strip(),
        temperature=_temperature(temperature),
        max_tokens=_max_tokens(max_tokens),
        extra=dict(extra or {}),
        deadline_s=_deadline_s(deadline_s),
        source=source,
        api_key_name=api_key_name,
        traceparent=traceparent,
    )


def _wire_messages(messages: Any) -> tuple[Message, ...]:
    whole = _listed(messages)
    if not whole:
        raise RequestError("messages is empty: send at least one message", param="messages")
    return tuple(_message(message, position, may_be_empty=True) for position, message in enumerate(whole))


def _messages(prompt: Any, messages: Any, system: Any) -> tuple[Message, ...]:
    whole: list[Message] = []
    if system is not None:
        if not isinstance(system, str):
            raise RequestError("system must be a text", param="system")
        if system.strip():
            whole.append({"role": "system", "content": system})
    if messages is not None:
        whole += [_message(message, position) for position, message in enumerate(_listed(messages))]
    if prompt is not None:
        if not isinstance(prompt, str):
            raise RequestError("prompt must be a text", param="prompt")
        if not prompt.strip():
            raise RequestError("prompt is empty: write a question", param="prompt")
        whole.append({"role": "user", "content": prompt})
    if not any(message["role"] in {"user", "tool", "function"} for message in whole):
        raise RequestError(
            "there is no question: give prompt, or messages with one of the user", param="prompt"
        )
    for message in whole:
        _refuse_surrogates(message)
    return tuple(whole)


def _listed(messages: Any) -> Sequence[Any]:
    if not isinstance(messages, (list, Sequence)) or isinstance(messages, (str, bytes, Mapping)):
        raise RequestError(
            'messages must be a list of objects such as {"role": "user", "content": "..."}', param="messages"
        )
    if len(messages) > MAX_MESSAGES:
        raise RequestError(f"messages must hold at most {MAX_MESSAGES} of them", param="messages")
    return messages


def _message(message: Any, position: int, *, may_be_empty: bool = False) -> Message:
    # dict by name, since to ask an abstract class takes ten times as long.
    if not isinstance(message, (dict, Mapping)):
        raise _wrong(position, "", "must be an object with role and content")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise _wrong(position, ".role", f"must be one of {', '.join(sorted(ROLES))}")
    if isinstance(content, str):
        if role == "user" and not may_be_empty and not content.strip():
            raise _wrong(position, ".content", "is empty: write a question")
        return message
    if content is None and role == "assistant" and any(map(message.get, _INSTEAD_OF_CONTENT)):
        return message
    if not isinstance(content, list) or not content or not all(isinstance(part, Mapping) for part in content):
        raise _wrong(position, ".content", "must be a text or a list of parts")
    return message


def _wrong(position: int, member: str, what: str) -> RequestError:
    path = f"messages[{position}]{member}"
    return RequestError(f"{path} {what}", param=path)


def _refuse_surrogates(message: Message) -> None:
    content = message.get("content")
    if isinstance(content, str):
        try:
            content.encode("utf-8")
        except UnicodeEncodeError:
            raise RequestError(
                "the text holds half of a character (a lone surrogate)", param="messages"
            ) from None


def _refuse_what_is_no_json(name: str, value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise RequestError(
            f"{name} must hold what JSON can say: texts, finite numbers, lists, objects", param=name
        ) from None


def _temperature(value: Any) -> float | None:
    if value is None:
        return None
    if not _is_number(value) or not 0 <= value <= 2:
        raise RequestError("temperature must be a number from 0 to 2", param="temperature")
    return float(value)


def _max_tokens(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_TOKENS:
        raise RequestError(f"max_tokens must be a whole number from 1 to {MAX_TOKENS:,}", param="max_tokens")
    return value


def _deadline_s(value: Any) -> float:
    if value is None:
        return math.inf
    if not _is_number(value) or value <= 0:
        raise RequestError("deadline_s must be a number of seconds above 0", param="deadline_s")
    return float(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= 2**53
    return isinstance(value, float) and math.isfinite(value)
