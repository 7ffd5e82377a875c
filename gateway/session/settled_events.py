"""Which event settled a number lately, so that another event of the same number is not taken for it.

Only a bounded number is remembered, and nothing over a restart: there the identities of the checkpoint must do
(`DedupWindow`).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from gateway.events.event import DeadLetter, Event
from gateway.session.types import Content

_MOST: Final = 4096
"""Events that are remembered; of more than that above `verified`, only the number decides."""
_KEPT: Final = 32
"""Those of them that are remembered once they are verified."""


class Sight(Enum):
    """What a second sight of a number is."""

    SAME = "same"
    """The event that settled it, as far as it is known."""
    WHOLE = "whole"
    """It was settled as a dead letter, and this is an event."""
    CORRECTED = "corrected"
    """It has the same EventId and another content."""
    ANOTHER = "another"


Trace = tuple[str | None, int | None]
"""What is kept of an event: its EventId and its fingerprint."""


class SettledEvents:
    """What settled the last numbers, in two generations: to drop the older one costs nothing."""

    def __init__(self) -> None:
        self.traces: dict[int, Trace] = {}
        """By number, the newer generation; callers that give an event a number put its trace here, without a call."""
        self._older: dict[int, Trace] = {}

    def __contains__(self, sequence: int) -> bool:
        return sequence in self.traces or sequence in self._older

    def _trace(self, sequence: int) -> Trace:
        return self.traces.get(sequence) or self._older.get(sequence) or (None, None)

    def id_of(self, sequence: int) -> str | None:
        """Return the EventId of what settled `sequence`; None where it has none or is not remembered."""
        return self._trace(sequence)[0]

    def compare(self, sequence: int, content: Content) -> Sight:
        """Return what `content`, of a number that is remembered, is."""
        return _compare(self._trace(sequence), content)

    def trim(self, *, is_level: bool) -> dict[int, Trace]:
        """Forget the oldest of too many, and all but the last few where everything is verified; return `traces`."""
        if is_level and len(self.traces) > _KEPT:
            self.traces, self._older = dict([*self.traces.items()][-_KEPT // 2 :]), {}
        elif len(self.traces) > _MOST // 2:
            self.traces, self._older = {}, self.traces
        return self.traces


def compare(first: Content, content: Content) -> Sight:
    """Return what `content` is, beside a first sight of its number."""
    return _compare(trace_of(first), content)


def trace_of(content: Content) -> Trace:
    """Return what is kept of `content`; its fingerprint is good in this process alone.

    A dead letter has none: pushes and history write the same one differently.
    """
    return content.id, hash(content.body) if type(content) is Event else None


def _compare(known: Trace, content: Content) -> Sight:
    id_, fingerprint = known
    if id_ is not None and content.id is not None and id_ != content.id:
        return Sight.ANOTHER
    if isinstance(content, DeadLetter):
        return Sight.SAME
    if fingerprint is None:
        return Sight.WHOLE
    if id_ != content.id or fingerprint == hash(content.body):  # one side lacks the EventId: no comparison
        return Sight.SAME
    return Sight.ANOTHER if id_ is None else Sight.CORRECTED
