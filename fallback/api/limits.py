"""How much one caller, and all together, may ask for at once. The limits of a connection stand in `connection`.

Theory of operation: a request under /api or /v1 is counted in before anything of it is read, and out when its answer has
ended; one too many is told so at once, which costs next to nothing. What a caller may ask in a minute is judged by two
counts, those of this minute and of the last, the latter weighed by how much of it still lies within the last sixty seconds.
A body is read through `LimitedBody`, which knows how long it may be and how long it may take.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict

from starlette.types import Message, Receive

from fallback.api.attend import Line
from fallback.api.errors import Refusal
from fallback.config import ApiSettings

__all__ = ["Admission", "LimitedBody", "Rates", "check_length"]

WINDOW_S = 60.0
MAX_CALLERS = 10_000
"""So many are remembered; beyond, the ones not heard of for longest are forgotten."""
GRACE_S = 5.0
"""How long a body may take before its rate is looked at."""

# The rest of a body that is not read must not be taken for the next request.
_CLOSE = {"connection": "close"}


class Admission:
    """Counts the requests under way. Belongs to one event loop."""

    def __init__(self, limits: ApiSettings) -> None:
        self.in_flight = 0
        self._most = limits.max_requests
        self._rates = Rates(limits.requests_per_minute) if limits.requests_per_minute else None

    def enter(self, caller: str, now: float) -> None:
        """Count a request of `caller` in, at the instant `now`. Raises Refusal where it has to wait; `leave` else."""
        if self._rates is not None:
            wait_s = self._rates.take(caller, now)
            if wait_s > 0:
                message = f"too many requests within a minute: try again in {math.ceil(wait_s)} s"
                raise Refusal(429, "too_many_requests", message, {"retry-after": str(math.ceil(wait_s))})
        if self.in_flight >= self._most:
            message = "too many requests are under way: try again in a second"
            raise Refusal(503, "overloaded", message, {"retry-after": "1"})
        self.in_flight += 1

    def leave(self) -> None:
        """Count a request out."""
        self.in_flight -= 1


class Rates:
    """Who asked how often of late."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._counts: OrderedDict[str, tuple[int, int, int]] = OrderedDict()
        """By caller: the number of the minute, the requests in it and those in the one before."""

    def take(self, caller: str, now: float) -> float:
        """Count one request of `caller` at the instant `now` and return 0, or return how many seconds it has to wait."""
        minute, passed = divmod(now, WINDOW_S)
        number, count, before = self._counts.get(caller, (int(minute), 0, 0))
        if number < int(minute):
            before = count if number == int(minute) - 1 else 0
            count = 0
        weighed = before * (1 - passed / WINDOW_S) + count
        wait_s = 0.0 if weighed + 1 <= self._per_minute else self._wait_s(count, before, passed)
        if wait_s == 0:
            count += 1
        self._counts[caller] = (int(minute), count, before)
        self._counts.move_to_end(caller)
        if len(self._counts) > MAX_CALLERS:
            self._counts.popitem(last=False)
        return wait_s

    def _wait_s(self, count: int, before: int, passed: float) -> float:
        room = self._per_minute - 1 - count
        if room >= 0 and before:
            # Within this minute, once enough of the last one lies too far back.
            return max(0.001, WINDOW_S * (1 - room / before) - passed)
        # In the next one, of which this minute's requests are then the one before.
        left = WINDOW_S * (1 - (self._per_minute - 1) / count) if count else 0.0
        return max(0.001, WINDOW_S - passed + max(0.0, left))


def check_length(announced: bytes | None, limits: ApiSettings) -> None:
    """Raise Refusal where the header Content-Length announces too long a body."""
    # The length is looked at first, since int() of a very long number would raise.
    if announced and announced.isdigit() and (len(announced) > 15 or int(announced) > limits.max_body_bytes):
        raise _too_large(limits)


class LimitedBody:
    """The `receive` of a request whose body is limited. Raises Refusal where it is too long or too slow."""

    __slots__ = ("_began", "_bytes", "_limits", "_line", "_receive", "_whole")

    def __init__(self, receive: Receive, limits: ApiSettings, line: Line | None = None) -> None:
        """Limit `receive`; `line` is the connection, where that can say that there is nothing to wait for."""
        self._receive = receive
        self._line = line
        self._limits = limits
        self._began: float | None = None
        self._bytes = 0
        self._whole = False

    async def __call__(self) -> Message:
        """Return the next message."""
        if self._whole:
            return await self._receive()
        limits = self._limits
        if self._line is not None and self._line.is_received:
            message = await self._receive()
        else:
            message = await self._in_time(limits)
        self._bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._bytes > limits.max_body_bytes:
            raise _too_large(limits)
        return message

    async def _in_time(self, limits: ApiSettings) -> Message:
        if self._began is None:
            self._began = asyncio.get_running_loop().time()
        allowed_s = limits.body_timeout_s
        if limits.min_body_bytes_per_s:
            allowed_s = min(allowed_s, GRACE_S + self._bytes / limits.min_body_bytes_per_s)
        try:
            async with asyncio.timeout_at(self._began + allowed_s):
                return await self._receive()
        except TimeoutError:
            message_text = f"the body came in too slowly: it may take {limits.body_timeout_s:g} s"
            if limits.min_body_bytes_per_s:
                message_text += f" and has to bring {limits.min_body_bytes_per_s} bytes a second"
            raise Refusal(408, "body_timeout", message_text, _CLOSE) from None


def _too_large(limits: ApiSettings) -> Refusal:
    size = limits.max_body_bytes
    shown = f"{size // 1024**2} MiB" if size % 1024**2 == 0 else f"{size} bytes"
    message = f"the body is larger than {shown}: shorten the prompt or the messages"
    return Refusal(413, "body_too_large", message, _CLOSE)
