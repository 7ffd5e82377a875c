"""Events that are published although they contradict the history: marked for consumers, and logged for operators."""

from __future__ import annotations

from gateway.events.catalogue import kind_of
from gateway.events.event import DeadLetter
from gateway.session.dead_letters import reused, too_late
from gateway.session.dedup_window import DedupWindow
from gateway.session.outgoing_queue import OutgoingQueue, Settled
from gateway.session.subscriptions import Subscriptions
from gateway.session.types import Content, Outcome, OutgoingItem


class Contradictions:
    """Queues the contradictions of one account, and keeps a list for the log."""

    __slots__ = ("_incarnation", "_queue", "_queued", "_subscriptions", "_window")

    def __init__(
        self, queue: OutgoingQueue, window: DedupWindow, subscriptions: Subscriptions, incarnation: int
    ) -> None:
        """Each goes through `queue`, unless `subscriptions` exclude it or `window` has it."""
        self._queue = queue
        self._window = window
        self._subscriptions = subscriptions
        self._incarnation = incarnation
        self._queued: list[tuple[Outcome, Content]] = []

    def take(self) -> list[tuple[Outcome, Content]]:
        """Return what was queued since the last call."""
        found, self._queued = self._queued, []
        return found

    def place_reused(self, content: Content, first: str | None, *, is_correction: bool = False) -> Outcome:
        """Queue `content`, whose number another event has, as a dead letter."""
        return self._place_letter(content, reused(content, first, is_correction=is_correction), Outcome.REUSED)

    def place_too_late(self, content: Content, verified: int) -> Outcome:
        """Queue `content` as a dead letter: nothing is known any more of its number, which `verified` passed."""
        return self._place_letter(content, too_late(content, verified), Outcome.TOO_LATE)

    def _place_letter(self, content: Content, letter: DeadLetter, outcome: Outcome) -> Outcome:
        if not self._subscriptions.wants(content):
            return Outcome.DUPLICATE
        known = f"{content.identity}#{content.anonymous}"  # it must not pass for the event that it contradicts
        if self._window.has_seen(known):
            return Outcome.DUPLICATE
        self._window.on_queued(known, sequenced=True)
        item = OutgoingItem(letter, late=True, incarnation=self._incarnation)
        self._queue.append(Settled(item, None, known, is_apart=True))
        self._queued.append((outcome, content))
        return outcome

    def place_unconfirmed(self, content: Content) -> Outcome:
        """Queue `content`, whose number is far above all that the hub has, marked late: it settles no number."""
        if self._window.has_seen(content.identity):
            return Outcome.DUPLICATE
        self._window.on_queued(content.identity, sequenced=False)
        if not self._subscriptions.wants(content):
            self._queue.append(Settled(None, None, content.identity, filtered=kind_of(content)))
            return Outcome.FILTERED
        item = OutgoingItem(content, late=True, incarnation=self._incarnation)
        self._queue.append(Settled(item, None, content.identity))
        self._queued.append((Outcome.UNCONFIRMED, content))
        return Outcome.LATE
