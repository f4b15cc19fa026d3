"""Traces and metrics for a collector: what is in them, what never is, and that no request notices the collector."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from collector import Collector, Manner, attributes, collecting
from starlette.testclient import TestClient

import fallback.config.telemetry
from fallback.api import Program
from fallback.api.body import traceparent_of
from fallback.api.server import application
from fallback.config import TelemetrySettings, load
from fallback.config.telemetry import read_telemetry
from fallback.core.errors import ConfigError, FailureKind, Problem
from fallback.providers.settings import ModelSettings, ProviderSettings
from fallback.standin import Fault, StandInThread
from fallback.telemetry import Telemetry

ROOT = Path(__file__).resolve().parents[1]
NOW = 1_795_000_000.0
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET_WORDS = "xyzzy-plugh"
PROVIDERS = (
    ProviderSettings(
        name="groq_llama", type="groq", endpoint="https://api.groq.com/openai/v1/chat/completions",
        models=(ModelSettings(name="model-a"),),
    ),
    ProviderSettings(
        name="together_llama", type="together", endpoint="http://127.0.0.1:8000/v1/chat/completions",
        models=(ModelSettings(name="model-b"),),
    ),
)  # fmt: skip
CONFIG = """
providers:
  - {{name: groq_llama, type: groq, endpoint: '{base}/groq_llama/openai/v1/chat/completions', model: model-a}}
  - {{name: together_llama, type: together, endpoint: '{base}/together_llama/v1/chat/completions', model: model-b}}
routing: {{retries: 0}}
log_content: true
"""

Start = Callable[..., Telemetry]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without variables of OpenTelemetry, and leave none behind."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    for name in ("ENDPOINT", "HEADERS", "TIMEOUT", "TRACES_ENDPOINT"):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", "x")
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}")


@pytest.fixture
def start(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Give a function that begins to export to the collector; variables without OTEL_."""
    begun: list[Telemetry] = []

    def begin(**variables: str) -> Telemetry:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        for name, value in variables.items():
            monkeypatch.setenv(f"OTEL_{name}", value)
        wanted = {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}
        telemetry = Telemetry(settings_of(**wanted), PROVIDERS, instance="replica-a", wall=lambda: NOW)
        telemetry.start()
        begun.append(telemetry)
        return telemetry

    yield begin
    for telemetry in begun:
        telemetry.close(0.0)


def settings_of(**variables: str) -> TelemetrySettings:
    problems: list[Problem] = []
    found = read_telemetry(variables, problems)
    assert not problems
    assert found is not None
    return found


def complaints(**variables: str) -> list[str]:
    problems: list[Problem] = []
    read_telemetry(variables, problems)
    return [problem.path for problem in problems]


def rescued_request(request_id: str = "req_1", **fields: object) -> list[dict[str, object]]:
    """A request of 2 s that ends at NOW: its first attempt failed after 0.5 s."""
    common = {"request_id": request_id, "source": "api", "route": "auto", "stream": True, "drill": False}
    return [
        {
            **common, "kind": "attempt", "attempt": 1, "role": "first", "provider": "groq_llama",
            "request_model": "model-a", "outcome": "rate_limited", "error_type": "rate_limited", "http_status": 429,
            "error_message": SECRET_WORDS, "error_code": SECRET_WORDS, "retry_after_s": 7.5, "cooldown_s": 8.0,
            "started_s": 0.1, "duration_s": 0.4, "probe": False,
        },
        {
            **common, "kind": "attempt", "attempt": 2, "role": "failover", "provider": "together_llama",
            "previous_provider": "groq_llama", "previous_error_type": "rate_limited", "request_model": "model-b",
            "response_model": "model-b-turbo", "outcome": "ok", "started_s": 0.5, "duration_s": 1.5,
            "time_to_first_token_s": 0.25, "input_tokens": 11, "output_tokens": 7, "reasoning_tokens": 2,
            "cached_tokens": 3, "cost_usd": 0.002, "finish_reason": "stop", "probe": False,
        },
        {
            **common, "kind": "request", "outcome": "ok", "provider": "together_llama", "request_model": "model-b",
            "response_model": "model-b-turbo", "first_provider": "groq_llama", "attempts": 2, "failovers": 1,
            "rescued": True, "degraded": False, "duration_s": 2.0, "time_to_first_token_s": 0.75, "input_tokens": 11,
            "output_tokens": 7, "cost_usd": 0.002, "finish_reason": "stop",
            "prompt": [{"role": "user", "content": SECRET_WORDS}], "response": SECRET_WORDS, **fields,
        },
    ]  # fmt: skip


