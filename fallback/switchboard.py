"""What people do to providers, and what processes tell each other about them.

Theory of operation: the roster decides, from memory; the state store remembers, across processes and restarts. The
switchboard stands between them. A change made here goes into the roster and the drill board at once, into the store,
and into the usage log; a change that another process made comes out of the store's watcher and goes into the roster.
Cooldowns travel the same way, as instants of Unix time. What is disabled until the configuration changes does not: it
is found out by one attempt, and a key that was put right must not be held against by what an older process believed.
What a drill leads to stays where it happened and ends with the drill: the drill itself is shared, its effects are not.

    switch/NAME           {"enabled": false}
    drill/NAME            a Drill; {"over": ..., "told_by": ...}: it has come to its end, and that program tells of it
    order                 {"names": [...]}
    breaker/NAME[/MODEL]  {"until": ..., "announced": ..., "reason": ..., "step": ...}
    learned/..., headroom/NAME   see `lessons`
    reset/NAME            {"at": ...}: somebody ended its cooldown by hand, and what disabled it, known here or not

What may not live here: decisions about requests (core), anything about one kind of store (state).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from fallback.core.breaker import BreakerState
from fallback.core.roster import Roster, Simulation, StateChange
from fallback.drills import Drill, DrillBoard, DrillKind, drill_from_json, preset
from fallback.lessons import KINDS, Lessons
from fallback.providers.settings import ProviderSettings
from fallback.state import Claim, Entry, StateStore, Value

__all__ = ["Switchboard", "settled"]

_LAST = 1e15
"""No instant is as late."""
SWEEP_S = 0.5
"""How often ended drills are looked for."""


class Switchboard:
    """Switches, drills, order and cooldowns of all providers. Safe for threads."""

    def __init__(
        self,
        *,
        providers: Sequence[ProviderSettings],
        roster: Roster,
        board: DrillBoard,
        store: StateStore,
        record: Callable[[Iterable[StateChange]], object],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """`record` writes changes that people made to the usage log."""
        self._providers = {provider.name: provider for provider in providers}
        self._roster = roster
        self._board = board
        self._store = store
        self._record = record
        self._clock = clock
        self._wall = wall
        self._lock = threading.RLock()
        self._lessons = Lessons(roster, store, clock=clock, wall=wall)
        self._version = 0
        self._token = secrets.token_hex(8)
        """Names this switchboard among all that share the store."""
        self._closing = threading.Event()
        self._sweeper: threading.Thread | None = None

    @property
    def warning(self) -> str | None:
        """Return what people should know about the store, in words; None while all is well."""
        return self._store.warning

    @property
    def version(self) -> int:
        """A number that grows with every change that people make, here or in another process."""
        return self._version

    def start(self) -> None:
        """Take over what the store holds, and begin to watch it and the ends of drills."""
        self._store.start(self._take_over)
        self._sweeper = threading.Thread(target=self._sweep_on, name="fallback-drills", daemon=True)
        self._sweeper.start()

    def flush(self, timeout_s: float = 2.0) -> bool:
        """Wait until other processes can see what was done here; False where that takes longer than `timeout_s`."""
        return self._store.flush(timeout_s)

    def close(self) -> None:
        """Stop watching and close the store."""
        self._closing.set()
        if self._sweeper is not None:
            self._sweeper.join(timeout=2.0)
        self._lessons.share(at_once=True)
        self._store.close()

    def set_enabled(self, name: str, enabled: bool, *, by: str) -> None:
        """Switch a provider on or off; the next request sees it. Raises KeyError for an unknown name."""
        with self._lock:
            changes = self._roster.set_enabled(self._known(name), enabled, by=by)
            self._store.put(f"switch/{name}", {"enabled": enabled}, by=by)
        self._tell(changes)

    def set_drill(self, name: str, spec: Mapping[str, Any] | None, *, by: str) -> Drill | None:
        """Let a provider fail on purpose, as `drills.drill_from_json` reads `spec`; None ends its drill.

        Raises KeyError for an unknown name, ValueError for a drill that makes no sense.
        """
        self._known(name)
        drill = None if spec is None else drill_from_json(spec, now=self._wall(), by=by)
        with self._lock:
            before = self._board.active(name, self._wall())
            self._store.put(f"drill/{name}", None if drill is None else drill.to_json(), by=by)
            self._cast(name, drill)
        if drill is not None or before is not None:
            self._tell_drill(name, drill, before, by)
        return drill

    def start_preset(self, title: str, *, by: str) -> tuple[str, ...]:
        """Start the drills of a preset and end all others. Returns the providers concerned. Raises ValueError."""
        specs = preset(title, tuple(self._providers.values()))
        for name in self._providers:
            if name in specs or self._board.active(name, self._wall()) is not None:
                self.set_drill(name, specs.get(name), by=by)
        return tuple(specs)

    def end_drills(self, *, by: str) -> None:
        """End every drill."""
        for name in self.drills():
            self.set_drill(name, None, by=by)

    def drills(self) -> Mapping[str, Drill]:
        """Return the drills under way, by provider."""
        return self._board.all(self._wall())

    def end_cooldown(self, name: str, *, by: str) -> None:
        """Make a provider ready by hand, here and in every process, whatever it rests or is disabled for.

        Raises KeyError.
        """
        with self._lock:
            changes = self._roster.end_cooldown(self._known(name), by=by)
            # All of them: another process may have put one that has not been told here yet.
            for key in self._breakers(name):
                self._store.put(key, None, by=by)
            self._store.put(f"reset/{name}", {"at": self._wall()}, by=by)
        self._tell(changes)

    def set_order(self, names: Sequence[str] | None, *, by: str) -> None:
        """Change the order in which providers are asked; None: back to that of the file.

        Raises ValueError where `names` are not all of them, each once.
        """
        with self._lock:
            changes = self._roster.set_order(names, by=by)
            self._store.put("order", None if names is None else {"names": list(names)}, by=by)
        self._tell(changes)

    def changed(self, changes: Sequence[StateChange]) -> None:
        """Tell the other processes of changes that requests made, and have written to the log."""
        with self._lock:
            for change in changes:
                if self._roster.simulated(change.provider):
                    continue  # what a drill leads to is nobody else's
                key = _breaker_key(change.provider, change.model)
                state = self._roster.export(change.provider, change.model, self._clock())
                if state is not None:
                    self._store.put(key, self._stored(state), by="router")
                elif key in self._store.entries():
                    self._store.put(key, None, by="router")

    def turn(self, provider: str) -> Claim:
        """Return the claim that a probe of `provider` takes: of all programs that share the store one looks at a time."""
        return self._store.claim(f"probe/{provider}")

    def sweep(self) -> None:
        """Take note of drills that have come to their end. Of all programs that share the store one tells of it."""
        over = self._board.sweep(self._wall())
        for name, drill in over:
            with self._lock:
                if self._board.active(name, self._wall()) is not None:
                    continue  # followed by another one meanwhile
                self._roster.simulate(name, None)
                self._store.put(f"drill/{name}", self._claim(drill), by="drill")
        if not over:
            return
        self._version += 1
        self._store.flush()
        for name, drill in over:
            entry = self._store.entries().get(f"drill/{name}")
            if entry is not None and entry.value == self._claim(drill):
                self._store.put(f"drill/{name}", None, by="drill")
                self._tell_drill(name, None, drill, "drill")

    def _claim(self, drill: Drill) -> Mapping[str, Any]:
        """Return what stands in place of `drill` once it is over, if it is this program that tells of it."""
        return {"over": drill.to_json(), "told_by": self._token}

    def _tell(self, changes: Iterable[StateChange]) -> None:
        """Write `changes` that people made to the log."""
        self._version += 1
        self._record(changes)

    def _known(self, name: str) -> str:
        if name not in self._providers:
            raise KeyError(name)
        return name

    def _breakers(self, name: str) -> list[str]:
        """Return the keys of a provider's breakers: of the whole, and of each model."""
        models = [candidate.model for candidate in self._roster.candidates(name)]
        return [_breaker_key(name, model) for model in (None, *models)]

    def _cast(self, name: str, drill: Drill | None) -> None:
        """Let `drill` be the one of `name`; a drill that is on already goes on undisturbed."""
        if self._board.set(name, drill) == drill:
            return
        simulation = None
        if drill is not None:
            simulation = Simulation.OFF if drill.kind is DrillKind.OFF else Simulation.FAULT
        self._roster.simulate(name, simulation)

    def _tell_drill(self, name: str, drill: Drill | None, before: Drill | None, by: str) -> None:
        reason = drill.text if drill is not None else (before.text if before is not None else "")
        length_s = drill.left_s(self._wall()) if drill is not None else None
        change = StateChange(
            provider=name,
            model=None,
            before="drill" if before is not None else "no_drill",
            after="drill" if drill is not None else "no_drill",
            reason=reason,
            length_s=length_s,
            by=by,
        )
        self._tell((change,))

    def _take_over(self, entries: Sequence[Entry]) -> None:
        """Take over what other processes put, and what stood in the store at the start."""
        with self._lock:
            for entry in sorted(entries, key=_rank):
                kind, _, rest = entry.key.partition("/")
                stands = self._store.entries().get(entry.key)
                if stands is None:
                    self._take(kind, rest, None, put_at=0.0)
                else:
                    self._take(kind, rest, stands.value, put_at=stands.at)
        if any(entry.key.partition("/")[0] not in KINDS for entry in entries):
            self._version += 1

    def _take(self, kind: str, rest: str, value: Value, *, put_at: float) -> None:
        name, _, model = rest.partition("/")
        if kind == "order":
            names = value.get("names") if value is not None else None
            if names is None or self._roster.is_order(names):
                self._roster.set_order(names, by="store")  # type: ignore[arg-type]
            return
        if name not in self._providers:
            return  # a provider that the configuration does not have any more
        if kind == "switch":
            enabled = self._providers[name].enabled if value is None else value.get("enabled") is not False
            self._roster.set_enabled(name, enabled, by="store")
        elif kind == "drill":
            self._take_drill(name, _drill(value))
        elif kind == "reset" and value is not None:
            self._roster.end_cooldown(name, by="store")
        elif kind in KINDS:
            self._lessons.take(kind, rest, value)
        elif kind == "breaker":
            self._roster.adopt(name, model or None, self._restored(value, put_at), self._clock())

    def _take_drill(self, name: str, drill: Drill | None) -> None:
        if drill is None or not drill.ended(self._wall()):
            self._cast(name, drill)
        elif self._board.set(name, drill) != drill:
            # It ended while no program ran: nothing is left of it but to tell that.
            self._roster.simulate(name, None)

    def _stored(self, state: BreakerState) -> Mapping[str, Any]:
        return {
            "until": self._wall() + state.left_s,
            "announced": state.announced,
            "reason": state.reason,
            "step": state.step,
            "disabled": state.disabled,
        }

    def _restored(self, value: Value, put_at: float) -> BreakerState | None:
        if value is None:
            return None
        until, step = value.get("until"), value.get("step")
        if not _is_instant(until) or not isinstance(step, int):
            return None
        # Never longer than it was when it was put: the clock may have been set back since, by hours.
        left_s = min(until - self._wall(), until - put_at)
        if left_s <= 0:
            return None
        return BreakerState(
            left_s=left_s,
            announced=value.get("announced") is True,
            reason=str(value.get("reason", "")),
            step=step,
            disabled=value.get("disabled") is True,
        )

    def _sweep_on(self) -> None:
        while not self._closing.wait(SWEEP_S):
            self.sweep()
            self._lessons.share()


