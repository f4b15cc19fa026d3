"""Together AI: OpenAI's API, and the legacy answers of POST /inference. https://docs.together.ai/docs/error-codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fallback.core.models import Candidate, ChatRequest
from fallback.providers.decode import Decoder
from fallback.providers.openai_compatible import OpenAICompatibleProvider

__all__ = ["TogetherDecoder", "TogetherProvider"]


class TogetherDecoder(Decoder):
    """Understands the legacy shape too: {"output": {"choices": [{"text": ...}], "usage": {...}}, "model": ...}."""

    def normalise(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Bring a legacy answer into OpenAI's shape; anything else stays as it is."""
        output = body.get("output")
        if (
            "choices" in body
            or not isinstance(output, Mapping)
            or not isinstance(output.get("choices"), list)
        ):
            return body
        choices = [
            {"index": index, "message": {"role": "assistant", "content": choice.get("text", "")}}
            for index, choice in enumerate(output["choices"])
            if isinstance(choice, Mapping)
        ]
        return {"model": body.get("model"), "choices": choices, "usage": output.get("usage")}


class TogetherProvider(OpenAICompatibleProvider):
    """Together's chat completions. Usage comes with the last chunk without being asked for.

    The limit of an answer has its older name here alone: https://docs.together.ai/reference/chat-completions-1.
    """

    asks_for_usage = False

    def body(self, request: ChatRequest, candidate: Candidate) -> dict[str, Any]:
        """Return the JSON object to send."""
        body = super().body(request, candidate)
        if body.pop("max_completion_tokens", None) is not None:
            body["max_tokens"] = request.token_budget
        return body

    def decoder(self, *, wall: float, max_bytes: int, choices: int = 1) -> Decoder:
        """Return a decoder for one response."""
        return TogetherDecoder(key=self._key, wall=wall, max_bytes=max_bytes, choices=choices)
