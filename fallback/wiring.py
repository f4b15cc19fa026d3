"""The one place where settings become objects."""

from __future__ import annotations

import importlib.util
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fallback.config import LogSettings, Settings
from fallback.core.roster import Roster, SlotSpec, StateChange
from fallback.drills import AsyncDrillTransport, DrillBoard, DrillTransport
from fallback.local import LocalModel
from fallback.local.transport import AsyncLocalTransport, LocalTransport
from fallback.loop import RoutingContext, change_lines
from fallback.providers.base import BaseProvider
from fallback.providers.embedded import EmbeddedProvider
from fallback.providers.groq import GroqProvider
from fallback.providers.openai_compatible import OpenAICompatibleProvider
from fallback.providers.settings import ProviderSettings, ProviderType
from fallback.providers.together import TogetherProvider
from fallback.recent import RecentActivity
from fallback.signin import Door
from fallback.state import SQLiteStateStore, StateStore
from fallback.switchboard import Switchboard, settled
from fallback.transport import AsyncTransport, Transport
from fallback.usage_log import UsageLog

if TYPE_CHECKING:
    from fallback.analytics import Analytics
    from fallback.telemetry import Telemetry

__all__ = ["Recorder", "Wiring", "assemble"]

Record = Callable[[Mapping[str, object]], object]

_DIALECTS: Mapping[ProviderType, type[OpenAICompatibleProvider]] = {
    "groq": GroqProvider,
    "together": TogetherProvider,
    "openai": OpenAICompatibleProvider,
    "local": EmbeddedProvider,
}


