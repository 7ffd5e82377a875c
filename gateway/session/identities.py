"""The last identities published: what an event without a sequence is known by.

Live may lack a sequence that history has, and the other way round, so events with a sequence enter their
identity too. They are kept apart: two events with different sequences are two, whatever their EventIds, and a
flow of sequenced events must not push out the others.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Final

from gateway.session.facts import Content

DIGEST_BYTES: Final = 8
"""What stands for an identity, here and in the checkpoint."""


def short(content: Content) -> bytes:
    """Give the digest that stands for the identity of `content`."""
    return _short(content.identity)


def anonymous(content: Content) -> bytes:
    """Give the digest of `content` as it would be without EventId."""
    return _short(content.anonymous)


def _short(identity: str) -> bytes:
    return hashlib.blake2b(identity.encode(), digest_size=DIGEST_BYTES).digest()


class _Ring:
    """The last `limit` digests, oldest first, as plain bytes: a tenth of what as many objects take."""

    __slots__ = ("_bytes", "_size")

    def __init__(self, digests: bytes, limit: int) -> None:
        self._bytes = bytearray(digests)
        self._size = limit * DIGEST_BYTES

    def __contains__(self, identity: bytes) -> bool:
        return self._find(identity) is not None

    def __bytes__(self) -> bytes:
        return bytes(self._bytes)

    def __len__(self) -> int:
        return len(self._bytes) // DIGEST_BYTES

    def _find(self, identity: bytes) -> int | None:
        at = self._bytes.find(identity)
        while at > 0 and at % DIGEST_BYTES:  # the end of one and the beginning of the next
            at = self._bytes.find(identity, at + 1)
        return None if at < 0 else at

    def append(self, identity: bytes) -> bool:
        """Remember it as the newest; give True where there was no room, and the oldest is forgotten."""
        self._bytes += identity
        is_full = len(self._bytes) > self._size
        if is_full:
            del self._bytes[:DIGEST_BYTES]
        return is_full

    def discard(self, identity: bytes) -> bool:
        """Forget it; give False where it was not there."""
        at = self._find(identity)
        if at is not None:
            del self._bytes[at : at + DIGEST_BYTES]
        return at is not None


class Identities:
    """A bounded memory of what was published, refreshed on sight, and of what waits to be.

    Only what a batch took is in the checkpoint: remembered but not published would be lost.
    """

    def __init__(self, sequenced: bytes, unsequenced: bytes, limit: int, most: int) -> None:
        """Remember what was published, oldest first: `limit` with a sequence, and `most` without one."""
        self._sequenced = _Ring(sequenced, limit)
        self._unsequenced = _Ring(unsequenced, most)
        self.forgotten = 0
        """Identities without a sequence that there was no room for: their events may be published again."""
        self._queued: Counter[bytes] = Counter()  # with a sequence
        self._queued_unsequenced: set[bytes] = set()
        self._claimed: set[bytes] = set()

    def has_seen(self, identity: bytes) -> bool:
        """Tell whether an event of this identity was published lately or is about to be."""
        for ring in (self._unsequenced, self._sequenced):
            if ring.discard(identity):
                ring.append(identity)
                return True
        return identity in self._queued or identity in self._queued_unsequenced

    def claim(self, identity: bytes) -> bool:
        """Tell whether an event that shows its sequence now was published without it, which can be so once."""
        if identity in self._claimed:
            return False
        if identity not in self._unsequenced and identity not in self._queued_unsequenced:
            return False
        self._claimed.add(identity)
        return True

    def queued(self, identity: bytes, *, sequenced: bool) -> None:
        """It is in the queue."""
        if sequenced:
            self._queued[identity] += 1
        else:
            self._queued_unsequenced.add(identity)

    def taken(self, identity: bytes, *, sequenced: bool) -> None:
        """It left the queue in a batch."""
        if sequenced:
            self._queued[identity] -= 1
            if self._queued[identity] <= 0:
                del self._queued[identity]
            self._sequenced.append(identity)
        else:
            self._queued_unsequenced.discard(identity)
            self.forgotten += self._unsequenced.append(identity)

    def claimed(self, identity: bytes) -> None:
        """The sequence of what was published without one left the queue: it is known by that from here on."""
        self._claimed.discard(identity)
        self._unsequenced.discard(identity)
        self._sequenced.append(identity)

    def sequenced(self) -> bytes:
        """Give what the checkpoint keeps of events with a sequence, oldest first."""
        return bytes(self._sequenced)

    @property
    def knows_unsequenced(self) -> bool:
        """Whether anything without a sequence was published lately, or is about to be."""
        return bool(self._unsequenced) or bool(self._queued_unsequenced)

    def unsequenced(self) -> bytes:
        """Give what the checkpoint keeps of events without one, oldest first."""
        return bytes(self._unsequenced)
