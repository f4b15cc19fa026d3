"""The Dockerfile without an engine: a linter, what it copies, and what may not get in. test_rehearsal.py carries it out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy.image import ROOT, Image, context_files, read_image, sources

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
SECRETS = (
    ".env",
    "keys.txt",
    ".streamlit/secrets.toml",
    "logs/usage.log",
    "logs/state.sqlite",
    "pages/.env",
    "fallback/.env",
    "fallback/api/server.key",
    "fallback/local/model.gguf",
    ".git/config",
    "providers.yaml.bak",
    "id_ed25519",
    "fallback/__pycache__/x.cpython-311.pyc",
)


@pytest.fixture(scope="module")
def image() -> Image:
    return read_image(DOCKERFILE)


@pytest.fixture(scope="module")
def seen() -> list[str]:
    return context_files(ROOT, IGNORED)


def test_linter_finds_nothing() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    found = subprocess.run(
        [linter, "--failure-threshold", "style", "Dockerfile"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_linter_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN apt-get install curl\nUSER root\n")
    linter = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([linter, tmp_path / "Dockerfile"], capture_output=True, text=True, check=False)
    assert found.returncode != 0
    assert "DL3007" in found.stdout


def test_base_is_slim_python_in_every_stage_and_the_last_one_takes_nothing_but_results(image: Image) -> None:
    assert [stage.base for stage in image.stages] == ["python:3.11-slim", "python:3.11-slim"]
    assert {step.stage for step in image.final.steps if hasattr(step, "stage")} == {"build"}


def test_user_is_a_number_and_not_root(image: Image) -> None:
    assert image.final.user is not None
    user, group = image.final.user.split(":")
    assert int(user) >= 10_000
    assert int(group) >= 10_000


def test_weights_are_baked_in_unless_the_build_argument_says_otherwise(image: Image) -> None:
    build = image.stages[0]
    assert build.args == {"WITH_MODEL": "1"}
    (installing,) = [step for step in build.steps if "fallback.local" in getattr(step, "command", "")]
    assert 'if [ "$WITH_MODEL" = 1 ]' in getattr(installing, "command", "")
    assert image.final.env["FALLBACK_DATA_DIR"] == "/models"


def test_everything_that_is_copied_is_there_and_gets_into_the_build(image: Image, seen: list[str]) -> None:
    for copy in image.copies():
        for source in copy.sources:
            assert (ROOT / source).exists(), source
            assert any(path == source or path.startswith(f"{source}/") for path in seen), source


def test_the_whole_program_is_copied(image: Image, seen: list[str]) -> None:
    copied = {target for copy in image.copies() for target in sources(copy, seen).values()}
    told = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {path for path in told.stdout.splitlines() if (ROOT / path).exists()}
    wanted = {path for path in tracked if path.startswith(("fallback/", "pages/"))}
    wanted |= {"main.py", "streamlit_app.py", "providers.yaml", "requirements.txt", ".streamlit/config.toml"}
    assert copied == {f"/app/{path}" for path in wanted}


@pytest.mark.parametrize("secret", SECRETS)
def test_nothing_secret_gets_into_the_build(secret: str, tmp_path: Path) -> None:
    for path in (secret, "main.py", "pages/chat.py", "fallback/api/server.py", "fallback/ui/icon.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("secret")
    found = context_files(tmp_path, IGNORED)
    assert found == ["fallback/api/server.py", "fallback/ui/icon.png", "main.py", "pages/chat.py"]


def test_variables_hold_no_secret(image: Image) -> None:
    for stage in image.stages:
        for name in {**stage.args, **stage.env}:
            assert not any(word in name for word in ("KEY", "SECRET", "PASSWORD", "TOKEN")), name


def test_health_check_asks_the_port_that_is_served(image: Image) -> None:
    final = image.final
    assert final.ports == [5000]
    assert final.env["PORT"] == "5000"
    assert "/healthz" in final.health[-1]
    assert {"interval", "timeout", "start-period", "retries"} == set(final.health_options)
    assert final.stop_signal == "SIGTERM"
    assert final.entrypoint == ["python", "main.py"]


def test_python_is_the_one_that_the_project_checks_for(image: Image) -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'requires-python = ">=3.11"' in pyproject
    assert image.final.base.startswith("python:3.11")


def test_folder_of_the_log_is_the_volume(image: Image) -> None:
    assert image.final.volumes == ["/data"]
    assert yaml.safe_load((ROOT / "providers.yaml").read_text()).get("log") is None
    assert any("ln -s /data logs" in getattr(step, "command", "") for step in image.stages[0].steps)


def test_an_unknown_instruction_is_refused() -> None:
    with pytest.raises(ValueError, match="ADD"):
        read_image("FROM scratch\nADD x /x\n")


def test_a_stranger_in_the_folder_changes_nothing(tmp_path: Path, seen: list[str]) -> None:
    for path in seen:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    (tmp_path / "notes.txt").write_text("x")
    assert context_files(tmp_path, IGNORED) == seen
