"""Exports spans: OTLP over HTTP, from a thread of their own, and never at the cost of events.

A bounded number waits for the collector; a span that finds no room is dropped and counted. A collector that is
unavailable, slow or refuses costs one line in the log when that begins and one when it is over. Only this module uses
OpenTelemetry's SDK.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import requests
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    NoOpTracer,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from requests.auth import AuthBase

from gateway import __version__
from gateway.errors import ConfigurationError
from gateway.pem import trusting
from gateway.redaction import shown_path
from gateway.settings.sections import TracingSettings
from gateway.small_files import PEM_BYTES, SECRET_BYTES, UnreadableFile, read_small, read_small_text
from gateway.telemetry.logs import get_logger
from gateway.telemetry.span import SCHEMA, Kind, Known

_PATH: Final = "/v1/traces"
_MAX_QUEUED_SPANS: Final = 2048
"""Spans that may wait for the collector, some KB each."""
_BATCH_SPANS: Final = 512
"""Spans in one request."""
_LINKS: Final = 5000
"""Links of one span: as many as a commit may have messages."""
_DELAY: Final = 1000
"""Milliseconds that a span waits for others."""
_TIMEOUT: Final = 5.0
"""Seconds for a request and its repetitions."""
_ENDING: Final = 1.0
"""Seconds that what waits gets at the end."""
_QUIET_S: Final = 1.0
"""Seconds without a loss until the trouble is over; each time twice as long, so that no collector floods the log."""
_MAX_QUIET_S: Final = 60.0
_SHORT: Final = 6
"""Letters that are too few for a secret: `Bearer`."""
_LOG_EXCERPT_CHARS: Final = 300
"""Letters of an error that the log shows."""
_HEADER: Final = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]+)[ \t]*:[ \t]*([!-~](?:[ -~]*[!-~])?)[ \t]*")
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_KINDS: Final = {kind: SpanKind[kind.name] for kind in Kind}


class Source:
    """Where spans come from."""

    def __init__(self, provider: TracerProvider, processor: SpanProcessor) -> None:
        """`processor` is the provider's."""
        provider.add_span_processor(processor)
        self._tracer = provider.get_tracer("gateway", __version__, SCHEMA)
        self._processor = processor
        self._resource, self._ids = provider.resource, provider.id_generator
        self._scope = InstrumentationScope("gateway", __version__, SCHEMA)
        self._propagator = TraceContextTextMapPropagator()

    def instant(self, name: str, kind: Kind, attributes: Known) -> Span | None:
        """Return a root span that begins and ends now.

        It is put together by hand: by the library's tracer it takes 25 µs, and so 1.3 (measured), and there may be
        hundreds a second.
        """
        if isinstance(self._tracer, NoOpTracer):
            return None
        ids, now = self._ids, time.time_ns()
        context = SpanContext(ids.generate_trace_id(), ids.generate_span_id(), is_remote=False, trace_flags=_SAMPLED)
        self._processor.on_end(
            ReadableSpan(
                name,
                context,
                resource=self._resource,
                attributes=attributes,
                kind=_KINDS[kind],
                start_time=now,
                end_time=now,
                instrumentation_scope=self._scope,
            )
        )
        return NonRecordingSpan(context)

    def start(
        self, name: str, kind: Kind, attributes: Known, parent: Span | None, links: Sequence[Span]
    ) -> Span | None:
        """Begin a span, a root where it has no parent; None where OTEL_SDK_DISABLED asks for none."""
        span = self._tracer.start_span(
            name,
            Context() if parent is None else set_span_in_context(parent, Context()),
            _KINDS[kind],
            attributes,
            [Link(link.get_span_context()) for link in links],
        )
        return span if span.is_recording() else None

    def sender(self, headers: Mapping[str, str]) -> Span | None:
        """Return the span in which an HTTP request was sent, from its W3C headers; None where they are invalid."""
        span = get_current_span(self._propagator.extract(headers, Context()))
        return span if span.get_span_context().is_valid else None

    @staticmethod
    def is_sampled(span: Span) -> bool:
        """Return whether the sender of it records it."""
        return bool(span.get_span_context().trace_flags.sampled)


