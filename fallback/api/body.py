"""The body of a request, as far as the bytes go: its type, its length, and how long it may take to come."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Scope

from fallback.api.attend import CallerGoneError
from fallback.api.errors import Refusal
from fallback.api.parse import parse_object

__all__ = ["headers_of", "read_object", "receive_object", "traceparent_of"]

Headers = Mapping[bytes, bytes]

# The rest of a body that is not read must not be taken for the next request.
_CLOSE = {"connection": "close"}
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""https://www.w3.org/TR/trace-context/#traceparent-header; later versions may have more behind it, which is left out."""


async def read_object(request: Request, *, may_be_empty: bool = False) -> dict[str, Any]:
    """Return the JSON object in the body of `request`; see `receive_object`."""
    return await receive_object(headers_of(request.scope), request.receive, may_be_empty=may_be_empty)


def headers_of(scope: Scope) -> Headers:
    """Return the headers by their names in small letters."""
    return dict(scope["headers"])


def traceparent_of(headers: Headers) -> str | None:
    """Return the caller's place in a trace; None where the header is missing or wrong."""
    found = headers.get(b"traceparent")
    if found is None:
        return None
    match = _TRACEPARENT.match(found)
    if match is None or (len(found) > match.end() and (found[:2] == b"00" or found[match.end()] != ord("-"))):
        return None
    return match[0].decode()


async def receive_object(
    headers: Headers, receive: Receive, *, may_be_empty: bool = False, example: str = '{"prompt": "..."}'
) -> dict[str, Any]:
    """Return the JSON object that is received, {} for a body without one where it `may_be_empty`.

    `example` is shown to a caller who sends none. Raises Refusal, and CallerGoneError where the caller left.
    """
    if headers.get(b"content-type") != b"application/json" or b"content-encoding" in headers:
        _check_type(headers)
    raw = await _read(receive)
    if raw and not raw.isspace():
        return parse_object(raw)
    if may_be_empty:
        return {}
    raise Refusal(400, "invalid_json", f"the body is empty: send a JSON object such as {example}")


def _check_type(headers: Headers) -> None:
    # Only a type that a page of another origin cannot send without asking first: the API has no other guard there.
    media_type, _, parameters = headers.get(b"content-type", b"").decode("latin-1").partition(";")
    if media_type.strip().lower() != "application/json":
        raise Refusal(415, "unsupported_media_type", "send the header content-type: application/json", _CLOSE)
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in {"utf-8", "utf8"}:
            raise Refusal(
                415, "unsupported_media_type", "JSON is sent in UTF-8: charset=utf-8, or none", _CLOSE
            )
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise Refusal(415, "unsupported_media_type", "send the body without content-encoding", _CLOSE)


async def _read(receive: Receive) -> bytes:
    # How long it may be and take is the gate's matter, which `receive` comes from: see limits.
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        whole: bytes = message.get("body", b"")
        return whole  # as nearly every one is
    pieces: list[bytes] = []
    while True:
        if message["type"] == "http.disconnect":
            raise CallerGoneError
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)
        message = await receive()
