"""What the environment says about exporting traces and metrics: the variables of OpenTelemetry, and nothing else.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and .../protocol/exporter/
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from fallback.core.errors import Problem

__all__ = ["TelemetrySettings", "read_telemetry"]

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_ENDPOINTS = {
    "traces": "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "metrics": "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
}
_PROTOCOLS = (
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
)
_MODULE = "opentelemetry.exporter.otlp.proto.http"
_MOST = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySettings:
    """What is exported, and how it is held until then."""

    traces: bool = True
    metrics: bool = True
    delay_s: float = 5.0
    """From one sending of spans to the next."""
    metrics_every_s: float = 60.0
    max_queue: int = 2048
    """Lines of the log that wait; a further one is dropped."""
    max_batch: int = 512
    """Spans of one sending."""
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    """All of OTEL_*; their values may be secret."""

    def publish(self) -> None:
        """Put into the environment what .env alone says: the SDK looks nowhere else."""
        for name, value in self.variables.items():
            os.environ.setdefault(name, value)


def read_telemetry(variables: Mapping[str, str], problems: list[Problem]) -> TelemetrySettings | None:
    """Return how to export; None where no variable names a collector, or OTEL_SDK_DISABLED is true."""
    own = {name: value for name, value in variables.items() if name.startswith("OTEL_")}
    if own.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    wanted = {
        signal: (_ENDPOINT in own or variable in own)
        and own.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp").lower() != "none"
        for signal, variable in _ENDPOINTS.items()
    }
    if not any(wanted.values()):
        return None
    found = len(problems)
    for variable in (_ENDPOINT, *_ENDPOINTS.values()):
        _check_url(variable, own, problems)
    message = "http/protobuf alone is spoken here: remove it, and name the collector's port for HTTP (4318)"
    problems.extend(
        Problem(path=variable, message=message)
        for variable in _PROTOCOLS
        if own.get(variable, "http/protobuf") != "http/protobuf"
    )
    settings = TelemetrySettings(
        **wanted,
        delay_s=_number("OTEL_BSP_SCHEDULE_DELAY", own, problems, 5000) / 1000,
        metrics_every_s=_number("OTEL_METRIC_EXPORT_INTERVAL", own, problems, 60_000) / 1000,
        max_queue=_number("OTEL_BSP_MAX_QUEUE_SIZE", own, problems, 2048),
        max_batch=_number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", own, problems, 512),
        variables=own,
    )
    if len(problems) == found and not _is_installed():
        message = "exporting needs further packages: pip install -r requirements-otlp.txt"
        problems.append(Problem(path=_ENDPOINT, message=message))
    return settings


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec(_MODULE) is not None
    except ModuleNotFoundError:
        return False


def _check_url(variable: str, own: Mapping[str, str], problems: list[Problem]) -> None:
    if variable not in own:
        return
    try:
        url = urlsplit(own[variable])
        good = url.scheme in {"http", "https"} and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        message = "expected an address such as http://localhost:4318"
        problems.append(Problem(path=variable, message=message))


def _number(variable: str, own: Mapping[str, str], problems: list[Problem], usual: int) -> int:
    text = own.get(variable)
    if text is None:
        return usual
    if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MOST:
        return int(text)
    problems.append(Problem(path=variable, message=f"expected a whole number from 1 to {_MOST}"))
    return usual
