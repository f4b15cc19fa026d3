"""One whole answer of a route under /v1, ready to be sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson
from starlette.types import Send

from fallback.api.encode import json_text

__all__ = ["Reply", "json_bytes"]


def json_bytes(value: object) -> bytes:
    """Return `value` as JSON in UTF-8."""
    try:
        return orjson.dumps(value)
    except TypeError:
        # Half of a character, out of a header of a provider, or a provider's numbers beyond 64 bits.
        return json_text(value).encode("utf-8", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Status, headers and body."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

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
