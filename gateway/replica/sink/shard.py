"""One shard at work: claim its log, give its accounts their sessions, commit what they have; every broker retry.

Opening: the broker is asked whether the shard is still this replica's, then the claim fences every older writer,
then the checkpoints are read, then sessions begin from them.
One commit is in flight at a time, so batches grow with load, and a quiet shard waits for nothing. After
anything but a clean answer the sessions are thrown away and the log is opened again: the checkpoints tell
what was stored. Nothing is ever sent twice on a guess. Accounts come and go while it works; one that comes begins
from the checkpoint that is read then.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from gateway.backoff import Backoff
from gateway.broker.ports import Commit, EventLog, Limits, Membership, Registry, ShardLog
from gateway.errors import (
    ActionRequired,
    BrokerError,
    CommitRejected,
    Fenced,
    OutcomeUnknown,
    StorageFull,
    TooLarge,
    TooManyMessages,
    Unavailable,
)
from gateway.events.dead_letter_reasons import DeadLetterReason
from gateway.events.event import GAP, DeadLetter, Notification
from gateway.publication import NOTIFICATIONS, Message, dead_letter_message, with_account_in_key
from gateway.replica.containment import RestartDelays, SupervisedTasks, raise_if_cancelled, report_unexpected
from gateway.replica.provisioning import Provisioning
from gateway.replica.replay.job import ReplaySettings
from gateway.replica.replay.scheduler import ReplayScheduler
from gateway.replica.sink.commit_slots import CommitSlots
from gateway.replica.sink.forgetting import AccountForgetter
from gateway.replica.sink.pending_commit import PendingCommit, to_message
from gateway.replica.sink.rejections import Rejections
from gateway.replica.sink.store_losses import CommittedHighWater, log_gaps, taken_back
from gateway.replica.source.account import Account, AccountState
from gateway.replica.source.supervisor import Supervisor
from gateway.session.checkpoint import (
    LARGEST,
    Checkpoint,
    CheckpointUnreadable,
    decode_checkpoint,
    encode_checkpoint,
    reset_notification,
)
from gateway.session.replay_queue import KEY
from gateway.session.session import Session
from gateway.session.types import OutgoingItem, SessionSettings
from gateway.telemetry.counters import Counters
from gateway.telemetry.logs import bind, get_logger
from gateway.telemetry.span import NO_SPAN
from gateway.telemetry.tracer import NOOP_TRACER, Tracer

_OWNERSHIP_CHECK_S: Final = 30.0
"""Seconds without a log after which the connections to the hub are let go: another replica may need them."""
_UNCERTAIN_AFTER_S: Final = 10.0
"""Seconds after a commit until the broker is asked again whose the shard is: nothing else tells who is idle."""
_MAX_REOPEN_DELAY_S: Final = 60.0
"""Seconds after which replays are tried again at the latest, whose commits failed."""
_TRACE_HEADER_BYTES: Final = 512
"""Bytes that a trace may take in a message, at the most."""
_PART: Final = 16 * 1024
"""Bytes that an account may take of a commit, where there is room, however many others have something: each takes a
checkpoint besides, of up to 5 kB (measured)."""
_DEAD_LETTER_HEAD_BYTES: Final = 4096
"""Raw bytes that a dead letter keeps of what was itself above the broker's limit."""


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """How a shard works."""

    start: str | int
    session: SessionSettings
    registry: Registry
    provisioning: Provisioning
    """What is wrong with the broker."""
    commits: CommitSlots
    """Bounds the commits in flight in this process."""
    replays: ReplaySettings
    counters: Counters
    """What is counted of all shards of this process together."""
    account_in_key: bool = False
    """Whether the keys of events and dead letters begin with the account."""
    tracer: Tracer = NOOP_TRACER


class _Prepared:
    """The messages of a batch, made while it is taken: a commit is bounded by what they take, not by a guess."""

    def __init__(self, make: Callable[[OutgoingItem], Message]) -> None:
        self.messages: list[Message] = []
        self._make = make

    def measure(self, item: OutgoingItem) -> int:
        """Make the message of an item, and return its size in bytes; the last one may be of no item of the batch."""
        message = self._make(item)
        self.messages.append(message)
        return message.size


