"""The bytes that all accounts of a process may hold together, shared fairly.

The budget counts pushes and pages that wait for the broker or are being committed, pages that were requested and have
not arrived, and the received bytes of incomplete records, as far as no page is expected. A full budget delays the
history and never loses an event: a push that finds no room is dropped, since the history returns it; a page that finds
no room is requested later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from gateway.errors import ConnectionLost
from gateway.session.session import Session

_FAIR_ABOVE: Final = 0.75
"""The part of the budget below which fair shares are not enforced."""


class MemoryBudget:
    """A number of bytes, dealt out to shares."""

    def __init__(self, total: int) -> None:
        """Deal out `total` bytes."""
        self.total = total
        self.held = 0
        """Bytes that are there."""
        self.blocked_on_history = 0
        """Bytes of them that only a page can release: pushes that wait for history."""
        self.reserved = 0
        """Bytes that pages under way are expected to bring."""
        self.peak = 0
        """The most that was ever in use."""
        self._relaxed = total * _FAIR_ABOVE
        self._holders = 0
        self._unfinished: set[MemoryShare] = set()  # the accounts that have bytes of incomplete records
        self._waiting: deque[tuple[int, asyncio.Future[None], float]] = deque()  # size, turn, since when

    def share(self) -> MemoryShare:
        """Return an account its share, of nothing yet."""
        return MemoryShare(self)

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        return self.held + self.reserved

    @property
    def waiters(self) -> int:
        """Pages that wait for room."""
        return sum(not turn.done() for _, turn, _ in self._waiting)

    @property
    def longest_wait(self) -> float:
        """Seconds for which the page waits that began first; 0 where none does."""
        began = next((since for _, turn, since in self._waiting if not turn.done()), None)
        return 0.0 if began is None else asyncio.get_running_loop().time() - began

    def _add_held(self, by: int, stuck: int, holders: int) -> None:
        self.held += by
        self.blocked_on_history += stuck
        self._holders += holders
        if self._waiting or self.held + self.reserved > self.peak:
            self._on_change()

    def _reserve(self, by: int) -> None:
        self.reserved += by
        self._on_change()

    async def _until_reserved(self, size: int) -> None:
        """Wait for a turn, and for room."""
        if not self._waiting and self._has_room(size):
            self._reserve(size)
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append((size, turn, loop.time()))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._reserve(-size)  # it was given and cannot be used
            raise

    def _on_change(self) -> None:
        self.peak = max(self.peak, self.used)
        while self._waiting:  # the accounts that waited longest go first, as far as there is room
            size, turn, _ = self._waiting[0]
            given_up = turn.done()
            if not given_up and not self._has_room(size):
                return
            self._waiting.popleft()
            if not given_up:
                self.reserved += size
                turn.set_result(None)

    def _has_room(self, size: int) -> bool:
        """Return whether a page may be requested: always where nothing else would ever make room."""
        return self.used + size <= self.total or self.used == self.blocked_on_history

    def _is_fair(self, share: MemoryShare) -> bool:
        """Return whether a share may have what it has of a record that is not complete.

        Where all together have too much, the one that has most of it gives way, if that is more than its part.
        """
        while self.used > self.total and self._unfinished:
            largest = max(self._unfinished, key=lambda one: one.beside)
            if largest.beside <= self.total // max(1, self._holders):
                break
            if largest is share:
                return False
            largest.give_way()
        return True

    def _fits(self, held: int, more: int) -> bool:
        after = self.held + self.reserved + more
        if after <= self._relaxed:
            return True
        if after > self.total:
            return self.used == 0  # one that is larger than all goes alone: it must go some time
        return held + more <= self.total // max(1, self._holders)


class MemoryShare:
    """What one account holds of the budget."""

    __slots__ = (
        *("_budget", "_gives_way", "_size", "_blocked", "_unfinished"),
        *("blocked_on_history", "held", "in_flight", "on_give_way", "reserved"),
    )

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self.held = 0
        self.blocked_on_history = 0
        self.reserved = 0
        """Bytes that its own pages under way are expected to bring."""
        self.in_flight = 0
        """Bytes of the batch that the shard is about to commit."""
        self.on_give_way: Callable[[int], None] | None = None
        """Called with the bytes of an incomplete record, which must be dropped: another account needs the room."""
        self._gives_way = False
        self._size = self._blocked = self._unfinished = 0

    def measure(self, session: Session) -> None:
        """Say what the account holds now: in its session, and in flight."""
        self.hold(session.queued_bytes + self.in_flight, session.waiting_bytes)

    def hold(self, size: int, stuck: int = 0) -> None:
        """Record that the account holds `size` bytes now, `stuck` of them until a page has arrived."""
        self._size, self._blocked = size, stuck
        self._count()

    def hold_unfinished(self, unfinished: int) -> bool:
        """Record how many bytes an incomplete record has; return False where there is no room for them.

        Those of a requested page are counted already.
        """
        if self._gives_way and unfinished:
            return True  # it is about to end
        self._gives_way = False
        self._unfinished = unfinished
        self._count()
        return self.beside == 0 or self._budget._is_fair(self)  # noqa: SLF001 - likewise

    def measure_unfinished(self, unfinished: int) -> None:
        """Say it where that has changed; raises ConnectionLost where there is no room."""
        if (unfinished != self._unfinished or self._gives_way) and not self.hold_unfinished(unfinished):
            raise memory_exhausted(unfinished)

    @property
    def beside(self) -> int:
        """Bytes of an incomplete record, except those of a requested page."""
        return max(0, self._unfinished - self.reserved)

    def give_way(self) -> None:
        """Drop the incomplete record."""
        unfinished, self._unfinished, self._gives_way = self._unfinished, 0, True
        self._count()
        if self.on_give_way is not None:
            self.on_give_way(unfinished)

    def _count(self) -> None:
        beside, unfinished = self.beside, self._budget._unfinished  # noqa: SLF001 - likewise
        if beside:
            unfinished.add(self)
        else:
            unfinished.discard(self)
        size, stuck = self._size + beside, self._blocked + beside  # no commit releases an incomplete record
        held, was_stuck = self.held, self.blocked_on_history
        if size != held or stuck != was_stuck:
            self.held, self.blocked_on_history = size, stuck
            holders = (size > 0) - (held > 0)
            self._budget._add_held(size - held, stuck - was_stuck, holders)  # noqa: SLF001 - a budget and its shares are one thing

    def has_room(self, more: int) -> bool:
        """Return whether the account may hold `more` bytes in addition."""
        return self._budget._fits(self.held, more)  # noqa: SLF001 - likewise

    def reserve_at_once(self, size: int) -> Reservation | None:
        """Keep `size` bytes until released, where they are free and no other account waits for them."""
        budget = self._budget
        if budget._waiting or budget.used + size > budget.total:  # noqa: SLF001 - likewise
            return None
        budget._reserve(size)  # noqa: SLF001 - likewise
        return Reservation(budget, self, size)

    async def reserve(self, size: int) -> Reservation:
        """Wait, first come first served, until `size` bytes are free, and keep them until released."""
        await self._budget._until_reserved(size)  # noqa: SLF001 - likewise
        return Reservation(self._budget, self, size)


class Reservation:
    """Bytes kept free for a page that is under way: for one try, not for the time between two."""

    def __init__(self, budget: MemoryBudget, share: MemoryShare, size: int) -> None:
        self._budget = budget
        self._share = share
        self._size = size
        share.reserved += size

    async def renew(self, size: int) -> None:
        """Wait for `size` bytes again, after a release."""
        await self._budget._until_reserved(size)  # noqa: SLF001 - likewise
        self._size = size
        self._share.reserved += size

    def release(self) -> None:
        """Hand the bytes back; what came instead is held by the account."""
        self._share.reserved -= self._size
        self._budget._reserve(-self._size)  # noqa: SLF001 - likewise
        self._size = 0

    @contextmanager
    def until_done(self) -> Iterator[None]:
        """Release at the end of the block, however it ends."""
        try:
            yield
        finally:
            self.release()


def memory_exhausted(unfinished: int) -> ConnectionLost:
    """Return why a connection ends that holds so many bytes of an incomplete record."""
    message = f"a record of {unfinished} bytes so far is not complete, and memory is full (memory_bytes)"
    return ConnectionLost(message, reason="too-large")
