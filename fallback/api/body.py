"""From the bytes of a request to a JSON object: everything that can be wrong with a body is found here."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from starlette.requests import Request

from fallback.api.errors import Refusal

__all__ = ["read_object"]

MAX_DEPTH = 64
MAX_DIGITS = 40

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# The rest of a body that is not read must not be taken for the next request.
_CLOSE = {"connection": "close"}


async def read_object(request: Request, *, may_be_empty: bool = False) -> dict[str, Any]:
    """Return the JSON object in the body of `request`, {} for a body without one where it `may_be_empty`.

    Raises Refusal, and ClientDisconnect where the caller left.
    """
    _check_type(request)
    raw = await _read(request)
    if not raw.strip():
        if may_be_empty:
            return {}
        raise Refusal(400, "invalid_json", 'the body is empty: send a JSON object such as {"prompt": "..."}')
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"the body is not UTF-8 (byte {error.start}): send JSON in UTF-8"
        raise Refusal(400, "invalid_json", message) from None
    value = _parse(text)
    if not isinstance(value, dict):
        message = f'the body must be a JSON object such as {{"prompt": "..."}}, not {_named(value)}'
        raise Refusal(400, "invalid_json", message)
    if _SURROGATE.search(raw):
        _refuse_surrogates(value)
    return value


def _check_type(request: Request) -> None:
    # Only a type that a page of another origin cannot send without asking first: the API has no other guard there.
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    if media_type.strip().lower() != "application/json":
        raise Refusal(415, "unsupported_media_type", "send the header content-type: application/json", _CLOSE)
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in {"utf-8", "utf8"}:
            raise Refusal(
                415, "unsupported_media_type", "JSON is sent in UTF-8: charset=utf-8, or none", _CLOSE
            )
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refusal(415, "unsupported_media_type", "send the body without content-encoding", _CLOSE)


async def _read(request: Request) -> bytes:
    # How long it may be and take is the gate's matter, which `receive` comes from: see limits.
    return b"".join([piece async for piece in request.stream()])


def _parse(text: str) -> object:
    try:
        value: object = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except json.JSONDecodeError as error:
        message = f"the body is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        raise Refusal(400, "invalid_json", message) from None
    except RecursionError:
        raise _too_deep() from None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return value
    raise _too_deep()


def _children(value: object) -> list[object]:
    """Return the objects and lists in `value`."""
    inside: list[object] = []
    if isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, list):
        inside = value
    return [child for child in inside if isinstance(child, dict | list)]


def _too_deep() -> Refusal:
    return Refusal(400, "invalid_json", f"the JSON is nested more than {MAX_DEPTH} levels deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refusal(400, "invalid_json", f"the key {_shown(twice)} stands twice in one object")
    return made


def _constant(name: str) -> NoReturn:
    raise Refusal(400, "invalid_json", f"{name} is not JSON: give a number, or leave the key out")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise Refusal(400, "invalid_json", "a number is too large")
    return value


def _int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise Refusal(400, "invalid_json", "a number is too large")
    return int(digits)


def _refuse_surrogates(value: dict[str, Any]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        message = "the text holds half of a character (a lone surrogate such as \\ud83d)"
        raise Refusal(400, "invalid_json", message) from None


def _shown(name: str) -> str:
    return json.dumps(name[:60])


def _named(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case _:
            return "a list"
