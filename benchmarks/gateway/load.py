"""The callers: `python -m benchmarks.gateway.load KIND ARGUMENTS`, with a JSON object in, and one out on stdout.

`closed`: so many connections, each asking again as soon as it is answered. `open`: so many requests a second, sent when they are due
whether or not others are still open; a latency counts from when the request was due. `streams`: so many streams at once.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import httptools
import uvloop

__all__: list[str] = []

MOST_S = 60.0
QUESTION = {"model": "small", "messages": [{"role": "user", "content": "What is the capital of Japan?"}]}


class Caller(asyncio.Protocol):
    """One connection, one request at a time. Raises AssertionError out of `data_received` for a bad answer."""

    def __init__(self, done: Callable[[Caller], None]) -> None:
        self._done = done
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self._body: list[bytes] = []
        self._left = False
        self.began = 0.0
        self.first: float | None = None
        self.lost: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note of the end."""
        if not self._left:
            self.lost = exc or ConnectionError("closed")
            self._done(self)

    def ask(self, request: bytes, began: float) -> None:
        """Send `request`, which was due at the instant `began`."""
        self.began, self.first, self._body = began, None, []
        self._transport.write(request)

    def ask_now(self, request: bytes) -> None:
        """Send `request`, which is due now."""
        self.ask(request, time.perf_counter())

    def data_received(self, data: bytes) -> None:
        """Take what comes."""
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body; the first one that holds content is the first token."""
        self._body.append(data)
        if self.first is None and b'"content":"' in data.replace(b'": "', b'":"').replace(
            b'"content":""', b""
        ):
            self.first = time.perf_counter()

    def on_message_complete(self) -> None:
        """Check the answer and go on."""
        body = b"".join(self._body)
        if self._parser.get_status_code() != 200 or b'"error":' in body:
            self.lost = AssertionError(body[:300])
        self._done(self)

    def close(self) -> None:
        """Leave."""
        self._left = True
        self._transport.close()


def request_bytes(options: dict[str, Any], **more: Any) -> bytes:
    body = json.dumps({**QUESTION, **options.get("body", {}), **more}, separators=(",", ":"))
    lines = "".join(f"{name}: {value}\r\n" for name, value in options.get("headers", {}).items())
    return (
        f"POST {options['path']} HTTP/1.1\r\nhost: 127.0.0.1:{options['port']}\r\n"
        f"content-type: application/json\r\n{lines}content-length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def closed(options: dict[str, Any]) -> dict[str, Any]:
    """Return how many requests a second were answered. With `bodies` each request has the next of them."""
    loop = asyncio.get_running_loop()
    bodies = [request_bytes(options, **body) for body in options.get("bodies", [{}])]
    until = time.perf_counter() + min(options["seconds"], MOST_S)
    most = options.get("requests")
    count, left = 0, options["connections"]
    over: asyncio.Future[None] = loop.create_future()

    def on(caller: Caller) -> None:
        nonlocal count, left
        if caller.lost is not None:
            if not over.done():
                over.set_exception(caller.lost)
            return
        count += 1
        if time.perf_counter() < until and (most is None or count < most):
            caller.ask(bodies[count % len(bodies)], 0.0)
            return
        left -= 1
        caller.close()
        if not left and not over.done():
            over.set_result(None)

    callers = [
        (await loop.create_connection(lambda: Caller(on), "127.0.0.1", options["port"]))[1]
        for _ in range(options["connections"])
    ]
    began = time.perf_counter()
    for caller in callers:
        caller.ask(bodies[0], 0.0)
    await over
    return {"per_s": count / (time.perf_counter() - began), "count": count}


async def open_(options: dict[str, Any]) -> dict[str, Any]:
    """Return the latencies in seconds, in the order of their ends."""
    loop = asyncio.get_running_loop()
    request = request_bytes(options)
    idle: list[Caller] = []
    taken: list[float] = []
    total = int(options["per_s"] * min(options["seconds"], MOST_S))
    over: asyncio.Future[None] = loop.create_future()

    def on(caller: Caller) -> None:
        if caller.lost is not None:
            if not over.done():
                over.set_exception(caller.lost)
            return
        taken.append(time.perf_counter() - caller.began)
        idle.append(caller)
        if len(taken) == total and not over.done():
            over.set_result(None)

    async def connected() -> Caller:
        return (await loop.create_connection(lambda: Caller(on), "127.0.0.1", options["port"]))[1]

    idle += [await connected() for _ in range(64)]
    start = time.perf_counter() + 0.1
    for number in range(total):
        due = start + number / options["per_s"]
        if (wait_s := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait_s)
        if not idle:
            idle.append(await connected())
        # How late this process itself woke up is nobody's latency.
        idle.pop().ask(request, max(due, time.perf_counter()))
    await asyncio.wait_for(over, 30)
    return {"taken_s": taken}


async def streams(options: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds to the first token of each of so many streams, all at once; `dropped` counts the others."""
    loop = asyncio.get_running_loop()
    request = request_bytes(options, stream=True)
    ended: list[Caller] = []
    over: asyncio.Future[None] = loop.create_future()

    def on(caller: Caller) -> None:
        ended.append(caller)
        caller.close()
        if len(ended) == options["streams"]:
            over.set_result(None)

    callers = [
        (await loop.create_connection(lambda: Caller(on), "127.0.0.1", options["port"]))[1]
        for _ in range(options["streams"])
    ]
    for number, caller in enumerate(callers):
        # Spread over a second, as callers are.
        loop.call_later(number / options["streams"], caller.ask_now, request)
    await asyncio.wait_for(over, 60)
    whole = [caller for caller in ended if caller.lost is None and caller.first is not None]
    return {
        "first_s": [caller.first - caller.began for caller in whole if caller.first is not None],
        "dropped": len(ended) - len(whole),
    }


if __name__ == "__main__":
    kinds = {"closed": closed, "open": open_, "streams": streams}
    print(json.dumps(uvloop.run(kinds[sys.argv[1]](json.loads(sys.argv[2])))))
