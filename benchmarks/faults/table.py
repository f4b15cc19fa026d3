"""Every fault of the stand-in, asked in four ways: what benchmarks/faults runs, and the table it makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.figure import Figure, within
from benchmarks.faults.stage import WAYS, WHOLE, Stage, Told
from fallback.standin import FAULT_KINDS, Fault, FaultKind, load_cases, refused_port

IMMEDIATE, SLOW, BULKY = "immediate", "slow", "bulky"
STAGGER_S = 0.1
"""Between the starts of slow rows, which would else all wait for one another first."""
CASES = Path(__file__).resolve().parent.parent.parent / "tests" / "wire_cases.yaml"
RETRY_WAIT_S = 0.33
"""The wait before a retry: 0.2 s and up to half of it, or the 0.3 s that a row asks for and up to a tenth."""
IN_MID_STREAM = ("stall after 40", "keepalives without end after 40", "trickle, 100 bytes in 1 s")
ALONGSIDE = 3
"""So many quick requests run at a time: more would only measure each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault of the first provider. `both`: the second one does the same."""

    label: str
    fault: Fault | None
    speed: str = IMMEDIATE
    """`immediate`: it shows at once; `slow`: after a limit; `bulky`: after very many bytes."""
    expected: str = "whole"
    both: bool = False
    second: dict[str, Any] | None = None
    """Settings of the second provider."""
    text: str | None = WHOLE
    """What a whole answer says; None: it is not looked at."""
    excused: str = ""
    """Another outcome that is right where it comes streamed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One row asked in one way."""

    row: Row
    way: str
    told: Told
    first: int
    """Requests that the first provider got, and the second."""
    second: int

    @property
    def as_it_must_be(self) -> bool:
        """Whether the caller got the whole answer, or the one clean error that is its own."""
        outcome = self.told.outcome
        if outcome == "error: stream_broken":  # what the API says of any error after the first word
            outcome = self.row.excused or self.row.expected.replace("whole", outcome)
        return outcome == self.row.expected or (outcome == self.row.excused and self.way.endswith("streamed"))


def _row(label: str, kind: FaultKind, speed: str = IMMEDIATE, **settings: Any) -> Row:
    return Row(label=label, fault=Fault(kind=kind, **settings), speed=speed)


def _status(status: int, note: str = "", **settings: Any) -> Row:
    return _row(f"status {status}{note}", "status", status=status, **settings)


def _error(code: str) -> str:
    return f'{{"error": {{"message": "no", "code": "{code}"}}}}'


_TOO_LONG = _error("context_length_exceeded")
STATUSES = (
    *(_status(status) for status in (400, 401, 402, 403, 404, 408, 409, 413, 422, 429)),
    _status(429, ", Retry-After 0.3", retry_after="0.3"),
    _status(429, ", Retry-After 8", retry_after="8"),
    *(_status(status) for status in (498, 500, 502, 503, 504, 520, 524, 529)),
    _status(403, ", a page", html=True),
    _status(503, ", a page", html=True),
    _status(400, ", model retired", body=_error("model_decommissioned")),
    _status(400, ", context exceeded", body=_TOO_LONG),
    _status(500, ", not JSON", body="{", content_type="application/json"),
)
CALLERS_OWN = (
    Row(
        label="status 400 from both",
        fault=Fault(kind="status", status=400),
        expected="error: invalid_request",
        both=True,
    ),
    Row(
        label="context exceeded at both",
        fault=Fault(kind="status", status=400, body=_TOO_LONG),
        expected="error: context_window_exceeded",
        both=True,
    ),
    Row(label="content_filter", fault=Fault(kind="content_filter"), expected="error: content_policy"),
    Row(
        label="content_filter after 40",
        fault=Fault(kind="content_filter", after_words=40),
        expected="error: content_policy",
    ),
)
BEFORE_ANY_TEXT = (
    _row("echo_key", "echo_key"),
    _row("redirect", "redirect", location="http://127.0.0.1:9/elsewhere"),
    _row("html", "html"),
    _row("error_200", "error_200"),
    _row("empty_body", "empty_body"),
    _row("reset", "reset"),
    _row("close", "close"),
    _row("garbage", "garbage"),
    Row(label="refused port", fault=None),
    _row("empty", "empty"),
    _row("empty, blanks", "empty", text="  \n "),
    _row("no_choices", "no_choices"),
    _row("wrong_type", "wrong_type"),
    _row("truncated_json", "truncated_json"),
    _row("bad_gzip", "bad_gzip"),
    _row("error_event, data", "error_event", shape="data"),
    _row("error_event, event", "error_event", shape="event"),
    *(_row(f"cut at 0, {ending}", "cut", ending=ending) for ending in ("eof", "close", "reset")),
)
IN_THE_MIDDLE = (
    *(
        _row(f"cut after 40, {ending}", "cut", after_words=40, ending=ending)
        for ending in ("eof", "close", "reset")
    ),
    _row("error_event after 40, data", "error_event", after_words=40, shape="data"),
    _row("error_event after 40, event", "error_event", after_words=40, shape="event"),
    _row("no_finish", "no_finish"),
)
HARMLESS = (
    _row("none", "none"),
    _row("no_done", "no_done"),
    _row("malformed_event after 20", "malformed_event", after_words=20),
    _row("invalid_utf8 after 20", "invalid_utf8", after_words=20),
    _row("json_for_stream", "json_for_stream"),
    _row("stream_for_json", "stream_for_json"),
    _row("gzip", "gzip"),
    _row("crlf", "crlf"),
    _row("split into single bytes", "split"),
    _row("split into 7 bytes", "split", split_bytes=7),
    _row("keepalives, 5 in 1 s", "keepalives", count=5, interval_s=0.2),
    _row("keepalives after 40, 5 in 1 s", "keepalives", after_words=40, count=5, interval_s=0.2),
    _row("slow_first_token, 3 s", "slow_first_token", SLOW, seconds=3.0),
)
OUT_OF_TIME = (
    _row("hang", "hang", SLOW),
    _row("hang_after_headers", "hang_after_headers", SLOW),
    _row("slow_first_token, 15 s", "slow_first_token", SLOW, seconds=15.0),
    _row("trickle of the headers", "trickle", SLOW, part="headers"),
    _row("trickle, 1 byte in 1 s", "trickle", SLOW),
    _row("trickle, 100 bytes in 1 s", "trickle", SLOW, interval_s=0.01),
    _row("keepalives without end", "keepalives", SLOW),
    _row("stall at 0", "stall", SLOW),
    _row("stall after 40", "stall", SLOW, after_words=40),
    _row("keepalives without end after 40", "keepalives", SLOW, after_words=40),
)
TOO_MUCH = (
    # By the time it is too much the caller has 8 MiB of it, with which nobody could go on.
    Row(
        label="huge_body, 64 MiB",
        fault=Fault(kind="huge_body"),
        speed=BULKY,
        text=None,
        excused="error: malformed_response",
    ),
    _row("endless_line", "endless_line", BULKY),
)
NOT_PREFILLING = tuple(
    Row(label=f"cut after 40, next one {label}", fault=Fault(kind="cut", after_words=40), second=second)
    for label, second in (
        ("ignores a prefill", {"prefill": "ignore"}),
        ("refuses a prefill", {"prefill": "refuse"}),
        ("refuses it and repeats 3 words", {"prefill": "refuse", "overlap_words": 3}),
        ("refuses it and begins anew", {"prefill": "refuse", "on_ask": "ignore"}),
    )
)


def rows() -> tuple[Row, ...]:
    """Return every row. A kind of fault without one is an error."""
    made = (
        *HARMLESS,
        *STATUSES,
        *CALLERS_OWN,
        *BEFORE_ANY_TEXT,
        *IN_THE_MIDDLE,
        *NOT_PREFILLING,
        *OUT_OF_TIME,
        *TOO_MUCH,
    )
    missing = set(FAULT_KINDS) - {row.fault.kind for row in made if row.fault} - {"case"}
    assert not missing, f"no row for {missing}"
    return made


def case_rows() -> tuple[Row, ...]:
    """Return a row for each recorded response of a real provider that is a failure."""
    return tuple(
        Row(
            label=f"case {case.id}",
            fault=Fault(kind="case", case=case),
            speed=SLOW if case.transport else IMMEDIATE,
            # Those that begin to speak say something else than the second provider goes on with.
            text=None if case.stream else WHOLE,
        )
        for case in load_cases(CASES).values()
        if case.transport != "refuse" and case.expect_class not in {"ok", "output_truncated"}
    )


async def run_rows(stage: Stage, wanted: Sequence[Row]) -> list[Asked]:
    """Ask every row in every way: the slow ones side by side, the quick ones a few at a time, the bulky ones alone."""
    turns = {
        IMMEDIATE: asyncio.Semaphore(ALONGSIDE),
        BULKY: asyncio.Semaphore(1),
        SLOW: asyncio.Semaphore(1000),
    }
    tasks = []
    for number, row in enumerate(wanted):
        for way in WAYS:
            name = f"{row.speed}{number}-{WAYS.index(way)}"
            tasks.append(asyncio.create_task(_better(stage, name, row, way, turns[row.speed])))
            await asyncio.sleep(STAGGER_S if row.speed == SLOW else 0)
    return list(await asyncio.gather(*tasks))


async def _better(stage: Stage, name: str, row: Row, way: str, turn: asyncio.Semaphore) -> Asked:
    """Ask a quick row twice and return the faster one, as the machine is shared, or the one that is wrong."""
    rounds = 2 if row.speed == IMMEDIATE else 1
    asked = [await _ask(stage, name, number, row, way, turn) for number in range(rounds)]
    return min(asked, key=lambda each: (each.as_it_must_be, each.told.whole_s))


async def _ask(stage: Stage, name: str, number: int, row: Row, way: str, turn: asyncio.Semaphore) -> Asked:
    first, second = stage.tenant(name, "first"), stage.tenant(name, "second", **(row.second or {}))
    first.always(row.fault)
    if row.both:
        second.always(row.fault)
    earlier = first.counters.requests, second.counters.requests
    with refused_port() as port:
        nowhere = f"http://127.0.0.1:{port}/v1/chat/completions"
        url = first.url if row.fault is not None else nowhere
        scene = stage.scene(f"{name}-{number}", first=url, second=second.url)
        async with turn:
            told = await scene.ask(way, expected=row.text)
    asked = first.counters.requests - earlier[0] if row.fault is not None else len(scene.attempts("first"))
    return Asked(row=row, way=way, told=told, first=asked, second=second.counters.requests - earlier[1])


def figures(asked: Sequence[Asked], healthy: Mapping[str, Told]) -> list[Figure]:
    """Judge what the rows show; `healthy` is the second provider alone, by way."""

    def later_s(group: Sequence[Row]) -> list[float]:
        return [each.told.whole_s - healthy[each.way].whole_s for each in asked if each.row in group]

    quick = [
        each.told.whole_s - healthy[each.way].whole_s - (RETRY_WAIT_S if each.first > 1 else 0.0)
        for each in asked
        if each.row in (*STATUSES, *BEFORE_ANY_TEXT)
    ]
    silent = [
        each.told.first_s or 0.0
        for each in asked
        if each.row in OUT_OF_TIME and each.row.label not in IN_MID_STREAM and each.way.endswith("streamed")
    ]
    broken = [each for each in asked if each.row in (*IN_THE_MIDDLE, *NOT_PREFILLING)]
    stalls = [row for row in OUT_OF_TIME if row.label == "stall after 40"]
    right = sum(each.as_it_must_be for each in asked)
    words = sum(each.told.whole for each in broken)
    return [
        Figure(
            wanted="every fault: the whole answer, or the caller's own error; no truncation, no hang, no garbage",
            measured=f"{right} of {len(asked)}",
            reached=right == len(asked),
        ),
        within(
            "immediate failures: at most 0.3 s later than the healthy one alone, beside a retry's wait",
            quick,
            0.3,
        ),
        within("silent, or endless keep-alives: first token within 10.5 s", silent, 10.5),
        Figure(
            wanted="broken off after 40 of 60 words: each once, in order, however the next one takes a prefill",
            measured=f"{words} of {len(broken)}",
            reached=words == len(broken),
        ),
        within(
            "stalled after 40 of 60 words: at most 10.5 s later than the healthy one alone",
            later_s(stalls),
            10.5,
        ),
    ]
