"""Server-sent events: bytes in, events out.

Theory of operation: a parser of the event-stream format (https://html.spec.whatwg.org/multipage/server-sent-events.html,
section 9.2.6). Feed it bytes as they arrive, cut anywhere; it returns the events that are complete. Lines end in LF, CR
or CRLF; a line that begins with a colon is a comment; `data` lines of one event are joined by LF; fields other than
`event` and `data` are not used by any provider and are dropped.

It differs from the standard in one point: what stands in the buffer when the stream ends is returned by `end()`, since
some providers leave out the last blank line.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["EventTooLargeError", "SSEParser", "ServerSentEvent"]


class EventTooLargeError(ValueError):
    """A line or an event is longer than the limit."""


class ServerSentEvent(NamedTuple):
    """One event. `data` is bytes as they came, not decoded: one bad byte spoils one event and not the stream."""

    event: str
    data: bytes


_BOM = b"\xef\xbb\xbf"


class SSEParser:
    """The parser of one stream. `comments` counts the comment lines seen (keep-alives)."""

    def __init__(self, *, max_event_bytes: int = 1024 * 1024) -> None:
        """Make a parser that refuses lines and events of more than `max_event_bytes` bytes."""
        self.comments = 0
        self._max = max_event_bytes
        self._buffer = bytearray()
        self._scanned = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._event = b""
        self._started = False
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Take the next bytes and return the events that they complete. Raises EventTooLargeError."""
        if self._after_cr and chunk:
            # A CR ended the last line; an LF that follows it belongs to the same line end.
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
            self._after_cr = False
        events: list[ServerSentEvent] = []
        if not self._started and not self._buffer and chunk and chunk[0] != _BOM[0]:
            self._started = True  # without one
        if self._started and not (self._buffer or self._data or self._event) and b"\r" not in chunk:
            *blocks, chunk = chunk.split(b"\n\n")
            for block in blocks:
                self._take_block(block, events)
        self._buffer += chunk
        for line in self._lines():
            event = self._line(line)
            if event is not None:
                events.append(event)
        if len(self._buffer) > self._max:
            raise EventTooLargeError(f"a line of more than {self._max} bytes")
        return events

    def _take_block(self, block: bytes, events: list[ServerSentEvent]) -> None:
        """Take lines that a blank one follows, the lines of one event: nearly always a single one with its data."""
        if block.startswith(b"data: ") and b"\n" not in block and len(block) <= self._max:
            events.append(ServerSentEvent("message", block[6:]))
            return
        for line in (*block.split(b"\n"), b""):
            event = self._line(line)
            if event is not None:
                events.append(event)

    def end(self) -> list[ServerSentEvent]:
        """Take the end of the stream and return the event that was left without its blank line, if any."""
        events: list[ServerSentEvent] = []
        if self._buffer:
            rest, self._buffer = bytes(self._buffer), bytearray()
            self._line(rest)
        event = self._dispatch()
        if event is not None:
            events.append(event)
        return events

    def _lines(self) -> list[bytes]:
        """Cut the complete lines off the buffer."""
        buffer = self._buffer
        if not self._started:
            if len(buffer) < len(_BOM) and _BOM.startswith(bytes(buffer)):
                return []
            self._started = True
            if buffer.startswith(_BOM):
                del buffer[: len(_BOM)]
        if buffer.find(b"\r", self._scanned) == -1:
            end = buffer.rfind(b"\n", self._scanned)
            if end == -1:
                self._scanned = len(buffer)
                return []
            lines = bytes(buffer[:end]).split(b"\n")
            del buffer[: end + 1]
            self._scanned = len(buffer)
            return lines
        return self._lines_with_cr()

    def _lines_with_cr(self) -> list[bytes]:
        text = bytes(self._buffer)
        if text.endswith(b"\r"):
            self._after_cr = True
        # splitlines() knows more line ends than the format does for str, but for bytes just these three.
        pieces = text.splitlines(keepends=True)
        rest = b""
        if pieces and not pieces[-1].endswith((b"\n", b"\r")):
            rest = pieces.pop()
        self._buffer = bytearray(rest)
        self._scanned = len(rest)
        return [piece.rstrip(b"\r\n") for piece in pieces]

    def _line(self, line: bytes) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        if len(line) > self._max:
            raise EventTooLargeError(f"a line of more than {self._max} bytes")
        if line.startswith(b":"):
            self.comments += 1
            return None
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
            if self._data_bytes > self._max:
                raise EventTooLargeError(f"an event of more than {self._max} bytes")
        elif field == b"event":
            self._event = value
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        data, event = self._data, self._event
        self._data, self._event, self._data_bytes = [], b"", 0
        if not data:
            return None
        name = event.decode("utf-8", "replace") if event else "message"
        return ServerSentEvent(name, data[0] if len(data) == 1 else b"\n".join(data))
