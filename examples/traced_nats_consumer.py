"""A service that goes on with the traces of the messages it handles, from NATS JetStream.

Few messages carry a trace (`tracing.sample_ratio`); only those have a span. Give it a broker's address, and
tell by OpenTelemetry's own variables where spans go:

    OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 python examples/traced_nats_consumer.py nats://127.0.0.1:4222

How to keep a position, so that each message is handled once, is in nats_consumer.py.
"""

from __future__ import annotations

import asyncio
import os
import sys

import nats
from nats.js.api import AckPolicy, ConsumerConfig
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.events.encode import read_event

API = os.environ.get("NATS_API_PREFIX", "$JS.API")
"""What JetStream's API is called: `gateway.API` in an account of the service's own, as docs/operate/nats.md has it."""
STREAM = "mesolive-gateway"
ORDERS_OF_ALL_ACCOUNTS = "mesolive.events.order-update.v1.*"


def handle(value: bytes) -> None:
    """Do what this service is for."""
    read_event("order-update", value)


def process(tracer: Tracer, message: nats.aio.msg.Msg) -> None:
    """Handle a message; where it carries a trace, in a span that is the child of the message's own."""
    if "traceparent" not in message.headers:
        handle(message.data)
        return
    created = TraceContextTextMapPropagator().extract(message.headers)
    span_attributes = {
        "messaging.system": "nats",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": message.subject,
        "messaging.message.id": message.headers["ce-id"],
    }
    # The conventions ask for a link, always; the parent, which they allow, keeps both in one trace.
    links = [Link(get_current_span(created).get_span_context())]
    with tracer.start_as_current_span(
        f"process {ORDERS_OF_ALL_ACCOUNTS}", created, SpanKind.CONSUMER, attributes=span_attributes, links=links
    ):
        handle(message.data)


async def consume(server: str, *, until_idle: bool = False) -> int:
    """Process order updates; give how many. With `until_idle` it ends when there is nothing new."""
    provider = TracerProvider(resource=Resource.create({"service.name": "orders"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("orders")
    client = await nats.connect(server)
    processed = 0
    try:
        # The durable consumer of docs/operate/nats.md; it is made here where no administrator made it.
        config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT)
        orders = await client.jetstream(prefix=API).pull_subscribe(
            ORDERS_OF_ALL_ACCOUNTS, durable="orders", stream=STREAM, config=config
        )
        while True:
            try:
                batch = await orders.fetch(100, timeout=1)
            except TimeoutError:  # nothing new: of nats-py's own kind, or of Python's
                if until_idle:
                    return processed
                continue
            for message in batch:
                process(tracer, message)
                await message.ack()
                processed += 1
    finally:
        await client.close()
        await asyncio.to_thread(provider.shutdown)  # sends what waits


if __name__ == "__main__":
    asyncio.run(consume(*sys.argv[1:2], until_idle="--until-idle" in sys.argv))
