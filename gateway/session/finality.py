"""Up to which sequence the history is final, holes included.

A hole may still be filled until the hub has shown for a grace that it has something above it. The time of an event does
not count for that: an old event may be stored now. So pairs of the hub's latest sequence and of the moment are kept, in
the checkpoint too, lest each restart begin again. Where there is no hole, old events are final at once; young ones are
not, since an event without a sequence may still come into view among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from gateway.events.event import DeadLetter
from gateway.events.times import second_of, ticks
from gateway.session.hub_clock import HubClock, Moment
from gateway.session.types import Content

MOST: Final = 8
"""Pairs that are kept."""


class Sighting(msgspec.Struct, frozen=True, gc=False):
    """The latest sequence that the hub returned, and when."""

    latest: int
    moment: Moment


Sightings = tuple[Sighting, ...]
"""Oldest first."""


class Finality:
    """The history of one account, as far as it will not change any more."""

    def __init__(self, clock: HubClock, sightings: Iterable[Sighting]) -> None:
        """Go on with a checkpoint's sightings, oldest first."""
        self._clock = clock
        self._sightings = list(sightings)
        self._old_ticks = 0
        self._old_second = ""
        self.through = 0
        """Everything up to it that history does not show now it will never show."""

    @property
    def sightings(self) -> Sightings:
        """What the next checkpoint keeps."""
        return tuple(self._sightings)

    def on_latest(self, latest: int, moment: Moment) -> None:
        """Note that the hub returned its latest sequence at a moment; it is not below what is verified."""
        self._old_ticks = self._clock.grace_ago
        self._old_second = second_of(self._old_ticks)
        self.through = min(self.through, latest)  # else a number far too high that it returned once would stay for ever
        known = [Sighting(one.latest, self._not_ahead(one.moment)) for one in self._sightings if one.latest <= latest]
        passed = [one.latest for one in known if self._clock.has_passed(one.moment)]
        self.through = max(self.through, *passed, 0)
        sightings = [one for one in known if one.latest > self.through]
        highest = sightings[-1].latest if sightings else self.through
        if latest > highest and len(sightings) < MOST:
            sightings.append(Sighting(latest, moment))
        self._sightings = sightings

    def last_final(
        self, contents: Sequence[Content], verified: int, has_hole: Callable[[int, int], bool]
    ) -> Content | None:
        """Return the last event of a page that is final, as all before it in the page are; None where none is.

        `has_hole` is whether anything between two sequences is neither settled nor queued. A dead letter, which has no
        time, is as final as what follows.
        """
        final, reached = None, verified
        for content in contents:
            sequence = content.sequence
            if sequence is None:
                continue
            if sequence > self.through:
                if sequence > reached + 1 and has_hole(reached + 1, sequence - 1):
                    break
                if isinstance(content, DeadLetter):
                    reached = max(reached, sequence)
                    continue
                if not self.is_old(content):
                    break
            final, reached = content, max(reached, sequence)
        return final

    def is_old(self, content: Content) -> bool:
        """Return whether `content` happened, by its own time, longer than the grace ago; a dead letter has no time."""
        if isinstance(content, DeadLetter):
            return False
        time = content.time
        second = time[:19]  # canonical times compare as text, a tenth of what parsing costs
        return second < self._old_second or (second == self._old_second and ticks(time) <= self._old_ticks)

    def _not_ahead(self, moment: Moment) -> Moment:
        return self._clock.now if self._clock.is_ahead(moment) else moment
