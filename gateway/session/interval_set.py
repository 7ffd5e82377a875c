"""A set of whole numbers as sorted, disjoint intervals: small where the numbers are dense.

The set has its size in a checkpoint, where an interval is two decimal numbers: the gap before it and its length.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator


class IntervalSet:
    """Numbers as inclusive intervals, grown mostly at the upper end; neighbours are joined."""

    __slots__ = ("_highs", "_lows", "size")

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None:
        """Take intervals in rising order, disjoint."""
        pairs = list(intervals)
        self._lows = [low for low, _ in pairs]
        self._highs = [high for _, high in pairs]
        self.size = 0
        """Bytes in a checkpoint, the first gap counted as if `verified` were 0: at least what it really takes."""
        self.size = self._cost(0, len(pairs))

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self._lows, number) - 1
        return index >= 0 and number <= self._highs[index]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._lows, self._highs, strict=True)

    def __len__(self) -> int:
        """Return the number of intervals."""
        return len(self._lows)

    @property
    def highest(self) -> int | None:
        """The largest number in the set."""
        return self._highs[-1] if self._highs else None

    def copy(self) -> IntervalSet:
        """Return an equal set that changes by itself."""
        other = IntervalSet()
        other._lows, other._highs, other.size = self._lows.copy(), self._highs.copy(), self.size
        return other

    def add(self, number: int) -> None:
        """Put `number` in."""
        lows, highs = self._lows, self._highs
        if highs and number == highs[-1] + 1:  # the usual case: the next of a dense flow
            highs[-1] = number
            length = number - lows[-1] + 1
            if length % 10 == 0:  # only there a digit more may be needed
                self.size += _digits(length) - _digits(length - 1)
            return
        index = bisect_right(lows, number)
        if index and number <= highs[index - 1]:
            return
        around = max(0, index - 1)
        count, before = len(lows), self._cost(around, index + 2)
        joins_left = index > 0 and number == highs[index - 1] + 1
        joins_right = index < len(lows) and number == lows[index] - 1
        if joins_left and joins_right:
            highs[index - 1] = highs[index]
            del lows[index], highs[index]
        elif joins_left:
            highs[index - 1] = number
        elif joins_right:
            lows[index] = number
        else:
            lows.insert(index, number)
            highs.insert(index, number)
        self.size += self._cost(around, index + 2 + len(lows) - count) - before

    def append(self, low: int, high: int) -> None:
        """Put in all of `low` to `high`, which are above everything in the set."""
        self.add(low)
        self._highs[-1] = high
        self.size = self.size + _digits(high - self._lows[-1] + 1) - _digits(low - self._lows[-1] + 1)

    def discard(self, number: int) -> None:
        """Take `number` out, where it is in the set."""
        index = bisect_right(self._lows, number) - 1
        if index < 0 or number > self._highs[index]:
            return
        low, high = self._lows[index], self._highs[index]
        pieces = [(first, last) for first, last in ((low, number - 1), (number + 1, high)) if first <= last]
        before = self._cost(index, index + 2)
        self._lows[index : index + 1] = [first for first, _ in pieces]
        self._highs[index : index + 1] = [last for _, last in pieces]
        self.size += self._cost(index, index + len(pieces) + 1) - before

    def missing(self, first: int, last: int) -> list[tuple[int, int]]:
        """Return what of `first` to `last` is not in the set, as inclusive intervals."""
        gaps, at = [], first
        for low, high in self:
            if low > last:
                break
            if low > at:
                gaps.append((at, low - 1))
            at = max(at, high + 1)
        if at <= last:
            gaps.append((at, last))
        return gaps

    def drop_through(self, number: int) -> None:
        """Forget everything up to and with `number`."""
        index = bisect_right(self._highs, number)
        cuts = index < len(self._lows) and self._lows[index] <= number
        if not index and not cuts:
            return
        before = self._cost(0, index + 1)
        del self._lows[:index], self._highs[:index]
        if cuts:
            self._lows[0] = number + 1
        self.size += self._cost(0, 1) - before

    def _cost(self, first: int, last: int) -> int:
        """Return the bytes of the intervals `first` to `last`, exclusive: two numbers and two commas each."""
        lows, highs = self._lows, self._highs
        return sum(
            _digits(lows[index] - (highs[index - 1] + 1 if index else 0)) + _digits(highs[index] - lows[index] + 1) + 2
            for index in range(first, min(last, len(lows)))
        )


def _digits(number: int) -> int:
    return len(str(number))
