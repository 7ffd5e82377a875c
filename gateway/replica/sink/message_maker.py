"""The message of each item, as a commit can hold it and the broker takes it; else a dead letter in its place."""

from __future__ import annotations

from typing import Final

from gateway.broker.ports import Limits
from gateway.events.dead_letter_reasons import DeadLetterReason
from gateway.events.event import DeadLetter, Event, Notification
from gateway.publication import (
    Message,
    dead_letter_message,
    event_message,
    notification_message,
    on_topic,
    with_account_in_key,
)
from gateway.session.types import OutgoingItem
from gateway.telemetry.logs import get_logger

DEAD_LETTER_HEAD_BYTES: Final = 4096
"""Raw bytes that a dead letter keeps of what was itself above the broker's limit."""


class MessageMaker:
    """Makes the messages of one shard."""

    __slots__ = ("_account_in_key", "_shard")

    def __init__(self, shard: int, *, account_in_key: bool) -> None:
        """`account_in_key` is whether keys begin with the account."""
        self._shard = shard
        self._account_in_key = account_in_key

    def make(self, item: OutgoingItem) -> Message:
        """Return the message of an item."""
        message = to_message(item)
        return with_account_in_key(message) if self._account_in_key else message

    def too_large(self, item: OutgoingItem, size: int, limits: Limits) -> Message:
        """Return the dead letter of what is larger, as a message of `size` bytes, than a commit can well hold."""
        detail = f"a message of {size} bytes is too large for a commit of {limits.bytes}"
        return self.dead_letter(item, DeadLetterReason.TOO_LARGE, detail)

    def dead_letter(
        self, item: OutgoingItem, reason: str, detail: str, *, keep: int = DEAD_LETTER_HEAD_BYTES
    ) -> Message:
        """Return the dead letter of what the broker does not take, with its first `keep` bytes."""
        content = item.content
        message = to_message(item)
        letter = DeadLetter(
            account=content.account,
            reason=reason,
            detail=detail,
            place="commit",
            raw=content.raw if isinstance(content, DeadLetter) else message.value,
            sequence=None if isinstance(content, Notification) else content.sequence,
            id=None if isinstance(content, Notification) else content.id,
        )
        get_logger(shard=self._shard).error(
            "message replaced by a dead letter", account=content.account, key=message.key.decode(), detail=detail
        )
        replay = None if item.replay is None else item.replay.replay
        made = dead_letter_message(letter, limit=keep, replay=replay, incarnation=item.incarnation)
        return with_account_in_key(made) if self._account_in_key else made


class PreparedMessages:
    """The messages of a batch, made while it is taken: a commit is bounded by what they take, not by a guess."""

    def __init__(self, maker: MessageMaker) -> None:
        self.messages: list[Message] = []
        self._make = maker.make

    def measure(self, item: OutgoingItem) -> int:
        """Make the message of an item, and return its size in bytes; the last one may be of no item of the batch."""
        message = self._make(item)
        self.messages.append(message)
        return message.size


def to_message(item: OutgoingItem) -> Message:
    """Return the message of an item."""
    mark = item.replay
    replay = None if mark is None else mark.replay
    match item.content:
        case Event() as event:
            message = event_message(event, late=item.late, replay=replay, incarnation=item.incarnation)
        case DeadLetter() as letter:
            message = dead_letter_message(letter, replay=replay, incarnation=item.incarnation)
        case Notification() as notification:
            message = notification_message(notification, incarnation=item.incarnation)
    return message if mark is None or mark.topic is None else on_topic(message, mark.topic)
