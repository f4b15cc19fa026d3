"""What is beyond the embedded model."""

from __future__ import annotations

from typing import Any

import pytest

from fallback.core.models import ChatRequest
from fallback.core.reach import beyond_embedded

TOOL = {"type": "function", "function": {"name": "f"}}
TOOLS = "cannot call tools"


def beyond(*parts: object, **extra: Any) -> str | None:
    messages = (
        {"role": "system", "content": "Be kind."},
        {"role": "assistant", "content": None},
        {"role": "user", "content": list(parts) or "Hello"},
    )
    return beyond_embedded(ChatRequest(request_id="r", messages=messages, extra=extra))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("text", None),
        ("refusal", None),
        ("image_url", "cannot see pictures"),
        ("input_audio", "cannot hear"),
        ("file", "cannot read files"),
        ("video_url", "reads text alone"),
        (None, "reads text alone"),
    ],
)
def test_of_the_parts_of_a_message_it_reads_the_text(kind: str | None, why: str | None) -> None:
    assert beyond({"type": "text", "text": "What is it?"}, {"type": kind}) == why


def test_what_is_no_part_is_not_read() -> None:
    assert beyond("text") == "reads text alone"


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ({}, None),
        ({"n": 1}, None),
        ({"n": 2}, "cannot give several answers (n)"),
        ({"tools": [TOOL]}, None),
        ({"tools": [TOOL], "tool_choice": "auto"}, None),
        ({"tools": [TOOL], "tool_choice": "none"}, None),
        ({"tools": [TOOL], "tool_choice": "required"}, TOOLS),
        ({"tools": [TOOL], "tool_choice": TOOL}, TOOLS),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}}, None),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required"}}}, TOOLS),
        ({"tool_choice": {"type": "allowed_tools", "mode": "required"}}, TOOLS),
        ({"function_call": "auto"}, None),
        ({"function_call": {"name": "f"}}, TOOLS),
        ({"response_format": {"type": "json_object"}, "stop": "x", "seed": 1}, None),
    ],
)
def test_of_the_callers_wishes_those_that_it_cannot_fulfil_are_beyond_it(
    extra: dict[str, Any], why: str | None
) -> None:
    assert beyond(**extra) == why
