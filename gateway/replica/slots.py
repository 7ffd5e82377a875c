"""How many commits of a process are in flight at once, where some brokers or partitions do not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

_LASTS: Final = 1.0
"""Seconds for which a commit keeps its slot, at the most: one that hangs must not keep others waiting."""


class CommitSlots:
    """Slots for commits: `count` for all shards, and one apart for those whose last commit failed."""

    def __init__(self, count: int) -> None:
        """Let `count` commits be in flight at once that take no longer than usual."""
        self._usual = asyncio.Semaphore(count)
        self._apart = asyncio.Semaphore(1)

    @asynccontextmanager
    async def slot(self, *, has_failed: bool) -> AsyncIterator[None]:
        """Wait for a slot, first come first served, and keep it for the block, or a second where that is shorter.

        `has_failed` says that the last commit of the same shard did.
        """
        slots = self._apart if has_failed else self._usual
        await slots.acquire()
        is_left = False

        def leave() -> None:
            nonlocal is_left
            if not is_left:
                is_left = True
                slots.release()

        leaving = asyncio.get_running_loop().call_later(_LASTS, leave)
        try:
            yield
        finally:
            leaving.cancel()
            leave()
