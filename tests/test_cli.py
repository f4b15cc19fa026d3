"""The command line as its users meet it: a process, a stand-in provider, and now and then a terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fallback.cli import main
from fallback.cli.place import configuration
from fallback.cli.terminal import Screen, neutral
from fallback.router import ModelRouter
from fallback.signin import PasswordHash
from fallback.standin import Fault, StandInThread

ROOT = Path(__file__).resolve().parent.parent
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")
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
  - name: keyless
    endpoint: https://keyless.invalid/v1/chat/completions
    model: model-c
routing:
  retries: 0
"""


@pytest.fixture(scope="module")
def server() -> Iterator[StandInThread]:
    with StandInThread() as started:
        started.tenant("groq_llama", dialect="groq", text="Tokyo is the capital.")
        started.tenant("together_llama", dialect="together", text="It is Tokyo.")
        yield started


@pytest.fixture
def standin(server: StandInThread) -> StandInThread:
    for name in ("groq_llama", "together_llama"):
        server.tenant(name).reset()
    return server


@pytest.fixture
def config(standin: StandInThread, tmp_path: Path) -> Path:
    file = tmp_path / "providers.yaml"
    file.write_text(CONFIG.format(base=standin.base_url))
    return file


def environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SYSTEMROOT") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **more}


def run(
    *arguments: str, folder: Path, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "fallback", *arguments], cwd=folder, env=environment(**variables),
        input=stdin, capture_output=True, timeout=60, check=False,
    )  # fmt: skip


Fallback = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def fallback(config: Path) -> Fallback:
    """Run the command line in the folder of the configuration."""
    return lambda *arguments, **options: run(*arguments, folder=config.parent, **options)


