"""What the conventions want to know of a provider, by its name in providers.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from fallback.providers.settings import ProviderSettings

__all__ = ["Peer", "peers_of"]

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One provider."""

    system: str
    """gen_ai.provider.name: whose dialect it speaks (groq, together, openai, local)."""
    models: frozenset[str]
    address: str | None = None
    """server.address; None for the embedded model."""
    port: int | None = None


def peers_of(providers: Sequence[ProviderSettings]) -> Mapping[str, Peer]:
    """Return the peers by name."""
    return {provider.name: _peer(provider) for provider in providers}


def _peer(provider: ProviderSettings) -> Peer:
    url = urlsplit(provider.endpoint)
    return Peer(
        system=provider.type,
        models=frozenset(model.name for model in provider.models),
        address=url.hostname,
        port=url.port or _PORTS.get(url.scheme),
    )
