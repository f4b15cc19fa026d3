"""The Dockerfile carried out without an engine; deploy/rehearse.py judges what comes of it, this that it was judged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

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


@pytest.mark.timeout(400)
def test_what_the_dockerfile_makes_runs_read_only_without_rights_and_ends_in_good_order() -> None:
    if not possible():
        assert not os.environ.get("CI"), "CI has to be able to mount"
        pytest.skip("the rehearsal needs Linux, root and the right to mount")
    done = subprocess.run(
        [sys.executable, "-m", "deploy.rehearse"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout.splitlines()
    assert [line for line in told if line in JUDGED] == list(JUDGED)
    assert any(line.startswith("SIGTERM ends it with status 0") for line in told)
