"""The limit in time of every test, told as what it is in property tests too.

pytest-timeout raises what a failed assertion raises, wherever the test just is. Hypothesis takes that for a failure of the data at
hand, or of drawing it, tries again, gets through, and tells of a flaky test. What it does not know it lets pass.
"""

from __future__ import annotations

import signal
from collections.abc import Generator
from types import FrameType

import pytest

__all__ = ["TooLongError", "pytest_timeout_set_timer"]


class TooLongError(BaseException):
    """A test has taken longer than it may."""


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_timeout_set_timer() -> Generator[None, object, object]:
    """Let the signal of pytest-timeout raise TooLongError."""
    result = yield
    usual = signal.getsignal(signal.SIGALRM)
    if not callable(usual):  # the limit is kept in another way, or is none
        return result

    def strike(number: int, frame: FrameType | None) -> None:
        try:
            usual(number, frame)
        except pytest.fail.Exception as failed:
            raise TooLongError(str(failed)) from None

    signal.signal(signal.SIGALRM, strike)
    return result
