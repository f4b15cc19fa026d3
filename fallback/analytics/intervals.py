"""The states of providers as intervals.

Definitions. A provider has three states at once: that of its drill, that of the whole provider, and that of its models. It is shown
under a drill while one is on; else as the whole provider, where that is anything but ready; else as the last change of one of
its models says, whichever model that was. A probing provider counts as cooling down, a retired model as disabled. A cooldown or a
drill whose length was announced ends with it, whether or not a line says so: without traffic nobody asks, and nobody writes.
Before its first change in the log a provider is shown as that change says it was. A provider without any change is not shown.

What may not live here: figures of attempts.
"""

from __future__ import annotations

import pandas as pd

from fallback.analytics.engine import Analytics
from fallback.analytics.frames import INSTANT, TEXT, frame
from fallback.analytics.grid import MICRO
from fallback.analytics.windows import Filters, Window

__all__ = ["states"]

_STATE = """CASE {0} WHEN 'probing' THEN 'cooling_down' WHEN 'retired' THEN 'disabled' WHEN 'on' THEN 'ready' ELSE {0} END"""

_CHANGES = f"""
    told AS (
        SELECT ts, file, line, provider, {_STATE.format("from_state")} AS before, {_STATE.format("to_state")} AS state,
            coalesce(reason, '') AS reason, length_s,
            CASE WHEN to_state IN ('drill', 'no_drill') THEN 'drill' WHEN model IS NULL THEN 'whole' ELSE 'model' END
                AS layer
        FROM changes WHERE to_state <> 'order' $which
    ),
    earlier AS (
        SELECT unnest(arg_max(told, (ts, file, line))) FROM told WHERE ts < $since GROUP BY provider, layer
    ),
    known AS (SELECT * FROM earlier UNION ALL SELECT * FROM told WHERE ts >= $since AND ts < $until),
    followed AS (
        SELECT *, ts + (length_s * {MICRO})::BIGINT AS over,
            lead(ts) OVER (PARTITION BY provider, layer ORDER BY ts, file, line) AS next
        FROM known
    ),
    events AS (
        SELECT ts, file, line, provider, layer, state, reason FROM followed
        UNION ALL
        SELECT over, file, line, provider, layer, CASE layer WHEN 'drill' THEN 'no_drill' ELSE 'ready' END, ''
        FROM followed
        WHERE state IN ('cooling_down', 'drill') AND over < coalesce(next, $until) AND over < $until
    )
"""
_NOW = """last_value(CASE WHEN layer = '{0}' THEN {1} END IGNORE NULLS) OVER so_far AS {0}_{1}"""
_INTERVALS = f"""
    WITH {_CHANGES},
    layered AS (
        SELECT ts, file, line, provider,
            {", ".join(_NOW.format(layer, name) for layer in ("drill", "whole", "model") for name in ("state", "reason"))}
        FROM events
        WINDOW so_far AS (PARTITION BY provider ORDER BY ts, file, line ROWS UNBOUNDED PRECEDING)
    ),
    shown AS (
        SELECT ts, file, line, provider,
            CASE WHEN drill_state = 'drill' THEN 'drill' WHEN whole_state <> 'ready' THEN whole_state
                ELSE coalesce(model_state, 'ready') END AS state,
            CASE WHEN drill_state = 'drill' THEN drill_reason WHEN whole_state <> 'ready' THEN whole_reason
                ELSE coalesce(model_reason, whole_reason, '') END AS reason
        FROM layered
        UNION ALL
        SELECT $first, -1, -1, provider, CASE arg_min(before, (ts, file, line)) WHEN 'no_drill' THEN 'ready'
            ELSE arg_min(before, (ts, file, line)) END, ''
        FROM told GROUP BY provider HAVING min(ts) > $first
    ),
    lasting AS (
        SELECT *, lead(ts, 1, $end) OVER (PARTITION BY provider ORDER BY ts, file, line) AS next FROM shown
    ),
    changed AS (
        SELECT *, lag(state) OVER (PARTITION BY provider ORDER BY ts, file, line) AS before FROM lasting
        WHERE next > ts AND next > $since
    ),
    cut AS (
        SELECT provider, state, reason, ts, greatest(ts, $since) AS begin,
            lead(ts, 1, $end) OVER (PARTITION BY provider ORDER BY ts, file, line) AS until
        FROM changed WHERE before IS NULL OR before <> state
    )
    SELECT provider, state, begin, least(until, $end), reason FROM cut
    WHERE least(until, $end) > begin ORDER BY provider, begin
"""


def states(analytics: Analytics, window: Window, filters: Filters) -> pd.DataFrame:
    """Return provider, state, begin, end, reason: intervals cut to the window, without overlaps for each provider.

    States: ready, cooling_down, disabled, off, not_configured, drill. Nothing is shown before the log begins, or of the
    future. Of the filters those by provider and by instance count. Raises CacheError.
    """
    coverage = analytics.coverage
    since, until = int(window.since) * MICRO, int(window.until) * MICRO
    first = since if coverage.first_ts is None else max(since, round(coverage.first_ts * MICRO))
    now = max(
        round(analytics.wall() * MICRO),
        since if coverage.last_ts is None else round(coverage.last_ts * MICRO),
    )
    values: dict[str, object] = {"since": since, "until": until, "first": first, "end": min(until, now)}
    which = ""
    if filters.providers:
        which += "AND list_contains($providers, provider) "
        values["providers"] = list(filters.providers)
    if filters.instances:
        which += "AND list_contains($instances, instance)"
        values["instances"] = list(filters.instances)
    rows = analytics.ask(_INTERVALS.replace("$which", which), values)
    kinds = {"provider": TEXT, "state": TEXT, "begin": INSTANT, "end": INSTANT, "reason": TEXT}
    return frame(rows, kinds)
