"""The routes about providers: what the dashboard shows and does, for scripts.

A change is read and checked as a whole before any of it is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from fallback.api.attend import attended
from fallback.api.body import read_object
from fallback.api.encode import JsonResponse, answer_object
from fallback.api.errors import Refusal
from fallback.api.serving import Serving
from fallback.api.view import provider_view, providers_view
from fallback.config.section import nearest
from fallback.core.roster import Roster
from fallback.drills import drill_from_json, preset
from fallback.wiring import Wiring

__all__ = ["Providers"]

BY = "api"
"""Who changed it, in the usage log."""

Drilling = Mapping[str, Any] | None


class Providers:
    """Everything under /api/providers."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def show_all(self, _request: Request) -> Response:
        """GET /api/providers."""
        return JsonResponse(providers_view(self._wiring))

    async def change_all(self, request: Request) -> Response:
        """PATCH /api/providers."""
        body = await read_object(request)
        wiring = self._wiring
        _check_keys(body, ("order", "preset"))
        order = _order(body["order"], wiring.context.roster) if "order" in body else None
        title = _preset(body["preset"], wiring) if "preset" in body else None
        if "order" in body:
            wiring.switchboard.set_order(order, by=BY)
        if title is not None:
            wiring.switchboard.start_preset(title, by=BY)
        elif "preset" in body:
            wiring.switchboard.end_drills(by=BY)
        return JsonResponse(providers_view(wiring))

    async def show(self, request: Request) -> Response:
        """GET /api/providers/{name}."""
        return JsonResponse(provider_view(self._wiring, self._named(request)))

    async def change(self, request: Request) -> Response:
        """PATCH /api/providers/{name}."""
        name, body = self._named(request), await read_object(request)
        wiring = self._wiring
        change = _change(body, wiring.context.wall())
        if change.enabled is not None:
            wiring.switchboard.set_enabled(name, change.enabled, by=BY)
        if change.drills:
            wiring.switchboard.set_drill(name, change.drill, by=BY)
        if change.end_cooldown:
            wiring.switchboard.end_cooldown(name, by=BY)
        return JsonResponse(provider_view(wiring, name))

    async def test(self, request: Request) -> Response:
        """POST /api/providers/{name}/test."""
        name = self._named(request)
        body = await read_object(request, may_be_empty=True)
        for key in body:
            raise Refusal(400, "invalid_request", f"unknown key {key[:60]!a}; a test takes none")
        work = self._serving.router.test(name)
        answer = await attended(work, request.scope, request.receive, self._serving.closing)
        return JsonResponse({"answer": answer_object(answer), "provider": provider_view(self._wiring, name)})

    @property
    def _wiring(self) -> Wiring:
        return self._serving.router.wiring

    def _named(self, request: Request) -> str:
        name: str = request.path_params["name"]
        known = self._wiring.context.roster.providers
        if name not in known:
            advice = f"there are {', '.join(known)}"
            raise Refusal(404, "unknown_provider", f"there is no provider {name[:60]!a}; {advice}")
        return name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    enabled: bool | None
    """None: as it is."""
    drills: bool
    """Whether its drill changes, to `drill`; None ends it."""
    drill: Drilling
    end_cooldown: bool


def _change(body: Mapping[str, Any], now: float) -> _Change:
    _check_keys(body, ("enabled", "drill", "end_cooldown"))
    if "enabled" in body and not isinstance(body["enabled"], bool):
        raise Refusal(400, "invalid_request", "enabled must be true or false")
    if "end_cooldown" in body and body["end_cooldown"] is not True:
        raise Refusal(400, "invalid_request", "end_cooldown must be true, or left out")
    drill = body.get("drill")
    if drill is not None:
        try:
            drill_from_json(drill, now=now, by=BY)
        except ValueError as error:
            raise Refusal(400, "invalid_request", f"drill: {error}") from None
    return _Change(
        enabled=body.get("enabled"), drills="drill" in body, drill=drill, end_cooldown="end_cooldown" in body
    )


def _order(value: object, roster: Roster) -> Sequence[str] | None:
    if value is None:
        return None
    names = ", ".join(roster.providers)
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise Refusal(400, "invalid_request", f"order must be a list of all providers ({names}), or null")
    if not roster.is_order(value):
        raise Refusal(400, "invalid_request", f"order must name every provider once: {names}")
    return value


def _preset(value: object, wiring: Wiring) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise Refusal(400, "invalid_request", "preset must be the name of one, or null to end every drill")
    try:
        preset(value, wiring.settings.providers)
    except ValueError as error:
        raise Refusal(400, "invalid_request", f"preset: {error}") from None
    return value


def _check_keys(body: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in body:
        if key not in known:
            advice = nearest(key, known) or f"; known are {', '.join(known)}"
            raise Refusal(400, "invalid_request", f"unknown key {key[:60]!a}{advice}")
    if not body:
        raise Refusal(
            400, "invalid_request", f"nothing to change: give {', '.join(known[:-1])} or {known[-1]}"
        )
