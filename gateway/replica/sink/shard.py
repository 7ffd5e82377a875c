"""One shard at work: it claims its log, creates its accounts' sessions and commits their work; every broker retry.

Opening has four steps. The broker confirms that this replica still owns the shard; the claim fences every older writer;
the checkpoints are read; sessions start from them. One commit is in flight at a time, so batches grow with load, and a
quiet shard waits for nothing. After anything but a clean answer the shard discards its sessions and reopens its log:
the checkpoints show what was stored. Nothing is ever sent twice on a guess. Accounts are added and removed while it
works; a new account starts from the checkpoint that is read then.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import Final

from gateway.broker.ports import Commit, EventLog, Membership, ShardLog
from gateway.errors import (
    ActionRequired,
    BrokerError,
    Fenced,
    OutcomeUnknown,
    Unavailable,
)
from gateway.events.event import GAP
from gateway.publication import NOTIFICATIONS
from gateway.replica.containment import RestartDelays, SupervisedTasks, raise_if_cancelled, report_unexpected
from gateway.replica.replay.scheduler import ReplayScheduler
from gateway.replica.sink.account_sessions import AccountSessions
from gateway.replica.sink.commit_builder import CommitBuilder
from gateway.replica.sink.committer import Committer
from gateway.replica.sink.message_maker import MessageMaker
from gateway.replica.sink.pending_commit import PendingCommit
from gateway.replica.sink.rejections import Rejections
from gateway.replica.sink.reopening import Reopening
from gateway.replica.sink.replay_turns import ReplayTurns
from gateway.replica.sink.shard_settings import ShardSettings
from gateway.replica.sink.store_losses import log_gaps, taken_back
from gateway.replica.source.account import Account, AccountState
from gateway.replica.source.supervisor import Supervisor
from gateway.telemetry.logs import bind, get_logger
from gateway.telemetry.span import NO_SPAN

_UNCERTAIN_AFTER_S: Final = 10.0
"""Seconds after a commit until the broker is asked again who owns the shard: an idle shard has no other sign."""


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
        self.needs: str | None = None
        """The problem that a person must fix before the log can be opened; None where none is known."""
        self._event_log = log
        self._settings = settings
        self._work = asyncio.Event()
        self._stop = asyncio.Event()
        self._restart_delays = RestartDelays()
        self._opened_at = float("-inf")  # when there was a log
        self._running: SupervisedTasks | None = None  # the accounts' tasks
        self._supervisors: dict[str, Supervisor] = {}
        """Of its accounts, also while it is not run: what they learned of the hub is not to be learned again."""
        self._logger = get_logger(shard=number)
        self.sessions = AccountSessions(number, settings, self.accounts, self.has_work, self.fail)
        self.replays = ReplayScheduler(settings.replays, self.accounts, self._work.set, self._settings.counters)
        self._rejections = Rejections()
        self._turns = ReplayTurns(self._work.set)
        self._maker = MessageMaker(number, account_in_key=settings.account_in_key)
        self._committer = Committer(number, settings, self._maker, self._rejections, self._work.set)
        self._builder = CommitBuilder(
            settings,
            self._maker,
            self._rejections,
            self._turns,
            self._committer.large,
            self._committer.large_replays,
            self.replays,
            self.sessions.forgets,
            self.sessions.forgetter,
            self.fail,
        )

    @property
    def counts(self) -> Counter[str]:
        """Commits, messages and reopenings since the start."""
        return self._committer.counts

    def add(self, account: Account) -> None:
        """Serve one account more."""
        account.touch()
        account.lag.begin(time.monotonic())
        self.accounts[account.name] = account
        self.sessions.forgets.discard(account.name)
        self.sessions.newcomers.add(account.name)
        if self._running is not None:
            self._running.run(_task_of(account.name), partial(self._run, account), partial(self.fail, account))
            self.replays.on_account_added(account.name)
        self._work.set()

    async def _run(self, account: Account) -> None:
        """Run an account, again and again where it fails unexpectedly: then it begins from its checkpoint."""
        bind(shard=self.number)  # the code that added it may belong to no shard
        supervisor = self._supervisors.setdefault(account.name, Supervisor(account))
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
        report_unexpected(self._settings.counters, "account", error, retry_in=delay, account=name)
        account.on_unexpected_error(error)
        self._builder.discard(name)
        asyncio.get_running_loop().call_later(delay, self._restart_account, account)
        return delay

    def _restart_account(self, account: Account) -> None:
        if self.accounts.get(account.name) is account and account.session is None:
            self.sessions.newcomers.add(account.name)
            self._work.set()

    def remove(self, name: str) -> None:
        """Serve an account no more, and keep its checkpoint; what is being committed of it is committed."""
        account = self.accounts.pop(name)
        self._supervisors.pop(name, None)
        self._builder.discard(name)
        self._rejections.forget(name)
        self._committer.large.forget(name)
        self._restart_delays.forget(name)
        self.sessions.on_key_gone(account)
        account.detach()
        self.replays.on_account_removed(name)
        if self._running is not None:
            self._running.cancel(_task_of(name))

    def forget(self, name: str) -> None:
        """Forget the checkpoint of an account without a key."""
        self.sessions.forgets.add(name)
        self._work.set()

    def has_work(self, account: Account) -> None:
        """Note that `account` may have a batch."""
        self._builder.has_work(account)
        self._work.set()

    def stop(self) -> None:
        """Let `run` return once the commit in hand is finished."""
        self._stop.set()
        self._work.set()

    async def run(self, membership: Membership | None = None) -> None:
        """Serve the shard and its accounts until `stop`, or until another replica owns it; it may be run again.

        Without a membership only the newest claim decides who owns it, so a fenced writer does not reopen.
        """
        bind(shard=self.number)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._running = SupervisedTasks(tasks)
                try:
                    for account in self.accounts.values():
                        self.add(account)
                    await self._serve(membership)
                finally:
                    self._running.cancel_all()
                    self._running = None
        finally:
            self._stop.clear()

    async def _serve(self, membership: Membership | None) -> None:
        loop, reopening = asyncio.get_running_loop(), Reopening()
        while not self._stop.is_set():
            began, commits = loop.time(), self.counts["commits"]
            self._committer.begin()
            try:
                if await self._lost_ownership(membership):
                    break
                await self._open_and_commit(membership)
                continue
            except BrokerError as error:
                if await self._must_leave(error, membership):
                    break
                if isinstance(error, Fenced) and membership is None:
                    self._detach(AccountState.FENCED)
                    return
                delay = reopening.delay_after(
                    error,
                    lasted=loop.time() - began,
                    has_committed=self.counts["commits"] > commits,
                    can_halve=self._committer.can_halve,
                )
                self._detach(None)
                if reopening.is_away_for_long(loop.time(), was_open=self._opened_at >= began):
                    self._release_hub()
                self._log_failure(error, delay)
                NO_SPAN.activate()
            except Exception as error:  # noqa: BLE001 - the other shards go on
                raise_if_cancelled()
                delay = self._restart_delays.after_failure()
                report_unexpected(self._settings.counters, "shard", error, retry_in=delay, shard=self.number)
                self._detach(None)
            self.counts["reopened"] += 1
            await self._reopen_delay(delay)
        self.sessions.high_water.on_ownership_lost()
        self._detach(None)

    async def _must_leave(self, error: BrokerError, membership: Membership | None) -> bool:
        """Return whether the shard is to be served no more after an error of its log."""
        if self._stop.is_set():  # on Kafka its next owner does not wait for the commit in hand
            message = "shard released without a clean answer to its last commit: its next owner reads what is stored"
            self._logger.info(message, error=str(error))
            return True
        if not isinstance(error, Fenced):
            return False
        self._settings.counters.fenced += 1
        self.sessions.high_water.on_ownership_lost()
        if membership is None:
            self._logger.error("shard fenced by another gateway: this one will not claim it again", error=str(error))
            return False
        with suppress(Unavailable):  # it is asked again before anything is opened
            return await self._lost_ownership(membership)
        return False

    def _release_hub(self) -> None:
        """Let the connections to the hub go: there is no log for long, and another replica may need them."""
        for account in self.accounts.values():
            account.disconnect("there is no log to write to")

    def _log_failure(self, error: BrokerError, delay: float) -> None:
        """Log why the log is reopened, once a minute; and of the accounts that wait until a person fixes it."""
        provisioning, needs_person = self._settings.provisioning, isinstance(error, ActionRequired)
        provisioning.request_check()
        if isinstance(error, Fenced) or provisioning.throttle.should_log(str(error)):
            log = self._logger.error if needs_person else self._logger.warning
            log("shard log failed, reopening", error=str(error), retry_in=round(delay, 2))
        self.needs = str(error) if needs_person else provisioning.problem
        problem = self.needs or provisioning.not_ready
        if needs_person and any(self._committer.blamed):
            self.sessions.hold_up(self._committer.blamed[0], problem)
            problem = None  # their neighbours go on
        for account in self.accounts.values() if problem is not None else ():
            account.last_error = problem
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
            self.epoch = max(writer.epoch, self.epoch + 1)  # a log that was created again counts from the beginning
            known = await self._settings.registry.accounts()
            begun = checkpoints.keys() | self.sessions.high_water.names()
            for name in self.accounts.keys() & begun - known:
                await self._settings.registry.register(name)
            self.sessions.unregistered.clear()
            await self._prove_rejected(writer, checkpoints)
            self.sessions.attach(self.accounts.keys(), checkpoints, known | begun)
            assert self._running is not None  # noqa: S101 - it is run
            self.replays.on_opened(checkpoints, self._running.group)
            self._opened_at = self._committer.last_answer_at = loop.time()
            self.needs = None
            self._logger.info("shard log opened", accounts=len(self.accounts))
            while not self._stop.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(self._committer.last_answer_at + _UNCERTAIN_AFTER_S):
                        await self._work.wait()
                if loop.time() >= self._committer.last_answer_at + _UNCERTAIN_AFTER_S:
                    if await self._lost_ownership(membership):
                        return
                    await writer.check()
                    self._committer.last_answer_at = loop.time()
                self._work.clear()
                if self.sessions.newcomers:
                    known = await self._settings.registry.accounts()
                    self.sessions.attach(self.sessions.newcomers.copy(), await writer.checkpoints(), known)
                while not self._stop.is_set() and (pending := self._next_commit(writer)) is not None:
                    await self._commit(writer, pending)

    def _next_commit(self, writer: ShardLog) -> PendingCommit | None:
        committer = self._committer
        return self._builder.build(committer.limits(writer), plain=committer.is_suspicious)

    async def _read(self, writer: ShardLog) -> dict[str, bytes]:
        """Read the checkpoints, and let them cover nothing that the broker has lost; raises BrokerError."""
        checkpoints = await writer.checkpoints()
        left = taken_back(checkpoints, writer.lost)
        while left:
            pending, limits = self._builder.begin(), self._committer.limits(writer)
            for name, taken in left.items():
                messages = [self._maker.make(item) for item in taken.gaps]
                if pending.checkpoints and not self._builder.has_room(pending, limits, len(messages)):
                    break
                self._builder.add(pending, name, taken.checkpoint, limits, taken.gaps, messages)
            part = {name: left.pop(name) for name in pending.checkpoints}
            try:
                await self._committer.store(writer, pending)
            except OutcomeUnknown:  # it may be stored, and then it is not found again
                self.sessions.high_water.on_taken_back(part, pending.gaps)
                raise
            self.sessions.high_water.on_taken_back(part, pending.gaps)
            checkpoints |= {name: taken.checkpoint for name, taken in part.items()}
        return checkpoints

    async def _prove_rejected(self, writer: ShardLog, checkpoints: dict[str, bytes]) -> None:
        """Store the checkpoints again of accounts of which a message is refused: are they alone? Raises BrokerError."""
        for name in self._rejections.wants_proof(asyncio.get_running_loop().time()):
            if name in checkpoints:
                await writer.commit(Commit((), {name: checkpoints[name]}))
                self._rejections.on_proven(name)

    def _detach(self, state: AccountState | None) -> None:
        self._builder.clear()
        self.sessions.forgetter.stop()
        self.replays.on_closed()
        for account in self.accounts.values():
            account.detach(state)

    async def _commit(self, writer: ShardLog, pending: PendingCommit) -> None:
        for name in pending.resets:  # also where its outcome stays unknown
            self.sessions.high_water.forget(name)
        try:
            await self._committer.store_in_its_span(writer, pending)
        except Exception as error:
            self._settings.counters.failures += 1
            if isinstance(error, OutcomeUnknown):
                self._count_uncertain(pending)
            for id_ in self._committer.blamed[1]:
                self.replays.hold(id_, str(error))
            if pending.replays:
                self._turns.on_failed()
            raise
        if pending.replays:
            self._turns.on_stored()
        self._committed(pending)
        for name in self.sessions.unregistered & pending.checkpoints.keys():
            await self._settings.registry.register(name)  # its first checkpoint is there: from now on it must be
            self.sessions.unregistered.discard(name)
        assert self._running is not None  # noqa: S101 - it is run
        self.sessions.apply_resets(pending.resets, self._running.group)

    def _count_uncertain(self, pending: PendingCommit) -> None:
        """Count what a person should look at, though it may not be stored and be counted once more."""
        log_gaps(pending.gaps)
        for (_, kind, outcome), count in pending.outcomes(time.time())[0].items():
            if outcome == "dead_letter":
                self._settings.counters.events[kind, outcome] += count
            self._settings.counters.gaps += count if outcome == GAP else 0

    def _committed(self, pending: PendingCommit) -> None:
        """Notify the accounts, as far as they are still served, and the replays."""
        log_gaps(pending.gaps)
        self.replays.on_committed(pending.replays)
        for name, reached in pending.progress.items():
            self.sessions.high_water.note(name, reached[0])
            if name in self.accounts:
                self.accounts[name].on_committed(*reached)
        self.sessions.hold_up(pending.progress.keys() - self._committer.large.names(), None)
        counters = self._settings.counters
        counters.commit_messages.observe(len(pending.messages))
        counts, latencies = pending.outcomes(time.time() + counters.hub_offset.seconds)
        counters.latencies.observe_all(latencies)
        for (name, kind, outcome), count in counts.items():
            if kind != NOTIFICATIONS:
                counters.events[kind, outcome] += count
            counters.gaps += count if outcome == GAP else 0
            if name in self.accounts:
                self.accounts[name].counters.outcomes[outcome] += count
