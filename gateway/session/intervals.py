"""A set of whole numbers as sorted, disjoint intervals: small where the numbers are dense."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator


class Intervals:
    """Numbers as inclusive intervals, grown mostly at the upper end; neighbours are joined."""

    __slots__ = ("_highs", "_lows")

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None:
        """Take intervals in rising order, disjoint."""
        pairs = list(intervals)
        self._lows = [low for low, _ in pairs]
        self._highs = [high for _, high in pairs]

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self._lows, number) - 1
        return index >= 0 and number <= self._highs[index]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._lows, self._highs, strict=True)

    def __len__(self) -> int:
        """Give the number of intervals, which is what they cost."""
        return len(self._lows)

    @property
    def highest(self) -> int | None:
        """The largest number in the set."""
        return self._highs[-1] if self._highs else None

    def copy(self) -> Intervals:
        """Give an equal set that changes by itself."""
        other = Intervals()
        other._lows, other._highs = self._lows.copy(), self._highs.copy()
        return other

    def add(self, number: int) -> None:
        """Put `number` in."""
        lows, highs = self._lows, self._highs
        if highs and number == highs[-1] + 1:  # the usual case: the next of a dense flow
            highs[-1] = number
            return
        index = bisect_right(lows, number)
        if index and number <= highs[index - 1]:
            return
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

    def missing(self, first: int, last: int) -> list[tuple[int, int]]:
        """Give what of `first` to `last` is not in the set, as inclusive intervals."""
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
        del self._lows[:index], self._highs[:index]
        if self._lows and self._lows[0] <= number:
            self._lows[0] = number + 1
