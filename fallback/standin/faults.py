"""What a tenant of the stand-in can be told to do wrong.

A refused connection is not among the faults: nothing listens then. `refused_port()` gives such a port.
"""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, get_args

from fallback.standin.cases import Case

FaultKind = Literal[
    "none",
    "status",
    "echo_key",
    "redirect",
    "html",
    "error_200",
    "empty_body",
    "reset",
    "close",
    "garbage",
    "hang",
    "hang_after_headers",
    "slow_first_token",
    "trickle",
    "stall",
    "cut",
    "error_event",
    "malformed_event",
    "invalid_utf8",
    "no_finish",
    "no_done",
    "content_filter",
    "empty",
    "no_choices",
    "wrong_type",
    "json_for_stream",
    "stream_for_json",
    "truncated_json",
    "huge_body",
    "endless_line",
    "keepalives",
    "gzip",
    "bad_gzip",
    "crlf",
    "split",
    "case",
]
LONGEST_SILENCE_S = 600.0
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

# Which settings mean something for a kind; any other one that is set is a mistake of the caller's.
_USED: dict[FaultKind, str] = {
    "status": "status body headers content_type html retry_after",
    "echo_key": "status headers",
    "redirect": "status location",
    "html": "body",
    "error_200": "status body",
    "garbage": "body",
    "hang": "seconds",
    "hang_after_headers": "seconds",
    "slow_first_token": "seconds",
    "trickle": "part interval_s",
    "stall": "after_words seconds",
    "cut": "after_words ending",
    "error_event": "after_words shape status body",
    "malformed_event": "after_words",
    "invalid_utf8": "after_words",
    "content_filter": "after_words",
    "empty": "text",
    "wrong_type": "content_type",
    "huge_body": "mib",
    "endless_line": "mib",
    "keepalives": "after_words count interval_s",
    "split": "split_bytes interval_s",
    "case": "case",
}

