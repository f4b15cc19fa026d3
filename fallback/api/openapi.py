"""The API described for programs: OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0), at /api/openapi.json.

Every path that is served is here, with every status that it answers with; tests hold both to each other, and schemathesis
sends what the document allows and forbids.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from fallback.api.schemas import SCHEMAS, Schema, ref

__all__ = ["document", "document_bytes"]

_GATE = (400, 401, 403, 421, 429, 503)
"""What any route under /api and /v1 may answer before it is asked: see access and limits."""
_BODY = (408, 413, 415)
_ASKING = (404, 499, 500, 504)
_MEANINGS = {
    400: "Something in the request is wrong: the text says what to change.",
    401: "An API key is needed, and there is none, or another one.",
    403: "The program serves its own machine alone.",
    404: "There is nothing of this name.",
    405: "The path does not take this method; the header `allow` names those that it takes.",
    408: "The body came in too slowly.",
    413: "The body is too large.",
    415: "The body is not sent as application/json in UTF-8.",
    421: "The program has another name than the request's Host.",
    429: "Too many requests, or every provider is rate limited; `retry-after` says in how many seconds to come again.",
    499: "The caller has left.",
    500: "A mistake of the program's.",
    503: "No provider gave an answer, or the program has too much to do or is being stopped.",
    504: "The deadline came before an answer.",
}


def document_bytes() -> bytes:
    """Return the document as JSON."""
    return _bytes()


@functools.cache
def _bytes() -> bytes:
    return json.dumps(document(), ensure_ascii=False, separators=(",", ":")).encode()


def document() -> dict[str, Any]:
    """Return the document."""
    name = {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
        "description": "A provider's name in providers.yaml.",
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "LLM Fallback System",
            "version": "1",
            "description": "One prompt in, one good answer out, whatever the providers are doing. "
            "docs/http.md explains every field.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"key": []}],
        "tags": [
            {"name": "answers", "description": "Ask the providers."},
            {"name": "openai", "description": "The same for clients of OpenAI's API."},
            {"name": "providers", "description": "See and change how the providers stand."},
            {"name": "operation", "description": "For those who run the program."},
        ],
        "paths": {
            "/api/generate": {"post": _generate()},
            "/api/providers": {
                "get": _operation("providers", "Show all providers", ref("Providers"), _GATE),
                "patch": _changing("Change the order, or start a preset", "ProvidersChange", "Providers"),
            },
            "/api/providers/{name}": {
                "parameters": [name],
                "get": _operation("providers", "Show one provider", ref("Provider"), (*_GATE, 404)),
                "patch": _changing("Change one provider", "ProviderChange", "Provider"),
            },
            "/api/providers/{name}/test": {
                "parameters": [name],
                "post": _operation(
                    "providers",
                    "Ask one provider a small question",
                    ref("TestResult"),
                    (*_GATE, *_BODY, *_ASKING),
                    body={"type": "object", "maxProperties": 0},
                ),
            },
            "/api/openapi.json": {
                "get": _operation("operation", "This document", {"type": "object"}, _GATE),
            },
            "/v1/chat/completions": {"post": _completions()},
            "/v1/models": {
                "get": _operation(
                    "openai", "List what `model` may name", ref("Models"), _GATE, family="OpenAIError"
                )
            },
            "/v1/models/{name}": {
                "parameters": [{**name, "description": "What `model` may name."}],
                "get": _operation(
                    "openai", "Show one of them", ref("Model"), (*_GATE, 404), family="OpenAIError"
                ),
            },
            "/healthz": {"get": _health()},
            "/readyz": {"get": _readiness()},
            "/metrics": {"get": _metrics()},
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _operation(
    tag: str,
    summary: str,
    answer: Schema,
    statuses: tuple[int, ...],
    *,
    family: str = "Error",
    body: Schema | None = None,
    needs_body: bool = False,
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "tags": [tag],
        "summary": summary,
        "operationId": summary.lower().replace("`", "").replace(",", "").replace(" ", "_"),
        "responses": {
            "200": {"description": "Done.", "content": _json(answer)},
            **{str(status): _failure(status, family) for status in sorted({*statuses, 405})},
        },
    }
    if body is not None:
        made["requestBody"] = {"content": _json(body), "required": needs_body}
    return made


def _failure(status: int, family: str) -> dict[str, Any]:
    made: dict[str, Any] = {"description": _MEANINGS[status]}
    if status != 499:
        made["content"] = _json(ref(family))
    if status == 401:
        made["headers"] = {"www-authenticate": {"schema": {"type": "string"}, "required": True}}
    if status == 405:
        made["headers"] = {"allow": {"schema": {"type": "string"}, "required": True}}
    if status == 429:
        made["headers"] = {"retry-after": {"schema": {"type": "string"}, "required": True}}
    return made


def _changing(summary: str, wish: str, answer: str) -> dict[str, Any]:
    statuses = (*_GATE, *_BODY, 404, 500)
    return _operation("providers", summary, ref(answer), statuses, body=ref(wish), needs_body=True)


def _generate() -> dict[str, Any]:
    made = _operation(
        "answers",
        "Ask until one provider answers",
        ref("Answer"),
        (*_GATE, *_BODY, *_ASKING),
        body=ref("GenerateRequest"),
        needs_body=True,
    )
    return _streamed(made, "Server-sent events, as docs/http.md describes them.")


def _completions() -> dict[str, Any]:
    made = _operation(
        "openai",
        "Create a chat completion",
        ref("ChatCompletion"),
        (*_GATE, *_BODY, *_ASKING),
        family="OpenAIError",
        body=ref("ChatCompletionRequest"),
        needs_body=True,
    )
    return _streamed(made, "OpenAI's chunks as server-sent events.")


def _streamed(operation: dict[str, Any], words: str) -> dict[str, Any]:
    good = operation["responses"]["200"]
    good["description"] = f"The answer; with `stream: true` {words[0].lower()}{words[1:]}"
    # Whoever reads the document takes the schema for one event or for all of them: so it says nothing of either.
    good["content"]["text/event-stream"] = {"schema": {}}
    return operation


def _health() -> dict[str, Any]:
    made = _operation("operation", "Is the process up", ref("Health"), (403,))
    return {**made, "security": []}


def _readiness() -> dict[str, Any]:
    made = _operation("operation", "Can some provider be asked", ref("Readiness"), (403,))
    made["responses"]["503"] = {
        "description": "Nobody can be asked now.",
        "content": _json({"anyOf": [ref("Readiness"), ref("Error")]}),
    }
    return {**made, "security": [{}, {"key": []}]}


def _metrics() -> dict[str, Any]:
    made = _operation("operation", "Figures for Prometheus", {}, (400, 401, 403, 421))
    made["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    return made
