"""The parts of a session: the state that its classes share for reading the history, taking pushes and going back."""

from __future__ import annotations

from gateway.session.checkpoint import Checkpoint
from gateway.session.doubtful_pushes import DoubtfulPushes
from gateway.session.finality import Finality
from gateway.session.history_cursor import HistoryCursor
from gateway.session.hub_clock import HubClock
from gateway.session.latest import LatestSequence
from gateway.session.outbox import Outbox
from gateway.session.overlap import Overlap
from gateway.session.reorder_buffer import ReorderBuffer
from gateway.session.types import SessionLimits


class SessionParts:
    """The parts of one session that have no part themselves; each class that is given them keeps those that it uses."""

    __slots__ = ("clock", "cursor", "doubtful", "finality", "latest", "outbox", "overlap", "settings", "waiting")

    def __init__(self, account: str, checkpoint: Checkpoint, settings: SessionLimits) -> None:
        """Make them from `checkpoint`."""
        self.settings = settings
        self.clock = clock = HubClock(settings.grace)
        self.finality = finality = Finality(clock, checkpoint.sightings)
        self.outbox = outbox = Outbox(account, checkpoint, settings, lambda: finality.sightings)
        """What is to be published, and the checkpoint."""
        self.waiting = ReorderBuffer()
        """Pushes before which something is missing."""
        self.doubtful = DoubtfulPushes()
        self.cursor = HistoryCursor(clock, lambda content: content.id is not None and outbox.remembers(content))
        """Where the history is read."""
        self.overlap = Overlap(clock)
        self.latest = LatestSequence(clock)
