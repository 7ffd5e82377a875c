"""The next commit of a shard: a part for each account that has work, as much as one commit may hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from gateway.broker.ports import Limits
from gateway.publication import Message
from gateway.replica.replay.scheduler import ReplayScheduler
from gateway.replica.sink.forgetting import AccountForgetter
from gateway.replica.sink.large_turns import LargeTurns
from gateway.replica.sink.message_maker import MessageMaker, PreparedMessages
from gateway.replica.sink.pending_commit import PendingCommit
from gateway.replica.sink.rejections import Rejections
from gateway.replica.sink.replay_turns import ReplayTurns
from gateway.replica.sink.shard_settings import ShardSettings
from gateway.replica.source.account import Account
from gateway.session.checkpoint import LARGEST, encode_checkpoint, reset_notification
from gateway.session.replay_queue import KEY
from gateway.session.types import OutgoingItem

_TRACE_HEADER_BYTES: Final = 512
"""Maximum bytes of a trace in a message."""
_PART: Final = 16 * 1024
"""Bytes that an account may take of a commit, where there is room, however many others have work: each also takes a
checkpoint, of up to 5 kB (measured)."""


class CommitBuilder:
    """Builds the commits of one shard from accounts that have work, resets, checkpoints to be erased, and replays."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        settings: ShardSettings,
        maker: MessageMaker,
        rejections: Rejections,
        turns: ReplayTurns,
        large: LargeTurns,
        large_replays: LargeTurns,
        replays: ReplayScheduler,
        forgets: set[str],
        forgetter: AccountForgetter,
        fail: Callable[[Account, BaseException], object],
    ) -> None:
        """`forgets` are accounts without a key whose checkpoints are to be erased; `fail` gets a bug in one."""
        self._commits = settings.commits
        self._tracer = settings.tracer
        self._maker = maker
        self._rejections = rejections
        self._turns = turns
        self._large = large
        self._large_replays = large_replays
        self._replays = replays
        self._forgets = forgets
        self._forgetter = forgetter
        self._fail = fail
        self._ready: dict[str, Account] = {}  # in the order in which they had work

    def has_work(self, account: Account) -> None:
        """Note that `account` may have a batch."""
        self._ready[account.name] = account

    def discard(self, name: str) -> None:
        """Take nothing more of an account."""
        self._ready.pop(name, None)

    def clear(self) -> None:
        """Take nothing more of any."""
        self._ready.clear()

    def begin(self) -> PendingCommit:
        """Return an empty commit, as large as the line takes one now: it stays so while it is filled."""
        return PendingCommit(aim=self._commits.aim)

    def build(self, limits: Limits, *, plain: bool) -> PendingCommit | None:
        """Return the next commit, of which some messages carry a trace; None where there is nothing to store."""
        pending = self._next_commit(limits)
        if not pending.checkpoints:
            return None
        for place in self._tracer.sampled(len(pending.messages)):
            has_room = pending.size + _TRACE_HEADER_BYTES < limits.bytes
            if has_room and not plain:  # else the broker refuses something, and is shown nothing but that
                pending.add_traces(place, self._tracer)
        return pending

    def _next_commit(self, limits: Limits) -> PendingCommit:
        """Take a batch of each account that has one, fairly, as much as one commit may hold."""
        pending = self.begin()
        if (id_ := self._large_replays.due(self._replays.ids())) is not None:
            self._add_replay(id_, pending, limits, most=1)
            if pending.checkpoints:
                return pending
        if self._turns.must_be_alone:
            self._add_replays(pending, limits)
            if pending.checkpoints:
                return pending
        now = asyncio.get_running_loop().time()
        if self._take_one_alone(pending, limits, now):
            return pending
        aside = {*self._rejections.is_set_aside(now), *self._large.names()}
        self._take_in_turn([name for name in self._ready if name not in aside], pending, limits)
        self._take_in_turn(pending.cut.copy(), pending, limits)  # what is left by those that need less than their part
        if not pending.checkpoints and self._take_one_alone(pending, limits, now):
            return pending  # it was the others' turn, and they have nothing
        room = limits.messages - len(pending.messages) - len(pending.checkpoints)
        for name in sorted(self._forgets - self._forgetter.names)[:room]:
            self.add(pending, name, None, limits)
            pending.resets[name] = None
        self._add_replays(pending, limits)
        return pending

    def _take_one_alone(self, pending: PendingCommit, limits: Limits, now: float) -> bool:
        """Take the work of an account that must have a commit alone, if there is one whose turn it is."""
        if not self._ready:
            return False
        if (name := self._rejections.is_due(now, self._ready)) is not None:
            self._take(name, pending, limits, most=1)
        elif (name := self._large.due(self._ready)) is not None:
            self._take(name, pending, limits, most=limits.messages - 1)
        return bool(pending.checkpoints)

    def _take_in_turn(self, names: Sequence[str], pending: PendingCommit, limits: Limits) -> None:
        """Take of each account in turn its part of the bytes that are left.

        Else an account that catches up would fill a commit of its own each time, and a live one would wait for one more
        of those.
        """
        for place, name in enumerate(names):
            room = limits.messages - len(pending.messages) - len(pending.checkpoints)
            # Room for an item and its checkpoint, and for the largest message that `add` lets through.
            space = limits.bytes - pending.size - LARGEST
            is_enough = room < 2 or space < limits.bytes // 4 or pending.size >= pending.aim  # noqa: PLR2004
            if pending.checkpoints and is_enough:
                return
            most = max(1, (room - 1) // len(self._ready))
            self._take(name, pending, limits, most=most, among=len(names) - place)

    def _take(self, name: str, pending: PendingCommit, limits: Limits, *, most: int, among: int = 1) -> None:
        """Take a batch of at most so many messages of an account, and put it behind the others: it may have more."""
        account = self._ready.pop(name)
        try:
            self._take_of(account, pending, limits, most=most, among=among)
        except Exception as error:  # noqa: BLE001 - its neighbours go on; `add` adds all of it or nothing
            self._fail(account, error)

    def _take_of(self, account: Account, pending: PendingCommit, limits: Limits, *, most: int, among: int) -> None:
        name = account.name
        if account.is_at_rest and self._add_reset(account, pending, limits):
            return
        if account.session is None:
            return
        made, queued = PreparedMessages(self._maker), account.session.queued_bytes
        left = pending.aim - pending.size
        space = min((limits.bytes - pending.size - LARGEST) // 2, left, max(left // among, _PART))
        batch = account.session.take(most, space, made.measure)
        account.on_batch_taken(time.monotonic(), batch, queued - account.session.queued_bytes)
        if batch is None:
            return
        self.add(pending, name, batch.checkpoint, limits, batch.items, made.messages)
        if account.session.has_batch:
            self._ready[name] = account
        if len(made.messages) > len(batch.items):  # one more was measured, and was too large for its part
            pending.cut.append(name)
        pending.progress[name] = account.session.highest, account.session.verified
        pending.filtered.update((name, kind) for kind in batch.filtered)

    def add(  # noqa: PLR0917 - in four places here
        self,
        pending: PendingCommit,
        key: str,
        value: bytes | None,
        limits: Limits,
        items: Sequence[OutgoingItem] = (),
        messages: Sequence[Message] = (),
    ) -> None:
        """Add the checkpoint `value`, and the items that it covers with their messages: all of it or nothing."""
        most, fitting, total = limits.bytes // 4, [], len(value or b"") + len(key)
        for item, message in zip(items, messages, strict=False):
            size = message.size
            fits = message if size <= most else self._maker.too_large(item, size, limits)
            fitting.append(fits)
            total += size if fits is message else fits.size
        pending.items += items
        pending.messages += fitting
        pending.size += total
        if key in pending.checkpoints:  # a second part of the same account: the newer checkpoint stands for both
            pending.size -= len(pending.checkpoints[key] or b"") + len(key)
        pending.checkpoints[key] = value

    def _add_reset(self, account: Account, pending: PendingCommit, limits: Limits) -> bool:
        """Add the checkpoint that an operator set for an account at rest, or let be forgotten, if there is one."""
        name, session, reset = account.name, account.session, account.pending_reset()
        if reset is not None:
            items = [] if session is None else session.gaps_of_losses()
            items.append(OutgoingItem(reset_notification(name, reset), incarnation=reset.incarnation))
            self.add(pending, name, encode_checkpoint(reset), limits, items, [self._maker.make(item) for item in items])
        elif account.is_to_be_forgotten and (account.is_unreadable if session is None else not session.is_fresh):
            self.add(pending, name, None, limits)
        else:
            return False
        pending.resets[name] = reset
        account.detach()
        return True

    def _add_replays(self, pending: PendingCommit, limits: Limits) -> None:
        """Add what replays have, behind everything that is new; after a failure alone, and not at once."""
        if not self._turns.may_go(has_others=bool(pending.checkpoints)):
            return
        aside = {id_ for id_ in self._large_replays.names() if not self._replays.is_to_end(id_)}
        for id_ in self._replays.ids():
            if id_ in aside:
                continue
            room = limits.messages - len(pending.messages) - len(pending.checkpoints) - 1
            space = limits.bytes - pending.size - LARGEST
            aim = pending.aim - pending.size
            if pending.checkpoints and (room < 1 or space < limits.bytes // 4 or aim <= 0):
                return
            self._add_replay(id_, pending, limits, most=room)

    def _add_replay(self, id_: str, pending: PendingCommit, limits: Limits, *, most: int) -> None:
        """Add at most so many messages of a replay, and the progress that covers them."""
        made = PreparedMessages(self._maker)
        space = min((limits.bytes - pending.size - LARGEST) // 2, pending.aim - pending.size)
        try:
            taken = self._replays.take(id_, most, space, made.measure)
            if taken is not None:
                items, progress = taken
                self.add(pending, KEY + id_, progress, limits, items, made.messages)
                pending.replays.append(id_)
        except Exception as error:  # noqa: BLE001 - events and the other replays go on
            self._replays.fail(id_, error)

    def has_room(self, pending: PendingCommit, limits: Limits, messages: int) -> bool:
        """Return whether so many messages more, small ones, and their checkpoint are well in the same commit."""
        has_place = len(pending.messages) + len(pending.checkpoints) + messages < limits.messages
        return has_place and pending.size < pending.aim and pending.size + 2 * LARGEST < limits.bytes
