"""How much time has passed at the hub, by its clock and by ours together.

The hub returns its time with each answer about its latest sequence (SnapshotTime). That clock may jump, drift or stop,
and ours may be set: time has passed where both show it. Where the hub's has stopped, ours is believed after several
graces and several answers.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.events.times import TICKS_PER_SECOND

_LOOKS: Final = 8
"""Answers after which our clock alone is believed."""
_GRACES: Final = 4
"""Graces that must have passed by it, then."""


class Moment(msgspec.Struct, frozen=True, gc=False):
    """When the hub answered, in ticks of 100 ns."""

    hub: int
    """By the hub's clock."""
    ours: int | None = None
    """By ours, which goes on over restarts and replicas; None where it is unknown."""
    look: int = 0
    """How many answers there were before, in this session; 0 for a moment of a session before."""


class HubClock:
    """Measures whether the grace has passed since a moment."""

    def __init__(self, grace: float) -> None:
        """Take `grace` in seconds."""
        self._grace = int(grace * TICKS_PER_SECOND)
        self.now = Moment(0)
        """The moment of the last answer."""

    def on_time(self, hub: int, ours: float | None) -> None:
        """Note an answer: the hub's time in ticks, and ours in seconds since 1970."""
        self.now = Moment(hub, None if ours is None else int(ours * TICKS_PER_SECOND), self.now.look + 1)

    @property
    def grace_ago(self) -> int:
        """The hub's time a grace ago, in ticks."""
        return self.now.hub - self._grace

    def is_ahead(self, moment: Moment) -> bool:
        """Return whether `moment` is still to come by one of the clocks: that clock went back."""
        return moment.hub > self.now.hub or (self._ours(moment) or 0) < 0

    def has_passed(self, since: Moment) -> bool:
        """Return whether the grace has passed since a moment."""
        ours = self._ours(since)
        if self.now.hub - since.hub > self._grace:
            return ours is None or ours > self._grace
        looks = self.now.look - since.look
        return ours is not None and looks >= _LOOKS and ours > _GRACES * self._grace

    def _ours(self, since: Moment) -> int | None:
        return None if since.ours is None or self.now.ours is None else self.now.ours - since.ours
