"""The decorator of the values that a request makes many of.

To a type checker `valueclass` is `dataclasses.dataclass`, and with `frozen=True` it makes what nobody may change. At run time the
class is not frozen: an object that is sets each of its fields through `object.__setattr__`, which takes three times as
long as an assignment, and a request makes some twenty of them. It compares and hashes as the frozen one does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["valueclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass as valueclass
else:
    from dataclasses import dataclass

    def valueclass(*, frozen: bool = False, **options):
        """Return the decorator that makes a dataclass with `options`."""
        return dataclass(**options, unsafe_hash=frozen)
