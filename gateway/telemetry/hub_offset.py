"""How far the hub's clock is from ours, estimated from the times that it returns.

The hub returns its time (SnapshotTime) at some moment between our request and its answer. From the two follows the
least that it is off. The median of the last answers of all accounts is taken: a hub of several servers has several
clocks, and an answer may be an old one.
"""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Final

_SAMPLES: Final = 63
"""Answers that count."""


class HubOffset:
    """The hub's clock minus ours, in seconds."""

    __slots__ = ("_last", "seconds")

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=_SAMPLES)
        self.seconds = 0.0
        """0 where nothing is known, or where no answer contradicts it."""

    def __copy__(self) -> HubOffset:
        """Return it as it is now."""
        copied = HubOffset()
        copied._last, copied.seconds = self._last.copy(), self.seconds
        return copied

    def on_time(self, asked: float, answered: float, hub: float) -> None:
        """Note that the hub returned the time `hub` between two moments of ours; all in seconds since 1970."""
        self._last.append(min(hub - asked, 0.0) + max(hub - answered, 0.0))
        self.seconds = median(self._last)
