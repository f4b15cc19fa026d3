"""`python -m fallback providers`: what the dashboard's Providers page shows and does.

It works through the shared state, so it needs no running program, and every running one follows within a second.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence

from fallback.api.view import providers_view
from fallback.cli.place import opened
from fallback.cli.terminal import Colour, Screen, UsageError
from fallback.config.section import nearest
from fallback.core.roster import ProviderStatus
from fallback.core.standing import seconds
from fallback.drills import LONGEST_S, PRESETS, Drill, drill_from_json
from fallback.recent import ProviderHealth
from fallback.switchboard import Switchboard
from fallback.wiring import Wiring

__all__ = ["providers"]

BY = "cli"
"""Who changed it, in the usage log."""

_LENGTH = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)?")
_UNIT_S = {None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_COLOURS: dict[str, Colour] = {
    "ready": "green",
    "cooling_down": "yellow",
    "probing": "yellow",
    "disabled": "red",
    "off": "dim",
    "not_configured": "dim",
}


def providers(options: argparse.Namespace, screen: Screen) -> int:
    """Do what was asked, and show what came of it. Returns the exit status; raises UsageError and ConfigError."""
    with opened(options.config) as wiring:
        done = _act(options, wiring)
        shared = not done or wiring.switchboard.flush()
        if options.json:
            screen.write(json.dumps(providers_view(wiring), ensure_ascii=False, indent=2) + "\n")
        elif not done:
            _show_table(wiring, screen)
        elif shared:
            for line in done:
                screen.write_line(line)
        warning = wiring.switchboard.warning
        if warning is not None:
            screen.tell(f"Warning: {warning}", "yellow")
        if not shared:
            screen.tell("Nothing was changed: the shared state cannot be written.", "red")
            return 1
    return 0


def _act(options: argparse.Namespace, wiring: Wiring) -> Sequence[str]:
    """Make the change; returns what to say of it, nothing where only the status was asked for."""
    board = wiring.switchboard
    match options.action:
        case None | "status":
            return ()
        case "on" | "off" as side:
            for name in (names := _named(options.names, wiring)):
                board.set_enabled(name, side == "on", by=BY)
            return [f"{name} is switched {side}." for name in names]
        case "end-cooldown":
            for name in (names := _named(options.names, wiring)):
                board.end_cooldown(name, by=BY)
            return [f"{name} is ready to be asked." for name in names]
        case "drill":
            return [_drill(options, wiring)]
        case "end-drill":
            return _end_drills(options, wiring)
        case "preset":
            return _preset(" ".join(options.title), board)
        case _:
            return [_order(options, wiring)]


def _named(names: Iterable[str], wiring: Wiring) -> list[str]:
    """Return the names, each once. Raises UsageError where one is no provider's."""
    known = wiring.context.roster.providers
    for name in names:
        if name not in known:
            advice = nearest(name, known) or f"; there are {', '.join(known)}"
            raise UsageError(f"there is no provider {name[:60]!a}{advice}")
    return list(dict.fromkeys(names))


def _drill(options: argparse.Namespace, wiring: Wiring) -> str:
    (name,) = _named([options.name], wiring)
    spec: dict[str, object] = {
        "kind": options.kind.replace("-", "_"),
        "for_s": _length_s(options.length),
        "value": options.value,
        "probability": options.probability,
        "seed": options.seed,
    }
    try:
        drill = drill_from_json(spec, now=wiring.context.wall(), by=BY)
        wiring.switchboard.set_drill(name, spec, by=BY)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return f"{name} has a drill: {_drill_text(drill, wiring.context.wall())}."


def _length_s(given: str) -> float | None:
    if given == "forever":
        return None
    found = _LENGTH.fullmatch(given)
    if found is None:
        raise UsageError(f"--for: expected a time such as 30s, 5m, 2h or forever, got {given[:60]!a}")
    length_s = float(found[1]) * _UNIT_S[found[2]]
    if not 0 < length_s <= LONGEST_S:
        raise UsageError(f"--for: expected a time above 0 and up to 7d, or forever, got {given[:60]!a}")
    return length_s


def _end_drills(options: argparse.Namespace, wiring: Wiring) -> Sequence[str]:
    if options.all == bool(options.names):
        raise UsageError("end-drill takes the names of providers, or --all")
    running = wiring.switchboard.drills()
    names = list(running) if options.all else _named(options.names, wiring)
    for name in names:
        # Also where none is known here: one may be just on its way from another program.
        wiring.switchboard.set_drill(name, None, by=BY)
    return [f"{name} has no drill any more." for name in names] or ["There was no drill."]


def _preset(title: str, board: Switchboard) -> Sequence[str]:
    known = {name.lower(): name for name in PRESETS}
    name = known.get(title.lower())
    if name is None:
        raise UsageError(f"there is no preset {title[:60]!a}; there are {', '.join(PRESETS)}")
    concerned = board.start_preset(name, by=BY)
    return [f"{name}: {PRESETS[name].text} ({', '.join(concerned) or 'it concerns no provider here'})."]


def _order(options: argparse.Namespace, wiring: Wiring) -> str:
    if options.reset == bool(options.names):
        raise UsageError("order takes the names of all providers, or --reset")
    names = None
    if not options.reset:
        names = _named(options.names, wiring)
        if len(names) != len(options.names) or not wiring.context.roster.is_order(names):
            known = ", ".join(wiring.context.roster.providers)
            raise UsageError(f"an order names every provider once: {known}")
    wiring.switchboard.set_order(names, by=BY)
    return f"Asked in this order: {', '.join(wiring.context.roster.providers)}."


def _drill_text(drill: Drill, wall: float) -> str:
    left_s = drill.left_s(wall)
    end = "until it is ended" if left_s is None else f"{seconds(left_s)} left"
    return f"{drill.text}; {end}, by {drill.by}"


def _show_table(wiring: Wiring, screen: Screen) -> None:
    statuses = wiring.context.roster.status(wiring.context.clock())
    drills, wall = wiring.switchboard.drills(), wiring.context.wall()
    wiring.recent.refresh()
    recent = wiring.recent.snapshot()
    head = ("", "PROVIDER", "STATE", "MODEL", "LAST 15 MINUTES", "DRILL", "NOTE")
    rows = [
        (
            str(place),
            status.name,
            _state(status),
            status.model,
            _calls(recent.provider(status.name)),
            _drill_text(drills[status.name], wall) if status.name in drills else "-",
            _note(status),
        )
        for place, status in enumerate(statuses, 1)
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    screen.write_line(_line(head, widths), "dim")
    for row, status in zip(rows, statuses, strict=True):
        screen.write_line(_line(row, widths), _COLOURS[status.state])


def _state(status: ProviderStatus) -> str:
    word = status.state.replace("_", " ")
    return word if status.until_s is None else f"{word} {seconds(status.until_s)}"


def _note(status: ProviderStatus) -> str:
    """Return what the other columns do not say; "" where all is well."""
    if status.state == "cooling_down":
        return status.reason
    retired = f"retired: {', '.join(status.retired)}" if status.retired else ""
    return "; ".join(filter(None, ("" if status.state == "ready" else status.text, retired)))


def _calls(health: ProviderHealth) -> str:
    if not health.attempts:
        return "-"
    calls = "1 call" if health.attempts == 1 else f"{health.attempts} calls"
    failed = f", {health.failures} failed, last with {health.last_failure}" if health.failures else ""
    return f"{calls}{failed}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
