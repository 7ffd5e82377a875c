"""How far an account's log is behind its hub: in sequences, and for how long.

Only committed events count. Where events flow without a pause, something is always on its way. So the lag is the time
since the last moment up to which everything is committed. When a batch is taken, the hub's latest sequence at that time
is remembered; once it is committed, the log was level at that moment.
"""

from __future__ import annotations


class Lag:
    """What the hub has, and what the log has; times are seconds of the monotonic clock."""

    __slots__ = ("_is_taken", "_mark", "answered_at", "held_up_by", "latest", "level_at", "settled", "verified")

    def __init__(self) -> None:
        self.latest = 0
        """The hub's latest sequence, as last returned or pushed; kept while there is no session."""
        self.settled = 0
        """The highest sequence that is committed - published, filtered or dead-lettered - or that will never come."""
        self.verified = 0
        """Everything up to this is committed, and the history there is final."""
        self.level_at = 0.0
        """The newest moment at which the log is known to have had everything."""
        self.answered_at = 0.0
        """When the hub last answered what its latest sequence is."""
        self.held_up_by: str | None = None
        """Why a message of it does not get through to the broker, also while the account is live."""
        self._mark: tuple[float, int] | None = None
        self._is_taken = False  # a batch that is not committed yet

    @property
    def sequences(self) -> int:
        """Sequences that the hub has and the log has not: an upper bound, since they may have holes."""
        return max(0, self.latest - self.settled)

    def begin(self, now: float) -> None:
        """Serve the account from now on: nothing is known of what was before."""
        self.level_at, self._mark, self._is_taken = now, None, False

    def on_attached(self, settled: int, verified: int) -> None:
        """The log is open: this is what is committed."""
        self.settled, self.verified, self._mark, self._is_taken = settled, verified, None, False

    def forget(self) -> None:
        """Go on from another checkpoint, perhaps to another history."""
        self.latest, self._mark, self.held_up_by = 0, None, None

    def on_accounted(self, sequence: int) -> None:
        """Nothing up to this will come any more, and nothing waits to be taken: so it counts once all is committed."""
        if not self._is_taken:
            self.settled = max(self.settled, sequence)

    def on_taken(self, latest: int, now: float) -> None:
        """A batch is taken, while the hub's latest sequence is `latest`."""
        self.latest, self._is_taken = latest, True
        if self._mark is None:
            self._mark = now, latest

    def on_committed(self, settled: int, verified: int) -> None:
        """A batch is committed, up to these."""
        self.settled, self.verified, self._is_taken = settled, verified, False
        if self._mark is not None and settled >= self._mark[1]:
            self.level_at, self._mark = max(self.level_at, self._mark[0]), None
