"""The bytes that all accounts of a process may hold together, shared fairly.

What is counted: pushes and pages that wait for the broker, and pages that were asked for and are not here yet.
Full means page history later, never lose: a push that finds no room is let go, since history gives it again;
a page that finds no room is asked for later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_RELAXED: Final = 0.75
"""The part of the budget below which nobody counts what is fair."""


class Budget:
    """A number of bytes, dealt out to shares."""

    def __init__(self, total: int) -> None:
        """Deal out `total` bytes."""
        self.total = total
        self.used = 0
        self.peak = 0
        """The most that was ever in use."""
        self._holders = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def share(self) -> Share:
        """Give an account its share, of nothing yet."""
        return Share(self)

    def _change(self, by: int, holders: int) -> None:
        self.used += by
        self.peak = max(self.peak, self.used)
        self._holders += holders
        if by < 0:
            self._admit()

    def _fits(self, held: int, more: int) -> bool:
        after = self.used + more
        if after > self.total:
            return self.used == 0  # one that is larger than all goes alone: it must go some time
        return after <= self.total * _RELAXED or held + more <= self.total // max(1, self._holders)

    def _admit(self) -> None:
        """Let those go on who waited longest, as far as there is room."""
        while self._waiting:
            size, turn = self._waiting[0]
            given_up = turn.done()
            if not given_up and self.used and self.used + size > self.total:
                return
            self._waiting.popleft()
            if not given_up:
                self._change(size, 0)
                turn.set_result(None)


class Share:
    """What one account holds of the budget."""

    __slots__ = ("_budget", "held")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0

    def hold(self, size: int) -> None:
        """Say that the account holds `size` bytes now."""
        if size != self.held:
            holders = (size > 0) - (self.held > 0)
            change, self.held = size - self.held, size
            self._budget._change(change, holders)  # noqa: SLF001 - a budget and its shares are one thing

    def has_room(self, more: int) -> bool:
        """Tell whether the account may hold `more` bytes besides."""
        return self._budget._fits(self.held, more)  # noqa: SLF001 - likewise

    async def reserve(self, size: int) -> Reservation:
        """Wait, first come first served, until `size` bytes are free, and keep them until released."""
        budget = self._budget
        if budget._waiting or not (budget.used == 0 or budget.used + size <= budget.total):  # noqa: SLF001 - likewise
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            budget._waiting.append((size, turn))  # noqa: SLF001 - likewise
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    budget._change(-size, 0)  # noqa: SLF001 - it was given and cannot be used
                raise
        else:
            budget._change(size, 0)  # noqa: SLF001 - likewise
        return Reservation(budget, size)


class Reservation:
    """Bytes kept free for a page that is under way."""

    def __init__(self, budget: Budget, size: int) -> None:
        self._budget = budget
        self._size = size

    def release(self) -> None:
        """Give the bytes back; what came instead is held by the account."""
        self._budget._change(-self._size, 0)  # noqa: SLF001 - likewise
        self._size = 0

    @contextmanager
    def until_done(self) -> Iterator[None]:
        """Release at the end of the block, however it ends."""
        try:
            yield
        finally:
            self.release()
