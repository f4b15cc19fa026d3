"""Frames as files: CSV that no spreadsheet takes for formulas, and Parquet."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Final

import pandas as pd
import streamlit as st

__all__ = ["as_csv", "as_parquet", "neutral", "show_downloads"]

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that spreadsheets calculate."""


def neutral(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `frame` with an apostrophe before each text that a spreadsheet would calculate. Numbers stay numbers."""

    def cell(value: object) -> object:
        return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value

    texts = [name for name in frame.columns if not _is_plain(frame[name])]
    safe = frame.assign(**{name: frame[name].map(cell).astype(object) for name in texts})
    return safe.rename(columns={name: cell(name) for name in frame.columns})


def _is_plain(column: pd.Series) -> bool:
    return (
        pd.api.types.is_numeric_dtype(column)
        or pd.api.types.is_bool_dtype(column)
        or pd.api.types.is_datetime64_any_dtype(column)
    )


def as_csv(frame: pd.DataFrame) -> bytes:
    """Return a frame as CSV: UTF-8 with a mark at its beginning, so that spreadsheets see it; instants as ISO 8601 in UTC."""
    instants = {
        name: frame[name].dt.strftime("%Y-%m-%dT%H:%M:%S.%f").str.slice(0, 23) + "Z"
        for name in frame.columns
        if isinstance(frame[name].dtype, pd.DatetimeTZDtype)
    }
    text: str = neutral(frame.assign(**instants)).to_csv(index=False, lineterminator="\r\n")
    return text.encode("utf-8-sig", "replace")


def as_parquet(frame: pd.DataFrame) -> bytes:
    """Return a frame as a Parquet file."""
    file = io.BytesIO()
    frame.to_parquet(file, index=False)
    return file.getvalue()


def show_downloads(frames: Mapping[str, tuple[str, Callable[[], pd.DataFrame]]]) -> None:
    """Draw the choice of a frame and its two buttons. `frames`: by file name, a title, and what makes the frame."""
    with st.popover(
        "Download",
        icon=":material/download:",
        key="analytics_downloads",
        help="Any table behind the charts as a file",
    ):
        chosen = st.selectbox(
            "Table",
            list(frames),
            format_func=lambda name: frames[name][0],
            key="analytics_download",
            help="What is shown now, with the time range and the filters that are set.",
        )
        make = frames[chosen][1]
        with st.container(horizontal=True, gap="small"):
            for kind, write, mime in (
                ("csv", as_csv, "text/csv"),
                ("parquet", as_parquet, "application/octet-stream"),
            ):
                st.download_button(
                    "CSV" if kind == "csv" else "Parquet",
                    data=lambda make=make, write=write: write(make()),  # type: ignore[misc]
                    file_name=f"{chosen}.{kind}",
                    mime=mime,
                    key=f"analytics_download_{kind}",
                    on_click="ignore",
                    help="For spreadsheets. A text that would be a formula gets an apostrophe."
                    if kind == "csv"
                    else "For pandas, DuckDB and the like: every column with its type.",
                )
