"""How much may be asked for at once, and in a minute."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from fallback.api import Program
from fallback.api.errors import Refusal
from fallback.api.limits import MAX_CALLERS, Admission, LimitedBody, Rates, check_length
from fallback.api.server import application
from fallback.config import ApiSettings
from fallback.standin import StandInThread

CONFIG = """
providers:
  - name: groq_llama
    type: groq
    endpoint: {base}/groq_llama/openai/v1/chat/completions
    model: model-a
api: {{{limits}}}
"""


class TestRates:
    def test_so_many_pass_in_a_minute_and_the_next_is_told_how_long_to_wait(self) -> None:
        rates = Rates(3)
        assert [rates.take("a", 600.0 + second) for second in range(3)] == [0, 0, 0]
        wait_s = rates.take("a", 603.0)
        assert 57 <= wait_s <= 117
        assert rates.take("a", 603.0 + wait_s - 1) > 0
        assert rates.take("a", 603.0 + wait_s + 0.001) == 0

    def test_one_caller_does_not_pay_for_another(self) -> None:
        rates = Rates(1)
        assert rates.take("a", 0.0) == 0
        assert rates.take("a", 1.0) > 0
        assert rates.take("b", 1.0) == 0

    def test_callers_are_forgotten_before_they_fill_the_memory(self) -> None:
        rates = Rates(1)
        for number in range(MAX_CALLERS + 5):
            rates.take(str(number), 0.0)
        assert rates.take("0", 0.0) == 0  # forgotten
        assert rates.take(str(MAX_CALLERS), 0.0) > 0

    @given(
        per_minute=st.integers(1, 20),
        steps=st.lists(st.floats(0, 90, allow_nan=False), min_size=1, max_size=200),
    )
    def test_no_sixty_seconds_hold_more_than_twice_the_number_and_waiting_is_enough(
        self, per_minute: int, steps: list[float]
    ) -> None:
        rates, now, passed = Rates(per_minute), 1000.0, []
        for step in steps:
            now += step
            wait_s = rates.take("a", now)
            assert wait_s >= 0
            if wait_s == 0:
                passed.append(now)
            else:
                probe = Rates(per_minute)
                probe._counts = rates._counts.copy()
                assert probe.take("a", now + wait_s + 0.001) == 0
        for minute in {int(instant // 60) for instant in passed}:
            assert sum(int(instant // 60) == minute for instant in passed) <= per_minute
        for instant in passed:
            # The weighing takes the last minute's requests as spread evenly, so this is where it may err most.
            assert sum(instant - 60 < other <= instant for other in passed) < 2 * per_minute + 1


class TestAdmission:
    def test_the_next_one_is_refused_until_somebody_leaves(self) -> None:
        admission = Admission(ApiSettings(max_requests=2))
        admission.enter("a", 0.0)
        admission.enter("b", 0.0)
        with pytest.raises(Refusal) as caught:
            admission.enter("c", 0.0)
        assert (caught.value.status, caught.value.headers) == (503, {"retry-after": "1"})
        admission.leave()
        admission.enter("c", 0.0)
        assert admission.in_flight == 2

    def test_one_who_asks_too_often_is_refused_and_not_counted(self) -> None:
        admission = Admission(ApiSettings(requests_per_minute=1))
        admission.enter("a", 30.0)
        with pytest.raises(Refusal) as caught:
            admission.enter("a", 30.0)
        assert (caught.value.status, caught.value.error_type) == (429, "too_many_requests")
        assert 1 <= int(caught.value.headers["retry-after"]) <= 90
        assert admission.in_flight == 1


def messages(*pieces: bytes) -> Any:
    left = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, 1)
    ]

    async def receive() -> Any:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


async def read(receive: Any) -> bytes:
    whole, more = b"", True
    while more:
        message = await receive()
        whole += message["body"]
        more = message["more_body"]
    return whole


class TestBody:
    def test_a_body_of_just_the_length_passes(self) -> None:
        body = LimitedBody(messages(b"a" * 600, b"b" * 424), ApiSettings(max_body_bytes=1024))
        assert asyncio.run(read(body)) == b"a" * 600 + b"b" * 424

    def test_a_longer_one_is_refused_as_soon_as_it_shows(self) -> None:
        body = LimitedBody(messages(b"a" * 600, b"b" * 425, b"c"), ApiSettings(max_body_bytes=1024))
        with pytest.raises(Refusal, match="larger than 1024 bytes") as caught:
            asyncio.run(read(body))
        assert (caught.value.status, caught.value.headers) == (413, {"connection": "close"})

    def test_one_that_does_not_come_is_refused_in_time(self) -> None:
        async def nothing() -> Any:
            await asyncio.Event().wait()

        body = LimitedBody(nothing, ApiSettings(body_timeout_s=0.01))
        with pytest.raises(Refusal, match=r"may take 0\.01 s") as caught:
            asyncio.run(read(body))
        assert caught.value.status == 408

    @pytest.mark.parametrize("length", [b"1025", b"9" * 400])
    def test_too_long_a_length_is_refused_before_anything_is_read(self, length: bytes) -> None:
        with pytest.raises(Refusal):
            check_length(length, ApiSettings(max_body_bytes=1024))

    @pytest.mark.parametrize("length", [None, b"", b"0", b"1024", b"x"])
    def test_other_lengths_are_left_to_the_reading(self, length: bytes | None) -> None:
        check_length(length, ApiSettings(max_body_bytes=1024))


def program(folder: Path, standin: StandInThread, limits: str) -> Any:
    standin.tenant("groq_llama", dialect="groq", text="Tokyo.")
    file = folder / "providers.yaml"
    file.write_text(CONFIG.format(base=standin.base_url, limits=limits))
    return application(Program(file))


def test_requests_per_minute_are_counted_by_caller_and_not_for_health(tmp_path: Path) -> None:
    with StandInThread() as standin:
        app = program(tmp_path, standin, "requests_per_minute: 2")
        with TestClient(app) as client:
            for _ in range(2):
                assert client.get("/api/providers").status_code == 200
            reply = client.get("/api/providers")
            assert (reply.status_code, reply.json()["error_type"]) == (429, "too_many_requests")
            assert reply.headers["retry-after"].isdigit()
            openai = client.get("/v1/models").json()["error"]
            assert (openai["type"], openai["code"]) == ("rate_limit_error", "rate_limit_exceeded")
            assert client.get("/healthz").status_code == 200
            assert client.get("/readyz").status_code == 200
            assert (
                'fallback_http_refused_total{reason="too_many_requests"} 2.0' in client.get("/metrics").text
            )
