"""One response: bytes in, pieces of the answer out, and at the end a whole answer or a failure.

Theory of operation: a decoder belongs to one attempt. The driver gives it the head of the response, then the bytes as
they arrive, then the end (or the way the transport failed). By the status and the content type it works in one of
three modes: a stream of events, one JSON body, or anything else, which is a failure. What was asked for does not
matter: some providers answer a streamed call with one body, and the reverse.

`done` is True as soon as the answer is whole, so that nobody waits for a connection that a provider leaves open.
`settled` is True when every choice has its finish_reason: from then on silence or a broken line does no harm.

What may not live here: what a failure leads to (core/policy), connections, clocks.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum, auto
from typing import Any

import orjson

from fallback.core.errors import FailureKind, TransportError
from fallback.core.models import Choice, Failure, Headroom, Usage
from fallback.core.values import valueclass
from fallback.providers.assemble import Assembly, Piece
from fallback.providers.classify import (
    ErrorFields,
    classify_error,
    classify_page,
    classify_transport,
    error_fields,
)
from fallback.providers.redact import without_key
from fallback.providers.sse import EventTooLargeError, ServerSentEvent, SSEParser
from fallback.providers.waits import headroom

__all__ = ["Decoded", "Decoder", "Piece", "no_response"]

ERROR_BODY_BYTES = 64 * 1024
"""Of an error body no more is read than this."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A whole answer, as one provider gave it."""

    choices: tuple[Choice, ...]
    usage: Usage
    response_model: str | None
    skipped_events: int
    headroom: Headroom | None
    provider_request_id: str | None


class _Mode(Enum):
    EVENTS = auto()
    JSON = auto()
    PAGE = auto()


