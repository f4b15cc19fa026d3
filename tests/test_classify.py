"""From an error of any shape to a failure kind."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallback.core.errors import FailureKind, Phase, TransportError
from fallback.core.models import Failure
from fallback.providers.classify import (
    classify_error,
    classify_page,
    classify_transport,
    error_fields,
)

K = FailureKind
KEY = "test-key-not-real"


def classified(status: int | None, body: Any, headers: dict[str, str] | None = None) -> Failure:
    fields = error_fields(body)
    assert fields is not None, "no error found in it"
    return classify_error(status, headers or {}, fields, key=KEY, wall=1_790_000_000.0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "no", "code": "model_not_found"}}, "no"),
        ({"error": {}}, "HTTP 404"),
        ({"error": "no"}, "no"),
        ({"error": "no", "code": "model_not_found"}, "no"),
        ({"message": "no", "type": "model_not_found"}, "no"),
        ({"detail": "no"}, "no"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        ({"error": ["no"]}, "HTTP 404"),
        ({"error": {"message": {"text": "no"}}}, "no"),
        ({"error": {"message": 17}}, "17"),
    ],
)
def test_an_error_is_found_in_every_shape(body: Any, message: str) -> None:
    failure = classified(404, body)
    assert failure.kind is K.MODEL_UNAVAILABLE
    assert message in failure.message


@pytest.mark.parametrize(
    "body",
    [
        {"choices": []},
        {"choices": [{"message": {"content": "the error is"}}], "message": "x", "detail": "y"},
        {"choices": [], "error": None},
        {"usage": {}, "error": None},
        {"id": "x", "error": ""},
        {"output": {"choices": []}, "message": "x"},
        {},
        {"object": "chat.completion.chunk"},
        [],
        ["error"],
        "error",
        None,
        7,
    ],
)
def test_what_is_no_error_is_taken_for_none(body: Any) -> None:
    assert error_fields(body) is None


def test_an_error_beside_choices_is_an_error() -> None:
    assert classified(200, {"choices": [], "error": {"message": "no"}}).kind is K.SERVER_ERROR


STATUS_KINDS = {
    400: K.INVALID_REQUEST,
    401: K.AUTHENTICATION,
    402: K.QUOTA_EXHAUSTED,
    403: K.PERMISSION_DENIED,
    404: K.MODEL_UNAVAILABLE,
    407: K.BLOCKED_BY_EDGE,
    408: K.TIMEOUT,
    409: K.INVALID_REQUEST,
    410: K.MODEL_UNAVAILABLE,
    413: K.REQUEST_TOO_LARGE,
    418: K.INVALID_REQUEST,
    422: K.INVALID_REQUEST,
    424: K.INVALID_REQUEST,
    429: K.RATE_LIMITED,
    498: K.OVERLOADED,
    500: K.SERVER_ERROR,
    502: K.SERVER_ERROR,
    503: K.OVERLOADED,
    504: K.TIMEOUT,
    520: K.SERVER_ERROR,
    521: K.SERVER_ERROR,
    522: K.SERVER_ERROR,
    523: K.SERVER_ERROR,
    524: K.TIMEOUT,
    529: K.OVERLOADED,
    599: K.SERVER_ERROR,
}


@pytest.mark.parametrize(("status", "kind"), STATUS_KINDS.items())
@pytest.mark.parametrize("type_", ["invalid_request_error", "api_error", "server_error", "", "credit_limit"])
def test_the_status_decides_where_the_type_is_a_general_one(
    status: int, kind: FailureKind, type_: str
) -> None:
    assert classified(status, {"error": {"message": "no", "type": type_}}).kind is kind


@pytest.mark.parametrize(
    "number", [{"code": 429}, {"code": "429"}, {"status": 429}, {"status_code": 429}], ids=str
)
def test_a_number_inside_an_error_is_the_status_of_a_200(number: dict[str, Any]) -> None:
    failure = classified(200, {"error": {"message": "no", **number}}, {"retry-after": "9"})
    assert (failure.kind, failure.status, failure.retry_after_s) == (K.RATE_LIMITED, 429, 9.0)
    assert failure.code is None


@pytest.mark.parametrize("code", [True, 7, 200, 1000, -429, "7", 4.29])
def test_a_number_that_is_no_error_status_is_none(code: Any) -> None:
    assert classified(200, {"error": {"message": "no", "code": code}}).kind is K.SERVER_ERROR


def test_the_status_of_the_response_comes_before_a_number_inside() -> None:
    assert classified(401, {"error": {"message": "no", "code": 503}}).kind is K.AUTHENTICATION


CODES = {
    "invalid_api_key": K.AUTHENTICATION,
    "insufficient_quota": K.QUOTA_EXHAUSTED,
    "context_length_exceeded": K.CONTEXT_WINDOW_EXCEEDED,
    "content_policy_violation": K.CONTENT_POLICY,
    "content_filter": K.CONTENT_POLICY,
    "model_not_found": K.MODEL_UNAVAILABLE,
    "model_decommissioned": K.MODEL_UNAVAILABLE,
    "model_not_available": K.MODEL_UNAVAILABLE,
    "json_validate_failed": K.OUTPUT_REJECTED,
    "tool_use_failed": K.OUTPUT_REJECTED,
    "MODEL_NOT_FOUND": K.MODEL_UNAVAILABLE,
}


@pytest.mark.parametrize(("code", "kind"), CODES.items())
@pytest.mark.parametrize("status", [None, 400, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("where", ["code", "type"])
def test_a_specific_code_or_type_beats_the_status(
    code: str, kind: FailureKind, status: int | None, where: str
) -> None:
    failure = classified(status, {"error": {"message": "no", where: code}})
    assert failure.kind is kind
    assert failure.code == code


def test_code_beats_type_beats_message() -> None:
    error = {"code": "insufficient_quota", "type": "model_not_found", "message": "incorrect API key"}
    assert classified(400, {"error": error}).kind is K.QUOTA_EXHAUSTED
    del error["code"]
    assert classified(400, {"error": error}).kind is K.MODEL_UNAVAILABLE
    del error["type"]
    assert classified(400, {"error": error}).kind is K.AUTHENTICATION


MESSAGES: list[tuple[int | None, str, FailureKind]] = [
    (400, "Incorrect API key provided", K.AUTHENTICATION),
    (404, "Invalid API Key", K.AUTHENTICATION),
    (500, "Incorrect API key provided", K.SERVER_ERROR),
    (400, "Credit balance too low", K.QUOTA_EXHAUSTED),
    (429, "You exceeded your current quota, please check your plan", K.QUOTA_EXHAUSTED),
    (413, "Request too large for model on tokens per minute (TPM)", K.REQUEST_TOO_LARGE),
    (429, "Request too large for model on tokens per minute (TPM)", K.REQUEST_TOO_LARGE),
    (400, "This model's maximum context length is 8192 tokens", K.CONTEXT_WINDOW_EXCEEDED),
    (400, "Please reduce the length of the messages", K.CONTEXT_WINDOW_EXCEEDED),
    (403, "Input token count plus `max_tokens` exceeds the context window", K.CONTEXT_WINDOW_EXCEEDED),
    (422, "`inputs` tokens + `max_new_tokens` must be <= 8193", K.CONTEXT_WINDOW_EXCEEDED),
    (429, "context window of the day is full", K.RATE_LIMITED),
    (400, "The model `x` has been decommissioned", K.MODEL_UNAVAILABLE),
    (400, "The model `x` does not exist", K.MODEL_UNAVAILABLE),
    (400, "Unable to access non-serverless model x", K.MODEL_UNAVAILABLE),
    (500, "x is currently over capacity", K.OVERLOADED),
    (400, "the engine is overloaded", K.OVERLOADED),
    (429, "the engine is overloaded", K.RATE_LIMITED),
    (None, "the engine is overloaded", K.OVERLOADED),
    (None, "something", K.SERVER_ERROR),
]


@pytest.mark.parametrize(("status", "message", "kind"), MESSAGES)
def test_the_words_of_the_message_tell_what_the_status_does_not(
    status: int | None, message: str, kind: FailureKind
) -> None:
    assert classified(status, {"error": {"message": message}}).kind is kind


def test_words_of_generated_text_are_not_those_of_the_error() -> None:
    words = "incorrect API key, insufficient quota, over capacity, maximum context, request too large"
    error = {"message": "Failed to validate", "failed_generation": words, "param": words}
    assert classified(400, {"error": error, "rate limit": words}).kind is K.INVALID_REQUEST
    error["code"] = "json_validate_failed"
    assert classified(400, {"error": error}).kind is K.OUTPUT_REJECTED


@pytest.mark.parametrize(
    ("message", "account_wide"),
    [
        ("Your account is suspended", True),
        ("", True),
        ("Your project has no access to model `x`", False),
        ("The Model is blocked here", False),
    ],
)
def test_a_refusal_is_told_apart_by_whom_it_is_about(message: str, account_wide: bool) -> None:
    assert classified(403, {"error": {"message": message}}).account_wide is account_wide


@pytest.mark.parametrize("status", [429, 500, 503, 504, 408, 529])
def test_a_wait_counts_with_what_may_pass(status: int) -> None:
    assert classified(status, {"error": {"message": "no"}}, {"retry-after": "7"}).retry_after_s == 7.0
    assert classified(status, {"error": {"message": "try again in 8s"}}).retry_after_s == 8.0


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
def test_a_wait_means_nothing_with_what_does_not_pass(status: int) -> None:
    failure = classified(status, {"error": {"message": "try again in 8s"}}, {"retry-after": "7"})
    assert failure.retry_after_s is None


def test_the_end_of_a_rate_window_is_no_end_of_an_outage() -> None:
    window = {"x-ratelimit-reset": "1"}
    assert classified(429, {"error": {}}, window).retry_after_s == 1.0
    assert classified(503, {"error": {}}, window).retry_after_s is None
    assert classified(500, {"error": {}}, {**window, "retry-after": "4"}).retry_after_s == 4.0


def test_headers_of_a_good_response_say_nothing_about_an_error_inside_it() -> None:
    headers = {"retry-after": "2", "x-ratelimit-reset": "2"}
    assert classified(200, {"error": {"message": "overloaded"}}, headers).retry_after_s is None
    told = classified(200, {"error": {"message": "overloaded, try again in 8s"}}, headers)
    assert told.retry_after_s == 8.0


def test_neither_message_nor_code_shows_the_key_or_the_account() -> None:
    error = {"message": f"key {KEY} of org_01EXAMPLE9\nis wrong", "code": f"bad {KEY}"}
    failure = classified(401, {"error": error}, {"x-request-id": "req_1"})
    assert failure.message == "key *** of *** is wrong"
    assert failure.code == "bad ***"
    assert failure.provider_request_id == "req_1"


HTML = "text/html"
PAGES: list[tuple[int, str, FailureKind]] = [
    (200, HTML, K.MALFORMED_RESPONSE),
    (200, "text/plain", K.MALFORMED_RESPONSE),
    (200, "", K.MALFORMED_RESPONSE),
    (204, "", K.MALFORMED_RESPONSE),
    (301, HTML, K.MALFORMED_RESPONSE),
    (302, "", K.MALFORMED_RESPONSE),
    (307, "application/json", K.MALFORMED_RESPONSE),
    (400, HTML, K.MALFORMED_RESPONSE),
    (400, "text/plain", K.INVALID_REQUEST),
    (401, HTML, K.BLOCKED_BY_EDGE),
    (401, "", K.BLOCKED_BY_EDGE),
    (403, "text/plain", K.BLOCKED_BY_EDGE),
    (403, HTML, K.BLOCKED_BY_EDGE),
    (403, "application/xhtml+xml", K.BLOCKED_BY_EDGE),
    (404, HTML, K.MALFORMED_RESPONSE),
    (404, "", K.MALFORMED_RESPONSE),
    (405, HTML, K.MALFORMED_RESPONSE),
    (407, HTML, K.BLOCKED_BY_EDGE),
    (407, "", K.BLOCKED_BY_EDGE),
    (408, HTML, K.TIMEOUT),
    (413, HTML, K.REQUEST_TOO_LARGE),
    (429, HTML, K.RATE_LIMITED),
    (500, HTML, K.SERVER_ERROR),
    (502, HTML, K.SERVER_ERROR),
    (503, HTML, K.OVERLOADED),
    (504, HTML, K.TIMEOUT),
    (520, HTML, K.SERVER_ERROR),
    (524, HTML, K.TIMEOUT),
]


@pytest.mark.parametrize(("status", "content_type", "kind"), PAGES)
def test_a_body_that_is_no_json_is_judged_by_status_and_type(
    status: int, content_type: str, kind: FailureKind
) -> None:
    failure = classify_page(status, {"retry-after": "7"}, content_type)
    assert failure.kind is kind
    assert failure.status == status
    waits = {K.TIMEOUT, K.RATE_LIMITED, K.SERVER_ERROR, K.OVERLOADED}
    assert failure.retry_after_s == (7.0 if kind in waits else None)


ENDS: list[tuple[FailureKind, Phase, bool, bool, FailureKind, bool]] = [
    (K.TIMEOUT, Phase.CONNECT, False, False, K.CONNECTION, False),
    (K.TIMEOUT, Phase.HEADERS, False, False, K.TIMEOUT, False),
    (K.TIMEOUT, Phase.BODY, False, False, K.TIMEOUT, False),
    (K.TIMEOUT, Phase.BODY, True, False, K.TIMEOUT, False),
    (K.TIMEOUT, Phase.BODY, True, True, K.STREAM_STALLED, False),
    (K.CONNECTION, Phase.CONNECT, False, False, K.CONNECTION, False),
    (K.CONNECTION, Phase.HEADERS, False, False, K.CONNECTION, True),
    (K.CONNECTION, Phase.BODY, False, False, K.MALFORMED_RESPONSE, True),
    (K.CONNECTION, Phase.BODY, True, False, K.STREAM_TRUNCATED, False),
    (K.CONNECTION, Phase.BODY, True, True, K.STREAM_TRUNCATED, False),
    (K.MALFORMED_RESPONSE, Phase.HEADERS, False, False, K.MALFORMED_RESPONSE, False),
    (K.MALFORMED_RESPONSE, Phase.BODY, True, True, K.MALFORMED_RESPONSE, False),
]


@pytest.mark.parametrize(("came", "phase", "streaming", "begun", "kind", "retryable"), ENDS)
def test_how_far_a_call_had_come_tells_what_broke_it(
    came: FailureKind, phase: Phase, streaming: bool, begun: bool, kind: FailureKind, retryable: bool
) -> None:
    failure = classify_transport(TransportError(came, phase, "words"), streaming=streaming, begun=begun)
    assert (failure.kind, failure.retryable) == (kind, retryable)
    assert failure.message


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(
                st.text(max_size=6),
                st.sampled_from(
                    ["error", "message", "code", "type", "status", "detail", "status_code", "error_type"]
                ),
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(JSON, st.one_of(st.none(), st.integers(200, 599)))
def test_any_json_is_an_error_of_some_kind_or_none(body: Any, status: int | None) -> None:
    fields = error_fields(json.loads(json.dumps(body)))
    if fields is not None:
        failure = classify_error(status, {}, fields)
        assert failure.kind in FailureKind
        assert len(failure.message) <= 300
        assert len(failure.code or "") <= 80
