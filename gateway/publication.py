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

_DIGITS: Final = 20
"""Of a sequence that compares as text as it does as a number."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message to be: what the log stores, in the words of no broker."""

    topic: str
    """A kind (`order-update`), or `dead-letter`, `notifications`, `replay`."""
    account: str
    key: bytes
    """EventSeqId in decimal ASCII, else EventId, else a digest; on request behind the account and a colon."""
    value: bytes
    attributes: dict[str, str]
    """CloudEvents attributes by their own names (`id`, `type`, `sequence`, …), and `datacontenttype`."""

    @property
    def size(self) -> int:
        """Bytes that the message is about to take, headers included, for limits and budgets."""
        attributes = self.attributes
        headers = len("".join(attributes)) + len("".join(attributes.values())) + 8 * len(attributes)
        return len(self.value) + len(self.key) + headers


def event_message(event: Event, *, late: bool = False) -> Message:
    """Give the message of `event`; `late` marks one that the hub gave after later ones."""
    sequence = event.sequence
    key = event.identity if sequence is None else str(sequence)
    id_ = event.id or (key if sequence is None else f"{event.account}/{key}")
    attributes = _attributes(event.account, event.kind, id_, sequence)
    attributes["time"] = event.time
    if event.strategy is not None:
        attributes["subject"] = f"strategy/{event.strategy}"
    if late:
        attributes["late"] = "true"
    return Message(event.kind, event.account, key.encode(), event.body, attributes)


def dead_letter_message(letter: DeadLetter, *, limit: int | None = None) -> Message:
    """Give the message of `letter`; raw bytes above `limit` are cut, their digest and size kept whole."""
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
    attributes = _attributes(letter.account, DEAD_LETTER, letter.identity, letter.sequence)
    attributes["reason"] = letter.reason
    return Message(DEAD_LETTER, letter.account, key.encode(), msgspec.json.encode(body), attributes)


def notification_message(notification: Notification) -> Message:
    """Give the message of `notification`; its key is the account, so that a compacted view keeps the last."""
    body = msgspec.json.encode({"Type": notification.type, "Account": notification.account, **notification.detail})
    attributes = _attributes(notification.account, NOTIFICATIONS, digest(body), None)
    return Message(NOTIFICATIONS, notification.account, notification.account.encode(), body, attributes)


def with_account_in_key(message: Message) -> Message:
    """Put the account before the key of an event or a dead letter: sequences of two accounts may be equal."""
    if message.topic == NOTIFICATIONS:
        return message
    return replace(message, key=message.account.encode() + b":" + message.key)


def _attributes(account: str, kind: str, id: str, sequence: int | None) -> dict[str, str]:  # noqa: A002 - its name
    attributes = _common(account, kind).copy()
    attributes["id"] = id
    if sequence is not None:
        attributes["sequence"] = str(sequence).zfill(_DIGITS)
    return attributes


@lru_cache(maxsize=4096)
def _common(account: str, kind: str) -> dict[str, str]:
    return {
        "specversion": "1.0",
        "id": "",
        "source": f"/mesolive/{account}",
        "type": f"mesolive.{kind}.v1",
        "datacontenttype": "application/json",
        "dataschema": f"urn:mesolive:{kind}:v1",
        "account": account,
    }
