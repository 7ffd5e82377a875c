"""Timers of thousands of accounts that end together: to wake up costs a process more than what most of them do."""

from __future__ import annotations

from math import floor
from typing import Final

_STEP: Final = 0.1
"""Maximum seconds between two moments at which timers end."""
_PART: Final = 100
"""The part of an interval that it may be shorter, as a divisor."""


def same_tick(due: float, interval: float) -> float:
    """Return a moment for which others wait, too: `due`, or up to a hundredth of `interval` before.

    Both moments are by one clock; 5,000 accounts that ping each 15 s do so 33 at a time.
    """
    step = min(_STEP, interval / _PART)
    return floor(due / step) * step
