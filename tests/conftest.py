"""Fixtures that several test modules share; how many tests run at a time, and which ones first."""

from __future__ import annotations

import os

import pytest
from local_model_fixture import local_weights, real_model
from redis_server import shared_redis
from time_limit import pytest_runtest_makereport, pytest_timeout_set_timer

__all__ = [
    "local_weights",
    "pytest_runtest_makereport",
    "pytest_timeout_set_timer",
    "real_model",
    "shared_redis",
]


MOST_AT_A_TIME = 8
"""Some tests take three quarters of a minute by themselves, and each process takes half a gigabyte."""


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, without which the tests run as well
def pytest_xdist_auto_num_workers() -> int:
    """Say what `-n auto` means: one more than there are processors, since tests wait a third of their time."""
    affinity = getattr(os, "sched_getaffinity", None)
    processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(processors + 1, MOST_AT_A_TIME)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let those begin that may take longest, so that nobody waits for one of them at the end."""
    items.sort(key=_limit_s, reverse=True)


def _limit_s(item: pytest.Item) -> float:
    usual = float(item.config.getini("timeout") or 0)
    marker = item.get_closest_marker("timeout")
    return max(usual, *marker.args) if marker and marker.args else usual
