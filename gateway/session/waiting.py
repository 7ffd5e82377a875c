"""Pushes that wait: for history to reach them, or for what is missing before them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from gateway.events.event import Event
from gateway.events.times import ticks
from gateway.session.facts import Content, size_of


@dataclass(frozen=True, slots=True)
class _Waiting:
    content: Content
    arrived: float
    proves: bool


class WaitingPushes:
    """Sequenced pushes by sequence, taken out in rising order; what arrived first is known too."""

    def __init__(self) -> None:
        self._by_sequence: dict[int, _Waiting] = {}
        self._sequences: list[int] = []  # a heap; may name some that are gone already
        self.bytes = 0

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._by_sequence

    def __len__(self) -> int:
        return len(self._by_sequence)

    def add(self, sequence: int, content: Content, arrived: float, *, proves: bool) -> None:
        """Hold `content`; it `proves` that all after it is pushed where it came after the subscription."""
        self._by_sequence[sequence] = _Waiting(content, arrived, proves)
        heappush(self._sequences, sequence)
        self.bytes += size_of(content)

    def pop(self, sequence: int) -> Content:
        """Let `sequence` go."""
        waiting = self._by_sequence.pop(sequence)
        self.bytes -= size_of(waiting.content)
        return waiting.content

    def clear(self) -> None:
        """Let all go."""
        self._by_sequence.clear()
        self._sequences.clear()
        self.bytes = 0

    @property
    def lowest(self) -> int | None:
        """The lowest sequence that waits."""
        while self._sequences:
            if self._sequences[0] in self._by_sequence:
                return self._sequences[0]
            heappop(self._sequences)
        return None

    @property
    def highest(self) -> int:
        """The highest sequence that waits, else 0."""
        return max(self._by_sequence, default=0)

    @property
    def first_arrival(self) -> float | None:
        """When the one that waits longest arrived: a monotonic time in seconds."""
        return next((waiting.arrived for waiting in self._by_sequence.values()), None)

    def highest_arrived_by(self, moment: float) -> int:
        """Give the highest sequence among those that arrived at `moment` or before, else 0."""
        highest = 0
        for sequence, waiting in self._by_sequence.items():  # in the order of arrival
            if waiting.arrived > moment:
                break
            highest = max(highest, sequence)
        return highest

    def restart(self, now: float) -> None:
        """Count the wait of all from `now`."""
        self._by_sequence = {
            sequence: _Waiting(waiting.content, now, waiting.proves) for sequence, waiting in self._by_sequence.items()
        }

    def first_proof_after(self, sequence: int) -> tuple[int, int] | None:
        """Give the lowest push above `sequence` that came after the subscription: its sequence and time in ticks."""
        return min(
            (
                (number, ticks(waiting.content.time) if isinstance(waiting.content, Event) else 0)
                for number, waiting in self._by_sequence.items()
                if waiting.proves and number > sequence
            ),
            default=None,
        )

    def before(self, sequence: int) -> Iterator[int]:
        """Give those below `sequence` in rising order; each must be popped before the next is asked for."""
        while (lowest := self.lowest) is not None and lowest < sequence:
            yield lowest