def taken(telemetry: Telemetry, *lines: dict[str, object]) -> Telemetry:
    """Hand the lines over, and wait until they are out."""
    for line in lines:
        telemetry.take(line)
    telemetry.close(30.0)
    return telemetry


# --- spans ---


def test_a_request_is_a_span_with_a_child_for_each_attempt(start: Start, collector: Collector) -> None:
    taken(start(), *rescued_request())
    by_name = {span.name: span for span in collector.spans}
    assert set(by_name) == {"chat", "chat model-a", "chat model-b"}
    whole, first, second = by_name["chat"], by_name["chat model-a"], by_name["chat model-b"]
    assert {span.trace_id for span in by_name.values()} == {whole.trace_id}
    assert whole.parent_span_id == b""
    assert first.parent_span_id == second.parent_span_id == whole.span_id
    kind = type(whole)
    assert (whole.kind, first.kind) == (kind.SPAN_KIND_SERVER, kind.SPAN_KIND_CLIENT)
    begin, end = whole.start_time_unix_nano, whole.end_time_unix_nano
    assert (begin, end) == (pytest.approx((NOW - 2) * 1e9, abs=1000), pytest.approx(NOW * 1e9, abs=1000))
    assert first.start_time_unix_nano - begin == pytest.approx(0.1e9, abs=1000)
    assert first.end_time_unix_nano - begin == pytest.approx(0.5e9, abs=1000)
    assert second.end_time_unix_nano == pytest.approx(end, abs=1000)
    assert (whole.status.code, first.status.code, second.status.code) == (0, 2, 0)


def test_attempts_have_the_attributes_of_the_conventions(start: Start, collector: Collector) -> None:
    taken(start(), *rescued_request())
    first, second, whole = (attributes(span) for span in collector.spans)
    assert first == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "groq",
        "gen_ai.request.model": "model-a",
        "gen_ai.request.stream": True,
        "server.address": "api.groq.com",
        "server.port": 443,
        "error.type": "rate_limited",
        "http.response.status_code": 429,
        "fallback.request_id": "req_1",
        "fallback.source": "api",
        "fallback.route": "auto",
        "fallback.provider": "groq_llama",
        "fallback.attempt": 1,
        "fallback.role": "first",
        "fallback.retry_after_s": 7.5,
        "fallback.cooldown_s": 8.0,
    }
    assert second["gen_ai.response.model"] == "model-b-turbo"
    assert second["gen_ai.response.finish_reasons"] == ["stop"]
    assert second["gen_ai.response.time_to_first_chunk"] == 0.25
    assert second["gen_ai.usage.input_tokens"] == 11
    assert second["gen_ai.usage.output_tokens"] == 7
    assert second["gen_ai.usage.reasoning.output_tokens"] == 2
    assert second["gen_ai.usage.cache_read.input_tokens"] == 3
    assert (second["server.address"], second["server.port"]) == ("127.0.0.1", 8000)
    assert second["fallback.previous_error_type"] == "rate_limited"
    assert whole["gen_ai.provider.name"] == "together"
    assert (whole["fallback.rescued"], whole["fallback.failovers"]) == (True, 1)
    assert not [name for name in whole if name.startswith("gen_ai.usage")]
    assert whole["fallback.usage.input_tokens"] == 11
    (resource,) = collector.resources
    assert (resource["service.name"], resource["service.instance.id"]) == ("llm-fallback", "replica-a")


