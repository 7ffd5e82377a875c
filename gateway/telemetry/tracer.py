"""The gateway's traces: which spans there are, their names and their attributes.

Nothing here imports OpenTelemetry: without `tracing.endpoint` nothing of it is loaded, and every call ends at an empty
span. The samples are drawn in advance, as the number of items to skip: a batch that holds none of them costs one
comparison.

Names and attributes are those of the OpenTelemetry semantic conventions 1.44.0 (messaging, HTTP; the release that
opentelemetry-semantic-conventions 0.66b has); an attribute without a name there begins with `mesolive.`. Most of the
cost of a sampled message is by the attribute: so there are few.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from gateway.errors import ConfigurationError
from gateway.publication import Message
from gateway.telemetry.sampler import Sampler
from gateway.telemetry.span import NO_SPAN, Attributes, Kind, Known, Span

if TYPE_CHECKING:
    from gateway.settings.sections import (
        TracingSettings,  # which takes its time: nothing else here, nor in the logs, needs it
    )
    from gateway.telemetry.otlp import Source

_FAULT: Final = 500
"""The HTTP status from which on a server is at fault, and its span with it."""
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})


@dataclass(frozen=True, slots=True)
class MessagingSystem:
    """The broker in the words of the conventions."""

    system: str
    """`kafka` or `nats`."""
    destinations: Mapping[str, str]
    """By topic what the broker calls it; a `*` stands where the account's name is."""


class Tracer:
    """Begins spans; one for a process. Without a source there are none."""

    def __init__(
        self,
        source: Source | None = None,
        ratio: float = 0,
        broker: MessagingSystem | None = None,
        dice: random.Random | None = None,
    ) -> None:
        """`ratio` is the part of messages, commits and requests that is sampled; all else is rare, and always is."""
        dice = dice or random.Random()  # noqa: S311 - it samples
        self._source = source
        self._broker = broker or MessagingSystem("", {})
        self._messages, self._commits, self._requests = (
            Sampler(0 if source is None else ratio, dice) for _ in range(3)
        )

    @property
    def is_on(self) -> bool:
        """Whether there are any."""
        return self._source is not None

    def _start(
        self, name: str, kind: Kind, attributes: Attributes, *, parent: Span = NO_SPAN, links: Sequence[Span] = ()
    ) -> Span:
        if self._source is None:
            return NO_SPAN
        linked = [one.inner for one in links if one.inner]
        return Span(self._source.start(name, kind, _known(attributes), parent.inner, linked))

    # Messages -------------------------------------------------------------------------------------------

    def sampled(self, count: int) -> Sequence[int]:
        """Return the places of those messages that get a span, among the next `count`."""
        return self._messages.sample(count)

    def create(self, message: Message) -> Span:
        """Return the span of a message that is about to be committed; it has ended. Its traceparent goes along."""
        attributes = message.own  # the destination has what it shares with others
        if self._source is None:
            return NO_SPAN
        span_attributes = {
            **self._about("create", message.topic, message.account),
            "messaging.message.id": attributes.get("id"),
            "messaging.kafka.message.key": message.key.decode() if self._broker.system == "kafka" else None,
            "mesolive.account": message.account,
            "mesolive.sequence": attributes.get("sequence"),
            "mesolive.event.time": attributes.get("time"),
            "mesolive.replay": message.shared.attributes.get("replayid"),
        }
        return Span(self._source.instant(*self._operation("create", message.topic), _known(span_attributes)))

    def send(self, shard: int, messages: Sequence[Message], checkpoints: int, created: Sequence[Span]) -> Span:
        """Return the span of a commit; one that holds no sampled message has none, unless it is sampled itself."""
        if not self._commits.sample(1) and not created:
            return NO_SPAN
        topic, account = _common([one.topic for one in messages]), _common([one.account for one in messages])
        return self._start(
            *self._operation("send", topic),
            {
                **self._about("send", topic, account),
                "messaging.batch.message_count": len(messages),
                "mesolive.shard": shard,
                "mesolive.checkpoints": checkpoints,
                "mesolive.sampled": len(created),
            },
            links=created,
        )

    def _operation(self, name: str, topic: str | None) -> tuple[str, Kind]:
        destination = "" if topic is None else f" {self._broker.destinations.get(topic, topic)}"
        return f"{name}{destination}", Kind.PRODUCER if name == "create" else Kind.CLIENT

    def _about(self, operation: str, topic: str | None, account: str | None) -> Attributes:
        template = None if topic is None else self._broker.destinations.get(topic, topic)
        has_account = template is not None and "*" in template
        name = template if not has_account or account is None else (template or "").replace("*", account)
        return {
            "messaging.system": self._broker.system,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": None if has_account and account is None else name,
            "messaging.destination.template": template if has_account else None,
        }

    # The hub --------------------------------------------------------------------------------------------

    def connect(self, account: str, url: str) -> Span:
        """Begin the span of one try to connect an account to the hub at `url`, whose path and query stay out."""
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        attributes: Attributes = {
            "server.address": parts.hostname,
            "server.port": port,
            "network.protocol.name": "signalr",
            "mesolive.account": account,
        }
        return self._start("connect", Kind.CLIENT, attributes)

    def catch_up(self, account: str, connect: Span, verified: int) -> Span:
        """Begin the span of a walk through the history that ends live, over the connection that `connect` made."""
        attributes: Attributes = {"mesolive.account": account, "mesolive.verified": verified}
        return self._start("catch-up", Kind.INTERNAL, attributes, parent=connect)

    def replay(self, account: str, id_: str, position: int | None) -> Span:
        """Begin the span of a replay's part that this replica carries out, from `position` on."""
        attributes: Attributes = {"mesolive.account": account, "mesolive.replay": id_, "mesolive.position": position}
        return self._start("replay", Kind.INTERNAL, attributes)

    # The control plane ----------------------------------------------------------------------------------

    def request(self, method: str, headers: Mapping[str, str], about: Attributes) -> Span:
        """Begin the span of an HTTP request whose trace `headers` may continue: its sender decides, then."""
        if self._source is None:
            return NO_SPAN
        parent = self._source.sender(headers) if "traceparent" in headers else None
        is_sampled = bool(self._requests.sample(1)) if parent is None else self._source.is_sampled(parent)
        if not is_sampled:
            return NO_SPAN
        known = method if method in _METHODS else "_OTHER"
        span_attributes = _known({**about, "http.request.method": known})
        name = known if known != "_OTHER" else "HTTP"
        return Span(self._source.start(name, Kind.SERVER, span_attributes, parent, []))


