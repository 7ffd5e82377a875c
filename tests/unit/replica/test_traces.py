"""What a shard traces of its commits, whatever becomes of them; and that this changes nothing that is published."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from structlog.testing import capture_logs

from gateway.broker.memory.faults import Edge
from gateway.broker.memory.log import MemoryBroker
from gateway.broker.memory.registry import MemoryRegistry
from gateway.errors import OutcomeUnknown, Unavailable
from gateway.publication import DEAD_LETTER, TRACEPARENT, Message
from gateway.replica.source.account import AccountState
from gateway.telemetry.otlp import Source
from gateway.telemetry.span import add_trace
from gateway.telemetry.tracer import Tracer
from tests.support.in_process import Build


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans: InMemorySpanExporter) -> Tracer:
    provider = TracerProvider(shutdown_on_exit=False)
    return Tracer(Source(provider, SimpleSpanProcessor(spans)), 1, dice=Random(1))


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name.split()[0] == name]


def span_of(message: Message) -> str:
    return message.attributes[TRACEPARENT].split("-")[2]


def ids(spans: list[ReadableSpan]) -> list[str]:
    return [f"{span.context.span_id:016x}" for span in spans if span.context is not None]


async def test_a_failed_commit_is_a_failed_span_and_a_retry_has_a_new_trace(
    build: Build, spans: InMemorySpanExporter, tracer: Tracer
) -> None:
    world = await build("acme", prefill=20)
    failures = iter([OutcomeUnknown("no answer"), Unavailable("busy")])

    async def fail(edge: Edge) -> None:
        if edge.call == "commit" and edge.when == "before":
            error = next(failures, None)
            if error is not None:
                raise error

    world.broker.faults = fail
    await world.replica(tracer=tracer)
    await world.published("acme", range(1, 21))
    failed = [span for span in named(spans, "send") if span.status.status_code is StatusCode.ERROR]
    assert [span.status.description for span in failed] == ["no answer", "busy"]
    assert [(span.attributes or {})["error.type"] for span in failed] == ["OutcomeUnknown", "Unavailable"]
    stored = [span_of(message) for message in world.messages("acme")]
    tried = [f"{link.context.span_id:016x}" for span in failed for link in span.links]
    assert len(set(stored)) == 20
    assert not set(tried) & set(stored)
    assert set(stored) | set(tried) == set(ids(named(spans, "create")))
    done = [span for span in named(spans, "send") if span.status.status_code is not StatusCode.ERROR]
    assert sorted(f"{link.context.span_id:016x}" for span in done for link in span.links) == sorted(stored)


async def test_the_line_of_a_failed_commit_carries_the_ids_of_its_span(
    build: Build, spans: InMemorySpanExporter, tracer: Tracer
) -> None:
    world = await build("acme", prefill=5)
    failures = iter([OutcomeUnknown("no answer")])

    async def fail(edge: Edge) -> None:
        error = next(failures, None) if edge.call == "commit" else None
        if error is not None:
            raise error

    world.broker.faults = fail
    with capture_logs(processors=[add_trace]) as lines:
        await world.replica(tracer=tracer)
        await world.published("acme", range(1, 6))
    (line,) = [one for one in lines if one["event"] == "shard log failed, reopening"]
    (failed,) = [span for span in named(spans, "send") if span.status.status_code is StatusCode.ERROR]
    assert [line["span_id"]] == ids([failed])
    opened = [one for one in lines if one["event"] == "shard log opened"]
    assert len(opened) == 2
    assert [one for one in opened if "span_id" in one] == []


async def both(build: Build, tracer: Tracer, events: int, fits: Callable[[list[Message]], int | None]) -> Any:  # noqa: ANN401
    """Publish the same events without traces, then with them, to brokers of their own; return what is published."""
    world = await build("acme", prefill=events)
    await world.replica()
    await world.published("acme", range(1, events + 1))
    plain = world.messages("acme")
    world.broker, world.registry = MemoryBroker(largest=fits(plain)), MemoryRegistry()
    await world.replica(tracer=tracer)
    await world.published("acme", range(1, events + 1))
    return plain, world.messages("acme")


async def test_a_trace_never_makes_a_message_too_large(build: Build, tracer: Tracer) -> None:
    plain, traced = await both(build, tracer, 30, lambda messages: max(message.size for message in messages))
    limit = max(message.size for message in plain)
    assert DEAD_LETTER not in {message.topic for message in traced}
    bare = {message.key for message in traced if TRACEPARENT not in message.attributes}
    assert bare == {message.key for message in plain if message.size + 79 > limit}
    assert 0 < len(bare) < 30


async def test_key_value_and_other_attributes_are_the_same_without_traces(build: Build, tracer: Tracer) -> None:
    plain, traced = await both(build, tracer, 40, lambda _: None)
    assert [(one.topic, one.key, one.value) for one in plain] == [(one.topic, one.key, one.value) for one in traced]
    for one, other in zip(plain, traced, strict=True):
        assert one.attributes == {name: text for name, text in other.attributes.items() if name != TRACEPARENT}
        assert TRACEPARENT in other.attributes


async def test_each_catch_up_belongs_to_the_connect_before_it(
    build: Build, spans: InMemorySpanExporter, tracer: Tracer
) -> None:
    world = await build("acme", prefill=10)
    await world.replica(tracer=tracer)
    await world.becomes("acme", AccountState.LIVE)
    world.hub.drop()
    await world.until(lambda: len(named(spans, "catch-up")) == 2, "it catches up again")
    connects, catch_ups = named(spans, "connect"), named(spans, "catch-up")
    assert len(connects) == 2
    assert ids(connects) == [f"{one.parent.span_id:016x}" for one in catch_ups if one.parent is not None]
    assert [(one.attributes or {})["mesolive.outcome"] for one in catch_ups] == ["live", "live"]


async def test_a_catch_up_that_the_hub_cuts_off_was_interrupted(
    build: Build, spans: InMemorySpanExporter, tracer: Tracer
) -> None:
    world = await build("acme", prefill=10)
    world.hub.patch_faults("acme", history_lag=3600.0)
    await world.replica(tracer=tracer)
    await world.becomes("acme", AccountState.CATCHING_UP)  # also before it is subscribed, when no span has begun
    await world.until(lambda: world.hub.user("acme").counts["GetLatestEventSeqId"] > 0, "the catch-up has begun")
    world.hub.drop()
    await world.until(lambda: len(named(spans, "catch-up")) == 1, "it is cut off")
    world.hub.patch_faults("acme", history_lag=0.0)
    await world.becomes("acme", AccountState.LIVE)
    await world.until(lambda: len(named(spans, "catch-up")) == 2, "it has ended")
    outcomes = [(one.attributes or {})["mesolive.outcome"] for one in named(spans, "catch-up")]
    assert outcomes == ["interrupted", "live"]
