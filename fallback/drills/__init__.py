"""Faults injected on purpose, as a transport around the real one.

Theory of operation: a `DrillBoard` says which provider has a drill. `DrillTransport` and `AsyncDrillTransport` look at
it with every call: without a drill the call goes to the transport behind, untouched; with one it is answered here, or
passed on slowed down, so that all that follows (decoder, verdict, cooldown, failover, log) is what a real fault
would bring about. What a drilled call does is described once, without I/O (`course`, `scenes`); the two transports only
wait and read as they are told.

What may not live here: what a fault leads to (core), where drills are kept (state).
"""

from fallback.drills.board import DrillBoard
from fallback.drills.course import DrilledError, DrilledHead, drill_of
from fallback.drills.drill import (
    DEFAULT_LENGTH_S,
    KINDS,
    LONGEST_S,
    Drill,
    DrillKind,
    KindSpec,
    ValueSpec,
    drill_from_json,
)
from fallback.drills.opening import announced
from fallback.drills.presets import PRESETS, Preset, preset
from fallback.drills.transport import AsyncDrillTransport, DrillTransport

__all__ = [
    "DEFAULT_LENGTH_S",
    "KINDS",
    "LONGEST_S",
    "PRESETS",
    "AsyncDrillTransport",
    "Drill",
    "DrillBoard",
    "DrillKind",
    "DrillTransport",
    "DrilledError",
    "DrilledHead",
    "KindSpec",
    "Preset",
    "ValueSpec",
    "announced",
    "drill_from_json",
    "drill_of",
    "preset",
]
