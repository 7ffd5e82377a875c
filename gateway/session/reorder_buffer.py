"""Pushes that wait: for history to reach them, or for what is missing before them.

Pushes without a sequence are held apart: they wait for history to show them with one, and are not dropped for lack of
room. Each push has the trial in which it arrived: the part of a connection whose history is proven, or not, as one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from gateway.events.event import DeadLetter
from gateway.session.types import Content


@dataclass(slots=True)
class _Waiting:
    content: Content
    arrived: float
    proves: bool
    trial: int


class ReorderBuffer:
    """Pushes by sequence, taken out in rising order; what arrived first is known too."""

    def __init__(self) -> None:
        self._by_sequence: OrderedDict[int, _Waiting] = OrderedDict()  # in the order of arrival
        self._sequences: list[int] = []  # a heap; may name some that are gone already
        self._unsequenced: dict[str, tuple[Content, int]] = {}
        self.trial = 0
        """What comes now belongs to it."""
        self.bytes = 0
        """Of everything that waits."""
        self.lost_letters = 0
        """Dead letters without a sequence that were discarded."""

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._by_sequence

    def __len__(self) -> int:
        """Return how many with a sequence wait."""
        return len(self._by_sequence)

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_sequence)

    def add(self, sequence: int, content: Content, arrived: float, *, proves: bool) -> None:
        """Hold `content`; it `proves` that all after it is pushed where it came after the subscription."""
        self._by_sequence[sequence] = _Waiting(content, arrived, proves, self.trial)
        heappush(self._sequences, sequence)
        self.bytes += content.size

    def __getitem__(self, sequence: int) -> Content:
        return self._by_sequence[sequence].content

    def replace(self, sequence: int, content: Content) -> None:
        """Let `content` wait in the place of what waits with its number."""
        waiting = self._by_sequence[sequence]
        self.bytes += content.size - waiting.content.size
        waiting.content = content

    def pop(self, sequence: int) -> Content:
        """Remove the push of `sequence`."""
        waiting = self._by_sequence.pop(sequence)
        self.bytes -= waiting.content.size
        return waiting.content

    def clear(self) -> None:
        """Drop all that history gives again."""
        self._by_sequence.clear()
        self._sequences.clear()
        self.bytes = sum(content.size for content, _ in self._unsequenced.values())

    def hold(self, content: Content) -> bool:
        """Hold what has no sequence; return False where it is held already."""
        if content.identity in self._unsequenced:
            return False
        self._unsequenced[content.identity] = content, self.trial
        self.bytes += content.size
        return True

    def release(self) -> list[Content]:
        """Remove what has no sequence, and return it in the order of arrival."""
        released = [content for content, _ in self._unsequenced.values()]
        self._unsequenced.clear()
        self.bytes -= sum(content.size for content in released)
        return released

    def discard_since(self, trial: int) -> int:
        """Drop all that came in `trial` or later, and return how many that were."""
        numbers = [number for number, waiting in self._by_sequence.items() if waiting.trial >= trial]
        for number in numbers:
            self.pop(number)
        names = [name for name, (_, came_in) in self._unsequenced.items() if came_in >= trial]
        for name in names:
            content = self._unsequenced.pop(name)[0]
            self.bytes -= content.size
            self.lost_letters += isinstance(content, DeadLetter)
        return len(numbers) + len(names)

    def drop_through(self, sequence: int) -> None:
        """Drop `sequence` and what is below."""
        for lowest in self.through(sequence):
            self.pop(lowest)

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
    def highest_unproven(self) -> int:
        """The highest that came before the subscription was confirmed: what is below it need not be pushed."""
        return max((number for number, waiting in self._by_sequence.items() if not waiting.proves), default=0)

    @property
    def first_arrival(self) -> float | None:
        """When the one that waits longest arrived: a monotonic time in seconds."""
        return next((waiting.arrived for waiting in self._by_sequence.values()), None)

    def highest_waited(self, now: float, window: float) -> int:
        """Return the highest sequence among those that have waited for `window` seconds, else 0."""
        highest = 0
        for sequence, waiting in self._by_sequence.items():
            if waiting.arrived + window > now:  # the same sum as the deadline: another way of writing it may round up
                break
            highest = max(highest, sequence)
        return highest

    def restart(self, now: float) -> None:
        """Count the wait of all from `now`."""
        for waiting in self._by_sequence.values():
            waiting.arrived = now

    def invalidate_proofs(self) -> None:
        """Note that what waits came over a former connection."""
        for waiting in self._by_sequence.values():
            waiting.proves = False

    def first_proof_after(self, sequence: int) -> int | None:
        """Return the first push above `sequence` that came after the subscription."""
        proofs = (number for number, waiting in self._by_sequence.items() if waiting.proves and number > sequence)
        return next(proofs, None)

    def through(self, sequence: int) -> Iterator[int]:
        """Yield those up to `sequence` in rising order; each must be popped before the next is taken."""
        while (lowest := self.lowest) is not None and lowest <= sequence:
            yield lowest
