"""What `model` may name, as OpenAI lists models.

https://platform.openai.com/docs/api-reference/models
"""

from __future__ import annotations

from typing import Any

from fallback.api.errors import Refusal
from fallback.core.models import Candidate
from fallback.core.roster import Roster

__all__ = ["model_object", "models_object"]

OWNER = "llm-fallback-system"
"""Of `auto` and the routes, behind which more than one provider stands."""


def models_object(roster: Roster, created: int) -> dict[str, Any]:
    """Return the list: auto, the routes, the providers, and the models of the providers.

    `created` is Unix time: when these names began to mean what they do.
    """
    return {"object": "list", "data": list(_entries(roster, created).values())}


def model_object(roster: Roster, created: int, name: str) -> dict[str, Any]:
    """Return one of them. Raises Refusal where there is none of the name."""
    entries = _entries(roster, created)
    if name not in entries:
        message = f"model {name[:200]!r} does not exist here; choose one of: {', '.join(entries)}"
        raise Refusal(404, "unknown_model", message, param="model")
    return entries[name]


def _entries(roster: Roster, created: int) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}

    def add(name: str, kind: str, owner: str, providers: list[str]) -> None:
        # Where a name stands for two things, the first of these kinds is what a request gets.
        entries.setdefault(
            name,
            {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": owner,
                "fallback": {"kind": kind, "providers": providers},
            },
        )

    everyone = list(roster.providers)
    add("auto", "auto", OWNER, everyone)
    for route, members in roster.policy.routes.items():
        add(route, "route", OWNER, list(members))
    for provider in everyone:
        add(provider, "provider", provider, [provider])
    candidates: list[Candidate] = [
        candidate for provider in everyone for candidate in roster.candidates(provider)
    ]
    for candidate in candidates:
        owners = [each.provider for each in candidates if each.model == candidate.model]
        add(candidate.model, "model", owners[0], owners)
    return entries
