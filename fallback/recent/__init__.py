"""What the providers did in the last minutes, read from usage.log, so that it is right whichever process wrote the lines.

Theory of operation: `tail` gives the lines that were appended since it was last asked, however the files were renamed
meanwhile; `records` turns their fields into values; `figures` makes rates and quantiles of them, as functions of the
records and the minute; `activity` keeps the records of the last minutes and hands out snapshots. Nothing here depends
on how long the log is: a reading covers at most 4 MiB, and a bounded number of records is kept.

What may not live here: pandas and Streamlit, and figures of more than the last minutes (those are analytics).
"""

from fallback.recent.activity import RecentActivity, RecentSnapshot
from fallback.recent.figures import MinuteOutcomes, ProviderHealth, RequestFigures
from fallback.recent.records import CallRecord, ChangeRecord, LastError, RequestRecord

__all__ = [
    "CallRecord",
    "ChangeRecord",
    "LastError",
    "MinuteOutcomes",
    "ProviderHealth",
    "RecentActivity",
    "RecentSnapshot",
    "RequestFigures",
    "RequestRecord",
]
