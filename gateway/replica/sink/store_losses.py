"""What a shard's writer has committed, by account: a store that has less has lost its end, as in a power cut.

The account goes on from what the store has, so the hub's history gives again what is lost. This tells a person, who may
have consumers that have read those events already, or a broker to mend.
"""

from __future__ import annotations

from gateway.session.session import Session
from gateway.telemetry.counters import Tally
from gateway.telemetry.logs import get_logger


class Committed:
    """How far each account of a shard is committed, as this process was told by the broker."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._highest: dict[str, int] = {}

    def note(self, account: str, highest: int) -> None:
        """Note that events up to the sequence `highest` are committed."""
        self._highest[account] = highest

    def forget(self, account: str) -> None:
        """Expect nothing of an account: its checkpoint was set, or is forgotten."""
        self._highest.pop(account, None)

    def forget_all(self) -> None:
        """Expect nothing any more: another replica may have written since."""
        self._highest.clear()

    def names(self) -> frozenset[str]:
        """Return the accounts that have a checkpoint, or lost it."""
        return frozenset(self._highest)

    def compare(self, account: str, session: Session) -> None:
        """Say at ERROR where `session`, which begins from what the store has, begins with less than was committed."""
        expected = self._highest.pop(account, None)
        if expected is None or (session.is_begun and session.highest >= expected):
            return
        self._tally.went_back += 1
        log, words = get_logger(), "the broker's store went back: it has lost events that it had acknowledged"
        if not session.is_begun:
            remedy = "the account's checkpoint is gone, too: reset it, from the sequence that your consumers have"
            log.error(words, account=account, last=expected, remedy=remedy)
        else:
            then = "what the hub still has of them is published again"
            log.error(words, account=account, first=session.highest + 1, last=expected, then=then)
