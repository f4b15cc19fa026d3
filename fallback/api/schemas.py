"""What callers send and get, as JSON Schemas (2020-12) of the OpenAPI document. docs/http.md has the words for it."""

from __future__ import annotations

from typing import Any, Final

from fallback.api.metrics import STATES
from fallback.core.models import Role
from fallback.drills import DrillKind
from fallback.intake import MAX_MESSAGES, MAX_TOKENS, ROLES

__all__ = ["SCHEMAS", "ref"]

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
NUMBER: Final[Schema] = {"type": "number", "minimum": 0}
TEXTS: Final[Schema] = {"type": "array", "items": TEXT}


def ref(name: str) -> Schema:
    """Return a reference to the schema `name`."""
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(schema: Schema) -> Schema:
    if "type" in schema and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _object(properties: Schema, *, optional: tuple[str, ...] = (), **more: Any) -> Schema:
    """Return an object that has all of `properties` and no other, but for the `optional` ones."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
        **more,
    }


def _wish(properties: Schema, **more: Any) -> Schema:
    """Return an object of which nothing is required, and where null counts as left out."""
    return {
        "type": "object",
        "properties": {name: _or_null(schema) for name, schema in properties.items()},
        "additionalProperties": False,
        **more,
    }


_MESSAGE: Schema = {
    "type": "object",
    "description": "One message in OpenAI's shape; further members go to the provider as they are.",
    "properties": {
        "role": {"enum": sorted(ROLES)},
        "content": {
            "anyOf": [TEXT, {"type": "array", "items": {"type": "object"}, "minItems": 1}, {"type": "null"}]
        },
    },
    "required": ["role"],
}
_MESSAGES: Schema = {"type": "array", "items": ref("Message"), "maxItems": MAX_MESSAGES}
_TEMPERATURE: Schema = {"type": "number", "minimum": 0, "maximum": 2}
_MAX_TOKENS: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_TOKENS}

_USAGE = _object({"input_tokens": COUNT, "output_tokens": COUNT, "total_tokens": COUNT})
_ATTEMPT = _object(
    {
        "number": {"type": "integer", "minimum": 1},
        "role": {"enum": [str(role) for role in Role]},
        "provider": TEXT,
        "model": TEXT,
        "outcome": {"type": "string", "description": "`ok`, or the kind of failure."},
        "status": _or_null({"type": "integer"}),
        "message": _or_null(TEXT),
        "started_s": NUMBER,
        "duration_s": NUMBER,
        "time_to_first_token_s": _or_null(NUMBER),
        "input_tokens": _or_null(COUNT),
        "output_tokens": _or_null(COUNT),
        "usage_estimated": FLAG,
        "cost_usd": _or_null(NUMBER),
        "continues": _or_null(COUNT),
    }
)
_ANSWER = _object(
    {
        "response": TEXT,
        "provider": TEXT,
        "model": TEXT,
        "activity_log": TEXTS,
        "request_id": TEXT,
        "usage": ref("Usage"),
        "cost_usd": _or_null(NUMBER),
        "attempts": {"type": "array", "items": ref("Attempt")},
        "degraded": FLAG,
        "providers": TEXTS,
        "seams": {"type": "array", "items": COUNT},
        "usage_estimated": FLAG,
        "latency_s": NUMBER,
        "time_to_first_token_s": _or_null(NUMBER),
        "finish_reason": TEXT,
        "note": TEXT,
    },
    optional=("note",),
)
_STATUS: Schema = {
    "name": TEXT,
    "state": {"enum": list(STATES)},
    "model": _or_null(TEXT),
    "text": TEXT,
    "until_s": _or_null(NUMBER),
}
_HEADROOM = _object(
    {
        "limit_requests": _or_null(COUNT),
        "remaining_requests": _or_null(COUNT),
        "reset_requests_s": _or_null(NUMBER),
        "limit_tokens": _or_null(COUNT),
        "remaining_tokens": _or_null(COUNT),
        "reset_tokens_s": _or_null(NUMBER),
        "age_s": _or_null(NUMBER),
    }
)
_DRILL = _object(
    {
        "kind": {"enum": [str(kind) for kind in DrillKind]},
        "value": _or_null({"type": "number"}),
        "probability": {"type": "number", "minimum": 0, "maximum": 1},
        "seed": _or_null({"type": "integer"}),
        "text": TEXT,
        "left_s": _or_null(NUMBER),
        "by": TEXT,
    }
)
_PROVIDER = _object(
    {
        **_STATUS,
        "type": {"enum": ["groq", "together", "openai", "local"]},
        "models": TEXTS,
        "retired": TEXTS,
        "reason": _or_null(TEXT),
        "enabled": FLAG,
        "degraded": FLAG,
        "configured": FLAG,
        "headroom": _or_null(ref("Headroom")),
        "drill": _or_null(ref("Drill")),
    }
)

SCHEMAS: Final[Schema] = {
    "GenerateRequest": _wish(
        {
            "prompt": {"type": "string", "pattern": r"\S"},
            "system": TEXT,
            "messages": _MESSAGES,
            "model": {"type": "string", "pattern": r"\S"},
            "temperature": _TEMPERATURE,
            "max_tokens": _MAX_TOKENS,
            "deadline_s": {"type": "number", "exclusiveMinimum": 0, "maximum": 1e9},
            "stream": FLAG,
        },
        description="`prompt`, or `messages` with a question of the user, has to be there.",
    ),
    "Message": _MESSAGE,
    "Answer": _ANSWER,
    "Usage": _USAGE,
    "Attempt": _ATTEMPT,
    "Error": _object({"error": TEXT, "error_type": TEXT, "request_id": TEXT, "activity_log": TEXTS}),
    "Health": _object({"status": {"const": "ok"}}),
    "Readiness": _object(
        {
            "status": {"enum": ["ready", "not_ready"]},
            "providers": {"type": "array", "items": _object(_STATUS)},
        },
        optional=("providers",),
    ),
    "Provider": _PROVIDER,
    "Headroom": _HEADROOM,
    "Drill": _DRILL,
    "Providers": _object(
        {
            "providers": {"type": "array", "items": ref("Provider")},
            "order": TEXTS,
            "order_is_default": FLAG,
            "warning": _or_null(TEXT),
            "demo": FLAG,
        }
    ),
    "ProviderChange": {
        "type": "object",
        "properties": {
            "enabled": FLAG,
            "drill": _or_null(ref("DrillWish")),
            "end_cooldown": {"const": True},
        },
        "additionalProperties": False,
        "minProperties": 1,
    },
    "DrillWish": {
        "type": "object",
        "description": "docs/drills.md says what each kind takes.",
        "properties": {
            "kind": {"enum": [str(kind) for kind in DrillKind]},
            "value": _or_null({"type": "number"}),
            "probability": {"type": "number"},
            "seed": _or_null({"type": "integer"}),
            "for_s": _or_null({"type": "number"}),
        },
        "required": ["kind"],
    },
    "ProvidersChange": {
        "type": "object",
        "properties": {"order": _or_null(TEXTS), "preset": _or_null(TEXT)},
        "additionalProperties": False,
        "minProperties": 1,
    },
    "TestResult": _object({"answer": ref("Answer"), "provider": ref("Provider")}),
    "ChatCompletionRequest": {
        "type": "object",
        "description": "OpenAI's; members that are not named here go to the provider as they are.",
        "properties": {
            "model": _or_null(TEXT),
            "messages": _MESSAGES,
            "temperature": _or_null(_TEMPERATURE),
            "max_tokens": _or_null(_MAX_TOKENS),
            "max_completion_tokens": _or_null(_MAX_TOKENS),
            "stream": _or_null(FLAG),
            "stream_options": _or_null({"type": "object"}),
            "n": _or_null({"type": "integer", "minimum": 1, "maximum": 128}),
            "seed": _or_null({"type": "integer"}),
            "stop": {"anyOf": [TEXT, TEXTS, {"type": "null"}]},
            "tools": _or_null({"type": "array", "items": {"type": "object"}}),
            "tool_choice": {"anyOf": [TEXT, {"type": "object"}, {"type": "null"}]},
            "response_format": _or_null({"type": "object"}),
            "user": _or_null(TEXT),
        },
        "required": ["messages"],
    },
    "ChatCompletion": {
        "type": "object",
        "properties": {
            "id": TEXT,
            "object": {"const": "chat.completion"},
            "created": COUNT,
            "model": TEXT,
            "choices": {"type": "array", "items": {"type": "object"}, "minItems": 1},
            "usage": {"type": "object"},
            "fallback": {"type": "object", "description": "How the answer came about."},
        },
        "required": ["id", "object", "created", "model", "choices", "usage"],
    },
    "Models": {
        "type": "object",
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": ref("Model")},
        },
        "required": ["object", "data"],
    },
    "Model": {
        "type": "object",
        "properties": {"id": TEXT, "object": {"const": "model"}, "created": COUNT, "owned_by": TEXT},
        "required": ["id", "object", "created", "owned_by"],
    },
    "OpenAIError": {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "message": TEXT,
                    "type": _or_null(TEXT),
                    "param": _or_null(TEXT),
                    "code": _or_null(TEXT),
                },
                "required": ["message", "type", "param", "code"],
            }
        },
        "required": ["error"],
    },
}  # fmt: skip
"""By their names in the document."""
