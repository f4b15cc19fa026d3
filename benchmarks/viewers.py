"""Prints what viewers of the Providers page cost: round trips of its refreshes, and the program's CPU and memory.

python benchmarks/viewers.py [--viewers 40] [--seconds 60] [--requests-per-s 2]
python benchmarks/viewers.py --watch PORT [--page analytics]    one viewer of a program that runs already

The program is the real one (main.py) in a process of its own, its providers a stand-in in this one. A viewer is a
WebSocket that says what a browser says: it opens the page, and then asks for each part of it again as often as the page
told it to, with the states of its switches. A round trip is from asking to the end of the answer, so it holds the wait
behind all the others. What a browser does with the answer is not in it. Linux only, because of /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import aiohttp
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fallback.standin import StandInThread

ROOT = Path(__file__).resolve().parent.parent
MOST_VIEWERS = 200
MOST_SECONDS = 900.0
SETTLE_S = 5.0
LATE_S = 30.0
PROVIDERS = (
    ("groq_llama", "groq"),
    ("together_llama", "together"),
    ("groq_mixtral", "groq"),
    ("spare", "openai"),
)


class Viewer:
    """One browser on a page."""

    def __init__(
        self,
        socket_: aiohttp.ClientWebSocketResponse,
        taken_s: dict[float, list[float]],
        page: str = "providers",
    ) -> None:
        """Speak over `socket_`, and put the round trips into `taken_s`, by the interval of what was refreshed."""
        self._socket = socket_
        self._taken_s = taken_s
        self._page = ""
        self._name = page
        self._switches: dict[str, bool] = {}
        self._parts: dict[str, float] = {}
        self._turn = asyncio.Lock()
        self.received_bytes = 0

    async def open(self) -> float:
        """Open the page and return how long it took, in seconds."""
        began = time.perf_counter()
        await self._ask("")
        return time.perf_counter() - began

    async def watch(self, until: float) -> None:
        """Refresh every part of the page in its interval, up to the instant `until`."""
        await asyncio.gather(*(self._refresh(part, every, until) for part, every in self._parts.items()))

    async def _refresh(self, part: str, every_s: float, until: float) -> None:
        await asyncio.sleep(every_s * random.random())
        while (began := time.perf_counter()) < until:
            async with self._turn:
                await self._ask(part)
            self._taken_s[every_s].append(time.perf_counter() - began)
            await asyncio.sleep(max(0.0, began + every_s - time.perf_counter()))

    async def _ask(self, part: str) -> None:
        message = BackMsg()
        state = message.rerun_script
        state.page_script_hash, state.fragment_id, state.is_auto_rerun = self._page, part, bool(part)
        state.context_info.timezone_offset = -60
        if not self._page:
            state.page_name = self._name
        for identity, on in self._switches.items():
            state.widget_states.widgets.add(id=identity, bool_value=on)
        await self._socket.send_bytes(message.SerializeToString())
        async with asyncio.timeout(LATE_S):
            while not self._take(await self._socket.receive_bytes()):
                pass

    def _take(self, data: bytes) -> bool:
        """Take in one message; return whether it ends an answer."""
        self.received_bytes += len(data)
        message = ForwardMsg.FromString(data)
        match message.WhichOneof("type"):
            case "new_session":
                self._page = message.new_session.page_script_hash
            case "auto_rerun":
                self._parts[message.auto_rerun.fragment_id] = message.auto_rerun.interval
            case "delta" if message.delta.new_element.HasField("checkbox"):
                box = message.delta.new_element.checkbox
                self._switches[box.id] = (
                    box.value if box.set_value else self._switches.get(box.id, box.default)
                )
            case "delta" if message.delta.new_element.HasField("exception"):
                raise AssertionError(message.delta.new_element.exception.message)
            case "script_finished":
                return True
        return False


def write_config(folder: Path, standin: StandInThread) -> Path:
    lines = []
    for priority, (name, dialect) in enumerate(PROVIDERS):
        tenant = standin.tenant(name, dialect=dialect, first_token_s=0.05, per_token_s=0.005, jitter=0.5)
        lines.append(
            f"  - {{name: {name}, type: {dialect}, endpoint: '{tenant.url}', model: small, priority: {priority}}}"
        )
    path = folder / "providers.yaml"
    path.write_text("providers:\n" + "\n".join(lines) + "\n")
    return path


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def wait_up(http: aiohttp.ClientSession, url: str) -> None:
    for _ in range(300):
        try:
            async with http.get(f"{url}/_stcore/health") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("the program does not start")


async def keep_asking(http: aiohttp.ClientSession, url: str, per_s: float, until: float) -> int:
    """Ask the program questions, so that the page has something to show; return how many."""
    count = 0
    while per_s > 0 and time.perf_counter() < until:
        async with http.post(f"{url}/api/generate", json={"prompt": "hello"}) as answer:
            await answer.read()
        count += 1
        await asyncio.sleep(1 / per_s)
    return count


async def measure(options: argparse.Namespace, url: str, pid: int) -> None:
    taken_s: dict[float, list[float]] = defaultdict(list)
    connector = aiohttp.TCPConnector(limit=MOST_VIEWERS + 10)
    async with aiohttp.ClientSession(connector=connector) as http:
        await wait_up(http, url)
        await keep_asking(http, url, 50.0, time.perf_counter() + 1.0)
        stream = f"{url.replace('http', 'ws', 1)}/_stcore/stream"
        viewers = []
        opened_s = []
        for _ in range(options.viewers):
            joined = await http.ws_connect(stream, protocols=["streamlit"], max_msg_size=2**26)
            viewers.append(Viewer(joined, taken_s))
            opened_s.append(await viewers[-1].open())
        print(
            f"opened one after another: first {opened_s[0]:.2f} s, median {statistics.median(opened_s):.3f} s"
        )
        now = time.perf_counter()
        await asyncio.gather(*(viewer.watch(now + SETTLE_S) for viewer in viewers))
        taken_s.clear()
        before_bytes = sum(viewer.received_bytes for viewer in viewers)
        began, cpu_before, memory_before = time.perf_counter(), cpu_s(pid), resident_mib(pid)
        until = began + options.seconds
        asking = asyncio.create_task(keep_asking(http, url, options.requests_per_s, until))
        await asyncio.gather(*(viewer.watch(until) for viewer in viewers))
        took_s = time.perf_counter() - began
        cpu = (cpu_s(pid) - cpu_before) / took_s
        asked = await asking
        for every_s, values in sorted(taken_s.items()):
            print(
                f"refresh every {every_s:g} s: median {statistics.median(values) * 1000:.0f} ms, "
                f"p95 {statistics.quantiles(values, n=20)[-1] * 1000:.0f} ms, "
                f"longest {max(values) * 1000:.0f} ms, {len(values)} of them"
            )
        runs = sum(map(len, taken_s.values()))
        received = sum(viewer.received_bytes for viewer in viewers) - before_bytes
        print(
            f"program: {cpu * 100:.0f} % of one core ({cpu * took_s / runs * 1000:.1f} ms a refresh, all included), "
            f"{received / runs / 1024:.0f} KiB a refresh, {asked} questions answered meanwhile"
        )
        print(
            f"memory: {memory_before:.0f} MiB at the start, {resident_mib(pid):.0f} MiB after {took_s:.0f} s"
        )


async def watch_one(port: int, page: str) -> None:
    """Watch a page for as long as this process is left to."""
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as http:
        await wait_up(http, url)
        stream = f"{url.replace('http', 'ws', 1)}/_stcore/stream"
        joined = await http.ws_connect(stream, protocols=["streamlit"], max_msg_size=2**26)
        viewer = Viewer(joined, defaultdict(list), page)
        await viewer.open()
        await viewer.watch(time.perf_counter() + MOST_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--viewers", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--requests-per-s", type=float, default=2.0)
    parser.add_argument("--watch", type=int, metavar="PORT")
    parser.add_argument("--page", default="providers")
    options = parser.parse_args()
    if options.watch is not None:
        asyncio.run(watch_one(options.watch, options.page))
        return
    if not (0 < options.viewers <= MOST_VIEWERS and 0 < options.seconds <= MOST_SECONDS):
        parser.error(f"at most {MOST_VIEWERS} viewers and {MOST_SECONDS:.0f} seconds")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{options.viewers} viewers for {options.seconds:.0f} s; {os.cpu_count()} cores, load before: {load}"
    )
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, StandInThread() as standin:
        config = write_config(Path(folder), standin)
        command = [sys.executable, str(ROOT / "main.py"), "--port", str(port), "--config", str(config)]
        # Idle connections that are cut at the end are no news.
        program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            asyncio.run(measure(options, f"http://127.0.0.1:{port}", program.pid))
        finally:
            program.terminate()
            try:
                program.wait(15)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()


if __name__ == "__main__":
    main()
