"""All open connections of a server, and the one timer that looks after them."""

from __future__ import annotations

import asyncio
from typing import Protocol

from fallback.config import ApiSettings

__all__ = ["STATE_KEY", "Connections"]

STATE_KEY = "fallback.connections"
"""Where in the state of the lifespan they stand."""

SWEEP_S = 1.0


class _Checked(Protocol):
    """One of them."""

    def check(self, now: float) -> None:
        """End it where it is over its time at the instant `now`."""


class Connections:
    """The open connections of one server. Belongs to the event loop it is used on."""

    def __init__(self, limits: ApiSettings) -> None:
        self.limits = limits
        self.cut_off = 0
        """How many were ended because they met a limit."""
        self._open: set[_Checked] = set()
        self._every_s = min(
            SWEEP_S,
            *(
                each / 4
                for each in (limits.header_timeout_s, limits.send_timeout_s, limits.keep_alive_timeout_s)
            ),
        )
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: _Checked) -> bool:
        """Take `connection` in; False where there is no room for it."""
        if len(self._open) >= self.limits.max_connections:
            self.cut_off += 1
            return False
        self._open.add(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._sweep)
        return True

    def discard(self, connection: _Checked) -> None:
        """Forget `connection`."""
        self._open.discard(connection)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in tuple(self._open):
            connection.check(now)
        self._timer = loop.call_later(self._every_s, self._sweep) if self._open else None
