"""How an event, a dead letter or a notification becomes a message: topic, key and CloudEvents attributes.

Nothing else in the gateway decides any of these. The broker adapters only translate: `Message.topic` is a
logical name that each maps to its own (Kafka `<prefix>.<topic>.v1`, JetStream
`<prefix>.events.<topic>.v1.<account>`), attributes become headers as CloudEvents 1.0 binds them.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import Final

import msgspec
from msgspec.structs import replace

from gateway.events.event import DeadLetter, Event, Notification, digest

DEAD_LETTER: Final = "dead-letter"
NOTIFICATIONS: Final = "notifications"
REPLAY: Final = "replay"

TRACEPARENT: Final = "traceparent"
"""The attribute of CloudEvents' distributed tracing; the adapters write it under this very name, too, for consumers
that support OpenTelemetry and no CloudEvents."""

USUAL_MESSAGE: Final = 8 * 1024
"""Bytes of one message that a broker must take at least. A usual event has up to 3 KB, with its headers: a lower limit
is about every event, and a higher one about single large ones."""

_DIGITS: Final = 20
"""Of a sequence that compares as text as it does as a number."""


_AROUND: Final = 24
"""Bytes that a header may take in addition to its value: its name, and what a broker adds."""


class Shared(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Attributes that many messages have alike: an adapter writes them once, and recognises them by the object."""

    attributes: dict[str, str]
    size: int
    """Bytes that they take as headers."""


_NOTHING: Final = Shared({}, 0)


class Message(msgspec.Struct, frozen=True, gc=False, eq=False):  # noqa: PLW1641 - attributes are no key
    """One message to be: what the log stores, in the words of no broker."""

    topic: str
    """A kind (`order-update`), or `dead-letter`, `notifications`, `replay`."""
    account: str
    key: bytes
    """EventSeqId in decimal ASCII, else EventId, else a digest; on request behind the account and a colon."""
    value: bytes
    own: dict[str, str]
    """Its attributes, except those in `shared`."""
    shared: Shared = _NOTHING

    @property
    def attributes(self) -> dict[str, str]:
        """CloudEvents attributes by their own names (`id`, `type`, `sequence`, …), and `datacontenttype`."""
        return {**self.shared.attributes, **self.own}

    @property
    def size(self) -> int:
        """Bytes that the message is about to take, headers included, for limits and budgets."""
        headers = self.shared.size + _AROUND * len(self.own) + len("".join(self.own.values()))
        return len(self.value) + len(self.key) + headers

    def __eq__(self, other: object) -> bool:
        """Return whether it has the same contents, whatever of it is shared."""
        return isinstance(other, Message) and _parts(self) == _parts(other)


def _parts(message: Message) -> tuple[str, str, bytes, bytes, dict[str, str]]:
    return message.topic, message.account, message.key, message.value, message.attributes


def event_message(event: Event, *, late: bool = False, replay: str | None = None, incarnation: int = 1) -> Message:
    """Return the message of `event`.

    `late` marks one that the hub gave after later ones, `replay` one of a replay; `incarnation` counts how often the
    account began, each time after a reset of its checkpoint.
    """
    account, sequence = event.account, event.sequence
    shared = _shared(account, event.kind, event.strategy, late, replay, incarnation)
    if sequence is None:
        key = event.identity
        return Message(event.kind, account, key.encode(), event.body, {"id": key, "time": event.time}, shared)
    key = str(sequence)
    own = {"id": event.id or f"{account}/{key}", "sequence": key.zfill(_DIGITS), "time": event.time}
    return Message(event.kind, account, key.encode(), event.body, own, shared)


def dead_letter_message(
    letter: DeadLetter, *, limit: int | None = None, replay: str | None = None, incarnation: int = 1
) -> Message:
    """Return the message of `letter`; raw bytes above `limit` are cut, their digest and size kept whole."""
    kept = letter.raw if limit is None else letter.raw[:limit]
    body: dict[str, str | int | bool | None] = {
        "Reason": letter.reason,
        "Detail": letter.detail,
        "Place": letter.place,
        "EventId": letter.id,
        "EventSeqId": letter.sequence,
        "Size": len(letter.raw),
        "Digest": digest(letter.raw),
        "Truncated": len(kept) < len(letter.raw),
        "Raw": base64.b64encode(kept).decode(),
    }
    key = str(letter.sequence) if letter.sequence is not None else letter.identity
    own = {"id": letter.identity, "reason": letter.reason}
    if letter.sequence is not None:
        own["sequence"] = str(letter.sequence).zfill(_DIGITS)
    shared = _shared(letter.account, DEAD_LETTER, replay=replay, incarnation=incarnation)
    return Message(DEAD_LETTER, letter.account, key.encode(), msgspec.json.encode(body), own, shared)


def notification_message(notification: Notification, *, incarnation: int = 1) -> Message:
    """Return the message of `notification`; its key is the account, so that a compacted view keeps the last."""
    body = msgspec.json.encode({"Type": notification.type, "Account": notification.account, **notification.detail})
    account = notification.account
    shared = _shared(account, NOTIFICATIONS, incarnation=incarnation)
    return Message(NOTIFICATIONS, account, account.encode(), body, {"id": digest(body)}, shared)


def on_topic(message: Message, topic: str) -> Message:
    """Put a message on another topic; its attributes keep its kind."""
    return replace(message, topic=topic)


def with_trace(message: Message, traceparent: str) -> Message:
    """Let a message carry the trace that it belongs to, as W3C Trace Context writes it; key and value stay."""
    return replace(message, own={**message.own, TRACEPARENT: traceparent})


def with_account_in_key(message: Message) -> Message:
    """Put the account before the key of an event or a dead letter: sequences of two accounts may be equal."""
    if message.topic == NOTIFICATIONS:
        return message
    return replace(message, key=message.account.encode() + b":" + message.key)


@lru_cache(maxsize=1024)
def _shared(  # noqa: PLR0917 - a cache finds positional arguments faster
    account: str,
    kind: str,
    strategy: int | None = None,
    late: bool = False,  # noqa: FBT001, FBT002 - a key of the cache
    replay: str | None = None,
    incarnation: int = 1,
) -> Shared:
    attributes = {
        "specversion": "1.0",
        "source": f"/mesolive/{account}",
        "type": f"mesolive.{kind}.v1",
        "datacontenttype": "application/json",
        "dataschema": f"urn:mesolive:{kind}:v1",
        "account": account,
        "incarnation": str(incarnation),
    }
    if strategy is not None:
        attributes["subject"] = f"strategy/{strategy}"
    if late:
        attributes["late"] = "true"
    if replay is not None:
        attributes["replayid"] = replay
    return Shared(attributes, _AROUND * len(attributes) + len("".join(attributes.values())))
