"""Work for a caller who may leave, in a program that may end.

Theory of operation: the work runs where it is awaited, in the task of the request; beside it one small task waits for the
caller to leave. Who leaves, and a program that ends, cancels the request's task, and what was cancelled that way comes out
as an exception that says why: the manner of asyncio.timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Receive

from fallback.api.closing import Closing
from fallback.api.errors import Refusal

__all__ = ["CallerGoneError", "attended", "closing_refusal"]

T = TypeVar("T")


class CallerGoneError(Exception):
    """The caller closed the connection."""


def closing_refusal() -> Refusal:
    """Return what a caller is told whose answer the end of the program cut short."""
    message = "the program is being stopped: send the request again"
    return Refusal(503, "shutting_down", message, {"retry-after": "5", "connection": "close"})


async def attended(work: Awaitable[T], receive: Receive, closing: Closing) -> T:
    """Return what `work` comes to; the body of the request must have been read.

    Where the caller leaves first it raises CallerGoneError, where the program ends first Refusal; `work` has been
    cancelled then, and is over.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine that runs has one
    why: Exception | None = None

    def end(reason: Exception) -> None:
        nonlocal why
        if why is None:
            why = reason
            task.cancel()

    def left(watch: asyncio.Task[None]) -> None:
        # A connection that cannot be watched any more is one that the caller has left.
        if not watch.cancelled():
            watch.exception()
            end(CallerGoneError())

    def ends() -> None:
        end(closing_refusal())

    watch = asyncio.create_task(_gone(receive))
    watch.add_done_callback(left)
    closing.tell(ends)
    try:
        return await work
    except asyncio.CancelledError:
        if why is None or task.cancelling() > 1:
            raise  # somebody else cancelled it
        raise why from None
    finally:
        if why is not None:
            task.uncancel()
        closing.forget(ends)
        watch.remove_done_callback(left)
        watch.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
