"""Reading a body: quick, and never at the price of taking something silently."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback.api.errors import Refusal
from fallback.api.parse import MAX_DEPTH, parse_object

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
NUMBERS = st.integers(-(10**38), 10**38) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=5)


def written(value: Any, *, spaced: bool, escaped: bool) -> bytes:
    separators = None if spaced else (",", ":")
    return json.dumps(value, separators=separators, ensure_ascii=escaped).encode()


@given(value=OBJECTS, spaced=st.booleans(), escaped=st.booleans())
def test_every_object_comes_out_as_it_went_in(value: dict[str, Any], spaced: bool, escaped: bool) -> None:
    found = parse_object(written(value, spaced=spaced, escaped=escaped))
    # The digits too: 1 is not 1.0, and 10**25 + 1 is not 10**25.
    assert repr(found) == repr(value)


@given(value=OBJECTS, name=TEXTS, spaced=st.booleans(), nested=st.booleans())
def test_key_that_stands_twice_is_never_taken(
    value: dict[str, Any], name: str, spaced: bool, nested: bool
) -> None:
    value.pop(name, None)
    once = written(value | {name: 1}, spaced=spaced, escaped=False)
    key = json.dumps(name, ensure_ascii=False).encode()
    raw = once[:-1] + b"," + key + b":2}"
    if nested:
        raw = b'{"outer":[' + raw + b"]}"
    with pytest.raises(Refusal, match="stands twice in one object"):
        parse_object(raw)


@given(
    raw=st.binary(max_size=60) | st.text('{}[]":,\\u0d8 \n1eE.-+nulltrefaNIity', max_size=40).map(str.encode)
)
def test_anything_is_an_object_or_a_refusal(raw: bytes) -> None:
    found: dict[str, Any] | Refusal
    try:
        found = parse_object(raw)
    except Refusal as refusal:
        found = refusal
    assert isinstance(found, dict) or (found.status, found.error_type) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"a":12345678901234567890123}', 12345678901234567890123),
        (b'{"a":18446744073709551616}', 18446744073709551616),
        (b'{"a": -9223372036854775809 }', -9223372036854775809),
        (b'{"a":0.1}', 0.1),
        (b'{"a":1E5}', 100000.0),
        (b'\xef\xbb\xbf{"a":1}', 1),
        (b'{"a":"\\ud83d\\ude00"}', "\U0001f600"),
        (b'{"a":"{\\"b\\":1,\\"b\\":2}"}', '{"b":1,"b":2}'),
        (b'{"a": ":", "b": "\\\\"}', ":"),
    ],
)
def test_what_the_quick_reader_does_not_keep_is_kept(raw: bytes, value: Any) -> None:
    assert repr(parse_object(raw)["a"]) == repr(value)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
@pytest.mark.parametrize("spaced", [False, True])
def test_depth_is_counted_to_the_level(opening: bytes, spaced: bool) -> None:
    levels = opening.count(b"[") + opening.count(b"{")
    closing = b"".join(
        {b"[": b"]", b"{": b"}"}[opening[i : i + 1]] for i in range(len(opening)) if opening[i] in b"[{"
    )

    def nested(depth: int) -> bytes:
        times = depth // levels
        return b'{"x":' + b" " * spaced + opening * times + b"1" + closing[::-1] * times + b"}"

    room = MAX_DEPTH - 1
    fits = room - room % levels
    parse_object(nested(fits))
    with pytest.raises(Refusal, match=f"more than {MAX_DEPTH} levels"):
        parse_object(nested(fits + levels))


def test_many_objects_that_are_not_deep_are_taken() -> None:
    value = {"messages": [{"role": "user", "content": "Hi"}] * 200}
    assert parse_object(written(value, spaced=False, escaped=False)) == value


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 41, "9" * 5000])
def test_number_beyond_all_measure_is_refused(number: str) -> None:
    with pytest.raises(Refusal, match="a number is too large"):
        parse_object(f'{{"a":{number}}}'.encode())
    assert math.isfinite(parse_object(b'{"a":1e308}')["a"])
