"""What is beyond the embedded model."""

from __future__ import annotations

from typing import Any

import pytest

from fallback.core.errors import FailureKind
from fallback.core.models import AttemptReport, ChatRequest, Failure, Role
from fallback.core.plan import GiveUp, GiveUpReason
from fallback.core.reach import beyond_embedded
from fallback.core.standing import ProviderStatus, Refusal, Why
from fallback.loop.ending import ending_of

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


@pytest.mark.parametrize("failed", [True, False])
def test_the_end_of_such_a_request_says_why_the_embedded_model_was_not_asked(*, failed: bool) -> None:
    failure = Failure(kind=FailureKind.OVERLOADED, status=503)
    report = AttemptReport(
        number=1, role=Role.FIRST, provider="a", model="m", outcome="overloaded", failure=failure
    )
    step = GiveUp(
        reason=GiveUpReason.FAILED if failed else GiveUpReason.NONE_AVAILABLE,
        failure=failure if failed else None,
        skipped=(Refusal(provider="e", model=None, why=Why.BEYOND, text="cannot see pictures"),),
    )
    statuses = [
        ProviderStatus(name="a", state="not_configured", model="m", text="no key"),
        ProviderStatus(name="e", state="ready", model="s", text="ready"),
    ]
    text = ending_of(step, [report] if failed else [], statuses, deadline_s=60.0).text
    assert text == (
        "all providers failed (a: overloaded (HTTP 503); e: cannot see pictures)"
        if failed
        else "no provider can be asked (a: no key; e: cannot see pictures)"
    )
