"""A state store in one SQLite file, shared by all processes of a machine.

Theory of operation: see `sharing` for the thread, `exchange` for its rounds. A round without news costs one `stat` and one
`PRAGMA data_version`.

What may not live here: SQL, and what the entries mean.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from fallback.state.claims import Claims
from fallback.state.entry import Merge, keep_latest
from fallback.state.exchange import Exchange
from fallback.state.ledger import Ledger
from fallback.state.sharing import SharedStateStore

__all__ = ["SQLiteStateStore"]


class SQLiteStateStore(SharedStateStore):
    """A StateStore in the SQLite file `path`, which is created where there is none. It must be on a local disk.

    `instance` names this process in its entries. `merge` decides what becomes of a put, given what stands there.
    `poll_s` is how many seconds pass between two looks at what others have written. `wall` gives Unix seconds, `clock`
    monotonic ones.
    """

    def __init__(
        self,
        path: Path,
        *,
        instance: str | None = None,
        merge: Merge = keep_latest,
        poll_s: float = 0.25,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        name = instance or f"{os.getpid()}-{secrets.token_hex(3)}"
        ledger, claims = Ledger(instance=name, merge=merge, wall=wall), Claims(clock=clock)
        super().__init__(
            Exchange(path, ledger, claims, wall=wall, clock=clock),
            ledger,
            claims,
            place=str(path),
            poll_s=poll_s,
            named=instance is not None,
        )
