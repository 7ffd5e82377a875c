"""The queue in front of the batches, in order: events, and all else that changes the checkpoint, each in its place."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import ClassVar

import msgspec

from gateway.events.event import DeadLetter
from gateway.session.checkpoint import Anchor
from gateway.session.checkpoint_draft import CheckpointDraft
from gateway.session.dedup_window import DedupWindow
from gateway.session.subscriptions import Subscription
from gateway.session.types import OutgoingItem, dead_letters_of


class Settled(msgspec.Struct, gc=False):
    """An event or dead letter to publish, or, without an item, one that is settled without that."""

    alone: ClassVar[bool] = False
    bare_size: ClassVar[int] = 160
    """Bytes in memory of a settled sequence that waits for a checkpoint."""
    item: OutgoingItem | None
    sequence: int | None
    identity: str
    claims: bool = False
    """It was published already, without its sequence."""
    is_unidentified: str | None = None
    """What it would be known by without its EventId, where that may come."""
    filtered: str = ""
    """The kind of an event that no subscription wanted."""
    is_apart: bool = False
    """A dead letter that settles no sequence, though it has one."""
    size: int = 0
    """Bytes, once it is queued."""

    def apply(self, draft: CheckpointDraft, window: DedupWindow) -> None:
        """Note in the checkpoint that this is taken."""
        sequence = self.sequence
        if sequence is not None:
            draft.settle(sequence)
        if self.claims:
            window.on_claimed(self.identity)
        else:
            window.on_taken(self.identity, sequenced=self.is_apart or sequence is not None)
        if self.is_unidentified is not None:
            window.on_taken(self.is_unidentified, sequenced=True)


class Mark(msgspec.Struct, gc=False):
    """Once all before it is taken, everything up to `verified` is settled and final."""

    filtered: ClassVar[str] = ""
    bare_size: ClassVar[int] = 0
    item: OutgoingItem | None
    """A gap that ends at `verified`."""
    verified: int
    anchor: Anchor | None
    alone: bool = False
    """Nothing may stand in the same commit: it makes the account known."""
    size: int = 0

    def apply(self, draft: CheckpointDraft, window: DedupWindow) -> None:  # noqa: ARG002 - one call for all entries
        """Note in the checkpoint that this is taken."""
        draft.verify(self.verified, self.anchor)


class Change(msgspec.Struct, gc=False):
    """A subscription and its announcement."""

    filtered: ClassVar[str] = ""
    alone: ClassVar[bool] = False
    bare_size: ClassVar[int] = 0
    item: OutgoingItem
    subscription: Subscription
    size: int = 0

    def apply(self, draft: CheckpointDraft, window: DedupWindow) -> None:  # noqa: ARG002 - one call for all entries
        """Note in the checkpoint that this is taken."""
        draft.subscribe(self.subscription)


class OutgoingQueue:
    """The entries of one account, with the bytes that they take."""

    __slots__ = ("_entries", "_limit", "bytes", "dead_letters", "is_full")

    def __init__(self, limit: int) -> None:
        """Count as full from `limit` bytes on."""
        self._entries: deque[Settled | Mark | Change] = deque()
        self._limit = limit
        self.bytes = 0
        """Bytes of all entries."""
        self.is_full = False
        """Whether pages must wait: from the limit on, until half of it is taken."""
        self.dead_letters = 0
        """Dead letters that were ever queued, as `dead_letters_of` counts them."""

    def __bool__(self) -> bool:
        return bool(self._entries)

    def append(self, entry: Settled | Mark | Change) -> None:
        """Queue `entry` behind all others."""
        item = entry.item
        if item is None:
            entry.size = entry.bare_size
        else:
            entry.size = item.content.size
            if type(item.content) is DeadLetter:
                self.dead_letters += dead_letters_of(item.content)
        self._entries.append(entry)
        self.bytes += entry.size
        self.is_full = self.is_full or self.bytes > self._limit

    def take(
        self,
        messages: int,
        size: int,
        measure: Callable[[OutgoingItem], int] | None,
        draft: CheckpointDraft,
        window: DedupWindow,
    ) -> tuple[list[OutgoingItem], list[str]]:
        """Return the next items, as `Outbox.take` does, and the kinds of those that no subscription wanted."""
        items: list[OutgoingItem] = []
        filtered: list[str] = []
        taken = 0
        while self._entries:
            entry = self._entries[0]
            if entry.item is not None:
                if items and len(items) >= messages:
                    break
                cost = entry.size if measure is None else measure(entry.item)
                if items and taken + cost > size:
                    break
                items.append(entry.item)
                taken += cost
            self._entries.popleft()
            self.bytes -= entry.size
            if entry.filtered:
                filtered.append(entry.filtered)
            entry.apply(draft, window)
            if entry.alone:
                break
        self.is_full = self.is_full and 2 * self.bytes > self._limit
        return items, filtered
