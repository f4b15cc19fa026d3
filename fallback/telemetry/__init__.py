"""Traces and metrics for an OpenTelemetry collector (OTLP over HTTP), made of the lines of the usage log after the fact.

Theory of operation: `Telemetry.take` gets every line on its way to the usage log and puts it into a bounded queue, which is all that a
request ever pays. A thread of its own takes the lines out every few seconds: `spans` makes one span of each request, with a child for
each of its attempts, `measures` adds them to histograms, and `outlet` sends both with the SDK's own exporters, which keep to the
variables of the specification (OTEL_*). A collector that is away, slow or hostile holds up that thread alone; the queue then
fills, and what does not fit is dropped and counted. docs/operations.md names spans, attributes and metrics.

Names follow the GenAI conventions (https://github.com/open-telemetry/semantic-conventions-genai); what they have no word for
begins with `fallback.`. What leaves the machine is named one by one: prompts, answers and the words of an error are never among it.

OpenTelemetry is imported by `Telemetry.start` and by nothing before it. What may not live here: anything that a request waits for.
"""

from fallback.telemetry.export import Telemetry

__all__ = ["Telemetry"]
