"""The SDK's exporters, as this program uses them: driven by one thread, quiet, and never reading more than headers.

What may not live here: what spans and metrics say, and threads.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from fallback.config import TelemetrySettings
from fallback.providers.settings import ProviderSettings
from fallback.telemetry.measures import Measures
from fallback.telemetry.peers import peers_of
from fallback.telemetry.spans import Assembly

__all__ = ["Outlet"]

SCOPE = "fallback"
SERVICE = "llm-fallback"
_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.common.http",
)


class Outlet:
    """Makes spans and metrics of lines, and sends them. For one thread; `abort` for another one."""

    def __init__(
        self, settings: TelemetrySettings, providers: Sequence[ProviderSettings], *, instance: str | None
    ) -> None:
        settings.publish()
        resource = _resource(instance)
        peers = peers_of(providers)
        self._batch = settings.max_batch
        self._session = _HeadersOnly()
        self._finished = _Finished()
        self._silence = _Silence()
        self._spans: OTLPSpanExporter | None = None
        self._assembly: Assembly | None = None
        self._measures: Measures | None = None
        self._reader: _Reader | None = None
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self._silence)
        if settings.traces:
            tracing = TracerProvider(resource=resource, shutdown_on_exit=False)
            tracing.add_span_processor(self._finished)
            self._spans = OTLPSpanExporter(session=self._session)
            self._assembly = Assembly(tracing.get_tracer(SCOPE), peers, most_open=settings.max_queue)
        if settings.metrics:
            self._reader = _Reader(_MetricExporter(session=self._session))
            metering = MeterProvider([self._reader], resource=resource, shutdown_on_exit=False)
            self._measures = Measures(metering.get_meter(SCOPE), peers)

    @property
    def unfinished_dropped(self) -> int:
        """Attempts that were given up because their request did not end."""
        return 0 if self._assembly is None else self._assembly.dropped

    def spans_of(
        self, taken: Iterable[tuple[float, Mapping[str, object]]]
    ) -> Iterator[Sequence[ReadableSpan]]:
        """Take lines with their instants, and give the spans that they end, in batches."""
        for wall_s, line in taken:
            if self._measures is not None:
                self._measures.take(line)
            if self._assembly is not None:
                self._assembly.take(wall_s, line)
                if len(self._finished.spans) >= self._batch:
                    yield self._finished.emptied()
        if self._finished.spans:
            yield self._finished.emptied()

    def export_spans(self, spans: Sequence[ReadableSpan]) -> bool:
        """Send them; say whether the collector took them."""
        self._silence.thread = threading.get_ident()
        return self._spans is not None and self._spans.export(spans) is SpanExportResult.SUCCESS

    def export_metrics(self) -> bool:
        """Send what has been measured so far; say whether the collector took it."""
        self._silence.thread = threading.get_ident()
        if self._reader is None:
            return True
        return self._reader.sent()

    def abort(self) -> None:
        """Let a sending that is under way come to its end soon."""
        if self._spans is not None:
            self._spans.shutdown()  # type: ignore[no-untyped-call]
        self._session.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(self._silence)


class _Finished(SpanProcessor):
    """Collects the spans that have ended."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self.spans.append(span)

    def emptied(self) -> list[ReadableSpan]:
        spans, self.spans = self.spans, []
        return spans


class _MetricExporter(OTLPMetricExporter):
    """Remembers how its last sending ended, which the reader does not tell."""

    arrived = True

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        result = super().export(metrics_data, timeout_millis, **kwargs)
        self.arrived = result is MetricExportResult.SUCCESS
        return result


class _Reader(PeriodicExportingMetricReader):
    """One without a thread of its own: it reads when it is told to."""

    def __init__(self, exporter: _MetricExporter) -> None:
        super().__init__(exporter, export_interval_millis=math.inf)
        self._to = exporter

    def sent(self) -> bool:
        self._to.arrived = True
        self.collect()
        return self._to.arrived


class _HeadersOnly(requests.Session):
    """Reads no bodies: what a collector answers with may be of any length, and nobody needs it. Follows nobody elsewhere."""

    def request(self, method: Any, url: Any, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs["stream"] = True
        response = super().request(method, url, *args, **kwargs)
        response._content = b""
        response.close()
        if response.is_redirect:
            raise requests.TooManyRedirects(
                "a collector that sends on to another one"
            )  # else taken for a yes
        return response


class _Silence(logging.Filter):
    """Drops what the exporters log for our thread at every try: `export` tells it once for each outage."""

    thread: int | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self.thread


def _resource(instance: str | None) -> Resource:
    """Return what this process is; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win."""
    pairs = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")
    named = {pair.partition("=")[0].strip() for pair in pairs}
    ours: dict[str, str] = {}
    if "service.name" not in named and not os.environ.get("OTEL_SERVICE_NAME"):
        ours["service.name"] = SERVICE
    if "service.instance.id" not in named and instance is not None:
        ours["service.instance.id"] = instance
    return Resource.create(ours)
