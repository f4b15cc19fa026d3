"""The OpenAPI document and the program say the same: field by field, route by route, and under what schemathesis thinks up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from api_sockets import serving
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.routing import Route
from starlette.testclient import TestClient

from fallback.api import Program
from fallback.api.openapi import document
from fallback.api.routes import GENERATE_FIELDS
from fallback.api.schemas import SCHEMAS
from fallback.api.server import application
from fallback.router import get_router
from fallback.standin import Fault, StandInThread

CONFIG = """
providers:
  - name: groq_llama
    type: groq
    endpoint: {base}/groq_llama/openai/v1/chat/completions
    model: model-a
    input_usd_per_1m: 1
    output_usd_per_1m: 2
  - name: together_llama
    type: together
    endpoint: {base}/together_llama/v1/chat/completions
    model: model-b
routing: {{retries: 0}}
"""
METHODS = ("get", "patch", "post")
CHECKS = [
    status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance,
]  # fmt: skip
OPERATIONS = [
    result.ok()
    for result in schemathesis.openapi.from_dict(document()).get_all_operations()
    if isinstance(result, Ok)
]


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        server.tenant("groq_llama", dialect="groq", text="Tokyo is the capital.")
        server.tenant("together_llama", dialect="together", text="It is Tokyo.")
        yield server


@pytest.fixture(scope="module")
def program(standin: StandInThread, tmp_path_factory: pytest.TempPathFactory) -> Program:
    file = tmp_path_factory.mktemp("openapi") / "providers.yaml"
    file.write_text(CONFIG.format(base=standin.base_url))
    return Program(file)


@pytest.fixture(scope="module")
def client(program: Program) -> Iterator[TestClient]:
    with TestClient(application(program)) as made:
        yield made


@pytest.fixture(autouse=True)
def as_at_the_start(client: TestClient, standin: StandInThread) -> None:
    for name in ("groq_llama", "together_llama"):
        standin.tenant(name).reset()
        client.patch(f"/api/providers/{name}", json={"enabled": True, "drill": None, "end_cooldown": True})
    client.patch("/api/providers", json={"order": None})


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, item[method])
        for path, item in document()["paths"].items()
        for method in METHODS
        if method in item
    ]


def served(program: Program) -> set[str]:
    """Return the paths with something behind them, as the document writes them."""
    return {
        route.path.replace(":path}", "}")
        for route in program.routes()
        if isinstance(route, Route) and "{rest" not in route.path and route.path not in {"/api", "/v1"}
    }


def assert_fits(value: Any, name: str) -> None:
    schema = {**SCHEMAS[name], "components": {"schemas": SCHEMAS}}
    assert [error.message for error in Draft202012Validator(schema).iter_errors(value)] == []


def test_document_is_served_as_it_is_made(client: TestClient) -> None:
    reply = client.get("/api/openapi.json")
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == document()


def test_every_operation_of_the_document_can_be_read() -> None:
    assert {(each.method, each.path) for each in OPERATIONS} == {
        (method, path) for method, path, _ in operations()
    }


def test_every_path_is_in_the_document_and_no_other(program: Program) -> None:
    documented = {path for path in document()["paths"] if not path.startswith("/v1/")}
    assert documented == {path for path in served(program) if not path.startswith("/v1/")}


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    found: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                found.add(value["$ref"].removeprefix("#/components/schemas/"))
            for child in value.values():
                walk(child)
        elif isinstance(value, list):
            for child in value:
                walk(child)

    walk(document())
    assert found == set(SCHEMAS)
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))


def test_methods_are_those_that_the_program_names_itself(client: TestClient, program: Program) -> None:
    for path, item in document()["paths"].items():
        if path not in served(program):
            continue
        allowed = client.options(path.replace("{name}", "groq_llama")).headers["allow"]
        assert {method.upper() for method in METHODS if method in item} == set(allowed.split(", ")) - {
            "HEAD",
            "OPTIONS",
        }


def test_request_takes_the_fields_that_the_program_takes() -> None:
    assert list(SCHEMAS["GenerateRequest"]["properties"]) == list(GENERATE_FIELDS)


def test_answers_have_the_fields_that_the_document_names(client: TestClient, standin: StandInThread) -> None:
    standin.tenant("groq_llama").always(Fault(kind="status", status=503))
    answer = client.post("/api/generate", json={"prompt": "Hello"}).json()
    assert [attempt["outcome"] for attempt in answer["attempts"]] == ["overloaded", "ok"]
    assert_fits(answer, "Answer")
    assert_fits(client.get("/api/providers").json(), "Providers")
    client.patch("/api/providers/groq_llama", json={"drill": {"kind": "rate_limited", "value": 3}})
    provider = client.get("/api/providers/groq_llama").json()
    assert provider["drill"] is not None
    assert_fits(provider, "Provider")
    assert_fits(client.post("/api/providers/together_llama/test", json={}).json(), "TestResult")
    assert_fits(client.get("/readyz").json(), "Readiness")
    assert_fits(client.get("/healthz").json(), "Health")
    for name in ("groq_llama", "together_llama"):
        get_router().set_enabled(name, False)
    assert_fits(client.post("/api/generate", json={"prompt": "Hello"}).json(), "Error")


# What schemathesis thinks up, sent over a real connection


@pytest.fixture(scope="module")
def address(standin: StandInThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("schemathesis"), standin) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        yield made


@pytest.mark.parametrize(
    ("operation", "mode"),
    [
        pytest.param(operation, mode, id=f"{operation.label} {mode.value}")
        for operation in OPERATIONS
        for mode in GenerationMode
        # Without a body there is nothing that could be sent wrongly.
        if mode is GenerationMode.POSITIVE or operation.body
    ],
)
def test_whatever_is_sent_is_answered_as_the_document_says(
    operation: Any, mode: GenerationMode, address: str, program: Program, session: requests.Session
) -> None:
    if operation.path not in served(program):
        pytest.skip("not served")

    @settings(
        max_examples=20, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        reply = case.call(base_url=address, session=session, timeout=20)
        case.validate_response(reply, checks=CHECKS)
        assert b"internal_error" not in reply.content
        if mode is GenerationMode.NEGATIVE and operation.path == "/api/generate":
            assert 400 <= reply.status_code < 500

    check()


def test_other_methods_are_refused_with_those_that_there_are(address: str, program: Program) -> None:
    for operation in OPERATIONS:
        if operation.path in served(program):
            for method in ("DELETE", "PUT", "TRACE"):
                reply = requests.request(
                    method, address + operation.path.replace("{name}", "groq_llama"), timeout=10
                )
                assert reply.status_code == 405
                assert operation.method.upper() in reply.headers["allow"]
