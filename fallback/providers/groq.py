"""Groq: OpenAI's API with usage in `x_groq` and statuses of its own (498). https://console.groq.com/docs/errors."""

from __future__ import annotations

from typing import Any

from fallback.core.models import Candidate, ChatRequest
from fallback.providers.messages import narrowed
from fallback.providers.openai_compatible import OpenAICompatibleProvider

__all__ = ["GroqProvider"]

_KNOWN = frozenset({"role", "content", "name", "reasoning", "tool_calls", "function_call"})
"""What a message of the assistant may have: https://console.groq.com/docs/api-reference#chat-create."""

_REFUSED = ("logprobs", "top_logprobs", "logit_bias")
"""What Groq refuses a request for, whatever it says: https://console.groq.com/docs/openai."""


class GroqProvider(OpenAICompatibleProvider):
    """Groq's chat completions.

    What sets it apart is read by the shared decoder, since proxies in front of Groq pass it on as well: usage inside
    `x_groq` (and a second time in the last chunk), waits as "7m12.5s" in messages, status 498 for a full flex tier.

    Its models go on with a last message of the assistant: https://console.groq.com/docs/prefilling. Where such a message has a
    member that Groq does not know, it refuses the whole request: "property 'refusal' is unsupported".
    """

    prefills = True
    streams_schema = False
    """https://console.groq.com/docs/structured-outputs: no streaming with Structured Outputs."""

    def body(self, request: ChatRequest, candidate: Candidate) -> dict[str, Any]:
        """Return the JSON object to send."""
        body = super().body(request, candidate)
        body["messages"] = [narrowed(message, _KNOWN) for message in body["messages"]]
        for name in _REFUSED:
            # What asks for nothing is no reason to go to another provider; what asks for something is.
            if name in body and not body[name]:
                del body[name]
        return body
