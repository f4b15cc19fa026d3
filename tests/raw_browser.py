"""A browser without a window: it keeps cookies, follows nothing by itself, and sends paths as they stand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

_ADDRESSES = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back."""

    status: int
    headers: HTTPMessage
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    @property
    def location(self) -> str | None:
        return self.headers["location"]

    def json(self) -> Any:
        return json.loads(self.content)


class RawBrowser:
    """At an address of its own, as a proxy on this machine tells the program."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.origin = f"http://127.0.0.1:{port}"
        self.cookies: dict[str, str] = {}
        number = next(_ADDRESSES)
        self.headers = {"X-Forwarded-For": f"198.51.{number >> 8}.{number & 255}"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cookies.clear()

    @property
    def cookie_header(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send a request; `path` is a path of the program, or an address on this machine."""
        own = path.startswith("/")
        parts = urlsplit(self.origin if own else path)
        cookies = {"Cookie": self.cookie_header} if own and self.cookies else {}
        connection = HTTPConnection("127.0.0.1", parts.port, timeout=30)
        wanted = path if own else path.removeprefix(f"{parts.scheme}://{parts.netloc}")
        connection.request(method, wanted, body, {**self.headers, **cookies, **(headers or {})})
        answer = connection.getresponse()
        reply = Reply(status=answer.status, headers=answer.msg, content=answer.read())
        connection.close()
        if own:
            self._keep(reply)
        return reply

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return self.send("GET", path, None, headers)

    def page(self, path: str) -> Reply:
        """Get a page, as somebody does who types its address."""
        return self.get(path, {"Accept": "text/html,*/*"})

    def post(self, path: str, fields: Mapping[str, str] | None = None, **headers: str) -> Reply:
        """Send a form; the names of headers with _ for -, by default from a page of the program."""
        given = {name.replace("_", "-"): value for name, value in headers.items()} or {"Origin": self.origin}
        given = {"Content-Type": "application/x-www-form-urlencoded", **given}
        return self.send("POST", path, urlencode(fields or {}).encode(), given)

    def _keep(self, reply: Reply) -> None:
        for header in reply.headers.get_all("set-cookie", ()):
            name, _, value = header.partition(";")[0].partition("=")
            if "max-age=0" in header.lower():
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
