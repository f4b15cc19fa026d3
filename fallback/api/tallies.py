"""Counters and histograms whose cells a request moves by plain addition; prometheus-client writes them out.

Theory of operation: the library's own metrics take a lock and check themselves at every step, eight times a request, which is
a twentieth of what the whole request costs. A cell here belongs to one combination of labels and is looked up once; whoever moves
cells holds the lock of all of them, once for everything that a line of the log moves. At a scrape they become the library's
families, under the same names and in the same text.

https://prometheus.io/docs/instrumenting/writing_clientlibs/
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

__all__ = ["Count", "Counts", "Spread", "Spreads", "Tallies"]

Labels = tuple[str, ...]


class Count:
    """One number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Spread:
    """How often a value fell into each of some ranges, and the sum of all."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count `value` into the range that it is at the end of, or within."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Counts:
    """One counter by its labels."""

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._cells: dict[Labels, Count] = {}

    def of(self, *labels: str) -> Count:
        """Return the cell of these labels."""
        return self._cells.setdefault(labels, Count())

    def family(self) -> Metric:
        """Return what a scrape reads."""
        made = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, cell in self._cells.copy().items():
            made.add_metric(labels, cell.value)
        return made


class Spreads:
    """One histogram by its labels; `bounds` are the upper ends of its ranges, the last one without an end left out."""

    def __init__(self, name: str, text: str, labels: Labels, bounds: tuple[float, ...]) -> None:
        self._name, self._text, self._labels, self._bounds = name, text, labels, bounds
        self._ends = [*map(floatToGoString, bounds), "+Inf"]
        self._cells: dict[Labels, Spread] = {}

    def of(self, *labels: str) -> Spread:
        """Return the cell of these labels."""
        return self._cells.setdefault(labels, Spread(self._bounds))

    def family(self) -> Metric:
        """Return what a scrape reads."""
        made = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, cell in self._cells.copy().items():
            buckets = [*zip(self._ends, map(float, accumulate(cell.counts)), strict=True)]
            made.add_metric(labels, buckets, cell.sum)
        return made


class Tallies:
    """All of them, as a collector of prometheus-client. What moves a cell, or asks for a new one, holds `lock`."""

    def __init__(self, prefix: str) -> None:
        """`prefix` stands before each name."""
        self.lock = threading.RLock()  # an answer that is collected under it may have something to count
        self._prefix = prefix
        self._all: list[Counts | Spreads] = []

    def counts(self, name: str, text: str, *labels: str) -> Counts:
        """Define a counter."""
        made = Counts(f"{self._prefix}_{name}", text, labels)
        self._all.append(made)
        return made

    def spreads(self, name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Spreads:
        """Define a histogram."""
        made = Spreads(f"{self._prefix}_{name}", text, labels, bounds)
        self._all.append(made)
        return made

    def collect(self) -> Iterator[Metric]:
        """Return the families, each as it stands at one and the same moment."""
        with self.lock:
            families = [each.family() for each in self._all]
        return iter(families)
