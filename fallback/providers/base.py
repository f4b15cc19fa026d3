"""BaseProvider: what every provider's dialect can do.

A provider turns a request into one HTTP call (`encode`), and makes the decoder that turns the response into an answer
or a failure (`decoder`). It holds its settings and nothing that changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import field

from fallback.core.models import Candidate, ChatRequest, Usage
from fallback.core.values import valueclass
from fallback.providers.decode import Decoder
from fallback.providers.settings import ProviderSettings

__all__ = ["BaseProvider", "WireRequest"]


@valueclass(frozen=True, slots=True, kw_only=True)
class WireRequest:
    """One HTTP POST, ready to be sent."""

    provider: str
    url: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    """Fixed for a provider: the same object at every call."""
    body: bytes = field(repr=False)
    streamed: bool


class BaseProvider(ABC):
    """One provider of providers.yaml, as a dialect."""

    prefills = False
    """Whether models of this dialect go on with a last message of the assistant, where the settings do not say."""

    streams_schema = True
    """Whether it streams answers that are to keep to a JSON schema."""

    def __init__(self, settings: ProviderSettings) -> None:
        self.settings = settings

    @property
    def name(self) -> str:
        """The name in providers.yaml."""
        return self.settings.name

    def candidates(self) -> tuple[Candidate, ...]:
        """Return the models in succession."""
        return tuple(
            Candidate(
                provider=self.name,
                model=model.name,
                context_window=model.context_window,
                degraded=self.settings.type == "local",
                stream_upstream=self.settings.stream_upstream,
                streams_schema=self.streams_schema,
                response_timeout_s=self.settings.response_timeout_s,
                first_token_timeout_s=self.settings.first_token_timeout_s,
                supports_prefill=self.prefills
                if self.settings.supports_prefill is None
                else self.settings.supports_prefill,
            )
            for model in self.settings.models
        )

    def cost_usd(self, model: str, usage: Usage) -> float | None:
        """Return what `usage` costs at the configured price of `model`; None where no price is configured."""
        for own in self.settings.models:
            if own.name == model and own.price is not None:
                return own.price.cost_usd(usage.input_tokens, usage.output_tokens)
        return None

    @abstractmethod
    def unavailable(self) -> str | None:
        """Say why this provider cannot be used at all (no key, say); None: it can."""

    @abstractmethod
    def encode(self, request: ChatRequest, candidate: Candidate) -> WireRequest:
        """Return the call that asks `candidate` for an answer to `request`."""

    @abstractmethod
    def decoder(self, *, wall: float, max_bytes: int, choices: int = 1) -> Decoder:
        """Return a decoder for one response.

        `wall` is the Unix time now, `max_bytes` the limit of the body, `choices` how many answers were asked for.
        """
