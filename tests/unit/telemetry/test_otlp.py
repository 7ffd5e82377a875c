"""How spans leave: never more than a few wait, whatever the collector does, and what is lost is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import requests
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from structlog.testing import capture_logs

from gateway.errors import ConfigurationError
from gateway.settings.sections import TracingSettings
from gateway.telemetry import otlp
from gateway.telemetry import tracer as traces
from gateway.telemetry.tracer import Tracer


class Collector:
    """Stands where the library's exporter is: it takes, refuses or waits."""

    def __init__(self) -> None:
        self.takes = True
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.asked = threading.Event()
        self.spans = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.set()
        self.goes_on.wait(10)
        self.spans += len(spans) if self.takes else 0
        return SpanExportResult.SUCCESS if self.takes else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.goes_on.set()


@pytest.fixture
def collector() -> Collector:
    return Collector()


@pytest.fixture
def watched(collector: Collector) -> otlp._ReportingExporter:
    return otlp._ReportingExporter(collector, lambda text: text.replace("hush", "…"))  # type: ignore[arg-type]


@pytest.fixture
def tracer(watched: otlp._ReportingExporter) -> Iterator[Tracer]:
    provider = TracerProvider(shutdown_on_exit=False)
    yield Tracer(otlp.Source(provider, otlp._BoundedProcessor(watched)), 1)
    provider.shutdown()


def end(tracer: Tracer, count: int) -> None:
    for _ in range(count):
        tracer.connect("acme", "https://hub.example.com").end()


def test_while_the_collector_hangs_the_queue_is_bounded_and_others_counted(
    tracer: Tracer, collector: Collector, watched: otlp._ReportingExporter
) -> None:
    collector.goes_on.clear()
    end(tracer, otlp._BATCH_SPANS)
    assert collector.asked.wait(5)
    end(tracer, 10_000)
    assert watched.ended - watched.taken == otlp._MAX_QUEUED_SPANS
    dropped = watched.dropped
    assert 10_000 - otlp._MAX_QUEUED_SPANS <= dropped < 10_000  # the first export may have begun before all were there
    with capture_logs() as lines:
        collector.goes_on.set()
        deadline = time.monotonic() + 5
        while collector.spans < otlp._BATCH_SPANS + 10_000 - dropped and time.monotonic() < deadline:
            time.sleep(0.01)
    assert collector.spans == otlp._BATCH_SPANS + 10_000 - dropped
    assert [line["event"] for line in lines] == ["traces lost, events are not affected"]
    assert "more slowly" in lines[0]["error"]


def test_trouble_is_said_when_it_begins_and_ends_ever_more_seldom(
    watched: otlp._ReportingExporter, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(otlp.time, "monotonic", lambda: now)
    logged: list[tuple[float, str]] = []
    with capture_logs() as lines:
        for second in range(600):  # every other request is refused
            now, collector.takes = float(second), second % 20 > 9
            before = len(lines)
            watched.export([None] * 3)  # type: ignore[list-item]
            logged += [(now, line["event"]) for line in lines[before:]]
    assert [line.get("lost") for line in lines[:4]] == [None, 30, None, 30]
    assert len(logged) <= 12
    assert [event for _, event in logged[:4]] == ["traces lost, events are not affected", "trace export recovered"] * 2


def test_what_a_collector_repeats_of_the_headers_is_not_logged(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("Authorization: Bearer h0sh-h0sh\nX-Scope: desk\n")
    headers = otlp._Headers(file)
    headers(requests.Request("POST", "http://collector").prepare())
    assert headers.without("401 bad Bearer h0sh-h0sh, token h0sh-h0sh of desk") == "401 bad …, token … of desk"
    assert otlp._Headers(None).without("503") == "503"


def test_the_end_takes_a_second_at_the_most_though_the_collector_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector()
    monkeypatch.setattr(otlp, "OTLPSpanExporter", lambda *_, **__: collector)
    collector.goes_on.clear()
    began = time.monotonic()
    with traces.tracing(TracingSettings(endpoint="http://127.0.0.1:1"), role="x") as tracer:
        end(tracer, otlp._BATCH_SPANS)
        assert collector.asked.wait(5)
        began = time.monotonic()
    assert time.monotonic() - began < 4
    collector.goes_on.set()


def test_who_disables_the_library_by_its_variable_gets_no_spans_or_headers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with traces.tracing(TracingSettings(endpoint="http://127.0.0.1:1", sample_ratio=1), role="x") as tracer:
        assert not tracer.connect("acme", "https://hub.example.com")


@pytest.mark.parametrize(
    "text", ["s3cret", "A: s3\x07cret", "A: s3cret\n: x", "A B: s3cret", "A: \u20acs3cret", b"A: s3cret\xff"]
)
def test_a_file_that_holds_no_headers_is_refused_without_a_word_of_it(tmp_path: Path, text: str | bytes) -> None:
    file = tmp_path / "headers"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError) as refused:
        traces.check(TracingSettings(endpoint="http://127.0.0.1:1", headers_file=file))
    assert refused.value.setting == "tracing.headers_file"
    assert "cret" not in str(refused.value)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    for setting in ("headers_file", "ca_file"):
        with pytest.raises(ConfigurationError) as refused:
            traces.check(TracingSettings(endpoint="http://127.0.0.1:1", **{setting: tmp_path / "nothing"}))
        assert refused.value.setting == f"tracing.{setting}"
        assert "nothing" in str(refused.value)


def test_where_nothing_is_traced_no_file_is_looked_at(tmp_path: Path) -> None:
    traces.check(TracingSettings(headers_file=tmp_path / "nothing"))
