"""The limit in time of every test, told as what it is.

pytest-timeout raises an exception wherever the test just is. What is told in the end may be another one: Hypothesis takes it for a failure
of the data, or of drawing it, tries again, gets through and tells of a flaky test; DuckDB tells of an interrupted query.
"""

from __future__ import annotations

import signal
from collections.abc import Generator
from types import FrameType

import pytest

__all__ = ["TooLongError", "pytest_runtest_makereport", "pytest_timeout_set_timer"]

_STRUCK = pytest.StashKey[str]()


class TooLongError(Exception):
    """A test has taken longer than it may."""


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item) -> Generator[None, object, object]:
    """Note when the signal of pytest-timeout strikes."""
    result = yield
    usual = signal.getsignal(signal.SIGALRM)
    if not callable(usual):  # the limit is kept in another way, or is none
        return result

    def strike(number: int, frame: FrameType | None) -> None:
        try:
            usual(number, frame)
        except pytest.fail.Exception as failed:
            item.stash[_STRUCK] = str(failed)
            raise

    signal.signal(signal.SIGALRM, strike)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[object]
) -> Generator[None, object, object]:
    """Tell that the test took too long, and what came of it as the consequence."""
    told = item.stash.get(_STRUCK, None)
    if told is not None and call.excinfo is not None:
        error = TooLongError(told).with_traceback(call.excinfo.tb)
        error.__context__ = call.excinfo.value
        call.excinfo = pytest.ExceptionInfo.from_exception(error)
    return (yield)
