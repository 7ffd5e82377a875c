"""When to leave further pushes to TCP for a moment: while the broker takes what waits, to read on would be in vain.

A push that finds no room is dropped and read again from the history, which costs three times as much, and the hub
twice. So while a live account has more than half of its room taken, its socket is not read until the shard has taken a
batch. The pause is short: an answer of the hub may be behind, and an unavailable broker takes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

_MAX_WAIT_S: Final = 1.0
"""Seconds; after that what is pushed is read, until a batch was taken again."""


class Backpressure:
    """One account's."""

    __slots__ = ("_hopeful", "_room")

    def __init__(self) -> None:
        self._room: asyncio.Event | None = None  # while a reader waits: an unused one takes 760 bytes
        self._hopeful = True

    def wait(self, *, pressed: bool) -> Awaitable[None] | None:
        """Return what to wait for before more is read, if anything; `pressed` is whether much waits already."""
        return self._until_room() if pressed and self._hopeful else None

    def on_batch_taken(self) -> None:
        """A batch was taken."""
        self._hopeful = True
        if self._room is not None:
            self._room.set()

    async def _until_room(self) -> None:
        self._room = room = asyncio.Event()
        try:
            async with asyncio.timeout(_MAX_WAIT_S):
                await room.wait()
        except TimeoutError:
            self._hopeful = False
        finally:
            self._room = None
