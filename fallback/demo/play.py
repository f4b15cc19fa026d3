"""The demo as a whole: everything of it is there on entering, and nothing is left after leaving."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from fallback.config import Settings
from fallback.demo.history import Span, write_history
from fallback.demo.outages import Weather, outages
from fallback.demo.stage import is_cloud, simulated
from fallback.demo.visitors import Visitors, questions
from fallback.demo.voice import Voice
from fallback.router import ModelRouter
from fallback.standin import Fault, StandInThread

__all__ = ["Demo"]

BEFORE = 1000
"""Requests of the day before the demo, which its log begins with: a page about what was has something to show at once."""


class Demo:
    """The simulated providers of the configuration `source`: `with Demo(source) as demo: ...`.

    Entering raises ConfigError, and OSError where no port or folder is to be had.
    """

    def __init__(self, source: Path, *, wall: Callable[[], float] = time.time) -> None:
        self._source = source
        self._before = Span(end=wall(), days=1.0, requests_per_day=BEFORE)
        self._stack = ExitStack()
        self._voice = Voice()
        self._weather: Weather | None = None
        self._visitors: Visitors | None = None
        self.settings: Settings
        """What to start the program with."""

    def __enter__(self) -> Self:
        with self._stack as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="fallback-demo-")))
            self._standin = stack.enter_context(StandInThread())
            self.settings = simulated(self._source, folder, self._standin)
            for name in self._clouds():
                self._standin.tenant(name).configure(reply=self._voice.reply)
            write_history(self.settings.log.folder, self.settings, self._before)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        self._stack.close()

    def begin(self, router: ModelRouter) -> None:
        """Let questions and outages begin, once the program with `settings` is up."""
        self._voice.borrow_model(router.wiring)
        clouds = self._clouds()
        self._weather = Weather(outages(clouds), strike=self._strike, tell=_tell)
        self._visitors = Visitors(questions(clouds), prepare=self._voice.think)
        self._weather.start()
        self._visitors.start(router)

    def end(self) -> None:
        """Let nothing more happen; to be called before the router is closed."""
        if self._weather is not None:
            self._weather.stop()
        if self._visitors is not None:
            self._visitors.stop()
        self._voice.close()

    def _clouds(self) -> list[str]:
        return [provider.name for provider in self.settings.providers if is_cloud(provider)]

    def _strike(self, provider: str, fault: Fault | None) -> None:
        self._standin.tenant(provider).always(fault)


def _tell(text: str) -> None:
    sys.stdout.write(f"demo: {text}\n")
    sys.stdout.flush()
