"""The figures for Prometheus: counted from the lines of the log, and as true as they."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from fallback.api import Program
from fallback.api.metrics import Metrics
from fallback.api.server import application
from fallback.config import load
from fallback.router import ModelRouter, get_router
from fallback.standin import Fault, StandInThread
from fallback.wiring import assemble

ROOT = Path(__file__).parents[1]
CONFIG = """
providers:
  - name: groq_llama
    type: groq
    endpoint: {base}/groq_llama/openai/v1/chat/completions
    model: model-a
    input_usd_per_1m: 1000000
    output_usd_per_1m: 500000
  - name: together_llama
    type: together
    endpoint: {base}/together_llama/v1/chat/completions
    model: model-b
routing: {{retries: 0}}
"""


@pytest.fixture
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        server.tenant("groq_llama", dialect="groq", text="Tokyo is the capital.")
        server.tenant("together_llama", dialect="together", text="It is Tokyo.")
        yield server


@pytest.fixture
def file(standin: StandInThread, tmp_path: Path) -> Path:
    made = tmp_path / "providers.yaml"
    made.write_text(CONFIG.format(base=standin.base_url))
    return made


@pytest.fixture
def client(file: Path) -> Iterator[TestClient]:
    with TestClient(application(Program(file))) as made:
        yield made


def figures(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Name of a sample -> its labels -> its value, as Prometheus' own parser reads them."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(text: str, name: str, **labels: str) -> float:
    """Return the sum of the samples that have these labels."""
    return sum(
        number for have, number in figures(text).get(name, {}).items() if set(labels.items()) <= set(have)
    )


def ask(client: TestClient) -> Any:
    return client.post("/api/generate", json={"prompt": "What is the capital of Japan?"}).json()


def test_an_answer_counts_once_with_its_tokens_and_its_cost(client: TestClient) -> None:
    answer = ask(client)
    text = client.get("/metrics").text
    assert value(text, "fallback_requests_total") == 1
    assert value(
        text, "fallback_requests_total",
        source="api", provider="groq_llama", outcome="ok", kind="none", drill="false",
    ) == 1  # fmt: skip
    assert value(
        text, "fallback_attempts_total",
        provider="groq_llama", model="model-a", outcome="ok", kind="none", role="first", drill="false",
    ) == 1  # fmt: skip
    usage = answer["usage"]
    assert value(text, "fallback_tokens_total", direction="input") == usage["input_tokens"] > 0
    assert value(text, "fallback_tokens_total", direction="output") == usage["output_tokens"] == 4
    assert value(text, "fallback_cost_usd_total", provider="groq_llama") == pytest.approx(answer["cost_usd"])
    assert value(text, "fallback_request_duration_seconds_count", provider="groq_llama", outcome="ok") == 1
    assert value(text, "fallback_request_duration_seconds_sum") == pytest.approx(
        answer["latency_s"], abs=0.001
    )
    assert value(text, "fallback_request_first_token_seconds_count") == 1
    assert value(text, "fallback_attempt_first_token_seconds_count") == 1
    assert value(text, "fallback_log_lines_total") == 2


def test_a_failover_is_a_failure_a_failover_and_a_rescue(client: TestClient, standin: StandInThread) -> None:
    standin.tenant("groq_llama").always(Fault(kind="status", status=503))
    ask(client)
    text = client.get("/metrics").text
    assert value(
        text, "fallback_attempts_total", provider="groq_llama", outcome="error", kind="overloaded"
    ) == 1  # fmt: skip
    assert value(
        text, "fallback_failovers_total",
        from_provider="groq_llama", to_provider="together_llama", kind="overloaded",
    ) == 1  # fmt: skip
    assert value(
        text, "fallback_rescues_total", first_provider="groq_llama", provider="together_llama"
    ) == 1  # fmt: skip
    assert value(text, "fallback_provider_state", provider="groq_llama", state="cooling_down") == 1
    assert value(text, "fallback_provider_state", provider="groq_llama") == 1
    assert value(text, "fallback_provider_changes_total", provider="groq_llama", to_state="cooling_down") == 1
    assert value(text, "fallback_ready") == 1


def test_requests_of_the_chat_and_of_scripts_in_this_process_count_as_well(client: TestClient) -> None:
    get_router().invoke("Hello", source="chat")
    assert value(client.get("/metrics").text, "fallback_requests_total", source="chat", outcome="ok") == 1


def test_a_seam_counts_for_the_provider_that_went_on(client: TestClient, standin: StandInThread) -> None:
    standin.tenant("groq_llama").always(Fault(kind="cut", after_words=2))
    client.post("/api/generate", json={"prompt": "Hello", "stream": True})
    assert value(client.get("/metrics").text, "fallback_seams_total", provider="together_llama") == 1


def test_failures_to_write_the_log_are_shown(client: TestClient, tmp_path: Path) -> None:
    for log in (tmp_path / "logs").glob("usage*.log"):
        log.unlink()
    (tmp_path / "logs" / "usage.log").mkdir()
    ask(client)
    assert value(client.get("/metrics").text, "fallback_log_failures_total") > 0


def test_no_figure_outlives_its_program_and_two_programs_do_not_share_any(file: Path) -> None:
    program = Program(file)
    with TestClient(application(program)) as client:
        ask(client)
        assert value(client.get("/metrics").text, "fallback_requests_total") == 1
    with pytest.raises(RuntimeError):
        _ = program.metrics
    with TestClient(application(program)) as client:
        assert value(client.get("/metrics").text, "fallback_requests_total") == 0


@pytest.fixture
def metrics(file: Path) -> Metrics:
    return Metrics(assemble(load(file, environ={})))


def test_what_the_configuration_does_not_name_is_other_and_makes_no_series(metrics: Metrics) -> None:
    for number in range(50):
        metrics.count(
            {
                "kind": "attempt", "provider": f"p{number}", "request_model": f"m{number}", "outcome": f"o{number}",
                "role": f"r{number}", "source": f"s{number}", "duration_s": 1.0, "input_tokens": 3,
            }
        )  # fmt: skip
        metrics.count(
            {
                "kind": "request",
                "source": f"s{number}",
                "provider": f"p{number}",
                "outcome": f"o{number}",
                "error_type": f"e{number}",
            }
        )
        metrics.count({"kind": "state", "provider": f"p{number}", "to": f"t{number}"})
    text = metrics.text().decode()
    found = figures(text)
    assert list(found["fallback_attempts_total"].values()) == [50]
    assert list(found["fallback_requests_total"].values()) == [50]
    assert (
        value(text, "fallback_attempts_total", provider="other", model="other", kind="other", role="other")
        == 50
    )
    assert value(text, "fallback_provider_changes_total", provider="other", to_state="other") == 50
    assert len(metrics._attempts) == len(metrics._requests) == 0


def test_a_line_that_it_does_not_know_is_no_accident(metrics: Metrics) -> None:
    for line in (
        {},
        {"kind": None},
        {"kind": "legacy"},
        {"kind": "attempt"},
        {"kind": "request"},
        {"kind": "state"},
    ):
        metrics.count(line)


def test_probes_count_beside_requests(metrics: Metrics) -> None:
    line = {
        "kind": "attempt",
        "provider": "groq_llama",
        "request_model": "model-a",
        "role": "first",
        "duration_s": 0.1,
    }
    metrics.count({**line, "outcome": "ok", "source": "probe", "probe": True})
    metrics.count({**line, "outcome": "timeout", "source": "api", "probe": True})
    text = metrics.text().decode()
    assert value(text, "fallback_probes_total", outcome="ok") == 1
    assert value(text, "fallback_probes_total", outcome="error") == 1
    assert value(text, "fallback_attempts_total", role="probe") == 1


def test_every_series_of_metrics_is_documented_and_no_other(
    client: TestClient, standin: StandInThread
) -> None:
    standin.tenant("groq_llama").always(Fault(kind="cut", after_words=2))
    client.post("/api/generate", json={"prompt": "Hello", "stream": True})
    client.get("/api/x")
    families = {
        family.name + ("_total" if family.type == "counter" else ""): set(family.samples[0].labels)
        if family.samples
        else None
        for family in text_string_to_metric_families(client.get("/metrics").text)
    }
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    documented = {
        name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows if name.startswith("fallback_")
    }
    ours = {name for name in families if name.startswith("fallback_")}
    assert set(documented) == ours
    for name, labels in families.items():
        if name in documented and labels is not None:
            assert labels - {"le"} == documented[name], name


# The dashboard for Grafana


def dashboard() -> Any:
    return json.loads((ROOT / "docs/grafana-dashboard.json").read_text())


def test_every_metric_and_label_that_the_grafana_dashboard_asks_for_is_there(
    client: TestClient, standin: StandInThread
) -> None:
    standin.tenant("groq_llama").always(Fault(kind="cut", after_words=2))
    client.post("/api/generate", json={"prompt": "Hello", "stream": True})
    with_samples = figures(client.get("/metrics").text)
    defined = set(with_samples) | {
        f"{family.name}_total" for family in text_string_to_metric_families(client.get("/metrics").text)
    }
    expressions = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    expressions += [
        each["query"]["query"] for each in dashboard()["templating"]["list"] if each["type"] == "query"
    ]
    assert len(expressions) > 10
    for expression in expressions:
        names = set(re.findall(r"\b(?:fallback|process)_\w+", expression))
        assert names, expression
        assert names <= defined, expression


def test_the_grafana_dashboard_is_one_that_grafana_can_import() -> None:
    board = dashboard()
    assert board["uid"]
    assert board["schemaVersion"] >= 36
    assert board["id"] is None
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert panel["title"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert target["refId"]
            assert target["expr"].count("(") == target["expr"].count(")")


def test_a_router_of_a_script_counts_nothing(file: Path) -> None:
    with ModelRouter(file) as router:
        assert router.wiring.recorder._listeners == ()
