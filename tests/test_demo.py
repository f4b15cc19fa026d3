"""The demo: simulated providers under the names of the real ones, and nothing left of it afterwards."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from ports import free_port

from fallback.config import load
from fallback.core.errors import ConfigError
from fallback.core.models import ChatRequest, Delta, Finished
from fallback.demo import Demo
from fallback.demo.outages import Outage, Weather, outages
from fallback.demo.stage import simulated
from fallback.demo.visitors import MOST, PAUSE_S, Question, Visitors, questions
from fallback.demo.voice import PREPARED, Voice, whole_sentences
from fallback.drills import DrillKind
from fallback.local.model import LocalModel
from fallback.loop.continuation import continued
from fallback.router import TEST_PROMPT, ModelRouter
from fallback.standin import Fault, StandInThread

ROOT = Path(__file__).resolve().parent.parent
KEY = "test-key-not-real"
CLOUDS = ("groq_llama", "together_llama", "groq_mixtral")


def until(condition: Callable[[], object], limit_s: float = 10.0, every_s: float = 0.01) -> None:
    """Wait for a thread or a process."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(every_s)


@pytest.fixture
def standin() -> Iterator[StandInThread]:
    with StandInThread() as server:
        yield server


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped configuration with keys in every place that keys may have."""
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    (tmp_path / "user").mkdir()
    (tmp_path / "user/.env").write_text(f"TOGETHER_LLAMA_API_KEY={KEY}\nGROQ_MIXTRAL_API_KEY={KEY}\n")
    file = tmp_path / "user/providers.yaml"
    file.write_text((ROOT / "providers.yaml").read_text())
    return file


# The stage


def test_cloud_providers_keep_their_names_and_models_and_get_addresses_on_this_machine(
    shipped: Path, standin: StandInThread, tmp_path: Path
) -> None:
    real, played = load(shipped), simulated(shipped, tmp_path, standin)
    assert [(p.name, p.type, p.models) for p in played.providers] == [
        (p.name, p.type, p.models) for p in real.providers
    ]
    assert [p.name for p in played.providers[:3]] == list(CLOUDS)
    assert all(p.endpoint.startswith(f"{standin.base_url}/{p.name}/") for p in played.providers[:3])
    assert all(p.api_key is not None for p in real.providers[:3])
    assert all(p.api_key is None and not p.needs_key for p in played.providers)
    assert (played.banner, real.banner) == ("Demo: simulated providers", None)
    assert played.log.folder == tmp_path / "logs"
    assert played.routing == real.routing


def test_what_points_outside_or_at_the_users_files_is_left_out(
    standin: StandInThread, tmp_path: Path
) -> None:
    (tmp_path / "user").mkdir()
    source = tmp_path / "user/providers.yaml"
    source.write_text(
        "providers:\n"
        "  - name: mine\n    endpoint: http://llm.example/v1/chat/completions\n    allow_http: true\n"
        "    model: m\n    api_key_env: MY_KEY\n    headers: {x-team: blue}\n"
        "  - {name: small, type: local, model: s, model_path: weights/s.gguf}\n"
        "log: {folder: /var/log/never-this}\nlog_content: true\n"
    )
    played = simulated(source, tmp_path, standin)
    mine, small = played.providers
    assert mine.endpoint.startswith(standin.base_url)
    assert (dict(mine.headers), mine.api_key, mine.type) == ({}, None, "openai")
    assert small.model_path == str(tmp_path / "user/weights/s.gguf")
    assert (played.log.folder, played.log.content) == (tmp_path / "logs", False)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("providers: [{name: a, modle: b}]", 'providers[0].modle: unknown key; did you mean "model"?'),
        ("providers: 7", "providers"),
        ("providers: [7, null]", "providers[0]"),
        ("- a list", "expected a mapping"),
        ("", "expected a mapping"),
        ("a: 1\na: 2", "duplicate key"),
    ],
)
def test_a_wrong_configuration_is_told_with_the_users_file_name(
    standin: StandInThread, tmp_path: Path, text: str, sentence: str
) -> None:
    source = tmp_path / "mine.yaml"
    source.write_text(text)
    with pytest.raises(ConfigError) as told:
        simulated(source, tmp_path, standin)
    assert sentence in str(told.value)
    assert str(told.value).startswith(f"{source}: ")


# Outages


def test_the_first_minute_holds_a_rate_limit_and_an_outage_of_two() -> None:
    opening = list(islice(outages(CLOUDS), 3))
    assert [(each.provider, each.fault.status) for each in opening] == [
        ("groq_llama", 429), ("together_llama", 503), ("groq_llama", 503),
    ]  # fmt: skip
    assert opening[0].at_s < 20
    assert opening[0].length_s == 20
    assert all(each.at_s + each.length_s < 60 for each in opening)
    assert opening[1].at_s < opening[2].at_s < opening[2].at_s + opening[2].length_s < opening[1].at_s + 16


def test_outages_are_the_same_in_every_demo_and_never_overlap_on_one_provider() -> None:
    course = list(islice(outages(CLOUDS), 200))
    assert course == list(islice(outages(CLOUDS), 200))
    assert {each.provider for each in course} == set(CLOUDS)
    assert {each.fault.kind for each in course} >= {"status", "slow_first_token", "stall", "cut", "reset"}
    for name in CLOUDS:
        mine = [each for each in course if each.provider == name]
        assert all(one.at_s + one.length_s < two.at_s for one, two in pairwise(mine))


@pytest.mark.parametrize("names", [(), ("only",), ("one", "two")])
def test_any_number_of_providers_has_its_outages(names: tuple[str, ...]) -> None:
    course = list(islice(outages(names), 20))
    assert {each.provider for each in course} == set(names)


def test_an_outage_begins_and_ends_and_is_told() -> None:
    told: list[str] = []
    struck: list[tuple[str, Fault | None]] = []
    fault = Fault(kind="reset")
    course = [
        Outage(at_s=0.02, length_s=0.1, provider="a", fault=fault, text="closes"),
        Outage(at_s=0.05, length_s=0.02, provider="b", fault=fault, text="closes"),
    ]
    weather = Weather(iter(course), strike=lambda *args: struck.append(args), tell=told.append)
    weather.start()
    until(lambda: len(told) == 4)
    weather.stop()
    assert struck == [("a", fault), ("b", fault), ("b", None), ("a", None)]
    assert told == ["a closes, for 0 s", "b closes, for 0 s", "b is well again", "a is well again"]


def test_a_demo_that_ends_in_an_outage_ends_the_outage_too() -> None:
    struck: list[tuple[str, Fault | None]] = []
    course = [Outage(at_s=0, length_s=600, provider="a", fault=Fault(kind="reset"), text="closes")]
    weather = Weather(iter(course), strike=lambda *args: struck.append(args), tell=lambda _: None)
    weather.start()
    until(lambda: struck)
    weather.stop()
    assert struck[-1] == ("a", None)


def test_outages_end_after_two_hours() -> None:
    late = [Outage(at_s=7201, length_s=1, provider="a", fault=Fault(kind="reset"), text="closes")]
    weather = Weather(iter(late), strike=lambda *_: pytest.fail("too late"), tell=lambda _: None)
    weather.start()
    weather._thread.join(5)
    assert not weather._thread.is_alive()


# Visitors


def test_questions_are_bounded_and_go_to_every_provider() -> None:
    course = list(questions(CLOUDS))
    assert len(course) == MOST
    assert all(PAUSE_S[0] <= each.pause_s <= PAUSE_S[1] for each in course[1:])
    assert {each.model for each in course[:12]} == {"auto", "together_llama", "groq_mixtral"}
    assert {each.prompt for each in course} == set(PREPARED)
    assert course == list(questions(CLOUDS))
    assert {each.model for each in islice(questions(["only"]), 50)} == {"auto"}


def quick(*models: str) -> Iterator[Question]:
    return iter([Question(pause_s=0, prompt="Hello", model=model) for model in models])


def test_visitors_go_on_whatever_the_answer(shipped: Path, standin: StandInThread, tmp_path: Path) -> None:
    settings = simulated(shipped, tmp_path, standin)
    for name in CLOUDS:
        standin.tenant(name).configure(first_token_s=0, per_token_s=0)
    standin.tenant("groq_llama").play(Fault(kind="content_filter", after_words=1))
    prepared: list[str] = []
    with ModelRouter(settings) as router:
        visitors = Visitors(quick("auto", "nobody", "together_llama"), prepare=prepared.append)
        visitors.start(router)
        until(lambda: len(lines(tmp_path, "request")) == 2)
        visitors.stop()
    assert [line["outcome"] for line in lines(tmp_path, "request")] == ["error", "ok"]
    assert {line["source"] for line in lines(tmp_path, "request")} == {"demo"}
    assert prepared == ["Hello"] * 3


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    file = folder / "logs/usage.log"
    text = file.read_text() if file.exists() else ""
    found = [json.loads(line) for line in text.splitlines()]
    return [line for line in found if line["kind"] == kind]


def asked(folder: Path) -> list[dict[str, Any]]:
    """The requests of the demo itself, without the day that it pretends came before."""
    return [line for line in lines(folder, "request") if line["source"] == "demo"]


def test_the_end_comes_at_once_in_the_middle_of_an_answer(
    shipped: Path, standin: StandInThread, tmp_path: Path
) -> None:
    settings = simulated(shipped, tmp_path, standin)
    groq = standin.tenant("groq_llama")
    groq.always(Fault(kind="hang", seconds=60))
    with ModelRouter(settings) as router:
        visitors = Visitors(quick("auto", "auto"), prepare=lambda _: None)
        visitors.start(router)
        assert groq.wait_for(lambda counters: counters.in_flight == 1)
        began = time.monotonic()
        visitors.stop()
        assert time.monotonic() - began < 2
    assert groq.counters.requests == 1
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("demo-")] == []


# What they say


def test_the_questions_of_the_demo_have_prepared_answers_and_others_differ() -> None:
    voice = Voice()
    for prompt, answer in PREPARED.items():
        assert voice.think(prompt) == answer
    one, two = voice.think("What is love?"), voice.think("Who was Ada?")
    assert "“What is love?”" in one
    assert "“Who was Ada?”" in two
    assert one == voice.think("What is love?")
    assert len(voice.think("word " * 10_000)) < 1000
    assert voice.think("")
    assert voice.think(TEST_PROMPT) == "OK"
    voice.close()


def test_an_answer_that_was_begun_goes_on_and_a_new_question_does_not() -> None:
    voice = Voice()
    voice._answers["Hello"] = "One two three."
    begun = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "One two"}]
    assert voice.answer(begun) == "One two three."
    assert voice.answer([*begun, {"role": "user", "content": "Go on"}]) == "One two three."
    finished = [begun[0], {"role": "assistant", "content": "One two three."}]
    assert "“Go on”" in voice.answer([*finished, {"role": "user", "content": "Go on"}])
    assert "“Why”" in voice.answer([{"role": "user", "content": [{"type": "text", "text": "Why"}]}])


@pytest.mark.parametrize("prefill", [True, False])
@pytest.mark.parametrize(
    ("begun", "whole"),
    [
        ("The capital of", PREPARED["What is the capital of Japan?"]),
        (PREPARED["What is the capital of Japan?"], PREPARED["What is the capital of Japan?"]),
        (
            "Here is the answer to",
            f"Here is the answer to your question: {PREPARED['What is the capital of Japan?']}",
        ),
        ("Nobody knows", f"Nobody knows… {PREPARED['What is the capital of Japan?']}"),
    ],
    ids=["its own", "its own, whole", "a drill's", "somebody's"],
)
def test_whoever_is_to_go_on_with_an_answer_keeps_to_the_question(
    begun: str, whole: str, *, prefill: bool
) -> None:
    asked = (
        {"role": "user", "content": "Name three planets."},
        {"role": "assistant", "content": "Mars, and so on."},
        {"role": "user", "content": "What is the capital of Japan?"},
    )
    request = continued(ChatRequest(request_id="r", messages=asked), begun, prefill=prefill)
    assert Voice().answer(request.messages) == whole


@pytest.mark.parametrize("kind", [DrillKind.CUT, DrillKind.NO_FINISH])
def test_a_drill_that_breaks_off_is_gone_on_with_sensibly(
    shipped: Path, standin: StandInThread, tmp_path: Path, kind: DrillKind
) -> None:
    settings = simulated(shipped, tmp_path, standin)
    voice = Voice()
    for name in CLOUDS:
        standin.tenant(name).configure(first_token_s=0, per_token_s=0, reply=voice.reply)
    with ModelRouter(settings) as router:
        router.wiring.switchboard.set_drill("groq_llama", {"kind": kind.value}, by="test")
        events = list(router.stream("What is the capital of Japan?"))
    text = "".join(event.text for event in events if isinstance(event, Delta))
    assert text == f"Here is the answer to your question: {PREPARED['What is the capital of Japan?']}"
    assert isinstance(events[-1], Finished)
    assert events[-1].answer.providers[0] == "groq_llama"
    assert len(events[-1].answer.providers) == 2


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One. Two. Thr", "One. Two."),
        ("One? Two", "One?"),
        ('He said "Yes." And', 'He said "Yes."'),
        ("3.14 is", "3.14 is…"),
        ("a list\n- one", "a list"),
        ("no end", "no end…"),
        ("", ""),
        ("  ", ""),
    ],
)
def test_a_thought_ends_with_a_whole_sentence(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole


@pytest.mark.local_model
def test_the_embedded_model_thinks_for_them_and_neither_log_nor_switch_knows(
    local_weights: Path, shipped: Path, standin: StandInThread, tmp_path: Path
) -> None:
    settings = simulated(shipped, tmp_path, standin)
    with ModelRouter(settings) as router:
        model: LocalModel = router.wiring.models["local_smollm"]
        assert model.wait_ready(60) is not None
        router.set_enabled("local_smollm", False)
        voice = Voice(thinking_s=2.5)  # a busy machine finds few words in its usual moment
        voice.borrow_model(router.wiring)
        began = time.monotonic()
        answer = voice.think("Explain in two sentences what a ship is.")
        assert time.monotonic() - began < 4
        assert "stand-in of the demo" not in answer
        assert len(answer.split()) > 3
        began = time.monotonic()
        assert voice.think("Explain in two sentences what a ship is.") == answer
        assert time.monotonic() - began < 0.1
        voice.close()
        assert "“After the end”" in voice.think("After the end")
        assert model.endpoint() is not None
    assert lines(tmp_path, "attempt") + lines(tmp_path, "request") == []


# As a whole


def test_everything_is_played_and_nothing_is_left(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Demo(shipped) as demo:
        folder = demo.settings.log.folder.parent
        for name in CLOUDS:
            demo._standin.tenant(name).configure(first_token_s=0, per_token_s=0)
        with ModelRouter(demo.settings) as router:
            demo.begin(router)
            answer = router.invoke("What is the capital of Japan?", model="groq_mixtral")
            # A model that nobody serves any more is replaced, as it would be today.
            assert [report.outcome for report in answer.attempts] == ["model_unavailable", "ok"]
            assert answer.model == "openai/gpt-oss-120b"
            assert router.test("together_llama").provider == "together_llama"
            assert router.invoke("What is love?").provider == "groq_llama"
            until(lambda: asked(folder))
            seen = [seen for name in CLOUDS for seen in demo._standin.tenant(name).last_requests]
            assert seen
            assert not any("authorization" in request.headers for request in seen)
            assert folder.is_dir()
            demo.end()
    assert not folder.exists()
    assert {path.name for path in shipped.parent.iterdir()} == {".env", "providers.yaml"}
    assert KEY not in capsys.readouterr().out


def test_a_demo_that_cannot_begin_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "wrong.yaml").write_text("providers: []")
    with pytest.raises(ConfigError), Demo(tmp_path / "wrong.yaml"):
        pytest.fail("it began")
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.yaml"]
    assert not [thread for thread in threading.enumerate() if thread.name == "standin"]


# The program


@contextmanager
def demonstrating(folder: Path, *more: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    port = free_port()
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SYSTEMROOT") if name in os.environ}
    variables = {"HOME": str(folder), "TMPDIR": str(folder / "tmp"), "GROQ_API_KEY": KEY}
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "main.py", "--demo", "--port", str(port), *more], cwd=ROOT,
            env={**kept, **variables, "PYTHONWARNINGS": "error::ResourceWarning"}, stdin=subprocess.DEVNULL,
            stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield process, port
    finally:
        process.kill()
        process.wait(10)


def fetched(port: int, path: str) -> tuple[dict[str, str], Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return {name.lower(): value for name, value in reply.getheaders()}, json.loads(reply.read())
    except OSError:
        return {}, {}
    finally:
        connection.close()


@pytest.mark.program
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_shows_a_failover_within_the_first_half_minute_and_ends_clean(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "tmp").mkdir()
    with demonstrating(tmp_path) as (process, port):
        until(lambda: fetched(port, "/healthz")[1] == {"status": "ok"}, 40)
        headers, listed = fetched(port, "/api/providers")
        assert (headers["x-fallback-demo"], listed["demo"]) == ("1", True)
        assert [each["state"] for each in listed["providers"][:3]] == ["ready"] * 3
        (folder,) = (tmp_path / "tmp").glob("fallback-demo-*")
        if number is signal.SIGTERM:
            until(
                lambda: [line for line in asked(folder) if line["provider"] == "together_llama"],
                30,
                0.1,
            )
            until(lambda: b"demo: groq_llama refuses with 429" in (tmp_path / "out").read_bytes(), 25, 0.1)
            until(
                lambda: fetched(port, "/api/providers")[1]["providers"][0]["reason"] == "rate_limited",
                15,
                0.1,
            )
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(15) == 0
        assert time.monotonic() - began < 8
    told = (tmp_path / "out").read_text()
    assert "Demo: simulated providers. No key is used, and nothing leaves this machine." in told
    assert "Traceback" not in told
    assert "Warning" not in told
    assert KEY not in told
    assert list((tmp_path / "tmp").glob("fallback-demo-*")) == []


@pytest.mark.program
def test_a_busy_port_or_a_wrong_configuration_is_status_2_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = str(taken.getsockname()[1])
        with demonstrating(tmp_path, "--port", busy) as (process, _):
            assert process.wait(30) == 2
        assert f"port {busy} is in use" in (tmp_path / "out").read_text()
    (tmp_path / "wrong.yaml").write_text("providers: [{name: a, modle: b}]\n")
    with demonstrating(tmp_path, "--config", str(tmp_path / "wrong.yaml")) as (process, _):
        assert process.wait(30) == 2
    assert 'providers[0].modle: unknown key; did you mean "model"?' in (tmp_path / "out").read_text()
    assert list((tmp_path / "tmp").iterdir()) == []
