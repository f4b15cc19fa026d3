"""The provider behind every gateway: static answers, at once or streamed over three seconds, or an error.

`python -m benchmarks.gateway.upstream PORT`. The path decides: /v1/... answers at once, streamed where that is asked for, /slow/...
streams `SLOW_S` long, /fail/... is a 500.
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop

__all__ = ["SLOW_FIRST_S", "SLOW_S", "TEXT"]

TEXT = "The capital of Japan is Tokyo. " * 8
SLOW_S = 3.0
SLOW_FIRST_S = 0.5
SLOW_CHUNKS = 60

_USAGE = {"prompt_tokens": 20, "completion_tokens": 56, "total_tokens": 76}
_FRAME = {"id": "chatcmpl-1", "created": 1, "model": "small"}


def _whole() -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    return json.dumps({**_FRAME, "object": "chat.completion", "choices": [choice], "usage": _USAGE}).encode()


def _event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    chunk = {
        **_FRAME,
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
        **({"usage": _USAGE} if finish_reason else {}),
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _response(status: bytes, kind: bytes, body: bytes) -> bytes:
    head = (
        b"HTTP/1.1 " + status + b"\r\ncontent-type: " + kind + b"\r\ncontent-length: %d\r\n\r\n" % len(body)
    )
    return head + body


_END = _event({}, "stop") + b"data: [DONE]\n\n"
PLAIN = _response(b"200 OK", b"application/json", _whole())
STREAMED = _response(
    b"200 OK",
    b"text/event-stream",
    b"".join(_event({"content": word + " "}) for word in TEXT.split(" ")) + _END,
)
MODELS = _response(
    b"200 OK", b"application/json", b'{"object":"list","data":[{"id":"small","object":"model","created":1}]}'
)
FAILED = _response(b"500 Oops", b"application/json", b'{"error":{"message":"broken","type":"server_error"}}')
_SLOW_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n"


_SLOW_PIECE = _chunk(_event({"content": "word "}))
_SLOW_END = _chunk(_END) + b"0\r\n\r\n"


class Upstream(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or b"0")
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            self._answer(head.split(b" ", 2)[1], body)

    def _answer(self, path: bytes, body: bytes) -> None:
        assert self._transport is not None
        if path.startswith(b"/v1/models"):
            self._transport.write(MODELS)
        elif path.startswith(b"/fail"):
            self._transport.write(FAILED)
        elif path.startswith(b"/slow"):
            self._transport.write(_SLOW_HEAD)
            self._loop.call_later(SLOW_FIRST_S, self._piece, SLOW_CHUNKS)
        else:
            streamed = b'"stream":true' in body.replace(b" ", b"")
            self._transport.write(STREAMED if streamed else PLAIN)

    def _piece(self, left: int) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            return
        if not left:
            self._transport.write(_SLOW_END)
            return
        self._transport.write(_SLOW_PIECE)
        self._loop.call_later((SLOW_S - SLOW_FIRST_S) / SLOW_CHUNKS, self._piece, left - 1)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
