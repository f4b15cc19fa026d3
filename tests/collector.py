"""A collector of OpenTelemetry on loopback that speaks OTLP over HTTP, and misbehaves on request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Manner = Literal["take", "refuse", "redirect", "hang", "flood"]


class Collector:
    """What it got, decoded."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.manner: Manner = "take"
        self.bodies: list[tuple[str, bytes]] = []
        self.headers: list[dict[str, str]] = []
        self.asked = threading.Event()
        """Set with every call."""
        self.over = threading.Event()
        """Lets those go that hang."""

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for body in self._of("/v1/traces", ExportTraceServiceRequest)
            for resource in body.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def resources(self) -> list[dict[str, Any]]:
        found = self._of("/v1/traces", ExportTraceServiceRequest)
        return [attributes(resource.resource) for body in found for resource in body.resource_spans]

    def points(self, name: str) -> list[Any]:
        """Return the points of a metric in the last sending."""
        (*_, last) = self._of("/v1/metrics", ExportMetricsServiceRequest)
        return [
            point
            for resource in last.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in (metric.histogram.data_points or metric.sum.data_points)
        ]

    def _of(self, path: str, kind: Any) -> list[Any]:
        return [kind.FromString(body) for where, body in self.bodies if where == path]


def attributes(of: Any) -> dict[str, Any]:
    """Return the attributes of a span, a resource or a point as plain values."""
    return {pair.key: _plain(pair.value) for pair in of.attributes}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    found = getattr(value, kind)
    return [_plain(each) for each in found.values] if kind == "array_value" else found


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    collector: Collector


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        collector = self.server.collector
        body = self.rfile.read(int(self.headers["content-length"]))
        collector.headers.append({name.lower(): value for name, value in self.headers.items()})
        collector.asked.set()
        match collector.manner:
            case "take":
                collector.bodies.append((self.path, body))
                self._answer(200)
            case "refuse":
                self._answer(400)
            case "redirect":
                self._answer(307, location=f"{collector.url}/elsewhere")
            case "hang":
                collector.over.wait(60)
                self.close_connection = True
            case "flood":
                collector.bodies.append((self.path, body))
                self._flood()

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _flood(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):  # nobody reads it
            while not self.server.collector.over.is_set():
                self.wfile.write(b"x" * 65_536)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def collecting() -> Iterator[Collector]:
    """Give one that listens on loopback."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.collector = made = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        made.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
