"""The time limit of a commit: longer, once one came too late that could not be smaller.

Commits are as small as the line to the broker requires, but a message is one piece. One of 600 kB takes 15 s over 40
kB/s, and was sent again and again for 10 s. So after a large commit that came too late the next ones of its size get
twice as long, and that again, and the transaction with them: a reader waits that long for a writer that is gone. Small
ones keep the usual limit, which detects a broker that hangs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final

from gateway.publication import Message

LARGE: Final = 64 * 1024
"""Bytes of a commit from which it may be given longer."""
_MOST: Final = 3
"""How often the time is doubled."""


class CommitLimits:
    """The time limits of the commits of one shard, over all its writers."""

    def __init__(self, usual: float) -> None:
        """`usual` are the seconds of a commit that is not too large for the line."""
        self._usual = usual
        self._doublings, self._most = 0, _MOST
        self._from = sys.maxsize  # bytes that once came too late

    @property
    def factor(self) -> int:
        """How many times as long as usual a commit of the next writer may take, and so its transaction."""
        return 1 << self._doublings

    def seconds(self, size: int) -> float:
        """Return the seconds that a commit of so many bytes may take."""
        return self._usual * self.factor if size >= self._from else self._usual

    def came_too_late(self, size: int) -> bool:
        """Note that a commit of so many bytes was not stored in time; return whether it is given no longer."""
        if size < LARGE:
            return False
        is_longest = size >= self._from and self._doublings == self._most
        self._from = min(self._from, size)
        self._doublings = min(self._most, self._doublings + 1)
        return is_longest

    def shorten(self) -> bool:
        """Do with half of it: the brokers take no transaction of that length; return False where none was longer."""
        if not self._doublings:
            return False
        self._doublings -= 1
        self._most = self._doublings
        return True

    def came_in_time(self, size: int, seconds: float) -> None:
        """Note that a commit of so many bytes took so long: where that is not long, the line is not slow any more."""
        if size >= self._from and 2 * seconds < self._usual:
            self._doublings, self._from = 0, sys.maxsize


def largest(messages: Iterable[Message]) -> str:
    """Return which message is the largest, after a semicolon; an empty text where there is none."""
    found = max(messages, key=lambda one: one.size, default=None)
    if found is None:
        return ""
    key = found.key.decode(errors="replace")
    return f"; the largest message, {key} of {found.account} for {found.topic}, has {found.size} bytes"