def test_no_content_and_no_words_of_an_error_are_exported(start: Start, collector: Collector) -> None:
    telemetry = taken(start(), *rescued_request())
    assert telemetry.exported == 3
    assert not [path for path, body in collector.bodies if SECRET_WORDS.encode() in body]


def test_names_that_no_encoding_holds_or_that_never_end_cost_no_span(
    start: Start, collector: Collector
) -> None:
    hostile = {
        "response_model": "m\ud800" + "x" * 10_000,
        "request_model": "\udfff",
        "finish_reason": "\ud800",
    }
    telemetry = taken(start(), *({**line, **hostile} for line in rescued_request()))
    assert (telemetry.exported, telemetry.lost) == (3, 0)
    assert attributes(collector.spans[0])["gen_ai.response.model"] == "m\ufffd" + "x" * 254


def test_the_callers_trace_goes_on(start: Start, collector: Collector) -> None:
    taken(start(), *rescued_request(traceparent=f"00-{TRACE}-{PARENT}-01"))
    whole = next(span for span in collector.spans if span.name == "chat")
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert whole.parent_span_id.hex() == PARENT


def test_a_trace_that_the_caller_does_not_keep_is_not_exported(start: Start, collector: Collector) -> None:
    lines = [
        *rescued_request("req_1", traceparent=f"00-{TRACE}-{PARENT}-00"),
        *rescued_request("req_2"),
    ]
    assert taken(start(), *lines).exported == 3
    assert TRACE not in {span.trace_id.hex() for span in collector.spans}


def test_attempts_of_requests_at_once_keep_apart(start: Start, collector: Collector) -> None:
    one, two = rescued_request("req_1"), rescued_request("req_2")
    mixed = [line for pair in zip(one, two, strict=True) for line in pair]
    taken(start(), *mixed)
    traces: dict[str, set[object]] = {}
    for span in collector.spans:
        traces.setdefault(span.trace_id.hex(), set()).add(attributes(span)["fallback.request_id"])
    assert sorted(traces.values(), key=str) == [{"req_1"}, {"req_2"}]


def test_a_probe_is_a_span_of_its_own(start: Start, collector: Collector) -> None:
    probe = {**rescued_request("req_p")[0], "source": "probe"}
    taken(start(), probe)
    (span,) = collector.spans
    assert (span.name, span.parent_span_id) == ("chat model-a", b"")


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        (f"00-{TRACE}-{PARENT}-01", True),
        (f"cc-{TRACE}-{PARENT}-01-what-comes-later", True),
        (f"00-{TRACE}-{PARENT}-01-more", False),
        (f"ff-{TRACE}-{PARENT}-01", False),
        (f"00-{'0' * 32}-{PARENT}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{PARENT}-01", False),
        (f"cc-{TRACE}-{PARENT}-01.more", False),
        ("", False),
        ("00-" + "1" * 100_000, False),
    ],
)
def test_a_traceparent_is_taken_as_the_standard_says(header: str, kept: bool) -> None:
    found = traceparent_of({b"traceparent": header.encode()})
    assert found == (header[:55] if kept else None)
    assert traceparent_of({}) is None


# --- metrics ---


def test_metrics_are_those_of_the_conventions(start: Start, collector: Collector) -> None:
    taken(start(), *rescued_request())
    durations = {attributes(point)["gen_ai.request.model"]: point for point in collector.points("gen_ai.client.operation.duration")}  # fmt: skip
    assert durations["model-a"].sum == pytest.approx(0.4)
    assert attributes(durations["model-a"])["error.type"] == "rate_limited"
    assert "error.type" not in attributes(durations["model-b"])
    assert list(durations["model-a"].explicit_bounds)[:3] == [0.01, 0.02, 0.04]
    tokens = {
        attributes(point)["gen_ai.token.type"]: point.sum
        for point in collector.points("gen_ai.client.token.usage")
    }
    assert tokens == {"input": 11, "output": 7}
    (first_chunk,) = collector.points("gen_ai.client.operation.time_to_first_chunk")
    assert first_chunk.sum == 0.25
    (request,) = collector.points("fallback.request.duration")
    assert (request.sum, attributes(request)["fallback.rescued"]) == (2.0, True)
    (failover,) = collector.points("fallback.failovers")
    assert (failover.as_int, attributes(failover)["fallback.previous_provider"]) == (1, "groq_llama")


