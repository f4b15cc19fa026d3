"""The end of the program, while answers are still under way.

Theory of operation: a server that was told to stop waits for its open answers, and one that streams for a minute would
hold the exit for that long. So this listens to the same signals as the server, behind it: a moment later it tells whoever
serves an answer, who ends it with an error that says so. A connection that blocks even that (a caller who does
not read) is ended by a second interrupt, which servers take as "at once".
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["Closing"]

GRACE_S = 1.0
"""How long an answer that is nearly whole may still take."""

FORCE_S = 5.0
"""When the server is told not to wait any longer."""


class Closing:
    """Tells the answers under way that the program ends. Belongs to the event loop it is made on."""

    def __init__(self) -> None:
        self._closing = False
        self._told: set[Callable[[], object]] = set()
        self._timers: list[asyncio.TimerHandle] = []

    def tell(self, callback: Callable[[], object]) -> None:
        """Call `callback` on the event loop when answers have to end, where they have to already as soon as possible."""
        self._told.add(callback)
        if self._closing:
            asyncio.get_running_loop().call_soon(self._tell, callback)

    def forget(self, callback: Callable[[], object]) -> None:
        """Do not call `callback` any more."""
        self._told.discard(callback)

    def begin(self) -> None:
        """End the answers under way. To be called on the event loop."""
        self._closing = True
        for callback in tuple(self._told):
            self._tell(callback)

    def _tell(self, callback: Callable[[], object]) -> None:
        if callback in self._told:
            callback()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Begin at SIGINT or SIGTERM, which go on to whom they went before. Off the main thread it does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        # A signal that nobody handles ends the process as it is: there is nothing to go on to.
        before = {
            number: action
            for number in (signal.SIGINT, signal.SIGTERM)
            if callable(action := signal.getsignal(number))
        }

        def pass_on(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._schedule)
            before[signal.Signals(number)](number, frame)

        for number in before:
            signal.signal(number, pass_on)
        try:
            yield
        finally:
            for number, action in before.items():
                if signal.getsignal(number) is pass_on:
                    signal.signal(number, action)
            for timer in self._timers:
                timer.cancel()

    def _schedule(self) -> None:
        if not self._timers:
            loop = asyncio.get_running_loop()
            self._timers = [
                loop.call_later(GRACE_S, self.begin),
                loop.call_later(FORCE_S, signal.raise_signal, signal.SIGINT),
            ]
