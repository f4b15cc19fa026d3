"""A state store on a Valkey or Redis server, shared by all programs that reach it.

Theory of operation: see `sharing` for the thread, `server_exchange` for its rounds. A second thread listens to the
server's channel and lets a round come at once where somebody has written; what it says is never more than that, so that
a message lost costs `poll_s` seconds and no change. Where it gets through to the server again, so may the rounds.

What may not live here: commands of the server, and what the entries mean.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from fallback.providers.settings import Secret
from fallback.state.claims import Claims
from fallback.state.entry import Merge, keep_latest
from fallback.state.ledger import Ledger
from fallback.state.server import FAILURES, Server, connect
from fallback.state.server_exchange import MAX_RETRY_S, RETRY_S, ServerExchange
from fallback.state.sharing import CLOSE_S, SharedStateStore

__all__ = ["RedisStateStore"]

LISTEN_S = 0.1
"""How long the end of the store may go unnoticed by the thread that listens."""
_NONSENSE = (ValueError, LookupError, TypeError)
"""What the client library raises at an answer that no such server gives, as a port of another program does."""


class RedisStateStore(SharedStateStore):
    """A StateStore on the server at `url` (redis://, rediss:// or unix://), under keys that begin with `prefix`.

    `place` is what texts call the server: no user, no password. `instance` names this process in its entries. `merge` decides
    what becomes of a put, given what stands there. `poll_s` is how many seconds pass between two looks at what others
    have written and no message told of. `wall` gives Unix seconds.
    """

    def __init__(
        self,
        url: Secret,
        *,
        place: str,
        prefix: str = "fallback:",
        instance: str | None = None,
        merge: Merge = keep_latest,
        poll_s: float = 0.5,
        wall: Callable[[], float] = time.time,
    ) -> None:
        name = instance or f"{os.getpid()}-{secrets.token_hex(3)}"
        ledger, claims = Ledger(instance=name, merge=merge, wall=wall), Claims(clock=time.monotonic)
        self._url = url
        self._channel = f"{prefix}changes"
        self._listener: _Listener | None = None
        exchange = ServerExchange(
            lambda: Server(lambda: connect(url), prefix),
            ledger,
            claims,
            place=place,
            wall=wall,
            clock=time.monotonic,
        )
        super().__init__(exchange, ledger, claims, place=place, poll_s=poll_s, named=instance is not None)

    def close(self) -> None:
        """Write what is left, for 2 seconds at most, and stop watching."""
        listener = self._listener
        if listener is not None:
            listener.end()
        super().close()
        if listener is not None:
            listener.join(CLOSE_S)

    def _begin(self) -> None:
        super()._begin()
        self._listener = _Listener(self._url, self._channel, self._ring)
        self._listener.start()

    def _ring(self, *, back: bool) -> None:
        """Let a round come at once; `back`: even in an outage."""
        if back:
            self._urgent.set()
        self._wake.set()


class _Listener(threading.Thread):
    """Listens to `channel`, and rings for every message, and whenever it may have missed some."""

    def __init__(self, url: Secret, channel: str, ring: Callable[..., None]) -> None:
        super().__init__(name="state-listener", daemon=True)
        self._url = url
        self._channel = channel
        self._ring = ring
        self._ending = threading.Event()
        self._failures = 0

    def end(self) -> None:
        """Let it come to its end soon."""
        self._ending.set()

    def run(self) -> None:
        """Listen until the end."""
        while not self._ending.is_set():
            with contextlib.suppress(*FAILURES, *_NONSENSE), contextlib.closing(connect(self._url)) as client:
                self._listen(client)
            self._ending.wait(min(RETRY_S * 2.0 ** min(self._failures, 10), MAX_RETRY_S))
            self._failures += 1

    def _listen(self, client: Any) -> None:
        with client.pubsub() as channel:
            channel.subscribe(self._channel)
            while not self._ending.is_set():
                message = channel.get_message(timeout=LISTEN_S)
                if message is None:
                    continue
                subscribed = message["type"] == "subscribe"
                if subscribed:
                    self._failures = 0
                self._ring(back=subscribed)
