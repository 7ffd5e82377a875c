"""The last identities published: what an event without a sequence is known by."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable

from gateway.session.facts import Content


class Identities:
    """A bounded memory of what was published, refreshed on sight, and of what waits to be.

    Only what a batch took is in the checkpoint: remembered but not published would be lost.
    """

    def __init__(self, published: Iterable[str], limit: int) -> None:
        """Remember `published`, oldest first, and at most `limit` in all."""
        self._published = OrderedDict.fromkeys(published)
        self._limit = limit
        self._queued: Counter[str] = Counter()

    def __contains__(self, content: Content) -> bool:
        """Tell whether `content` was published lately or is about to be."""
        identity = _short(content)
        if identity in self._published:
            self._published.move_to_end(identity)
            return True
        return identity in self._queued

    def queued(self, content: Content) -> None:
        """`content` is in the queue."""
        self._queued[_short(content)] += 1

    def taken(self, content: Content) -> None:
        """`content` left the queue in a batch."""
        identity = _short(content)
        self._queued[identity] -= 1
        if self._queued[identity] <= 0:
            del self._queued[identity]
        self._published[identity] = None
        self._published.move_to_end(identity)
        if len(self._published) > self._limit:
            self._published.popitem(last=False)

    def published(self) -> tuple[str, ...]:
        """Give what the checkpoint keeps, oldest first."""
        return tuple(self._published)


def _short(content: Content) -> str:
    """Give 16 hexadecimal digits that stand for the identity."""
    return hashlib.blake2b(content.identity.encode(), digest_size=8).hexdigest()
