"""Whatever a provider sends, the caller gets the whole answer of the next one, memory stays bounded, and nobody waits.

Over real sockets and through both drivers, streamed and plain; the wording of each failure is tested with the decoder.
"""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from asking import DRIVERS, Asking, provider
from raw_server import OK, RawServer, says

from fallback.config import LogSettings, Settings
from fallback.core.errors import FailureKind, StreamBrokenError
from fallback.core.models import Answer, Finished
from fallback.core.policy import RoutingPolicy
from fallback.providers.settings import Secret
from fallback.standin import Fault, StandInThread, Tenant
from fallback.state import MemoryStateStore
from fallback.wiring import assemble

WHOLE = " ".join(f"w{number}" for number in range(1, 61))
K = FailureKind
MIB = 1024 * 1024
POLICY = RoutingPolicy(first_token_timeout_s=0.4, idle_timeout_s=0.3, retry_delay_s=0.0)
SLACK_BYTES = 6 * MIB
"""What a test of 64 MiB may take beside the limit: the pieces on their way, the program itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Two providers in this order, the second one healthy, and one driver that asks them with a real clock."""

    ask: Callable[..., Answer]
    lines: list[Mapping[str, object]]
    second: Tenant

    def outcomes(self) -> list[object]:
        return [line["outcome"] for line in self.lines if line["kind"] == "attempt"]


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        yield server


@pytest.fixture
def first(standin: StandInThread) -> Tenant:
    tenant = standin.tenant("first")
    tenant.reset()
    return tenant


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Stage = Callable[..., Scene]


@pytest.fixture(params=[True, False], ids=["streamed", "plain"])
def stage(request: pytest.FixtureRequest, standin: StandInThread, driver: str) -> Stage:
    def make(url: str, *, policy: RoutingPolicy = POLICY, **settings: Any) -> Scene:
        second = standin.tenant("second")
        second.reset()
        routing = Settings(
            providers=(provider("first", url, **settings), provider("second", second.url)),
            routing=policy,
            log=LogSettings(folder=Path("never-written")),
            source=Path("test.yaml"),
        )
        lines: list[Mapping[str, object]] = []
        asking = Asking(driver, assemble(routing, record=lines.append, store=MemoryStateStore()))

        def ask(**options: Any) -> Answer:
            if not request.param:
                return asking.invoke(**options)
            last = asking.stream(**options)[-1]
            assert isinstance(last, Finished)
            return last.answer

        return Scene(ask=ask, lines=lines, second=second)

    return make


BROKEN: list[tuple[Fault, FailureKind]] = [
    (Fault(kind="garbage"), K.MALFORMED_RESPONSE),
    (Fault(kind="redirect", location="/elsewhere"), K.MALFORMED_RESPONSE),
    (Fault(kind="html"), K.MALFORMED_RESPONSE),
    (Fault(kind="wrong_type"), K.MALFORMED_RESPONSE),
    (Fault(kind="wrong_type", content_type="application/octet-stream"), K.MALFORMED_RESPONSE),
    (Fault(kind="bad_gzip"), K.MALFORMED_RESPONSE),
    (Fault(kind="truncated_json"), K.MALFORMED_RESPONSE),
    (Fault(kind="empty_body"), K.STREAM_TRUNCATED),
    (Fault(kind="no_choices"), K.STREAM_TRUNCATED),
    (Fault(kind="empty"), K.EMPTY_RESPONSE),
    (Fault(kind="empty", text=" \n\t "), K.EMPTY_RESPONSE),
    (Fault(kind="error_200"), K.RATE_LIMITED),
    (Fault(kind="endless_line"), K.MALFORMED_RESPONSE),
    (Fault(kind="keepalives", interval_s=0.02), K.TIMEOUT),
    (Fault(kind="trickle", interval_s=0.02), K.TIMEOUT),
    (Fault(kind="trickle", part="headers", interval_s=0.02), K.TIMEOUT),
    (Fault(kind="hang_after_headers"), K.TIMEOUT),
]


def named(case: Any) -> str:
    fault = case[0] if isinstance(case, tuple) else case
    return "-".join((fault.kind, *map(str, fault.changed().values())))


@pytest.mark.parametrize("case", BROKEN, ids=named)
def test_what_cannot_be_read_is_a_failure_and_the_next_one_answers(
    stage: Stage, first: Tenant, case: tuple[Fault, FailureKind]
) -> None:
    fault, kind = case
    first.always(fault)
    scene = stage(first.url)
    answer = scene.ask()
    assert (answer.text, answer.providers) == (WHOLE, ("second",))
    assert scene.outcomes()[0] == kind
    assert scene.outcomes()[-1] == "ok"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="crlf"),
        Fault(kind="gzip"),
        Fault(kind="split"),
        Fault(kind="split", split_bytes=3),
        Fault(kind="split", split_bytes=61),
        Fault(kind="json_for_stream"),
        Fault(kind="malformed_event", after_words=30),
        Fault(kind="invalid_utf8", after_words=30),
        Fault(kind="no_done"),
        Fault(kind="keepalives", count=5, interval_s=0.01),
        Fault(kind="keepalives", count=5, interval_s=0.01, after_words=30),
    ],
    ids=named,
)
def test_what_can_be_read_is_read_however_it_comes(stage: Stage, first: Tenant, fault: Fault) -> None:
    first.always(fault)
    answer = stage(first.url).ask()
    assert (answer.text, answer.provider) == (WHOLE, "first")


