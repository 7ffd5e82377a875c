"""The identities published last, by which an event without a sequence is recognised.

A push may lack a sequence that history has, and the other way round, so events with a sequence enter their identity
too. They are kept apart: two events with different sequences are two, whatever their EventIds, and a flow of sequenced
events must not push out the others.
"""

from __future__ import annotations

import hashlib
from typing import Final

DIGEST_BYTES: Final = 8
"""What stands for an identity in the checkpoint."""


def digest8(identity: str) -> bytes:
    """Return the digest that stands for an identity."""
    return hashlib.blake2b(identity.encode(), digest_size=DIGEST_BYTES).digest()


class DigestRing:
    """The last `limit` digests, oldest first, as plain bytes: a tenth of what as many objects take."""

    __slots__ = ("_size", "bytes")

    def __init__(self, digests: bytes, limit: int) -> None:
        self.bytes = bytearray(digests)
        self._size = limit * DIGEST_BYTES

    def __contains__(self, identity: bytes) -> bool:
        return self._find(identity) is not None

    def _find(self, identity: bytes) -> int | None:
        at = self.bytes.find(identity)
        while at > 0 and at % DIGEST_BYTES:  # the end of one and the beginning of the next
            at = self.bytes.find(identity, at + 1)
        return None if at < 0 else at

    def append(self, identity: bytes) -> bool:
        """Remember a digest as the newest; return True where there was no room, and the oldest is forgotten."""
        self.bytes += identity
        is_full = len(self.bytes) > self._size
        if is_full:
            del self.bytes[:DIGEST_BYTES]
        return is_full

    def discard(self, identity: bytes) -> bool:
        """Forget a digest; return False where it was not there."""
        at = self._find(identity)
        if at is not None:
            del self.bytes[at : at + DIGEST_BYTES]
        return at is not None


class DedupWindow:
    """A bounded memory of what was published, refreshed on sight, and of what waits to be.

    Only what a batch took is in the checkpoint: remembered but not published would be lost. Of what has a sequence
    a batch may take ten times as many as are remembered: a digest is made only of those that stay.
    """

    def __init__(self, sequenced: bytes, unsequenced: bytes, limit: int, most: int) -> None:
        """Remember what was published, oldest first: `limit` with a sequence, and `most` without one."""
        self._limit = limit
        self._sequenced = DigestRing(sequenced, limit)
        self._newest: list[str] = []  # behind those in the ring; an empty deque takes 760 bytes
        self._unsequenced = DigestRing(unsequenced, most)
        self.forgotten = 0
        """Identities without a sequence that there was no room for: their events may be published again."""
        self._queued: dict[str, int] = {}  # how often, with a sequence
        self._queued_unsequenced: set[str] = set()
        self._claimed: set[str] = set()
        self.knows_unsequenced = bool(self._unsequenced.bytes)
        """Whether anything without a sequence was published lately, or is about to be: looked at with each event."""

    def has_seen(self, identity: str) -> bool:
        """Return whether an event of this identity was published lately or is about to be."""
        digest = digest8(identity)
        for ring in (self._unsequenced, self._digested()):
            if ring.discard(digest):
                ring.append(digest)
                return True
        return identity in self._queued or identity in self._queued_unsequenced

    def claim(self, identity: str) -> bool:
        """Return whether an event that shows its sequence now was published without it, which can be so once."""
        if identity in self._claimed:
            return False
        if identity not in self._queued_unsequenced and digest8(identity) not in self._unsequenced:
            return False
        self._claimed.add(identity)
        return True

    def on_queued(self, identity: str, *, sequenced: bool) -> None:
        """Note that an event of this identity is queued."""
        if sequenced:
            self._queued[identity] = self._queued.get(identity, 0) + 1
        else:
            self._queued_unsequenced.add(identity)
            self.knows_unsequenced = True

    def on_taken(self, identity: str, *, sequenced: bool) -> None:
        """Note that an event of this identity left the queue in a batch."""
        if sequenced:
            others = self._queued.pop(identity) - 1
            if others:
                self._queued[identity] = others
            self._newest.append(identity)
        else:
            self._queued_unsequenced.discard(identity)
            self.forgotten += self._unsequenced.append(digest8(identity))
            self._update()

    def on_claimed(self, identity: str) -> None:
        """Note that an event published without a sequence is known by its sequence from here on."""
        self._claimed.discard(identity)
        self._unsequenced.discard(digest8(identity))
        self._newest.append(identity)
        self._update()

    def _update(self) -> None:
        self.knows_unsequenced = bool(self._unsequenced.bytes or self._queued_unsequenced)

    def sequenced(self) -> bytes:
        """Return what the checkpoint keeps of events with a sequence, oldest first."""
        return bytes(self._digested().bytes)

    @property
    def has_all(self) -> bool:
        """Whether no identity with a sequence was ever forgotten: there is room for more."""
        return len(self._digested().bytes) < self._limit * DIGEST_BYTES

    def unsequenced(self) -> bytes:
        """Return what the checkpoint keeps of events without one, oldest first."""
        return bytes(self._unsequenced.bytes)

    def _digested(self) -> DigestRing:
        """Return the ring of those with a sequence once all of them are in it."""
        for identity in self._newest[-self._limit :]:
            self._sequenced.append(digest8(identity))
        self._newest.clear()
        return self._sequenced
