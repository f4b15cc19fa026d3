"""The running program: its routers, from the start of the server to its end."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route

from fallback.api.access import Access
from fallback.api.closing import Closing
from fallback.api.connections import Connections
from fallback.api.doorway import Doorway
from fallback.api.limits import Admission
from fallback.api.metrics import CONTENT_TYPE, Metrics
from fallback.api.middleware import Envelope, Gate, Rules
from fallback.api.openapi import document_bytes
from fallback.api.openid import configure_streamlit
from fallback.api.plain import PlainPath
from fallback.api.routes import routes
from fallback.api.sse import KEEP_ALIVE_S
from fallback.config import Settings, load
from fallback.core.errors import ConfigError
from fallback.router import AsyncModelRouter, ModelRouter, get_router, set_router
from fallback.signin import Door

__all__ = ["CONFIG_VARIABLE", "Program"]

CONFIG_VARIABLE = "FALLBACK_CONFIG"
"""The environment variable that names another providers.yaml."""


class Program:
    """What `st.App`, or any Starlette application, needs to serve the API: routes, middleware, lifespan.

    While it runs, `fallback.router.get_router()` gives the dashboard the router that shares its providers' state with
    the API. One that was set before the start is used, and left open at the end.
    """

    def __init__(
        self, config: str | Path, *, keep_alive_s: float = KEEP_ALIVE_S, warm: Sequence[str] = ()
    ) -> None:
        """Name the providers.yaml to read at the start; the variable FALLBACK_CONFIG names another one.

        `keep_alive_s` is the silence in seconds after which a stream gets a comment. `warm` names modules that are
        loaded in the background once the program is up, so that nobody's first page waits for them.
        """
        self.keep_alive_s = keep_alive_s
        self._warm = tuple(warm)
        self._config: str | Path | Settings = config
        self._started: Callable[[ModelRouter], None] = lambda _: None
        self._ending: Callable[[], None] = lambda: None
        self._router: AsyncModelRouter | None = None
        self._closing: Closing | None = None
        self._startup_problem: str | None = None
        self._is_demo = False
        self._insecure = False
        self._has_dashboard = False
        self._metrics: Metrics | None = None
        self._rules: Rules | None = None

    def configure(
        self,
        settings: Settings,
        *,
        started: Callable[[ModelRouter], None],
        ending: Callable[[], None] = lambda: None,
        insecure: bool = False,
    ) -> None:
        """Take `settings` instead of reading a file, and call `started` once everything is up.

        `ending` is called before the routers are closed, on another thread than the event loop's. `insecure` lets
        others than this machine in although there are no keys.
        """
        self._config = settings
        self._started = started
        self._ending = ending
        self._insecure = insecure

    @property
    def send_limit_s(self) -> float:
        """How long a caller may take nothing of an answer; RuntimeError where `router` raises it."""
        return self.router.wiring.settings.api.send_timeout_s

    @property
    def router(self) -> AsyncModelRouter:
        """The router of the API. RuntimeError before the start and after the end."""
        if self._router is None:
            raise RuntimeError("the program is not running: its lifespan has to be entered first")
        return self._router

    @property
    def closing(self) -> Closing:
        """Tells when the program ends. RuntimeError before the start."""
        if self._closing is None:
            raise RuntimeError("the program is not running: its lifespan has to be entered first")
        return self._closing

    @property
    def metrics(self) -> Metrics:
        """The figures of this process. RuntimeError before the start and after the end."""
        if self._metrics is None:
            raise RuntimeError("the program is not running: its lifespan has to be entered first")
        return self._metrics

    def routes(self) -> list[BaseRoute]:
        """Return the routes of the API."""
        return [
            Route("/metrics", PlainPath(self._figures, CONTENT_TYPE)),
            Route("/api/openapi.json", PlainPath(document_bytes, "application/json")),
            *routes(self),
        ]

    def _figures(self) -> bytes:
        return self.metrics.text()

    def dashboard_middleware(self) -> list[Middleware]:
        """Return what stands around every answer of the API and the dashboard."""
        self._has_dashboard = True
        return [*self.middleware(), Middleware(Doorway, door=self._current_door, refused=self._count_refused)]

    def _count_refused(self, reason: str) -> None:
        if self._rules is not None:
            self._rules.refused[reason] += 1

    def _current_door(self) -> Door | None:
        return None if self._router is None else self._router.wiring.door

    def middleware(self) -> list[Middleware]:
        """Return what stands around every answer of the API alone."""
        return [
            Middleware(
                Envelope, startup_problem=lambda: self._startup_problem, is_demo=lambda: self._is_demo
            ),
            Middleware(Gate, rules=lambda: self._rules),
        ]

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: object) -> AsyncIterator[None]:
        """Build the routers, and close them at the end. Raises ConfigError, with every problem in it."""
        router, own = self._open()
        self._closing = Closing()
        self._router = AsyncModelRouter(router.wiring)
        wiring = router.wiring
        self._is_demo = wiring.settings.banner is not None
        self._rules = _rules(wiring.settings, insecure=self._insecure, dashboard=self._has_dashboard)
        if self._has_dashboard and wiring.settings.dashboard.oidc is not None:
            configure_streamlit(wiring.settings.dashboard.oidc)
        self._metrics = Metrics(wiring, lambda: self._rules)
        wiring.recorder.listen(self._metrics.count)
        try:
            self._started(router)
            threading.Thread(target=self._load, name="fallback-warm", daemon=True).start()
            # A server that waits no longer cancels this task instead of asking it to end: it is the end all the same.
            with self._closing.on_signals(), contextlib.suppress(asyncio.CancelledError):
                yield
        finally:
            await asyncio.to_thread(self._ending)
            closed, self._router = self._router, None
            await closed.aclose()
            wiring.recorder.forget(self._metrics.count)
            self._metrics = self._rules = None
            if own:
                set_router(None)
                await asyncio.to_thread(router.close)

    def _load(self) -> None:
        for name in self._warm:
            importlib.import_module(name)

    def _open(self) -> tuple[ModelRouter, bool]:
        """Return the router of this process, and whether it was made here."""
        with contextlib.suppress(RuntimeError):
            return get_router(), False
        self._startup_problem = None
        config = self._config
        try:
            settings = (
                config if isinstance(config, Settings) else load(os.environ.get(CONFIG_VARIABLE) or config)
            )
        except ConfigError as error:
            self._startup_problem = str(error)
            raise
        router = ModelRouter(settings)
        set_router(router)
        return router, True


def _rules(settings: Settings, *, insecure: bool, dashboard: bool) -> Rules:
    limits = settings.api
    return Rules(
        access=Access(
            keys=settings.api_keys,
            hosts=settings.allowed_hosts,
            signs_in=settings.dashboard.guarded if dashboard else None,
            insecure=insecure,
        ),
        limits=limits,
        admission=Admission(limits),
        connections=Connections(limits),
    )
