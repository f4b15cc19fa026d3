"""What the spared worker takes of the machine, looked at once a second."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Flat", "Sample", "flat", "sample"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look: an instant of the monotonic clock, resident memory, open files, threads."""

    at: float
    memory_mib: float
    files: int
    threads: int


def sample(pid: int) -> Sample | None:
    """Look at a process; None where it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        return Sample(
            at=time.monotonic(),
            memory_mib=int(status["VmRSS"].split()[0]) / 1024,
            files=len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 - names are enough
            threads=int(status["Threads"]),
        )
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat:
    """One figure: its median in the second and in the last fifth of the run, its peak, and how much more would be too much."""

    before: float
    after: float
    peak: float
    margin: float

    @property
    def holds(self) -> bool:
        """Whether it has not grown."""
        return self.after <= self.before + self.margin


def flat(
    samples: Sequence[Sample], of: Callable[[Sample], float], *, margin: float, share: float = 0.0
) -> Flat:
    """Compare the second with the last fifth; the larger of `margin` and `share` of the former may be added."""
    fifth = max(1, len(samples) // 5)
    before = statistics.median(of(each) for each in samples[fifth : 2 * fifth] or samples)
    after = statistics.median(of(each) for each in samples[-fifth:])
    peak = max(of(each) for each in samples)
    return Flat(before=before, after=after, peak=peak, margin=max(margin, share * before))
