"""The usage logs at the end, beside what callers were told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.soak.ledger import Acknowledged
from fallback.usage_log import read

__all__ = ["DiskFull", "LogFindings", "examine"]

TOLD_WITHIN_S = 15.0
"""A line is lost before its caller hears the answer; on a busy machine well before."""


@dataclass(slots=True, kw_only=True)
class DiskFull:
    """A time during which one replica's disk was full, and how many lines its workers then counted as lost."""

    replica: str
    began: float
    ended: float = 0.0
    counted: float = 0.0

    def covers(self, at: float) -> bool:
        """Whether an answer at this instant fell into it."""
        return self.began <= at <= self.ended + TOLD_WITHIN_S


@dataclass(slots=True, kw_only=True)
class LogFindings:
    """What was found."""

    lines: int = 0
    files: int = 0
    requests: int = 0
    damaged: int = 0
    twice: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Acknowledged, not there, and the disk was not full."""
    missing_at_full_disk: int = 0
    counted_at_full_disk: float = 0.0
    other_outcome: list[str] = field(default_factory=list)
    """The log says another outcome than the caller was told."""
    attempts_differ: list[str] = field(default_factory=list)
    """The log holds another number of attempts than the caller was told."""
    secrets: list[str] = field(default_factory=list)
    """Where a key stands."""


def examine(
    folders: Iterable[Path],
    acknowledged: Mapping[str, Acknowledged],
    full: Sequence[DiskFull],
    secrets: Iterable[str],
) -> LogFindings:
    """Read everything, and compare."""
    found = LogFindings()
    outcomes: dict[str, str] = {}
    attempts: Counter[str] = Counter()
    for folder in folders:
        _look_for_secrets(folder, secrets, found)
        reading = read(folder)
        for record in reading:
            if record.fields is None:
                continue
            request_id = str(record.fields.get("request_id", ""))
            if record.fields.get("kind") == "attempt":
                attempts[request_id] += 1
            if record.fields.get("kind") != "request":
                continue
            if request_id in outcomes:
                found.twice.append(request_id)
            outcomes[request_id] = str(record.fields["outcome"])
        found.lines += reading.lines
        found.damaged += reading.damaged
        found.files += len(list(folder.glob("usage*.log")))
    found.requests = len(outcomes)
    found.counted_at_full_disk = sum(each.counted for each in full)
    for request_id, told in acknowledged.items():
        _compare(request_id, told, outcomes.get(request_id), attempts[request_id], full, found)
    return found


def _compare(
    request_id: str,
    told: Acknowledged,
    outcome: str | None,
    attempts: int,
    full: Sequence[DiskFull],
    found: LogFindings,
) -> None:
    during = any(each.covers(told.at) for each in full)
    if outcome is None:
        if during:
            found.missing_at_full_disk += 1
        else:
            found.missing.append(request_id)
        return
    if outcome != told.outcome:
        found.other_outcome.append(f"{request_id}: told {told.outcome}, logged {outcome}")
    near = any(each.began - 30 <= told.at <= each.ended + 30 for each in full)
    if told.attempts and attempts != told.attempts and not near:
        found.attempts_differ.append(f"{request_id}: told {told.attempts}, logged {attempts}")


def _look_for_secrets(folder: Path, secrets: Iterable[str], found: LogFindings) -> None:
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if not path.is_file():
            continue
        held = path.read_bytes()
        found.secrets += [f"{path.name} holds {secret}" for secret in secrets if secret.encode() in held]
