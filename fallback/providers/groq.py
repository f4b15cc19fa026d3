"""Groq: OpenAI's API with usage in `x_groq` and statuses of its own (498). https://console.groq.com/docs/errors."""

from __future__ import annotations

from fallback.providers.openai_compatible import OpenAICompatibleProvider

__all__ = ["GroqProvider"]


class GroqProvider(OpenAICompatibleProvider):
    """Groq's chat completions.

    What sets it apart is read by the shared decoder, since proxies in front of Groq pass it on as well: usage inside
    `x_groq` (and a second time in the last chunk), waits as "7m12.5s" in messages, status 498 for a full flex tier.

    Its models go on with a last message of the assistant: https://console.groq.com/docs/prefilling.
    """

    prefills = True
