"""What is drawn, what spans say, and that nothing is loaded where there are none."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random

import opentelemetry.semconv._incubating.attributes as incubating
import opentelemetry.semconv.attributes as stable
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import SpanKind, StatusCode

from gateway.control import tracing_middleware as tracing
from gateway.errors import OutcomeUnknown
from gateway.events.event import Event
from gateway.publication import event_message
from gateway.telemetry import span, tracer
from gateway.telemetry.sampler import Sampler
from gateway.telemetry.span import NO_SPAN, add_trace
from gateway.telemetry.tracer import NOOP_TRACER, MessagingSystem, Tracer, end_request

MESSAGE = event_message(Event("acme", "order-update", 42, "an-id", "2026-11-22T13:32:25.0923668Z", 7, b"{}"))
Make = Callable[..., Tracer]


@given(st.floats(0.001, 0.999), st.lists(st.integers(0, 50), max_size=40), st.integers())
def test_what_is_drawn_does_not_depend_on_how_messages_are_batched(ratio: float, batches: list[int], seed: int) -> None:
    dealt, whole = Sampler(ratio, Random(seed)), Sampler(ratio, Random(seed))
    places, before = [], 0
    for size in batches:
        found = dealt.sample(size)
        assert all(0 <= place < size for place in found)
        places += [before + place for place in found]
        before += size
    assert places == list(whole.sample(sum(batches)))
    assert places == sorted(set(places))


@pytest.mark.parametrize("ratio", [0.001, 0.01, 0.3, 0.9])
def test_as_many_are_drawn_as_the_ratio_says_and_each_independently(ratio: float) -> None:
    draw, count = Sampler(ratio, Random(7)), 400_000
    places = [1000 * batch + place for batch in range(count // 1000) for place in draw.sample(1000)]
    deviation = (count * ratio * (1 - ratio)) ** 0.5
    assert abs(len(places) - count * ratio) < 5 * deviation
    pairs = sum(after == before + 1 for before, after in pairwise(places))
    assert abs(pairs - count * ratio**2) < 5 * max(1, count * ratio**2) ** 0.5 + 5


def test_all_and_none_are_drawn_at_the_ends() -> None:
    assert list(Sampler(1, Random()).sample(3)) == [0, 1, 2]
    none = Sampler(0, Random())
    assert [none.sample(10**9) for _ in range(3)] == [(), (), ()]


def test_without_a_collector_nothing_that_makes_or_sends_spans_is_loaded() -> None:
    program = (
        "import sys; from gateway.bootstrap import control_main, jetstream, kafka; from gateway.cli import demo, run\n"
        "from gateway.settings.sections import TracingSettings\n"
        "from gateway.telemetry.tracer import tracing, NOOP_TRACER\n"
        "with tracing(TracingSettings(), role='x') as tracer: assert tracer is NOOP_TRACER\n"
        "heavy = {'opentelemetry.sdk', 'opentelemetry.exporter', 'opentelemetry.proto', 'requests'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_a_collector_every_call_does_nothing() -> None:
    span = NOOP_TRACER.connect("acme", "https://hub.example.com")
    span.activate()
    span.event("x")
    span.set({"a": 1})
    span.fail(ValueError())
    assert not span
    assert NOOP_TRACER.sampled(10**6) == ()
    assert not NOOP_TRACER.send(1, [MESSAGE], 1, [])
    assert not NOOP_TRACER.request("GET", {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}, {})
    assert add_trace(None, "", {"event": "x"}) == {"event": "x"}


def test_a_message_tells_what_it_is_and_never_what_it_says(tracer: Make, spans: InMemorySpanExporter) -> None:
    tracer().create(MESSAGE)
    (span,) = spans.get_finished_spans()
    assert (span.name, span.kind) == ("create mesolive.events.order-update.v1.*", SpanKind.PRODUCER)
    assert dict(span.attributes or {}) == {
        "messaging.system": "nats",
        "messaging.operation.name": "create",
        "messaging.operation.type": "create",
        "messaging.destination.name": "mesolive.events.order-update.v1.acme",
        "messaging.destination.template": "mesolive.events.order-update.v1.*",
        "messaging.message.id": "an-id",
        "mesolive.account": "acme",
        "mesolive.sequence": "00000000000000000042",
        "mesolive.event.time": "2026-11-22T13:32:25.0923668Z",
    }


def test_a_commit_links_to_its_messages_and_a_failed_one_says_so(tracer: Make, spans: InMemorySpanExporter) -> None:
    made = tracer()
    created = [made.create(MESSAGE), made.create(MESSAGE)]
    send = made.send(3, [MESSAGE] * 5, 1, created)
    send.fail(OutcomeUnknown("no answer to a commit within 10 s"))
    *creates, span = spans.get_finished_spans()
    assert (span.name, span.kind) == ("send mesolive.events.order-update.v1.*", SpanKind.CLIENT)
    assert [link.context.span_id for link in span.links] == [one.context.span_id for one in creates]
    assert (span.status.status_code, span.status.description) == (
        StatusCode.ERROR,
        "no answer to a commit within 10 s",
    )
    attributes = dict(span.attributes or {})
    assert (attributes["messaging.batch.message_count"], attributes["mesolive.shard"], attributes["error.type"]) == (
        5,
        3,
        "OutcomeUnknown",
    )


def test_a_commit_over_several_topics_names_none(tracer: Make, spans: InMemorySpanExporter) -> None:
    other = event_message(Event("beta", "leg-update", 1, None, "2026-11-22T13:32:25Z", None, b"{}"))
    tracer(broker=MessagingSystem("kafka", {"order-update": "mesolive.order-update.v1"})).send(
        3, [MESSAGE, other], 2, []
    ).end()
    (span,) = spans.get_finished_spans()
    assert span.name == "send"
    assert "messaging.destination.name" not in (span.attributes or {})


def test_a_commit_without_a_sampled_message_is_sampled_by_itself(tracer: Make, spans: InMemorySpanExporter) -> None:
    made = tracer(0.1)
    for _ in range(1000):
        made.send(0, [MESSAGE], 1, []).end()
    assert 60 < len(spans.get_finished_spans()) < 140


def test_who_asks_decides_whether_a_request_is_recorded(tracer: Make, spans: InMemorySpanExporter) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    always, never = tracer(1), tracer(0)
    assert not always.request("GET", {"traceparent": f"00-{trace}-{parent}-00"}, {})
    assert not never.request("GET", {}, {})
    assert not never.request("GET", {"traceparent": "nonsense"}, {})
    span = never.request("GET", {"traceparent": f"00-{trace}-{parent}-01", "tracestate": "a=b"}, {"url.scheme": None})
    end_request(span, "GET", "/v1/accounts", 503)
    (found,) = spans.get_finished_spans()
    assert span.ids is not None
    assert span.ids[0] == trace
    assert found.parent is not None
    assert f"{found.parent.span_id:016x}" == parent
    assert (found.name, found.status.status_code) == ("GET /v1/accounts", StatusCode.ERROR)
    assert "url.scheme" not in (found.attributes or {})


@pytest.mark.parametrize(("status", "is_failed"), [(200, False), (404, False), (500, True), (0, True)])
def test_a_request_failed_where_the_server_is_at_fault(
    tracer: Make, spans: InMemorySpanExporter, status: int, is_failed: bool
) -> None:
    end_request(tracer().request("BREW", {}, {}), "BREW", None, status)
    (found,) = spans.get_finished_spans()
    assert found.name == "HTTP"
    assert (found.attributes or {})["http.request.method"] == "_OTHER"
    assert (found.status.status_code is StatusCode.ERROR) is is_failed


def test_a_line_of_the_log_carries_the_ids_of_the_span_that_was_entered(tracer: Make) -> None:
    span = tracer().connect("acme", "https://hub.example.com:8443/path?access_token=secret")
    span.activate()
    assert span.ids is not None
    assert add_trace(None, "", {"event": "x"}) == {"event": "x", "trace_id": span.ids[0], "span_id": span.ids[1]}
    NO_SPAN.activate()
    assert add_trace(None, "", {"event": "x"}) == {"event": "x"}


def test_a_connect_names_the_hub_without_path_and_query(tracer: Make, spans: InMemorySpanExporter) -> None:
    tracer().connect("acme", "https://hub.example.com/path?access_token=secret").end()
    (span,) = spans.get_finished_spans()
    assert dict(span.attributes or {}) == {
        "server.address": "hub.example.com",
        "server.port": 443,
        "network.protocol.name": "signalr",
        "mesolive.account": "acme",
    }


def test_the_names_are_those_of_the_conventions_that_are_named() -> None:
    assert Schemas.V1_44_0.value == span.SCHEMA
    text = "".join(Path(module.__file__).read_text("utf-8") for module in (span, tracer, tracing))
    roots = "messaging|http|server|client|network|url|error"
    names = set(re.findall(rf'"((?:{roots})\.[a-z_.]+)"', text)) - {"http.response.start"}  # ASGI's word
    assert len(names) > 15
    known = "".join(
        file.read_text("utf-8")
        for package in (incubating, stable)
        for folder in package.__path__
        for file in Path(folder).glob("*.py")
    )
    assert {name for name in names if f'Final = "{name}"' not in known} == set()
