"""Ports for programs that have to be told theirs before they listen.

Not those that the system gives for port 0: until the program listens, any connection that is opened on this machine may get the
same one. These are outside the range that connections take theirs from, and each process that runs tests has a part of its own.
"""

from __future__ import annotations

import itertools
import os
import socket

__all__ = ["free_port", "free_ports"]

FIRST = 20_000
PARTS, IN_A_PART = 20, 500


def _candidates() -> itertools.cycle[int]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")  # gw0, gw1 and so on
    part = int(worker.removeprefix("gw")) if worker else os.getpid()
    ports = [FIRST + part % PARTS * IN_A_PART + index for index in range(IN_A_PART)]
    # Not from the first one on, for the sake of another run of the tests beside this one.
    begin = os.getpid() * 7 % IN_A_PART
    return itertools.cycle([*ports[begin:], *ports[:begin]])


_PORTS = _candidates()


def _is_free(port: int) -> bool:
    with socket.socket() as found:
        try:
            found.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> int:
    """Return the first of `count` free ports of 127.0.0.1 in a row, which are given to nobody else for long."""
    row: list[int] = []
    for port in itertools.islice(_PORTS, 2 * IN_A_PART):
        row = [*row, port] if row and port == row[-1] + 1 else [port]
        if not _is_free(port):
            row = []
        if len(row) == count:
            return row[0]
    raise AssertionError("no free ports")


def free_port() -> int:
    """Return a free port of 127.0.0.1, which is given to nobody else for long."""
    return free_ports(1)
