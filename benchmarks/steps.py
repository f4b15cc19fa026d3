"""Counts what Python does for one request of the HTTP API: bytecode instructions and calls, by module and by function.

    python -m benchmarks.steps [--case plain|default|failover] [--functions 40]
    python -m benchmarks.steps --case plain --loop 400

Counts do not depend on what else the machine does, so a change of two in a hundred shows, which no clock here would. The server's
connection and the one to the provider are real, and what lies below them is not: no system call is made for either. `--loop` asks
that often and counts nothing, for a profiler or for `valgrind --tool=callgrind` around it: the difference between two numbers of
requests is the machine instructions of those between. The counts include six turns of the event loop that belong to this program.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn
import uvloop
from uvicorn.lifespan.on import LifespanOn
from uvicorn.server import ServerState

from benchmarks.gateway.load import QUESTION
from benchmarks.gateway.upstream import FAILED, PLAIN, STREAMED
from fallback.api.connection import GuardedProtocol
from fallback.api.program import Program
from fallback.api.server import application
from fallback.transport.direct import DirectTransport
from fallback.transport.http1 import Connection

__all__: list[str] = []

WARM_UP = 30
COUNTED = 20
MOST_LOOPS = 2_000
_UPSTREAM = "http://127.0.0.1:9"
"""Never connected to."""
_PLACES = ("site-packages/", f"python3.{sys.version_info.minor}/", f"{Path(__file__).parent.parent}/")

Code = tuple[str, str]
"""File and qualified name of a function."""


class Below(asyncio.Transport):
    """What lies below a connection: hands what is written to `written`."""

    def __init__(self, written: Callable[[bytes], None]) -> None:
        super().__init__({"peername": ("127.0.0.1", 5000), "sockname": ("127.0.0.1", 80)})
        self._written = written
        self._closing = False

    def write(self, data: Any) -> None:
        """Take `data`."""
        self._written(bytes(data))

    def is_closing(self) -> bool:
        """Return whether it was closed."""
        return self._closing

    def close(self) -> None:
        """Close it."""
        self._closing = True

    abort = close

    def get_write_buffer_size(self) -> int:
        """Return that everything has been sent."""
        return 0

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""


def answer_from_here() -> None:
    """Let every connection to a provider be answered in this process."""

    async def connected(
        self: DirectTransport, _addresses: object, place: Any, _context: object
    ) -> Connection:
        loop = asyncio.get_running_loop()
        connection = Connection(lambda each: self._free(each, place), lambda each: self._lost(each, place))

        def written(data: bytes) -> None:
            good = STREAMED if b'"stream":true' in data else PLAIN
            loop.call_soon(connection.data_received, FAILED if data.startswith(b"POST /fail") else good)

        connection.connection_made(Below(written))
        self._open.add(connection)
        return connection

    DirectTransport._connected = connected  # type: ignore[assignment]


def configuration(case: str, requests: int) -> str:
    """Return a providers.yaml; for a failover with a provider of its own for each request, as who fails rests."""
    rest = f"type: openai, model: small, stream_upstream: {str(case == 'default').lower()}}}"
    failing = range(requests if case == "failover" else 0)
    lines = [
        "providers:",
        f"  - {{name: good, endpoint: '{_UPSTREAM}/v1/chat/completions', {rest}",
        *(f"  - {{name: bad{n}, endpoint: '{_UPSTREAM}/fail/v1/chat/completions', {rest}" for n in failing),
        "routing: {retries: 0}",
        *(["routes:"] if failing else []),
        *(f"  r{n}: [bad{n}, good]" for n in failing),
    ]
    return "\n".join(lines) + "\n"


def request(model: str) -> bytes:
    """Return one request as it comes in."""
    body = json.dumps({**QUESTION, "model": model}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class Counting:
    """Counts while it is entered."""

    def __init__(self) -> None:
        self.instructions: Counter[Code] = Counter()
        self.calls: Counter[Code] = Counter()

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _argument: object) -> Any:
        code = (frame.f_code.co_filename, frame.f_code.co_qualname)
        if code[0] == __file__:
            return None
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            self.calls[code] += 1
        elif event == "opcode":
            self.instructions[code] += 1
        return self._trace

    def report(self, requests: int, functions: int) -> None:
        """Print what was counted, for one request."""
        total, calls = self.instructions.total() / requests, self.calls.total() / requests
        print(f"{total:,.0f} instructions in {calls:,.0f} calls")
        modules: Counter[str] = Counter()
        for (file, _), count in self.instructions.items():
            modules[_shown(file)] += count
        for name, count in modules.most_common(functions):
            print(f"{count / requests:8.0f}  {name}")
        print("\ninstructions, calls, function")
        for code, count in self.instructions.most_common(functions):
            print(f"{count / requests:8.0f} {self.calls[code] / requests:6.1f}  {_shown(code[0])}: {code[1]}")


def _shown(file: str) -> str:
    for place in _PLACES:
        file = file.rpartition(place)[2]
    return file


async def run(options: argparse.Namespace) -> None:
    """Start the program, ask, and count."""
    answer_from_here()
    config = uvicorn.Config(
        application(Program(Path("providers.yaml"))), http=GuardedProtocol, lifespan="on",
        interface="asgi3", log_config=None, access_log=False, server_header=False,
    )  # fmt: skip
    config.load()
    lifespan = LifespanOn(config)
    await lifespan.startup()
    answered = asyncio.Event()
    protocol = GuardedProtocol(config=config, server_state=ServerState(), app_state=lifespan.state)
    protocol.connection_made(cast("asyncio.Transport", Below(lambda _: answered.set())))
    models = (f"r{n}" for n in itertools.count()) if options.case == "failover" else itertools.repeat("small")

    async def ask(times: int) -> None:
        for model in itertools.islice(models, times):
            answered.clear()
            protocol.data_received(request(model))
            await answered.wait()
            for _ in range(5):
                await asyncio.sleep(0)

    await ask(WARM_UP)
    if options.loop:
        await ask(options.loop)
    else:
        counting = Counting()
        with counting:
            await ask(COUNTED)
        counting.report(COUNTED, options.functions)
    protocol.connection_lost(None)
    await lifespan.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--case", choices=("plain", "default", "failover"), default="plain")
    parser.add_argument("--functions", type=int, default=40)
    parser.add_argument("--loop", type=int, default=0, metavar="REQUESTS")
    options = parser.parse_args()
    if not 0 <= options.loop <= MOST_LOOPS:
        parser.error(f"at most {MOST_LOOPS:,} requests")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        # As many providers for every number of requests, so that the difference between two runs is the requests alone.
        Path("providers.yaml").write_text(
            configuration(options.case, WARM_UP + (MOST_LOOPS if options.loop else COUNTED))
        )
        os.environ.pop("API_KEYS", None)
        uvloop.run(run(options))


if __name__ == "__main__":
    main()
