"""From bytes to the JSON object in them, and to a plain word about what is wrong with them.

Theory of operation: orjson reads nearly every body, and reads it right. What it takes silently (a key that stands twice, a
whole number that becomes a float) and what it refuses goes through the standard parser once more, which is slower, keeps
every digit up to 40 of them, and says line and column. A body that orjson writes as it was sent cannot hold either;
for others the colons outside of texts are counted, of which every member of an object has one.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

import orjson

from fallback.api.errors import Refusal

__all__ = ["MAX_DEPTH", "parse_object"]

MAX_DEPTH = 64
MAX_DIGITS = 40

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_LONG_NUMBER = re.compile(rb"[0-9]{16}")
"""Whole numbers of fewer digits are never made a float."""


def parse_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object that `raw` is, in UTF-8. Raises Refusal."""
    try:
        value = orjson.loads(raw)
    except ValueError:
        return _parsed_slowly(raw)
    if not isinstance(value, dict):
        return _parsed_slowly(raw)
    # Each level takes a bracket: where there are few, nothing is deep.
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:
        _refuse_depth(value)
    written = orjson.dumps(value)
    if written != raw and not _told_everything(raw, written):
        return _parsed_slowly(raw)
    return value


def _told_everything(raw: bytes, written: bytes) -> bool:
    if b"\\" not in raw and raw.count(b":") == written.count(b":") and not _LONG_NUMBER.search(raw):
        return True  # without an escape the texts hold the same colons in both, so what is between them does
    bare = _TEXT.sub(b"", raw)
    return bare.count(b":") == _TEXT.sub(b"", written).count(b":") and not _LONG_NUMBER.search(bare)


def _parsed_slowly(raw: bytes) -> dict[str, Any]:
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
    _refuse_depth(value)
    return value


def _refuse_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
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
