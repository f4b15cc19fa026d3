"""The Dockerfile carried out without an engine; deploy/rehearse.py judges what comes of it, this that it was judged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.image import ROOT

JUDGED = (
    "HEALTHCHECK fails while nothing runs",
    "without keys it refuses to start",
    "HEALTHCHECK succeeds",
    "it runs as 10001:10001",
    "it is process 1",
    "it has no capabilities and gets none",
    "the embedded model in the image answered",
    "the dashboard is served",
    "/app cannot be written",
    "usage.log is in the volume",
    "HEALTHCHECK fails after the end",
    "no traceback was written",
)


def possible() -> bool:
    """Return whether this machine lets us make file systems of our own."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    trial = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


def reachable(folder: Path) -> bool:
    """Return whether the packages of the image can be fetched from somewhere, as its RUN lines do."""
    asked = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--timeout=5", "--retries=0"]
    pin = next(
        line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("idna==")
    )
    done = subprocess.run([*asked, f"--dest={folder}", pin.split()[0]], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.timeout(400)
def test_what_the_dockerfile_makes_runs_read_only_without_rights_and_ends_in_good_order(
    tmp_path: Path,
) -> None:
    if not possible():
        pytest.skip("the rehearsal needs Linux, root and the right to mount")
    if not reachable(tmp_path):
        pytest.skip("the rehearsal installs what the image does, and no index of packages can be reached")
    done = subprocess.run(
        [sys.executable, "-m", "deploy.rehearse"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout.splitlines()
    assert [line for line in told if line in JUDGED] == list(JUDGED)
    assert any(line.startswith("SIGTERM ends it with status 0") for line in told)