def _task_of(account: str) -> str:
    return f"account-{account}"


class Shard:
    """A shard of this replica and its accounts."""

    def __init__(self, number: int, log: EventLog, settings: ShardSettings) -> None:
        self.number = number
        self.accounts: dict[str, Account] = {}
        """Changed by `add` and `remove` alone."""
        self.epoch = 0
        """What reports of the shard name; once its log was open, it is above that of every earlier owner."""
        self.key_missing: set[str] = set()
        """Accounts that have a checkpoint here, and no key."""
        self.forgets: set[str] = set()
        """Accounts without a key whose checkpoints are to be forgotten."""
        self.forgotten: set[str] = set()
        """Those of them that are: whoever sees to it takes them out."""
        self.needs: str | None = None
        """What a person must mend before the log can be opened; None where nothing is known."""
        self.counts: Counter[str] = Counter()
        """Commits, messages and reopenings since the start."""
        self._event_log = log
        self._settings = settings
        self._counters = settings.counters
        self._ready: dict[str, Account] = {}  # in the order in which they had work
        self._work = asyncio.Event()
        self._stop = asyncio.Event()
        self._message_limit: int | None = None  # messages a commit, after the broker rejected one
        self._has_failed = False  # whether the last commit did
        self._can_halve = False  # whether fewer messages can be tried than the broker refused
        self._unknown: set[str] = set()  # accounts whose first checkpoint is not committed yet
        self._rejections = Rejections()
        self._committed_high_water = CommittedHighWater(settings.counters)
        self._restart_delays = RestartDelays()
        self._opened_at = self._heard_at = float("-inf")  # when there was a log, and a word of the broker
        self._newcomers: set[str] = set()
        self._replays_alone = False  # a commit with something of a replay failed, maybe because of that
        self._replay_rest = self._replays_after = 0.0
        self._tasks: asyncio.TaskGroup | None = None
        self._running: SupervisedTasks | None = None  # the accounts' tasks
        self._logger = get_logger(shard=number)
        self._forgetter = AccountForgetter(settings.registry, self._on_forgotten)
        self.replays = ReplayScheduler(settings.replays, self.accounts, self._work.set, self._counters)

    def add(self, account: Account) -> None:
        """Serve one account more."""
        account.touch()
        account.lag.begin(time.monotonic())
        self.accounts[account.name] = account
        self.forgets.discard(account.name)
        self._newcomers.add(account.name)
        if self._running is not None:
            self._running.run(_task_of(account.name), partial(self._run, account), partial(self.fail, account))
            self.replays.on_account_added(account.name)
        self._work.set()

    async def _run(self, account: Account) -> None:
        """Run an account, again and again where it fails unexpectedly: then it begins from its checkpoint."""
        bind(shard=self.number)  # whoever added it may be of no shard
        supervisor = Supervisor(account)
        while True:
            try:
                await supervisor.run()
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - its neighbours go on
                raise_if_cancelled()
                account.counters.on_disconnected("unexpected")
                delay = self.fail(account, error)
            await asyncio.sleep(delay)  # not in the handler, where the error keeps what it met

    def fail(self, account: Account, error: BaseException) -> float:
        """An account failed unexpectedly: let it begin from its checkpoint, after the seconds that are returned."""
        name = account.name
        delay = self._restart_delays.after_failure(name)
        report_unexpected(self._counters, "account", error, retry_in=delay, account=name)
        account.on_unexpected_error(error)
        self._ready.pop(name, None)
        asyncio.get_running_loop().call_later(delay, self._restart_account, account)
        return delay

    def _restart_account(self, account: Account) -> None:
        if self.accounts.get(account.name) is account and account.session is None:
            self._newcomers.add(account.name)
            self._work.set()

    def remove(self, name: str) -> None:
        """Serve an account no more, and keep its checkpoint; what is being committed of it is committed."""
        account = self.accounts.pop(name)
        self._ready.pop(name, None)
        self._newcomers.discard(name)
        self._rejections.forget(name)
        self._restart_delays.forget(name)
        if account.session is not None:
            self.key_missing.add(name)
        account.detach()
        self.replays.on_account_removed(name)
        if self._running is not None:
            self._running.cancel(_task_of(name))

    def forget(self, name: str) -> None:
        """Forget the checkpoint of an account without a key."""
        self.forgets.add(name)
        self._work.set()

    def has_work(self, account: Account) -> None:
        """Note that `account` may have a batch."""
        self._ready[account.name] = account
        self._work.set()

    def stop(self) -> None:
        """Let `run` return once the commit in hand is finished."""
        self._stop.set()
        self._work.set()

    async def run(self, membership: Membership | None = None) -> None:
        """Serve the shard and its accounts until `stop`, or until it is another's; it may be run again.

        Without a membership the newest claim is all that tells whose it is, so a writer that was fenced stays off.
        """
        bind(shard=self.number)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks, self._running = tasks, SupervisedTasks(tasks)
                try:
                    for account in self.accounts.values():
                        self.add(account)
                    await self._serve(membership)
                finally:
                    self._running.cancel_all()
                    self._tasks = self._running = None
        finally:
            self._stop.clear()

    async def _serve(self, membership: Membership | None) -> None:
        backoff, patience = Backoff(cap=5.0), Backoff(first=1.0)
        loop = asyncio.get_running_loop()
        away_since: float | None = None
        while not self._stop.is_set():
            began, commits = loop.time(), self.counts["commits"]
            try:
                if await self._lost_ownership(membership):
                    break
                await self._open_and_commit(membership)
            except BrokerError as error:
                if self._stop.is_set():  # on Kafka its next owner does not wait for the commit in hand
                    words = (
                        "shard released without a clean answer to its last commit: its next owner reads what is stored"
                    )
                    self._logger.info(words, error=str(error))
                    break
                if isinstance(error, Fenced):
                    self._counters.fenced += 1
                    self._committed_high_water.forget_all()
                if isinstance(error, Fenced) and membership is None:
                    self._detach(AccountState.FENCED)
                    self._logger.error(
                        "shard fenced by another gateway: this one will not claim it again", error=str(error)
                    )
                    return
                if isinstance(error, Fenced):
                    with suppress(Unavailable):  # it is asked again before anything is opened
                        if await self._lost_ownership(membership):
                            break
                self._detach(None)
                away_since = self._detach_account(away_since if self._opened_at < began else None)
                # A commit in between is a success, and what fails now another fault; but not where only some topics
                # can be written to.
                needs_person = isinstance(error, ActionRequired)
                succeeded = self.counts["commits"] > commits and not needs_person
                lasted = backoff.stable_after if succeeded else loop.time() - began
                halving = isinstance(error, (TooManyMessages, CommitRejected)) and self._can_halve
                waiting = patience if isinstance(error, StorageFull) else backoff
                delay = 0.0 if halving else waiting.next_delay(lasted=lasted)
                self._log_failure(error, delay, needs_person=needs_person)
                NO_SPAN.activate()
                self.counts["reopened"] += 1
                await self._reopen_delay(delay)
            except Exception as error:  # noqa: BLE001 - the other shards go on
                raise_if_cancelled()
                delay = self._restart_delays.after_failure()
                report_unexpected(self._counters, "shard", error, retry_in=delay, shard=self.number)
                self._detach(None)
                self.counts["reopened"] += 1
                await self._reopen_delay(delay)
        self._committed_high_water.forget_all()
        self._detach(None)

    def _log_failure(self, error: BrokerError, delay: float, *, needs_person: bool) -> None:
        """Say why the log is opened again, once a minute; and of the accounts, where only a person can mend it."""
        provisioning = self._settings.provisioning
        provisioning.request_check()
        if isinstance(error, Fenced) or provisioning.throttle.should_log(str(error)):
            say = self._logger.error if needs_person else self._logger.warning
            say("shard log failed, reopening", error=str(error), retry_in=round(delay, 2))
        self.needs = str(error) if needs_person else provisioning.problem
        for account in self.accounts.values() if self.needs is not None else ():
            account.last_error = self.needs
            account.touch()

    async def _reopen_delay(self, seconds: float) -> None:
        """Wait before the log is opened again, unless asked to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _lost_ownership(self, membership: Membership | None) -> bool:
        """Ask the broker whether the shard is another replica's now; raises Unavailable."""
        if membership is None or await membership.is_owner(self.number):
            return False
        self._logger.warning("shard reassigned to another gateway")
        return True

    async def _open_and_commit(self, membership: Membership | None) -> None:
        """Serve until stopped, or until it is found that the shard is lost; raises BrokerError."""
        loop = asyncio.get_running_loop()
        async with self._event_log.open(self.number) as writer:
            checkpoints = await self._read(writer)
            self.epoch = max(writer.epoch, self.epoch + 1)  # a log that was made anew counts from the beginning
            known = await self._settings.registry.accounts()
            begun = checkpoints.keys() | self._committed_high_water.names()
            for name in self.accounts.keys() & begun - known:
                await self._settings.registry.register(name)
            self._unknown.clear()
            await self._prove_rejected(writer, checkpoints)
            self._attach(self.accounts.keys(), checkpoints, known | begun)
            assert self._tasks is not None  # noqa: S101 - it is run
            self.replays.on_opened(checkpoints, self._tasks)
            self._opened_at = self._heard_at = loop.time()
            self.needs = None
            self._logger.info("shard log opened", accounts=len(self.accounts))
            while not self._stop.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(self._heard_at + _UNCERTAIN_AFTER_S):
                        await self._work.wait()
                if loop.time() >= self._heard_at + _UNCERTAIN_AFTER_S:
                    if await self._lost_ownership(membership):
                        return
                    await writer.check()
                    self._heard_at = loop.time()
                self._work.clear()
                if self._newcomers:
                    known = await self._settings.registry.accounts()
                    self._attach(self._newcomers.copy(), await writer.checkpoints(), known)
                while not self._stop.is_set() and (filling := self._build_commit(self._limits(writer))) is not None:
                    await self._commit(writer, filling)

    async def _read(self, writer: ShardLog) -> dict[str, bytes]:
        """Read the checkpoints, and let them cover nothing that the broker has lost; raises BrokerError."""
        checkpoints = await writer.checkpoints()
        left = taken_back(checkpoints, writer.lost)
        while left:
            filling, limits = PendingCommit(), self._limits(writer)
            for name, taken in left.items():
                messages = [self._message(item) for item in taken.gaps]
                if filling.checkpoints and not self._has_room(filling, limits, len(messages)):
                    break
                self._add(filling, name, taken.checkpoint, limits, taken.gaps, messages)
            await self._store(writer, filling)
            log_gaps(filling.gaps)
            for name in filling.checkpoints:
                taken = left.pop(name)
                self._committed_high_water.took_back(name, taken.sequences)
                checkpoints[name] = taken.checkpoint
        return checkpoints

    def _has_room(self, filling: PendingCommit, limits: Limits, messages: int) -> bool:
        """Return whether so many messages more, small ones, and their checkpoint are well in the same commit."""
        has_place = len(filling.messages) + len(filling.checkpoints) + messages < limits.messages
        return has_place and filling.size < self._settings.commits.aim and filling.size + 2 * LARGEST < limits.bytes

    async def _prove_rejected(self, writer: ShardLog, checkpoints: dict[str, bytes]) -> None:
        """Store the checkpoints again of accounts of which a message is refused: are they alone? Raises BrokerError."""
        for name in self._rejections.wants_proof(asyncio.get_running_loop().time()):
            if name in checkpoints:
                await writer.commit(Commit((), {name: checkpoints[name]}))
                self._rejections.on_proven(name)

    def _attach(self, names: Collection[str], checkpoints: dict[str, bytes], known: frozenset[str]) -> None:
        """Let these accounts begin from their checkpoints."""
        self._newcomers -= set(names)
        self.key_missing = {name for name in checkpoints.keys() - self.accounts.keys() if not name.startswith(KEY)}
        self._unknown |= set(names) - checkpoints.keys() - known
        for name in self.accounts.keys() & set(names) - self._forgetter.names:
            account, value = self.accounts[name], checkpoints.get(name)
            try:
                checkpoint = decode_checkpoint(value) if value is not None else None
            except CheckpointUnreadable as error:
                account.last_error = str(error)
                account.detach(AccountState.DIVERGED)
                account.is_unreadable = True
                self.has_work(account)  # an operator may want another
                self._logger.error("account halted", account=name, error=str(error))
                continue
            try:
                session = self._session(name, checkpoint, known=name in known)
                self._committed_high_water.compare(name, session)
                if session.is_begun:
                    self._committed_high_water.note(name, session.highest)
                account.attach(session)
            except Exception as error:  # noqa: BLE001 - its neighbours go on
                self.fail(account, error)
                continue
            if account.is_at_rest:
                self.has_work(account)  # an operator may want another checkpoint

    def _detach_account(self, away_since: float | None) -> float:
        """Let the connections to the hub go once there is no log for long; give since when there is none."""
        now = asyncio.get_running_loop().time()
        if away_since is not None and now - away_since > _OWNERSHIP_CHECK_S:
            for account in self.accounts.values():
                account.disconnect("there is no log to write to")
        return now if away_since is None else away_since

    def _detach(self, state: AccountState | None) -> None:
        self._ready.clear()
        self._forgetter.stop()
        self.replays.on_closed()
        for account in self.accounts.values():
            account.detach(state)

    def _limits(self, writer: ShardLog) -> Limits:
        limits, broker_takes = writer.limits, self._settings.commits.most_messages
        if self._message_limit is not None:
            limits = replace(limits, messages=min(limits.messages, self._message_limit + 1))
        return limits if broker_takes is None else replace(limits, messages=min(limits.messages, broker_takes))

    def _build_commit(self, limits: Limits) -> PendingCommit | None:
        """Return the next commit, of which some messages carry a trace; None where there is nothing to store."""
        filling = self._next_commit(limits)
        if not filling.checkpoints:
            return None
        for place in self._settings.tracer.sampled(len(filling.messages)):
            has_room = filling.size + _TRACE_HEADER_BYTES < limits.bytes
            if (
                has_room and self._message_limit is None
            ):  # else the broker refuses something, and is shown nothing but that
                filling.add_traces(place, self._settings.tracer)
        return filling

    def _next_commit(self, limits: Limits) -> PendingCommit:
        """Take a batch of each account that has one, fairly, as much as one commit may hold."""
        filling = PendingCommit()
        if self._replays_alone:
            self._add_replays(filling, limits)
            if filling.checkpoints:
                return filling
        now = asyncio.get_running_loop().time()
        alone, aside = self._rejections.is_due(now, self._ready), self._rejections.is_set_aside(now)
        if alone is not None:
            self._take(alone, filling, limits, most=1)
            if filling.checkpoints:
                return filling
        self._take_in_turn([name for name in self._ready if name not in aside], filling, limits)
        self._take_in_turn(filling.cut.copy(), filling, limits)  # what those have left who need less than their part
        room = limits.messages - len(filling.messages) - len(filling.checkpoints)
        for name in sorted(self.forgets - self._forgetter.names)[:room]:
            self._add(filling, name, None, limits)
            filling.resets[name] = None
        self._add_replays(filling, limits)
        return filling

    def _take_in_turn(self, names: Sequence[str], filling: PendingCommit, limits: Limits) -> None:
        """Take of each account in turn its part of the bytes that are left.

        Else who catches up would fill a commit of its own each time, and who is live would wait for one more of those.
        """
        for place, name in enumerate(names):
            room = limits.messages - len(filling.messages) - len(filling.checkpoints)
            # Room for an item and its checkpoint, and for the largest message that _fitting lets through.
            space = limits.bytes - filling.size - LARGEST
            is_enough = room < 2 or space < limits.bytes // 4 or filling.size >= self._settings.commits.aim  # noqa: PLR2004
            if filling.checkpoints and is_enough:
                return
            most = max(1, (room - 1) // len(self._ready))
            self._take(name, filling, limits, most=most, among=len(names) - place)

    def _take(self, name: str, filling: PendingCommit, limits: Limits, *, most: int, among: int = 1) -> None:
        """Take a batch of at most so many messages of an account, and put it behind the others: it may have more."""
        account = self._ready.pop(name)
        try:
            self._take_of(account, filling, limits, most=most, among=among)
        except Exception as error:  # noqa: BLE001 - its neighbours go on; `_add` adds all of it or nothing
            self.fail(account, error)

    def _take_of(self, account: Account, filling: PendingCommit, limits: Limits, *, most: int, among: int) -> None:
        name = account.name
        if account.is_at_rest and self._add_reset(account, filling, limits):
            return
        if account.session is None:
            return
        made, queued = _Prepared(self._message), account.session.queued_bytes
        left = self._settings.commits.aim - filling.size
        space = min((limits.bytes - filling.size - LARGEST) // 2, left, max(left // among, _PART))
        batch = account.session.take(most, space, made.measure)
        account.on_batch_taken(time.monotonic(), batch, queued - account.session.queued_bytes)
        if batch is None:
            return
        self._add(filling, name, batch.checkpoint, limits, batch.items, made.messages)
        self._ready[name] = account
        if len(made.messages) > len(batch.items):  # one more was measured, and was too large for its part
            filling.cut.append(name)
        filling.progress[name] = account.session.highest, account.session.verified
        filling.filtered.update((name, kind) for kind in batch.filtered)

    def _add(  # noqa: PLR0917 - in four places here
        self,
        filling: PendingCommit,
        key: str,
        value: bytes | None,
        limits: Limits,
        items: Sequence[OutgoingItem] = (),
        messages: Sequence[Message] = (),
    ) -> None:
        """Add the checkpoint `value`, and the items that it covers with their messages: all of it or nothing."""
        fitting = [self._fitting(item, message, limits) for item, message in zip(items, messages, strict=False)]
        filling.items += items
        filling.messages += fitting
        filling.size += sum(message.size for message in fitting)
        filling.size += len(value or b"") + len(key)
        if key in filling.checkpoints:  # a second part of the same account: the newer checkpoint stands for both
            filling.size -= len(filling.checkpoints[key] or b"") + len(key)
        filling.checkpoints[key] = value

    def _add_reset(self, account: Account, filling: PendingCommit, limits: Limits) -> bool:
        """Add the checkpoint that an operator set for an account at rest, or let be forgotten, if there is one."""
        name, session, reset = account.name, account.session, account.pending_reset()
        if reset is not None:
            item = OutgoingItem(reset_notification(name, reset), incarnation=reset.incarnation)
            self._add(filling, name, encode_checkpoint(reset), limits, [item], [self._message(item)])
        elif account.is_to_be_forgotten and (account.is_unreadable if session is None else not session.is_fresh):
            self._add(filling, name, None, limits)
        else:
            return False
        filling.resets[name] = reset
        account.detach()
        return True

    def _apply_resets(self, renewed: dict[str, Checkpoint | None]) -> None:
        """Go on from the checkpoints that were set; what was erased is to be forgotten everywhere first."""
        for name, checkpoint in renewed.items():
            account = self.accounts.get(name)
            if checkpoint is None:
                if account is not None:
                    account.is_unreadable = False  # it is not there any more
            else:
                self._logger.warning("checkpoint reset", account=name)
                if account is not None:
                    account.lag.forget()
                    account.attach(self._session(name, checkpoint, known=True))
        assert self._tasks is not None  # noqa: S101 - it is run
        self._forgetter.start([name for name, checkpoint in renewed.items() if checkpoint is None], self._tasks)

    def _on_forgotten(self, names: Collection[str]) -> None:
        """Nothing is known of these accounts any more: those that are served begin anew."""
        for name in names:
            self._unknown.add(name)
            account = self.accounts.get(name)
            self._logger.warning("checkpoint deleted", account=name)
            if account is not None:
                self._newcomers.discard(name)
                account.lag.forget()
                account.attach(self._session(name, None, known=False))
            elif name in self.forgets:
                self.forgets.discard(name)
                self.key_missing.discard(name)
                self.forgotten.add(name)

    def _session(self, name: str, checkpoint: Checkpoint | None, *, known: bool) -> Session:
        settings = self._settings
        return Session(name, checkpoint, start=settings.start, settings=settings.session, known=known)

    def _add_replays(self, filling: PendingCommit, limits: Limits) -> None:
        """Add what replays have, behind everything that is new; after a failure alone, and not at once."""
        if asyncio.get_running_loop().time() < self._replays_after or (self._replays_alone and filling.checkpoints):
            return
        for id_ in self.replays.ids():
            room = limits.messages - len(filling.messages) - len(filling.checkpoints) - 1
            space = limits.bytes - filling.size - LARGEST
            aim = self._settings.commits.aim - filling.size
            if filling.checkpoints and (room < 1 or space < limits.bytes // 4 or aim <= 0):
                return
            made = _Prepared(self._message)
            try:
                taken = self.replays.take(id_, room, min(space // 2, aim), made.measure)
                if taken is not None:
                    items, progress = taken
                    self._add(filling, KEY + id_, progress, limits, items, made.messages)
                    filling.replays.append(id_)
            except Exception as error:  # noqa: BLE001 - events and the other replays go on
                self.replays.fail(id_, error)

    def _message(self, item: OutgoingItem) -> Message:
        return self._with_key(to_message(item))

    def _fitting(self, item: OutgoingItem, message: Message, limits: Limits) -> Message:
        """Return the message of an item, or a dead letter where that is larger than a commit can well hold."""
        size = message.size
        if size <= limits.bytes // 4:
            return message
        words = f"a message of {size} bytes is too large for a commit of {limits.bytes}"
        return self._dead_letter(item, DeadLetterReason.TOO_LARGE, words)

    async def _commit(self, writer: ShardLog, filling: PendingCommit) -> None:
        for name in filling.resets:  # also where its outcome stays unknown
            self._committed_high_water.forget(name)
        try:
            await self._store_in_its_span(writer, filling)
        except Exception as error:
            self._counters.failures += 1
            if isinstance(error, OutcomeUnknown):
                self._count_uncertain(filling)
            if filling.replays:  # what is new must not wait for it again
                loop = asyncio.get_running_loop()
                self._replay_rest = min(_MAX_REOPEN_DELAY_S, max(1.0, 2 * self._replay_rest))
                self._replays_after, self._replays_alone = loop.time() + self._replay_rest, True
                loop.call_later(self._replay_rest, self._work.set)
            raise
        if filling.replays:
            self._replay_rest, self._replays_alone = 0.0, False
        self._committed(filling)
        for name in self._unknown & filling.checkpoints.keys():
            await self._settings.registry.register(name)  # its first checkpoint is there: from now on it must be
            self._unknown.discard(name)
        self._apply_resets(filling.resets)

    async def _store_in_its_span(self, writer: ShardLog, filling: PendingCommit) -> None:
        """Store it; where that fails, the line of the log that tells of it still carries the span's ids."""
        span = self._settings.tracer.send(self.number, filling.messages, len(filling.checkpoints), filling.created)
        span.activate()
        try:
            await self._store(writer, filling)
        except BaseException as error:
            span.fail(error)
            raise
        span.end()
        NO_SPAN.activate()

    async def _store(self, writer: ShardLog, filling: PendingCommit) -> None:
        """Store it, and bury what the broker does not take; raises BrokerError."""
        loop = asyncio.get_running_loop()
        if len(filling.items) == 1 and self._rejections.must_dead_letter(filling.items[0]):
            filling.messages[0] = self._dead_letter(
                filling.items[0], DeadLetterReason.REJECTED, "the broker refuses this message"
            )
        buried: dict[int, int] = {}
        async with self._settings.commits.slot(filling.size, has_failed=self._has_failed):
            self._has_failed = True
            while True:
                try:
                    began = time.perf_counter()
                    await writer.commit(Commit(filling.messages, filling.checkpoints))
                    self._counters.commit_seconds.observe(time.perf_counter() - began)
                    break
                except TooLarge as error:
                    if filling.remove_traces(error.index):
                        continue
                    tries = buried[error.index] = buried.get(error.index, 0) + 1
                    if tries > 2:  # noqa: PLR2004 - a dead letter of its head alone is the least that can be said
                        raise Unavailable(f"the broker does not even take a dead letter: {error}") from error
                    letter = self._dead_letter(
                        filling.items[error.index],
                        DeadLetterReason.TOO_LARGE,
                        str(error),
                        keep=_DEAD_LETTER_HEAD_BYTES if tries == 1 else 0,
                    )
                    filling.messages[error.index] = letter
                except TooManyMessages:
                    self._can_halve = self._settings.commits.reduce_messages(
                        len(filling.messages) + len(filling.checkpoints)
                    )
                    raise
                except CommitRejected:
                    self._message_limit = max(1, len(filling.messages) // 2)
                    self._can_halve = self._message_limit > 1
                    if len(filling.items) == 1:
                        loop.call_later(self._rejections.on_rejected(filling.items[0], loop.time()), self._work.set)
                    raise
        self._has_failed = False
        self._rejections.on_stored(filling.items)
        if self._message_limit is not None:
            self._message_limit = self._message_limit * 2 if self._message_limit < writer.limits.messages else None
        self._heard_at = asyncio.get_running_loop().time()
        self.counts["commits"] += 1
        self.counts["messages"] += len(filling.messages)

    def _count_uncertain(self, filling: PendingCommit) -> None:
        """Count what a person should look at, though it may not be stored and be counted once more."""
        log_gaps(filling.gaps)
        for (_, kind, outcome), count in filling.outcomes(time.time())[0].items():
            if outcome == "dead_letter":
                self._counters.events[kind, outcome] += count
            self._counters.gaps += count if outcome == GAP else 0

    def _committed(self, filling: PendingCommit) -> None:
        """Notify the accounts, as far as they are still served, and the replays."""
        log_gaps(filling.gaps)
        self.replays.on_committed(filling.replays)
        for name, reached in filling.progress.items():
            self._committed_high_water.note(name, reached[0])
            if name in self.accounts:
                self.accounts[name].on_committed(*reached)
        tally = self._counters
        tally.commit_messages.observe(len(filling.messages))
        counts, latencies = filling.outcomes(time.time() + tally.hub_offset.seconds)
        tally.latencies.observe_all(latencies)
        for (name, kind, outcome), count in counts.items():
            if kind != NOTIFICATIONS:
                tally.events[kind, outcome] += count
            tally.gaps += count if outcome == GAP else 0
            if name in self.accounts:
                self.accounts[name].counters.outcomes[outcome] += count

    def _dead_letter(
        self, item: OutgoingItem, reason: str, detail: str, *, keep: int = _DEAD_LETTER_HEAD_BYTES
    ) -> Message:
        """Return the dead letter of what the broker does not take, with its first `keep` bytes."""
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
        self._logger.error(
            "message replaced by a dead letter", account=content.account, key=message.key.decode(), detail=detail
        )
        replay = None if item.replay is None else item.replay.replay
        return self._with_key(dead_letter_message(letter, limit=keep, replay=replay, incarnation=item.incarnation))

    def _with_key(self, message: Message) -> Message:
        return with_account_in_key(message) if self._settings.account_in_key else message
