"""The latest sequence that the hub returns: how far the history must be read, and what the hub claims to have."""

from __future__ import annotations

from gateway.session.finality import Sighting
from gateway.session.hub_clock import HubClock, Moment


class LatestSequence:
    """The hub's latest sequence, over the present connection."""

    __slots__ = ("_claim", "_clock", "_paged_since", "accounted_through", "answered_at", "is_old", "sequence")

    def __init__(self, clock: HubClock) -> None:
        """`clock` shows when the grace of a claim has passed."""
        self._clock = clock
        self.sequence = 0
        """As last returned or pushed."""
        self.accounted_through = 0
        """Up to here it is known what became of every sequence: some that the hub counted it never showed."""
        self._claim: Sighting | None = None  # the hub's latest, and when the hub returned it first
        self.ask_anew()

    def on_connected(self, known: int) -> None:
        """Note a new connection, over which the hub has returned nothing; `known` is settled already."""
        self.sequence, self._claim = known, None

    def ask_anew(self) -> None:
        """Forget the answer: the hub must be asked before the next page."""
        self.answered_at: Moment | None = None
        self._paged_since: float | None = None  # our monotonic clock at the first page after that
        self.is_old = False
        """Whether the answer is so old that what is read now would never be final."""

    def on_answer(self, sequence: int) -> Sighting:
        """Take the latest sequence that the hub returned; return it with the hub's time."""
        sighting = Sighting(sequence, self._clock.now)
        self.sequence = max(self.sequence, sequence)
        self.answered_at, self._paged_since, self.is_old = sighting.moment, None, False
        self._claim = self._claim or sighting
        return sighting

    @property
    def must_be_asked(self) -> bool:
        """Whether the hub must return it before the next page."""
        return self.answered_at is None or self.is_old

    def on_all_shown(self) -> None:
        """Note that history has shown all it has: what the hub claimed longer than the grace ago will never come."""
        if self._claim is not None and self._clock.has_passed(self._claim.moment):
            self.accounted_through, self._claim = max(self.accounted_through, self._claim.latest), None

    def on_page(self, now: float, grace: float) -> None:
        """Note a page: the hub must return its latest again once a grace has passed since it did."""
        if self._paged_since is None:
            self._paged_since = now
        elif now - self._paged_since > grace:
            self.is_old = True
