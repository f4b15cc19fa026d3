"""The embedded model answers where nobody else can: for real, through the shipped configuration."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from fallback.activity import DEGRADED_NOTE
from fallback.config import load
from fallback.core.errors import FailureKind, ProvidersFailedError, RequestRejectedError
from fallback.core.models import Delta, Finished
from fallback.router import AsyncModelRouter, ModelRouter
from fallback.standin import Fault, StandInThread, refused_port

SHIPPED = Path(__file__).resolve().parent.parent / "providers.yaml"
pytestmark = [pytest.mark.local_model, pytest.mark.usefixtures("local_weights")]


def test_without_any_key_the_shipped_configuration_answers_for_real(tmp_path: Path) -> None:
    shutil.copy(SHIPPED, tmp_path)
    with ModelRouter(load(tmp_path / "providers.yaml", environ={})) as router:
        answer = router.invoke("What is the capital of Japan?")
        assert "Tokyo" in answer.text
        assert answer.provider == "local_smollm"
        assert answer.degraded
        assert answer.cost_usd == 0.0
        assert answer.usage.output_tokens > 0
        assert answer.activity_log[-1] == f"Note: {DEGRADED_NOTE}"
        assert answer.activity_log[0].startswith("Skipping groq_llama: no key: set ")
        events = list(router.stream("What is the capital of Japan?"))
        last = events[-1]
        assert isinstance(last, Finished)
        assert "".join(event.text for event in events if isinstance(event, Delta)) == last.answer.text


def configuration(folder: Path, groq: str, together: str) -> Path:
    path = folder / "providers.yaml"
    path.write_text(
        f"""
providers:
  - {{name: groq_llama, type: groq, endpoint: "{groq}", model: llama-3.1-8b-instant}}
  - {{name: together_llama, type: together, endpoint: "{together}", model: some-model}}
  - {{name: local_smollm, type: local, model: SmolLM2-135M-Instruct, context_window: 4096}}
""",
        encoding="utf-8",
    )
    return path


def test_with_a_dead_network_and_a_wrong_key_the_embedded_model_answers_and_the_log_says_why(
    tmp_path: Path,
) -> None:
    with StandInThread() as standin, refused_port() as port:
        tenant = standin.tenant("together_llama", dialect="together")
        tenant.always(Fault(kind="status", status=401))
        path = configuration(tmp_path, f"http://127.0.0.1:{port}/v1/chat/completions", tenant.url)
        with ModelRouter(path) as router:
            answer = router.invoke("What is the capital of Japan?")
        assert [report.outcome for report in answer.attempts] == ["connection", "authentication", "ok"]
        assert "Tokyo" in answer.text
        log = (tmp_path / "logs" / "usage.log").read_text(encoding="utf-8")
        assert '"error_type":"connection"' in log
        assert '"error_type":"authentication"' in log
        assert '"degraded":true' in log


async def _ask_async(path: Path) -> str:
    async with AsyncModelRouter(path) as router:
        answer = await router.invoke("What is the capital of Japan?")
        return f"{answer.provider}: {answer.text}"


def test_the_async_router_reaches_the_embedded_model_too(tmp_path: Path) -> None:
    shutil.copy(SHIPPED, tmp_path)
    path = tmp_path / "providers.yaml"
    (tmp_path / ".env").write_text("", encoding="utf-8")
    told = asyncio.run(_ask_async(path))
    assert told.startswith("local_smollm: ")
    assert "Tokyo" in told


def test_a_long_conversation_is_cut_to_fit_and_a_prompt_that_never_fits_is_a_clear_error(
    tmp_path: Path,
) -> None:
    shutil.copy(SHIPPED, tmp_path)
    with ModelRouter(load(tmp_path / "providers.yaml", environ={})) as router:
        history = [
            {"role": role, "content": "The weather was fine that day. " * 60}
            for _ in range(20)
            for role in ("user", "assistant")
        ]
        answer = router.invoke("What is the capital of Japan?", messages=history)
        assert answer.provider == "local_smollm"
        assert answer.usage.input_tokens < 4096
        with pytest.raises(RequestRejectedError) as caught:
            router.invoke("word " * 9000)
        assert caught.value.kind is FailureKind.CONTEXT_WINDOW_EXCEEDED


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "population": {"type": "integer"}},
    "required": ["name", "population"],
    "additionalProperties": False,
}


def test_the_embedded_model_keeps_to_the_form_and_refuses_what_is_beyond_it(tmp_path: Path) -> None:
    shutil.copy(SHIPPED, tmp_path)
    asked = "Give me the name and population of the capital of Japan as JSON."
    with ModelRouter(load(tmp_path / "providers.yaml", environ={})) as router:
        form = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": SCHEMA}}
        found = json.loads(router.invoke(asked, extra={"response_format": form}).text)
        assert set(found) == {"name", "population"}
        assert isinstance(found["population"], int)
        whole = router.invoke(asked, extra={"response_format": {"type": "json_object"}})
        if not whole.truncated:  # it may go on and on
            assert isinstance(json.loads(whole.text), dict)
        assert whole.text.lstrip().startswith("{")
        assert "5" not in router.invoke("Count from 1 to 10.", extra={"stop": "5"}).text
        picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
        with pytest.raises(ProvidersFailedError, match="local_smollm: cannot see pictures"):
            router.invoke(messages=[{"role": "user", "content": picture}])


def test_the_embedded_model_goes_on_with_what_a_drill_began_time_after_time(tmp_path: Path) -> None:
    shutil.copy(SHIPPED, tmp_path)
    with ModelRouter(load(tmp_path / "providers.yaml", environ={})) as router:
        for _ in range(10):
            router.wiring.switchboard.set_drill("groq_llama", {"kind": "cut"}, by="test")
            last = list(router.stream("What is the capital of Japan?"))[-1]
            assert isinstance(last, Finished)
            assert last.answer.providers == ("groq_llama", "local_smollm")
            assert last.answer.text.startswith("Here is the answer to")
            router.wiring.switchboard.set_drill("groq_llama", None, by="test")
