"""From a request body to what is answered: which words, how many, how it finishes."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fallback.standin.refusals import RefusedError, refuse_as_groq
from fallback.standin.settings import Settings

_TOKEN = re.compile(r"\s*\S+|\s+$")
_ASKS_TO_CONTINUE = re.compile(
    r"\b(continue|go on|going on|carry on|keep going|pick up|resume|left off|stopped|cut off|broke off|interrupted)\b",
    re.IGNORECASE,
)
# Both multiply with the words of an answer, and answers are kept.
_LONGEST_MODEL_NAME = 256
_MOST_CHOICES = 16
_ARGUMENT_PIECE = 8  # characters of a tool call's arguments in one event
_SAMPLE_VALUES: dict[str, object] = {
    "string": "w1",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "array": [],
    "object": {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of the tool `name`; `pieces` put together are the JSON of its arguments."""

    name: str
    pieces: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is said. `tokens` put together are the text; `finish_reason` None leaves the answer unfinished."""

    model: str
    tokens: tuple[str, ...]
    prompt_tokens: int
    finish_reason: str | None = "stop"
    n: int = 1
    include_usage: bool = False
    tool_calls: tuple[ToolCall, ...] = ()
    legacy_prompt: str | None = None  # set for together's old POST /inference

    @property
    def text(self) -> str:
        """Give the whole text."""
        return "".join(self.tokens)

    @property
    def completion_tokens(self) -> int:
        """Count the words of all choices, or the pieces of all tool calls."""
        return (len(self.tokens) + sum(len(call.pieces) for call in self.tool_calls)) * self.n


@lru_cache(maxsize=256)
def numbered_words(count: int) -> str:
    """Give "w1 w2 ... w<count>", in which a lost, doubled or moved word shows."""
    return " ".join(f"w{number}" for number in range(1, count + 1))


@lru_cache(maxsize=256)
def tokens_of(text: str) -> tuple[str, ...]:
    """Cut a text into words with the blanks before them; put together they are the text again."""
    return tuple(_TOKEN.findall(text))


def parse_body(raw: bytes, *, legacy: bool) -> dict[str, Any]:
    """Read and check a request body; RefusedError(400) says what is wrong with it."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "the request body is not JSON", code="invalid_json") from error
    if not isinstance(body, dict):
        raise RefusedError(400, "the request body is not a JSON object", code="invalid_json")
    model = body.get("model")
    if not isinstance(model, str) or not model or len(model) > _LONGEST_MODEL_NAME:
        raise RefusedError(400, "you must provide a model parameter", param="model")
    if legacy:
        if not isinstance(body.get("prompt"), str):
            raise RefusedError(400, "prompt: expected a string", param="prompt")
        if body.get("stream"):
            raise RefusedError(400, "stream: not served here; use /v1/chat/completions", param="stream")
        return body
    messages = body.get("messages")
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(entry, dict) for entry in messages)
    ):
        raise RefusedError(400, "messages: expected a list of objects, not empty", param="messages")
    if not isinstance(body.get("stream"), bool | None):
        raise RefusedError(400, "stream: expected true or false", param="stream")
    return body


