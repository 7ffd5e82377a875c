"""The audit trail on JetStream: a stream of its own, to which messages can only be added until their time is over.

`deny_delete` and `deny_purge` keep every client from removing single messages, also one that may use JetStream's API;
and that cannot be undone. Only deleting the whole stream removes them, and the gateway's user has no permission for
that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from gateway.broker.jetstream import records
from gateway.broker.jetstream.connect_errors import permissions_needed
from gateway.broker.jetstream.connection import Connection
from gateway.broker.jetstream.error_codes import problem_of
from gateway.broker.jetstream.link import JetStreamApiError
from gateway.broker.jetstream.stream import SMALLEST_MESSAGE
from gateway.broker.jetstream.stream_rules import StreamRules
from gateway.broker.jetstream.topics import Topics
from gateway.errors import ConfigurationError, OutcomeUnknown

_SECOND: Final = 1_000_000_000
"""In the nanoseconds of JetStream's configuration."""
_DUPLICATES: Final = 120 * _SECOND
"""Nanoseconds within which a record that is sent again is stored once."""
_LIMITS: Final = ("max_bytes", "max_msgs", "max_msgs_per_subject")
_DENIES: Final = ("deny_delete", "deny_purge")


class JetStreamAudit:
    """The audit trail of one deployment (`gateway.broker.ports.AuditTrail`)."""

    def __init__(self, connection: Connection, topics: Topics) -> None:
        self._connection = connection
        self._topics = topics

    async def prepare(self, *, replicas: int, create: bool, retention: float | None) -> None:
        """Create the stream if there is none, and refuse one that would break a promise; `retention` is in seconds.

        Raises ConfigurationError, Unavailable.
        """
        age = 0 if retention is None else round(retention * _SECOND)
        stream = self._topics.audit_stream
        wanted: dict[str, Any] = {
            "name": stream,
            "description": "Who changed what through the gateway's API; messages can only be added",
            "subjects": [self._topics.audit],
            "retention": "limits",
            "storage": "file",
            "num_replicas": replicas,
            "max_age": age,
            "discard": "old",
            "duplicate_window": min(_DUPLICATES, age) or _DUPLICATES,
            **dict.fromkeys(_DENIES, True),
        }
        with permissions_needed():
            config = await records.made(self._connection.link, wanted, create=create)
        rules = StreamRules("records", [self._topics.audit], replicas, SMALLEST_MESSAGE)
        if wrong := [*_wrong(config, age), *rules.broken_by(config)]:
            remedy = f"Mend it with `nats stream edit {stream}`, or copy it and let the gateway make it anew."
            raise ConfigurationError(f"stream {stream}", "; ".join(wrong), remedy)
        refusals = await self._connection.link.refused([self._topics.audit])
        if refusals:  # else the first change would be the first to fail
            remedy = "Give the user the permissions that docs/operate/nats.md lists."
            raise ConfigurationError("broker", "; ".join(refusals), remedy)

    async def append(self, id_: str, account: str, record: bytes) -> None:  # noqa: ARG002 - the record names it
        """Store a record; see the contract."""
        subject, stream = self._topics.audit, self._topics.audit_stream
        try:
            place = await records.stored(self._connection.link, subject, record, {"Nats-Msg-Id": id_})
        except JetStreamApiError as refusal:
            raise problem_of(refusal.code, refusal.description, stream=stream) from refusal
        if place.stream != stream:
            raise OutcomeUnknown(f"{subject}: stored by the stream {place.stream}")


def _wrong(config: dict[str, Any], age: int) -> Iterator[str]:
    """Say what lets records leave, or be taken out."""
    found = int(config.get("max_age", 0))
    if found and (not age or found < age):
        yield f"max_age is {found / _SECOND:g} s: records would leave before topics.audit_retention"
    for limit in _LIMITS:
        if int(config.get(limit, -1)) > 0:
            yield f"{limit} is {config[limit]}: records would leave, or find no room, however young they are"
    for setting in _DENIES:
        if not config.get(setting):
            yield f"{setting} is off: records could be taken out"
