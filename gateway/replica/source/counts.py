"""Counters of one account since the process began; those of all accounts together are in `Counters`."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from gateway.events.catalogue import kind_of
from gateway.session.types import Content, Outcome
from gateway.telemetry.counters import Counters
from gateway.telemetry.logs import get_logger

FORGOTTEN: Final = "forgotten"
STRAY: Final = "stray"
LOST: Final = "lost"
_UNPUBLISHED: Final = {
    Outcome.BEFORE_START.value: "pushed events from before the account began are not published",
    FORGOTTEN: "more events without EventSeqId than the duplicate window holds: some may be published twice",
    LOST: "pushed events without EventSeqId are lost: no room, and the history may not return them",
    STRAY: "events of the history are out of order, below the verified sequence: not published",
}
"""The log messages, by the outcome of the events."""
_CONTRADICTIONS: Final = {
    Outcome.TOO_LATE: (
        logging.ERROR,
        "event so late that its sequence may have been published: replaced by a dead letter",
    ),
    Outcome.REUSED: (logging.WARNING, "two events have one sequence: the second is replaced by a dead letter"),
    Outcome.UNCONFIRMED: (
        logging.WARNING,
        "pushed event far above the hub's latest sequence: published as late, settles no sequence",
    ),
}
"""The log messages about events that are queued although they are not as they should be."""
_EACH: Final = 20
"""How many of these are logged one by one."""
_NOT_IN_THE_LOG: Final = frozenset({"filtered", Outcome.DUPLICATE.value, Outcome.BEFORE_START.value})


@dataclass(slots=True)
class AccountCounters:
    """The counts of one account."""

    account: str
    counters: Counters
    connects: int = 0
    """Connections to the hub that were made."""
    disconnects: Counter[str] = field(default_factory=Counter)
    """Those that ended, by reason."""
    connect_failures: Counter[str] = field(default_factory=Counter)
    """Attempts to make one that failed, by reason."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Events by what became of them, and notifications by their types."""
    _occurrences: Counter[str] = field(default_factory=Counter)
    _is_connected: bool = False

    @property
    def published(self) -> int:
        """Messages that were committed."""
        return sum(count for outcome, count in self.outcomes.items() if outcome not in _NOT_IN_THE_LOG)

    def on_connecting(self) -> None:
        """An attempt to make a connection begins."""
        self._is_connected = False

    def on_connected(self) -> None:
        """A connection was made."""
        self._is_connected = True
        self.connects += 1
        self.counters.connects += 1

    def on_disconnected(self, reason: str) -> None:
        """The connection ended, or the attempt to make one failed."""
        if self._is_connected:
            self.disconnects[reason] += 1
            self.counters.disconnects[reason] += 1
        else:
            self.connect_failures[reason] += 1
            self.counters.connect_failures[reason] += 1
        self._is_connected = False

    def on_push(self, content: Content, outcome: Outcome) -> None:
        """The hub pushed it; what is to be committed is counted then."""
        if outcome is Outcome.DUPLICATE or outcome is Outcome.BEFORE_START:
            self.outcomes[outcome.value] += 1
            self.counters.events[kind_of(content), outcome.value] += 1
            if outcome is Outcome.BEFORE_START:
                self.on_unpublished(outcome.value, 1)
        elif outcome is Outcome.OVERFLOW and content.sequence is None:
            self.on_unpublished(LOST, 1)

    def on_contradiction(self, outcome: Outcome, content: Content) -> None:
        """Log something that is not as it should be: of each at first, then of the hundredth, the thousandth."""
        self._occurrences[outcome.value] += 1
        count = self._occurrences[outcome.value]
        if count <= _EACH or str(count).strip("0") == "1":
            level, message = _CONTRADICTIONS[outcome]
            get_logger(account=self.account).log(level, message, sequence=content.sequence, id=content.id, count=count)

    def on_unpublished(self, what: str, more: int) -> None:
        """Log an event that is not published, and should have been: the first time, the tenth, the hundredth."""
        before = self._occurrences[what]
        self._occurrences[what] = after = before + more
        if more and len(str(after)) > (len(str(before)) if before else 0):
            level = logging.ERROR if what == LOST else logging.WARNING
            get_logger(account=self.account).log(level, _UNPUBLISHED[what], count=after)
