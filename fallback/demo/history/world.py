"""The program of a history, without its network: what befalls its providers, and what people do to them.

What may not live here: requests (`simulation`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from random import Random

from fallback.config import Settings
from fallback.core.models import Candidate
from fallback.demo.history.incidents import Deed, Incident, Trouble
from fallback.demo.history.timeline import Timeline
from fallback.drills import Drill
from fallback.loop import RoutingContext, change_lines
from fallback.state import MemoryStateStore
from fallback.switchboard import settled
from fallback.usage_log import UsageLog
from fallback.wiring import assemble

__all__ = ["World"]

_SWEPT_AFTER_S = 0.25
"""How long after its end a drill is taken off on average."""
_CRASH = "its process ended; it is started again"


class World:
    """Everything that the requests of a history share."""

    def __init__(self, settings: Settings, timeline: Timeline, log: UsageLog, *, draw: Random) -> None:
        """Assemble the program that `settings` describe; its log is `log`, its time that of `timeline`."""
        self._timeline = timeline
        store = MemoryStateStore(merge=settled, wall=timeline.wall)
        wiring = assemble(
            settings,
            clock=timeline.clock,
            wall=timeline.wall,
            jitter=draw.random,
            record=log.append,
            store=store,
        )
        # What reads a log is of no use to who only writes one.
        wiring.recent.close()
        self.context: RoutingContext = wiring.context
        self._switchboard = wiring.switchboard
        self._board = wiring.board
        self._under_way: dict[str, list[Incident]] = {p.name: [] for p in settings.providers}
        self.candidates = {
            candidate.key: candidate
            for provider in wiring.context.providers.values()
            for candidate in provider.candidates()
        }

    def troubles(self, provider: str) -> Sequence[Incident]:
        """Return what is the matter with `provider` now."""
        return self._under_way[provider]

    def drill(self, candidate: Candidate) -> Drill | None:
        """Return the drill that strikes the call of `candidate` that is made now."""
        return self._board.draw(candidate.provider, self._timeline.wall())

    def expect(self, incidents: Iterable[Incident], deeds: Iterable[Deed], *, last_s: float) -> None:
        """Let all of these happen in their time; drills end at `last_s` at the latest."""
        for incident in incidents:
            self._timeline.at(incident.at_s, functools.partial(self._begin, incident))
            if math.isfinite(incident.until_s):
                self._timeline.at(min(incident.until_s, last_s), functools.partial(self._end, incident))
        for deed in deeds:
            if deed.at_s < last_s:
                self._timeline.at(deed.at_s, functools.partial(self._do, deed))
        self._timeline.at(last_s, lambda: self._switchboard.end_drills(by="dashboard"))

    def _begin(self, incident: Incident) -> None:
        self._under_way[incident.provider].append(incident)
        if incident.trouble is Trouble.CRASHED:
            self._embedded(incident.provider, _CRASH)

    def _end(self, incident: Incident) -> None:
        self._under_way[incident.provider].remove(incident)
        if incident.trouble is Trouble.CRASHED:
            self._embedded(incident.provider, None)

    def _embedded(self, provider: str, reason: str | None) -> None:
        changes = self.context.roster.set_unavailable(provider, reason)
        if changes:
            self.context.record(*change_lines(changes, self.context.wall()))
            self.context.changed(changes)

    def _do(self, deed: Deed) -> None:
        board = self._switchboard
        match deed.what:
            case "on" | "off":
                board.set_enabled(deed.provider, deed.what == "on", by=deed.by)
            case "end_cooldown":
                board.end_cooldown(deed.provider, by=deed.by)
            case "drill":
                drill = board.set_drill(deed.provider, deed.drill, by=deed.by)
                if drill is not None:
                    ends_s = self._timeline.now + (drill.left_s(self._timeline.wall()) or 0.0)
                    self._timeline.at(ends_s + _SWEPT_AFTER_S, board.sweep)
            case "swap":
                first, second, *others = self.context.roster.providers
                board.set_order((second, first, *others), by=deed.by)
            case "unswap":
                board.set_order(None, by=deed.by)
