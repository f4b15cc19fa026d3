"""One whole answer of a route under /v1, ready to be sent."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import field

import orjson
from starlette.types import Scope, Send

from fallback.api.attend import LINE_KEY, MARKS_KEY
from fallback.api.encode import json_text
from fallback.core.values import valueclass

__all__ = ["Reply", "json_bytes"]

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def json_bytes(value: object) -> bytes:
    """Return `value` as JSON in UTF-8."""
    try:
        return orjson.dumps(value)
    except TypeError:
        # Half of a character, out of a header of a provider, or a provider's numbers beyond 64 bits.
        return json_text(value).encode("utf-8", "replace")


@functools.lru_cache(maxsize=256)
def _line(name: str, value: str) -> bytes:
    """Return one header as it is sent. Raises ValueError where it is none, or more than one."""
    line = f"{name}: {value}".encode("latin-1")
    if _CONTROL.search(line):
        raise ValueError("a header holds a line end or another control character")
    return line + b"\r\n"


@valueclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Status, headers and body."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def sent_at_once(self, scope: Scope) -> bool:
        """Send it over the connection of `scope` itself; False, and nothing sent, where that cannot be."""
        line, marks = scope["state"].get(LINE_KEY), scope["state"].get(MARKS_KEY)
        if line is None or marks is None or self.status == 204 or "connection" in self.headers:
            return False
        headers = [
            b"cache-control: no-store\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            % len(self.body)
        ]
        headers += [_line(name, value) for name, value in self.headers.items()]
        sent: bool = line.answer(scope, self.status, b"".join((*headers, marks)), self.body)
        return sent

    async def send(self, send: Send) -> None:
        """Send it."""
        headers = [(b"cache-control", b"no-store")]
        if self.status != 204:
            headers += [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(self.body)),
            ]
        headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})
