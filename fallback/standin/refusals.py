"""What a provider refuses although its form is right."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

__all__ = ["RefusedError", "refuse_as_groq"]

_PARAMETERS = frozenset({"logprobs", "top_logprobs", "logit_bias"})
_MESSAGE = frozenset({"role", "content", "name", "reasoning", "tool_calls", "function_call"})
_CALL = frozenset({"id", "type", "function"})
_FUNCTION = frozenset({"name", "arguments"})


class RefusedError(Exception):
    """The request is answered with an error: HTTP `status`, and `code` and `param` of the error object."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param


def refuse_as_groq(body: Mapping[str, Any]) -> None:
    """Refuse what Groq does: a member of an assistant's message that it does not know, a stream that keeps to a schema, logprobs.

    https://console.groq.com/docs/api-reference#chat-create, https://console.groq.com/docs/structured-outputs,
    https://console.groq.com/docs/openai
    """
    for name in _PARAMETERS & body.keys():
        raise RefusedError(400, f"property '{name}' is unsupported", param=name)
    for position, message in enumerate(body.get("messages") or ()):
        if message.get("role") != "assistant":
            continue
        place = f"'messages.{position}'"
        for name in _unknown(message):
            reason = f"{place} : property '{name}' is unsupported"
            raise RefusedError(
                400, f"{place} : for 'role:assistant' the following must be satisfied[({reason})]"
            )
    form = body.get("response_format")
    if body.get("stream") and isinstance(form, Mapping) and form.get("type") == "json_schema":
        raise RefusedError(400, "response_format: json_schema does not support streaming")


def _unknown(message: Mapping[str, Any]) -> Iterator[str]:
    yield from _beyond(message, _MESSAGE)
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        yield from _beyond(call, _CALL)
        yield from _beyond(call.get("function"), _FUNCTION)


def _beyond(found: Any, known: Collection[str]) -> Iterator[str]:
    return (name for name in found if name not in known) if isinstance(found, Mapping) else iter(())
