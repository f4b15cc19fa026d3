"""Work for a caller who may leave, in a program that may end.

Theory of operation: the work runs where it is awaited, in the task of the request. That the caller leaves is told by the
connection, where the server is ours (`LINE_KEY`), else by one small task beside it, which waits for the message of ASGI. Who
leaves, and a program that ends, cancels the request's task, and what was cancelled that way comes out as an exception that
says why: the manner of asyncio.timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from starlette.types import Receive, Scope

from fallback.api.closing import Closing
from fallback.api.errors import Refusal

__all__ = ["LINE_KEY", "MARKS_KEY", "CallerGoneError", "Line", "attended", "closing_refusal"]

LINE_KEY = "fallback.line"
"""Where in the state of a request its connection stands, if that can tell of its end."""

MARKS_KEY = "fallback.marks"
"""Where in the state of a request the headers stand that each of its answers bears, as bytes with their line ends."""

T = TypeVar("T")


class Line(Protocol):
    """The connection that a request came in on."""

    @property
    def is_received(self) -> bool:
        """Whether what was sent on it is here, the bodies of all its requests included."""

    def watch(self, lost: Callable[[], None]) -> None:
        """Call `lost` when the connection ends, as soon as possible where it has ended already."""

    def unwatch(self, lost: Callable[[], None]) -> None:
        """Do not call `lost` any more."""

    def answer(self, scope: Scope, status: int, headers: bytes, body: bytes) -> bool:
        """Send the whole response to the request of `scope` at once; False, and nothing sent, where ASGI has to do it.

        `headers` are lines with their ends, the length of `body` among them, and are taken as they are.
        """


class CallerGoneError(Exception):
    """The caller closed the connection."""


def closing_refusal() -> Refusal:
    """Return what a caller is told whose answer the end of the program cut short."""
    message = "the program is being stopped: send the request again"
    return Refusal(503, "shutting_down", message, {"retry-after": "5", "connection": "close"})


async def attended(work: Awaitable[T], scope: Scope, receive: Receive, closing: Closing) -> T:
    """Return what `work` comes to, for the request of `scope`, whose body must have been read.

    Where the caller leaves first it raises CallerGoneError, where the program ends first Refusal; `work` has been
    cancelled then, and is over.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine that runs has one
    why: Exception | None = None
    over = False

    def end(reason: Exception) -> None:
        nonlocal why
        if why is None and not over:
            why = reason
            task.cancel()

    def left() -> None:
        end(CallerGoneError())

    def ends() -> None:
        end(closing_refusal())

    line: Line | _Messages = scope["state"].get(LINE_KEY) or _Messages(receive)
    line.watch(left)
    closing.tell(ends)
    try:
        return await work
    except asyncio.CancelledError:
        if why is None or task.cancelling() > 1:
            raise  # somebody else cancelled it
        raise why from None
    finally:
        over = True  # a line that was lost before may only tell so now
        if why is not None:
            task.uncancel()
        closing.forget(ends)
        line.unwatch(left)


class _Messages:
    """The line of a request as any ASGI server tells of it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._watch: asyncio.Task[None] | None = None
        self._lost: Callable[[], None] | None = None

    def watch(self, lost: Callable[[], None]) -> None:
        """Wait for the end beside the work."""
        self._lost = lost
        self._watch = asyncio.create_task(self._gone())
        self._watch.add_done_callback(self._over)

    def unwatch(self, lost: Callable[[], None]) -> None:
        """Wait no longer."""
        if self._watch is not None and self._lost is lost:
            self._watch.remove_done_callback(self._over)
            self._watch.cancel()

    def _over(self, watch: asyncio.Task[None]) -> None:
        # A connection that cannot be watched any more is one that the caller has left.
        if not watch.cancelled() and self._lost is not None:
            watch.exception()
            self._lost()

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
