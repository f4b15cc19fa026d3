"""Several processes that serve the API on one port, and the one that watches over them.

Theory of operation: the supervisor binds the port and hands the socket to every worker, which all accept on it. It then waits
for one of two things. A worker that ends is replaced, after a pause that grows where it ends again and again; what callers
had open with it is lost, what others have open is not. A signal ends all of them: each finishes or cuts off its answers
as a single process does, and whoever takes longer than `END_WITHIN_S` is killed. A worker whose supervisor is gone, however
that came about, ends as if it had been told to.

uvicorn's own supervisor was looked at: its workers outlive it where it is killed, and it knows no pause between restarts.

Workers share what the state store and the usage log hold. Each has its own connections, limits and figures; with `own_ports`
each also listens on a port of its own on 127.0.0.1, so that the figures of each can be read.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import NoReturn

from fallback.api.program import Program
from fallback.api.server import application, ease_collection, serve
from fallback.config import load
from fallback.core.errors import ConfigError
from fallback.router import ModelRouter

__all__ = ["Supervisor", "Task"]

END_WITHIN_S = 15.0
PAUSES_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Before a worker that ended again and again is replaced."""
STEADY_AFTER_S = 60.0
"""A worker that has served for so long begins again at the first pause."""
LOOK_S = 0.5

_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What every worker is to do. It is pickled, and so holds no key: each worker reads the configuration itself."""

    config: Path
    count: int
    insecure: bool = False
    own_ports: int | None = None
    """The first of the ports that the workers have to themselves; None: they have none."""


@dataclass(slots=True, kw_only=True)
class _Worker:
    number: int
    process: BaseProcess
    ready: Connection
    began: float
    served: bool = False


class Supervisor:
    """Keeps the workers of `task` running on `listener`. Runs in the main thread."""

    def __init__(self, task: Task, listener: socket.socket, *, started: Callable[[], None]) -> None:
        """Call `started` once all workers serve."""
        self._task = task
        self._listener = listener
        self._started = started
        self._workers: list[_Worker] = []
        self._failures = [0] * task.count
        self._due: dict[int, float] = {}
        """When the worker of a number is to be replaced."""
        self._ending = False

    def run(self) -> int:
        """Serve until a signal comes. Returns the exit status: 1 where a worker could not start."""
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, self._end)
        for number in range(self._task.count):
            self._begin(number)
        told = False
        try:
            while not self._ending:
                wait([*(each.process.sentinel for each in self._workers), *self._waiting()], LOOK_S)
                if not self._look(told):
                    return 1
                if not told and len(self._workers) == self._task.count and not self._waiting():
                    told = True
                    self._started()
            return 0
        finally:
            self._end_all()

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self._ending = True

    def _waiting(self) -> list[Connection]:
        return [each.ready for each in self._workers if not each.served]

    def _begin(self, number: int) -> None:
        receiver, sender = _SPAWN.Pipe(duplex=False)
        process = _SPAWN.Process(
            target=_work, args=(self._task, number, self._listener, sender), name=f"fallback-worker-{number}"
        )
        process.start()
        sender.close()
        self._workers.append(_Worker(number=number, process=process, ready=receiver, began=time.monotonic()))

    def _look(self, told: bool) -> bool:
        """See to what happened; return False where the program cannot go on."""
        now = time.monotonic()
        for worker in tuple(self._workers):
            if not worker.served and worker.ready.poll():
                try:
                    worker.ready.recv()
                    worker.served = True
                except EOFError:
                    pass  # it has ended, or is about to
            if worker.process.is_alive():
                continue
            self._forget(worker)
            if not told and not worker.served:
                return False  # it has said why
            if not self._ending:
                self._plan_replacement(worker, now)
        for number, due in tuple(self._due.items()):
            if now >= due and not self._ending:
                del self._due[number]
                self._begin(number)
        return True

    def _plan_replacement(self, worker: _Worker, now: float) -> None:
        if now - worker.began >= STEADY_AFTER_S:
            self._failures[worker.number] = 0
        pause_s = PAUSES_S[min(self._failures[worker.number], len(PAUSES_S) - 1)]
        self._failures[worker.number] += 1
        self._due[worker.number] = now + pause_s
        after = f" in {pause_s:g} s" if pause_s else ""
        status = worker.process.exitcode
        sys.stderr.write(
            f"Worker {worker.number} ended with status {status}; another one takes its place{after}.\n"
        )
        sys.stderr.flush()

    def _forget(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.join()
        worker.ready.close()

    def _end_all(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        until = time.monotonic() + END_WITHIN_S
        for worker in tuple(self._workers):
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
            self._forget(worker)


def _work(task: Task, number: int, listener: socket.socket, ready: Connection) -> None:
    """Serve as the worker `number`, in a process of its own."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _leave)
    threading.Thread(target=_end_with_the_supervisor, name="fallback-supervisor", daemon=True).start()
    try:
        settings = load(task.config)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    if task.count > 1:
        settings = settings.of_worker(number)

    def started(_: ModelRouter) -> None:
        ease_collection()
        ready.send(number)

    program = Program(task.config)
    program.configure(settings, started=started, insecure=task.insecure)
    sockets = [listener]
    if task.own_ports is not None:
        sockets.append(_bound("127.0.0.1", task.own_ports + number))
    if not serve(application(program), sockets):
        sys.exit(1)


def _bound(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name != "nt":
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((address, port))
    except OSError as error:
        made.close()
        sys.stderr.write(f"port {port} of a worker cannot be used: {error.strerror}\n")
        sys.exit(1)
    return made


def _end_with_the_supervisor() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)
