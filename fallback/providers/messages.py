"""The messages of a conversation as a provider takes them.

Clients send an answer back as they got it, or as they keep it: with members that are null, and with what belongs into
answers alone (`refusal`, `annotations`, the reasoning of another provider) or to the client itself (`parsed`, the `index`
of a tool call). OpenAI lets that pass. Others refuse a message for one member that they do not know, and would be lost
from the second turn of every conversation on. So it is with OpenAI's newer name for the role of a system message.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fallback.core.models import Message

__all__ = ["narrowed", "understood"]

_CALL = frozenset({"id", "type", "function"})
_FUNCTION = frozenset({"name", "arguments"})


def understood(message: Message) -> Message:
    """Return a message as every provider takes it: a developer's as the system's, an assistant's without nulls, others as they are.

    A null says the same as leaving it out. `content` stays: beside tool calls some providers want to see it null. OpenAI
    itself takes system messages for developer messages where a model knows those alone:
    https://platform.openai.com/docs/api-reference/chat/create.
    """
    role = message.get("role")
    if role == "developer":
        return {**message, "role": "system"}
    if role != "assistant" or None not in message.values():
        return message
    return {name: value for name, value in message.items() if value is not None or name == "content"}


def narrowed(message: Message, known: Collection[str]) -> Message:
    """Return a message of the assistant with the `known` members alone, and its tool calls with theirs; others as they are.

    A refusal becomes its text where it has no other, and a list of no tool calls is left out.
    """
    if message.get("role") != "assistant":
        return message
    kept = {name: value for name, value in message.items() if name in known}
    calls = kept.get("tool_calls")
    if isinstance(calls, list) and calls:
        kept["tool_calls"] = [_narrowed_call(call) for call in calls]
    else:
        kept.pop("tool_calls", None)
        if kept.get("content") is None and "function_call" not in kept and message.get("refusal"):
            kept["content"] = message["refusal"]
    return kept


def _narrowed_call(call: Any) -> Any:
    if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
        return call
    kept: dict[str, Any] = {name: value for name, value in call.items() if name in _CALL}
    kept["function"] = {name: value for name, value in call["function"].items() if name in _FUNCTION}
    return kept
