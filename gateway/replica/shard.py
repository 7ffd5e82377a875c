"""One shard at work: claim its log, give its accounts their sessions, commit what they have; every broker retry.

Opening: the claim fences every older writer, then the checkpoints are read, then sessions begin from them.
One commit is in flight at a time, so batches grow with load, and a quiet shard waits for nothing. After
anything but a clean answer the sessions are thrown away and the log is opened again: the checkpoints tell
what was stored. Nothing is ever sent twice on a guess.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.broker.ports import Commit, EventLog, Limits, Registry, ShardLog
from gateway.errors import BrokerError, Fenced, NoRoom, Rejected, TooLarge, Unavailable
from gateway.events.event import DeadLetter, Event, Notification
from gateway.events.reasons import Reason
from gateway.publication import (
    Message,
    dead_letter_message,
    event_message,
    notification_message,
    with_account_in_key,
)
from gateway.replica.account import Account, Activity
from gateway.replica.backoff import Backoff
from gateway.session.checkpoint import CheckpointUnreadable, decode_checkpoint
from gateway.session.facts import Item, SessionSettings
from gateway.session.session import Session
from gateway.telemetry.logs import get_logger

_LONE_REFUSALS: Final = 3
"""How often a message must be refused alone before it is buried: a server that changes its leader refuses too."""
_CHECKPOINT: Final = 144 * 1024
"""Bytes that a checkpoint takes at the most."""
_CUT: Final = 4096
"""Raw bytes that a dead letter keeps of what was itself above the broker's limit."""


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """How a shard works."""

    start: str | int
    session: SessionSettings
    registry: Registry
    commits: asyncio.Semaphore
    """Bounds the commits in flight in this process."""
    account_in_key: bool = False
    """Whether the keys of events and dead letters begin with the account."""


@dataclass(slots=True)
class _Filling:
    """A commit in the making."""

    items: list[Item] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    checkpoints: dict[str, bytes] = field(default_factory=dict)
    bytes: int = 0