def in_process(*arguments: str, config: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Do the same without a process of its own, where that makes no difference."""
    try:
        status = main([*arguments, "--config", str(config)])
    except SystemExit as error:
        status = int(error.code or 0)
    told = capsys.readouterr()
    return status, told.out, told.err


Providers = Callable[..., tuple[int, str, str]]


@pytest.fixture
def providers(config: Path, capsys: pytest.CaptureFixture[str]) -> Providers:
    return lambda *arguments: in_process("providers", *arguments, config=config, capsys=capsys)


def log(config: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.parent / "logs/usage.log").read_text().splitlines()]


# ask


def test_the_answer_goes_to_stdout_and_the_account_to_stderr(fallback: Fallback, config: Path) -> None:
    done = fallback("ask", "What is the capital of Japan?")
    assert (done.returncode, done.stdout) == (0, b"Tokyo is the capital.\n")
    told = done.stderr.decode().splitlines()
    assert told[:3] == [
        "Attempting invocation with groq_llama...",
        "Using groq_llama (model-a)",
        "Successfully generated response using groq_llama",
    ]
    assert re.fullmatch(r"groq_llama \(model-a\), [0-9.]+ s, 10 tokens, \$0\.0000\d+", told[3])
    assert {line["source"] for line in log(config)} == {"cli"}


def test_several_words_are_one_question(fallback: Fallback, standin: StandInThread) -> None:
    assert fallback("ask", "What", "is", "it", "--max-tokens", "7").returncode == 0
    assert standin.tenant("groq_llama").last_requests[-1].body["messages"][-1]["content"] == "What is it"


def test_a_failover_is_told_and_survived(fallback: Fallback, standin: StandInThread) -> None:
    standin.tenant("groq_llama").always(Fault(kind="status", status=503))
    done = fallback("ask", "Hello")
    assert (done.returncode, done.stdout) == (0, b"It is Tokyo.\n")
    assert "Error with groq_llama: overloaded (HTTP 503)" in done.stderr.decode()
    assert "Invoking together_llama as fallback..." in done.stderr.decode()


def test_no_answer_is_status_1_and_says_why(fallback: Fallback, standin: StandInThread) -> None:
    for name in ("groq_llama", "together_llama"):
        standin.tenant(name).always(Fault(kind="status", status=503))
    done = fallback("ask", "Hello")
    assert (done.returncode, done.stdout) == (1, b"")
    assert "No answer: all providers failed (groq_llama: overloaded" in done.stderr.decode()


def test_an_answer_that_broke_off_is_status_1(fallback: Fallback, standin: StandInThread) -> None:
    standin.tenant("groq_llama").always(Fault(kind="cut", after_words=2))
    standin.tenant("together_llama").always(Fault(kind="status", status=503))
    done = fallback("ask", "Hello")
    assert (done.returncode, done.stdout) == (1, b"Tokyo is\n")
    assert "broke off" in done.stderr.decode()


def test_an_answer_that_broke_off_is_gone_on_with(fallback: Fallback, standin: StandInThread) -> None:
    standin.tenant("groq_llama").always(Fault(kind="cut", after_words=2))
    standin.tenant("together_llama").configure(text="Tokyo is the capital.")
    done = fallback("ask", "Hello")
    assert (done.returncode, done.stdout) == (0, b"Tokyo is the capital.\n")
    assert "together_llama goes on with the answer after 8 characters" in done.stderr.decode()


def test_every_option_reaches_the_provider(fallback: Fallback, standin: StandInThread) -> None:
    options = (
        "--model",
        "together_llama",
        "--system",
        "Be brief.",
        "--temperature",
        "0.25",
        "--max-tokens",
        "7",
    )
    assert fallback("ask", "Hello", *options, "--deadline", "9").returncode == 0
    sent = standin.tenant("together_llama").last_requests[0].body
    assert [message["content"] for message in sent["messages"]] == ["Be brief.", "Hello"]
    assert (sent["temperature"], sent["max_tokens"]) == (0.25, 7)
    assert standin.tenant("groq_llama").counters.requests == 0


def test_the_question_is_read_from_stdin(fallback: Fallback, standin: StandInThread) -> None:
    assert fallback("ask", "-", stdin="Wie heißt die Hauptstadt?\n".encode()).returncode == 0
    assert standin.tenant("groq_llama").last_requests[0].body["messages"] == [
        {"role": "user", "content": "Wie heißt die Hauptstadt?\n"}
    ]


@pytest.mark.parametrize(
    ("stdin", "sentence"),
    [
        (b"", "prompt is empty: write a question"),
        (b" \n", "prompt is empty"),
        (b"caf\xe9", "stdin is not UTF-8 (byte 3)"),
        (b"a" * (1024 * 1024 + 1), "stdin holds more than 1 MiB"),
    ],
)
def test_a_bad_question_on_stdin_is_status_2(fallback: Fallback, stdin: bytes, sentence: str) -> None:
    done = fallback("ask", "-", stdin=stdin)
    assert (done.returncode, done.stdout) == (2, b"")
    assert sentence in done.stderr.decode()


def test_json_is_the_answer_of_the_api(fallback: Fallback) -> None:
    done = fallback("ask", "Hello", "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["response"], answer["provider"]) == (
        0,
        "Tokyo is the capital.",
        "groq_llama",
    )
    assert answer["cost_usd"] > 0


def test_json_of_a_failure_is_the_error_of_the_api(fallback: Fallback, standin: StandInThread) -> None:
    for name in ("groq_llama", "together_llama"):
        standin.tenant(name).always(Fault(kind="cut", after_words=1))
    done = fallback("ask", "Hello", "--json")
    error = json.loads(done.stdout)
    assert (done.returncode, error["error_type"]) == (1, "stream_broken")
    assert set(error) == {"error", "error_type", "request_id", "activity_log"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("ask",), "the following arguments are required: prompt"),
        (("ask", ""), "prompt is empty"),
        (
            ("ask", "Hello", "--model", "gpt-9"),
            "model 'gpt-9' does not exist here; choose one of: auto, groq_llama",
        ),
        (("ask", "Hello", "--temperature", "3"), "temperature must be a number from 0 to 2"),
        (("ask", "Hello", "--temperature", "hot"), "argument --temperature: invalid float value: 'hot'"),
        (("ask", "Hello", "--temperature", "nan"), "temperature must be a number from 0 to 2"),
        (("ask", "Hello", "--max-tokens", "0"), "max_tokens must be a whole number"),
        (("ask", "Hello", "--deadline", "-1"), "deadline_s must be a number of seconds above 0"),
        (("ask", "Hello", "--temp", "1"), "unrecognized arguments: --temp 1"),
        (("aks", "Hello"), "invalid choice: 'aks'"),
        ((), "the following arguments are required: COMMAND"),
        (("ask", "Hello", "--config", "nowhere.yaml"), "nowhere.yaml: 1 problem\n  no such file"),
        (("providers", "--config", "nowhere.yaml"), "nowhere.yaml: 1 problem\n  no such file"),
    ],
)
def test_wrong_arguments_are_status_2_with_a_sentence(
    fallback: Fallback, standin: StandInThread, arguments: tuple[str, ...], sentence: str
) -> None:
    done = fallback(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert sentence in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert standin.tenant("groq_llama").counters.requests == 0


@pytest.mark.parametrize(
    "command", [("main.py",), ("-m", "fallback", "ask", "hi"), ("-m", "fallback", "report")]
)
def test_without_the_requirements_one_line_says_how_to_get_them(command: tuple[str, ...]) -> None:
    # -S: a Python that finds no installed package, such as the system's.
    done = subprocess.run(
        [sys.executable, "-S", *command],
        capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    told = r"the requirements are not installed here \(\w+ is missing\): \. \.venv/bin/activate, or pip install -r requirements\.txt\n"
    assert re.fullmatch(told, done.stderr)


def test_a_question_that_is_no_text_is_status_2(fallback: Fallback) -> None:
    done = fallback("ask", os.fsdecode(b"caf\xe9"))
    assert done.returncode == 2
    assert b"lone surrogate" in done.stderr


@POSIX
@pytest.mark.parametrize(
    "fault", [Fault(kind="hang", seconds=60), Fault(kind="stall", after_words=2, seconds=60)]
)
def test_ctrl_c_ends_it_at_once_with_130(config: Path, standin: StandInThread, fault: Fault) -> None:
    groq = standin.tenant("groq_llama")
    groq.always(fault)
    with begun("ask", "Hello", config=config) as process:
        assert groq.wait_for(lambda counters: counters.in_flight == 1, 20)
        if fault.kind == "stall":
            assert process.stdout is not None
            assert process.stdout.read(8) == b"Tokyo is"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert time.monotonic() - began < 3
    assert err.decode().endswith("Stopped.\n")
    assert "Traceback" not in err.decode()
    assert groq.wait_for(lambda counters: counters.in_flight == 0, 5)
    assert [line["outcome"] for line in log(config)] == ["cancelled", "cancelled"]


@contextlib.contextmanager
def begun(*arguments: str, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "fallback", *arguments], cwd=config.parent, env=environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # Whoever runs the tests in the background may have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads in between
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


@POSIX
def test_a_reader_who_leaves_ends_it_quietly(config: Path, standin: StandInThread) -> None:
    standin.tenant("groq_llama").configure(words=5000, text=None, per_token_s=0.001)
    with begun("ask", "Hello", config=config) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(2) == b"w1"
        process.stdout.close()
        told = process.stderr.read().decode()
        assert process.wait(20) == 141
    assert "Traceback" not in told


# In a terminal


def on_a_terminal(*arguments: str, config: Path, **variables: str) -> str:
    """Run it with a terminal as stdin, stdout and stderr; return what stands there."""
    import pty  # not to be had on Windows

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "fallback", *arguments], cwd=config.parent, env=environment(**variables),
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # Linux says so where the other side is closed
        while piece := os.read(ours, 65536):
            seen += piece
    os.close(ours)
    assert process.wait(30) == 0
    return seen.decode().replace("\r\n", "\n")


@POSIX
def test_attempts_have_colours_in_a_terminal_and_words_without_them(
    config: Path, standin: StandInThread
) -> None:
    standin.tenant("groq_llama").play(Fault(kind="status", status=503))
    seen = on_a_terminal("ask", "Hello", config=config, TERM="xterm")
    assert "\x1b[31mError with groq_llama: overloaded (HTTP 503)" in seen
    assert "\nIt is Tokyo.\n\x1b[32mSuccessfully generated" in seen


@POSIX
@pytest.mark.parametrize(
    ("arguments", "variables"),
    [((), {"NO_COLOR": "1"}), (("--no-color",), {}), ((), {"TERM": "dumb"})],
)
def test_whoever_wants_no_colours_gets_none(
    config: Path, standin: StandInThread, arguments: tuple[str, ...], variables: dict[str, str]
) -> None:
    for command in (("ask", "Hello"), ("providers",)):
        assert "\x1b" not in on_a_terminal(
            *command, *arguments, config=config, **{"TERM": "xterm"} | variables
        )


HOSTILE = "a\x1b]0;owned\x07b\x1b[2Jc\x9b31md\u202ee\x7ff\rg\tü 🗼\nend"


@POSIX
def test_a_terminal_obeys_nothing_that_a_model_writes(config: Path, standin: StandInThread) -> None:
    standin.tenant("groq_llama").configure(text=HOSTILE)
    seen = on_a_terminal("ask", "Hello", config=config, NO_COLOR="1")
    assert "a␛]0;owned␇b␛[2Jc\ufffd31md\ufffde␡fg\tü 🗼\nend\n" in seen
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", seen)


def test_a_pipe_gets_the_answer_as_it_came(fallback: Fallback, standin: StandInThread) -> None:
    standin.tenant("groq_llama").configure(text=HOSTILE)
    assert fallback("ask", "Hello").stdout == HOSTILE.encode() + b"\n"


def test_what_a_provider_says_of_its_failure_is_harmless_too(
    fallback: Fallback, standin: StandInThread
) -> None:
    body = json.dumps({"error": {"message": "bad \x1b[2J request", "code": "invalid"}})
    for name in ("groq_llama", "together_llama"):
        standin.tenant(name).always(Fault(kind="status", status=400, body=body))
    done = fallback("ask", "Hello")
    assert done.returncode == 1
    assert b"\x1b" not in done.stderr


@pytest.mark.parametrize("code", [*range(0x20), 0x7F, *range(0x80, 0xA0), 0x202E, 0x2066, 0xD800])
def test_no_control_character_passes(code: int) -> None:
    shown = neutral(f"a{chr(code)}b")
    assert (shown == f"a{chr(code)}b") == (chr(code) in "\t\n")
    shown.encode()


def test_a_narrow_encoding_loses_characters_and_not_the_answer() -> None:
    raw = io.BytesIO()
    screen = Screen(io.TextIOWrapper(raw, encoding="ascii"), io.StringIO())
    screen.write("Tokyo 🗼")
    assert raw.getvalue() == b"Tokyo ?"


# providers


def test_the_table_is_aligned_and_complete(providers: Providers) -> None:
    status, out, err = providers()
    assert (status, err) == (0, "")
    head, *rows = out.splitlines()
    assert [row.split()[:2] for row in rows] == [
        ["1", "groq_llama"],
        ["2", "together_llama"],
        ["3", "keyless"],
    ]
    for title, cells in {
        "PROVIDER": ["groq_llama", "together_llama", "keyless"],
        "STATE": ["ready", "ready", "not configured"],
        "MODEL": ["model-a", "model-b", "model-c"],
        "LAST 15 MINUTES": ["-", "-", "-"],
        "DRILL": ["-", "-", "-"],
    }.items():
        column = head.index(title)
        assert [row[column:].startswith(cell) for row, cell in zip(rows, cells, strict=True)] == [True] * 3
    assert rows[2].endswith("no key: set KEYLESS_API_KEY in .env")
    assert providers("status")[1] == out


def test_a_drilled_failure_is_not_the_kind_of_those_that_count(
    providers: Providers, fallback: Fallback, standin: StandInThread
) -> None:
    groq = standin.tenant("groq_llama")
    groq.always(Fault(kind="status", status=503))
    fallback("ask", "Hello")
    groq.always(None)
    providers("end-cooldown", "groq_llama")
    assert providers("drill", "groq_llama", "unauthorized")[0] == 0
    fallback("ask", "Hello")
    assert re.search(r"groq_llama .* 1 call, 1 failed, last with overloaded  .* by cli", providers()[1])


def test_the_table_tells_what_happened_lately(
    providers: Providers, fallback: Fallback, standin: StandInThread
) -> None:
    standin.tenant("groq_llama").always(Fault(kind="status", status=429, retry_after="600"))
    fallback("ask", "Hello")
    out = providers()[1]
    assert re.search(
        r"groq_llama +cooling down 1\d\.\d minutes +model-a +1 call, 1 failed, last with rate_limited", out
    )
    assert re.search(r"together_llama +ready +model-b +1 call +-", out)


def test_switching_off_and_on_lasts(providers: Providers, fallback: Fallback, config: Path) -> None:
    assert providers("off", "groq_llama", "keyless")[:2] == (
        0, "groq_llama is switched off.\nkeyless is switched off.\n",
    )  # fmt: skip
    assert re.search(r"groq_llama +off .* switched off$", providers()[1], re.MULTILINE)
    assert fallback("ask", "Hello").stdout == b"It is Tokyo.\n"
    assert providers("on", "groq_llama")[:2] == (0, "groq_llama is switched on.\n")
    assert fallback("ask", "Hello").stdout == b"Tokyo is the capital.\n"
    assert {line["by"] for line in log(config) if line["kind"] == "state"} == {"cli"}


def test_a_drill_strikes_and_ends(providers: Providers, fallback: Fallback) -> None:
    status, out, _ = providers(
        "drill", "groq_llama", "rate-limited", "--value", "20", "--for", "90s", "--seed", "3"
    )
    assert status == 0
    assert out == "groq_llama has a drill: Rate limited (429), Retry-After 20 s; 90 s left, by cli.\n"
    assert fallback("ask", "Hello").stdout == b"It is Tokyo.\n"
    assert "Rate limited (429)" in providers()[1]
    assert providers("end-drill", "groq_llama")[:2] == (0, "groq_llama has no drill any more.\n")
    assert "Rate limited (429)" not in providers()[1]
    assert fallback("ask", "Hello").stdout == b"Tokyo is the capital.\n"


@pytest.mark.parametrize(
    ("length", "left_s"),
    [("30", 30), ("30s", 30), ("5m", 300), ("1.5h", 5400), ("2d", 172_800), ("forever", None)],
)
def test_the_length_of_a_drill(providers: Providers, length: str, left_s: float | None) -> None:
    listed = json.loads(providers("drill", "keyless", "off", "--for", length, "--json")[1])
    found = listed["providers"][2]["drill"]["left_s"]
    assert found == (None if left_s is None else pytest.approx(left_s, abs=2))


def test_a_preset_and_the_end_of_all_drills(providers: Providers) -> None:
    told = "Groq outage: every Groq provider refuses with 503 (groq_llama).\n"
    assert providers("preset", "groq", "outage")[:2] == (0, told)
    assert "Overloaded (503)" in providers()[1]
    assert providers("end-drill", "--all")[:2] == (0, "groq_llama has no drill any more.\n")
    assert providers("end-drill", "--all")[:2] == (0, "There was no drill.\n")


def test_a_cooldown_ends(providers: Providers, fallback: Fallback, standin: StandInThread) -> None:
    standin.tenant("groq_llama").play(Fault(kind="status", status=429, retry_after="600"))
    fallback("ask", "Hello")
    assert "cooling down" in providers()[1]
    assert providers("end-cooldown", "groq_llama")[:2] == (0, "groq_llama is ready to be asked.\n")
    assert "cooling down" not in providers()[1]


def test_the_order_is_changed_and_set_back(providers: Providers, fallback: Fallback) -> None:
    order = ("keyless", "together_llama", "groq_llama")
    assert providers("order", *order)[:2] == (0, f"Asked in this order: {', '.join(order)}.\n")
    assert fallback("ask", "Hello").stdout == b"It is Tokyo.\n"
    assert json.loads(providers("--json")[1])["order"] == list(order)
    told = "Asked in this order: groq_llama, together_llama, keyless.\n"
    assert providers("order", "--reset")[:2] == (0, told)


def test_json_is_that_of_the_api_before_and_after_a_command(providers: Providers) -> None:
    listed = json.loads(providers("--json")[1])
    assert set(listed) == {"providers", "order", "order_is_default", "warning", "demo"}
    after = json.loads(providers("off", "groq_llama", "--json")[1])
    assert after["providers"][0]["state"] == "off"
    assert json.loads(providers("--json", "status")[1]) == after


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("off",), "the following arguments are required: NAME"),
        (("off", "groq_lama"), "there is no provider 'groq_lama'; did you mean \"groq_llama\"?"),
        (
            ("off", "groq_llama", "x"),
            "there is no provider 'x'; there are groq_llama, together_llama, keyless",
        ),
        (("end-cooldown", "x"), "there is no provider 'x'"),
        (("drill", "x", "off"), "there is no provider 'x'"),
        (("drill", "groq_llama", "flood"), "kind: no drill 'flood'; there are off, unauthorized"),
        (("drill", "groq_llama", "off", "--value", "3"), "value: off takes none"),
        (("drill", "groq_llama", "off", "--for", "soon"), "--for: expected a time such as 30s, 5m"),
        (
            ("drill", "groq_llama", "off", "--for", "0"),
            "--for: expected a time above 0 and up to 7d, or forever",
        ),
        (
            ("drill", "groq_llama", "off", "--for", "9d"),
            "--for: expected a time above 0 and up to 7d, or forever",
        ),
        (
            ("drill", "groq_llama", "reset", "--probability", "2"),
            "probability: expected a number from 0 to 1",
        ),
        (("drill", "groq_llama", "reset", "--seed", "-1"), "seed: expected a whole number from 0"),
        (("end-drill",), "end-drill takes the names of providers, or --all"),
        (("end-drill", "groq_llama", "--all"), "end-drill takes the names of providers, or --all"),
        (("end-drill", "x"), "there is no provider 'x'"),
        (("preset", "flood"), "there is no preset 'flood'; there are Groq outage, Rate-limit storm"),
        (("order",), "order takes the names of all providers, or --reset"),
        (("order", "groq_llama", "--reset"), "order takes the names of all providers, or --reset"),
        (("order", "groq_llama"), "an order names every provider once: groq_llama, together_llama, keyless"),
        (("order", "groq_llama", "groq_llama", "keyless"), "an order names every provider once"),
        (("swithc",), "invalid choice: 'swithc'"),
    ],
)
def test_a_mistake_is_status_2_with_a_sentence_and_changes_nothing(
    providers: Providers, config: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    status, out, err = providers(*arguments)
    assert (status, out) == (2, "")
    assert sentence in err
    assert not (config.parent / "logs/usage.log").exists()
    listed = json.loads(providers("--json")[1])
    assert [(each["enabled"], each["drill"]) for each in listed["providers"]] == [(True, None)] * 3
    assert listed["order_is_default"] is True


def test_a_running_program_follows_and_is_seen(providers: Providers, config: Path) -> None:
    with ModelRouter(config) as router:
        providers("off", "groq_llama")
        end = time.monotonic() + 10
        while router.status()[0].state != "off" and time.monotonic() < end:
            time.sleep(0.01)
        assert router.status()[0].state == "off"
        router.set_enabled("groq_llama", True)
        assert router.switchboard.flush()
        assert json.loads(providers("--json")[1])["providers"][0]["state"] == "ready"


def test_where_the_state_cannot_be_written_it_says_so_with_status_1(
    providers: Providers, config: Path
) -> None:
    (config.parent / "logs" / "state.sqlite").mkdir(parents=True)
    status, out, err = providers("off", "groq_llama")
    assert (status, out) == (1, "")
    assert "Warning: state store unwritable" in err
    assert err.endswith("Nothing was changed: the shared state cannot be written.\n")
    status, out, err = providers("status")
    assert status == 0
    assert "groq_llama" in out
    assert "Warning: state store unwritable" in err


def test_the_embedded_model_is_neither_started_nor_called_ready_without_its_weights(
    config: Path, providers: Providers
) -> None:
    config.write_text(
        config.read_text().replace(
            "routing:", "  - {name: local, type: local, model: small, model_path: nowhere.gguf}\nrouting:"
        )
    )
    found = json.loads(providers("--json")[1])["providers"][3]
    assert (found["state"], found["configured"]) == ("not_configured", False)


def test_a_command_loads_neither_streamlit_nor_what_it_does_not_need() -> None:
    script = (
        "import sys\nfrom fallback.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "early = {'yaml', 'requests', 'starlette', 'sqlite3'} & set(sys.modules)\n"
        "import fallback.cli.ask, fallback.cli.switches\n"
        "late = {'streamlit', 'pandas', 'aiohttp', 'xllamacpp', 'fallback.standin'} & set(sys.modules)\n"
        "sys.exit(f'{early} {late}' if early or late else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_configuration_is_the_named_one_else_the_one_here_else_the_one_beside_main(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FALLBACK_CONFIG", raising=False)
    assert configuration(None) == ROOT / "providers.yaml"
    (tmp_path / "providers.yaml").write_text("")
    assert configuration(None) == Path("providers.yaml")
    monkeypatch.setenv("FALLBACK_CONFIG", "other.yaml")
    assert configuration(None) == Path("other.yaml")
    assert configuration("named.yaml") == Path("named.yaml")


def test_the_documentation_names_every_command_and_option() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    for command in (
        ["ask"],
        ["providers"],
        ["providers", "drill"],
        ["providers", "end-drill"],
        ["providers", "order"],
    ):
        told = run(*command, "--help", folder=ROOT).stdout.decode()
        for option in set(re.findall(r"--[a-z-]+", told)):
            assert f"`{option}" in text, option
    for action in re.findall(
        r"^    ([a-z-]+)  ", run("providers", "--help", folder=ROOT).stdout.decode(), re.MULTILINE
    ):
        assert f"providers {action}" in text


# Passwords


def test_a_password_in_a_pipe_becomes_its_hash_and_is_shown_nowhere(tmp_path: Path) -> None:
    done = run("password", folder=tmp_path, stdin=b"correct horse\r\nand no more\n")
    assert done.returncode == 0
    assert PasswordHash.parse(done.stdout.decode().rstrip("\n")).matches("correct horse")
    assert b"DASHBOARD_PASSWORD=" in done.stderr
    assert b"correct" not in done.stdout + done.stderr


@pytest.mark.parametrize("stdin", [b"", b"short77\n", b"x" * 1025])
def test_a_password_that_will_not_do_is_status_2(tmp_path: Path, stdin: bytes) -> None:
    done = run("password", folder=tmp_path, stdin=stdin)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"a password has 8 to 1024 characters\n"


def typed(folder: Path, *lines: str) -> tuple[int, str, str]:
    """Run the command in a terminal and answer its questions; return status, stdout, and what the terminal showed."""
    import pty  # not to be had on Windows

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "fallback", "password"], cwd=folder, env=environment(),
        stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    answers = list(lines)
    with contextlib.suppress(OSError):  # Linux says so where the other side is closed
        while piece := os.read(ours, 65536):
            shown += piece
            # Only now is what is typed not shown any more.
            if answers and piece.rstrip(b" ").endswith(b":"):
                os.write(ours, f"{answers.pop(0)}\n".encode())
    os.close(ours)
    out, _ = process.communicate(timeout=30)
    return process.returncode, out.decode(), shown.decode()


@POSIX
def test_a_terminal_is_asked_twice_and_shows_nothing_that_is_typed(tmp_path: Path) -> None:
    status, out, shown = typed(tmp_path, "correct horse", "correct horse")
    assert status == 0
    assert PasswordHash.parse(out.rstrip("\n")).matches("correct horse")
    assert shown.startswith("Password for the dashboard: ")
    assert "Once more: " in shown
    assert "horse" not in shown


@POSIX
def test_two_passwords_that_differ_are_status_2(tmp_path: Path) -> None:
    status, out, shown = typed(tmp_path, "correct horse", "correct house")
    assert (status, out) == (2, "")
    assert "the two are not the same" in shown


@pytest.mark.local_model
def test_the_embedded_model_answers_when_nobody_else_can(local_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "providers.yaml").write_text(
        "providers:\n"
        "  - {name: keyless, endpoint: 'https://keyless.invalid/v1/chat/completions', model: a}\n"
        "  - {name: local, type: local, model: SmolLM2-135M-Instruct, timeouts: {first_token_s: 50}}\n"
    )
    done = run(
        "ask", "What is the capital of Japan?", "--max-tokens", "20", folder=tmp_path, HOME=str(Path.home())
    )
    assert done.returncode == 0
    assert b"Tokyo" in done.stdout
    assert b"Note: small offline model, may be wrong" in done.stderr
