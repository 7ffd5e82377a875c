"""The state of a session at the hub: offline, catching up or live, and whether the history there is trusted.

Trust belongs to a connection. What arrived over it is published only once its history proves to be the one from which
the checkpoint was made. Where a connection ends before that, or diverges, all that arrived over it is discarded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gateway.errors import Diverged
from gateway.events.event import digest
from gateway.session.finality import MOST as SIGHTINGS
from gateway.session.finality import Sighting
from gateway.session.page_merge import PageMerger
from gateway.session.parts import SessionParts
from gateway.session.types import State

_MAX_SUBJECT: Final = 256
"""Characters of a subject that the checkpoint keeps as they are; a longer one is kept as its digest."""


class SessionLifecycle:
    """The states of one session, and every step back from live; the way forward is the session's."""

    __slots__ = (
        "_clock",
        "_cursor",
        "_doubtful",
        "_finality",
        "_first_trial",
        "_latest",
        "_merger",
        "_outbox",
        "_overlap",
        "_unproven",
        "_waiting",
        "is_auditing",
        "is_on_probation",
        "is_starved",
        "is_subscribed",
        "is_trusted",
        "state",
        "subject",
    )

    def __init__(self, parts: SessionParts, merger: PageMerger) -> None:
        """Offline; the other parts of the session are reset with each step back."""
        self._outbox = parts.outbox
        self._waiting = parts.waiting
        self._doubtful = parts.doubtful
        self._cursor = parts.cursor
        self._merger = merger
        self._overlap = parts.overlap
        self._latest = parts.latest
        self._finality = parts.finality
        self._clock = parts.clock
        self.state = State.OFFLINE
        self.is_subscribed = False
        """Whether the hub confirmed the subscription over the present connection."""
        self.is_trusted = False
        """Whether the history was proven in the present trial."""
        self.subject: str | None = None
        """Of the key that the connection was made with, where it is a JWT."""
        self._first_trial = 0  # of the connection that stands
        self._unproven: list[Sighting] = []  # the hub's answers since its history was proven last
        self._begin_paging()

    def _begin_paging(self) -> None:
        """Ask for the latest sequence, then page from the anchor."""
        self._latest.ask_anew()
        self.is_starved = False
        """Whether paging had to wait for room."""
        self.is_auditing = False
        """Whether the history is looked at again while live."""
        self.is_on_probation = False
        """Whether it is live without a push that overlaps with history: a first one that leaves a hole ends that."""
        self._merger.reset()
        self._look_from_the_anchor()

    def _look_from_the_anchor(self) -> None:
        self._doubtful.look(self._clock)
        self._cursor.begin(self._outbox.marked, self._outbox.anchor)

    @property
    def is_paging(self) -> bool:
        """Whether there is history to read."""
        return self.state is State.CATCHING_UP or (self.state is State.LIVE and self.is_auditing)

    def on_connected(self, subject: str | None) -> None:
        """Note a new connection, whose history must be proven again. Raises Diverged for a key of another subject."""
        subject = subject if subject is None or len(subject) <= _MAX_SUBJECT else digest(subject.encode())
        pinned = self._outbox.draft.subject
        if subject is not None and pinned is not None and subject != pinned:
            raise Diverged(
                f"the key is of subject {subject!r}, the events published so far came with one of {pinned!r}. "
                "If that is meant, reset the checkpoint"
            )
        self.subject = subject
        self.is_subscribed = False
        self.end_trial()
        self._first_trial = self._waiting.trial
        self._cursor.on_connected()
        self._doubtful.on_connected()
        self._waiting.invalidate_proofs()
        high = self._outbox.high
        self._overlap.on_connected(max(high, self._waiting.highest))
        self._latest.on_connected(high)
        self._begin_paging()
        self.state = State.CATCHING_UP

    def catch_up_again(self) -> None:
        """Go back to reading the history, over the same connection."""
        self.state = State.CATCHING_UP
        self._overlap.again(self._outbox.high)
        self._begin_paging()

    def begin_audit(self) -> None:
        """Look at the history again while live."""
        self.is_auditing = True
        self._look_from_the_anchor()

    def doubt(self) -> None:
        """Distrust the history, which may be another one now: what comes from here on waits until that is clear."""
        if self.is_trusted:
            self.end_trial()
        self.catch_up_again()

    def end_trial(self) -> int:
        """Discard what came over a history that was not proven, and let what comes from now on stand its own trial."""
        discarded = 0 if self.is_trusted else self._discard_since(self._waiting.trial)
        self._waiting.trial += 1
        self.is_trusted = False
        self._unproven.clear()
        return discarded

    def _discard_since(self, trial: int) -> int:
        return self._waiting.discard_since(trial) + self._doubtful.discard_since(trial)

    def trust(self) -> bool:
        """Note that the history is the one that the checkpoint was made from; return whether that is new."""
        if self.is_trusted:
            return False
        self.is_trusted = True
        for sighting in self._unproven:
            self._believe(sighting)
        self._unproven.clear()
        if self.subject is not None:
            self._outbox.draft.subject = self.subject
        return True

    def on_latest(self, sighting: Sighting) -> None:
        """Take the hub's latest sequence as what it has, as soon as its history is proven."""
        if self.is_trusted:
            self._believe(sighting)
        else:
            self._unproven = [*self._unproven, sighting][:SIGHTINGS]

    def _believe(self, sighting: Sighting) -> None:
        self._finality.on_latest(sighting.latest, sighting.moment)
        self._doubtful.learn(sighting.latest)

    @contextmanager
    def distrusting_what_diverged(self) -> Iterator[None]:
        """Discard all that came over this connection where the history diverges within."""
        try:
            yield
        except Diverged:
            self._discard_since(self._first_trial)
            self.is_trusted = False
            self.state = State.OFFLINE  # nothing more is taken from this connection
            raise
