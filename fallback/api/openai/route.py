"""The routes under /v1 as plain ASGI applications: receive, call the router once, send."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from fallback.api.attend import CallerGoneError, attended
from fallback.api.body import headers_of, receive_object, traceparent_of
from fallback.api.errors import ErrorReply, Refusal, settle
from fallback.api.openai.chunks import Chunks
from fallback.api.openai.completion import completion_reply
from fallback.api.openai.errors import error_reply_of
from fallback.api.openai.models import model_object, models_object
from fallback.api.openai.reply import Reply, json_bytes
from fallback.api.openai.stream import CompletionStream
from fallback.api.openai.wanted import DEADLINE_HEADER, wanted
from fallback.api.serving import Serving

__all__ = ["openai_routes"]

Answering = Callable[[Scope, Receive, Send], Awaitable[Reply | None]]
"""Returns what is to be sent, None where all is said already."""

_GONE = Reply(status=499)
"""For a caller who reads nothing any more; the status is the one that proxies log for it."""

_DEADLINE = DEADLINE_HEADER.encode()
_SERVED = "of OpenAI's API this program has POST /v1/chat/completions and GET /v1/models"
"""A client that asks for something else, often /v1/responses, can nearly always be told to use these."""
_EXAMPLE = '{"model": "auto", "messages": [{"role": "user", "content": "..."}]}'


def openai_routes(serving: Serving) -> list[BaseRoute]:
    """Return the routes; the last ones answer for whatever else there might be under /v1."""
    models = _Models(serving)
    nothing = _Resource({})
    return [
        Route("/v1/chat/completions", _Resource({"POST": _Completions(serving)})),
        Route("/v1/models", _Resource({"GET": models.show_all})),
        Route("/v1/models/{name:path}", _Resource({"GET": models.show})),
        *(Route(path, nothing) for path in ("/v1", "/v1/{rest:path}")),
    ]


class _Completions:
    """POST /v1/chat/completions."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Reply | None:
        headers = headers_of(scope)
        body = await receive_object(headers, receive, example=_EXAMPLE)
        state = scope["state"]
        asked = wanted(
            body,
            request_id=state["request_id"],
            deadline=headers.get(_DEADLINE),
            api_key_name=state.get("api_key_name"),
            traceparent=traceparent_of(headers),
        )
        router, closing = self._serving.router, self._serving.closing
        if not asked.stream:
            answer = await attended(router.answer(asked.chat), scope, receive, closing)
            return completion_reply(answer)
        events = router.ask(asked.chat)
        chunks = Chunks(
            asked.chat.request_id, created=int(router.context.wall()), include_usage=asked.include_usage
        )
        stream = CompletionStream(
            events,
            chunks,
            send,
            keep_alive_s=self._serving.keep_alive_s,
            send_limit_s=self._serving.send_limit_s,
        )
        await stream.serve(scope, receive, closing)
        return None


class _Models:
    """GET /v1/models and GET /v1/models/{model}."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._since: int | None = None

    async def show_all(self, _scope: Scope, _receive: Receive, _send: Send) -> Reply:
        """Answer with the list."""
        return Reply(body=json_bytes(models_object(self._serving.router.context.roster, self._created())))

    async def show(self, scope: Scope, _receive: Receive, _send: Send) -> Reply:
        """Answer with one model."""
        name = scope["path_params"]["name"]
        return Reply(
            body=json_bytes(model_object(self._serving.router.context.roster, self._created(), name))
        )

    def _created(self) -> int:
        if self._since is None:
            self._since = int(self._serving.router.context.wall())
        return self._since


class _Resource:
    """One path and what its methods do; errors and unknown methods are JSON in OpenAI's shape."""

    def __init__(self, methods: Mapping[str, Answering]) -> None:
        self._methods = {**methods, **({"HEAD": methods["GET"]} if "GET" in methods else {})}
        self._allow = ", ".join((*self._methods, "OPTIONS"))
        self._wanted = " or ".join(methods)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome = await settle(self._answer(scope, receive, send), scope["state"]["request_id"])
        if isinstance(outcome, ErrorReply):
            outcome = error_reply_of(outcome)
        if outcome is not None and not outcome.sent_at_once(scope):
            await outcome.send(send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> Reply | None:
        method: str = scope["method"]
        answering = self._methods.get(method)
        if answering is None:
            return self._without_answer(method, scope["path"])
        try:
            return await answering(scope, receive, send)
        except CallerGoneError:
            return _GONE

    def _without_answer(self, method: str, path: str) -> Reply:
        if not self._methods:
            message = f"there is no {ascii(method[:20])[1:-1]} {path[:100]!a} here; {_SERVED}"
            raise Refusal(404, "not_found", message)
        if method == "OPTIONS":
            return Reply(status=204, headers={"allow": self._allow})
        message = f"{path[:100]!a} takes {self._wanted}, not {ascii(method[:20])[1:-1]}"
        raise Refusal(405, "method_not_allowed", message, {"allow": self._allow})
