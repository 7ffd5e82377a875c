"""What one account holds of the memory that all accounts have together, and when its socket is not read for that."""

from __future__ import annotations

from collections.abc import Awaitable

from gateway.replica.memory import MemoryShare, memory_exhausted
from gateway.replica.source.backpressure import Backpressure
from gateway.session.session import Session


class MemoryUse:
    """The bytes of one account, wherever they wait: in the session, in a batch, in a record that is not complete."""

    __slots__ = ("_backpressure", "_unfinished", "in_flight", "share")

    def __init__(self, share: MemoryShare) -> None:
        self.share = share
        """What the budget knows of it."""
        self.in_flight = 0
        """Bytes of the batch that the shard is about to commit."""
        self._unfinished = 0  # as the budget knows them
        self._backpressure = Backpressure()

    def measure(self, session: Session) -> None:
        """Let the budget know what the session holds now."""
        self.share.hold(session.queued_bytes + self.in_flight, session.waiting_bytes)

    def measure_unfinished(self, unfinished: int) -> None:
        """Let it know of a record that is not complete; raises ConnectionLost where there is no room for it."""
        if unfinished != self._unfinished:
            self._unfinished = unfinished
            if not self.share.hold_unfinished(unfinished):
                raise memory_exhausted(unfinished)

    def wait(self, *, pressed: bool) -> Awaitable[None] | None:
        """Return what to wait for before more is read, if anything; `pressed` tells whether much waits already."""
        return self._backpressure.wait(pressed=pressed)

    def on_batch_taken(self, size: int) -> None:
        """The shard took `size` bytes, which are held until they are committed: more pushes may be read."""
        self.in_flight += size
        self._backpressure.on_batch_taken()

    def on_detached(self) -> None:
        """There is no session any more: nothing is held but what is read."""
        self.in_flight = 0
        self.share.hold(0)
        self._backpressure.on_batch_taken()

    def on_disconnected(self) -> None:
        """There is no connection any more: nothing is read."""
        self._unfinished = 0
        self.share.hold_unfinished(0)
