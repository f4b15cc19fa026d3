"""From a window and filters to the sums or rows that a figure is made of, in SQL.

Theory of operation: a figure of counts is made from sums, a quantile from histograms, both of the largest size that the window's
buckets are made up of. Sums know instance, route, source, outcome and the providers that were asked first and that answered; a provider
that took part in between is in the rows alone, so under a filter by provider the few requests with several attempts that the
sums cannot tell about are added from their rows. Histograms know the providers as well, and whether it was a drill; under a
filter by instance, route, source or outcome the rows of the window are used.

What may not live here: what figures mean, and frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fallback.analytics import tables
from fallback.analytics.grid import MICRO
from fallback.analytics.windows import Filters, Window

__all__ = ["Selection", "of_request", "quantiles"]

_DAY_S = 86_400
_FAR_S = 10_000_000 * _DAY_S
"""A whole number of buckets of every size. Added before a division, for that rounds towards zero."""
_RESCUED = "rescued"
_DEGRADED = "degraded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What one figure is made of. `values` belong to the texts of the others."""

    window: Window
    filters: Filters
    values: dict[str, object] = field(default_factory=dict)

    def request_sums(self, *, days: bool = False) -> str:
        """Return the sums of requests, for use in FROM. `days`: they have to fall into local days."""
        level_s = tables.level_of(self.window.bucket_s, self.window.utc_offset_s, days=days)
        chosen = [*self._common(), *self._outcomes()]
        providers = self.filters.providers
        if providers:
            chosen.append(f"({self._took_part()})")
        sums = f"(SELECT * FROM {tables.sums_of('request', level_s, *self._edges())} WHERE {_all(chosen)})"
        if not providers:
            return sums
        between = tables.rows_of("request", self.request_rows()[-1])
        return f"(SELECT * FROM {sums} UNION ALL BY NAME SELECT * FROM {between})"

    def request_durations(self) -> str:
        """Return the histograms of requests that were answered."""
        level_s = tables.level_of(self.window.bucket_s, self.window.utc_offset_s, days=False)
        filters = self.filters
        rows = [f"SELECT * FROM {tables.rows_of('request_duration', which)}" for which in self.request_rows()]
        if level_s is None or (filters.instances or filters.routes or filters.sources or filters.outcomes):
            return f"({' UNION ALL BY NAME '.join(rows)})"
        chosen = self._drills()
        if filters.providers:
            chosen.append(f"({self._took_part()})")
        sums = tables.sums_of("request_duration", level_s, *self._edges())
        whole = f"SELECT * FROM {sums} WHERE {_all(chosen)}"
        # Those of the filter that sums know are the first of the rows.
        return f"({' UNION ALL BY NAME '.join([whole, *rows[1:]])})"

    def request_rows(self) -> list[str]:
        """Return the conditions for the rows of requests; each row fulfils one of them at most.

        Under a filter by provider the last is for those that a provider took part in between, so that only these few are
        looked up.
        """
        chosen = [self._within_rows(), *self._common(), *self._outcomes()]
        if not self.filters.providers:
            return [_all(chosen)]
        named = f"({self._took_part()})"
        return [
            _all([*chosen, named]),
            _all([*chosen, f"NOT coalesce({named}, false)", self._took_part_between()]),
        ]

    def attempt_sums(self, *, days: bool = False) -> str:
        """Return the sums of attempts."""
        level_s = tables.level_of(self.window.bucket_s, self.window.utc_offset_s, days=days)
        sums = tables.sums_of("attempt", level_s, *self._edges())
        return f"(SELECT * FROM {sums} WHERE {_all([*self._common(), *self._providers()])})"

    def attempt_durations(self) -> str:
        """Return the histograms of attempts that answered."""
        level_s = tables.level_of(self.window.bucket_s, self.window.utc_offset_s, days=False)
        filters = self.filters
        if level_s is not None and not (filters.instances or filters.routes or filters.sources):
            sums = tables.sums_of("attempt_duration", level_s, *self._edges())
            return f"(SELECT * FROM {sums} WHERE {_all([*self._drills(), *self._providers()])})"
        which = _all([self._within_rows(), *self._common(), *self._providers()])
        return tables.rows_of("attempt_duration", which)

    def bucket(self, *, days: bool = False) -> str:
        """Return the expression for the beginning of the window's bucket (`days`: local day) in which `bucket` lies."""
        size_s = _DAY_S if days else self.window.bucket_s
        shift_s = self.window.utc_offset_s if days else self.window.shift_s
        return f"((bucket + {shift_s + _FAR_S}) // {size_s} * {size_s} - {shift_s + _FAR_S})"

    def value(self, name: str, value: object) -> str:
        """Return what stands in SQL for `value`."""
        self.values[name] = value
        return f"${name}"

    def _edges(self) -> tuple[int, int]:
        return int(self.window.since), int(self.window.until)

    def _within_rows(self) -> str:
        since_s, until_s = self._edges()
        return f"ts >= {since_s * MICRO} AND ts < {until_s * MICRO}"

    def _one_of(self, name: str, choices: Sequence[str], column: str) -> str:
        values = (self.value(f"{name}_{place}", choice) for place, choice in enumerate(choices))
        return f"{column} IN ({', '.join(values)})"

    def _drills(self) -> list[str]:
        return [] if self.filters.drills else ["NOT drill"]

    def _common(self) -> list[str]:
        chosen = self._drills()
        if self.filters.instances:
            chosen.append(self._one_of("instances", self.filters.instances, "instance"))
        if self.filters.sources:
            chosen.append(self._one_of("sources", self.filters.sources, "source"))
        if self.filters.routes:
            chosen.append(self._one_of("routes", self.filters.routes, "route"))
        return chosen

    def _outcomes(self) -> list[str]:
        wanted = self.filters.outcomes
        if not wanted:
            return []
        chosen = [self._one_of("outcomes", wanted, "outcome")]
        chosen += [flag for flag in (_RESCUED, _DEGRADED) if flag in wanted]
        return [f"({' OR '.join(chosen)})"]

    def _providers(self) -> list[str]:
        return (
            [self._one_of("providers", self.filters.providers, "provider")] if self.filters.providers else []
        )

    def _took_part(self) -> str:
        providers = self.filters.providers
        return " OR ".join(
            self._one_of("providers", providers, name) for name in ("first_provider", "provider")
        )

    def _took_part_between(self) -> str:
        part = self._one_of("providers", self.filters.providers, "provider")
        return f"attempts >= 2 AND {of_request(f'attempt IS DISTINCT FROM 1 AND {part}')}"


