"""What the README says is so: its examples run as they stand, and what it points to is there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fallback.config import load
from fallback.core.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, beginning: str) -> str:
    """Return the code block of `language` that begins with `beginning`."""
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return next(text for text in blocks if text.startswith(beginning))


def without_keys() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder as a newcomer has it, without .env and logs."""
    for name in ("fallback", "pages", ".streamlit"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("main.py", "streamlit_app.py", "providers.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_the_mistakes_that_are_shown_are_told_in_the_same_words(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = re.search(r"^```\n(providers.yaml: .*?)```", README, re.DOTALL | re.MULTILINE)
    file = checkout / "providers.yaml"
    text = file.read_text(encoding="utf-8")
    text = text.replace("    model: llama-3.1-8b-instant", "    modle: llama-3.1-8b-instant", 1)
    text = re.sub(r"^  retries: \d+", "  retries: many", text, count=1, flags=re.MULTILINE)
    file.write_text(text, encoding="utf-8")
    monkeypatch.chdir(checkout)
    with pytest.raises(ConfigError) as caught:
        load("providers.yaml", environ={})
    assert shown
    assert shown[1] == f"{caught.value}\n"


@pytest.mark.local_model
@pytest.mark.usefixtures("local_weights")
def test_the_python_example_runs_as_it_stands(checkout: Path) -> None:
    example = block("python", "from fallback import")
    assert len(example.strip().splitlines()) <= 16
    script = checkout / "example.py"
    script.write_text(example, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        capture_output=True,
        text=True,
        cwd=checkout,
        env=without_keys(),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Tokyo" in done.stdout
    assert "local_smollm (SmolLM2-135M-Instruct)" in done.stdout
    assert "A small offline model answered; it may be wrong." in done.stdout


@pytest.fixture
def port(checkout: Path) -> Iterator[str]:
    """The port of the program, started as a newcomer starts it."""
    process = subprocess.Popen(
        [sys.executable, "main.py", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=checkout,
        env=without_keys(),
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://[\w.]+:(\d+)", process.stdout.readline())
        assert found
        yield found.group(1)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def run_curl(example: str, port: str) -> tuple[Any, Any]:
    """Send what the curl command `example` would. Returns the answer and its headers."""
    command = shlex.split(example.replace("\\\n", " "))
    url = next(word for word in command if word.startswith("http")).replace(":5000", f":{port}")
    name, value = command[command.index("-H") + 1].split(": ")
    data = command[command.index("-d") + 1].encode()
    request = urllib.request.Request(url, data=data, headers={name: value})  # noqa: S310 - ours
    with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310 - ours
        return json.load(reply), reply.headers


@pytest.mark.local_model
@pytest.mark.program
@pytest.mark.usefixtures("local_weights")
def test_the_curl_examples_get_the_answers_that_are_told(port: str) -> None:
    answer, _ = run_curl(block("sh", "curl -X POST"), port)
    shown = json.loads(block("json", "{"))
    # Its words are drawn at random: 7 answers of 400 had more to say of Tokyo.
    assert shown.pop("response") == "The capital of Japan is Tokyo."
    assert "Tokyo" in answer["response"]
    assert {name: answer[name] for name in shown} == shown
    completion, headers = run_curl(block("sh", "curl http://localhost:5000/v1/chat/completions"), port)
    assert "Tokyo" in completion["choices"][0]["message"]["content"]
    assert (headers["x-fallback-provider"], headers["x-fallback-degraded"]) == ("local_smollm", "true")


@pytest.mark.local_model
@pytest.mark.program
@pytest.mark.usefixtures("local_weights")
def test_the_example_with_openais_client_streams_the_answer(port: str, tmp_path: Path) -> None:
    script = tmp_path / "openai_example.py"
    script.write_text(block("python", "from openai import").replace(":5000", f":{port}"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env=without_keys(),
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Tokyo" in done.stdout


def test_every_file_that_is_named_is_there() -> None:
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name} points to {target}"
    for name in re.findall(r"^\| `([\w./-]+)` \|", README, re.MULTILINE):
        assert name == "logs/usage.log" or (ROOT / name).exists(), f"the README names {name}"


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`?make (\w+)", README)):
        if target != "sure":
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"there is no make {target}"


def test_make_says_what_it_does_before_each_silent_installation() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    silent = re.findall(r"^(.*)\n(\t.*pip install .*--quiet .*)$", makefile, re.MULTILINE)
    assert len(silent) == 2
    for before, command in silent:
        requirements = command.rsplit(" ", 1)[-1]
        assert before.startswith(f'\t@echo "Installing {requirements}'), command