class Decoder:
    """The decoder of OpenAI's chat completions and of the dialects close to it."""

    def __init__(self, *, key: str, wall: float, max_bytes: int, choices: int = 1) -> None:
        """`key` is the key in use, for redaction; `wall` the Unix time now; `max_bytes` the limit of the body.

        `choices` is how many answers were asked for: the stream is not settled before all of them are.
        """
        self._choices = choices
        self.done = False
        self.may_be_blank = False
        """Whether an answer without text is one, as for a probe, which asks for a single token."""
        self._key = key
        self._wall = wall
        self._max = max_bytes
        self._limit = max_bytes
        self._status = 0
        self._headers: Mapping[str, str] = {}
        self._type = ""
        self._mode = _Mode.PAGE
        self._inflate: zlib._Decompress | None = None
        self._received = 0
        self._body = bytearray()
        self._sse = SSEParser(max_event_bytes=min(max_bytes, 1024 * 1024))
        self._assembly = Assembly()
        self._skipped = 0
        self._failure: Failure | None = None
        self._alive = False

    @property
    def usage(self) -> Usage | None:
        """What the provider has told of the usage so far; None: nothing."""
        return self._assembly.usage

    @property
    def settled(self) -> bool:
        """Whether all that is missing is the end."""
        return self._assembly.settled and self._assembly.begun >= self._choices

    @property
    def streaming(self) -> bool:
        """Whether a stream of events is coming."""
        return self._mode is _Mode.EVENTS

    @property
    def failed(self) -> bool:
        """Whether reading on is of no use."""
        return self._failure is not None

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Take the status and the headers (lower-case names) of the response."""
        self._status = status
        self._headers = headers
        self._limit = self._max if status < 300 else min(self._max, ERROR_BODY_BYTES)
        self._type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if self._type == "text/event-stream" and status < 300:
            self._mode = _Mode.EVENTS
        elif self._type == "application/json" or self._type.endswith("+json"):
            self._mode = _Mode.JSON
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding in {"gzip", "x-gzip", "deflate"}:
            self._inflate = zlib.decompressobj(wbits=47 if "gzip" in encoding else 15)
        elif encoding not in {"", "identity"}:
            self._unreadable("a body in an encoding that was not asked for")

    def feed(self, data: bytes) -> list[Piece]:
        """Take the next bytes of the body and return the pieces that they complete."""
        if self._failure is not None or self.done:
            return []
        try:
            data = self._plain(data)
        except zlib.error:
            self._unreadable("a compressed body that cannot be unpacked")
            return []
        self._received += len(data)
        if self._received > self._limit:
            self._unreadable("a body larger than the limit")
            return []
        if self._mode is not _Mode.EVENTS:
            self._body += data
            return []
        try:
            events = self._sse.feed(data)
        except EventTooLargeError:
            self._fail(FailureKind.MALFORMED_RESPONSE, "an event larger than the limit")
            return []
        return self._events(events)

    def end(self) -> list[Piece]:
        """Take the regular end of the body and return the last pieces."""
        if self._failure is not None or self.done:
            return []
        if self._mode is _Mode.EVENTS:
            return self._events(self._sse.end())
        if self._mode is _Mode.PAGE:
            # Some servers send JSON without saying so; error bodies most of all.
            body = self._parsed() if self._status >= 400 else None
            if error_fields(body) is None:
                self._failure = classify_page(self._status, self._headers, self._type, wall=self._wall)
                return []
        return self._whole()

    def result(self, broken: TransportError | None = None) -> Decoded | Failure:
        """Return what the attempt came to. `broken` says how the transport failed, None that it did not."""
        if self._failure is not None:
            return self._failure
        if broken is not None and not self.done and not (self.streaming and self.settled):
            return self._broken(broken)
        if not self._assembly.settled:
            return Failure(
                kind=FailureKind.STREAM_TRUNCATED, message="the stream ended in the middle of the answer"
            )
        if self._assembly.filtered:
            return Failure(
                kind=FailureKind.CONTENT_POLICY,
                status=self._status,
                code="content_filter",
                message="the provider withheld the answer because of its content",
                provider_request_id=self._request_id(),
            )
        if self._assembly.blank and not self.may_be_blank:
            return Failure(
                kind=FailureKind.EMPTY_RESPONSE, status=self._status, message="an answer without text"
            )
        return Decoded(
            choices=tuple(map(self._shown, self._assembly.choices())),
            usage=self._assembly.usage or Usage(),
            response_model=without_key(self._assembly.model or "", self._key, limit=200) or None,
            skipped_events=self._skipped,
            headroom=headroom(self._headers),
            provider_request_id=self._request_id(),
        )

    def _shown(self, choice: Choice) -> Choice:
        reason = without_key(choice.finish_reason, self._key, limit=40)
        return choice if reason == choice.finish_reason else replace(choice, finish_reason=reason)

    def _request_id(self) -> str | None:
        return without_key(self._headers.get("x-request-id", ""), self._key, limit=100) or None

    def _broken(self, broken: TransportError) -> Failure:
        if self._status >= 400:
            return self._by_status()
        return classify_transport(broken, streaming=self.streaming, begun=self._alive)

    def _plain(self, data: bytes) -> bytes:
        if self._inflate is None:
            return data
        # One byte over the limit is enough to know that it is passed: a bomb is never unpacked.
        return self._inflate.decompress(data, self._limit - self._received + 1)

    def _unreadable(self, what: str) -> None:
        """Take note that the body cannot be read or is not to be. The status of an error says enough without it."""
        if self._status >= 300:
            self._failure = self._by_status()
        else:
            self._fail(FailureKind.MALFORMED_RESPONSE, what)

    def _by_status(self) -> Failure:
        if self._mode is _Mode.PAGE or self._status < 400:
            return classify_page(self._status, self._headers, self._type, wall=self._wall)
        return classify_error(self._status, self._headers, ErrorFields(), key=self._key, wall=self._wall)

    def _fail(self, kind: FailureKind, message: str) -> None:
        self._failure = Failure(kind=kind, status=self._status, message=message)

    def _parsed(self) -> Any:
        try:
            return orjson.loads(self._body)
        except ValueError:
            return None

    def _whole(self) -> list[Piece]:
        """Take the one body of a response that is not streamed."""
        body = self._parsed()
        fields = error_fields(body)
        if fields is not None or self._status >= 300:
            if 300 <= self._status < 400:
                self._failure = classify_page(self._status, self._headers, self._type, wall=self._wall)
            else:
                self._error(fields or ErrorFields())
            return []
        if not isinstance(body, dict):
            self._failure = Failure(
                kind=FailureKind.MALFORMED_RESPONSE,
                status=self._status,
                message="a body that is not a JSON object, or only a part of one",
                retryable=True,
            )
            return []
        try:
            piece = self._assembly.take_whole(self.normalise(body))
        except ValueError:
            self._fail(FailureKind.MALFORMED_RESPONSE, "a JSON body that is not in the shape of an answer")
            return []
        if piece is None:
            self._fail(FailureKind.EMPTY_RESPONSE, "an answer without choices")
            return []
        self.done = True
        return [piece]

    def _events(self, events: list[ServerSentEvent]) -> list[Piece]:
        pieces: list[Piece] = []
        for event in events:
            if event.data.strip() == b"[DONE]":
                # After [DONE] nothing counts any more, whether or not the answer was whole.
                self.done = True
                break
            piece = self._event(event)
            if self._failure is not None:
                break
            if piece is not None:
                pieces.append(piece)
        return pieces

    def _event(self, event: ServerSentEvent) -> Piece | None:
        try:
            chunk = orjson.loads(event.data)
        except ValueError:
            if event.event == "error":
                self._error(ErrorFields(message=event.data.decode("utf-8", "replace")))
            else:
                self._skipped += 1
            return None
        fields = error_fields(chunk)
        if event.event == "error" or fields is not None:
            self._error(fields or ErrorFields())
            return None
        if not isinstance(chunk, dict):
            self._skipped += 1
            return None
        try:
            piece = self._assembly.take_chunk(self.normalise(chunk))
        except ValueError:
            self._skipped += 1
            return None
        self._alive = self._alive or (piece is not None and piece.alive)
        return piece

    def _error(self, fields: ErrorFields) -> None:
        failure = classify_error(self._status, self._headers, fields, key=self._key, wall=self._wall)
        self._failure = failure if failure.status else replace(failure, status=self._status)

    def normalise(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Bring a body or chunk of a dialect into OpenAI's shape. Dialects override it."""
        return body


def no_response(broken: TransportError) -> Failure:
    """Return the failure of a call that got no response at all."""
    return classify_transport(broken, streaming=False, begun=False)
