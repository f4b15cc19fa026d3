"""From rows of the database to frames: with the same columns and types whether or not there are rows.

What may not live here: SQL, and what the columns mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from fallback.analytics.grid import MICRO

__all__ = ["BOOL", "COUNT", "INSTANT", "NUMBER", "TEXT", "WHOLE", "frame", "instants", "ratio", "seconds"]

INSTANT: Final = "datetime64[ns, UTC]"
"""From whole Unix microseconds."""
TEXT: Final = "str"
WHOLE: Final = "int64"
COUNT: Final = "Int64"
"""A whole number that may be missing."""
NUMBER: Final = "float64"
BOOL: Final = "bool"


def frame(rows: Iterable[Sequence[Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """Return `rows` as a frame with the columns and types of `columns`."""
    made = pd.DataFrame([tuple(row) for row in rows], columns=list(columns))
    return made.assign(**{name: _column(made[name], kind) for name, kind in columns.items()})


def instants(microseconds: pd.Series) -> pd.Series:
    """Return instants of whole Unix microseconds."""
    return pd.to_datetime(microseconds.astype(WHOLE), unit="us", utc=True).astype(INSTANT)


def seconds(microseconds: pd.Series) -> pd.Series:
    """Return whole microseconds, which may be missing, in seconds."""
    return microseconds.astype(NUMBER) / MICRO


def ratio(part: pd.Series, whole: pd.Series) -> pd.Series:
    """Return part / whole, NaN where the whole is 0."""
    return part.astype(NUMBER) / whole.astype(NUMBER).replace(0.0, np.nan)


def _column(values: pd.Series, kind: Any) -> pd.Series:
    return instants(values) if kind == INSTANT else values.astype(kind)
