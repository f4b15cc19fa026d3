"""A wall clock that can be set, for the processes of the soak: time.time() and time.time_ns() with an offset out of a shared file.

Python imports this by itself where the folder is on PYTHONPATH. The monotonic clocks stay what they are, as they do
when a real clock is set.
"""

import mmap
import os
import struct
import time
from pathlib import Path

_FILE = os.environ.get("SOAK_CLOCK")

if _FILE:
    with Path(_FILE).open("rb") as _opened:
        _offset = mmap.mmap(_opened.fileno(), 8, prot=mmap.PROT_READ)
    _time, _time_ns = time.time, time.time_ns

    def _stepped() -> float:
        return _time() + float(struct.unpack_from("<d", _offset)[0])

    def _stepped_ns() -> int:
        return _time_ns() + int(struct.unpack_from("<d", _offset)[0] * 1e9)

    time.time, time.time_ns = _stepped, _stepped_ns