def of_request(which: str) -> str:
    """Return the condition for a request that has an attempt for which `which` holds.

    Two instances may give two requests one id, for a caller can name it.
    """
    return (
        f"EXISTS (SELECT 1 FROM attempts AS part WHERE part.request_id = requests.request_id "
        f"AND part.instance IS NOT DISTINCT FROM requests.instance AND {which})"
    )


def quantiles(histogram: str, keys: Sequence[str], percents: Sequence[int]) -> str:
    """Return a query for the quantiles of a histogram (`grid`, `n` and `keys`): keys, n, and p50, ... in microseconds."""
    names = ", ".join(keys)
    among = f"PARTITION BY {names}" if keys else ""
    found = ", ".join(
        f"min(grid) FILTER (upto >= (total * {percent} + 99) // 100) AS p{percent}" for percent in percents
    )
    head = f"{names}, " if keys else ""
    return f"""
        WITH counted AS (SELECT {head}grid, sum(n)::BIGINT AS n FROM {histogram} GROUP BY ALL),
        ranked AS (
            SELECT *, (sum(n) OVER ({among} ORDER BY grid))::BIGINT AS upto, (sum(n) OVER ({among}))::BIGINT AS total
            FROM counted
        )
        SELECT {head}any_value(total) AS n, {found} FROM ranked {f"GROUP BY {names}" if keys else ""}
    """


def _all(conditions: Sequence[str]) -> str:
    return " AND ".join(conditions) or "true"
