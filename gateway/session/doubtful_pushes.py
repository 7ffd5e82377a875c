"""Doubtful pushes, which are held aside until the hub has returned more.

There are three kinds: one whose number another waiting push has; one whose number is far above all that the hub
returned; and one that cannot be decoded, though the history may have it whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from gateway.session.hub_clock import HubClock, Moment
from gateway.session.types import Content

_FAR: Final = 10_000
"""Minimum numbers that may lie between the known ones and a push: a database may skip as many when it starts."""
_STEPS: Final = 16
"""How many of the largest step that was confirmed may lie there, else."""
_LOOKS: Final = 3
"""Passes to the end of the history that must not have shown a garbled push: a page may be empty by mistake."""
_QUESTIONS: Final = 3
"""How often the hub is asked at once for its latest, for a push whose number is far; then the audits ask."""

_MOST_LET_GO: Final = 1_000
"""Far numbers that are remembered of pushes that found no room: what is more than that may be published late."""


class Doubt(Enum):
    """Why a push is held aside."""

    RIVAL = "rival"
    FAR = "far"
    GARBLED = "garbled"


@dataclass(slots=True)
class Doubtful:
    """A push that is held aside."""

    doubt: Doubt
    sequence: int
    content: Content
    arrived: float
    """A monotonic time in seconds."""
    proves: bool
    """Whether it came after the subscription."""
    trial: int
    was_asked: bool = False
    """Whether the hub has returned its latest since the push arrived; that answer may have been under way before."""
    since: Moment | None = None
    """When the hub returned its latest for the second time since the push arrived."""
    is_sought: bool = False
    """Whether a pass over the history has begun since it came."""
    is_due: bool = False
    """Whether a pass over the history began after the grace."""
    looks: int = 0
    """Passes that began after the grace and came to the end of the history without it."""
    is_overdue: bool = False
    """Whether the history has had its chance to show it."""

    @property
    def name(self) -> tuple[int, Doubt, str]:
        """What distinguishes it from the other pushes that are held."""
        return self.sequence, self.doubt, "" if self.doubt is Doubt.GARBLED else self.content.identity


class DoubtfulPushes:
    """Those of one account, in the order of arrival."""

    def __init__(self) -> None:
        self._held: list[Doubtful] = []
        self._names: set[tuple[int, Doubt, str]] = set()
        self._far = self._unsought = 0
        self._known = self._step = self._questions = 0
        self._let_go: set[int] = set()
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._held)

    def is_garbled(self, sequence: int) -> bool:
        """Return whether a push of this number is held because it cannot be decoded."""
        return (sequence, Doubt.GARBLED, "") in self._names

    def hold(self, held: Doubtful) -> bool:
        """Hold it aside; return False where the same is held already."""
        if held.name in self._names:
            return False
        self._held.append(held)
        self._names.add(held.name)
        self.bytes += held.content.size
        if held.doubt is Doubt.FAR:
            self._far += 1
            self._questions = _QUESTIONS
        elif held.doubt is Doubt.GARBLED:
            self._unsought += 1
        return True

    def on_latest(self, moment: Moment) -> None:
        """Note that the hub returned its latest sequence."""
        for held in self._held:
            if held.was_asked and held.since is None:
                held.since = moment
            held.was_asked = True
        self._questions = max(0, self._questions - 1)

    def learn(self, latest: int) -> None:
        """Take `latest` for what the hub has: its history is proven."""
        if self._known:
            self._step = max(self._step, latest - self._known)
        self._known = latest

    def is_far(self, sequence: int, high: int) -> bool:
        """Return whether a number is far above the hub's latest and the highest that is settled."""
        return sequence > max(self._known, high) + max(_FAR, _STEPS * self._step)

    def on_connected(self) -> None:
        """Note a new connection: the hub returns once more how far its history must be read."""
        self._let_go.clear()

    def let_go(self, sequence: int) -> None:
        """Note that there was no room for a push whose number is far: only history may have it."""
        if len(self._let_go) < _MOST_LET_GO:
            self._let_go.add(sequence)

    def take_confirmed(self, high: int) -> int:
        """Return the highest dropped number that is far no more, 0 for none, and forget such."""
        if not self._let_go:
            return 0
        confirmed = {sequence for sequence in self._let_go if not self.is_far(sequence, high)}
        self._let_go -= confirmed
        return max(confirmed, default=0)

    @property
    def asks(self) -> bool:
        """Whether the hub should be asked for its latest now."""
        return self._questions > 0 and self._far > 0

    @property
    def wants_look(self) -> bool:
        """Whether the history should be looked at soon, for a push that it was not looked at for."""
        return self._unsought > 0

    def look(self, clock: HubClock) -> None:
        """Note that a pass over the history begins."""
        self._unsought = 0
        for held in self._held:
            held.is_sought = True
            held.is_due = held.since is not None and clock.has_passed(held.since)

    def on_look(self, reached: int) -> None:
        """Note that the pass has come to what seems to be the end of the history, after the sequence `reached`."""
        for held in self._held:
            if held.is_due:
                held.is_due, held.looks = False, held.looks + 1
                is_enough = held.doubt is Doubt.FAR or reached > held.sequence
                held.is_overdue = is_enough or held.looks >= _LOOKS

    def release(self, is_clear: Callable[[Doubtful], bool]) -> list[Doubtful]:
        """Remove those for which `is_clear` is true, and return them."""
        released: list[Doubtful] = []
        kept: list[Doubtful] = []
        for held in self._held:
            (released if is_clear(held) else kept).append(held)
        self._held = kept
        self._names.difference_update(held.name for held in released)
        for held in released:
            self.bytes -= held.content.size
            self._far -= held.doubt is Doubt.FAR
            self._unsought -= held.doubt is Doubt.GARBLED and not held.is_sought
        return released

    def discard_since(self, trial: int) -> int:
        """Drop all that arrived in `trial` or later, and return how many that were."""
        return len(self.release(lambda held: held.trial >= trial))
