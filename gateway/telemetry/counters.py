"""The counters of a process, of all its accounts together: cheap enough to be incremented for each event."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from itertools import accumulate
from typing import Final

from prometheus_client.utils import floatToGoString

from gateway.telemetry.hub_offset import HubOffset

_LATENCIES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_COMMITS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_MESSAGES: Final = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)


class Histogram:
    """How often a value was found below each of some bounds."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Iterable[float]) -> None:
        """`bounds` rise; a value that equals one is counted below it."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.sum = 0.0
        """Of all values."""

    def __copy__(self) -> Histogram:
        """Return it as it is now."""
        copied = Histogram(self._bounds)
        copied._counts, copied.sum = self._counts.copy(), self.sum
        return copied

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def observe_all(self, values: Sequence[float]) -> None:
        """Count many."""
        bounds, counts = self._bounds, self._counts
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self.sum += sum(values)

    def buckets(self) -> Iterator[tuple[str, int]]:
        """Return each bound, `+Inf` the last, and how many values were not above it."""
        return zip(map(floatToGoString, (*self._bounds, math.inf)), accumulate(self._counts), strict=True)


@dataclass(slots=True)
class Counters:
    """The counts of one process."""

    events: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By kind, and by what became of them."""
    connects: int = 0
    """Connections to the hub that were made."""
    disconnects: Counter[str] = field(default_factory=Counter)
    """Connections to the hub that ended, by reason."""
    connect_failures: Counter[str] = field(default_factory=Counter)
    """Attempts to connect to the hub that failed, by reason."""
    unpushed: int = 0
    """Events that only an audit of the history found, over a connection that should have pushed them."""
    went_back: int = 0
    """Accounts of which the broker's store lost what it had acknowledged."""
    gaps: int = 0
    """Ranges that the hub no longer had, or could not give."""
    fenced: int = 0
    """Writers that another gateway had replaced."""
    failures: int = 0
    """Commits without a clean answer."""
    unknown_writers: int = 0
    """Changes of desired state that were applied and did not come through the API."""
    unexpected: Counter[str] = field(default_factory=Counter)
    """Unexpected errors, by the part of the gateway in which they happened and that was restarted."""
    replays: Counter[str] = field(default_factory=Counter)
    """Replays that were brought to their end here, by how they ended."""
    commit_seconds: Histogram = field(default_factory=lambda: Histogram(_COMMITS))
    """From the request to its clean answer."""
    commit_messages: Histogram = field(default_factory=lambda: Histogram(_MESSAGES))
    """Messages in one commit."""
    latencies: Histogram = field(default_factory=lambda: Histogram(_LATENCIES))
    """Seconds from an event's EventTime until it was committed, by the hub's clock as far as that is known."""
    hub_offset: HubOffset = field(default_factory=HubOffset)
    """How far the hub's clock is from ours."""

    def copy(self) -> Counters:
        """Return it as it is now: another thread may read the copy while this goes on."""
        return Counters(**{one.name: copy(getattr(self, one.name)) for one in fields(self)})
