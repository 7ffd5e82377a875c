"""What is to be published, in order, until batches take it; and what is settled once they are committed.

There are two views of the same things: what is queued (decisions look at it, here) and what is taken
(`CheckpointDraft`, the next checkpoint). Everything that changes a checkpoint goes through the queue, in its place
among the events, so that a checkpoint never covers more than the batches up to its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from gateway.events.catalogue import kind_of
from gateway.events.event import GAP, DeadLetter, Event, Notification
from gateway.session.checkpoint import Anchor, Checkpoint, encode_checkpoint
from gateway.session.checkpoint_draft import CheckpointDraft
from gateway.session.contradictions import Contradictions
from gateway.session.dedup_window import DedupWindow
from gateway.session.finality import Sightings
from gateway.session.interval_set import IntervalSet
from gateway.session.outgoing_queue import Change, Mark, OutgoingQueue, Settled
from gateway.session.settled_events import SettledEvents, Sight
from gateway.session.subscriptions import Subscription, Subscriptions, strategies_text
from gateway.session.types import Batch, Content, Outcome, OutgoingItem, SessionLimits

_SLACK: Final = 128
"""Bytes that intervals may grow by one number: two intervals of 20 digits each, and the first gap."""
_GAPS: Final = 16
"""Ranges that are announced apart; more are announced as one."""


class Outbox:
    """What is queued of one account: by number, by identity and in order."""

    def __init__(
        self, account: str, checkpoint: Checkpoint, settings: SessionLimits, sightings: Callable[[], Sightings]
    ) -> None:
        """Go on from `checkpoint`; `sightings` gives those that the next one keeps."""
        self._account = account
        self._settings = settings
        self.dedup_window = window = DedupWindow(
            checkpoint.identities, checkpoint.unsequenced, settings.identities, settings.unsequenced
        )
        self.draft = CheckpointDraft(checkpoint, window, sightings)
        """What is taken."""
        self.incarnation = checkpoint.incarnation
        self.marked = checkpoint.verified
        self.anchor = checkpoint.anchor
        """The last event that a mark stands for: what history must begin with."""
        self._placed = self.draft.settled()
        self._unannounced = IntervalSet(checkpoint.lost)
        """What was lost, and may still come."""
        self.high = max(checkpoint.verified, self._placed.highest or 0)
        """The highest sequence that is queued or settled."""
        self.subscriptions = Subscriptions(checkpoint.subscriptions)
        self._has_unidentified = False
        self._events = SettledEvents()
        self._traces = self._events.traces
        self._samples = self._events.samples
        self.learn_forms = self._events.learn_forms
        self.queue = OutgoingQueue(settings.buffer_bytes)
        self.contradictions = Contradictions(self.queue, window, self.subscriptions, self.incarnation)

    @property
    def verified(self) -> int:
        """Everything up to it is settled and final, once what is taken is committed."""
        return self.draft.verified

    @property
    def checkpoint_full(self) -> bool:
        """Whether the checkpoint has no room for one more sequence above `verified`."""
        return self._placed.size + _SLACK > self._settings.interval_bytes

    @property
    def checkpoint_half_full(self) -> bool:
        """Whether `verified` should follow each event, so that the checkpoint never gets crowded by final ones."""
        return 2 * self._placed.size > self._settings.interval_bytes

    def __contains__(self, sequence: int) -> bool:
        """Return whether `sequence`, above `verified`, is settled or queued."""
        return sequence in self._placed

    def is_open(self, sequence: int) -> bool:
        """Return whether `sequence` is certainly neither settled nor queued, though `verified` may have passed it."""
        if sequence > self.draft.verified:
            return sequence not in self._placed
        return self.draft.is_open_hole(sequence)

    def has_hole(self, first: int, last: int) -> bool:
        """Return whether any sequence from `first` to `last`, above `verified`, is neither settled nor queued."""
        return bool(self._placed.missing(first, last))

    def is_settled(self, sequence: int) -> bool:
        """Return whether `sequence`, up to `verified`, is certainly settled or queued."""
        return self.draft.is_remembered(sequence) and not self.is_open(sequence)

    def remembers(self, content: Content) -> bool:
        """Return whether the identity of `content` was published lately or is about to be."""
        return self.dedup_window.has_seen(content.identity)

    def note_unidentified(self, content: Content) -> None:
        """Note what identity a push has: where it has neither sequence nor EventId, history may have both."""
        self._has_unidentified = self._has_unidentified or content.id is None

    # Events ---------------------------------------------------------------------------------------------

    def place(self, content: Content) -> Outcome:
        """Queue `content`, unless no subscription wanted it or its identity was published without a sequence."""
        sequence, identity, late, nameless = content.sequence, content.id or content.identity, False, None
        identities, queue = self.dedup_window, self.queue
        if sequence is not None:
            late = self._take_number(sequence, content)
            knows_unsequenced = identities.knows_unsequenced
            if content.id is not None and (knows_unsequenced or self._has_unidentified):
                nameless = content.anonymous
            if knows_unsequenced and self._was_published_without(sequence, identity, nameless):
                return Outcome.DUPLICATE
        elif identities.has_seen(identity):
            return Outcome.DUPLICATE
        identities.on_queued(identity, sequenced=sequence is not None)
        if nameless is not None:
            identities.on_queued(nameless, sequenced=True)
        if not self.subscriptions.wants(content):
            queue.append(Settled(None, sequence, identity, is_unidentified=nameless, filtered=kind_of(content)))
            return Outcome.FILTERED
        item = OutgoingItem(content, late, incarnation=self.incarnation)
        queue.append(Settled(item, sequence, identity, is_unidentified=nameless))
        return Outcome.LATE if late else Outcome.QUEUED

    def _take_number(self, sequence: int, content: Content) -> bool:
        """Let `content` have a number; return True where it comes behind a higher one."""
        if type(content) is Event:
            self._traces[sequence] = content.id, hash(content.body)
            self._samples.append(content)
            if self._events.forms_differ:
                self._events.add_meaning(sequence, content)
        else:
            self._traces[sequence] = content.id, None
        if sequence > self.draft.verified:
            self._placed.add(sequence)
        if sequence <= self.marked:
            self.draft.stragglers.add(sequence)
        if sequence > self.high:
            self.high = sequence
            return False
        return sequence < self.high

    def _was_published_without(self, sequence: int, identity: str, nameless: str | None) -> bool:
        """Settle a number whose event was published before the number was known."""
        for known in (identity, nameless):
            if known is not None and self.dedup_window.claim(known):
                self.queue.append(Settled(None, sequence, known, claims=True))
                return True
        return False

    # Another sight of a number --------------------------------------------------------------------------

    def is_same(self, sequence: int, content: Content) -> bool:
        """Return whether `content` is certainly what settled its number, or was published lately."""
        if sequence in self._events:
            return self._events.compare(sequence, content) is Sight.SAME
        return self.remembers(content)

    def meet(self, content: Content) -> Outcome:
        """Take another sight of a number that is settled or queued: of the same event, or not."""
        sequence, events = content.sequence, self._events
        assert sequence is not None  # noqa: S101 - the caller looked
        if sequence in events:
            sight = events.compare(sequence, content)
            if sight is Sight.WHOLE:
                return self.place(content)  # nothing of that number is on its topic
            if sight is Sight.SAME:
                return Outcome.DUPLICATE
            is_correction = sight is Sight.CORRECTED
            return self.contradictions.place_reused(content, events.id_of(sequence), is_correction=is_correction)
        if self._denies(sequence, content):
            return self.contradictions.place_reused(content, None)
        return Outcome.DUPLICATE

    def contradicts(self, content: Content) -> bool:
        """Return whether `content` certainly is another event than the one that has its number, above `verified`."""
        sequence = content.sequence
        if sequence is None or sequence not in self:
            return False
        if sequence in self._events:
            return self._events.compare(sequence, content) is Sight.ANOTHER
        return self._denies(sequence, content)

    def _denies(self, sequence: int, content: Content) -> bool:
        """Return whether a number that is settled certainly is so by another event than `content`.

        The identities of the last events are remembered, over restarts as well: that of the number must be among them,
        where nothing was ever forgotten or the number is one of the last, and nothing was published again since.
        """
        if isinstance(content, DeadLetter) or content.id is None or sequence <= self.draft.unknown_through:
            return False
        is_kept = self.dedup_window.has_all or self.high - sequence < self._settings.identities // 2
        return is_kept and not self.remembers(content) and not self.dedup_window.has_seen(content.anonymous)

    # Everything else that changes the checkpoint --------------------------------------------------------

    def begin(self, verified: int) -> None:
        """Make the account known: this checkpoint is committed before any event, and has the subscription."""
        self.draft.begin(verified)
        self.marked = self.high = verified
        subscription = self.subscriptions.held()[-1]
        item = None if subscription.strategies is None else _announcement(self._account, self.incarnation, subscription)
        self.queue.append(Mark(item, verified, None, alone=True))

    def mark(self, verified: int, anchor: Anchor | None) -> None:
        """Let everything up to `verified` be final; all of it that is known is queued, and announced what is lost."""
        if (verified, anchor) != (self.marked, self.anchor) and verified >= self.marked:
            lost = [(low, min(high, verified)) for low, high in self._unannounced if low <= verified]
            self._announce([one for low, high in lost for one in self._placed.missing(low, high)])
            self._unannounced.drop_through(verified)
            self.marked, self.anchor = verified, anchor
            self.queue.append(Mark(None, verified, anchor))

    def pass_gap(self, last: int) -> None:
        """Move past what the hub no longer has, up to `last`, and announce what of it is missing."""
        self._announce(self._placed.missing(self.marked + 1, last))
        self._unannounced.drop_through(last)
        self.mark(max(last, self.marked), self.anchor)

    def _announce(self, missing: list[tuple[int, int]]) -> None:
        """Announce as gaps what is missing; all before each is final."""
        for item, final in gaps_of(self._account, self.incarnation, missing):
            self.queue.append(Mark(item, final, self.anchor))

    def gaps_of_losses(self) -> list[OutgoingItem]:
        """Return the gaps of lost events that were not published again, for a checkpoint that ends this one."""
        lost = [missing for low, high in self._unannounced for missing in self._placed.missing(low, high)]
        return [item for item, _ in gaps_of(self._account, self.incarnation, lost)]

    def subscribe(self, subscription: Subscription) -> None:
        """Let `subscription` hold from its sequence on, and announce it."""
        self.subscriptions.change(subscription)
        item = _announcement(self._account, self.incarnation, subscription)
        self.queue.append(Change(item, subscription))

    def subscribe_from_the_beginning(self, subscription: Subscription) -> None:
        """Let `subscription` hold for an account that has not begun."""
        self.subscriptions.change(subscription)
        self.draft.subscribe_from_the_beginning(subscription)

    # Taking ---------------------------------------------------------------------------------------------

    def take(self, messages: int, size: int, measure: Callable[[OutgoingItem], int] | None = None) -> Batch | None:
        """Return the next batch, of at most `messages` items and `size` bytes; None when nothing waits.

        One item is taken however large it is. `measure` returns the bytes that an item takes in the commit; without it
        they are what it takes here, roughly. It is called once for each item of the batch, in their order, and perhaps
        for the one behind them.
        """
        if not self.queue:
            return None
        draft = self.draft
        known = draft.verified, draft.judged_after
        items, filtered = self.queue.take(messages, size, measure, draft, self.dedup_window)
        if (draft.verified, draft.judged_after) != known:
            self._placed.drop_through(draft.verified)
            self.subscriptions.forget_through(draft.judged_after)
        self._traces = self._events.trim(is_level=draft.verified >= self.high)
        return Batch(tuple(items), encode_checkpoint(draft.checkpoint()), tuple(filtered))


def gaps_of(account: str, incarnation: int, missing: list[tuple[int, int]]) -> Iterator[tuple[OutgoingItem, int]]:
    """Yield the gaps that announce what is missing, each with its last sequence."""
    if len(missing) > _GAPS:
        missing[_GAPS - 1 :] = [(missing[_GAPS - 1][0], missing[-1][1])]
    for first, final in missing:
        notification = Notification(account, GAP, {"FirstSeqId": first, "LastSeqId": final})
        yield OutgoingItem(notification, incarnation=incarnation), final


def _announcement(account: str, incarnation: int, subscription: Subscription) -> OutgoingItem:
    detail: dict[str, str | int | None] = {
        "FromSeqId": subscription.since,
        "Strategies": strategies_text(subscription.strategies),
    }
    return OutgoingItem(Notification(account, "subscription-changed", detail), incarnation=incarnation)
