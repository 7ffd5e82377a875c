"""A collector: takes OTLP over HTTP as the protocol's own messages describe it, or fails as it is told to.

It imports nothing from `gateway` and none of OpenTelemetry's SDK: what is on the wire is all that it knows.
"""

from __future__ import annotations

import gzip
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support.gateway_process import until

Mood = Literal["takes", "refuses", "hangs", "resets"]
KINDS = {number: name.removeprefix("SPAN_KIND_").lower() for name, number in trace_pb2.Span.SpanKind.items()}


@dataclass(frozen=True)
class Received:
    """One span."""

    trace: str
    id: str
    parent: str
    """Empty for a root."""
    name: str
    kind: str
    start: int
    """Nanoseconds since 1970."""
    end: int
    attributes: Mapping[str, Any]
    events: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    """Of each its trace and its span."""
    is_failed: bool
    description: str
    resource: Mapping[str, Any]
    scope: str
    schema: str

    @property
    def place(self) -> tuple[str, str]:
        """What a link to it says."""
        return self.trace, self.id


@dataclass
class Receiver:
    """What it was sent, and how it answers."""

    port: int
    mood: Mood = "takes"
    scheme: str = "http"
    spans: list[Received] = field(default_factory=list)
    refused: list[Received] = field(default_factory=list)
    """What it answered that it does not take; the same again where somebody tries again."""
    requests: int = 0
    """All that came, whatever it answered."""
    headers: list[Mapping[str, str]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self) -> str:
        """What `tracing.endpoint` is set to."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def env(self, ratio: float = 1) -> dict[str, str]:
        """Return the environment of a gateway that sends its spans here."""
        return {"GATEWAY_TRACING__ENDPOINT": self.url, "GATEWAY_TRACING__SAMPLE_RATIO": str(ratio)}

    def named(self, name: str) -> list[Received]:
        """Return the spans whose name is this, or begins with it and a space."""
        return [span for span in list(self.spans) if span.name == name or span.name.startswith(f"{name} ")]

    async def has(self, name: str, like: Callable[[Received], bool] = lambda _: True, count: int = 1) -> list[Received]:
        """Wait until there are so many spans of this name that are like that."""
        found: list[Received] = []

        def are_there() -> bool:
            found[:] = [span for span in self.named(name) if like(span)]
            return len(found) >= count

        await until(are_there, lambda: f"{count} spans {name}; there are {sorted({one.name for one in self.spans})}")
        return found

    def change(self, mood: Mood) -> None:
        """Answer otherwise from now on; requests that hang are let go."""
        with self.changed:
            self.mood = mood
            self.changed.notify_all()


@contextmanager
def receiver(mood: Mood = "takes", tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Run a collector on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    made = Receiver(server.server_address[1], mood, scheme="http" if tls is None else "https")
    server.receiver = made  # type: ignore[attr-defined]
    serving = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    serving.start()
    try:
        yield made
    finally:
        made.change("takes")
        server.shutdown()
        serving.join()
        server.server_close()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        made: Receiver = self.server.receiver  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        made.requests += 1
        made.headers.append(dict(self.headers))
        assert self.path == "/v1/traces", self.path
        assert self.headers["Content-Type"] == "application/x-protobuf"
        if made.mood == "hangs":
            with made.changed:
                made.changed.wait_for(lambda: made.mood != "hangs")
            return self._reset()
        if made.mood == "resets":
            return self._reset()
        found = _spans(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
        if made.mood == "takes":
            made.spans += found
        else:
            made.refused += found
        with suppress(OSError):
            self.send_response(200 if made.mood == "takes" else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()
        return None

    def _reset(self) -> None:
        """End the connection with RST."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        pass


def _spans(body: bytes) -> Iterator[Received]:
    request = ExportTraceServiceRequest.FromString(body)
    for of_resource in request.resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield Received(
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    name=span.name,
                    kind=KINDS[span.kind],
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    attributes=_attributes(span.attributes),
                    events=tuple(event.name for event in span.events),
                    links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    is_failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                    description=span.status.message,
                    resource=resource,
                    scope=of_scope.scope.name,
                    schema=of_scope.schema_url,
                )


def _attributes(pairs: Iterator[KeyValue]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}