# These answer or break without looking at what was asked, so a refusal of the request does not come before them.
ANSWERLESS: frozenset[FaultKind] = frozenset(
    {
        "status",
        "echo_key",
        "redirect",
        "html",
        "error_200",
        "empty_body",
        "reset",
        "close",
        "garbage",
        "hang",
        "case",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to misbehave. A setting that its kind has no use for raises ValueError.

    kind                what happens; on a stream / on a plain answer where the two differ
    status              `status` answers with this status (required); `echo_key` 401 with the caller's key in the message;
                        `redirect` 302 to `location`; `html` a page with 200; `error_200` 200 whose error.code is this
                        number (429); `empty_body` 200 and no byte of a body
    reset, close        the connection ends before headers, with RST or with FIN
    garbage             bytes that are not HTTP, then FIN
    hang                silence before headers; `hang_after_headers` after them; both for `seconds` (600), then FIN
    slow_first_token    `seconds` before the first event (headers at once) / before the headers
    trickle             one byte every `interval_s` (1), of the headers or the body (`part`)
    stall               silence for `seconds` after `after_words` words / after that share of the body
    cut                 ends after `after_words` words without finish_reason and [DONE] / after that share of the body.
                        `ending`: "eof" well framed, "close" FIN inside the framing, "reset" RST
    error_event         an error after `after_words` words, as `event: error` or as a data line (`shape`), with
                        status_code `status` (503) and the JSON object `body` if given / 200 with an error body
    malformed_event     an event cut inside its JSON among the good ones / a body that is not JSON
    invalid_utf8        an additional event with bytes that are not UTF-8 / the same inside the body
    no_finish, no_done  no finish_reason but [DONE]; finish_reason but no [DONE] (nothing changes on a plain answer)
    content_filter      ends after `after_words` words with finish_reason content_filter
    empty, no_choices   the text is `text` ("", or blanks); `choices` is []
    wrong_type          a good answer under `content_type` (text/plain)
    json_for_stream, stream_for_json    a good answer of the other form; nothing changes where that form was asked for
    truncated_json      a plain answer whose content-length promises more than is sent
    huge_body           an answer of `mib` MiB (64); `endless_line` a line without end, `mib` MiB (1024) at most
    keepalives          SSE comments after `after_words` words / newlines before the body, every `interval_s`, `count` of them
                        and then the rest of the answer; None: for ever
    gzip, bad_gzip      content-encoding: gzip, true or a lie
    crlf, split         events with CRLF; the body in pieces of `split_bytes` bytes, `interval_s` apart
    case                a recorded response, byte for byte
    """

    kind: FaultKind
    status: int | None = None
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    html: bool = False
    retry_after: str | None = None
    location: str | None = None
    seconds: float | None = None
    interval_s: float | None = None
    part: Literal["headers", "body"] = "body"
    after_words: int = 0
    ending: Literal["eof", "close", "reset"] = "eof"
    shape: Literal["event", "data"] = "data"
    text: str = ""
    mib: int | None = None
    count: int | None = None
    split_bytes: int = 1
    case: Case | None = None

    def __post_init__(self) -> None:
        if self.kind not in FAULT_KINDS:
            raise ValueError(f"unknown fault {self.kind!r}; known: {', '.join(FAULT_KINDS)}")
        used = _USED.get(self.kind, "").split()
        for name in self.changed():
            if name not in used:
                raise ValueError(
                    f"fault {self.kind!r} has no setting {name!r}; it has: {', '.join(used) or 'none'}"
                )
        self._check_values()

    def _check_values(self) -> None:
        if self.kind == "status" and self.status is None:
            raise ValueError("fault 'status' needs a status")
        if self.status is not None and not 200 <= self.status <= 999:
            raise ValueError(f"status: expected 200 to 999, got {self.status!r}")
        if self.kind == "redirect" and self.location is None:
            raise ValueError("fault 'redirect' needs a location")
        if self.kind == "case" and (self.case is None or self.case.transport == "refuse"):
            raise ValueError(
                "fault 'case' needs a case that something serves; for a refused one use refused_port()"
            )
        for name, choices in (
            ("part", ("headers", "body")),
            ("ending", ("eof", "close", "reset")),
            ("shape", ("event", "data")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("seconds", "interval_s", "after_words", "mib", "count"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name}: expected a number >= 0, got {value!r}")
        if self.split_bytes < 1:
            raise ValueError(f"split_bytes: expected a number >= 1, got {self.split_bytes!r}")

    def changed(self) -> dict[str, Any]:
        """Give the settings that differ from their defaults, `kind` left out."""
        found: dict[str, Any] = {}
        for spec in fields(self):
            default = spec.default if spec.default is not MISSING else {}
            if spec.name != "kind" and getattr(self, spec.name) != default:
                found[spec.name] = getattr(self, spec.name)
        return found

    def to_json(self) -> dict[str, Any]:
        """Give the object that `fault_from_json` reads; a case is named by its id."""
        found = self.changed()
        if self.case is not None:
            found["case"] = self.case.id
        return {"kind": self.kind, **found}


def fault_from_json(value: object, cases: Mapping[str, Case]) -> Fault | None:
    """Read a fault from a JSON object (null: no fault), its `case` an id among `cases`; ValueError says what is wrong."""
    if value is None:
        return None
    if not isinstance(value, dict) or "kind" not in value:
        raise ValueError(f"expected an object with a kind, got {value!r}")
    settings = dict(value)
    if "case" in settings:
        if settings["case"] not in cases:
            raise ValueError(f"unknown case {settings['case']!r}; {len(cases)} cases are loaded")
        settings["case"] = cases[settings["case"]]
    try:
        return Fault(**settings)
    except TypeError as error:
        raise ValueError(str(error)) from error


@contextmanager
def refused_port() -> Iterator[int]:
    """Give a port of 127.0.0.1 on which nothing listens, held so that nobody else takes it meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        yield port