def _known(attributes: Attributes) -> Known:
    return {name: value for name, value in attributes.items() if value is not None}


def _common(names: Sequence[str]) -> str | None:
    """Return what all of them are; None where they differ, or there are none."""
    return names[0] if names and names.count(names[0]) == len(names) else None


def end_request(span: Span, method: str, route: str | None, status: int) -> None:
    """End the span of a request; `route` is the template that it matched, if any, and `status` 0 for no answer."""
    inner = span.inner
    if inner is None:
        return
    if route is not None:
        inner.update_name(f"{method if method in _METHODS else 'HTTP'} {route}")
    span.set({"http.route": route, "http.response.status_code": status or None})
    if status >= _FAULT or status == 0:
        span.set_error(str(status or "cancelled"), "")
    span.end()


_EXTRA: Final = frozenset({"opentelemetry", "requests"})
"""What the extra `tracing` brings, as it is imported."""
_EXTRA_REMEDY: Final = (
    "Install it: pip install 'mesolive-gateway[tracing]'. "
    "An image that was built with --build-arg EXTRA=tracing has it."
)

NOOP_TRACER: Final = Tracer()
"""Traces nothing."""


def check(settings: TracingSettings) -> None:
    """Look at the files that the settings name, and for what exports; raises ConfigurationError."""
    if settings.endpoint is not None:
        try:
            from gateway.telemetry.otlp import check_files  # noqa: PLC0415 - nothing of it is loaded without tracing
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _EXTRA:
                raise
            raise ConfigurationError(
                "tracing.endpoint", f"is set, and the package {error.name} is not installed", _EXTRA_REMEDY
            ) from error

        check_files(settings)


@contextmanager
def tracing(settings: TracingSettings, *, role: str, broker: MessagingSystem | None = None) -> Iterator[Tracer]:
    """Trace by the settings for as long as the context lasts; leaving takes a second at most.

    `role` is what this process does. A file that cannot be used is no reason to stop: `check` reports it.
    """
    if settings.endpoint is None:
        yield NOOP_TRACER
        return
    from gateway.telemetry.otlp import exporting  # noqa: PLC0415 - nothing of it is loaded where tracing is off

    with exporting(settings, role=role) as source:
        yield Tracer(source, settings.sample_ratio, broker)
