"""From a providers.yaml to one whose cloud providers are played by a stand-in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import yaml

from fallback.config import Settings, load
from fallback.config.files import read_yaml
from fallback.core.errors import ConfigError, Problem
from fallback.providers.settings import ProviderSettings, ProviderType
from fallback.standin import StandInThread

__all__ = ["BANNER", "RETIRED", "SLOWER", "SPEEDS", "is_cloud", "simulated"]

BANNER = "Demo: simulated providers"

SPEEDS: Final[dict[ProviderType, tuple[float, float]]] = {
    "groq": (0.2, 150.0),
    "together": (0.5, 60.0),
    "openai": (0.4, 80.0),
}
"""Seconds to the first token, and tokens a second."""
JITTER = 0.35
SLOWER = 1.25
"""A further provider of the same type runs a larger model."""

RETIRED = ("mixtral-8x7b-32768",)
"""Models that nobody serves any more; here neither."""

_NOT_SIMULATED = ("api_key_env", "headers", "allow_http")


def is_cloud(provider: ProviderSettings) -> bool:
    """Return whether the stand-in plays `provider`."""
    return provider.type != "local"


def simulated(source: Path, folder: Path, standin: StandInThread) -> Settings:
    """Return the settings in `source` with every cloud provider played by `standin`; log and state go into `folder`.

    Neither the environment nor the .env file beside `source` is looked at. Raises ConfigError.
    """
    problems: list[Problem] = []
    tree = read_yaml(source, str(source), problems)
    if problems:
        raise ConfigError(problems, source=str(source))
    if isinstance(tree, dict):
        tree.pop("log", None)
        tree.pop("log_content", None)
    _each(tree, lambda entry: _absolute(entry, source.parent))
    before = _written(tree, folder, source)
    addresses = {
        provider.name: _play(provider, before.providers[:place], standin)
        for place, provider in enumerate(before.providers)
        if is_cloud(provider)
    }
    types = {provider.name: provider.type for provider in before.providers}

    def redirect(entry: dict[Any, Any]) -> None:
        name = str(entry["name"])
        if name in addresses:
            for key in _NOT_SIMULATED:
                entry.pop(key, None)
            entry |= {"type": types[name], "endpoint": addresses[name]}

    _each(tree, redirect)
    return replace(_written(tree, folder, source), banner=BANNER)


def _each(tree: object, change: Callable[[dict[Any, Any]], None]) -> None:
    """Change every provider of `tree`, as far as it has any: what is wrong with it is told when it is loaded."""
    entries = tree.get("providers") if isinstance(tree, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            change(entry)


def _absolute(entry: dict[Any, Any], folder: Path) -> None:
    if isinstance(entry.get("model_path"), str):
        entry["model_path"] = str((folder / Path(entry["model_path"]).expanduser()).absolute())


def _written(tree: object, folder: Path, source: Path) -> Settings:
    file = folder / "providers.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    try:
        return load(file, environ={})
    except ConfigError as error:
        raise ConfigError(error.problems, source=str(source)) from None


def _play(provider: ProviderSettings, before: tuple[ProviderSettings, ...], standin: StandInThread) -> str:
    """Let the stand-in play `provider`, and return its address there."""
    first_token_s, tokens_per_s = SPEEDS[provider.type]
    if any(other.type == provider.type for other in before):
        first_token_s, tokens_per_s = first_token_s * SLOWER, tokens_per_s / SLOWER
    names = tuple(model.name for model in provider.models)
    tenant = standin.tenant(
        provider.name,
        dialect=provider.type,
        seed=len(before),
        first_token_s=first_token_s,
        per_token_s=1 / tokens_per_s,
        jitter=JITTER,
        models=names,
        retired_models=tuple(name for name in names[:-1] if name in RETIRED),
    )
    return tenant.url
