"""`python -m fallback report`: what failover did, in the terminal, as JSON, or as one HTML file."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from datetime import datetime
from pathlib import Path

from fallback.analytics import Analytics, CacheError, Filters, Window, choices, window
from fallback.cli.place import configuration
from fallback.cli.terminal import Screen, UsageError
from fallback.config import load
from fallback.report import Report, as_html, as_json, as_text

__all__ = ["report"]

_LENGTH = re.compile(r"(\d+(?:\.\d+)?)(m|h|d|w)")
_UNIT_S = {"m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
PATIENCE_S = 1.0
"""How long the log may be read before it is told how far it is."""


def report(options: argparse.Namespace, screen: Screen) -> int:
    """Write the report. Returns the exit status; raises UsageError and ConfigError."""
    now = time.time()
    until = now if options.until is None else _instant(options.until, now, "--until")
    since = None if options.since == "all" else _instant(options.since, until, "--since")
    if since is not None and since >= until:
        raise UsageError("--since: it lies behind --until")
    settings = load(configuration(options.config))
    try:
        with Analytics(settings.log.folder, sources=settings.log.sources) as analytics:
            _read(analytics, screen)
            found = _gathered(analytics, options, (since, until), [one.name for one in settings.providers])
            _write(found, options, screen)
    except CacheError as error:
        screen.tell(f"{str(error)[:1].upper()}{str(error)[1:]}.", "red")
        return 1
    return 0


def _instant(given: str, end: float, option: str) -> float:
    """Return Unix seconds: of a length before `end` ("24h"), or of a time of this machine's clock ("2026-11-22T12:00")."""
    found = _LENGTH.fullmatch(given)
    if found is not None:
        return end - float(found[1]) * _UNIT_S[found[2]]
    try:
        return datetime.fromisoformat(given).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        example = "24h, 7d, all or 2026-11-22T12:00" if option == "--since" else "1h or 2026-11-22T12:00"
        raise UsageError(f"{option}: expected something like {example}, got {given[:60]!a}") from None


def _read(analytics: Analytics, screen: Screen) -> None:
    began = time.monotonic()
    told = 0

    def progress(part: float) -> None:
        nonlocal told
        tenth = int(part * 10)
        if tenth > told and time.monotonic() - began > PATIENCE_S:
            told = tenth
            screen.tell(f"Reading the log: {tenth * 10} %", "dim")

    analytics.refresh(progress)


def _gathered(
    analytics: Analytics,
    options: argparse.Namespace,
    ends: tuple[float | None, float],
    configured: list[str],
) -> Report:
    coverage = analytics.coverage
    known = choices(analytics)
    filters = Filters(
        providers=_among("--provider", options.provider, (*configured, *known.providers)),
        instances=_among("--instance", options.instance, known.instances),
        routes=_among("--route", options.route, known.routes),
        sources=_among("--source", options.source, known.sources),
        drills=options.drills,
    )
    others = sorted(set(known.providers) - set(configured))
    return Report(
        analytics=analytics,
        window=_window(ends, coverage.first_ts),
        filters=filters,
        coverage=coverage,
        until=ends[1],
        providers=(*configured, *others),
    )


def _window(ends: tuple[float | None, float], first_ts: float | None) -> Window:
    offset = datetime.fromtimestamp(ends[1]).astimezone().utcoffset()
    offset_s = 0 if offset is None else int(offset.total_seconds())
    return window(ends[0], ends[1], first_ts=first_ts, utc_offset_s=offset_s)


def _among(option: str, given: list[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    wrong = [name for name in given or () if name not in known]
    if wrong:
        names = list(dict.fromkeys(known))
        raise UsageError(
            f"{option}: the log knows no {wrong[0][:60]!a}; it knows {', '.join(names[:20]) or 'none'}"
        )
    return tuple(given or ())


def _write(found: Report, options: argparse.Namespace, screen: Screen) -> None:
    if options.html:
        _save(Path(options.html), as_html(found))
        screen.tell(f"Written: {options.html}", "green")
    if options.json:
        screen.write(as_json(found) + "\n")
    elif not options.html:
        for line in as_text(found):
            screen.write_line(line.text, line.colour)


def _save(path: Path, text: str) -> None:
    """Write the whole file or nothing. Raises UsageError where it cannot be written."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            Path(name).chmod(0o640)
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"--html: {path} cannot be written: {error.strerror or error}") from None
