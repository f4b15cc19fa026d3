"""A test that takes too long is told as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SLOW_TO_DRAW = """
import time
from hypothesis import given, settings, strategies as st

drawn = []

def slow_once(value):
    drawn.append(value)
    if len(drawn) == 20:
        time.sleep(60)
    return value

@settings(deadline=None, database=None)
@given(st.lists(st.integers().map(slow_once), min_size=3))
def test_it(values):
    pass
"""
SLOW_TO_RUN = """
import time
from hypothesis import given, settings, strategies as st

seen = []

@settings(deadline=None, database=None)
@given(st.integers())
def test_it(value):
    seen.append(value)
    if len(seen) == 20:
        time.sleep(60)
"""


@pytest.mark.parametrize("slow", [SLOW_TO_DRAW, SLOW_TO_RUN])
def test_property_test_that_takes_too_long_is_not_called_flaky(tmp_path: Path, slow: str) -> None:
    (tmp_path / "test_slow.py").write_text(slow)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "time_limit", "-p", "no:xdist", "--timeout=1", "--rootdir", str(tmp_path)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert "FAILED test_slow.py::test_it - time_limit.TooLongError: Timeout (>1.0s)" in done.stdout
