"""What was found worth publishing, in order, until batches take it; and what is settled once they are committed.

There are two sights of the same things: what is queued (decisions look at it) and what is taken (the next
checkpoint says it). Everything that changes a checkpoint goes through the queue, in its place among the
events, so that a checkpoint never speaks of more than the batches up to its own hold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from gateway.events.catalogue import kind_of
from gateway.events.event import GAP, DeadLetter, Event, Notification
from gateway.session.checkpoint import Anchor, Checkpoint, Passed, encode_checkpoint
from gateway.session.dead_letters import reused, too_late
from gateway.session.dedup_window import DedupWindow
from gateway.session.finality import Sightings
from gateway.session.interval_set import IntervalSet
from gateway.session.settled_events import SettledEvents, Sight
from gateway.session.subscriptions import Subscription, Subscriptions, strategies_text
from gateway.session.types import Batch, Content, Outcome, OutgoingItem, SessionSettings, dead_letters_of, size_of

_SETTLED_SIZE: Final = 160
"""Bytes in memory of a settled sequence that waits for a checkpoint."""
_SLACK: Final = 128
"""Bytes that intervals may grow by one number: two intervals of 20 digits each, and the first gap."""
HOLE_BYTES: Final = 4 * 1024
"""Bytes that the holes which `verified` passed may take in a checkpoint; the lowest are forgotten first."""
_GAPS: Final = 16
"""Ranges that are announced apart; more are announced as one."""


class _Settled(msgspec.Struct, gc=False):
    """An event or dead letter to publish, or, without an item, one that is settled without that."""

    item: OutgoingItem | None
    size: int
    sequence: int | None
    identity: str
    claims: bool = False
    """It was published already, without its sequence."""
    is_unidentified: str | None = None
    """What it would be known by without its EventId, where that may come."""
    filtered: str = ""
    """The kind of an event that no subscription wanted."""
    is_apart: bool = False
    """A dead letter that settles no sequence, though it has one."""


class _Mark(msgspec.Struct, gc=False):
    """Once all before it is taken, everything up to `verified` is settled and final."""

    item: OutgoingItem | None
    """A gap that ends at `verified`."""
    size: int
    verified: int
    anchor: Anchor | None
    alone: bool = False
    """Nothing may stand in the same commit: it makes the account known."""


class _Change(msgspec.Struct, gc=False):
    """A subscription and its announcement."""

    item: OutgoingItem
    size: int
    subscription: Subscription


class Outbox:
    """The queue and the checkpoint of one account."""

    def __init__(
        self, account: str, checkpoint: Checkpoint, settings: SessionSettings, sightings: Callable[[], Sightings]
    ) -> None:
        """Go on from `checkpoint`; `sightings` gives those that the next one keeps."""
        self._account = account
        self._settings = settings
        self._sightings = sightings
        # As taken: what the next checkpoint says. Only take() changes it.
        self.verified = checkpoint.verified
        self.incarnation = checkpoint.incarnation
        self.subject = checkpoint.subject
        self._anchor = checkpoint.anchor
        self._settled = IntervalSet(checkpoint.settled)
        self._subscribed = Subscriptions(checkpoint.subscriptions)
        passed = checkpoint.passed or Passed(checkpoint.verified, checkpoint.verified)
        self._began, self._floor, self._holes = passed.began, passed.floor, IntervalSet(passed.holes)
        self._again = checkpoint.again
        # As queued.
        self.marked = checkpoint.verified
        self.anchor = checkpoint.anchor
        """The last event that a mark stands for: what history must begin with."""
        self.high = max(checkpoint.verified, self._settled.highest or 0)
        """The highest sequence that is queued or settled."""
        self.subscriptions = Subscriptions(checkpoint.subscriptions)
        self._placed = self._settled.copy()
        self._stragglers: set[int] = set()
        """Sequences of holes that are queued now."""
        self._dedup_window = DedupWindow(
            checkpoint.identities, checkpoint.unsequenced, settings.identities, settings.unsequenced
        )
        self._has_unidentified = False
        self._events = SettledEvents()
        self._traces = self._events.traces
        self.contradictions: list[tuple[Outcome, Content]] = []
        """What was queued though it is not as it should be, for whoever tells of it and clears the list."""
        self._queue: deque[_Settled | _Mark | _Change] = deque()
        self.bytes = 0
        """Of everything in the queue."""
        self.dead_letters = 0
        """Dead letters that were ever queued, as `dead_letters_of` counts them."""
        self.buffer_full = False
        """Whether pages must wait: from the limit on, until half of it is taken."""

    @property
    def highest(self) -> int:
        """The highest sequence that is settled: committed, or about to be."""
        return max(self.verified, self._settled.highest or 0)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits in the queue."""
        return not self._queue

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
        if sequence > self.verified:
            return sequence not in self._placed
        return sequence in self._holes and sequence not in self._stragglers

    def has_hole(self, first: int, last: int) -> bool:
        """Return whether any sequence from `first` to `last`, above `verified`, is neither settled nor queued."""
        return bool(self._placed.missing(first, last))

    def is_settled(self, sequence: int) -> bool:
        """Return whether `sequence`, up to `verified`, is certainly settled or queued."""
        return sequence > self._floor and not self.is_open(sequence)

    @property
    def began(self) -> int:
        """The account began after this sequence."""
        return self._began

    @property
    def forgotten(self) -> int:
        """Identities that there was no room to remember."""
        return self._dedup_window.forgotten

    def remembers(self, content: Content) -> bool:
        """Return whether the identity of `content` was published lately or is about to be."""
        return self._dedup_window.has_seen(content.identity)

    def note_unidentified(self, content: Content) -> None:
        """Note what sort of thing is pushed: where it has neither sequence nor EventId, history may know both."""
        self._has_unidentified = self._has_unidentified or content.id is None

    # Queueing -------------------------------------------------------------------------------------------

    def place(self, content: Content) -> Outcome:
        """Queue `content`, unless no subscription wanted it or its identity was published without a sequence."""
        sequence, identity, late, nameless = content.sequence, content.id or content.identity, False, None
        identities = self._dedup_window
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
            self._append(
                _Settled(None, _SETTLED_SIZE, sequence, identity, is_unidentified=nameless, filtered=kind_of(content))
            )
            return Outcome.FILTERED
        item = OutgoingItem(content, late, incarnation=self.incarnation)
        self.dead_letters += dead_letters_of(content)
        self._append(_Settled(item, size_of(content), sequence, identity, is_unidentified=nameless))
        return Outcome.LATE if late else Outcome.QUEUED

    def _take_number(self, sequence: int, content: Content) -> bool:
        """Let `content` have a number; return True where it comes behind a higher one."""
        self._traces[sequence] = content.id, hash(content.body) if type(content) is Event else None
        if sequence > self.verified:
            self._placed.add(sequence)
        if sequence <= self.marked:
            self._stragglers.add(sequence)
        if sequence > self.high:
            self.high = sequence
            return False
        return sequence < self.high

    def _was_published_without(self, sequence: int, identity: str, nameless: str | None) -> bool:
        """Settle a number whose event was published before it was known."""
        for known in (identity, nameless):
            if known is not None and self._dedup_window.claim(known):
                self._append(_Settled(None, _SETTLED_SIZE, sequence, known, claims=True))
                return True
        return False

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
            return self.place_reused(content, events.id_of(sequence), is_correction=sight is Sight.CORRECTED)
        if self._denies(sequence, content):
            return self.place_reused(content, None)
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
        unknown = max(self._floor, self._began, self._again)
        if isinstance(content, DeadLetter) or content.id is None or sequence <= unknown:
            return False
        is_kept = self._dedup_window.has_all or self.high - sequence < self._settings.identities // 2
        return is_kept and not self.remembers(content) and not self._dedup_window.has_seen(content.anonymous)

    def place_reused(self, content: Content, first: str | None, *, is_correction: bool = False) -> Outcome:
        """Queue `content`, whose number another event has, as a dead letter."""
        return self._place_letter(content, reused(content, first, is_correction=is_correction), Outcome.REUSED)

    def place_too_late(self, content: Content) -> Outcome:
        """Queue `content` as a dead letter: nothing is known any more of its number, which `verified` passed."""
        return self._place_letter(content, too_late(content, self.verified), Outcome.TOO_LATE)

    def _place_letter(self, content: Content, letter: DeadLetter, outcome: Outcome) -> Outcome:
        if not self.subscriptions.wants(content):
            return Outcome.DUPLICATE
        known = f"{content.identity}#{content.anonymous}"  # it must not pass for the event that it contradicts
        if self._dedup_window.has_seen(known):
            return Outcome.DUPLICATE
        self._dedup_window.on_queued(known, sequenced=True)
        item = OutgoingItem(letter, late=True, incarnation=self.incarnation)
        self.dead_letters += dead_letters_of(letter)
        self._append(_Settled(item, size_of(letter), None, known, is_apart=True))
        self.contradictions.append((outcome, content))
        return outcome

    def place_unconfirmed(self, content: Content) -> Outcome:
        """Queue `content`, whose number is far above all that the hub knows, marked late: it settles no number."""
        if self._dedup_window.has_seen(content.identity):
            return Outcome.DUPLICATE
        self._dedup_window.on_queued(content.identity, sequenced=False)
        if not self.subscriptions.wants(content):
            self._append(_Settled(None, _SETTLED_SIZE, None, content.identity, filtered=kind_of(content)))
            return Outcome.FILTERED
        item = OutgoingItem(content, late=True, incarnation=self.incarnation)
        self.dead_letters += dead_letters_of(content)
        self._append(_Settled(item, size_of(content), None, content.identity))
        self.contradictions.append((Outcome.UNCONFIRMED, content))
        return Outcome.LATE

    def _append(self, entry: _Settled | _Mark | _Change) -> None:
        self._queue.append(entry)
        self.bytes += entry.size
        self.buffer_full = self.buffer_full or self.bytes > self._settings.buffer_bytes

    def begin(self, verified: int) -> None:
        """Make the account known: this checkpoint is committed before any event, and tells what it subscribes to."""
        self.verified = self.marked = self.high = self._began = self._floor = verified
        subscription = self.subscriptions.held()[-1]
        item = None if subscription.strategies is None else self._announcement(subscription)
        self._append(_Mark(item, 0 if item is None else size_of(item.content), verified, None, alone=True))

    def mark(self, verified: int, anchor: Anchor | None) -> None:
        """Let everything up to `verified` be final; all of it that is known is queued."""
        if (verified, anchor) != (self.marked, self.anchor) and verified >= self.marked:
            self.marked, self.anchor = verified, anchor
            self._append(_Mark(None, 0, verified, anchor))

    def pass_gap(self, last: int) -> None:
        """Move past what the hub no longer has, up to `last`, and announce what of it is missing."""
        missing = self._placed.missing(self.marked + 1, last)
        if len(missing) > _GAPS:
            missing[_GAPS - 1 :] = [(missing[_GAPS - 1][0], missing[-1][1])]
        for first, final in missing:
            notification = Notification(self._account, GAP, {"FirstSeqId": first, "LastSeqId": final})
            item = OutgoingItem(notification, incarnation=self.incarnation)
            self._append(_Mark(item, size_of(item.content), final, self.anchor))
        self.mark(max(last, self.marked), self.anchor)

    def subscribe(self, subscription: Subscription) -> None:
        """Let `subscription` hold from its sequence on, and say so."""
        self.subscriptions.change(subscription)
        item = self._announcement(subscription)
        self._append(_Change(item, size_of(item.content), subscription))

    def _announcement(self, subscription: Subscription) -> OutgoingItem:
        detail: dict[str, str | int | None] = {
            "FromSeqId": subscription.since,
            "Strategies": strategies_text(subscription.strategies),
        }
        return OutgoingItem(Notification(self._account, "subscription-changed", detail), incarnation=self.incarnation)

    def subscribe_from_the_beginning(self, subscription: Subscription) -> None:
        """Let `subscription` hold for an account that has not begun."""
        self.subscriptions.change(subscription)
        self._subscribed.change(subscription)

    # Taking ---------------------------------------------------------------------------------------------

    def take(self, messages: int, size: int, measure: Callable[[OutgoingItem], int] | None = None) -> Batch | None:
        """Return the next batch, of at most `messages` items and `size` bytes; None when nothing waits.

        One item is taken however large it is. `measure` returns the bytes that an item takes in the commit; without it
        they are what it takes here, roughly. It is called once for each item of the batch, in their order, and perhaps
        for the one behind them.
        """
        if not self._queue:
            return None
        items: list[OutgoingItem] = []
        filtered: list[str] = []
        taken = 0
        while self._queue:
            entry = self._queue[0]
            if entry.item is not None:
                if items and len(items) >= messages:
                    break
                cost = entry.size if measure is None else measure(entry.item)
                if items and taken + cost > size:
                    break
                items.append(entry.item)
                taken += cost
            self._queue.popleft()
            self.bytes -= entry.size
            if isinstance(entry, _Settled):
                if entry.filtered:
                    filtered.append(entry.filtered)
                self._settle(entry)
            elif isinstance(entry, _Change):
                self._subscribed.change(entry.subscription)
                self._forget()
            else:
                self._verify(entry)
                if entry.alone:
                    break
        self.buffer_full = self.buffer_full and 2 * self.bytes > self._settings.buffer_bytes
        self._traces = self._events.trim(is_level=self.verified >= self.high)
        return Batch(tuple(items), encode_checkpoint(self.checkpoint()), tuple(filtered))

    def _settle(self, entry: _Settled) -> None:
        if entry.sequence is not None:
            if entry.sequence > self.verified:
                self._settled.add(entry.sequence)
            elif entry.sequence in self._stragglers:
                self._stragglers.discard(entry.sequence)
                self._holes.discard(entry.sequence)
        if entry.claims:
            self._dedup_window.on_claimed(entry.identity)
        else:
            self._dedup_window.on_taken(entry.identity, sequenced=entry.is_apart or entry.sequence is not None)
        if entry.is_unidentified is not None:
            self._dedup_window.on_taken(entry.is_unidentified, sequenced=True)

    def _verify(self, mark: _Mark) -> None:
        for low, high in self._settled.missing(self.verified + 1, mark.verified):
            self._holes.append(low, high)
        self.verified, self._anchor = mark.verified, mark.anchor
        for intervals in (self._settled, self._placed):
            intervals.drop_through(mark.verified)
        self._forget()

    def _forget(self) -> None:
        """Forget the lowest holes where they, or the subscriptions that they fall under, take too much room."""
        while self._holes.size > HOLE_BYTES:
            self._forget_holes(next(iter(self._holes))[1])
        self._forget_holes(self._subscribed.first_needed(self.verified) - 1)
        lowest = next(iter(self._holes))[0] if self._holes else self.verified + 1
        for subscriptions in (self._subscribed, self.subscriptions):
            subscriptions.forget_through(lowest - 1)

    def _forget_holes(self, last: int) -> None:
        if last > self._floor:
            self._floor = min(last, self.verified)
            self._holes.drop_through(self._floor)

    def checkpoint(self) -> Checkpoint:
        """Say what is settled once everything taken so far is committed."""
        is_new = self._began == self.verified and not self._holes
        return Checkpoint(
            verified=self.verified,
            anchor=self._anchor,
            settled=tuple(self._settled),
            identities=self._dedup_window.sequenced(),
            unsequenced=self._dedup_window.unsequenced(),
            incarnation=self.incarnation,
            subject=self.subject,
            subscriptions=self._subscribed.held(),
            passed=None if is_new else Passed(self._began, self._floor, tuple(self._holes)),
            sightings=self._sightings(),
            again=self._again if self._again > self.verified else 0,
        )
