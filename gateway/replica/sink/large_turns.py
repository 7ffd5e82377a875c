"""The turns of messages that were in a failed commit, and are larger than what is sent at once.

A message is one piece, however slow the line to the broker is. A message that never fits is tried again and again, for
up to 80 s on Kafka, and what is beside it in a commit fails with it. So its account goes alone, and the neighbours
first have as long as the failed commit took: each waits for one such commit at most, and has half of the time.
A replay is in less of a hurry, and leaves them three quarters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final

_FORGOTTEN: Final = 60.0
"""Seconds after which an account goes with the others again: its message may be gone, as after a reset."""


class LargeTurns:
    """Those of one shard's accounts, or of its replays."""

    __slots__ = ("_after", "_is_others_turn", "_rests", "_suspects", "_wake")

    def __init__(self, wake: Callable[[], None], *, rests: float = 1.0) -> None:
        """`wake` is called when a rest is over, which lasts `rests` times as long as the commit that failed."""
        self._rests = rests
        self._wake = wake
        self._after = 0.0
        self._is_others_turn = False
        self._suspects: dict[str, int] = {}
        """By account or replay, in the order in which they are tried: the bytes of the message."""

    def names(self) -> Collection[str]:
        """Return the accounts or replays that are left out of what others share."""
        if self._suspects and asyncio.get_running_loop().time() >= self._after + _FORGOTTEN:
            self._suspects.clear()
        return self._suspects.keys()

    def due(self, ready: Collection[str]) -> str | None:
        """Return an account of those that are `ready` whose turn it is, alone; the others have each second turn."""
        names = [name for name in self.names() if name in ready]
        if not names or asyncio.get_running_loop().time() < self._after:
            return None
        self._is_others_turn = not self._is_others_turn and len(ready) > len(names)
        if not self._is_others_turn:
            self._suspects[names[0]] = self._suspects.pop(names[0])  # behind the rest of them
        return None if self._is_others_turn else names[0]

    def on_failed(self, sizes: dict[str, int], seconds: float) -> None:
        """A commit failed after so many seconds, with messages of these sizes that are too large, by whose they are."""
        if not sizes:
            return
        for name in sizes:
            self._suspects.pop(name, None)
        self._suspects |= sizes
        loop = asyncio.get_running_loop()
        rest = self._rests * seconds
        self._after, self._is_others_turn = loop.time() + rest, False
        loop.call_later(rest, self._wake)

    def on_stored(self, sizes: dict[str, int]) -> None:
        """Note that a commit was stored; `sizes` are the largest of its messages, by account."""
        for name in sizes.keys() & self._suspects.keys():
            if sizes[name] >= self._suspects[name]:
                del self._suspects[name]

    def forget(self, name: str) -> None:
        """An account or a replay goes."""
        self._suspects.pop(name, None)
