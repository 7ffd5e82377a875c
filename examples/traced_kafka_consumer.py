"""A service that goes on with the traces of the messages it handles, from Kafka, with confluent-kafka.

Few messages carry a trace (`tracing.sample_ratio`); only those have a span. Give it a broker's address, and
tell by OpenTelemetry's own variables where spans go:

    OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 python examples/traced_kafka_consumer.py 127.0.0.1:9092

How to keep a position, so that each message is handled once, is in kafka_consumer_confluent.py.
"""

from __future__ import annotations

import sys

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.events.encode import read_event

TOPIC = "mesolive.order-update.v1"


def handle(value: bytes) -> None:
    """Do what this service is for."""
    read_event("order-update", value)


def process(tracer: Tracer, message: Message) -> None:
    """Handle a message; where it carries a trace, in a span that is the child of the message's own."""
    headers = {name: value.decode() for name, value in message.headers()}
    if "traceparent" not in headers:
        handle(message.value())
        return
    created = TraceContextTextMapPropagator().extract(headers)
    span_attributes = {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": message.topic(),
        "messaging.destination.partition.id": str(message.partition()),
        "messaging.kafka.offset": message.offset(),
        "messaging.message.id": headers["ce_id"],
    }
    # The conventions ask for a link, always; the parent, which they allow, keeps both in one trace.
    links = [Link(get_current_span(created).get_span_context())]
    with tracer.start_as_current_span(
        f"process {message.topic()}", created, SpanKind.CONSUMER, attributes=span_attributes, links=links
    ):
        handle(message.value())


def consume(servers: str, topic: str = TOPIC, *, until_end: bool = False) -> int:
    """Process order updates; give how many. With `until_end` it ends where the topic ends now."""
    provider = TracerProvider(resource=Resource.create({"service.name": "orders"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("orders")
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "orders",  # librdkafka wants one; nothing is committed to it
            "isolation.level": "read_committed",  # else it sees what was aborted
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": until_end,
        }
    )
    processed = 0
    try:
        left = set(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, part, 0) for part in left])
        while left:
            message = consumer.poll(1)
            if message is None:
                continue
            error = message.error()
            if error is None:
                process(tracer, message)
                processed += 1
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its name in librdkafka, too
                left.discard(message.partition())
            else:
                raise KafkaException(error)
        return processed
    finally:
        consumer.close()
        provider.shutdown()  # sends what waits


if __name__ == "__main__":
    consume(*sys.argv[1:3], until_end="--until-end" in sys.argv)
