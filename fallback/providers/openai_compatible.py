"""OpenAI's chat completions API, and everything that speaks it.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from fallback.core.models import Candidate, ChatRequest
from fallback.providers.base import BaseProvider, WireRequest
from fallback.providers.decode import Decoder
from fallback.providers.messages import understood
from fallback.providers.settings import ProviderSettings

__all__ = ["OpenAICompatibleProvider"]

USER_AGENT = "llm-fallback-system/0.1"


def _json_bytes(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        # A lone surrogate, or a number of more than 64 bits: what json can say and orjson cannot.
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class OpenAICompatibleProvider(BaseProvider):
    """A provider that speaks chat completions as OpenAI documents it."""

    asks_for_usage = True
    """Whether a streamed call asks for its usage with `stream_options`."""

    def __init__(self, settings: ProviderSettings) -> None:
        super().__init__(settings)
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            # What is small gains nothing from compression, and a stream loses its liveness to it.
            "Accept-Encoding": "identity",
            "User-Agent": USER_AGENT,
        }
        if settings.api_key is not None:
            headers["Authorization"] = f"Bearer {settings.api_key.reveal()}"
        headers.update(settings.headers)
        self._headers = tuple(headers.items())
        self._key = settings.api_key.reveal() if settings.api_key is not None else ""

    @property
    def url(self) -> str:
        """Where the call goes."""
        return self.settings.endpoint

    def unavailable(self) -> str | None:
        """Say that the key is missing where it is needed and missing."""
        if self.settings.api_key is not None or not self.settings.needs_key:
            return None
        names = self.settings.key_variables
        return f"no key: set {' or '.join(names)} in .env" if names else "no key"

    def encode(self, request: ChatRequest, candidate: Candidate) -> WireRequest:
        """Return the call that asks `candidate` for an answer to `request`."""
        body = self.body(request, candidate)
        return WireRequest(
            provider=self.name,
            url=self.url,
            headers=self._headers,
            body=_json_bytes(body),
            streamed=candidate.streams(request),
        )

    def body(self, request: ChatRequest, candidate: Candidate) -> dict[str, Any]:
        """Return the JSON object to send. Unknown parameters of the caller pass through; ours come last."""
        settings = self.settings
        body: dict[str, Any] = dict(request.extra)
        body["model"] = candidate.model
        body["messages"] = [understood(message) for message in request.messages]
        temperature = settings.temperature if request.temperature is None else request.temperature
        if temperature is not None:
            body["temperature"] = temperature
        max_tokens = settings.max_tokens if request.max_tokens is None else request.max_tokens
        if max_tokens is not None and "max_completion_tokens" not in body:
            body["max_tokens"] = max_tokens
        body["stream"] = streamed = candidate.streams(request)
        body.pop("stream_options", None)
        if streamed and self.asks_for_usage:
            body["stream_options"] = {"include_usage": True}
        return body

    def decoder(self, *, wall: float, max_bytes: int, choices: int = 1) -> Decoder:
        """Return a decoder for one response."""
        return Decoder(key=self._key, wall=wall, max_bytes=max_bytes, choices=choices)