def test_a_stream_where_json_was_asked_for_is_an_answer(stage: Stage, first: Tenant) -> None:
    first.always(Fault(kind="stream_for_json"))
    answer = stage(first.url, stream_upstream=False).ask()
    assert (answer.text, answer.provider) == (WHOLE, "first")
    assert first.last_requests[-1].body.get("stream") in {None, False}


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="truncated_json"),
        Fault(kind="malformed_event"),
        Fault(kind="invalid_utf8"),
        Fault(kind="bad_gzip"),
        Fault(kind="endless_line"),
        Fault(kind="huge_body"),
        Fault(kind="keepalives", interval_s=0.02),
        Fault(kind="trickle", interval_s=0.02),
        Fault(kind="stall", after_words=40),
        Fault(kind="cut", after_words=40),
        Fault(kind="no_choices"),
    ],
    ids=named,
)
def test_a_provider_that_is_asked_plainly_is_survived_as_well(
    stage: Stage, first: Tenant, fault: Fault
) -> None:
    first.always(fault)
    answer = stage(first.url, stream_upstream=False, response_timeout_s=0.4).ask()
    assert (answer.text, answer.providers) == (WHOLE, ("second",))


def test_keep_alives_without_end_after_the_first_words_cost_no_more_than_twice_the_silence_limit(
    stage: Stage, first: Tenant
) -> None:
    first.always(Fault(kind="keepalives", interval_s=0.02, after_words=40))
    scene = stage(first.url)
    assert scene.ask().text == WHOLE
    assert scene.outcomes() == [K.STREAM_STALLED, "ok"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_goes_nowhere_else(stage: Stage, standin: StandInThread, first: Tenant, status: int) -> None:
    elsewhere = standin.tenant("elsewhere")
    elsewhere.reset()
    first.always(Fault(kind="redirect", status=status, location=elsewhere.url))
    assert stage(first.url, api_key=Secret("no-real-key")).ask().provider == "second"
    assert elsewhere.counters.requests == 0
    assert first.counters.requests == 1


def peak_of(work: Callable[[], object]) -> int:
    """Return how many bytes `work` had allocated at its peak."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


LIMIT = RoutingPolicy(
    max_response_bytes=MIB, first_token_timeout_s=20.0, idle_timeout_s=20.0, retry_delay_s=0.0
)


@pytest.mark.parametrize("asked_plainly", [False, True])
def test_memory_stays_bounded_under_an_endless_line(stage: Stage, first: Tenant, asked_plainly: bool) -> None:
    first.always(Fault(kind="endless_line", mib=64))
    scene = stage(first.url, policy=LIMIT, stream_upstream=not asked_plainly)
    assert peak_of(scene.ask) < MIB + SLACK_BYTES
    assert scene.outcomes() == [K.MALFORMED_RESPONSE, "ok"]


def test_memory_stays_bounded_under_a_huge_answer_and_it_is_no_success(stage: Stage, first: Tenant) -> None:
    first.always(Fault(kind="huge_body", mib=64))
    scene = stage(first.url, policy=LIMIT, stream_upstream=False)
    assert peak_of(scene.ask) < MIB + SLACK_BYTES
    assert scene.outcomes() == [K.MALFORMED_RESPONSE, "ok"]


def test_a_huge_stream_is_broken_off_and_never_a_success(
    standin: StandInThread, first: Tenant, driver: str
) -> None:
    first.always(Fault(kind="huge_body", mib=64))
    second = standin.tenant("second")
    second.reset()
    routing = Settings(
        providers=(provider("first", first.url), provider("second", second.url)),
        routing=RoutingPolicy(max_response_bytes=2 * MIB),
        log=LogSettings(folder=Path("never-written")),
        source=Path("test.yaml"),
    )
    asking = Asking(driver, assemble(routing, record=lambda _: None, store=MemoryStateStore()))
    with pytest.raises(StreamBrokenError) as caught:
        asking.stream()
    assert caught.value.kind == K.MALFORMED_RESPONSE
    assert second.counters.requests == 0


def bomb(content_type: bytes, start: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    packed = (
        packer.compress(start) + b"".join(packer.compress(b"x" * MIB) for _ in range(64)) + packer.flush()
    )
    head = b"Content-Type: %b\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % (
        content_type,
        len(packed),
    )
    return OK + head + packed


@pytest.mark.parametrize(
    ("content_type", "start"),
    [(b"text/event-stream", b"data: "), (b"text/event-stream", b": "), (b"application/json", b'{"id": "')],
)
def test_a_bomb_is_not_unpacked(stage: Stage, content_type: bytes, start: bytes) -> None:
    data = bomb(content_type, start)
    assert len(data) < MIB / 4
    with RawServer(says(data)) as server:
        scene = stage(server.url, policy=LIMIT)
        assert peak_of(scene.ask) < MIB + SLACK_BYTES
    assert scene.outcomes() == [K.MALFORMED_RESPONSE, "ok"]


def test_an_error_with_a_bomb_for_a_body_is_judged_by_its_status(stage: Stage) -> None:
    packed = gzip.compress(b'{"error": {"message": "' + b"x" * (64 * MIB))
    head = b"Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(
        packed
    )
    with RawServer(says(b"HTTP/1.1 503 No\r\n" + head + packed)) as server:
        scene = stage(server.url, policy=LIMIT)
        assert peak_of(scene.ask) < MIB + SLACK_BYTES
    assert scene.outcomes() == [K.OVERLOADED, "ok"]


def test_eight_mebibytes_are_the_limit_unless_told_otherwise() -> None:
    assert RoutingPolicy().max_response_bytes == 8 * MIB