class WholeLog:
    """The analytics of the log, made when they are asked for first. Safe for threads."""

    def __init__(self, settings: LogSettings, *, wall: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._wall = wall
        self._lock = threading.Lock()
        self._analytics: Analytics | None = None

    def open(self) -> Analytics:
        """Return them."""
        # Here, because most programs ask providers and never look back; pandas and DuckDB take half a second.
        from fallback.analytics import Analytics

        with self._lock:
            if self._analytics is None:
                settings = self._settings
                self._analytics = Analytics(settings.folder, sources=settings.sources, wall=self._wall)
            return self._analytics

    def close(self) -> None:
        """Close them, if they were made; whoever asks again gets new ones."""
        with self._lock:
            analytics, self._analytics = self._analytics, None
        if analytics is not None:
            analytics.close()


class Exporting:
    """The export of what happened, where the settings want one. For the thread that starts and closes the program."""

    def __init__(self, settings: Settings, recorder: Recorder, *, wall: Callable[[], float]) -> None:
        self.telemetry: Telemetry | None = None
        """None: nothing is exported."""
        self._settings = settings
        self._recorder = recorder
        self._wall = wall

    def start(self) -> None:
        """Begin, if it is wanted."""
        wanted = self._settings.telemetry
        if wanted is None or self.telemetry is not None:
            return
        # Here, because nearly nobody exports.
        from fallback.telemetry import Telemetry

        self.telemetry = Telemetry(
            wanted, self._settings.providers, instance=self._settings.log.instance, wall=self._wall
        )
        self.telemetry.start()
        self._recorder.listen(self.telemetry.take)

    def close(self) -> None:
        """Export what is left, for a few seconds at most."""
        if self.telemetry is not None:
            self._recorder.forget(self.telemetry.take)
            self.telemetry.close()
            self.telemetry = None


class Recorder:
    """Takes every line about what happened: the usage log first, then whoever else wants to know.

    Listeners are called in the thread that the line comes from, and may not raise.
    """

    def __init__(self, write: Callable[..., object]) -> None:
        """`write` takes one line or several, which belong together."""
        self._write = write
        self._listeners: tuple[Record, ...] = ()

    def __call__(self, *lines: Mapping[str, object]) -> object:
        """Write `lines`, and tell each of them on."""
        written = self._write(*lines)
        for listener in self._listeners:
            for line in lines:
                listener(line)
        return written

    def listen(self, listener: Record) -> None:
        """Tell `listener` every line from now on."""
        self._listeners = (*self._listeners, listener)

    def forget(self, listener: Record) -> None:
        """Tell it no more."""
        self._listeners = tuple(each for each in self._listeners if each != listener)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """Everything that the routers of one program share."""

    settings: Settings
    context: RoutingContext
    log: UsageLog
    recorder: Recorder
    """What every line goes through on its way to the log."""
    models: Mapping[str, LocalModel]
    """The embedded models by the name of their provider."""
    switchboard: Switchboard
    board: DrillBoard
    recent: RecentActivity
    """What happened in the last minutes, read from the log when a page asks for it."""
    whole_log: WholeLog
    door: Door
    """Who may use the dashboard."""
    exporting: Exporting

    def start(self) -> None:
        """Take over the shared state, and begin to load the embedded models in the background."""
        self.exporting.start()
        self.switchboard.start()
        for model in self.models.values():
            model.start()

    def close(self) -> None:
        """End the embedded models, and close the shared state and the log."""
        for model in self.models.values():
            model.close()
        self.switchboard.close()
        self.recent.close()
        self.whole_log.close()
        self.exporting.close()
        self.log.close()

    def analytics(self) -> Analytics:
        """Return the analytics of the whole log: one for the program, made when it is asked for first."""
        return self.whole_log.open()

    def transport(self) -> Transport:
        """Return a transport for threads, with a pool of its own."""
        # Here, because whoever uses one kind of router should not load the library of the other.
        from fallback.transport.sync import RequestsTransport

        inner = LocalTransport(RequestsTransport(), self.models)
        return DrillTransport(inner, self.board, can_reach=self._can_reach, wall=self.context.wall)

    def async_transport(self) -> AsyncTransport:
        """Return a transport for one event loop, with connections of its own."""
        inner = AsyncLocalTransport(_async_transport(), self.models)
        return AsyncDrillTransport(inner, self.board, can_reach=self._can_reach, wall=self.context.wall)

    def _can_reach(self, provider: str) -> bool:
        return self.context.providers[provider].unavailable() is None


def assemble(
    settings: Settings,
    *,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
    jitter: Callable[[], float] = random.random,
    record: Record | None = None,
    store: StateStore | None = None,
) -> Wiring:
    """Make the objects that `settings` describe. Nothing is started and no file is touched yet.

    `record` takes the place of the usage log, and `store` that of the state beside it.
    """
    providers = {provider.name: _DIALECTS[provider.type](provider) for provider in settings.providers}
    roster = Roster([_slot(provider) for provider in providers.values()], settings.routing, jitter=jitter)
    log = UsageLog(
        settings.log.folder,
        rotate_bytes=settings.log.rotate_bytes,
        wall=wall,
        instance=settings.log.instance,
    )
    append = Recorder(log.append if record is None else _each(record))

    def tell(changes: Iterable[StateChange]) -> None:
        lines = change_lines(changes, wall())
        if lines:
            append(*lines)

    board = DrillBoard()
    switchboard = Switchboard(
        providers=settings.providers,
        roster=roster,
        board=board,
        store=store or _store(settings, wall),
        record=tell,
        clock=clock,
        wall=wall,
    )
    context = RoutingContext(
        providers=providers,
        roster=roster,
        record=append,
        changed=switchboard.changed,
        turn=switchboard.turn,
        clock=clock,
        wall=wall,
        log_content=settings.log.content,
    )
    models = {
        provider.name: _embedded(provider, roster, tell)
        for provider in settings.providers
        if provider.type == "local"
    }
    return Wiring(
        settings=settings,
        context=context,
        log=log,
        recorder=append,
        models=models,
        switchboard=switchboard,
        board=board,
        recent=RecentActivity(settings.log.folder, wall=wall),
        whole_log=WholeLog(settings.log, wall=wall),
        door=Door(settings.dashboard, settings.session_secret, wall=wall),
        exporting=Exporting(settings, append, wall=wall),
    )


def _async_transport() -> AsyncTransport:
    # Here, because whoever uses one kind of router should not load the library of the other.
    if importlib.util.find_spec("httptools") is None:
        from fallback.transport.asynchronous import AiohttpTransport

        return AiohttpTransport()
    from fallback.transport.direct import DirectTransport

    return DirectTransport()


def _each(record: Record) -> Callable[..., None]:
    def write(*lines: Mapping[str, object]) -> None:
        for line in lines:
            record(line)

    return write


def _store(settings: Settings, wall: Callable[[], float]) -> StateStore:
    server = settings.state
    if server is None:
        return SQLiteStateStore(settings.log.folder / "state.sqlite", merge=settled, wall=wall)
    # Here, because most programs share a file, and the client library takes its time.
    from fallback.state.redis_store import RedisStateStore

    return RedisStateStore(server.url, place=server.place, prefix=server.prefix, merge=settled, wall=wall)


def _slot(provider: BaseProvider) -> SlotSpec:
    return SlotSpec(
        name=provider.name,
        candidates=provider.candidates(),
        enabled=provider.settings.enabled,
        unavailable=provider.unavailable(),
    )


def _embedded(
    provider: ProviderSettings,
    roster: Roster,
    tell: Callable[[Iterable[StateChange]], None],
) -> LocalModel:
    return LocalModel(
        Path(provider.model_path) if provider.model_path else None,
        n_ctx=provider.models[0].context_window or 4096,
        on_change=lambda reason: tell(roster.set_unavailable(provider.name, reason)),
    )
