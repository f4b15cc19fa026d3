"""What was promised, what was found, and whether that is it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.soak.ledger import Ledger
from benchmarks.soak.logs import DiskFull, LogFindings
from benchmarks.soak.watch import Flat, Sample, flat

__all__ = ["JUDGED_FROM_S", "Run", "Verdict", "complaints", "verdicts"]

JUDGED_FROM_S = 240.0
"""A shorter run says nothing about memory: caches and pools are filling."""
MEMORY_MIB, MEMORY_SHARE = 10.0, 0.10
FILES, THREADS = 24, 4
_COMPLAINT = re.compile(
    r"^(?:Traceback|[\w.]*(?:Error|Exception)\b|Exception ignored|Task (?:exception|was destroyed)|Fatal Python|.*failed with \w+).*",
    re.MULTILINE,
)
WAYS = tuple(
    f"{path} {how}" for path in ("/v1/chat/completions", "/api/generate") for how in ("streamed", "plain")
)


@dataclass(slots=True, kw_only=True)
class Run:
    """Everything that a run found."""

    seconds: float
    ledger: Ledger
    full: Sequence[DiskFull]
    log: LogFindings
    samples: Sequence[Sample]
    agree: bool
    """Whether all workers said the same of the providers, once all was well again."""
    calm_right: int
    calm_asked: int
    left_open: int
    """Calls to providers, and requests, that were still under way when nobody asked any more."""
    redirects_followed: int
    statuses: Sequence[int | None]
    """How each replica ended."""
    told_secrets: Sequence[str] = ()
    """Where a key stands in what the program printed."""
    complaints: Sequence[str] = field(default_factory=list)
    """Exceptions in what the program printed."""
    not_broken: Sequence[str] = ()
    """The events that never came up."""
    workers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One promise. `holds` None: this run was too short to judge it."""

    wanted: str
    found: str
    holds: bool | None
    details: Sequence[str] = ()


def complaints(output: str) -> list[str]:
    """Return the lines of what a program printed that tell of an accident inside it."""
    return _COMPLAINT.findall(output)


def verdicts(run: Run) -> Iterator[Verdict]:
    """Judge a run."""
    yield from _answers(run)
    yield from _lines(run)
    yield from _machine(run)
    yield from _end(run)


def _none(wanted: str, found: str, what: Sequence[str]) -> Verdict:
    return Verdict(wanted=wanted, found=found, holds=not what, details=what[:20])


def _answers(run: Run) -> Iterator[Verdict]:
    ledger = run.ledger
    yield Verdict(
        wanted="no wrong answer: none cut, doubled, mixed up, or without an end",
        found=f"{ledger.wrong_count} in {ledger.total():,} requests",
        holds=ledger.wrong_count == 0,
        details=ledger.wrong,
    )
    right = [ledger.counts[way, "right"] for way in WAYS]
    yield Verdict(
        wanted="answers over every route, some saved by a failover, some continued after a break",
        found=f"{' + '.join(f'{count:,}' for count in right)} right; {ledger.failovers:,} took several calls, {ledger.seams:,} seams",
        holds=min(right) > 0 and ledger.failovers > 0 and (ledger.seams > 0 or run.seconds < JUDGED_FROM_S),
    )
    yield Verdict(
        wanted="everything broke at least once",
        found=f"not yet: {', '.join(run.not_broken)}" if run.not_broken else "it did",
        holds=not run.not_broken if run.seconds >= JUDGED_FROM_S else None,
    )


def _lines(run: Run) -> Iterator[Verdict]:
    log = run.log
    yield _none(
        "every acknowledged answer and error has its line in usage.log",
        f"{len(log.missing)} missing of {len(run.ledger.acknowledged):,}",
        log.missing,
    )
    yield Verdict(
        wanted="what a full disk lost was counted by the program",
        found=f"{log.missing_at_full_disk:,} acknowledged lines lost in {len(run.full)} outages, "
        f"{log.counted_at_full_disk:,.0f} lines of all kinds counted",
        holds=log.missing_at_full_disk <= log.counted_at_full_disk,
    )
    yield _none(
        "no request twice", f"{len(log.twice)} in {log.requests:,}", [*log.twice, *run.ledger.repeated_ids]
    )
    differ = [*log.other_outcome, *log.attempts_differ]
    yield _none(
        "the log says of a request what its caller was told (outcome, attempts)",
        f"{len(differ)} differ",
        differ,
    )
    # A write that the limit cuts leaves a torn line, one of each worker at most; a killed worker may leave one as well.
    allowed = len(run.full) * (run.workers // len(run.statuses)) + len(run.ledger.kills)
    yield Verdict(
        wanted="every line can be read, but for those torn by a full disk or a kill",
        found=f"{log.damaged} torn of {log.lines:,} in {log.files} files; {allowed} allowed",
        holds=log.damaged <= allowed,
    )
    secrets = [*log.secrets, *run.told_secrets]
    yield _none("no key in the logs, the shared state and the output", f"{len(secrets)} places", secrets)


def _flat(wanted: str, unit: str, figure: Flat, run: Run) -> Verdict:
    return Verdict(
        wanted=wanted,
        found=f"{figure.before:.0f} -> {figure.after:.0f}{unit}, peak {figure.peak:.0f}",
        holds=figure.holds if run.seconds >= JUDGED_FROM_S else None,
    )


def _machine(run: Run) -> Iterator[Verdict]:
    if not run.samples:
        yield Verdict(wanted="the spared worker lives", found="it was never seen, or replaced", holds=False)
        return
    memory = flat(run.samples, lambda each: each.memory_mib, margin=MEMORY_MIB, share=MEMORY_SHARE)
    yield _flat(
        f"memory flat, second to last fifth: at most {MEMORY_MIB:.0f} MiB or {MEMORY_SHARE:.0%} more",
        " MiB",
        memory,
        run,
    )
    files = flat(run.samples, lambda each: each.files, margin=FILES)
    yield _flat(f"open files flat: at most {FILES} more", "", files, run)
    threads = flat(run.samples, lambda each: each.threads, margin=THREADS)
    yield _flat(f"threads flat: at most {THREADS} more", "", threads, run)


def _end(run: Run) -> Iterator[Verdict]:
    yield Verdict(
        wanted="all workers agree on switches and states afterwards",
        found="they do" if run.agree else "they do not",
        holds=run.agree,
    )
    yield Verdict(
        wanted="once all is well again, every answer is right",
        found=f"{run.calm_right} of {run.calm_asked}",
        holds=0 < run.calm_asked == run.calm_right,
    )
    yield Verdict(
        wanted="nothing stays open: no request, no call to a provider",
        found=f"{run.left_open} open",
        holds=run.left_open == 0,
    )
    yield Verdict(
        wanted="no redirect of a provider is followed",
        found=f"{run.redirects_followed} followed",
        holds=run.redirects_followed == 0,
    )
    yield _none("no exception in what the program prints", f"{len(run.complaints)}", run.complaints)
    yield Verdict(
        wanted="SIGTERM ends every replica with status 0",
        found=", ".join(str(status) for status in run.statuses),
        holds=all(status == 0 for status in run.statuses),
    )
