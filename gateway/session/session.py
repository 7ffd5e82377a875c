"""One account's way from the hub to the log: what to page, what to publish and when, what is settled.

A session has no socket, no broker and no clock. Its caller passes the hub's pushes and pages; the session returns the
page to request next, and batches. It lives from one opening of its shard's log to the next. It is thrown away, never
rewound, when the outcome of a commit is unknown.

Nothing is lost or doubled between history and live. The account subscribes first, and pushes are held while history is
paged from the checkpoint. When a page has passed the latest sequence known at the subscription and overlaps the held
pushes, those are drained and the session is live. Where no push has arrived, it goes live on probation: a first push
that leaves a hole sends it back to paging. A hole proves nothing by itself, as sequences may have holes. The audit, a
later look at the history from `verified`, finds what was never pushed.

See `PushMerger` (outcomes of a push), `HistoryReader` (paging), `SessionLifecycle` (states and trust),
`LatestSequence` (the hub's latest), `SubscriptionChange` (a change that waits).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.errors import Diverged
from gateway.events.event import Event
from gateway.events.times import ticks
from gateway.session.checkpoint import Checkpoint
from gateway.session.history_reader import HistoryReader
from gateway.session.lifecycle import SessionLifecycle
from gateway.session.page_merge import PageMerger
from gateway.session.parts import SessionParts
from gateway.session.push_merge import PushMerger
from gateway.session.subscription_change import SubscriptionChange
from gateway.session.subscriptions import Strategies, Subscription, check_strategies
from gateway.session.types import (
    Batch,
    Content,
    Outcome,
    OutgoingItem,
    SessionCounts,
    SessionLimits,
    State,
)


class Session:
    """The state of one account between two openings of its shard's log."""

    # A dictionary of so many members takes 1.6 KB for each account.
    __slots__ = (
        "_change",
        "_checkpoint_lost",
        "_clock",
        "_cursor",
        "_doubtful",
        "_latest",
        "_lifecycle",
        "_merger",
        "_outbox",
        "_overlap",
        "_pushes",
        "_settings",
        "_start",
        "_waiting",
        "account",
        "history",
    )

    def __init__(
        self,
        account: str,
        checkpoint: Checkpoint | None,
        *,
        start: str | int = "earliest",
        settings: SessionLimits | None = None,
        known: bool = False,
    ) -> None:
        """Go on from `checkpoint`, or begin a new account at `start` (`earliest`, `latest`, a sequence).

        `known` is whether the registry has the account: then a missing checkpoint was lost, and `connected` raises
        Diverged.
        """
        self.account = account
        self._start = start if checkpoint is None else None
        self._checkpoint_lost = known and checkpoint is None
        parts = SessionParts(account, checkpoint or Checkpoint(verified=0), settings or SessionLimits())
        self._settings = parts.settings
        self._clock = parts.clock
        self._outbox = parts.outbox
        self._waiting = parts.waiting
        self._doubtful = parts.doubtful
        self._cursor = parts.cursor
        self._overlap = parts.overlap
        self._latest = parts.latest
        self._merger = PageMerger(parts)
        self._lifecycle = SessionLifecycle(parts, self._merger)
        self._pushes = PushMerger(parts, self._lifecycle)
        self.history = HistoryReader(parts, self._merger, self._lifecycle, self._pushes)
        self._change = SubscriptionChange(parts.outbox, parts.cursor)

    @property
    def state(self) -> State:
        """The state of the session: offline, catching up or live."""
        return self._lifecycle.state

    @property
    def latest(self) -> int:
        """The hub's latest sequence, as last returned or pushed."""
        return self._latest.sequence

    @property
    def accounted_through(self) -> int:
        """Up to here it is known what became of every sequence: some that the hub counted it never showed."""
        return self._latest.accounted_through

    @property
    def counts(self) -> SessionCounts:
        """The counters of what happened to the account since its session began."""
        return SessionCounts(
            self._pushes.dropped,
            self._merger.strays,
            self._merger.unpushed,
            self._outbox.dedup_window.forgotten,
            self._outbox.queue.dead_letters,
            self._waiting.lost_letters,
        )

    @property
    def highest(self) -> int:
        """The highest sequence that is settled: committed, or about to be."""
        return self._outbox.draft.highest

    @property
    def has_latest(self) -> bool:
        """Whether the hub returned `latest` over this connection, and not before."""
        return self._latest.answered_at is not None

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
        return self._outbox.draft.verified

    @property
    def incarnation(self) -> int:
        """How often an operator declared the history to be another, and one."""
        return self._outbox.incarnation

    @property
    def strategies(self) -> Strategies:
        """The subscription that holds for events to come, or is about to."""
        return self._change.strategies

    @property
    def is_changing(self) -> bool:
        """Whether a subscription was requested that does not hold yet."""
        return self._change.is_waiting

    @property
    def queued_bytes(self) -> int:
        """Bytes of everything that waits here."""
        return self._pushes.bytes

    @property
    def has_batch(self) -> bool:
        """Whether `take` has something to give."""
        return bool(self._outbox.queue)

    @property
    def is_backpressured(self) -> bool:
        """Whether pushes come faster than batches are taken: half of the room is full."""
        return self.state is State.LIVE and 2 * self._outbox.queue.bytes > self._settings.buffer_bytes

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the pushes among them that wait for history."""
        return 0 if self.state is State.LIVE else self._waiting.bytes + self._doubtful.bytes

    def gaps_of_losses(self) -> list[OutgoingItem]:
        """Return the gaps of lost events that were not published again: a reset ends this incarnation."""
        return self._outbox.gaps_of_losses()

    def take_contradictions(self) -> list[tuple[Outcome, Content]]:
        """Return what was queued since the last call though it is not as it should be, for the operators' log."""
        return self._outbox.contradictions.take()

    def checkpoint(self) -> Checkpoint:
        """Return what is settled once everything taken so far is committed."""
        return self._outbox.draft.checkpoint()

    # What the operator wants ----------------------------------------------------------------------------

    def subscribe(self, strategies: Iterable[int] | None) -> None:
        """Publish only events of `strategies` (None: of all) from the hub's latest sequence on.

        For an account that has not begun it holds from the beginning. `on_latest` comes next, twice, since the hub must
        return its latest (`wants_latest`). To widen, subscribe at the hub first; to narrow, last.

        Raises ValueError for more strategies than a checkpoint can remember.
        """
        wanted = Subscription(0, None if strategies is None else frozenset(strategies))
        check_strategies(wanted.strategies)
        if self._start is not None:
            self._outbox.subscribe_from_the_beginning(wanted)
        else:
            self._change.ask(wanted)

    # The hub's answers ----------------------------------------------------------------------------------

    def on_connected(self, subject: str | None = None) -> None:
        """Note a new connection: from here on pushes may come. `subject` is the key's, where it is a JWT.

        Raises Diverged when the checkpoint of a known account is gone, or was made with another subject's key.
        """
        if self._checkpoint_lost:
            raise Diverged(
                f"the checkpoint of {self.account} is gone, though the account is known: beginning anew could publish "
                "its history again. If that is meant, reset the checkpoint"
            )
        self._lifecycle.on_connected(subject)

    def on_subscribed(self) -> None:
        """Note that the hub confirmed the subscription: a push from here on proves that all after it is pushed."""
        self._lifecycle.is_subscribed = True

    def on_latest(self, sequence: int, time: str, ours: float | None = None) -> None:
        """Take the answer of GetLatestEventSeqId, with its SnapshotTime. Call this before paging and before an audit.

        `ours` is our own time in seconds since 1970, which shows that a hub's clock jumps or has stopped. Where the hub
        has less than what is verified it must answer again (`wants_latest`); raises Diverged when that stays so for
        longer than the grace.
        """
        with self._lifecycle.distrusting_what_diverged():
            self._clock.on_time(ticks(time), ours)
            self._on_latest(sequence)

    def _on_latest(self, sequence: int) -> None:
        if self._start is not None:
            self._begin_account(self._start, sequence)
        lifecycle, before = self._lifecycle, self._latest.answered_at
        if self._cursor.is_behind(sequence, self._outbox.marked):
            lifecycle.doubt()  # until it has caught up itself, nothing is published
            return
        sighting = self._latest.on_answer(sequence)
        lifecycle.on_latest(sighting)
        if self._overlap.on_latest(max(sequence, self._waiting.highest_unproven)):
            proof = self._waiting.first_proof_after(self._overlap.floor)
            if proof is not None:
                self._overlap.proves(proof)
        if lifecycle.is_starved and before is not None and self._clock.has_passed(before):
            # The history may have lost its beginning while there was no room for it.
            self._cursor.begin(self._outbox.marked, self._outbox.anchor)
        lifecycle.is_starved = False
        self._doubtful.on_latest(sighting.moment)
        self._pushes.reconsider()
        self._change.on_latest(max(self.latest, self._outbox.high, self._waiting.highest))

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
        self._outbox.draft.subject = self._lifecycle.subject
        self._waiting.drop_through(verified)
        self._cursor.begin(verified, None)

    def on_disconnected(self) -> int:
        """Note that the connection is gone. What is held and trusted stays, since history may never show it.

        Return how many pushes were discarded because the history of their connection was never proven.
        """
        self._lifecycle.state = State.OFFLINE
        return self._lifecycle.end_trial()

    # Pushes ---------------------------------------------------------------------------------------------

    def on_push(self, content: Content, now: float, *, room: bool = True) -> Outcome:
        """Take a push; `now` is a monotonic time in seconds.

        Without `room`, it is dropped as if the buffer were full: history gives it again.
        """
        sequence, outbox, lifecycle = content.sequence, self._outbox, self._lifecycle
        waiting = self._waiting.bytes + self._doubtful.bytes
        room = room and outbox.queue.bytes + waiting <= self._settings.buffer_bytes
        if sequence is None:
            return self._pushes.on_push_without_sequence(content, room=room)
        is_next = sequence == outbox.high + 1 and room and not waiting and lifecycle.state is State.LIVE
        if is_next and not outbox.checkpoint_full and type(content) is Event:
            if sequence > self._latest.sequence:  # noqa: PLR1730 - max() takes 4 % of all that is done here
                self._latest.sequence = sequence
            lifecycle.is_on_probation = False  # the usual case: the next of a flow without holes
            return outbox.place(content)
        return self._pushes.on_push(sequence, content, now, room=room, proves=lifecycle.is_subscribed)

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
            self._pushes.drain(now)
            self._pushes.reconsider()

    @property
    def wants_latest(self) -> bool:
        """Whether `on_latest` must come before the next page."""
        lifecycle = self._lifecycle
        if not lifecycle.is_subscribed or lifecycle.state is State.OFFLINE:
            return False
        is_due = self._latest.must_be_asked or lifecycle.is_starved
        return is_due or self._change.is_possible or self._doubtful.asks

    # Batches --------------------------------------------------------------------------------------------

    def take(self, messages: int, size: int, measure: Callable[[OutgoingItem], int] | None = None) -> Batch | None:
        """Return the next batch, of at most `messages` items and `size` bytes, as `Outbox.take` does.

        The batch is taken to be committed: after anything but a clean answer the session is thrown away.
        """
        queue = self._outbox.queue
        was_full = queue.is_full
        batch = self._outbox.take(messages, size, measure)
        lifecycle = self._lifecycle
        lifecycle.is_starved = lifecycle.is_starved or (was_full and not queue.is_full and lifecycle.is_paging)
        return batch
