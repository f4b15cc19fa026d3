"""The routes: each reads its input, calls the router once, and shows what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from fallback.api.attend import CallerGoneError, attended
from fallback.api.body import headers_of, read_object, traceparent_of
from fallback.api.encode import JsonResponse, answer_object, provider_object
from fallback.api.errors import ErrorReply, Refusal, settle
from fallback.api.openai import openai_routes
from fallback.api.providers import Providers
from fallback.api.serving import Serving
from fallback.api.sse import EventStream
from fallback.config.section import nearest
from fallback.intake import chat_request

__all__ = ["GENERATE_FIELDS", "routes"]

GENERATE_FIELDS = (
    "prompt", "system", "messages", "model", "temperature", "max_tokens", "deadline_s", "stream",
)  # fmt: skip
_GONE = Response(status_code=499)
"""For a caller who reads nothing any more; the status is the one that proxies log for it."""

Answering = Callable[[Request], Awaitable[Response]]


def routes(serving: Serving) -> list[BaseRoute]:
    """Return every route; the last ones answer whatever else begins like an API call, which the dashboard would."""
    generate, providers = _Generate(serving), Providers(serving)

    async def ready(request: Request) -> Response:
        is_ready = serving.router.ready()
        shown: dict[str, Any] = {"status": "ready" if is_ready else "not_ready"}
        if getattr(request.state, "may_see_details", True):
            shown["providers"] = [provider_object(status) for status in serving.router.status()]
        return JsonResponse(shown, 200 if is_ready else 503)

    nothing = _Resource({})
    return [
        # First, as the one that is asked most.
        *openai_routes(serving),
        Route("/api/generate", _Resource({"POST": generate})),
        Route("/api/providers", _Resource({"GET": providers.show_all, "PATCH": providers.change_all})),
        Route("/api/providers/{name}", _Resource({"GET": providers.show, "PATCH": providers.change})),
        Route("/api/providers/{name}/test", _Resource({"POST": providers.test})),
        Route("/healthz", _Resource({"GET": _health})),
        Route("/readyz", _Resource({"GET": ready})),
        *(Route(path, nothing) for path in ("/api", "/api/{rest:path}")),
    ]


async def _health(_request: Request) -> Response:
    return JsonResponse({"status": "ok"})


class _Generate:
    """POST /api/generate."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def __call__(self, request: Request) -> Response:
        body = await read_object(request)
        for name in body:
            if name not in GENERATE_FIELDS:
                known = nearest(name, GENERATE_FIELDS) or f"; known are {', '.join(GENERATE_FIELDS)}"
                raise Refusal(400, "invalid_request", f"unknown key {name[:60]!a}{known}")
        given: dict[str, Any] = {name: value for name, value in body.items() if value is not None}
        stream = given.pop("stream", False)
        if not isinstance(stream, bool):
            raise Refusal(400, "invalid_request", "stream must be true or false")
        state = request.state
        key_name = getattr(state, "api_key_name", None)
        chat = chat_request(
            **given,
            source="api",
            request_id=state.request_id,
            api_key_name=key_name,
            traceparent=traceparent_of(headers_of(request.scope)),
        )
        router, closing = self._serving.router, self._serving.closing
        if stream:
            return EventStream(
                router.ask(chat),
                closing,
                keep_alive_s=self._serving.keep_alive_s,
                send_limit_s=self._serving.send_limit_s,
            )
        answer = await attended(router.answer(chat), request.scope, request.receive, closing)
        return JsonResponse(answer_object(answer))


class _Resource:
    """One path and what its methods do, as an ASGI application; errors and unknown methods are JSON."""

    def __init__(self, methods: Mapping[str, Answering]) -> None:
        self._methods = {**methods, **({"HEAD": methods["GET"]} if "GET" in methods else {})}
        self._allow = ", ".join((*self._methods, "OPTIONS"))
        self._wanted = " or ".join(methods)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        outcome = await settle(self._answer(request), request.state.request_id)
        if isinstance(outcome, ErrorReply):
            outcome = JsonResponse(outcome.body(), outcome.status, dict(outcome.headers))
        await outcome(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if not self._methods:
            raise Refusal(404, "not_found", f"there is no {request.url.path[:100]!a} here")
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"allow": self._allow})
        answering = self._methods.get(request.method)
        if answering is None:
            message = f"{request.url.path} takes {self._wanted}, not {ascii(request.method[:20])[1:-1]}"
            raise Refusal(405, "method_not_allowed", message, {"allow": self._allow})
        try:
            return await answering(request)
        except CallerGoneError:
            return _GONE
