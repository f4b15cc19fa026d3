"""From lines of the original text format to the same fields as a line of JSON has.

Theory of operation: those lines tell a request as a story, one after another: "Attempting invocation with" begins it, "Error with"
ends an attempt, "Invoking X as fallback" begins the next, "Successfully generated response" ends it well. They name no request, so
stories that two threads told at once cannot be told apart, and are taken as one after the other. A request that failed is known
to be over only when the next one begins: its row is written with its last error, and taken back if it goes on after all. So the
story that is under way is kept between readings, as JSON.

An attempt that neither failed nor succeeded before the next request began counts as cancelled: the log does not say how it ended.

What may not live here: tables; the new format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime

import orjson

from fallback.core.kinds import FailureKind
from fallback.usage_log.encode import format_ts

__all__ = ["Story", "StoryRow", "Telling", "kind_of_error"]

_STATUS = re.compile(r"\b([45]\d\d)\b")
_KINDS = {
    401: FailureKind.AUTHENTICATION,
    402: FailureKind.QUOTA_EXHAUSTED,
    403: FailureKind.PERMISSION_DENIED,
    404: FailureKind.MODEL_UNAVAILABLE,
    408: FailureKind.TIMEOUT,
    413: FailureKind.REQUEST_TOO_LARGE,
    429: FailureKind.RATE_LIMITED,
    498: FailureKind.OVERLOADED,
    503: FailureKind.OVERLOADED,
    504: FailureKind.TIMEOUT,
    524: FailureKind.TIMEOUT,
    529: FailureKind.OVERLOADED,
}
_UNKNOWN = "unknown"
_MESSAGE_CHARACTERS = 2_000

StoryRow = dict[str, object]
"""Fields as a line of JSON has them, and `line`."""


@dataclass(slots=True, kw_only=True)
class Story:
    """The request that is under way."""

    request_id: str
    began_us: int
    ended_us: int
    """Of its last line."""
    ended_line: int
    attempts: int = 0
    failovers: int = 0
    first_provider: str | None = None
    provider: str | None = None
    """Of the attempt under way; None: between two attempts."""
    model: str | None = None
    attempt_began_us: int = 0
    role: str = "first"
    previous_provider: str | None = None
    previous_error_type: str | None = None
    written_line: int | None = None
    """The line of the row that says it failed; None: there is none."""


@dataclass(slots=True, kw_only=True)
class Telling:
    """Takes one line after the other, and collects the rows that they make."""

    story: Story | None = None
    rows: list[StoryRow] = field(default_factory=list)
    mentions: list[tuple[str, int]] = field(default_factory=list)
    """Request and line, for every line of a request."""
    taken_back: list[int] = field(default_factory=list)
    """Lines whose rows of requests, written at an earlier reading, no longer hold."""

    @classmethod
    def resumed(cls, kept: str | None) -> Telling:
        """Go on where an earlier telling stopped, which gave `kept`."""
        return cls(story=Story(**json.loads(kept)) if kept else None)

    def kept(self) -> str | None:
        """Return what `resumed` takes."""
        return json.dumps(asdict(self.story)) if self.story else None

    def told(self) -> list[tuple[int, bytes]]:
        """Return the rows since the last call, as line numbers and lines of JSON."""
        rows, self.rows = self.rows, []
        return [(line, orjson.dumps(row)) for row in rows if isinstance(line := row.pop("line"), int)]

    def take(self, line: int, fields: Mapping[str, object]) -> None:
        """Take a line that `parse_line` made fields of."""
        provider = fields.get("provider")
        if not isinstance(provider, str):
            return
        ts_us = _microseconds(str(fields["ts"]))
        match fields.get("event"):
            case "attempt":
                self._finish()
                self._begin(provider, ts_us, line, role="first")
            case "failover":
                self._begin(provider, ts_us, line, role="failover")
            case "using" | "using_fallback":
                if self.story and self.story.provider == provider:
                    self.story.model = str(fields.get("model"))
            case "error":
                self._fail(provider, ts_us, line, str(fields.get("error_message", "")))
            case "rescue" | "success":
                self._succeed(provider, ts_us, line, failover=fields["event"] == "rescue")
            case "disabled":
                self._disable(provider, ts_us, line, fields.get("length_s"))
        self._mention(line)

    def _mention(self, line: int) -> None:
        if self.story is not None:
            self.mentions.append((self.story.request_id, line))

    def _begin(self, provider: str, ts_us: int, line: int, *, role: str) -> None:
        story = self.story
        if story is None:
            story = self.story = Story(
                request_id=f"legacy-{ts_us}-{line}", began_us=ts_us, ended_us=ts_us, ended_line=line
            )
        elif story.provider is not None:
            self._end_attempt(story, outcome=FailureKind.CANCELLED, ts_us=ts_us, line=line)
        if story.written_line is not None:
            self._take_back(story.written_line)
            story.written_line = None
        story.first_provider = story.first_provider or provider
        story.provider, story.model, story.role = provider, None, role
        story.attempt_began_us = story.ended_us = ts_us
        story.ended_line = line
        story.attempts += 1
        story.failovers += role == "failover"

    def _fail(self, provider: str, ts_us: int, line: int, message: str) -> None:
        story = self._with_attempt(provider, ts_us, line, role="first")
        kind = kind_of_error(message)
        self._end_attempt(story, outcome=kind, ts_us=ts_us, line=line, message=message)
        self.rows.append(self._request(story, outcome="error", error_type=kind))
        story.written_line = line

    def _succeed(self, provider: str, ts_us: int, line: int, *, failover: bool) -> None:
        story = self._with_attempt(provider, ts_us, line, role="failover" if failover else "first")
        model = story.model
        self._end_attempt(story, outcome="ok", ts_us=ts_us, line=line)
        row = self._request(story, outcome="ok", error_type=None)
        row |= {"provider": provider, "request_model": model, "rescued": story.failovers > 0}
        self.rows.append(row)
        self._mention(line)
        self.story = None

    def _disable(self, provider: str, ts_us: int, line: int, length_s: object) -> None:
        story = self.story
        known = story is not None and story.previous_provider == provider
        self.rows.append(
            {
                **_common(ts_us, line, story.request_id if story and known else None),
                "kind": "state",
                "provider": provider,
                "from": "ready",
                "to": "cooling_down",
                "reason": story.previous_error_type if story and known else None,
                "length_s": length_s,
            }
        )

    def _finish(self) -> None:
        """End the story that is under way: another one begins."""
        story, self.story = self.story, None
        if story is None or story.written_line is not None:
            return
        if story.provider is not None:
            self._end_attempt(
                story, outcome=FailureKind.CANCELLED, ts_us=story.ended_us, line=story.ended_line
            )
        self.rows.append(self._request(story, outcome="cancelled", error_type=FailureKind.CANCELLED))

    def _with_attempt(self, provider: str, ts_us: int, line: int, *, role: str) -> Story:
        """Return the story with an attempt of `provider` under way, begun by this line where no other one says so."""
        if self.story is None or self.story.provider != provider:
            self._begin(provider, ts_us, line, role=role)
        assert self.story is not None  # noqa: S101  # begun
        return self.story

    def _end_attempt(self, story: Story, *, outcome: str, ts_us: int, line: int, message: str = "") -> None:
        failover = story.role == "failover"
        self.rows.append(
            {
                **_common(ts_us, line, story.request_id),
                "kind": "attempt",
                "attempt": story.attempts,
                "role": story.role,
                "provider": story.provider,
                "request_model": story.model,
                "outcome": str(outcome),
                "http_status": _status(message),
                "error_message": message[:_MESSAGE_CHARACTERS] or None,
                "started_s": _seconds(story.began_us, story.attempt_began_us),
                "duration_s": _seconds(story.attempt_began_us, ts_us),
                "previous_provider": story.previous_provider if failover else None,
                "previous_error_type": story.previous_error_type if failover else None,
            }
        )
        story.previous_provider, story.previous_error_type = story.provider, str(outcome)
        story.provider = None
        story.ended_us, story.ended_line = ts_us, line

    def _request(self, story: Story, *, outcome: str, error_type: str | None) -> StoryRow:
        return {
            **_common(story.ended_us, story.ended_line, story.request_id),
            "kind": "request",
            "outcome": outcome,
            "error_type": None if error_type is None else str(error_type),
            "first_provider": story.first_provider,
            "attempts": story.attempts,
            "failovers": story.failovers,
            "rescued": False,
            "duration_s": _seconds(story.began_us, story.ended_us),
        }

    def _take_back(self, line: int) -> None:
        """Forget the row of a request at `line`, here or, where it was written at an earlier reading, in the tables."""
        for place in range(len(self.rows) - 1, -1, -1):
            if self.rows[place]["line"] == line and self.rows[place]["kind"] == "request":
                del self.rows[place]
                return
        self.taken_back.append(line)


def kind_of_error(message: str) -> str:
    """Return the failure kind that an error's text speaks of: its first word, or the HTTP status in it; else "unknown"."""
    first = message.split(maxsplit=1)[0] if message.strip() else ""
    if first in {*FailureKind}:
        return first
    status = _status(message)
    if status is not None:
        default = FailureKind.SERVER_ERROR if status >= 500 else FailureKind.INVALID_REQUEST
        return str(_KINDS.get(status, default))
    lowered = message.lower()
    if "timed out" in lowered or "timeout" in lowered:
        return str(FailureKind.TIMEOUT)
    return str(FailureKind.CONNECTION) if "connection" in lowered else _UNKNOWN


def _common(ts_us: int, line: int, request_id: str | None) -> StoryRow:
    return {
        "schema": 1,
        "ts": format_ts(ts_us / 1e6),
        "line": line,
        "request_id": request_id,
        "source": "legacy",
        "route": "auto",
    }


def _status(message: str) -> int | None:
    found = _STATUS.search(message)
    return int(found[1]) if found else None


def _seconds(begin_us: int, end_us: int) -> float:
    return max(end_us - begin_us, 0) / 1e6


def _microseconds(ts: str) -> int:
    return round(datetime.fromisoformat(ts).timestamp() * 1_000) * 1_000
