"""The processes of the soak: a state server and replicas of the program, each in a folder of its own, on 127.0.0.1 alone."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["Clock", "Replica", "StateServer", "free_ports", "has_redis"]

ROOT = Path(__file__).resolve().parent.parent.parent
START_WITHIN_S = 90.0
END_WITHIN_S = 60.0
_CLOCK_FOLDER = Path(__file__).resolve().parent / "clock"


def has_redis() -> bool:
    """Return whether a state server can be started, and the program can use one."""
    return shutil.which("redis-server") is not None and (ROOT / "fallback/config/state.py").exists()


def free_ports(count: int) -> int:
    """Return the first of so many free ports in a row, outside the range that connections take their own from."""
    for first in range(20_000 + os.getpid() % 8_000, 32_000, count):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise SystemExit("no free ports")


def _end(process: subprocess.Popen[bytes]) -> int | None:
    """End a process in good order; None where it had to be killed."""
    process.terminate()
    try:
        return process.wait(END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


class Clock:
    """The wall clock of all replicas together: that of the machine and an offset, in a file that they look at."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "clock"
        self.offset_s = 0.0
        self.path.write_bytes(struct.pack("<d", 0.0))

    def set(self, offset_s: float) -> None:
        """Set the clock."""
        self.offset_s = offset_s
        with self.path.open("r+b") as file:  # in place: it is mapped
            file.write(struct.pack("<d", offset_s))


class StateServer:
    """A redis-server that keeps what it has in an append-only file."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self._folder = folder / "redis"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What STATE_URL says."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *, wiped: bool = False) -> None:
        """Start it, with what it kept or, where `wiped`, with nothing. Returns once it answers."""
        if wiped:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(exist_ok=True)
        options = {
            "--port": str(self.port),
            "--bind": "127.0.0.1",
            "--dir": str(self._folder),
            "--save": "",
            "--appendonly": "yes",
        }
        self._process = subprocess.Popen(
            [shutil.which("redis-server") or "", *(word for option in options.items() for word in option)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + START_WITHIN_S
        while not self._answers():
            if time.monotonic() > until or self._process.poll() is not None:
                raise SystemExit("redis-server does not start")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return self.ask("PING") == b"+PONG\r\n"
        except OSError:
            return False

    def ask(self, command: str) -> bytes:
        """Send one command without arguments. Raises OSError."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(1000)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Replica:
    """The program with so many workers, each with a port of its own beside the common one."""

    def __init__(self, folder: Path, name: str, *, port: int, workers: int) -> None:
        """Take the port `port`, and as many after it as there are workers."""
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.port = port
        self.own_ports = range(port + 1, port + 1 + workers)
        self.status: int | None = None
        self._process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """The common port."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def logs(self) -> Path:
        """Its usage log."""
        return self.folder / "logs"

    def own_url(self, number: int) -> str:
        """Return the address of one worker's own port."""
        return f"http://127.0.0.1:{self.own_ports[number]}"

    def start(self, providers: str, clock: Clock, variables: Mapping[str, str]) -> None:
        """Start it. Returns once every worker serves."""
        (self.folder / "providers.yaml").write_text(providers, "utf-8")
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
        environment = {
            **kept,
            "PYTHONPATH": str(_CLOCK_FOLDER),
            "SOAK_CLOCK": str(clock.path),
            "INSTANCE_NAME": self.name,
            **variables,
        }
        command = [sys.executable, str(ROOT / "main.py"), "--api-only", "--config", "providers.yaml"]
        command += ["--port", str(self.port), "--workers", str(len(self.own_ports))]
        command += ["--metrics-port", str(self.own_ports[0])]
        with (self.folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=output, stderr=output
            )
        until = time.monotonic() + START_WITHIN_S
        while not self.all_serve():
            if time.monotonic() > until or self._process.poll() is not None:
                raise SystemExit(f"{self.name} does not start: {self.output()[-2000:]}")
            time.sleep(0.1)

    def end(self) -> None:
        """End it as an operator does; `status` then says how it ended, None where it had to be killed."""
        self.status = _end(self._process)

    def output(self) -> str:
        """Return what it said."""
        return (self.folder / "output").read_text("utf-8", "replace")

    def workers(self) -> dict[int, int]:
        """Return the pids of the workers that serve, by number."""
        owners = {inode: pid for pid in self.pids() for inode in _sockets(pid)}
        found = {}
        for inode, port in _listening():
            if port in self.own_ports and inode in owners:
                found[port - self.own_ports[0]] = owners[inode]
        return found

    def all_serve(self) -> bool:
        """Return whether every worker is there."""
        return len(self.workers()) == len(self.own_ports)

    def pids(self) -> list[int]:
        """Return the pids of all children of the supervisor."""
        tasks = Path(f"/proc/{self._process.pid}/task")
        found: list[int] = []
        with contextlib.suppress(OSError):
            for task in tasks.iterdir():
                found += map(int, (task / "children").read_text().split())
        return found

    def log_size(self) -> int:
        """Return the size of the current log file."""
        try:
            return (self.logs / "usage.log").stat().st_size
        except FileNotFoundError:
            return 0

    def fill_disk(self, *, room: int) -> dict[int, tuple[int, int]]:
        """Let no file of the workers grow beyond the present log and `room`. Returns what `free_disk` takes."""
        before = {}
        for pid in self.workers().values():
            limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (self.log_size() + room, limits[1]))
            before[pid] = limits
        return before

    @staticmethod
    def free_disk(before: Mapping[int, tuple[int, int]]) -> None:
        """Lift the limit again."""
        for pid, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def _sockets(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(entry.readlink())
                if target.startswith("socket:["):
                    yield target[8:-1]


def _listening() -> Iterator[tuple[str, int]]:
    """Give inode and port of every socket that listens."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A":
            yield fields[9], int(fields[1].partition(":")[2], 16)
