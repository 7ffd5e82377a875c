"""When history has met the pushes: the proof that nothing lies between them.

A push that arrived after the subscription proves that all after it is pushed. So history has been read far enough when
it has passed the latest sequence known at the subscription and reached such a push.
"""

from __future__ import annotations

from gateway.session.hub_clock import HubClock, Moment


class Overlap:
    """What history must reach before the pushes of one connection can stand alone."""

    def __init__(self, clock: HubClock) -> None:
        """`clock` measures when the grace has passed: what history does not show by then it will never show."""
        self._clock = clock
        self._target = 0
        self._began: Moment | None = None
        self._floor: int | None = None
        self._proof: int | None = None
        self._proven_at: Moment | None = None
        """By the hub's clock, returned since the proof arrived."""

    def on_connected(self, highest: int) -> None:
        """Note a new connection: its pushes prove nothing about those of an older one; `highest` is known already."""
        self._floor = self._proof = self._proven_at = None
        self._target = highest
        self._began = None

    def again(self, highest: int) -> None:
        """Read history once more over the same connection, at least up to `highest`."""
        self._target = max(self._target, highest)
        self._began = None

    def must_reach(self, sequence: int) -> None:
        """Note a push that was dropped: only history has it now, and has its grace from now on to show it."""
        if sequence > self._target:
            self._target, self._began = sequence, None

    def on_latest(self, latest: int) -> bool:
        """Take the hub's latest sequence; return True when that is the first time over this connection."""
        now = self._clock.now
        if self._proof is not None and self._proven_at is None:
            self._proven_at = now
        if self._began is not None:
            return False
        self._began = now
        self._target = max(self._target, latest)
        if self._floor is not None:
            return False
        self._floor = self._target
        return True

    def proves(self, sequence: int) -> None:
        """Note a push that came after the subscription: the first counts. A lower one may be an old event again."""
        if self._floor is not None and sequence > self._floor and self._proof is None:
            self._proof, self._proven_at = sequence, None

    @property
    def floor(self) -> int:
        """The sequence above which a push is a proof."""
        return self._floor or 0

    @property
    def is_proven(self) -> bool:
        """Whether there is a push to overlap with; without one, what follows is live on probation."""
        return self._proof is not None

    def is_reached(self, reached: int, *, paused: bool) -> bool:
        """Return whether history, read up to `reached`, is enough; `paused` where it shows nothing more for now."""
        if reached < self._target and not (paused and self._has_passed(self._began)):
            return False
        if self._proof is None or reached >= self._proof:
            return True
        return paused and self._has_passed(self._proven_at)

    def _has_passed(self, since: Moment | None) -> bool:
        return since is not None and self._clock.has_passed(since)
