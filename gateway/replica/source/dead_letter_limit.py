"""How many dead letters an account may make in a minute: a hub that sends nothing else must not fill the broker."""

from __future__ import annotations

from typing import Final

from gateway.errors import TooManyDeadLetters

_MINUTE: Final = 60.0


class DeadLetterLimit:
    """The dead letters of one account; a large one counts once more for each 16 KiB."""

    def __init__(self, most: int) -> None:
        """Allow `most` in a minute, and what comes with the last of them in one page."""
        self._most = most
        self._began = float("-inf")
        self._queued = 0
        self._waiting = 0
        self._seen = 0  # of those of the session

    def on_attached(self, total: int) -> None:
        """A session begins, which has queued `total` already: they count no more."""
        self._seen = total

    def note(self, total: int, waiting: int, now: float) -> None:
        """Note that the session has queued `total` so far, and that so many more wait. Raises TooManyDeadLetters."""
        known, self._seen = self._seen, total
        if total > known or waiting:
            self.count(total - known, waiting, now)

    def count(self, queued: int, waiting: int, now: float) -> None:
        """Note that so many more are to be committed, and so many wait for history, which will not have them.

        `now` is a monotonic time. Raises TooManyDeadLetters.
        """
        if now >= self._began + _MINUTE:
            self._began, self._queued = now, 0
        self._queued += queued
        self._waiting += waiting
        count = self._queued + self._waiting
        if count > self._most:
            raise TooManyDeadLetters(count, self._most, self.remaining(now))

    def none_waits(self) -> None:
        """Note that those that waited are queued, or were discarded."""
        self._waiting = 0

    def restart(self) -> None:
        """Begin a new minute: an operator wants the account to go on."""
        self._began = float("-inf")
        self._queued = 0

    def remaining(self, now: float) -> float:
        """Return the seconds until the account may go on."""
        return max(0.0, self._began + _MINUTE - now)
