"""One window of one log: what is in a report, whatever it is written as."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from fallback.analytics import Analytics, Coverage, Filters, Window
from fallback.ui.charts import FIGURES, Canvas
from fallback.ui.charts.words import moment

__all__ = ["Report", "as_json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A window of the log of `analytics` through `filters`. Its frames are asked once each."""

    analytics: Analytics
    window: Window
    filters: Filters
    coverage: Coverage
    until: float
    """Unix seconds that were asked for as the end. The window ends with the bucket that it lies in."""
    providers: tuple[str, ...]
    """Every provider there is, the configured ones first and in their order."""
    _frames: dict[str, pd.DataFrame] = field(default_factory=dict)

    def ask(self, figure: str) -> pd.DataFrame:
        """Return the frame of a figure by its name in FIGURES. Raises CacheError."""
        if figure not in self._frames:
            self._frames[figure] = FIGURES[figure](self.analytics, self.window, self.filters)
        return self._frames[figure]

    def canvas(self, *, dark: bool) -> Canvas:
        """Return what its charts are drawn on."""
        return Canvas(window=self.window, providers=self.providers, dark=dark)

    @property
    def title(self) -> str:
        """What it is about: "What failover did, Mon 23 Nov 16:00 to Tue 24 Nov 16:00"."""
        offset_s = self.window.utc_offset_s
        return f"What failover did, {moment(self.window.since, offset_s)} to {moment(self.until, offset_s)}"

    @property
    def limits(self) -> str:
        """What is left out, in a sentence; "" where nothing is but drills."""
        parts = [
            f"{name} {', '.join(values)}"
            for name, values in (
                ("provider", self.filters.providers),
                ("instance", self.filters.instances),
                ("route", self.filters.routes),
                ("source", self.filters.sources),
            )
            if values
        ]
        drills = "drills included" if self.filters.drills else ""
        only = f"only {'; '.join(parts)}" if parts else ""
        return ", ".join(filter(None, (only, drills)))


def as_json(report: Report) -> str:
    """Return the report as JSON: every figure as a list of rows, instants as ISO 8601 in UTC, missing values as null."""
    window, coverage = report.window, report.coverage
    whole: dict[str, Any] = {
        "since": _instant(window.since),
        "until": _instant(window.until),
        "bucket_s": window.bucket_s,
        "utc_offset_s": window.utc_offset_s,
        "filters": {
            "providers": report.filters.providers,
            "instances": report.filters.instances,
            "routes": report.filters.routes,
            "sources": report.filters.sources,
            "drills": report.filters.drills,
        },
        "log": {
            "lines": coverage.lines,
            "damaged": coverage.damaged,
            "files": coverage.files,
            "bytes": coverage.bytes,
            "warning": coverage.warning,
        },
    }
    for figure in FIGURES:
        rows = json.loads(
            report.ask(figure).to_json(orient="records", date_format="iso", double_precision=15)
        )
        whole[figure] = rows[0] if figure == "totals" else rows
    return json.dumps(whole, ensure_ascii=False, indent=2)


def _instant(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).isoformat().replace("+00:00", "Z")
