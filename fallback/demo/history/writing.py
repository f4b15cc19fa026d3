"""From a span and a configuration to the files of a usage log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Final

from fallback.config import Settings
from fallback.demo.history.callers import visits
from fallback.demo.history.incidents import course_of_events
from fallback.demo.history.replies import Replies
from fallback.demo.history.simulation import Simulation
from fallback.demo.history.span import Span
from fallback.demo.history.timeline import Timeline
from fallback.demo.history.world import World
from fallback.demo.stage import is_cloud
from fallback.usage_log import UsageLog

__all__ = ["write_history"]

_LONGEST_S: Final = 60.0
"""What callers are content with, where the configuration allows them more."""


def write_history(folder: Path, settings: Settings, span: Span) -> int:
    """Write the history of `span` with the providers of `settings` as the usage log in `folder`. Returns its lines.

    Keys are not needed: every provider of `settings` that is switched on takes part. Files are rotated at the end of a
    day and at the size in `settings`, as the program rotates them. Raises FileExistsError where `folder` holds a log
    already, OSError where it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("usage*.log")):
        raise FileExistsError(f"{folder} holds a usage log already")
    timeline = Timeline(begin=span.begin)
    # Nobody else writes here, so the file need not be looked after: with a clock that stands still it never is.
    log = UsageLog(folder, rotate_bytes=settings.log.rotate_bytes, wall=timeline.wall, monotonic=lambda: 0.0)
    with log:
        _simulation(settings, span, timeline, log).run(until_s=span.length_s)
    if log.failures:
        raise OSError(f"the history could not be written: {log.last_error}")
    return log.lines_written


def _simulation(settings: Settings, span: Span, timeline: Timeline, log: UsageLog) -> Simulation:
    providers = tuple(replace(p, api_key=None, needs_key=False) for p in settings.providers)
    settings = replace(settings, providers=providers)
    # What was asked last has its answer before the history ends, however short that is.
    deadline_s = min(settings.routing.deadline_s, _LONGEST_S, span.length_s / 4)
    last_s = span.length_s - deadline_s - min(1.0, span.length_s / 4)

    def draw(what: str) -> Random:
        return Random(f"{span.seed}/{what}")  # noqa: S311 - seeded so that the same history can be made again

    incidents, deeds = course_of_events(
        clouds={p.name: [m.name for m in p.models] for p in providers if is_cloud(p) and p.enabled},
        embedded=next((p.name for p in providers if not is_cloud(p)), None),
        begin=span.begin,
        length_s=last_s,
        draw=draw("incidents"),
    )
    world = World(settings, timeline, log, draw=draw("jitter"))
    world.expect(incidents, deeds, last_s=last_s)
    return Simulation(
        world,
        timeline,
        replies=Replies(providers, troubles=world.troubles, draw=draw("replies")),
        visits=visits(
            span.requests,
            begin=span.begin,
            length_s=last_s,
            routes=_routes(settings),
            deadline_s=deadline_s,
            draw=draw("callers"),
        ),
        draw=draw("names"),
    )


def _routes(settings: Settings) -> tuple[str, ...]:
    """Return what may be asked for beside `auto`: the routes, and the cloud providers and their models."""
    clouds = [p for p in settings.providers if is_cloud(p)]
    models = [model.name for p in clouds for model in p.models]
    return tuple(dict.fromkeys((*settings.routing.routes, *(p.name for p in clouds), *models)))
