"""What travels through the gateway: an event, a dead letter or a notification of one account."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

_AROUND: Final = 512
"""Bytes in memory of what surrounds a body."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One callback of the hub, decoded and in its canonical form."""

    account: str
    """The operator's name for the API key that it came over."""
    kind: str
    """`order-update`: the callback in kebab case without On."""
    sequence: int | None
    """EventSeqId; None where the hub gave none, or 0."""
    id: str | None
    """EventId as the hub wrote it, in lower case; None where it gave none, or the all-zero UUID."""
    time: str
    """EventTime: RFC 3339 in UTC, every digit that it came with."""
    strategy: int | None
    """StrategyId, None where the kind has none or it is null."""
    body: bytes
    """Canonical JSON, UTF-8: the message's value."""

    @property
    def size(self) -> int:
        """Bytes that it holds in memory, roughly: its body and what surrounds it."""
        return len(self.body) + _AROUND

    @property
    def identity(self) -> str:
        """EventId, else `anonymous`: what makes two sightings one event."""
        return self.id or self.anonymous

    @property
    def anonymous(self) -> str:
        """A digest of everything but EventId and EventSeqId, which one sighting may have and another lack."""
        return digest(self.kind.encode() + b"\0" + self.body[max(0, self.body.find(b'"EventTime"')) :])


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """Something that the hub sent and the gateway could not decode, kept whole."""

    account: str
    reason: str
    """A label from a closed list: `unknown-kind`, `malformed-json`, `invalid-payload`, …."""
    detail: str
    """What was wrong, where in the payload, and what would be right."""
    place: str
    """Where it was found: the callback's name, or `GetEventsSince`."""
    raw: bytes
    """The bytes as they came."""
    sequence: int | None = None
    """EventSeqId, where it could be read in spite of the fault."""
    id: str | None = None

    @property
    def size(self) -> int:
        """Bytes that it holds in memory, roughly."""
        return len(self.raw) + _AROUND

    @property
    def identity(self) -> str:
        """EventId where it could be read, else `anonymous`."""
        return self.id or self.anonymous

    @property
    def anonymous(self) -> str:
        """A digest of the raw bytes."""
        return digest(self.raw)


GAP: Final = "gap"
"""The type of the notification that the hub no longer had a range, or could not give it."""


class Notification(msgspec.Struct, frozen=True):
    """A message to an account's consumers, such as a gap in the history."""

    account: str
    type: str
    """`gap`, `diverged`, `subscription-changed`, `checkpoint-reset`."""
    detail: dict[str, str | int | None]
    """Facts, JSON-ready; the keys depend on the type and are in the schema of notifications."""

    @property
    def size(self) -> int:
        """Bytes that it holds in memory, roughly."""
        return 2 * _AROUND


def digest(data: bytes) -> str:
    """Return 32 hexadecimal digits that stand for `data`: BLAKE2b of 16 bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
