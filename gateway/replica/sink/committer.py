"""Stores one commit after the other: in smaller ones, or with a dead letter, where the broker refuses."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from gateway.broker.ports import Commit, Limits, ShardLog
from gateway.errors import CommitRejected, OutcomeUnknown, TooLarge, TooManyMessages, Unavailable
from gateway.events.dead_letter_reasons import DeadLetterReason
from gateway.replica.sink.large_turns import LargeTurns
from gateway.replica.sink.message_maker import DEAD_LETTER_HEAD_BYTES, MessageMaker
from gateway.replica.sink.pending_commit import PendingCommit
from gateway.replica.sink.rejections import Rejections
from gateway.replica.sink.shard_settings import ShardSettings
from gateway.telemetry.span import NO_SPAN

_NOBODY: Final = frozenset[str](), frozenset[str]()
_REPLAY_RESTS: Final = 3.0
"""So many times as long as a commit took that failed for a replay's message, that is not tried again."""


class Committer:
    """Stores the commits of one shard."""

    def __init__(
        self,
        shard: int,
        settings: ShardSettings,
        maker: MessageMaker,
        rejections: Rejections,
        wake: Callable[[], None],
    ) -> None:
        """`wake` is called when a message that was refused is to be tried again."""
        self.counts: Counter[str] = Counter()
        """Commits and messages since the start."""
        self.last_answer_at = float("-inf")
        """When the broker last answered, by the loop's clock."""
        self.can_halve = False
        """Whether fewer messages can be tried than the broker refused."""
        self.large = LargeTurns(wake)
        """Accounts whose messages may be too large for the line."""
        self.large_replays = LargeTurns(wake, rests=_REPLAY_RESTS)
        """Replays whose messages may be."""
        self.blamed: tuple[frozenset[str], frozenset[str]] = _NOBODY
        """Accounts and replays whose messages may be why the last commit failed: they are too large for the line."""
        self._shard = shard
        self._commits = settings.commits
        self._counters = settings.counters
        self._tracer = settings.tracer
        self._maker = maker
        self._rejections = rejections
        self._wake = wake
        self._message_limit: int | None = None  # messages a commit, after the broker rejected one
        self._has_failed = False  # whether the last commit did

    @property
    def is_suspicious(self) -> bool:
        """Whether the broker refused something lately: it is shown nothing but that."""
        return self._message_limit is not None

    def limits(self, writer: ShardLog) -> Limits:
        """Return the limits of the next commit: less than the broker's where it refused that."""
        limits, broker_takes = writer.limits, self._commits.most_messages
        if self._message_limit is not None:
            limits = replace(limits, messages=min(limits.messages, self._message_limit + 1))
        return limits if broker_takes is None else replace(limits, messages=min(limits.messages, broker_takes))

    async def store_in_its_span(self, writer: ShardLog, pending: PendingCommit) -> None:
        """Store it in its span; where that fails, the log line about the failure still carries the span's ids."""
        span = self._tracer.send(self._shard, pending.messages, len(pending.checkpoints), pending.created)
        span.activate()
        try:
            await self.store(writer, pending)
        except BaseException as error:
            span.fail(error)
            raise
        span.end()
        NO_SPAN.activate()

    async def store(self, writer: ShardLog, pending: PendingCommit) -> None:
        """Store it, and dead-letter what the broker does not take; raises BrokerError."""
        loop = asyncio.get_running_loop()
        if len(pending.items) == 1 and self._rejections.must_dead_letter(pending.items[0]):
            pending.messages[0] = self._maker.dead_letter(
                pending.items[0], DeadLetterReason.REJECTED, "the broker refuses this message"
            )
        began, self.blamed = loop.time(), _NOBODY
        try:
            async with self._commits.slot(pending.size, has_failed=self._has_failed):
                self._has_failed = True
                began = loop.time()
                await self._store_fitting(writer, pending)
        except (Unavailable, OutcomeUnknown):  # a refusal or a rival does not measure the line
            self._blame(pending, loop.time() - began)
            raise
        self._has_failed = False
        self._rejections.on_stored(pending.items)
        if self.large.names():
            self.large.on_stored(pending.largest())
        if self.large_replays.names():
            self.large_replays.on_stored(pending.largest_replayed())
        if self._message_limit is not None:
            self._message_limit = self._message_limit * 2 if self._message_limit < writer.limits.messages else None
        self.last_answer_at = asyncio.get_running_loop().time()
        self.counts["commits"] += 1
        self.counts["messages"] += len(pending.messages)

    def _blame(self, pending: PendingCommit, seconds: float) -> None:
        """Let those go alone whose messages are larger than what is sent at once, after a commit of so many seconds."""
        aim = self._commits.aim
        sizes, replayed = pending.largest(above=aim), pending.largest_replayed(above=aim)
        self.blamed = frozenset(sizes), frozenset(replayed)
        self.large.on_failed(sizes, seconds)
        self.large_replays.on_failed(replayed, seconds)

    def begin(self) -> None:
        """The log is opened again: what fails from now on is nobody's fault yet."""
        self.blamed = _NOBODY

    async def _store_fitting(self, writer: ShardLog, pending: PendingCommit) -> None:
        """Store it once each message is as large as the broker takes; raises BrokerError."""
        loop = asyncio.get_running_loop()
        dead_lettered: dict[int, int] = {}
        while True:
            try:
                began = time.perf_counter()
                await writer.commit(Commit(pending.messages, pending.checkpoints))
                self._counters.commit_seconds.observe(time.perf_counter() - began)
            except TooLarge as error:
                self._replace_too_large(pending, error, dead_lettered)
            except TooManyMessages:
                self.can_halve = self._commits.reduce_messages(len(pending.messages) + len(pending.checkpoints))
                raise
            except CommitRejected:
                self._message_limit = max(1, len(pending.messages) // 2)
                self.can_halve = self._message_limit > 1
                if len(pending.items) == 1:
                    loop.call_later(self._rejections.on_rejected(pending.items[0], loop.time()), self._wake)
                raise
            else:
                return

    def _replace_too_large(self, pending: PendingCommit, error: TooLarge, dead_lettered: dict[int, int]) -> None:
        """Replace a message that the broker finds too large: without its trace, by its dead letter, by a shorter one.

        `dead_lettered` counts the dead letters by place. Raises Unavailable where the broker takes none of them.
        """
        if pending.remove_traces(error.index):
            return
        tries = dead_lettered[error.index] = dead_lettered.get(error.index, 0) + 1
        if tries > 2:  # noqa: PLR2004 - a dead letter of its head alone is the least that can be said
            raise Unavailable(f"the broker does not even take a dead letter: {error}") from error
        pending.messages[error.index] = self._maker.dead_letter(
            pending.items[error.index],
            DeadLetterReason.TOO_LARGE,
            str(error),
            keep=DEAD_LETTER_HEAD_BYTES if tries == 1 else 0,
        )
