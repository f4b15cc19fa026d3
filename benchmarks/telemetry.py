"""Prints what exporting traces and metrics costs a request: microseconds of CPU, all threads of the process together.

    python -m benchmarks.telemetry [--requests 2000] [--rounds 7]

The requests are those of benchmarks/http_routes.py (POST /v1/chat/completions without sockets, the provider's answer ready in
memory). "off" is without a collector; "on" exports to one in a process of its own on loopback, and the time holds
everything up to the last span; "away" is a collector whose port is closed. Rounds go over all three in turn, and the best of each counts.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from starlette.applications import Starlette

from benchmarks.http_routes import SSE, ReadyTransport, Running, ask, settings, streamed_response
from fallback.api.closing import Closing
from fallback.api.middleware import Envelope
from fallback.api.routes import routes
from fallback.config.telemetry import read_telemetry
from fallback.router import AsyncModelRouter
from fallback.wiring import assemble

BODY = json.dumps(
    {"model": "auto", "messages": [{"role": "user", "content": "What is the capital of Japan?"}]}
)
COLLECTOR = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


async def measured(folder: Path, endpoint: str | None, requests: int) -> tuple[float, str]:
    """Return microseconds of CPU a request, and what became of the spans."""
    variables = {"OTEL_BSP_MAX_QUEUE_SIZE": "10000", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    if endpoint is not None:
        variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    of = dataclasses.replace(settings(folder, stream_upstream=True), telemetry=read_telemetry(variables, []))
    wiring = assemble(of)
    wiring.exporting.start()
    telemetry = wiring.exporting.telemetry
    router = AsyncModelRouter(wiring, transport=ReadyTransport(SSE, streamed_response()))
    app = Envelope(Starlette(routes=routes(Running(router=router, closing=Closing()))))
    for _ in range(50):
        await ask(app, "/v1/chat/completions", BODY.encode())
    began = time.process_time()
    for _ in range(requests):
        await ask(app, "/v1/chat/completions", BODY.encode())
    if telemetry is not None:
        telemetry.close(30.0)
    spent = (time.process_time() - began) / requests * 1e6
    await router.aclose()
    wiring.close()
    fate = "" if telemetry is None else f"{telemetry.exported} / {telemetry.lost} / {telemetry.dropped}"
    return spent, fate


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    collector = subprocess.Popen([sys.executable, "-c", COLLECTOR], stdout=subprocess.PIPE, text=True)
    assert collector.stdout is not None
    cases = {
        "off": None,
        "on": f"http://127.0.0.1:{int(collector.stdout.readline())}",
        "away": "http://127.0.0.1:9",
    }
    best: dict[str, tuple[float, str]] = {}
    try:
        for _ in range(options.rounds):
            for name, endpoint in cases.items():
                with tempfile.TemporaryDirectory() as folder:
                    found = asyncio.run(measured(Path(folder), endpoint, options.requests))
                best[name] = min(best.get(name, found), found)
    finally:
        collector.terminate()
        collector.wait()
    print(f"{'':<8}{'us of CPU':>10}{'ratio':>8}  spans exported / lost, lines dropped")
    for name, (spent, fate) in best.items():
        print(f"{name:<8}{spent:>10.0f}{spent / best['off'][0]:>8.2f}  {fate}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
