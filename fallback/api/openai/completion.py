"""An answer as a chat completion object, in one piece.

https://platform.openai.com/docs/api-reference/chat/object
"""

from __future__ import annotations

from typing import Any

from fallback.api.encode import answer_account
from fallback.api.openai.reply import Reply, json_bytes
from fallback.core.models import Answer, Choice, Usage

__all__ = ["completion_id", "completion_object", "completion_reply", "finish_reason", "usage_object"]

_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})


def completion_id(request_id: str) -> str:
    """Return the id of the completion: the digits of the request's, so that one leads to the other."""
    return f"chatcmpl-{request_id.removeprefix('req_')}"


def finish_reason(choice: Choice) -> str:
    """Return why the model stopped, in one of OpenAI's words: some providers have others (`eos`)."""
    if choice.finish_reason in _REASONS:
        return choice.finish_reason
    return "tool_calls" if choice.message.get("tool_calls") else "stop"


def usage_object(usage: Usage) -> dict[str, Any]:
    """Return the usage; the details where a provider told them."""
    made: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }
    if usage.cached_tokens:
        made["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens:
        made["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return made


def completion_object(answer: Answer) -> dict[str, Any]:
    """Return the whole body."""
    return {
        "id": completion_id(answer.request_id),
        "object": "chat.completion",
        "created": answer.created,
        "model": answer.model,
        "choices": [_choice(choice) for choice in answer.choices],
        "usage": usage_object(answer.usage),
        "fallback": answer_account(answer),
    }


def completion_reply(answer: Answer) -> Reply:
    """Return what the caller of a plain request is sent."""
    headers = {
        "x-fallback-provider": answer.provider,
        "x-fallback-attempts": str(len(answer.attempts)),
        "x-fallback-degraded": "true" if answer.degraded else "false",
    }
    return Reply(body=json_bytes(completion_object(answer)), headers=headers)


def _choice(choice: Choice) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "refusal": None, **choice.message}
    calls = message.get("tool_calls")
    if calls:
        message["tool_calls"] = [{"type": "function", **call} for call in calls]
    return {
        "index": choice.index,
        "message": message,
        "logprobs": choice.logprobs,
        "finish_reason": finish_reason(choice),
    }
