"""The embedded model: chat completions of a child process on this machine, with the settings that suit a small model."""

from __future__ import annotations

from typing import Any

from fallback.core.models import Candidate, ChatRequest, Message
from fallback.providers.messages import understood
from fallback.providers.openai_compatible import OpenAICompatibleProvider
from fallback.providers.settings import ProviderSettings

__all__ = ["EMBEDDED_URL", "EmbeddedProvider"]

EMBEDDED_URL = "http://embedded.invalid/v1/chat/completions"
"""Stands for the child's address, which changes with every start: the transport in `local` puts it in."""

DEFAULT_MAX_TOKENS = 160
PASSED_ON = ("stop", "seed", "response_format")
"""What its server keeps to. The rest of a caller's wishes suits larger models, or is beyond it: see core.reach."""
TEMPLATE_TOKENS = 64
HISTORY_TOKENS = 1024
"""Of the whole conversation, as far as it can be left out. It reads 80 to 100 tokens a second: a full window would take 40 s."""


class EmbeddedProvider(OpenAICompatibleProvider):
    """A small model run by this program.

    Its temperature is its own, whatever the caller asked for: what suits a large model makes a small one ramble. Of the
    caller's limit of the answer and its own the smaller one counts. Old messages are left out where the history grows
    long; of content in parts it gets the text. `stop`, `seed` and `response_format` are the caller's. It goes on with a last message of the assistant, as llama.cpp's server does.
    """

    prefills = True

    def __init__(self, settings: ProviderSettings) -> None:
        super().__init__(settings)
        # Its server ends a connection after a stream without a word: the next call would find it closed.
        self._headers = (*self._headers, ("Connection", "close"))

    @property
    def url(self) -> str:
        """Where the call goes, in place of an address that changes."""
        return EMBEDDED_URL

    def unavailable(self) -> str | None:
        """Return None: what is missing is found out by the model itself, see `local`."""
        return None

    def body(self, request: ChatRequest, candidate: Candidate) -> dict[str, Any]:
        """Return the JSON object to send."""
        ours = self.settings.max_tokens or DEFAULT_MAX_TOKENS
        max_tokens = min(request.token_budget or ours, ours)
        body: dict[str, Any] = {
            "model": candidate.model,
            "messages": self._fitting(request.messages, candidate.context_window, max_tokens),
            "temperature": 0.2 if self.settings.temperature is None else self.settings.temperature,
            "top_p": 0.9,
            "max_tokens": max_tokens,
            "stream": candidate.streams(request),
        }
        body |= {name: request.extra[name] for name in PASSED_ON if request.extra.get(name) is not None}
        if body["stream"]:
            body["stream_options"] = {"include_usage": True}
        return body

    def _fitting(self, messages: tuple[Message, ...], window: int | None, max_tokens: int) -> list[Message]:
        """Return the messages that fit: the last one always, the newest of the others, none out of order."""
        left = min(HISTORY_TOKENS, (window or HISTORY_TOKENS) - max_tokens - TEMPLATE_TOKENS)
        plain = [
            {"role": message["role"], "content": _text(message.get("content"))}
            for message in map(understood, messages)
        ]
        # What the caller laid down for the whole conversation outlasts its old parts.
        head = plain[:1] if len(plain) > 1 and plain[0]["role"] == "system" else []
        left -= sum(_tokens(message["content"]) for message in head)
        kept: list[Message] = []
        for message in reversed(plain[len(head) :]):
            left -= _tokens(message["content"])
            if kept and left < 0:
                break
            kept.append(message)
        return [*head, *reversed(kept)]


def _text(content: Any) -> str:
    """Return the text of a message."""
    if not isinstance(content, list):
        return str(content or "")
    return "\n".join(str(part["text"]) for part in content if part.get("type") == "text" and "text" in part)


def _tokens(text: str) -> int:
    """Estimate the tokens of a message, rather too many than too few."""
    plain = sum(1 for character in text if character.isascii())
    return plain // 3 + (len(text) - plain) * 2 + 8
