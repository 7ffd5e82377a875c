"""Which event settled a number lately, so that another event of the same number is not taken for it.

Only a bounded number is remembered, and nothing over a restart: there the identities of the checkpoint must do
(`DedupWindow`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Final

from gateway.events.event import DeadLetter, Event
from gateway.session.content_forms import meaning, means_the_same
from gateway.session.types import Content

_MOST: Final = 4096
"""Events that are remembered; of more than that above `verified`, only the number decides."""
_KEPT: Final = 32
"""Those of them that are remembered once they are verified."""
_SAMPLES: Final = 16
"""Events that are kept whole, to find out whether the hub writes its history as it writes its pushes."""


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
        self.samples: deque[Event] = deque(maxlen=_SAMPLES)
        """The newest; whoever puts a trace here puts its event there."""
        self.forms_differ = False
        """Whether an event was shown in another form than the one it was published in: then `add_meaning` is called."""
        self._meanings: dict[int, int | None] = {}

    def __contains__(self, sequence: int) -> bool:
        return sequence in self.traces or sequence in self._older

    def _trace(self, sequence: int) -> Trace:
        return self.traces.get(sequence) or self._older.get(sequence) or (None, None)

    def id_of(self, sequence: int) -> str | None:
        """Return the EventId of what settled `sequence`; None where it has none or is not remembered."""
        return self._trace(sequence)[0]

    def compare(self, sequence: int, content: Content) -> Sight:
        """Return what `content`, of a number that is remembered, is."""
        trace = self._trace(sequence)
        sight = _compare(trace, content)
        may_be_form = sight is Sight.CORRECTED or (sight is Sight.ANOTHER and trace[0] is content.id is None)
        return Sight.SAME if may_be_form and self._has_other_form(sequence, content) else sight

    def _has_other_form(self, sequence: int, content: Content) -> bool:
        """Return whether `content` says in another form what settled its number, or nothing can be told of that."""
        if isinstance(content, DeadLetter):
            return False
        sample = next((one for one in self.samples if one.sequence == sequence), None)
        if sample is not None:
            is_same = means_the_same(sample.body, content.body)
            self.forms_differ = self.forms_differ or is_same
            return is_same
        if not self.forms_differ:
            return False
        if sequence not in self._meanings:
            return True  # it was published before the forms were known to differ
        known = self._meanings[sequence]
        return known is not None and known == meaning(content.body)

    def learn_forms(self, contents: Sequence[Content]) -> None:
        """Find out by the events that are kept whole whether a page of the history has another form than they."""
        if self.forms_differ or not self.samples:
            return
        samples = {one.sequence or 0: one for one in self.samples}
        first = next((content.sequence for content in contents if content.sequence is not None), None)
        if first is None or first > max(samples):  # as nearly always while catching up
            return
        for content in contents:
            sample = samples.get(content.sequence or 0)
            if sample is not None and type(content) is Event and sample.id == content.id:
                same = sample.body != content.body and means_the_same(sample.body, content.body)
                self.forms_differ = self.forms_differ or same

    def add_meaning(self, sequence: int, event: Event) -> None:
        """Keep what an event says, whatever its form."""
        self._meanings[sequence] = meaning(event.body)

    def trim(self, *, is_level: bool) -> dict[int, Trace]:
        """Forget the oldest of too many, and all but the last few where everything is verified; return `traces`."""
        if is_level:
            self.samples.clear()
        if is_level and len(self.traces) > _KEPT:
            self.traces, self._older = dict([*self.traces.items()][-_KEPT // 2 :]), {}
        elif len(self.traces) > _MOST // 2:
            self.traces, self._older = {}, self.traces
        else:
            return self.traces
        if self._meanings:
            self._meanings = {sequence: one for sequence, one in self._meanings.items() if sequence in self}
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
