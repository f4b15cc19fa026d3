"""What browsers send to the door: cookies, forms, and where they want to go afterwards; and whether another site made them."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.types import Receive

from fallback.api.errors import Refusal
from fallback.api.limits import LimitedBody
from fallback.config import ApiSettings

__all__ = ["cookies_of", "is_from_here", "local_target", "read_form"]

MAX_TARGET_CHARS = 2000
_FORM = ApiSettings(max_body_bytes=8192, body_timeout_s=10.0)
_NOT_AFTERWARDS = (
    "/sign-in",
    "/sign-out",
    "/auth/",
    "/oauth2callback",
    "/api/",
    "/v1/",
    "/_stcore/",
    "/static/",
)


def local_target(text: str) -> str:
    """Return `text` where it is a path of the dashboard, as ASCII, with its query; else "/"."""
    # Browsers take a backslash for a slash, and two slashes for the beginning of a host; they leave out line ends and tabs.
    good = text.isascii() and text.isprintable() and " " not in text and "\\" not in text
    if not good or len(text) > MAX_TARGET_CHARS or not text.startswith("/") or text.startswith("//"):
        return "/"
    return "/" if text.startswith(_NOT_AFTERWARDS) else text


def cookies_of(headers: Headers) -> Mapping[str, str]:
    """Return the cookies of a request by their names; of one that is sent twice the first."""
    found: dict[str, str] = {}
    for header in headers.getlist("cookie"):
        for pair in header.split(";"):
            name, equals, value = pair.strip().partition("=")
            if equals:
                found.setdefault(name, value.strip('"'))
    return found


def is_from_here(headers: Headers, *, may_hide: bool) -> bool:
    """Return whether a form came from a page of this program. `may_hide`: also where the browser does not say."""
    site = headers.get("sec-fetch-site")
    if site is not None and site not in {"same-origin", "none"}:
        return False
    origin = headers.get("origin")
    if origin is None:
        return True  # no browser leaves it out where a form is posted
    if origin == "null":
        return may_hide
    # Without ports, which a proxy may leave out of Host.
    try:
        return urlsplit(origin).hostname == urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:
        return False


async def read_form(headers: Headers, receive: Receive) -> dict[str, str]:
    """Return the fields of a form. Raises Refusal."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refusal(415, "unsupported_media_type", "send the form as application/x-www-form-urlencoded")
    limited, body = LimitedBody(receive, _FORM), b""
    while True:
        message = await limited()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "invalid_request", "the form did not come to its end")
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    try:
        fields = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=10, errors="strict")
    except ValueError:
        raise Refusal(400, "invalid_request", "the form cannot be read") from None
    return {name: values[0] for name, values in fields.items()}