def test_names_from_outside_make_no_series(start: Start, collector: Collector) -> None:
    lines = [
        {**line, "provider": f"p{number}", "request_model": f"m{number}", "error_type": f"e{number}"}
        for number in range(50)
        for line in rescued_request(f"req_{number}")
    ]
    taken(start(), *lines)
    points = collector.points("gen_ai.client.operation.duration")
    assert {attributes(point)["gen_ai.request.model"] for point in points} == {"other"}
    assert {attributes(point)["error.type"] for point in points} == {"_OTHER"}


# --- settings ---


def test_nothing_is_exported_unless_a_collector_is_named() -> None:
    assert read_telemetry({"OTEL_SERVICE_NAME": "x"}, []) is None
    assert (
        read_telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "TRUE"}, [])
        is None
    )


def test_signals_are_turned_on_and_off_one_by_one() -> None:
    whole = settings_of(OTEL_EXPORTER_OTLP_ENDPOINT="http://c:4318")
    assert (whole.traces, whole.metrics) == (True, True)
    traces = settings_of(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://c:4318/v1/traces")
    assert (traces.traces, traces.metrics) == (True, False)
    metrics = settings_of(OTEL_EXPORTER_OTLP_ENDPOINT="http://c:4318", OTEL_TRACES_EXPORTER="none")
    assert (metrics.traces, metrics.metrics) == (False, True)


def test_the_sizes_of_the_standard_are_read() -> None:
    found = settings_of(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://c:4318",
        OTEL_BSP_SCHEDULE_DELAY="250",
        OTEL_BSP_MAX_QUEUE_SIZE="10",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="5",
        OTEL_METRIC_EXPORT_INTERVAL="1000",
    )
    assert (found.delay_s, found.max_queue, found.max_batch, found.metrics_every_s) == (0.25, 10, 5, 1.0)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:99999999"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
    ],
)
def test_a_mistake_is_named_by_its_variable(variable: str, value: str) -> None:
    assert complaints(**{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", variable: value}) == [variable]


def test_missing_packages_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The packages are there wherever these tests run, so the name that is looked for is another one.
    monkeypatch.setattr(fallback.config.telemetry, "_MODULE", "opentelemetry_of_nobody.exporter")
    (tmp_path / "providers.yaml").write_text(CONFIG.format(base="http://127.0.0.1:9"))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "providers.yaml", environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"})
    (problem,) = caught.value.problems
    assert problem.message == "exporting needs further packages: pip install -r requirements-otlp.txt"


def test_secrets_in_the_variables_are_not_shown() -> None:
    found = settings_of(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://c:4318", OTEL_EXPORTER_OTLP_HEADERS="api-key=hush"
    )
    assert "hush" not in repr(found)


def test_variables_of_the_standard_reach_the_collector(start: Start, collector: Collector) -> None:
    telemetry = start(
        EXPORTER_OTLP_HEADERS="x-tenant=blue",
        SERVICE_NAME="my-service",
        RESOURCE_ATTRIBUTES="deployment.environment.name=test,service.instance.id=other",
        BSP_MAX_EXPORT_BATCH_SIZE="2",
    )
    taken(telemetry, *rescued_request("req_1"), *rescued_request("req_2"))
    assert {headers["x-tenant"] for headers in collector.headers} == {"blue"}
    assert collector.resources[0]["service.name"] == "my-service"
    assert collector.resources[0]["service.instance.id"] == "other"
    assert collector.resources[0]["deployment.environment.name"] == "test"
    assert len(collector.resources) > 1


def test_a_sampler_of_the_standard_is_kept_to(start: Start, collector: Collector) -> None:
    telemetry = taken(start(TRACES_SAMPLER="always_off"), *rescued_request())
    assert (telemetry.exported, collector.spans) == (0, [])
    assert collector.points("fallback.request.duration")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SPAN_ATTRIBUTE_COUNT_LIMIT", "many"), ("METRICS_EXEMPLAR_FILTER", "odd")],
)
def test_a_variable_that_the_sdk_refuses_costs_the_export_and_nothing_else(
    start: Start, collector: Collector, caplog: pytest.LogCaptureFixture, variable: str, value: str
) -> None:
    telemetry = start(**{variable: value})
    assert [record.getMessage() for record in caplog.records if value in record.getMessage()]
    taken(telemetry, *rescued_request()).close()
    assert not collector.spans


def test_what_env_file_alone_says_is_published_and_wins_over_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://set:4318")
    found = settings_of(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://file:4318", OTEL_EXPORTER_OTLP_HEADERS="x-tenant=blue"
    )
    found.publish()
    assert os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://set:4318"
    assert os.environ["OTEL_EXPORTER_OTLP_HEADERS"] == "x-tenant=blue"


# --- a collector that does not do what it should ---


@pytest.mark.parametrize("manner", ["refuse", "redirect"])
def test_what_a_collector_refuses_is_counted_and_told_once(
    start: Start, collector: Collector, caplog: pytest.LogCaptureFixture, manner: Manner
) -> None:
    collector.manner = manner
    telemetry = taken(
        start(BSP_MAX_EXPORT_BATCH_SIZE="1"), *rescued_request("req_1"), *rescued_request("req_2")
    )
    assert (telemetry.lost, telemetry.exported) == (6, 0)
    assert not collector.spans
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.name for record in told] == ["fallback.telemetry.export"]


