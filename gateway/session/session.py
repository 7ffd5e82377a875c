"""One account's way from the hub to the log: what to page, what to publish and when, what is settled.

A session knows no socket, no broker and no clock: it is told what the hub pushed and paged, it says which
page it wants next, and it gives batches. It lives from one opening of its shard's log to the next and is
thrown away, never rewound, when the outcome of a commit is unknown.

How nothing is lost or doubled between history and live: the account subscribes first; pushes are held
while history is paged from the checkpoint; when a page has passed the latest sequence known at the
subscription and overlaps what is held, that is drained and the session is live. Where no push has come to
overlap with, the session goes live on probation: a first push that leaves a hole sends it back to paging.
Sequences may have holes, so a hole proves nothing by itself; the audit, a later look at the history from
`verified`, finds what was never pushed.

Trust belongs to a connection: what came over one is published only once its history was found to be the one that
the checkpoint was made from. Where a connection ends before that, or diverges, all that came over it is discarded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from gateway.errors import Diverged
from gateway.events.dead_letter_reasons import DeadLetterReason
from gateway.events.event import DeadLetter, Event, digest
from gateway.events.times import ticks
from gateway.session.checkpoint import Checkpoint
from gateway.session.doubtful_pushes import Doubt, Doubtful, DoubtfulPushes
from gateway.session.finality import MOST as SIGHTINGS
from gateway.session.finality import Finality, Sighting
from gateway.session.history_cursor import CursorPhase, HistoryCursor, is_newer
from gateway.session.hub_clock import HubClock, Moment
from gateway.session.outbox import Outbox
from gateway.session.overlap import Overlap
from gateway.session.page_merge import PageMerger
from gateway.session.reorder_buffer import ReorderBuffer
from gateway.session.settled_events import Sight, compare
from gateway.session.subscriptions import Strategies, Subscription, check_strategies
from gateway.session.types import Batch, Content, Outcome, OutgoingItem, Page, PageRequest, SessionSettings, State

_MAX_SUBJECT: Final = 256
"""Characters of a subject that the checkpoint keeps as they are; a longer one is kept as its digest."""


class Session:
    """The state of one account between two openings of its shard's log."""

    # A dictionary of so many members takes 1.6 KB for each account.
    __slots__ = (
        "_auditing",
        "_checkpoint_lost",
        "_claim",
        "_clock",
        "_cursor",
        "_desired",
        "_doubtful",
        "_finality",
        "_is_latest_old",
        "_is_trusted",
        "_latest_answers",
        "_merger",
        "_outbox",
        "_overlap",
        "_paged_since",
        "_probation",
        "_settings",
        "_start",
        "_starved",
        "_subject",
        "_subscribed",
        "_told_at",
        "_trial",
        "_unproven",
        "_waiting",
        "account",
        "accounted_through",
        "dropped_pushes",
        "latest",
        "state",
    )

    def __init__(
        self,
        account: str,
        checkpoint: Checkpoint | None,
        *,
        start: str | int = "earliest",
        settings: SessionSettings | None = None,
        known: bool = False,
    ) -> None:
        """Go on from `checkpoint`, or begin a new account at `start` (`earliest`, `latest`, a sequence).

        `known` tells whether the registry has the account: then a missing checkpoint was lost, and `connected`
        raises Diverged.
        """
        self.account = account
        self.state = State.OFFLINE
        self.latest = 0
        """The hub's latest sequence, as last told or pushed."""
        self.accounted_through = 0
        """Up to here it is known what became of every sequence: some that the hub counted it never showed."""
        self.dropped_pushes = 0
        """Pushes that found no room, or had to make some: only history can give them again."""
        self._settings = settings or SessionSettings()
        self._clock = HubClock(self._settings.grace)
        self._start = start if checkpoint is None else None
        self._checkpoint_lost = known and checkpoint is None
        begun = checkpoint or Checkpoint(verified=0)
        self._finality = Finality(self._clock, begun.sightings)
        self._outbox = Outbox(account, begun, self._settings, lambda: self._finality.sightings)
        self._waiting = ReorderBuffer()
        self._doubtful = DoubtfulPushes()
        self._desired: Subscription | None = None
        self._latest_answers = 0
        self._claim: Sighting | None = None  # what the hub said is its latest, and when it did first
        self._unproven: list[Sighting] = []  # what it said since its history was proven last
        # Where paging stands.
        self._cursor = HistoryCursor(
            self._clock, lambda content: content.id is not None and self._outbox.remembers(content)
        )
        self._merger = PageMerger(
            self._outbox, self._waiting, self._doubtful, self._cursor, self._finality, self._clock
        )
        self._overlap = Overlap(self._clock)
        self._subject: str | None = None
        self._subscribed = False
        self._trial = 0
        """The first trial of the connection that stands."""
        self._is_trusted = False
        """Whether the history was proven in the trial that stands."""
        self._begin_paging()

    def _begin_paging(self) -> None:
        """Ask for the latest sequence, then page from the anchor."""
        self._told_at: Moment | None = None
        self._paged_since: float | None = None  # our monotonic clock at the first page after that
        self._is_latest_old = False
        self._starved = False
        self._auditing = self._probation = False
        self._merger.reset()
        self._doubtful.look(self._clock)
        self._cursor.begin(self._outbox.marked, self._outbox.anchor)

    @property
    def highest(self) -> int:
        """The highest sequence that is settled: committed, or about to be."""
        return self._outbox.highest

    @property
    def has_latest(self) -> bool:
        """Whether `latest` is what the hub said over this connection, and not what was known before."""
        return self._told_at is not None

    @property
    def is_begun(self) -> bool:
        """Whether there is a checkpoint, or one is about to be."""
        return self._start is None and not self._checkpoint_lost

    @property
    def is_fresh(self) -> bool:
        """Whether there never was a checkpoint."""
        return self._start is not None and not self._checkpoint_lost

    @property
    def verified(self) -> int:
        """Everything up to this is settled, and the history there is final."""
        return self._outbox.verified

    @property
    def incarnation(self) -> int:
        """How often an operator declared the history to be another, and one."""
        return self._outbox.incarnation

    @property
    def strategies(self) -> Strategies:
        """The subscription that holds for events to come, or is about to."""
        return self._desired.strategies if self._desired is not None else self._outbox.subscriptions.newest

    @property
    def is_changing(self) -> bool:
        """Whether a subscription was asked for that does not hold yet."""
        return self._desired is not None

    @property
    def strays(self) -> int:
        """Events that pages gave out of place, below what is verified and not remembered: they are not published."""
        return self._merger.strays

    @property
    def unpushed(self) -> int:
        """Events that audits found and published though they were never pushed."""
        return self._merger.unpushed

    @property
    def forgotten_identities(self) -> int:
        """Events without a sequence that are more than can be remembered: shown again, they are published again."""
        return self._outbox.forgotten

    @property
    def dead_letters(self) -> int:
        """Dead letters that were ever queued, as `dead_letters_of` counts them."""
        return self._outbox.dead_letters

    @property
    def lost_dead_letters(self) -> int:
        """Dead letters without a sequence that were discarded with a connection: history will not have them."""
        return self._waiting.lost_letters

    @property
    def queued_bytes(self) -> int:
        """Bytes of everything that waits here."""
        return self._outbox.bytes + self._waiting.bytes + self._doubtful.bytes

    @property
    def has_batch(self) -> bool:
        """Whether `take` has something to give."""
        return not self._outbox.is_empty

    @property
    def is_backpressured(self) -> bool:
        """Whether pushes come faster than batches are taken: half of the room is full."""
        return self.state is State.LIVE and 2 * self._outbox.bytes > self._settings.buffer_bytes

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the pushes among them that wait for history."""
        return 0 if self.state is State.LIVE else self._waiting.bytes + self._doubtful.bytes

    def take_contradictions(self) -> list[tuple[Outcome, Content]]:
        """Return what was queued since the last call though it is not as it should be, for people to hear of."""
        found, self._outbox.contradictions = self._outbox.contradictions, []
        return found

    def checkpoint(self) -> Checkpoint:
        """Say what is settled once everything taken so far is committed."""
        return self._outbox.checkpoint()

    # What the operator wants ----------------------------------------------------------------------------

    def subscribe(self, strategies: Iterable[int] | None) -> None:
        """Publish only events of `strategies` (None: of all) from the hub's latest sequence on.

        For an account that has not begun it holds from the beginning. `on_latest` comes next, twice, since the
        hub must say what its latest is (`wants_latest`). To widen, subscribe at the hub first; to narrow, last.

        Raises ValueError for more strategies than a checkpoint can remember.
        """
        wanted = Subscription(0, None if strategies is None else frozenset(strategies))
        check_strategies(wanted.strategies)
        if self._start is not None:
            self._outbox.subscribe_from_the_beginning(wanted)
        else:
            self._latest_answers = (
                0  # an answer that is under way now may be older than the change: the second one holds
            )
            self._desired = wanted if wanted.strategies != self._outbox.subscriptions.newest else None

    @property
    def _can_change(self) -> bool:
        wanted = self._desired
        return (
            wanted is not None
            and self._cursor.phase is CursorPhase.FORWARD
            and self._outbox.subscriptions.has_room(wanted.strategies, self._outbox.verified)
        )

    # What the hub tells ---------------------------------------------------------------------------------

    def on_connected(self, subject: str | None = None) -> None:
        """A connection stands: from here on pushes may come. `subject` is the key's, where it is a JWT.

        Raises Diverged when the checkpoint of a known account is gone, or was made with another subject's key.
        """
        if self._checkpoint_lost:
            raise Diverged(
                f"the checkpoint of {self.account} is gone, though the account is known: beginning anew could publish "
                "its history again. If that is meant, reset the checkpoint"
            )
        subject = subject if subject is None or len(subject) <= _MAX_SUBJECT else digest(subject.encode())
        pinned = self._outbox.subject
        if subject is not None and pinned is not None and subject != pinned:
            raise Diverged(
                f"the key is of subject {subject!r}, the events published so far came with one of {pinned!r}. "
                "If that is meant, reset the checkpoint"
            )
        self._subject = subject
        self._subscribed = False
        self._end_trial()
        self._trial = self._waiting.trial
        self._claim = None
        self._cursor.on_connected()
        self._doubtful.on_connected()
        self._waiting.invalidate_proofs()
        self._overlap.on_connected(max(self._outbox.high, self._waiting.highest))
        self.latest = self._outbox.high
        self._begin_paging()
        self.state = State.CATCHING_UP

    def on_subscribed(self) -> None:
        """The hub confirmed the subscription: a push from here on proves that all after it is pushed."""
        self._subscribed = True

    def on_latest(self, sequence: int, time: str, ours: float | None = None) -> None:
        """GetLatestEventSeqId answered; `time` is its SnapshotTime. Call it before paging and before an audit.

        `ours` is our own time in seconds since 1970, by which a hub's clock that jumps or stands still is noticed.
        Where the hub has less than what is verified it must come again (`wants_latest`); raises Diverged when that
        stays so for longer than the grace.
        """
        with self._distrusting_what_diverged():
            self._clock.on_time(ticks(time), ours)
            self._on_latest(sequence)

    def _on_latest(self, sequence: int) -> None:
        if self._start is not None:
            self._begin_account(self._start, sequence)
        before, now = self._told_at, self._clock.now
        if self._cursor.is_behind(sequence, self._outbox.marked):
            self._doubt()  # until it has caught up itself, nothing is published
            return
        self.latest = max(self.latest, sequence)
        self._told_at, self._paged_since, self._is_latest_old = now, None, False
        self._claim = self._claim or Sighting(sequence, now)
        if self._is_trusted:
            self._believe(Sighting(sequence, now))
        else:
            self._unproven = [*self._unproven, Sighting(sequence, now)][:SIGHTINGS]
        if self._overlap.on_latest(max(sequence, self._waiting.highest_unproven)):
            proof = self._waiting.first_proof_after(self._overlap.floor)
            if proof is not None:
                self._overlap.proves(proof)
        if self._starved and before is not None and self._clock.has_passed(before):
            # The history may have lost its beginning while there was no room for it.
            self._cursor.begin(self._outbox.marked, self._outbox.anchor)
        self._starved = False
        self._doubtful.on_latest(now)
        self._reconsider()
        self._latest_answers += 1
        if self._desired is not None and self._can_change and self._latest_answers > 1:
            since = max(self.latest, self._outbox.high, self._waiting.highest) + 1
            self._outbox.subscribe(Subscription(since, self._desired.strategies))
            self._desired = None

    def _begin_account(self, start: str | int, latest: int) -> None:
        match start:
            case "earliest":
                verified = 0
            case "latest":
                verified = latest
            case _:
                verified = min(int(start), latest)
        self._start = None
        self._outbox.begin(verified)
        self._outbox.subject = self._subject
        self._waiting.drop_through(verified)
        self._cursor.begin(verified, None)

    def on_disconnected(self) -> int:
        """The connection is gone. What is held stays, since history may never show it, where it can be trusted.

        Returns how many pushes were discarded because the history of their connection was never proven.
        """
        self.state = State.OFFLINE
        return self._end_trial()

    # Trust ----------------------------------------------------------------------------------------------

    def _end_trial(self) -> int:
        """Discard what came over a history that was not proven, and let what comes from now on stand its own trial."""
        discarded = 0 if self._is_trusted else self._discard_since(self._waiting.trial)
        self._waiting.trial += 1
        self._is_trusted = False
        self._unproven.clear()
        return discarded

    def _discard_since(self, trial: int) -> int:
        return self._waiting.discard_since(trial) + self._doubtful.discard_since(trial)

    def _trust(self) -> None:
        """The history is the one that the checkpoint was made from: what came over this connection counts."""
        if self._is_trusted:
            return
        self._is_trusted = True
        for sighting in self._unproven:
            self._believe(sighting)
        self._unproven.clear()
        self._reconsider()

    def _believe(self, sighting: Sighting) -> None:
        """Take what the hub told for what it has: its history is proven."""
        self._finality.on_latest(sighting.latest, sighting.moment)
        self._doubtful.learn(sighting.latest)

    def _doubt(self) -> None:
        """The history may be another one since a moment ago: what comes now waits until that is clear."""
        if self._is_trusted:
            self._end_trial()
        self._catch_up_again()

    @contextmanager
    def _distrusting_what_diverged(self) -> Iterator[None]:
        try:
            yield
        except Diverged:
            self._discard_since(self._trial)
            self._is_trusted = False
            self.state = State.OFFLINE  # nothing more is taken from this connection
            raise

    # Pushes ---------------------------------------------------------------------------------------------

    def on_push(self, content: Content, now: float, *, room: bool = True) -> Outcome:
        """The hub pushed `content`; `now` is a monotonic time in seconds.

        Without `room`, it is let go as if the buffer were full: history gives it again.
        """
        sequence, outbox = content.sequence, self._outbox
        waiting = self._waiting.bytes + self._doubtful.bytes
        room = room and outbox.bytes + waiting <= self._settings.buffer_bytes
        if sequence is None:
            return self._on_push_without_sequence(content, room=room)
        is_next = sequence == outbox.high + 1 and room and not waiting and self.state is State.LIVE
        if is_next and not outbox.checkpoint_full and type(content) is Event:
            self.latest = max(self.latest, sequence)
            self._probation = False  # the usual case: the next of a flow without holes
            return outbox.place(content)
        return self._on_push(sequence, content, now, room=room, proves=self._subscribed)

    def _on_push(self, sequence: int, content: Content, now: float, *, room: bool, proves: bool) -> Outcome:
        outbox = self._outbox
        if self._doubtful.is_far(sequence, outbox.high) and sequence not in outbox:
            return self._hold_aside(Doubt.FAR, sequence, content, now, room=room, proves=proves)
        self.latest = max(self.latest, sequence)
        if sequence in self._waiting:
            return self._on_push_beside_a_waiting_one(sequence, content, now, room=room)
        if sequence <= outbox.verified or sequence in outbox:
            return self._on_repeated_push(sequence, content, now, room=room)
        if not room or outbox.checkpoint_full:
            self._retreat(sequence)
            return Outcome.OVERFLOW
        if _may_be_whole_in_history(content):
            return self._hold_aside(Doubt.GARBLED, sequence, content, now, room=room, proves=proves)
        if self.state is State.LIVE and sequence <= outbox.high + 1:
            self._probation = self._probation and sequence <= outbox.high
            outcome = outbox.place(content)
            if self._waiting:
                self._drain(now)
            return outcome
        if self._probation:
            self._catch_up_again()
        self._waiting.add(sequence, content, now, proves=proves)
        if proves:
            self._overlap.proves(sequence)
        return Outcome.HELD

    def _on_push_beside_a_waiting_one(self, sequence: int, content: Content, now: float, *, room: bool) -> Outcome:
        sight = compare(self._waiting[sequence], content)
        if sight is Sight.SAME:
            return Outcome.DUPLICATE
        if sight is Sight.WHOLE:
            self._waiting.replace(sequence, content)
            return Outcome.HELD
        return self._hold_aside(Doubt.RIVAL, sequence, content, now, room=room, proves=False)

    def _on_repeated_push(self, sequence: int, content: Content, now: float, *, room: bool) -> Outcome:
        """Take a push whose number is settled or queued, or was passed.

        A number that was never settled can be published safely. A new event with a settled one may be a hub that
        started again: what it pushes must wait, then, until it is clear whose history this is.
        """
        outbox = self._outbox
        if outbox.is_same(sequence, content):
            return Outcome.DUPLICATE
        is_new = sequence <= outbox.verified and not outbox.is_open(sequence) and is_newer(content, outbox.anchor)
        if is_new and self.state is State.LIVE:
            self._doubt()
        if not self._is_trusted:
            return self._hold_aside(Doubt.RIVAL, sequence, content, now, room=room, proves=False)
        if outbox.is_open(sequence):
            return outbox.place(content)
        outcome = outbox.meet(content)
        if outcome is not Outcome.DUPLICATE or sequence > outbox.verified:
            return outcome
        if sequence <= outbox.began:
            return Outcome.BEFORE_START
        if not outbox.is_settled(sequence):
            return outbox.place_too_late(content)
        return outbox.place_reused(content, None) if is_new else Outcome.DUPLICATE

    def _hold_aside(
        self, doubt: Doubt, sequence: int, content: Content, now: float, *, room: bool, proves: bool
    ) -> Outcome:
        if not room:
            self._retreat(0)
            self.dropped_pushes += 1
            if doubt is Doubt.FAR:
                self._doubtful.let_go(sequence)
            return Outcome.OVERFLOW
        held = Doubtful(doubt, sequence, content, now, proves, self._waiting.trial)
        return Outcome.HELD if self._doubtful.hold(held) else Outcome.DUPLICATE

    def _reconsider(self) -> None:
        """Take those pushes that are doubtful no more, and those of which the hub has had its time to say more."""
        if not self._is_trusted:
            return
        unseen = self._doubtful.take_confirmed(self._outbox.high)
        if unseen > self._outbox.high:
            self._overlap.must_reach(unseen)
            if self.state is State.LIVE:
                self._catch_up_again()
        if not self._doubtful:
            return
        for held in self._doubtful.release(self._is_clear):
            sequence, content = held.sequence, held.content
            if held.doubt is Doubt.FAR and self._doubtful.is_far(sequence, self._outbox.high):
                self._outbox.place_unconfirmed(content)
            elif held.doubt is Doubt.GARBLED and self._outbox.is_open(sequence):
                self._outbox.place(content)
            elif held.doubt is not Doubt.GARBLED or not self._outbox.remembers(content):
                if held.doubt is Doubt.FAR and not held.proves:
                    self._overlap.must_reach(sequence)  # what came just before it was pushed to nobody
                self._on_push(sequence, content, held.arrived, room=True, proves=held.proves)

    def _is_clear(self, held: Doubtful) -> bool:
        match held.doubt:
            case Doubt.RIVAL:
                return held.sequence not in self._waiting
            case Doubt.FAR:
                return held.is_overdue or not self._doubtful.is_far(held.sequence, self._outbox.high)
        if held.sequence in self._waiting:
            return False
        is_passed = held.sequence <= self._outbox.marked or not self._outbox.is_open(held.sequence)
        return is_passed or held.is_overdue

    def _on_push_without_sequence(self, content: Content, *, room: bool) -> Outcome:
        self._outbox.note_unidentified(content)
        if self._outbox.remembers(content):
            return Outcome.DUPLICATE
        if not room:
            # History need not have it: so it goes after everything that history gives again.
            self._retreat(0)
            if self.queued_bytes > 2 * self._settings.buffer_bytes:
                self.dropped_pushes += 1
                return Outcome.OVERFLOW
        if self.state is State.LIVE:
            return self._outbox.place(content)
        # History may give it with its sequence: that comes first.
        return Outcome.HELD if self._waiting.hold(content) else Outcome.DUPLICATE

    # Time -----------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """The monotonic time at which `expire` has something to do."""
        if self.state is not State.LIVE:
            return None
        arrived = self._waiting.first_arrival
        return None if arrived is None else arrived + self._settings.reorder_window

    def expire(self, now: float) -> None:
        """Queue what waited long enough for what is missing before it."""
        if self.state is State.LIVE:
            self._drain(now)
            self._reconsider()

    def audit(self) -> None:
        """Begin to look at the history from `verified` again; `on_latest` comes just before.

        Also where the hub's latest is verified: what has no sequence may have come after it.
        """
        if self.state is State.LIVE:
            self._auditing = True
            self._doubtful.look(self._clock)
            self._cursor.begin(self._outbox.marked, self._outbox.anchor)

    # Pages ----------------------------------------------------------------------------------------------

    @property
    def wants_latest(self) -> bool:
        """Whether `on_latest` must come before the next page."""
        if not self._subscribed or self.state is State.OFFLINE:
            return False
        is_untold = self._told_at is None or self._is_latest_old
        return is_untold or self._starved or self._can_change or self._doubtful.asks

    @property
    def wants_audit(self) -> bool:
        """Whether an audit should come soon: something was pushed that only the history may show whole."""
        return self.state is State.LIVE and not self._auditing and self._doubtful.wants_look

    def wants(self) -> PageRequest | None:
        """Return the page to ask for now; None when there is none to ask for, or no room for it."""
        if self._told_at is None or self._is_latest_old or not self._subscribed or self._outbox.buffer_full:
            return None
        return self._cursor.cursor if self._is_paging else None

    def wants_next(self, token: str | None) -> PageRequest | None:
        """Return the page that `wants()` will most likely give after an answer that ends with `token`.

        None where there may be none: at the end of the history, where each page must begin with the last event of
        the one before, while live, and where the broker does not take what waits as fast as it comes.
        """
        if token is None or self._cursor.requires_overlap or 2 * self.queued_bytes > self._settings.buffer_bytes:
            return None
        return PageRequest(self._cursor.cursor.since, token) if self.state is State.CATCHING_UP else None

    @property
    def _is_paging(self) -> bool:
        return self.state is State.CATCHING_UP or (self.state is State.LIVE and self._auditing)

    def on_page(self, page: Page, now: float) -> bool:
        """Take the answer to `wants()`; return True when asking again only makes sense later.

        Raises Diverged when the history is not the one that the checkpoint was made from.
        """
        with self._distrusting_what_diverged():
            return self._on_page(page, now)

    def _on_page(self, page: Page, now: float) -> bool:
        walk = self._cursor
        if page.request != walk.cursor or self._told_at is None or not self._is_paging:
            return False  # the question has changed since: the answer is to another one
        contents = page.in_order()
        ended = walk.read(page, contents)
        if walk.phase is not CursorPhase.FORWARD:
            asks = self._merger.look_for_anchor(contents, ended=ended, latest=self.latest)
            if asks is not None:
                self._auditing = self._auditing and not asks
                if walk.waits and self.state is State.LIVE:
                    self._doubt()  # until it is clear whose history this is, nothing more is published
                return asks
        elif not self._is_trusted and self._outbox.anchor is None:
            self._merger.check_without_anchor(contents)
        self._trust()
        if self._subject is not None:
            self._outbox.subject = self._subject
        if walk.has_seam(contents, self._outbox.anchor):
            walk.requires_overlap = True
            walk.begin(self._outbox.marked, self._outbox.anchor)
            return False
        return self._read_on(page, contents, now, ended=ended)

    def _read_on(self, page: Page, contents: list[Content], now: float, *, ended: bool) -> bool:
        """Take in a page of a history that is proven; return True when asking again only makes sense later."""
        walk = self._cursor
        before = walk.reached
        stopped = self._merger.merge(contents, live=self.state is State.LIVE)
        reached = walk.reached
        has_room = not page.is_full or page.request.since >= before  # else the anchor may have taken all of it
        paused = stopped or (ended and reached == before and has_room)
        if paused and not stopped:
            self._account_for()
            self._doubtful.on_look(reached)
        self._ask_again_on_a_long_way(now)
        if stopped or (walk.requires_overlap and walk.all_final and reached > before):
            walk.begin(self._outbox.marked, self._outbox.anchor)
        else:
            walk.turn()
        self._reconsider()
        if self.state is State.LIVE:
            self._auditing = not paused
        elif self._overlap.is_reached(reached, paused=paused):
            self._go_live(now)
            return True
        return paused

    def _account_for(self) -> None:
        """History has shown all that it has: what the hub claimed longer than the grace ago will never come."""
        if self._claim is not None and self._clock.has_passed(self._claim.moment):
            self.accounted_through, self._claim = max(self.accounted_through, self._claim.latest), None

    def _ask_again_on_a_long_way(self, now: float) -> None:
        """Let the hub tell its latest again, else what is read longer than a grace after it did is never final."""
        if self._paged_since is None:
            self._paged_since = now
        elif now - self._paged_since > self._settings.grace:
            self._is_latest_old = True

    @property
    def may_pass(self) -> int | None:
        """The last sequence that may be passed where the hub cannot give it; None until its history is proven."""
        return self.latest if self._cursor.phase is CursorPhase.FORWARD else None

    def pass_over(self, since: int, through: int) -> None:
        """The hub cannot give what follows `since`, up to `through`: go on behind it.

        What of it is not known otherwise is announced as a gap once what follows is final.
        """
        if self.wants() == PageRequest(since) and self._cursor.phase is CursorPhase.FORWARD:
            self._cursor.pass_over(since, through)

    def on_token_refused(self) -> None:
        """The hub no longer takes the continuation token of the page that was asked for."""
        if self.wants() is not None and self._cursor.cursor.token is not None:
            self._cursor.forget_token()

    # From catching up to live, and back -----------------------------------------------------------------

    def _go_live(self, now: float) -> None:
        self.state = State.LIVE
        self._probation = not self._overlap.is_proven
        for content in self._waiting.release():
            self._outbox.place(content)
        self._waiting.restart(now)
        self._drain(now)
        self._reconsider()

    def _catch_up_again(self) -> None:
        self.state = State.CATCHING_UP
        self._overlap.again(self._outbox.high)
        self._begin_paging()

    def _retreat(self, sequence: int) -> None:
        """There is no room for a push: let go of all that wait, and page history when there is room again."""
        self._overlap.must_reach(max(sequence, self._waiting.highest))
        self.dropped_pushes += len(self._waiting) + (sequence > 0)
        self._waiting.clear()
        if self.state is State.LIVE:
            self._catch_up_again()

    def _drain(self, now: float) -> None:
        """Queue what waits: all before the last that waited long enough, then what follows without a hole."""
        expired = self._waiting.highest_waited(now, self._settings.reorder_window)
        while (lowest := self._waiting.lowest) is not None and (lowest <= expired or lowest <= self._outbox.high + 1):
            if self._outbox.checkpoint_full:
                self._retreat(0)
                return
            self._outbox.place(self._waiting.pop(lowest))

    # Batches --------------------------------------------------------------------------------------------

    def take(self, messages: int, size: int, measure: Callable[[OutgoingItem], int] | None = None) -> Batch | None:
        """Return the next batch, of at most `messages` items and `size` bytes, as `Outbox.take` does.

        The batch is taken to be committed: after anything but a clean answer the session is thrown away.
        """
        was_full = self._outbox.buffer_full
        batch = self._outbox.take(messages, size, measure)
        self._starved = self._starved or (was_full and not self._outbox.buffer_full and self._is_paging)
        return batch


def _may_be_whole_in_history(content: Content) -> bool:
    return isinstance(content, DeadLetter) and content.reason != DeadLetterReason.UNKNOWN_KIND
