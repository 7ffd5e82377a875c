"""Events that the hub cannot return, not even alone, and the next event that it does return."""

from __future__ import annotations


class UnservableEvents(Exception):
    """The hub gives nothing of what follows `since`, up to `through`, but what comes behind that."""

    def __init__(self, since: int, through: int) -> None:
        super().__init__(f"the hub cannot give what follows {since}, up to {through}")
        self.since = since
        self.through = through


class UnservableSearch:
    """Looks behind an event that cannot be given for the first sequence after which others can.

    It is nearly always the next one; numbers may be sparse, so each step is twice as long, and then halved. Before the
    sequence that is found, nothing must be given still: else the hub was away for a while, and the search goes on.
    """

    def __init__(self, since: int, last: int, tries: int) -> None:
        """What follows `since` failed; nothing beyond `last` is passed. A place counts as failed after `tries`."""
        self.since = since
        self._last = last
        self._tries = tries
        self._fails_at = since
        self._works_at: int | None = None
        self._step = 1
        self._failures = 0
        self._is_sure = False

    @property
    def at(self) -> int:
        """The sequence after which a single event is to be requested now."""
        if self._works_at is None:
            return min(self.since + self._step, self._last)
        return (self._fails_at + self._works_at) // 2  # where they are neighbours, what failed is tried again

    @property
    def through(self) -> int | None:
        """The last sequence that must be passed, once it is found."""
        return self._works_at if self._is_sure else None

    @property
    def is_void(self) -> bool:
        """Whether the hub gives what follows `since` after all."""
        return self._works_at == self.since

    def on_page(self) -> None:
        """The hub answered there."""
        at, self._failures = self.at, 0
        if at == self._fails_at:  # it failed while the hub was away
            self._fails_at = self.since
        self._works_at = at

    def on_failure(self) -> None:
        """It did not. Where it gives nothing anywhere, it is not about one event: all begins again."""
        self._failures += 1
        if self._failures < self._tries:
            return
        at, self._failures = self.at, 0
        if self._works_at is not None:
            self._is_sure, self._fails_at = at == self._fails_at, at
        elif at == self._last:
            self._fails_at, self._step = self.since, 1
        else:
            self._fails_at = at
            self._step *= 2