def compose(body: Mapping[str, Any], settings: Settings, reply: str | None = None) -> Answer:
    """Decide the answer to a checked body, `reply` in the place of the settings' text; RefusedError where it is refused."""
    model = body["model"]
    if model in settings.retired_models:
        raise _retired(model, settings)
    if settings.dialect == "groq":
        refuse_as_groq(body)
    text = (
        reply
        if reply is not None
        else settings.text
        if settings.text is not None
        else numbered_words(settings.words)
    )
    legacy_prompt = body.get("prompt") if "messages" not in body else None
    messages = body.get("messages") or [{"role": "user", "content": legacy_prompt}]
    prompt_tokens = max(1, sum(len(_content(message).split()) for message in messages))
    n = _count(body, "n") or 1
    if n > _MOST_CHOICES:
        raise RefusedError(400, f"n: at most {_MOST_CHOICES}", param="n")
    options = body.get("stream_options")
    include_usage = isinstance(options, dict) and options.get("include_usage") is True
    calls = _tool_calls(body)
    if calls:
        return Answer(
            model=model,
            tokens=(),
            prompt_tokens=prompt_tokens,
            finish_reason="tool_calls",
            n=n,
            include_usage=include_usage,
            tool_calls=calls,
        )
    tokens = tokens_of(_rest(text, messages, settings))
    limit = _count(body, "max_completion_tokens") or _count(body, "max_tokens")
    cut = limit is not None and limit < len(tokens)
    return Answer(
        model=model,
        tokens=tokens[:limit] if cut else tokens,
        prompt_tokens=prompt_tokens,
        finish_reason="length" if cut else "stop",
        n=n,
        include_usage=include_usage,
        legacy_prompt=legacy_prompt,
    )


def _retired(model: str, settings: Settings) -> RefusedError:
    if settings.dialect == "together":
        message = (
            f"Unable to access non-serverless model {model}. Please visit https://api.together.ai/models/{model} "
            "to create and start a new dedicated endpoint for the model."
        )
        return RefusedError(400, message, code="model_not_available")
    message = f"The model `{model}` does not exist or you do not have access to it."
    return RefusedError(404, message, code="model_not_found")


def _rest(text: str, messages: list[dict[str, Any]], settings: Settings) -> str:
    """Give what is left to say after an answer that was begun, the whole text where none was."""
    last = messages[-1]
    if last.get("role") == "assistant":
        if settings.prefill == "refuse":
            raise RefusedError(400, "the last message must have the role user or tool", param="messages")
        begun, goes_on = _content(last), settings.prefill == "continue"
    else:
        begun = (
            _content(messages[-2]) if len(messages) > 1 and messages[-2].get("role") == "assistant" else ""
        )
        asked = begun not in {"", text} and _ASKS_TO_CONTINUE.search(_content(last)) is not None
        goes_on = asked and settings.on_ask == "continue"
    if not goes_on or not begun or not text.startswith(begun):
        return text
    if not settings.overlap_words:
        return text[len(begun) :]
    repeated = tokens_of(begun)[-settings.overlap_words :]
    return text[len(begun) - len("".join(repeated)) :]


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


def _count(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RefusedError(400, f"{name}: expected a whole number >= 1", param=name)
    return value


def _tool_calls(body: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """Give the calls that `tool_choice` demands: the named tool, or the first one (all with parallel_tool_calls: true)."""
    choice = body.get("tool_choice")
    if choice != "required" and not isinstance(choice, dict):
        return ()
    listed = body.get("tools")
    tools = [tool["function"] for tool in listed if _is_tool(tool)] if isinstance(listed, list) else []
    if isinstance(choice, dict):
        wanted = choice.get("function")
        name = wanted.get("name") if isinstance(wanted, dict) else None
        tools = [tool for tool in tools if tool["name"] == name]
    elif body.get("parallel_tool_calls") is not True:
        tools = tools[:1]
    if not tools:
        raise RefusedError(400, "tool_choice: names no tool of this request", param="tool_choice")
    return tuple(
        ToolCall(name=tool["name"], pieces=_argument_pieces(tool.get("parameters"))) for tool in tools
    )


def _is_tool(tool: object) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _argument_pieces(schema: object) -> tuple[str, ...]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    arguments = {}
    for name, rule in properties.items() if isinstance(properties, dict) else ():
        kind = rule.get("type") if isinstance(rule, dict) else None
        arguments[name] = _SAMPLE_VALUES.get(kind, "w1") if isinstance(kind, str) else "w1"
    text = json.dumps(arguments)
    return tuple(text[start : start + _ARGUMENT_PIECE] for start in range(0, len(text), _ARGUMENT_PIECE))
