"""A span of the gateway's own, and the ids that it adds to the log.

Only a span that is recorded imports OpenTelemetry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.trace import Span as OtelSpan
    from structlog.typing import EventDict

SCHEMA: Final = "https://opentelemetry.io/schemas/1.44.0"
"""The semantic conventions that the names of spans and attributes are taken from."""
_MAX_ATTRIBUTE_CHARS: Final = 300
"""Letters of an error that a span keeps."""

Known = Mapping[str, str | int | float | bool]
Attributes = Mapping[str, str | int | float | bool | None]


class Kind(Enum):
    """What a span is to the rest of its trace; the names are OpenTelemetry's."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"


class Span:
    """Something that took time, or, where it was not sampled, nothing: then every call does nothing."""

    __slots__ = ("inner",)

    def __init__(self, inner: OtelSpan | None) -> None:
        self.inner = inner

    def __bool__(self) -> bool:
        """Return whether it is recorded."""
        return self.inner is not None

    @property
    def ids(self) -> tuple[str, str] | None:
        """The ids of the trace and of the span, in hexadecimal digits."""
        if self.inner is None:
            return None
        context = self.inner.get_span_context()
        return f"{context.trace_id:032x}", f"{context.span_id:016x}"

    @property
    def traceparent(self) -> str:
        """The identity of this span for another process, as W3C Trace Context has it; only of a recorded span."""
        assert self.inner is not None  # noqa: S101 - its caller looked
        context = self.inner.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def set(self, attributes: Attributes) -> None:
        """Add attributes; what is None is left out."""
        if self.inner is not None:
            for name, value in attributes.items():
                if value is not None:
                    self.inner.set_attribute(name, value)

    def event(self, name: str) -> None:
        """Note that something happened now."""
        if self.inner is not None:
            self.inner.add_event(name)

    def set_error(self, kind: str, message: str) -> None:
        """Mark it as failed; `kind` is one of few, and the message must be fit for a log."""
        if self.inner is not None:
            from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - it is loaded: there is a span

            self.inner.set_attribute("error.type", kind)
            self.inner.set_status(Status(StatusCode.ERROR, message[:_MAX_ATTRIBUTE_CHARS] or None))

    def fail(self, error: BaseException) -> None:
        """End it as failed; what was given up, as at the end of the gateway, is no failure."""
        if isinstance(error, asyncio.CancelledError):
            self.end()
            return
        self.set_error(str(getattr(error, "reason", "") or type(error).__name__), str(error))
        self.end()

    def end(self) -> None:
        """End it."""
        if self.inner is not None:
            self.inner.end()

    def activate(self) -> None:
        """Let what this task logs from now on carry its ids, until another one is entered."""
        _current.set(self)


NO_SPAN: Final = Span(None)
_current: ContextVar[Span] = ContextVar("span", default=NO_SPAN)


def add_trace(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Add `trace_id` and `span_id` to a line of the log (a processor of structlog)."""
    ids = _current.get().ids
    if ids is not None:
        event["trace_id"], event["span_id"] = ids
    return event
