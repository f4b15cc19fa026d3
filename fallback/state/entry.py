"""The values of the state store, and the interface that every kind of store has.

What may not live here: any store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

__all__ = [
    "JSON",
    "TOMBSTONE_S",
    "Claim",
    "Entry",
    "Merge",
    "OnChange",
    "StateStore",
    "Value",
    "checked_by",
    "checked_key",
    "checked_merge",
    "checked_value",
    "decoded_value",
    "encoded_value",
    "keep_latest",
]

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
Value: TypeAlias = Mapping[str, JSON] | None
"""What stands under a key; None: nothing does."""

MAX_KEY_CHARS = 1000
MAX_BY_CHARS = 200
MAX_VALUE_BYTES = 64 * 1024
TOMBSTONE_S = 86_400.0
"""How long a deletion is kept, so that every process hears of it."""

_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What stands under one key. Entries are shared: nobody may change a `value` in place."""

    key: str
    value: Value
    """None: deleted. Such a tombstone is kept for a day, so that other processes learn of it."""
    by: str
    """Who put it, in words."""
    at: float
    """When it was put, in Unix seconds."""
    revision: int
    """The place of the write among all writes of the store, growing; 0: not written yet."""
    origin: str
    """The instance that put it."""


OnChange: TypeAlias = Callable[[Sequence[Entry]], None]

Merge: TypeAlias = Callable[[Entry | None, Value], Value]
"""What shall stand under a key, from what stands there (None: nothing ever did) and what is put.

Pure, quick, and idempotent; it is called under locks, from any thread, and may be called twice for one put.
"""


def keep_latest(existing: Entry | None, value: Value) -> Value:  # noqa: ARG001 - the shape of a Merge
    """Return what is put, whatever stood there."""
    return value


class Claim(Protocol):
    """The right to do something that one process at a time shall do. Of one owner, and safe for threads."""

    def take(self) -> bool:
        """Ask for it, and return whether this owner may go on: False where another one, in whatever process, has it.

        May wait for a disk or a server, 1.5 seconds at most; True as well where nobody can say. It lasts until it is
        given back, or until a few seconds after the end of the process. Taking what one has changes nothing.
        """

    def give_back(self) -> None:
        """Let others have it. Waits for nothing, and changes nothing where it was not taken."""


class StateStore(Protocol):
    """A map that all processes share. Nothing but a wrong argument raises: see `warning`."""

    @property
    def warning(self) -> str | None:
        """Return what people should know about the store, in words; None while all is well."""

    def put(self, key: str, value: Value, *, by: str) -> None:
        """Let `value` stand under `key`, in this process at once, in the others soon; None deletes.

        Raises ValueError for a key that is empty or longer than 1000 characters and for a value that is not a JSON
        object of at most 64 KiB.
        """

    def entries(self) -> Mapping[str, Entry]:
        """Return all that is not deleted, by key, as this process knows it. From memory, and not to be changed."""

    def start(self, on_change: OnChange) -> None:
        """Load what the store holds, tell it to `on_change`, and begin to watch. Raises RuntimeError the second time.

        `on_change` gets the entries that differ from what this process put or was told before, tombstones included,
        without locks held, on a thread of the store's own. A put of this process may overtake the call: what counts
        is `entries()`, so look there, under the lock that you also put under.
        """

    def claim(self, name: str) -> Claim:
        """Return a claim on `name` for one owner, not taken yet."""

    def flush(self, timeout_s: float = 2.0) -> bool:
        """Wait until everything put is written; False where that takes longer than `timeout_s` seconds."""

    def close(self) -> None:
        """Write what is left, for 2 seconds at most, and stop watching. Later puts stay in this process."""


def checked_key(key: str) -> str:
    """Return `key`. Raises ValueError where it is not 1 to 1000 characters of text."""
    if not 1 <= len(key) <= MAX_KEY_CHARS:
        raise ValueError(f"a key has 1 to {MAX_KEY_CHARS} characters, not {len(key)}")
    key.encode()  # lone surrogates: UnicodeEncodeError is a ValueError
    return key


def checked_by(by: str) -> str:
    """Return `by` as text that can be stored: at most 200 characters, lone surrogates replaced."""
    return by[:MAX_BY_CHARS].encode(errors="replace").decode()


def checked_value(value: Value) -> Value:
    """Return a copy of `value` as it comes back from a store. Raises ValueError where it is no JSON object."""
    text = encoded_value(value)
    return None if text is None else decoded_value(text)


def checked_merge(merge: Merge, existing: Entry | None, value: Value) -> Value:
    """Return what `merge` makes of `existing` and `value`, which has been checked. Raises ValueError as `checked_value` does."""
    merged = merge(existing, value)
    if merged is value or (existing is not None and merged is existing.value):
        return merged
    return checked_value(merged)


def encoded_value(value: Value) -> str | None:
    """Return `value` as ASCII JSON, None for None. Raises ValueError where that cannot be or is too long."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f"a value is a JSON object or None, not {type(value).__name__}")
    try:
        text = _ENCODER.encode(dict(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not a JSON object: {error}") from error
    if len(text) > MAX_VALUE_BYTES:
        raise ValueError(f"a value has at most {MAX_VALUE_BYTES} bytes of JSON, not {len(text)}")
    return text


def decoded_value(text: str) -> dict[str, JSON]:
    """Return the JSON object that `text` holds. Raises ValueError where it holds something else."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