def test_a_collector_that_is_away_costs_spans_and_nothing_else(
    collector: Collector, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector.url = "http://127.0.0.1:9"
    telemetry = taken(start(EXPORTER_OTLP_TIMEOUT="0.2"), *rescued_request())
    assert (telemetry.lost, telemetry.exported) == (3, 0)


def test_a_collector_that_hangs_fills_the_queue_and_holds_nobody_up(
    start: Start, collector: Collector
) -> None:
    collector.manner = "hang"
    telemetry = start(BSP_MAX_QUEUE_SIZE="20", BSP_SCHEDULE_DELAY="1", EXPORTER_OTLP_TIMEOUT="30")
    for line in rescued_request("req_first"):
        telemetry.take(line)
    assert collector.asked.wait(30)
    for number in range(100):
        for line in rescued_request(f"req_{number}"):
            telemetry.take(line)
    assert telemetry.dropped == 300 - 20
    telemetry.close(0.1)
    assert telemetry.exported == 0


def test_a_collector_that_never_stops_answering_is_not_listened_to(
    start: Start, collector: Collector
) -> None:
    collector.manner = "flood"
    assert taken(start(), *rescued_request()).exported == 3


def test_attempts_without_an_end_are_given_up(start: Start) -> None:
    telemetry = start(BSP_MAX_QUEUE_SIZE="1000", TRACES_SAMPLER="always_on")
    attempt = rescued_request()[0]
    for number in range(999):
        telemetry.take({**attempt, "request_id": f"req_{number}"})
    telemetry.close(30.0)
    assert telemetry.dropped == 0
    small = start(BSP_MAX_QUEUE_SIZE="4", BSP_SCHEDULE_DELAY="1")
    for number in range(9):
        small.take({**attempt, "request_id": f"req_{number}"})
    small.close(30.0)
    assert small.dropped >= 5


def test_lines_from_many_threads_are_all_exported(start: Start) -> None:
    telemetry = start(BSP_MAX_QUEUE_SIZE="100000")

    def work(name: str) -> None:
        for number in range(50):
            for line in rescued_request(f"{name}_{number}"):
                telemetry.take(line)

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    telemetry.close(60.0)
    assert (telemetry.exported, telemetry.dropped) == (600, 0)


# --- the whole program ---


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    with StandInThread() as server:
        server.tenant("groq_llama", dialect="groq").always(Fault(kind="status", status=503))
        server.tenant("together_llama", dialect="together", text=f"{SECRET_WORDS} Tokyo.")
        made = tmp_path / "providers.yaml"
        made.write_text(CONFIG.format(base=server.base_url))
        yield made


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/generate"])
def test_a_request_over_http_goes_on_with_its_callers_trace(
    file: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    body: dict[str, Any] = {"messages": [{"role": "user", "content": SECRET_WORDS}]}
    with TestClient(application(Program(file))) as client:
        reply = client.post(path, json=body, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        assert reply.status_code == 200
        assert "fallback_telemetry_total" in client.get("/metrics").text
    whole = next(span for span in collector.spans if span.name == "chat")
    assert whole.parent_span_id.hex() == PARENT
    assert attributes(whole)["fallback.request_id"] == reply.headers["x-request-id"]
    attempts = [span for span in collector.spans if span.parent_span_id == whole.span_id]
    assert [attributes(span).get("error.type") for span in attempts] == ["overloaded", None]
    assert all(
        whole.start_time_unix_nano - 1000 <= span.start_time_unix_nano <= whole.end_time_unix_nano
        for span in attempts
    )
    assert not [body for _, body in collector.bodies if SECRET_WORDS.encode() in body]


def test_a_router_in_a_program_exports_too_and_flushes_at_its_end(file: Path, collector: Collector) -> None:
    script = """
        import sys
        from fallback import ModelRouter
        ModelRouter(sys.argv[1]).invoke("What is the capital of Japan?")
    """
    finished = subprocess.run(
        [sys.executable, "-c", "\n".join(line.strip() for line in script.splitlines()), str(file)],
        env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert {span.name for span in collector.spans} == {"chat", "chat model-a", "chat model-b"}


def test_without_a_collector_nothing_of_opentelemetry_is_loaded(file: Path) -> None:
    script = (
        "import sys; from fallback import ModelRouter; r = ModelRouter(sys.argv[1]); r.invoke('Hello'); r.close();"
        "import fallback.api.program; print([m for m in sys.modules if m.split('.')[0] == 'opentelemetry' "
        "or m.startswith('fallback.telemetry')])"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script, str(file)],
        env={name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert finished.stdout.strip() == "[]"


def test_every_failure_kind_is_a_word_that_metrics_know(start: Start, collector: Collector) -> None:
    lines = [
        {**rescued_request(f"req_{kind}")[0], "outcome": str(kind), "error_type": str(kind)}
        for kind in FailureKind
    ]
    taken(start(), *lines)
    found = {
        attributes(point)["error.type"] for point in collector.points("gen_ai.client.operation.duration")
    }
    assert found == set(map(str, FailureKind))


def test_the_documentation_names_every_attribute_and_metric(start: Start, collector: Collector) -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    everything: dict[str, object] = {"probe": True, "drill": True, "rescued": True, "degraded": True,"usage_estimated": True, "seams": 1, "disabled": "model", "continues": 5,
                                     "skipped_events": 1, "api_key_name": "k"}  # fmt: skip
    taken(start(), *({**line, **everything} for line in rescued_request()))
    names = {name for span in collector.spans for name in attributes(span)}
    names |= {"gen_ai.client.operation.duration", "gen_ai.client.token.usage", "fallback.failovers",
              "gen_ai.client.operation.time_to_first_chunk", "fallback.request.duration", "fallback.cost"}  # fmt: skip
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