def settled(existing: Entry | None, value: Value) -> Value:
    """Return what shall stand under a key, where it is put by several programs. A `state.Merge`.

    Of two cooldowns the one that ends later, unless that one was put after the end of the other: then the clock was set back
    in between, and it says nothing any more. Of those who would tell of the end of a drill the first one, and nobody
    where another drill has begun meanwhile.
    """
    before = None if existing is None else existing.value
    if value is not None and "over" in value:
        return value if before == value["over"] else before
    if before is None or value is None or existing is None or not existing.key.startswith("breaker/"):
        return value
    ours, theirs = value.get("until"), before.get("until")
    return before if _is_instant(ours) and _is_instant(theirs) and theirs > ours >= existing.at else value


def _is_instant(value: object) -> TypeGuard[float]:
    """Return whether it is one, in Unix seconds: what somebody else wrote may be anything, or an integer beyond any float."""
    return isinstance(value, (int, float)) and -_LAST < value < _LAST


def _breaker_key(provider: str, model: str | None) -> str:
    return f"breaker/{provider}" if model is None else f"breaker/{provider}/{model}"


def _rank(entry: Entry) -> int:
    """Return the place of an entry among those that are told together, whose revisions say little.

    Drills come before what they led to. An end by hand deletes all cooldowns, so one that is there came after it.
    """
    return {"drill": 0, "reset": 1}.get(entry.key.partition("/")[0], 2)


def _drill(value: Value) -> Drill | None:
    if value is None or "over" in value:
        return None
    try:
        return Drill.from_json(value)
    except ValueError:
        return None  # written by a newer version
