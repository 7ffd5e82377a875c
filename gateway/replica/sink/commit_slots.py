"""How many commits of a process are in flight, and how large: what its broker and the line to it take in good time.

Commits of all shards share the line, and the window of bytes with it (`window.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from gateway.replica.sink.commit_window import LEAST, Window

_LASTS: Final = 1.0
"""Seconds for which a commit keeps its slot, at the most: one that hangs must not keep others waiting."""
_FEWEST: Final = 4
"""Messages of one commit that any broker takes."""
_KNOWN_FOR: Final = 600.0
"""Seconds until more messages are tried again than the broker has refused to take at once."""


class CommitSlots:
    """Slots for commits: `count` for all shards, and one apart for those whose last commit failed."""

    def __init__(self, count: int, clock: Callable[[], float] | None = None) -> None:
        """Let `count` commits be in flight at once that take no longer than usual; `clock` gives seconds."""
        self.window = Window(clock or _now)
        """Of the bytes in flight; a commit that is alone may always go."""
        self.bytes_in_flight = 0
        self._clock = clock or _now
        self._left = count
        self._flights = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._apart = asyncio.Semaphore(1)
        self._most_messages: tuple[int, float] | None = None  # and until when that holds

    @property
    def aim(self) -> int:
        """The bytes that a commit is to have at the most which is made now; one message may have more."""
        return max(LEAST, self.window.size // max(1, min(self._flights + len(self._waiting), 4)))

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
            self.window.failed(size, began)
            raise
        else:
            self.window.succeeded(size, began, others_wait=bool(self._waiting))
            self._admit()
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
        return self._left > 0 and (self._flights == 0 or self.bytes_in_flight + size <= self.window.size)

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


def _now() -> float:
    return time.monotonic()
