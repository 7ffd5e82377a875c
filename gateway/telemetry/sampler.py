"""Draws the samples in advance, as the number of items to skip: a batch without any costs one comparison."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


class Sampler:
    """Draws a part of all that passes, each with the same chance, and independently."""

    def __init__(self, ratio: float, dice: random.Random) -> None:
        """`ratio` from 0 to 1."""
        self._ratio = ratio
        self._dice = dice
        self._passed_over: float = 0
        self._draw()

    def sample(self, count: int) -> Sequence[int]:
        """Return the places of those that are drawn among the next `count`."""
        if self._passed_over >= count:
            self._passed_over -= count
            return ()
        places = []
        while self._passed_over < count:
            places.append(int(self._passed_over))
            before = self._passed_over
            self._draw()
            self._passed_over += before + 1
        self._passed_over -= count
        return places

    def _draw(self) -> None:
        """Draw how many are passed over until the next: a geometric number."""
        if self._ratio <= 0:
            self._passed_over = math.inf
        elif self._ratio >= 1:
            self._passed_over = 0
        else:
            self._passed_over = math.floor(math.log(1 - self._dice.random()) / math.log1p(-self._ratio))
