"""The parts of streamed tool calls, brought into the form that OpenAI's have.

OpenAI numbers the calls of an answer from 0 in `index`, and tells `id`, `type` and the name in the first part of each and
nowhere else: https://platform.openai.com/docs/api-reference/chat-streaming. Clients rely on all of it. Other providers leave
the index out, give every call the same one, have no ids or no type, or say all of it in each part again.

Theory of operation: a part belongs to the call whose id it has; else to the one that stands at its index; without an index to
the last one. A part with a name and an id of its own begins a call, whatever its index says.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["CallOrder"]

_SAID_ONCE = frozenset({"index", "id", "type"})


class CallOrder:
    """Which calls of one choice there are so far."""

    __slots__ = ("_at", "_ids", "_last", "_of_id")

    def __init__(self) -> None:
        self._at: dict[int, int] = {}
        """The number of the call that a provider's index stands for at the moment."""
        self._ids: dict[int, str | None] = {}
        """The id of each call by its number, as the provider told it; None: it has told none."""
        self._of_id: dict[str, int] = {}
        self._last = 0

    def placed(self, parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the parts in OpenAI's form. A call that has no id is given one."""
        return [self._placed(part, position) for position, part in enumerate(parts)]

    def _placed(self, part: Mapping[str, Any], position: int) -> dict[str, Any]:
        told, index = part.get("id"), part.get("index")
        id_ = told if isinstance(told, str) and told else None
        if type(index) is not int or index < 0:
            index = None
        number = self._begun(part, index, position, id_)
        if number is None:
            number = self._last = self._begin(index, id_)
            shown = {**part, "index": number, "id": id_ or f"call_{secrets.token_hex(12)}"}
            if shown.get("type") is None and "function" in part:
                shown["type"] = "function"
            return shown
        self._last = number
        shown = {name: value for name, value in part.items() if name not in _SAID_ONCE}
        function = part.get("function")
        if id_ is not None and id_ == self._ids[number] and isinstance(function, dict):
            shown["function"] = {name: value for name, value in function.items() if name != "name"}
        return {"index": number, **shown}

    def _begun(
        self, part: Mapping[str, Any], index: int | None, position: int, id_: str | None
    ) -> int | None:
        """Return the number of the call that `part` goes on with; None: it begins one."""
        if id_ is not None and id_ in self._of_id:
            return self._of_id[id_]
        function = part.get("function")
        named = isinstance(function, Mapping) and bool(function.get("name"))
        if index is not None:
            number = self._at.get(index)
            new = named and id_ is not None and number is not None and self._ids[number] is not None
            return None if new else number
        if named or id_ is not None or not self._ids:
            return None
        return position if position and position in self._ids else self._last

    def _begin(self, index: int | None, id_: str | None) -> int:
        number = max(self._ids, default=-1) + 1
        if index is not None:
            number = number if index in self._ids else index
            self._at[index] = number
        self._ids[number] = id_
        if id_ is not None:
            self._of_id[id_] = number
        return number
