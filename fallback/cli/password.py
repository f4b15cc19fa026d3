"""`python -m fallback password`: a password becomes what stands in .env."""

from __future__ import annotations

import getpass
import sys

from fallback.cli.terminal import Screen, UsageError
from fallback.signin.passwords import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS, PasswordHash

__all__ = ["password"]


def password(screen: Screen) -> int:
    """Ask for a password and print its hash. Returns the exit status; raises UsageError where it will not do."""
    if sys.stdin.isatty():
        # Both go to the terminal, so that the output holds the hash alone.
        given = getpass.getpass("Password for the dashboard: ")
        _check(given)
        if getpass.getpass("Once more: ") != given:
            raise UsageError("the two are not the same")
    else:
        given = sys.stdin.readline().rstrip("\r\n")
        _check(given)
    screen.write_line(PasswordHash.of(given).text())
    screen.tell("Put it into .env as DASHBOARD_PASSWORD=..., and restart the program.", "dim")
    return 0


def _check(given: str) -> None:
    if not MIN_PASSWORD_CHARS <= len(given) <= MAX_PASSWORD_CHARS:
        raise UsageError(f"a password has {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters")
