"""How many commits of a process are in flight, and how large: what its broker and the line to it carry in good time.

Commits of all shards share the line, and the window of bytes with it (`window.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from gateway.replica.sink.commit_window import LEAST, Window

_LASTS: Final = 1.0
"""Maximum seconds for which a commit keeps its slot: one that hangs must not keep others waiting."""
_FEWEST: Final = 4
"""Messages of one commit that any broker takes."""
_KNOWN_FOR: Final = 600.0
"""Seconds until more messages are tried again than the broker has refused to take at once."""


class CommitSlots:
    """Slots for commits: `count` for all shards, and one apart for those whose last commit failed."""

    def __init__(self, count: int, clock: Callable[[], float] | None = None) -> None:
        """Let `count` commits be in flight at once that take no longer than usual; `clock` gives seconds."""
        self.window = Window(clock or _now)
        """Of the bytes in flight; a commit that is alone may always go."""
        self.bytes_in_flight = 0
        self._clock = clock or _now
        self._count = self._left = count
        self._large: list[int] = []  # the sizes of those in flight that are not small
        self._waiting: list[tuple[_Flight, asyncio.Future[None]]] = []
        self._apart = asyncio.Semaphore(1)
        self._most_messages: tuple[int, float] | None = None  # and until when that holds

    @property
    def aim(self) -> int:
        """Maximum bytes of the commit that is built now; a single message may have more."""
        return max(LEAST, self.window.size // min(1 + len(self._large) + self._queued, self._abreast))

    @property
    def _abreast(self) -> int:
        """Return how many commits can be in flight at once: over a long way more of them than slots."""
        return max(self._count, int(self._count * self.window.way / self._lasts))

    @property
    def _lasts(self) -> float:
        """Return the maximum seconds for which a commit keeps its slot: a long way uses no capacity of the broker."""
        return max(_LASTS / 4, _LASTS - self.window.way)

    @property
    def most_messages(self) -> int | None:
        """Maximum messages and checkpoints of a commit; None where the broker has reported no limit."""
        if self._most_messages is not None and self._clock() >= self._most_messages[1]:
            self._most_messages = None
        return None if self._most_messages is None else self._most_messages[0]

    def reduce_messages(self, messages: int) -> bool:
        """Note that the broker refused so many messages and checkpoints at once; return whether fewer can be tried."""
        self._most_messages = max(_FEWEST, messages // 2), self._clock() + _KNOWN_FOR
        return messages > _FEWEST

    @asynccontextmanager
    async def slot(self, size: int, *, has_failed: bool) -> AsyncIterator[None]:
        """Wait for a slot, first come first served, and keep it for the block, or a second where that is shorter.

        `size` is in bytes; `has_failed` means that the last commit of the same shard failed. The duration of the block,
        and whether it raises, decide how much is sent at once from then on.
        """
        if has_failed:
            await self._apart.acquire()
            leaving = self._leaving(self._apart.release, None)
        else:
            flight = await self._admitted(size)
            leaving = self._leaving(self._leave, lambda: self._land(flight))
        began, in_flight = self._clock(), self.bytes_in_flight
        try:
            with leaving:
                yield
        except Exception:
            self.window.failed(size, began)
            raise
        else:
            self.window.succeeded(size, began, max(size, in_flight))
            self._admit()

    @contextmanager
    def _leaving(self, leave: Callable[[], None], land: Callable[[], None] | None) -> Iterator[None]:
        """Call both at the end of the block; earlier where it lasts, so that one that hangs does not keep others.

        A commit on a long way uses no capacity of the broker meanwhile, so its slot is free before its bytes have
        arrived.
        """
        ends = {_Once(leave): self._lasts}
        if land is not None:
            ends[_Once(land)] = max(_LASTS, self.window.longest)
        timers = [asyncio.get_running_loop().call_later(seconds, end) for end, seconds in ends.items()]
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()
            for end in ends:
                end()

    # Who may go -----------------------------------------------------------------------------------------

    async def _admitted(self, size: int) -> _Flight:
        """Wait until a commit of `size` bytes may go; then it is counted."""
        flight = _Flight(size, is_small=self.window.is_small(size))
        if self._left and self._has_room(flight) and (flight.is_small or not self._queued):
            self._enter(flight)
            return flight
        admitted = asyncio.get_running_loop().create_future()
        self._waiting.append((flight, admitted))
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self._leave()
                self._land(flight)
            else:
                with suppress(ValueError):  # or a commit that left meanwhile has passed over it
                    self._waiting.remove((flight, admitted))
                self._admit()
            raise
        return flight

    @property
    def _queued(self) -> int:
        """Return how many wait that are not small."""
        return sum(not flight.is_small for flight, _ in self._waiting)

    def _has_room(self, flight: _Flight) -> bool:
        return flight.is_small or not self._large or sum(self._large) + flight.size <= self.window.size

    def _enter(self, flight: _Flight) -> None:
        self._left -= 1
        self.bytes_in_flight += flight.size
        if not flight.is_small:
            self._large.append(flight.size)

    def _leave(self) -> None:
        """Let another have the slot."""
        self._left += 1
        self._admit()

    def _land(self, flight: _Flight) -> None:
        """Count its bytes no more as in flight."""
        self.bytes_in_flight -= flight.size
        if not flight.is_small:
            self._large.remove(flight.size)
        self._admit()

    def _admit(self) -> None:
        """Let those go for which there is room, in turn; small ones do not wait for room behind others."""
        is_full = False
        for one in [*self._waiting]:
            flight, admitted = one
            if not self._left:
                return
            if admitted.done() or (self._has_room(flight) and (flight.is_small or not is_full)):
                self._waiting.remove(one)
                if not admitted.done():
                    self._enter(flight)
                    admitted.set_result(None)
            else:
                is_full = True


@dataclass(frozen=True, slots=True)
class _Flight:
    """A commit that is sent, or waits for it."""

    size: int
    """In bytes."""
    is_small: bool
    """Whether it takes no notable part of the window: it goes beside the others, and counts for none of them."""


class _Once:
    """A function that is called at most once, however often it is requested."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def __call__(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


def _now() -> float:
    return time.monotonic()
