from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.telemetry.otlp import Source
from gateway.telemetry.tracer import MessagingSystem, Tracer


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """Hold the spans that have ended."""
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans: InMemorySpanExporter) -> Callable[..., Tracer]:
    """Make a tracer of a ratio, on NATS."""
    source = Source(TracerProvider(shutdown_on_exit=False), SimpleSpanProcessor(spans))

    def tracer(ratio: float = 1, broker: MessagingSystem | None = None) -> Tracer:
        on_nats = MessagingSystem("nats", {"order-update": "mesolive.events.order-update.v1.*"})
        return Tracer(source, ratio, broker or on_nats, Random(1))

    return tracer
