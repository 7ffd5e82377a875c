"""How much a process commits at once: no more than its broker, and the line to it, take in good time.

Where more is sent than the line carries, every answer comes too late: a commit of megabytes over 40 kB/s times out, and
so does each that is tried after it; pings and leases wait behind it. So the bytes in flight are bounded by a window, as
in TCP. It begins small, doubles while commits are quick, and shrinks as soon as they wait for others in the line.
Commits of all shards share it, since they share the line.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

_LASTS: Final = 1.0
"""Seconds for which a commit keeps its slot, at the most: one that hangs must not keep others waiting."""
_QUEUE: Final = 1.0
"""Seconds that a commit may take longer than the quickest ones of late, before less is sent at once."""
_OF_LATE: Final = 30.0
"""Seconds for which the shortest time is taken to be that of the way alone."""
_FAR: Final = 2.0
"""Seconds that the way to the broker and back takes at the most, as is taken for granted; more is a queue."""
_SLOW: Final = 1.0
"""Seconds after which a commit that fails has failed for its size, maybe."""
FIRST: Final = 32 * 1024
LEAST: Final = 4 * 1024
MOST: Final = 64 * 1024 * 1024
"""Bytes in flight: at first, at the least, and at the most."""
_FEWEST: Final = 4
"""Messages of one commit that any broker takes."""
_KNOWN_FOR: Final = 600.0
"""Seconds until more messages are tried again than the broker has refused to take at once."""


class CommitSlots:
    """Slots for commits: `count` for all shards, and one apart for those whose last commit failed."""

    def __init__(self, count: int, clock: Callable[[], float] | None = None) -> None:
        """Let `count` commits be in flight at once that take no longer than usual; `clock` gives seconds."""
        self.window = FIRST
        """Bytes that may be in flight at once; a commit that is alone always may."""
        self.bytes_in_flight = 0
        self._clock = clock or _now
        self._left = count
        self._flights = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._apart = asyncio.Semaphore(1)
        self._quickest, self._quickest_at = float("inf"), float("-inf")  # the shortest time of late, and when
        self._changed_at = float("-inf")  # when the window was
        self._succeeded_at = float("-inf")  # when a commit did last
        self._most_messages: tuple[int, float] | None = None  # and until when that holds

    @property
    def aim(self) -> int:
        """The bytes that a commit is to have at the most which is made now; one message may have more."""
        return max(LEAST, self.window // max(1, min(self._flights + len(self._waiting), 4)))

    @property
    def most_messages(self) -> int | None:
        """The messages and checkpoints that a commit is to have at the most; None where the broker has not said."""
        if self._most_messages is not None and self._clock() >= self._most_messages[1]:
            self._most_messages = None
        return None if self._most_messages is None else self._most_messages[0]

    def too_many(self, messages: int) -> bool:
        """Note that the broker refused so many messages and checkpoints at once; return whether fewer can be tried."""
        self._most_messages = max(_FEWEST, messages // 2), self._clock() + _KNOWN_FOR
        return messages > _FEWEST

    @asynccontextmanager
    async def slot(self, size: int, *, has_failed: bool) -> AsyncIterator[None]:
        """Wait for a slot, first come first served, and keep it for the block, or a second where that is shorter.

        `size` is in bytes; `has_failed` says that the last commit of the same shard did. How long the block takes, and
        whether it raises, tells how much is sent at once from then on.
        """
        if has_failed:
            await self._apart.acquire()
        else:
            await self._admitted(size)
        began, is_left = self._clock(), False

        def leave() -> None:
            nonlocal is_left
            if not is_left:
                is_left = True
                if has_failed:
                    self._apart.release()
                else:
                    self._leave(size)

        leaving = asyncio.get_running_loop().call_later(_LASTS, leave)
        try:
            yield
        except Exception:
            self._failed(size, began)
            raise
        else:
            self._succeeded(size, began)
        finally:
            leaving.cancel()
            leave()

    # Who may go -----------------------------------------------------------------------------------------

    async def _admitted(self, size: int) -> None:
        """Wait until a commit of `size` bytes may go; then it is counted."""
        if not self._waiting and self._has_room(size):
            self._enter(size)
            return
        admitted = asyncio.get_running_loop().create_future()
        self._waiting.append((size, admitted))
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self._leave(size)
            else:
                with suppress(ValueError):  # or who left meanwhile has passed over it
                    self._waiting.remove((size, admitted))
                self._admit()
            raise

    def _has_room(self, size: int) -> bool:
        return self._left > 0 and (self._flights == 0 or self.bytes_in_flight + size <= self.window)

    def _enter(self, size: int) -> None:
        self._left -= 1
        self._flights += 1
        self.bytes_in_flight += size

    def _leave(self, size: int) -> None:
        self._left += 1
        self._flights -= 1
        self.bytes_in_flight -= size
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._has_room(self._waiting[0][0]):
            size, admitted = self._waiting.popleft()
            if not admitted.done():
                self._enter(size)
                admitted.set_result(None)

    # What the line carries ------------------------------------------------------------------------------

    def _succeeded(self, size: int, began: float) -> None:
        now = self._succeeded_at = self._clock()
        if began < self._changed_at:  # it tells of another window
            return
        fills = size > self.window // 8 or bool(self._waiting)
        queued = now - began - self._way(now, now - began)
        if queued > _QUEUE:
            self._change(max(0.25, _QUEUE / queued), now)
        elif fills and self._is_to_be_measured(now):
            self._change(0.25, now)
        elif fills and queued < _QUEUE / 2:
            self._change(2, now)

    def _failed(self, size: int, began: float) -> None:
        now = self._clock()
        if self._succeeded_at > began:  # others came through meanwhile: it is not the line
            return
        if now - began > _SLOW and began >= self._changed_at:
            self.window = min(self.window, max(size, LEAST))
            self._change(0.5, now)

    def _change(self, factor: float, now: float) -> None:
        self.window = round(min(MOST, max(LEAST, self.window * factor)))
        self._changed_at = now
        self._admit()

    def _way(self, now: float, seconds: float) -> float:
        """Note how long a commit took; return the shortest time of late, in which none waited for others."""
        if seconds <= self._quickest or self._quickest_at < now - 2 * _OF_LATE:
            self._quickest, self._quickest_at = seconds, now
        return min(_FAR, self._quickest)

    def _is_to_be_measured(self, now: float) -> bool:
        """Return whether nothing tells any more how long the way is: then little is sent, so that the next one does."""
        if self._quickest_at >= now - _OF_LATE:
            return False
        self._quickest, self._quickest_at = _FAR, now
        return True


def _now() -> float:
    return time.monotonic()
