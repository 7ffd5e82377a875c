"""What is counted of one account since the process began; what is counted of all together is in the tally."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from gateway.events.catalogue import kind_of
from gateway.session.facts import Content, Outcome
from gateway.telemetry.logs import get_logger
from gateway.telemetry.tally import Tally

FORGOTTEN: Final = "forgotten"
STRAY: Final = "stray"
_UNPUBLISHED: Final = {
    Outcome.STALE.value: "pushed events are too old to place, and are not published",
    FORGOTTEN: "more events have no EventSeqId than can be remembered: they may be published again",
    STRAY: "events of the history are out of place, below what was verified, and are not published",
}
"""What the log says, by what became of them."""
_NOT_IN_THE_LOG: Final = frozenset({"filtered", Outcome.REPEAT.value, Outcome.STALE.value})


@dataclass(slots=True)
class Counts:
    """The counts of one account."""

    account: str
    tally: Tally
    connects: int = 0
    """Connections to the hub that were made."""
    disconnects: Counter[str] = field(default_factory=Counter)
    """Those that ended or could not be made, by reason."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Events by what became of them, and notifications by their types."""
    _said: Counter[str] = field(default_factory=Counter)

    @property
    def published(self) -> int:
        """Messages that were committed."""
        return sum(count for outcome, count in self.outcomes.items() if outcome not in _NOT_IN_THE_LOG)

    def connected(self) -> None:
        """A connection was made."""
        self.connects += 1
        self.tally.connects += 1

    def disconnected(self, reason: str) -> None:
        """One ended, or could not be made."""
        self.disconnects[reason] += 1
        self.tally.disconnects[reason] += 1

    def pushed(self, content: Content, outcome: Outcome) -> None:
        """The hub pushed it; what is to be committed is counted then."""
        if outcome is Outcome.REPEAT or outcome is Outcome.STALE:
            self.outcomes[outcome.value] += 1
            self.tally.events[kind_of(content), outcome.value] += 1
            if outcome is Outcome.STALE:
                self.unpublished(outcome.value, 1)

    def unpublished(self, what: str, more: int) -> None:
        """Tell of what is not published, and should have been: the first time, the tenth, the hundredth."""
        before = self._said[what]
        self._said[what] = after = before + more
        if more and len(str(after)) > (len(str(before)) if before else 0):
            get_logger(account=self.account).warning(_UNPUBLISHED[what], count=after)
