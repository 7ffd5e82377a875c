"""How long to wait before a shard's log is reopened, by what ended it and by what was committed until then."""

from __future__ import annotations

from typing import Final

from gateway.backoff import Backoff
from gateway.errors import ActionRequired, BrokerError, CommitRejected, StorageFull, TooManyMessages

_RELEASE_HUB_AFTER_S: Final = 30.0
"""Seconds without a log after which the connections to the hub are released: another replica may need them."""


class Reopening:
    """The tries of one shard to have a log."""

    __slots__ = ("_away_since", "_backoff", "_when_full")

    def __init__(self) -> None:
        self._backoff = Backoff(cap=5.0)
        self._when_full = Backoff(first=1.0)  # where the broker has no room
        self._away_since: float | None = None

    def delay_after(self, error: BrokerError, *, lasted: float, has_committed: bool, can_halve: bool) -> float:
        """Return the seconds until the next try, after a log that `lasted`, from the first step to open it on.

        `can_halve` is whether fewer messages can be tried than the broker refused.
        """
        # A commit in between is a success, and what fails now another fault; but not where only some topics can be
        # written to.
        if has_committed and not isinstance(error, ActionRequired):
            lasted = self._backoff.stable_after
        if isinstance(error, (TooManyMessages, CommitRejected)) and can_halve:
            return 0.0
        waiting = self._when_full if isinstance(error, StorageFull) else self._backoff
        return waiting.next_delay(lasted=lasted)

    def is_away_for_long(self, now: float, *, was_open: bool) -> bool:
        """Return whether the log is unavailable for long; `was_open` is whether the last try opened it."""
        is_long = not was_open and self._away_since is not None and now - self._away_since > _RELEASE_HUB_AFTER_S
        if was_open or self._away_since is None:
            self._away_since = now
        return is_long
