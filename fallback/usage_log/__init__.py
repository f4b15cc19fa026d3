"""usage.log: what happened, one JSON object a line.

Theory of operation: a line is built as a plain dict by the pure functions of `lines`, turned into at most 64 KiB of
JSON by `encode`, and appended by `writer` with one write on an append-only descriptor, so that any number of threads
and processes share one file without locking each other out. `files` names the rotated files and holds the lock under
which they are renamed; `reader` reads all of them, and `parse` understands a single line, of this format or of the
original text format. docs/usage-log.md lists every field.

What may not live here: what the lines mean (analytics), and anything that could make a request fail because of its log.
"""

from fallback.usage_log.lines import Line, attempt_line, request_line, state_line
from fallback.usage_log.parse import Damaged, parse_line
from fallback.usage_log.reader import Reading, Record, read
from fallback.usage_log.writer import UsageLog

__all__ = [
    "Damaged",
    "Line",
    "Reading",
    "Record",
    "UsageLog",
    "attempt_line",
    "parse_line",
    "read",
    "request_line",
    "state_line",
]
