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
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.errors import Diverged
from gateway.events.event import DeadLetter, Notification
from gateway.events.times import TICKS_PER_SECOND, ticks
from gateway.session.checkpoint import Anchor, Checkpoint, encode_checkpoint
from gateway.session.facts import (
    Batch,
    Content,
    Item,
    Outcome,
    Page,
    PageRequest,
    SessionSettings,
    State,
    size_of,
)
from gateway.session.identities import Identities
from gateway.session.intervals import Intervals
from gateway.session.waiting import WaitingPushes

_MAX_STALLS: Final = 3
"""Pages in a row that may bring nothing new before their continuation token is given up."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """Stands in the queue: once all before it is taken, everything up to `verified` is settled and final."""

    verified: int
    anchor: Anchor | None


class Session:
    """The state of one account between two openings of its shard's log."""

    def __init__(
        self,
        account: str,
        checkpoint: Checkpoint | None,
        *,
        start: str | int = "earliest",
        settings: SessionSettings | None = None,
    ) -> None:
        """Go on from `checkpoint`, or begin a new account at `start` (`earliest`, `latest`, a sequence)."""
        self.account = account
        self.state = State.OFFLINE
        self.latest = 0
        """The hub's latest sequence as last told."""
        self._settings = settings or SessionSettings()
        self._grace = int(self._settings.grace * TICKS_PER_SECOND)
        self._start = start if checkpoint is None else None
        begun = checkpoint or Checkpoint(verified=0)
        self._incarnation = begun.incarnation
        # What the next checkpoint says; only take() changes it.
        self._verified = begun.verified
        self._anchor = begun.anchor
        self._settled = Intervals(begun.settled)
        # What is settled, or taken, or queued.
        self._identities = Identities(begun.identities, self._settings.identities)
        self._placed = self._settled.copy()
        self._high = max(begun.verified, self._settled.highest or 0)
        self._marked = begun.verified
        self._queue: deque[Item | _Mark] = deque()
        self._queue_bytes = 0
        # What waits: with a sequence, and without.
        self._waiting = WaitingPushes()
        self._unsequenced: dict[str, Content] = {}
        self._begin_paging()

    def _begin_paging(self) -> None:
        self._subscribed = False
        self._hub_time: int | None = None
        self._first_hub_time = 0
        self._target = self._high
        self._overlap: tuple[int, int] | None = None
        self._probation = False
        self._auditing = False
        self._anchored = self._anchor is None
        self._page_from(self._verified if self._anchor is None else self._anchor.sequence - 1)

    def _page_from(self, sequence: int) -> None:
        self._cursor = PageRequest(sequence)
        self._reached = sequence
        self._stalls = 0

    @property
    def highest(self) -> int:
        """The highest sequence that is settled: committed, or about to be."""
        return max(self._verified, self._settled.highest or 0)

    @property
    def queued_bytes(self) -> int:
        """Bytes of everything that waits here."""
        return self._queue_bytes + self._waiting.bytes

    # What the hub tells ---------------------------------------------------------------------------------

    def connected(self) -> None:
        """A connection stands: from here on pushes may come."""
        self._waiting.clear()
        self._begin_paging()
        self.state = State.CATCHING_UP

    def subscribed(self) -> None:
        """The hub confirmed the subscription: a push from here on proves that all after it is pushed."""
        self._subscribed = True

    def told_latest(self, sequence: int, time: str) -> None:
        """GetLatestEventSeqId answered; `time` is its SnapshotTime. Call it before paging and before an audit.

        Raises Diverged when the hub has less than what is verified.
        """
        if self._start is not None:
            self._begin_account(self._start, sequence)
        if sequence < self._verified:
            raise Diverged(
                f"the hub's latest event is {sequence}, but {self._verified} is published already: "
                "the hub started again, or the key is another user's"
            )
        self.latest = sequence
        if self._hub_time is None:
            self._first_hub_time = ticks(time)
            self._target = max(self._target, sequence)
            self._overlap = self._waiting.first_proof_after(self._target)
        self._hub_time = ticks(time)

    def _begin_account(self, start: str | int, latest: int) -> None:
        match start:
            case "earliest":
                verified = 0
            case "latest":
                verified = latest
            case _:
                verified = min(int(start), latest)
        self._start = None
        self._verified = self._high = self._marked = verified
        self._page_from(verified)
        self._queue.append(_Mark(verified, None))  # committed before anything else: now the account is known

    def dropped(self) -> None:
        """The connection is gone: what is queued stays, what history can give again is let go."""
        self._waiting.clear()
        self.state = State.OFFLINE

    def pushed(self, content: Content, now: float) -> Outcome:
        """The hub pushed `content`; `now` is a monotonic time in seconds."""
        sequence = content.sequence
        if sequence is None:
            return self._pushed_without_sequence(content)
        self.latest = max(self.latest, sequence)
        if sequence <= self._verified:
            return Outcome.REPEAT if content in self._identities else Outcome.STALE
        if sequence in self._placed or sequence in self._waiting:
            return Outcome.REPEAT
        if self.queued_bytes > self._settings.buffer_bytes or len(self._placed) > self._settings.intervals:
            self._retreat(sequence)
            return Outcome.OVERFLOW
        if self.state is State.LIVE and sequence <= self._high + 1:
            self._probation = self._probation and sequence <= self._high
            outcome = self._place(content)
            if self._waiting:
                self._drain(now)
            return outcome
        if self._probation:
            self._catch_up_again()
        self._waiting.add(sequence, content, now, proves=self._subscribed)
        is_first_proof = self._overlap is None or sequence < self._overlap[0]
        if self.state is State.CATCHING_UP and self._hub_time is not None and is_first_proof:
            self._overlap = self._waiting.first_proof_after(self._target)
        return Outcome.HELD

    def _pushed_without_sequence(self, content: Content) -> Outcome:
        if content in self._identities or content.identity in self._unsequenced:
            return Outcome.REPEAT
        if self.state is State.LIVE:
            return self._place(content)
        self._unsequenced[content.identity] = content  # history may give it with its sequence: that comes first
        return Outcome.HELD

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

    def audit(self) -> None:
        """Begin to look at the history from `verified` again; `told_latest` comes just before."""
        if self.state is State.LIVE and self.latest > self._marked:
            self._auditing = True
            self._page_from(self._marked)

    # Pages ----------------------------------------------------------------------------------------------

    @property
    def wants_latest(self) -> bool:
        """Whether `told_latest` must come before the next page."""
        return self._subscribed and self._hub_time is None

    def wants(self) -> PageRequest | None:
        """Give the page to ask for now; None when there is none to ask for, or no room for it."""
        if self._hub_time is None or not self._subscribed:
            return None
        if self.queued_bytes > self._settings.buffer_bytes:
            return None
        if self.state is State.CATCHING_UP or (self.state is State.LIVE and self._auditing):
            return self._cursor
        return None

    def paged(self, page: Page, now: float) -> bool:
        """Take the answer to `wants()`; give True when asking again only makes sense later.

        Raises Diverged when the history is not the one that the checkpoint was made from.
        """
        if page.request != self._cursor or self._hub_time is None:
            return False  # the question has changed since: the answer is to another one
        contents = page.in_order()
        if not self._anchored:
            self._check_anchor(contents, ended=page.token is None)
        before = self._reached
        stopped = self._take_in(contents, final=self._hub_time - self._grace)
        ended = stopped or self._turn_page(page, moved=self._reached > before)
        if stopped:
            self._page_from(self._reached)
        if self.state is State.LIVE:
            self._auditing = not ended
        elif self._has_caught_up(ended=ended):
            self._go_live(now)
        return ended

    def _take_in(self, contents: Sequence[Content], *, final: int) -> bool:
        """Queue what is new in a page; give True where it must stop before the page's end.

        Events up to the time `final` (in ticks) are taken to be complete: they move `verified`.
        """
        anchor, is_final, stopped = None, True, False
        for content in contents:
            sequence = content.sequence
            if sequence is None:
                if content not in self._identities:
                    self._place(content)
                continue
            # What has no readable time is as final as what stands before it.
            is_final = is_final and (isinstance(content, DeadLetter) or ticks(content.time) <= final)
            if not is_final and (self.state is State.LIVE or len(self._placed) > self._settings.intervals):
                # Live, it may still be on its way as a push. With a full checkpoint it waits until it is final.
                stopped = True
                break
            if sequence > self._verified and sequence not in self._placed:
                for earlier in self._waiting.before(sequence):
                    self._place(self._waiting.pop(earlier))
                self._place(self._waiting.pop(sequence) if sequence in self._waiting else content)
            self._reached = max(self._reached, sequence)
            if is_final:
                anchor = Anchor(sequence, content.id)
        if anchor is not None and anchor.sequence > self._marked:
            self._marked = anchor.sequence
            self._queue.append(_Mark(anchor.sequence, anchor))
        return stopped

    def _turn_page(self, page: Page, *, moved: bool) -> bool:
        """Set the cursor to the next page; give True at the end of what there is now."""
        self._stalls = 0 if moved else self._stalls + 1
        leads_on = page.token is not None and page.token != page.request.token and bool(page.contents)
        if leads_on and self._stalls < _MAX_STALLS:
            self._cursor = PageRequest(page.request.since, page.token)
            return False
        self._cursor = PageRequest(self._reached)
        return True

    def _check_anchor(self, contents: Sequence[Content], *, ended: bool) -> None:
        anchor = self._anchor
        assert anchor is not None  # noqa: S101 - _begin_paging: without one there is nothing to check
        first = next((content for content in contents if content.sequence is not None), None)
        if first is None or first.sequence is None:
            if ended:
                self._anchored = True
                self._announce_gap(anchor.sequence + 1, self.latest)
                self._reached = max(self._reached, self.latest)
            return
        if first.sequence == anchor.sequence and None not in (first.id, anchor.id) and first.id != anchor.id:
            raise Diverged(
                f"event {anchor.sequence} was {anchor.id} when it was published and is {first.id} in the hub's "
                "history now: the hub started again, or the key is another user's"
            )
        self._anchored = True
        self._announce_gap(anchor.sequence + 1, first.sequence - 1)

    def _announce_gap(self, first: int, last: int) -> None:
        """Say that the hub no longer has what was never published between `first` and `last`, if anything."""
        missing = self._placed.missing(first, last)
        if missing:
            detail: dict[str, str | int | None] = {"FirstSeqId": missing[0][0], "LastSeqId": missing[-1][1]}
            self._enqueue(Item(Notification(self.account, "gap", detail)))
            self._high = max(self._high, last)

    # From catching up to live, and back -----------------------------------------------------------------

    def _has_caught_up(self, *, ended: bool) -> bool:
        assert self._hub_time is not None  # noqa: S101 - paged() saw to it
        # What history does not show by the end of its grace it will never show.
        reached = self._reached >= self._target or (ended and self._first_hub_time + self._grace < self._hub_time)
        if not reached or self._overlap is None:
            return reached
        return self._reached >= self._overlap[0] or (ended and self._overlap[1] + self._grace < self._hub_time)

    def _go_live(self, now: float) -> None:
        self.state = State.LIVE
        self._probation = self._overlap is None
        self._overlap = None
        for content in self._unsequenced.values():
            if content not in self._identities:
                self._place(content)
        self._unsequenced.clear()
        self._waiting.restart(now)
        self._drain(now)

    def _catch_up_again(self) -> None:
        self.state = State.CATCHING_UP
        self._hub_time = None  # what the hub last told is of another time
        self._probation = False
        self._auditing = False
        self._page_from(self._high)

    def _retreat(self, sequence: int) -> None:
        """There is no room for a push: let go of all that wait, and page history when there is room again."""
        self._target = max(self._target, sequence, self._waiting.highest)
        self._waiting.clear()
        self._overlap = None
        if self.state is State.LIVE:
            self._catch_up_again()

    def _drain(self, now: float) -> None:
        """Queue what waits: all before the last that waited long enough, then what follows without a hole."""
        expired = self._waiting.highest_arrived_by(now - self._settings.reorder_window)
        while (lowest := self._waiting.lowest) is not None and (lowest <= expired or lowest <= self._high + 1):
            self._place(self._waiting.pop(lowest))

    # The queue ------------------------------------------------------------------------------------------

    def _place(self, content: Content) -> Outcome:
        """Queue `content`, unless its identity was published under another sequence or none."""
        sequence, late = content.sequence, False
        if sequence is not None:
            late = sequence < self._high
            self._high = max(self._high, sequence)
            self._placed.add(sequence)
            if content in self._identities:
                return Outcome.REPEAT
        self._identities.queued(content)
        self._enqueue(Item(content, late))
        return Outcome.LATE if late else Outcome.QUEUED

    def _enqueue(self, item: Item) -> None:
        self._queue.append(item)
        self._queue_bytes += size_of(item.content)

    def take(self, messages: int, size: int) -> Batch | None:
        """Give the next batch, of at most `messages` items and about `size` bytes; None when nothing waits.

        The batch is taken to be committed: after anything but a clean answer the session is thrown away.
        """
        if not self._queue:
            return None
        items: list[Item] = []
        taken = 0
        while self._queue:
            entry = self._queue[0]
            if isinstance(entry, _Mark):
                self._verified, self._anchor = entry.verified, entry.anchor
                self._settled.drop_through(entry.verified)
                self._placed.drop_through(entry.verified)
            else:
                taken += size_of(entry.content)
                if len(items) == messages or (items and taken > size):
                    break
                items.append(entry)
                self._settle(entry.content)
            self._queue.popleft()
        return Batch(tuple(items), encode_checkpoint(self.checkpoint()))

    def _settle(self, content: Content | Notification) -> None:
        self._queue_bytes -= size_of(content)
        if isinstance(content, Notification):
            return
        if content.sequence is not None and content.sequence > self._verified:
            self._settled.add(content.sequence)
        self._identities.taken(content)

    def checkpoint(self) -> Checkpoint:
        """Say what is settled once everything taken so far is committed."""
        return Checkpoint(
            verified=self._verified,
            anchor=self._anchor,
            settled=tuple(self._settled),
            identities=self._identities.published(),
            incarnation=self._incarnation,
        )
