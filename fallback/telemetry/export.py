"""The queue between the requests and the thread that exports, and that thread."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from fallback.config import TelemetrySettings
from fallback.providers.settings import ProviderSettings

if TYPE_CHECKING:
    from fallback.telemetry.outlet import Outlet

__all__ = ["Telemetry"]

logger = logging.getLogger(__name__)

Line = Mapping[str, object]
Taken = tuple[float, Line]
"""Unix seconds, and what happened then."""

END_WITHIN_S = 3.0
"""For what is left in the queue when the program ends."""
_CONTENT = ("prompt", "response")


class Telemetry:
    """Exports what the lines say. `take` is for any thread, and raises nothing.

    `providers` are those of the configuration, `instance` the name of this process. `wall` gives Unix seconds.
    """

    def __init__(
        self,
        settings: TelemetrySettings,
        providers: Sequence[ProviderSettings],
        *,
        instance: str | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.dropped = 0
        """Lines that found the queue full, and attempts whose request never ended."""
        self.exported = 0
        """Spans that the collector took."""
        self.lost = 0
        """Spans that it did not."""
        self._settings = settings
        self._providers = tuple(providers)
        self._instance = instance
        self._wall = wall
        self._queue: deque[Taken] = deque()
        self._hurry = settings.max_queue // 2
        self._wake = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None
        self._outlet: Outlet | None = None
        self._away = False

    def take(self, line: Line) -> None:
        """Put one line of the usage log into the queue, or count it where there is no room."""
        if line.get("kind") == "state":
            return
        waiting = len(self._queue)
        if waiting >= self._settings.max_queue:
            self.dropped += 1
            return
        if "prompt" in line or "response" in line:
            line = {name: value for name, value in line.items() if name not in _CONTENT}
        self._queue.append((self._wall(), line))
        if waiting >= self._hurry and not self._wake.is_set():
            self._wake.set()

    def start(self) -> None:
        """Load OpenTelemetry and begin to export; what its variables get wrong is logged, and nothing exported then."""
        try:
            # Here, because it takes a quarter of a second that nobody else is to pay.
            from fallback.telemetry.outlet import Outlet

            self._outlet = Outlet(self._settings, self._providers, instance=self._instance)
        except ValueError as error:
            # The SDK has more variables than the configuration looks at, and raises what it finds in them.
            logger.warning("no telemetry is exported, OpenTelemetry refuses a variable: %s", error)
            return
        self._thread = threading.Thread(target=self._run, args=(self._outlet,), name="fallback-telemetry")
        self._thread.daemon = True
        self._thread.start()
        atexit.register(self.close)

    def close(self, within_s: float = END_WITHIN_S) -> None:
        """Export what is left, for `within_s` seconds at most; what does not get out by then is lost."""
        thread, self._thread = self._thread, None
        if thread is None or self._outlet is None:
            return
        atexit.unregister(self.close)
        self._ended = True
        self._wake.set()
        thread.join(within_s)
        if thread.is_alive():
            logger.warning("telemetry that the collector did not take within %g s is lost", within_s)
            self._outlet.abort()

    def _run(self, outlet: Outlet) -> None:
        measured_at = time.monotonic()
        ended = False
        while not ended:
            self._wake.wait(self._settings.delay_s)
            self._wake.clear()
            ended = self._ended
            self._export(outlet)
            if ended or time.monotonic() - measured_at >= self._settings.metrics_every_s:
                measured_at = time.monotonic()
                self._tell(outlet.export_metrics())
        outlet.close()

    def _export(self, outlet: Outlet) -> None:
        taken = []
        for _ in range(self._settings.max_queue):
            if not self._queue:
                break
            taken.append(self._queue.popleft())
        before = outlet.unfinished_dropped
        for spans in outlet.spans_of(taken):
            if outlet.export_spans(spans):
                self.exported += len(spans)
                self._tell(True)
            else:
                self.lost += len(spans)
                self._tell(False)
        self.dropped += outlet.unfinished_dropped - before

    def _tell(self, arrived: bool) -> None:
        """Log once for each outage of the collector, and once when it is over."""
        if arrived and self._away:
            logger.warning("the telemetry collector takes spans again; lost so far: %d", self.lost)
        elif not arrived and not self._away:
            logger.warning("the telemetry collector cannot be reached or refuses; requests go on")
        self._away = not arrived