@contextmanager
def exporting(settings: TracingSettings, *, role: str) -> Iterator[Source]:
    """Export spans for as long as the context lasts; leaving takes a second at most."""
    assert settings.endpoint is not None  # noqa: S101 - its caller looked
    session = requests.Session()
    session.trust_env = False  # neither a proxy nor a netrc of the environment: the settings alone count
    headers = _Headers(settings.headers_file, settings.ca_file)
    session.auth = headers
    exporter = _ReportingExporter(
        OTLPSpanExporter(
            settings.endpoint + _PATH,
            None if settings.ca_file is None else str(settings.ca_file),
            timeout=_TIMEOUT,
            session=session,
        ),
        headers.without,
    )
    ours = {
        "service.name": "mesolive-gateway",
        "service.version": __version__,
        "service.instance.id": f"{socket.gethostname()}/{os.getpid()}",
        "mesolive.role": role,
    }
    resource = Resource.create(ours, SCHEMA).merge(OTELResourceDetector().detect())  # the operator's word is the last
    limits = SpanLimits(max_links=_LINKS)
    provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, span_limits=limits)
    try:
        yield Source(provider, _BoundedProcessor(exporter))
    finally:
        ending = threading.Thread(target=provider.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(_ENDING)


class _BoundedProcessor(BatchSpanProcessor):
    """The library's, but it counts what finds no room, and logs nothing of it by itself."""

    def __init__(self, exporter: _ReportingExporter) -> None:
        super().__init__(exporter, _MAX_QUEUED_SPANS, _DELAY, _BATCH_SPANS)
        self._exporter = exporter

    def on_end(self, span: ReadableSpan) -> None:
        exporter = self._exporter
        if exporter.ended - exporter.taken >= _MAX_QUEUED_SPANS:
            exporter.dropped += 1
            return
        exporter.ended += 1
        super().on_end(span)


class _ReportingExporter(SpanExporter):
    """Exports, and logs when that begins to fail, and when it is over."""

    def __init__(self, inner: OTLPSpanExporter, shown: Callable[[str], str]) -> None:
        """`shown` makes foreign words fit for the log."""
        self.ended = self.dropped = 0
        """Spans that were let in, and those that were not: only the event loop's thread counts them."""
        self.taken = 0
        """Spans that wait no more: only the exporting thread counts them."""
        self._inner = inner
        self._shown = shown
        self._capture = _capture_errors()
        self._log = get_logger()
        self._seen = 0  # of those that were dropped
        self._lost = 0  # since the trouble began
        self._lost_at: float | None = None
        self._quiet = _QUIET_S

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        self._capture.messages.clear()
        result = self._inner.export(spans)
        is_refused = result is not SpanExportResult.SUCCESS
        dropped = self.dropped
        lost, self._seen = dropped - self._seen + is_refused * len(spans), dropped
        now = time.monotonic()
        if lost:
            if self._lost_at is None:
                cause = (
                    self._shown(self._capture.cause)
                    if is_refused
                    else "the collector takes them more slowly than they come"
                )
                self._log.warning("traces lost, events are not affected", error=cause)
            self._lost, self._lost_at = self._lost + lost, now
        elif self._lost_at is not None and now - self._lost_at >= self._quiet:
            self._log.info("trace export recovered", lost=self._lost)
            self._lost, self._lost_at, self._quiet = 0, None, min(_MAX_QUIET_S, 2 * self._quiet)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()  # type: ignore[no-untyped-call]


class _ErrorCapture(logging.Handler):
    """Captures what the library logs of each failure, which is far too much for the log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    @property
    def cause(self) -> str:
        """The first message: those that follow are about tries and giving up."""
        return self.messages[0] if self.messages else "no reason given"

    def emit(self, record: logging.LogRecord) -> None:
        if not self.messages:
            self.messages.append(" ".join(record.getMessage().split())[:_LOG_EXCERPT_CHARS])


def _capture_errors() -> _ErrorCapture:
    library = logging.getLogger("opentelemetry")
    capture = _ErrorCapture()
    library.handlers = [capture]
    library.propagate = False
    return capture


class _Headers(AuthBase):
    """Puts the headers of a file on each request; the file is read again for each.

    The library then reads `ca_file` by itself, on the exporting thread alone; here it is made sure that it can be read.
    """

    def __init__(self, path: Path | None, ca_file: Path | None = None) -> None:
        self._path = path
        self._ca_file = ca_file
        self._secrets: list[str] = []

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._ca_file is not None:
            read_small(self._ca_file, PEM_BYTES)
        if self._path is not None:
            headers = _read_headers(self._path)
            self._secrets = [
                part for value in headers.values() for part in (value, *value.split()) if len(part) > _SHORT
            ]
            request.headers.update(headers)
        return request

    def without(self, text: str) -> str:
        """Remove what the headers had last: a collector may repeat it."""
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text


def _read_headers(path: Path) -> dict[str, str]:
    """Raises UnreadableFile, and ValueError that never quotes the file: it holds secrets."""
    found = {}
    for number, line in enumerate(read_small_text(path, SECRET_BYTES).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        header = _HEADER.fullmatch(line)
        if header is None:
            raise ValueError(f"line {number} is no header")
        found[header[1]] = header[2]
    return found


def check_files(settings: TracingSettings) -> None:
    """Raise ConfigurationError where a file that the settings name cannot be used."""
    if settings.headers_file is not None:
        try:
            _read_headers(settings.headers_file)
        except UnreadableFile as error:
            problem = f"{shown_path(error.path)} {error.problem}"
            raise ConfigurationError("tracing.headers_file", problem, error.remedy) from error
        except ValueError as error:
            problem = f"{shown_path(settings.headers_file)} cannot be used ({error})"
            raise ConfigurationError("tracing.headers_file", problem, "Write lines `<name>: <value>`.") from None
    if settings.ca_file is not None:
        try:
            trusting(settings.ca_file)
        except UnreadableFile as error:
            problem = f"{shown_path(error.path)} {error.problem}"
            raise ConfigurationError("tracing.ca_file", problem, error.remedy) from error