class Shard:
    """A shard of this replica and its accounts."""

    def __init__(self, number: int, log: EventLog, settings: ShardSettings) -> None:
        self.number = number
        self.accounts: dict[str, Account] = {}
        self.counts: Counter[str] = Counter()
        """Commits, messages and reopenings since the start."""
        self._event_log = log
        self._settings = settings
        self._ready: dict[str, Account] = {}  # in the order in which they had work
        self._work = asyncio.Event()
        self._stopping = False
        self._at_most: int | None = None  # messages a commit, after the broker rejected one
        self._unknown: set[str] = set()  # accounts whose first checkpoint is not committed yet
        self._refusals = 0
        self._suspect: Item | None = None  # what stood alone in a rejected commit
        self._log = get_logger(shard=number)

    def has_work(self, account: Account) -> None:
        """Note that `account` may have a batch."""
        self._ready[account.name] = account
        self._work.set()

    def stop(self) -> None:
        """Let `run` return once the commit in hand is finished."""
        self._stopping = True
        self._work.set()

    async def run(self) -> None:
        """Serve the shard and its accounts until `stop`, or until another owner fences it."""
        async with asyncio.TaskGroup() as tasks:
            followers = [tasks.create_task(account.run()) for account in self.accounts.values()]
            await self._serve()
            for follower in followers:
                follower.cancel()

    async def _serve(self) -> None:
        backoff, patience = Backoff(cap=5.0), Backoff(first=1.0)
        loop = asyncio.get_running_loop()
        while not self._stopping:
            began, commits = loop.time(), self.counts["commits"]
            try:
                await self._open_and_commit()
            except Fenced as error:
                self._detach(Activity.FENCED)
                self._log.error("another gateway has taken the shard: this one stays off it", error=str(error))
                return
            except BrokerError as error:
                self._detach(None)
                # A commit in between is a success: what fails now is another fault.
                lasted = backoff.stable_after if self.counts["commits"] > commits else loop.time() - began
                halving = isinstance(error, Rejected) and self._at_most != 1
                waiting = patience if isinstance(error, NoRoom) else backoff
                delay = 0.0 if halving else waiting.next_delay(lasted=lasted)
                self._log.warning("the shard's log is opened again", error=str(error), retry_in=round(delay, 2))
                self.counts["reopened"] += 1
                await asyncio.sleep(delay)

    async def _open_and_commit(self) -> None:
        async with self._event_log.open(self.number) as writer:
            checkpoints = await writer.checkpoints()
            known = await self._settings.registry.known()
            for name in self.accounts.keys() & checkpoints.keys() - known:
                await self._settings.registry.register(name)
            self._attach(checkpoints, known)
            self._log.info("the shard's log is open", accounts=len(self.accounts))
            while not self._stopping:
                await self._work.wait()
                self._work.clear()
                while not self._stopping and (filling := self._fill(self._limits(writer))) is not None:
                    await self._commit(writer, filling)

    def _attach(self, checkpoints: dict[str, bytes], known: frozenset[str]) -> None:
        self._unknown = self.accounts.keys() - checkpoints.keys() - known
        for name, account in self.accounts.items():
            value = checkpoints.get(name)
            try:
                checkpoint = decode_checkpoint(value) if value is not None else None
            except CheckpointUnreadable as error:
                account.trouble = str(error)
                account.detach(Activity.DIVERGED)
                self._log.error("the account stands still", account=name, error=str(error))
                continue
            account.attach(
                Session(
                    name,
                    checkpoint,
                    start=self._settings.start,
                    settings=self._settings.session,
                    known=name in known,
                )
            )

    def _detach(self, activity: Activity | None) -> None:
        self._ready.clear()
        for account in self.accounts.values():
            account.detach(activity)

    def _limits(self, writer: ShardLog) -> Limits:
        limits = writer.limits
        return limits if self._at_most is None else replace(limits, messages=min(limits.messages, self._at_most + 1))

    def _fill(self, limits: Limits) -> _Filling | None:
        """Take a batch of each account that has one, fairly, as much as one commit may hold."""
        filling = _Filling()
        for _ in range(len(self._ready)):
            name, account = next(iter(self._ready.items()))
            room = limits.messages - len(filling.messages) - len(filling.checkpoints)
            space = limits.bytes - filling.bytes - _CHECKPOINT
            # Room for an item and its checkpoint, and for the largest message that _message lets through.
            if filling.checkpoints and (room < 2 or space < limits.bytes // 4):  # noqa: PLR2004 - the two
                break
            del self._ready[name]
            if account.session is None:
                continue
            share = max(1, (room - 1) // (len(self._ready) + 1))
            batch = account.session.take(share, space // 2)
            account.took()
            if batch is None:
                continue
            self._ready[name] = account  # behind the others: it may have more
            filling.items += batch.items
            for item in batch.items:
                message, size = self._message(item, limits)
                filling.messages.append(message)
                filling.bytes += size
            filling.checkpoints[name] = batch.checkpoint
            filling.bytes += len(batch.checkpoint) + len(name)
            account.counts["filtered"] += batch.filtered
        return filling if filling.checkpoints else None

    def _message(self, item: Item, limits: Limits) -> tuple[Message, int]:
        """Give the message of an item, and its size."""
        message = self._keyed(to_message(item))
        size = message.size
        if size > limits.bytes // 4:
            words = f"a message of {size} bytes is too large for a commit of {limits.bytes}"
            message = self._bury(item, Reason.TOO_LARGE, words)
            size = message.size
        return message, size

    async def _commit(self, writer: ShardLog, filling: _Filling) -> None:
        if self._refusals >= _LONE_REFUSALS and len(filling.items) == 1 and filling.items[0] == self._suspect:
            filling.messages[0] = self._bury(filling.items[0], Reason.REJECTED, "the broker refuses this message")
        buried: dict[int, int] = {}
        async with self._settings.commits:
            while True:
                try:
                    await writer.commit(Commit(filling.messages, filling.checkpoints))
                    break
                except TooLarge as error:
                    tries = buried[error.index] = buried.get(error.index, 0) + 1
                    if tries > 2:  # noqa: PLR2004 - a dead letter of its head alone is the least that can be said
                        raise Unavailable(f"the broker does not even take a dead letter: {error}") from error
                    letter = self._bury(
                        filling.items[error.index], Reason.TOO_LARGE, str(error), keep=_CUT if tries == 1 else 0
                    )
                    filling.messages[error.index] = letter
                except Rejected:
                    self._at_most = max(1, len(filling.messages) // 2)
                    alone = filling.items[0] if len(filling.items) == 1 else None
                    self._refusals = self._refusals + 1 if alone is not None and alone == self._suspect else 1
                    self._suspect = alone
                    raise
        if self._at_most is not None:
            self._at_most = self._at_most * 2 if self._at_most < writer.limits.messages else None
        self.counts["commits"] += 1
        self.counts["messages"] += len(filling.messages)
        for name in filling.checkpoints:
            self.accounts[name].made_room()
        for (name, label), count in Counter([(item.content.account, _label(item)) for item in filling.items]).items():
            self.accounts[name].counts[label] += count
        for name in self._unknown & filling.checkpoints.keys():
            await self._settings.registry.register(name)  # its first checkpoint is there: from now on it must be
            self._unknown.discard(name)

    def _bury(self, item: Item, reason: str, detail: str, *, keep: int = _CUT) -> Message:
        """Give the dead letter of what the broker does not take, with its first `keep` bytes."""
        content = item.content
        message = to_message(item)
        letter = DeadLetter(
            account=content.account,
            reason=reason,
            detail=detail,
            place="commit",
            raw=content.raw if isinstance(content, DeadLetter) else message.value,
            sequence=None if isinstance(content, Notification) else content.sequence,
            id=None if isinstance(content, Notification) else content.id,
        )
        self._log.error(
            "a message became a dead letter", account=content.account, key=message.key.decode(), detail=detail
        )
        return self._keyed(dead_letter_message(letter, limit=keep))

    def _keyed(self, message: Message) -> Message:
        return with_account_in_key(message) if self._settings.account_in_key else message


def to_message(item: Item) -> Message:
    """Give the message of an item."""
    match item.content:
        case Event() as event:
            return event_message(event, late=item.late)
        case DeadLetter() as letter:
            return dead_letter_message(letter)
        case Notification() as notification:
            return notification_message(notification)


def _label(item: Item) -> str:
    match item.content:
        case Event():
            return "published:late" if item.late else "published"
        case DeadLetter():
            return "published:dead-letter"
        case Notification():
            return "published:notification"
