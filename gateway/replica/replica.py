"""One process of the gateway: its accounts, dealt into shards, and what they share.

Where replicas share the shards, a change of who serves what touches only the shards that change: all others keep
their logs, their sessions and their connections to the hub.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, NoReturn

import aiohttp
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from gateway.accounts import AccountsDirectory, shard_of
from gateway.broker.control_view import View
from gateway.broker.ports import ControlStore, EventLog, Membership, Ownership, Registry
from gateway.errors import OutcomeUnknown, Unavailable
from gateway.events.catalogue import KINDS, UNKNOWN
from gateway.events.decode import Decoder
from gateway.hub.client import transport_of
from gateway.hub.methods import PATH
from gateway.replica.account_metrics import CONNECT_FAILURE_REASONS, DISCONNECT_REASONS, metrics_of
from gateway.replica.applied_changes import log_applied_change
from gateway.replica.containment import MAX_DELAY_S, SupervisedTasks, contained, raise_if_cancelled, report_unexpected
from gateway.replica.key_watcher import SCAN_INTERVAL_S, KeyWatcher
from gateway.replica.memory import MemoryBudget
from gateway.replica.orphaned import KEY_MISSING, ORPHANED, OrphanedAccounts
from gateway.replica.provisioning import Provisioning
from gateway.replica.replay.job import ReplaySettings
from gateway.replica.reporter import REPEAT_INTERVAL_S, AccountReport, Reporter, StateReport
from gateway.replica.sink.commit_slots import CommitSlots
from gateway.replica.sink.shard import Shard, ShardSettings
from gateway.replica.source.account import Account, AccountState
from gateway.replica.source.context import AdaptivePageSize, Connect, RateLimiter, SourceContext
from gateway.session.types import SessionSettings
from gateway.settings import Settings
from gateway.signalr.connection import connect as connect_to_hub
from gateway.state import ACCOUNT, REPLAY, SHARD, CheckpointPosition, Observed, Phase, ShardState
from gateway.telemetry.counters import Counters
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import AccountMetrics, ReplicaMetrics
from gateway.telemetry.tracer import NOOP_TRACER, Tracer

_SHARD_REPORT_INTERVAL_S: Final = 5.0
"""Seconds between two reports of whose the shards are."""
_REPLAY_REPORT_INTERVAL_S: Final = 30.0
"""Seconds between two reports of a replay that does not move."""
_METRICS_BATCH: Final = 250
"""Accounts whose numbers are gathered without a pause: about a millisecond."""
_PAGE_MEMORY_SHARE: Final = 8
"""The part of the memory that one page may be expected to take, as a divisor: others must find room beside it."""


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """What is so for one account, for people and machines."""

    account: str
    state: AccountState
    published: int
    """Messages committed since this process began."""
    latest: int
    """The hub's latest sequence as last told."""
    settled: int
    """The highest sequence that is committed: published, filtered or dead-lettered."""
    last_error: str | None
    """The last error, until the account is live again."""
    connects: int

    @property
    def lag(self) -> int:
        """Sequences that the hub has and the log has not: an upper bound, since they may have holes."""
        return max(0, self.latest - self.settled)


class Replica:
    """All shards of this process and their accounts."""

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        registry: Registry,
        http: aiohttp.ClientSession,
        *,
        ownership: Ownership | None = None,
        control: ControlStore | None = None,
        member: str = "",
        tracer: Tracer = NOOP_TRACER,
        connect: Connect | None = None,
        provision: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Read the accounts directory; raises ConfigurationError when it cannot be read.

        Without `ownership` it serves all shards; else those that fall to it, under the name `member` for people.
        Without `control` nobody wants anything of the accounts, and nothing is reported. `connect` connects to
        another hub than that of the settings, such as one that is simulated. `provision` makes what the broker lacks,
        and compares what is there; without it nobody looks.
        """
        assert settings.accounts.directory is not None  # noqa: S101 - the settings see to it
        keys = AccountsDirectory(settings.accounts.directory)
        self._logger = get_logger()
        self._key_watcher = KeyWatcher(keys, time.monotonic)
        if not self._key_watcher.names:
            self._logger.warning("accounts.directory holds no account", directory=str(settings.accounts.directory))
        transport = transport_of(settings.hub, http)
        self._source = SourceContext(
            url=settings.hub.url + PATH,
            transport=transport,
            connect=connect or partial(connect_to_hub, transport),
            keys=keys,
            connecting=asyncio.Semaphore(settings.hub.max_concurrent_connects),
            rate_limiter=RateLimiter(settings.hub.connects_per_second),
            page_size=AdaptivePageSize(settings.hub.page_limit, room=settings.memory_bytes // _PAGE_MEMORY_SHARE),
            audit_interval=settings.session.audit_interval,
            budget=MemoryBudget(settings.memory_bytes),
            counters=Counters(),
            decoder=Decoder(settings.hub.enums),
            max_dead_letters=settings.hub.max_dead_letters_per_minute,
            skip_poison_after=settings.session.skip_poison_after,
            tracer=tracer,
        )
        self._shard_settings = ShardSettings(
            start=settings.accounts.start,
            session=SessionSettings(
                grace=settings.session.history_grace,
                reorder_window=settings.session.reorder_window,
                buffer_bytes=settings.session.buffer_bytes,
            ),
            registry=registry,
            provisioning=Provisioning(provision),
            commits=CommitSlots(settings.broker.max_in_flight_commits),
            counters=self._source.counters,
            account_in_key=settings.messages.key == "account-sequence",
            tracer=tracer,
            replays=ReplaySettings(
                member=member,
                slots=asyncio.Semaphore(settings.replays.max_running),
                pace=RateLimiter(settings.replays.events_per_second),
                grace=settings.session.history_grace,
            ),
        )
        self._event_log = log
        self._ownership = ownership
        self._control = control
        self._member = member
        self._shard_count = settings.shards
        self._stop = asyncio.Event()
        self._membership: Membership | None = None
        self._assigned: frozenset[int] = frozenset()
        self._serving: dict[int, asyncio.Task[None]] = {}
        self._shards: dict[int, Shard] = {}
        self._background: SupervisedTasks | None = None  # what is done for all, by its name in the metrics
        self._accounts: dict[str, Account] = {}
        self.view = View(self._on_desired_changed, self._on_replay_changed, self._on_report_rejected)
        """What the control store says."""
        self._orphaned = OrphanedAccounts(self.view, member)
        self._orphaned_names: frozenset[str] = frozenset()
        for name in sorted(self._key_watcher.names):
            self._add(name)

    def stop(self) -> None:
        """Let `run` return once the commits in hand are finished and the shards handed over."""
        self._stop.set()
        for shard in self._shards.values():
            shard.stop()

    async def run(self) -> None:
        """Serve the shards until `stop`; without ownership it also returns when others have taken all of them."""
        reporter: Reporter | None = None
        async with asyncio.TaskGroup() as tasks:
            self._background = SupervisedTasks(tasks)
            try:
                self._run_background_tasks("provisioning", self._shard_settings.provisioning.run)
                self._run_background_tasks("accounts", lambda: self._watch_accounts(tasks))
                if (control := self._control) is not None:
                    reporter = Reporter(
                        control, self._account_reports, self._state_reports, self.view.last_writer, self._unreported
                    )
                    self._run_background_tasks("view", lambda: self.view.follow(control))
                    await self._until_synced()
                    self._run_background_tasks("reports", partial(reporter.run, self._stop))
                if self._ownership is None:
                    self._assign(frozenset(range(self._shard_count)), tasks)
                    await self._until_all_ended()
                else:
                    await self._share(self._ownership, tasks)
            finally:
                self._background.cancel_all()
            if reporter is not None and self._stop.is_set():
                await reporter.withdraw()

    def _run_background_tasks(self, part: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` until the end: neither an error that nobody expected nor a stray cancellation ends it."""
        assert self._background is not None  # noqa: S101 - it is run
        tally = self._source.counters
        self._background.run(part, lambda: contained(tally, part, work), partial(report_unexpected, tally, part))

    async def _until_synced(self) -> None:
        """Wait until everything is known that is wanted, or until asked to stop."""
        waiting = {asyncio.create_task(event.wait()) for event in (self.view.has_synced, self._stop)}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def _share(self, ownership: Ownership, tasks: asyncio.TaskGroup) -> None:
        async with ownership.join(self._member, self._shard_count) as membership:
            self._membership = membership
            self._run_background_tasks("ownership", lambda: self._follow(membership, tasks))
            await self._stop.wait()
            await membership.leave()
            await self._until_all_ended()
            assert self._background is not None  # noqa: S101 - it is run
            self._background.cancel("ownership")

    async def _until_all_ended(self) -> None:
        while self._serving:
            await asyncio.wait(self._serving.values())

    async def _follow(self, membership: Membership, tasks: asyncio.TaskGroup) -> None:
        """Begin and stop shards as they come and go, never waiting for any of them."""
        async for wanted in membership.assignments():
            self._logger.info("the shards of this gateway", shards=len(wanted), of=self._shard_count)
            before = self._assigned
            self._assign(wanted, tasks)
            for number in self._serving.keys() - wanted:
                self._shards[number].stop()
            for number in before - wanted - self._serving.keys():  # nothing of it was served here
                tasks.create_task(self._release(membership, number), name=f"release-{number}")

    async def _release(self, membership: Membership, number: int) -> None:
        try:
            await membership.release(number)
        except Exception as error:  # noqa: BLE001 - its lease ends by itself
            report_unexpected(self._source.counters, "release", error, shard=number)

    def _assign(self, wanted: frozenset[int], tasks: asyncio.TaskGroup) -> None:
        """Begin to serve these shards; what is reported before a log is open names the epoch of the owner before."""
        for number in wanted - self._assigned:
            shard = self._shard(number)
            shard.epoch = max(shard.epoch, self.view.epoch_of_shard(number))
        self._assigned = wanted
        self._serve_assigned(tasks)

    def _serve_assigned(self, tasks: asyncio.TaskGroup) -> None:
        """Begin what is given and not served yet; a shard of which nothing is to be done here is left alone."""
        idle = self._assigned - self._serving.keys()
        if not idle or self._stop.is_set():
            return
        told_of = {shard_of(name, self._shard_count) for name in self.view.observed}  # maybe without a key by now
        for number in sorted(idle):
            shard = self._shards[number]
            if shard.accounts or shard.forgets or number in told_of:
                self._serving[number] = tasks.create_task(self._serve(number), name=f"shard-{number}")

    async def _serve(self, number: int) -> None:
        try:
            await self._shards[number].run(self._membership)
        except Exception as error:  # noqa: BLE001 - the other shards go on; this one is begun again like one that is new
            raise_if_cancelled()
            report_unexpected(self._source.counters, "shard", error, shard=number)
        finally:
            del self._serving[number]  # from here on it can be given again
        if self._membership is not None:
            await self._release(self._membership, number)

    # Accounts -------------------------------------------------------------------------------------------

    async def _watch_accounts(self, tasks: asyncio.TaskGroup) -> NoReturn:
        """Let accounts come and go with their keys."""
        while True:
            await asyncio.sleep(SCAN_INTERVAL_S)
            names = await asyncio.to_thread(self._key_watcher.scan)
            for name in sorted(names - self._accounts.keys()):
                self._logger.info("an account comes: it has a key now", account=name)
                self._add(name)
            for name in sorted(self._accounts.keys() - names):
                self._logger.warning("an account goes: its key is gone, its checkpoint stays", account=name)
                self._shards[shard_of(name, self._shard_count)].remove(name)
                del self._accounts[name]
                self._on_desired_changed(name)
            await self._erase()
            self._serve_assigned(tasks)
            shards = ((name, shard_of(name, self._shard_count)) for name in names)
            elsewhere = [(name, shard) for name, shard in shards if shard not in self._assigned]
            if self._control is not None and self._membership is not None:
                self._orphaned_names = self._orphaned.update(elsewhere, asyncio.get_running_loop().time())

    def _add(self, name: str) -> None:
        shard = self._shard(shard_of(name, self._shard_count))
        self._accounts[name] = Account(name, self._source, shard.has_work, self.view.desired_of(name))
        shard.add(self._accounts[name])

    def _shard(self, number: int) -> Shard:
        shard = self._shards.get(number)
        if shard is None:
            shard = self._shards[number] = Shard(number, self._event_log, self._shard_settings)
        return shard

    def _on_desired_changed(self, name: str) -> None:
        wish = self.view.desired_of(name)
        if name in self._accounts:
            if self.view.has_synced.is_set() and shard_of(name, self._shard_count) in self._assigned:
                log_applied_change(self._source.counters, name, self._accounts[name].desired, wish)
            self._accounts[name].set_desired(wish)
        elif wish.desired is not None:
            shard = self._shard(shard_of(name, self._shard_count))
            if wish.desired.forget is True:
                shard.forget(name)
            else:
                shard.forgets.discard(name)

    async def _erase(self) -> None:
        """Erase what was wanted and reported of accounts whose checkpoints are forgotten, and that have no key."""
        shards = [shard for shard in self._shards.values() if shard.forgotten]
        for shard in shards:
            shard.forgotten -= self._accounts.keys()  # its key came back meanwhile
        names = {name for shard in shards for name in shard.forgotten}
        if not names or self._control is None:
            return
        try:
            await self._control.forget([ACCOUNT + name for name in sorted(names)])
        except (Unavailable, OutcomeUnknown) as error:
            self._logger.warning("accounts are not erased yet", accounts=sorted(names), error=str(error))
            return
        for shard in shards:
            shard.forgotten.clear()
        self._logger.warning("accounts are forgotten", accounts=sorted(names))

    def _on_report_rejected(self, key: str) -> None:
        """Let an account be looked at of which the store has what a former owner said."""
        account = self._accounts.get(key.removeprefix(ACCOUNT)) if key.startswith(ACCOUNT) else None
        if account is not None:
            account.touch()

    def _on_replay_changed(self, id_: str) -> None:
        sighting = self.view.replays.get(id_)
        if sighting is None:
            for shard in self._shards.values():
                shard.replays.set_desired(id_, None)
        elif sighting.value is not None:
            self._shard(shard_of(sighting.value.account, self._shard_count)).replays.set_desired(id_, sighting.value)

    # What is so -----------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether it has taken its place among the others, knows what is wanted and what is so, and can serve a shard.

        It cannot where a person must mend something before any of its shards can be opened.
        """
        shards = [self._shards[number] for number in self._serving]
        is_stuck = bool(shards) and all(shard.needs is not None for shard in shards)
        is_there = self.view.has_synced.is_set() and (self._ownership is None or self._membership is not None)
        return is_there and not is_stuck

    async def metrics(self) -> ReplicaMetrics:
        """Return what is counted of this replica and of the accounts served here; one where that fails is left out."""
        accounts: list[AccountMetrics] = []
        for at, account in enumerate([*self._served_accounts()]):
            try:
                accounts.append(metrics_of(account))
            except Exception as error:  # noqa: BLE001 - the others are told of, and its events go on
                report_unexpected(self._source.counters, "numbers", error, account=account.name)
            if at % _METRICS_BATCH == _METRICS_BATCH - 1:
                await asyncio.sleep(0)  # events go first
        budget, shards = self._source.budget, [self._shards[number] for number in self._serving]
        return ReplicaMetrics(
            counters=self._source.counters.copy(),
            accounts=accounts,
            orphaned=dict(self._orphaned_states()),
            states=[*(state.value for state in AccountState), KEY_MISSING, ORPHANED],
            disconnect_reasons=DISCONNECT_REASONS,
            connect_failure_reasons=CONNECT_FAILURE_REASONS,
            kinds=(*KINDS, UNKNOWN),
            shards=self._shard_count,
            owned=len(self._assigned),
            replays=self._replays_by_phase(),
            endings=[phase.value for phase in Phase if phase.is_final],
            buffer=budget.used,
            buffer_limit=budget.total,
            action_required=any(shard.needs for shard in shards)
            or self._shard_settings.provisioning.problem is not None,
            window=self._shard_settings.commits.window.size,
            in_flight=self._shard_settings.commits.bytes_in_flight,
            waiters=budget.waiters,
            waits=budget.longest_wait,
        )

    def _orphaned_states(self) -> Iterator[tuple[str, str]]:
        for number in self._serving:
            yield from ((name, KEY_MISSING) for name in self._shards[number].key_missing)
        yield from ((name, ORPHANED) for name in self._orphaned_names)

    def _served_accounts(self) -> Iterator[Account]:
        for number in self._serving:
            yield from self._shards[number].accounts.values()

    def _replays_by_phase(self) -> dict[str, int] | None:
        if self._control is None or not self.view.has_synced.is_set():
            return None
        phases = Counter(phase.value for phase in map(self.view.phase, self.view.replays))
        return {phase.value: phases[phase.value] for phase in Phase}

    def statuses(self) -> list[AccountStatus]:
        """Say what is so for each account, in the order of their names."""
        return [_status(self._accounts[name]) for name in sorted(self._accounts)]

    def commits(self) -> int:
        """Return the number of commits since this process began."""
        return sum(shard.counts["commits"] for shard in self._shards.values())

    def _account_reports(self) -> Iterator[AccountReport | str]:
        """Yield each account whose shard is served here, and those that nobody serves; they may change meanwhile.

        Of one that nothing has touched since it was looked at, which is rarely done then, the name alone.
        """
        rarely = asyncio.get_running_loop().time() - REPEAT_INTERVAL_S
        for number in [*self._serving]:
            accounts = self._shards[number].accounts
            for name, account in [*accounts.items()]:
                if number not in self._serving or accounts.get(name) is not account:
                    continue
                if not account.is_touched and account.looked_at > rarely:
                    yield name
                    continue
                try:
                    epoch = self._shards[number].epoch
                    mark = epoch, account.fingerprint()
                except Exception as error:  # noqa: BLE001 - the others are told of
                    self._shards[number].fail(account, error)
                else:
                    tell_of = partial(_observed, account, self._member, epoch or UNSET)
                    yield AccountReport(name, mark, tell_of, repeat_after=account.refresh_fingerprint)
        for name, state in [*self._orphaned_states()]:
            epoch = self._epoch_for(name)
            if state == KEY_MISSING and self._orphaned.is_reported_elsewhere(name, epoch):
                continue
            yield AccountReport(name, (epoch, state), partial(Observed, self._member, state, "", epoch=epoch or UNSET))

    def _epoch_for(self, name: str) -> int:
        """Return the epoch of the owner of an account's shard, also where that is another replica."""
        number = shard_of(name, self._shard_count)
        return self._shards[number].epoch if number in self._assigned else self.view.epoch_of_shard(number)

    def _unreported(self, name: str, error: Exception) -> float:
        """Nothing can be said of an account: tell of it, and return the seconds until it is tried again."""
        report_unexpected(self._source.counters, "reports", error, retry_in=MAX_DELAY_S, account=name)
        return MAX_DELAY_S

    def _state_reports(self) -> Iterator[StateReport]:
        """Yield whose the shards are, and how far replays are."""
        for number in self._assigned:
            shard = self._shards[number]
            owned = ShardState(self._member, len(shard.accounts), epoch=shard.epoch or UNSET)
            yield StateReport(f"{SHARD}{number}", owned, repeat_after=_SHARD_REPORT_INTERVAL_S)
        for number in self._serving:
            shard = self._shards[number]
            for id_, state_of in shard.replays.states():
                try:
                    state = state_of()
                except Exception as error:  # noqa: BLE001 - the others are told of
                    report_unexpected(self._source.counters, "reports", error, replay=id_)
                    continue
                said = replace(state, epoch=shard.epoch or UNSET)
                yield StateReport(
                    REPLAY + id_, said, repeat_after=math.inf if state.phase.is_final else _REPLAY_REPORT_INTERVAL_S
                )


def _status(account: Account) -> AccountStatus:
    return AccountStatus(
        account=account.name,
        state=account.state,
        published=account.counters.on_published,
        latest=account.lag.latest,
        settled=account.lag.settled,
        last_error=account.last_error,
        connects=account.counters.connects,
    )


def _observed(account: Account, member: str, epoch: int | UnsetType) -> Observed:
    status, session = _status(account), account.session
    strategies = None if session is None else session.strategies
    return Observed(
        owner=member,
        state=status.state.value,
        since="",
        settled=status.settled,
        latest=status.latest,
        published=status.published,
        connects=status.connects,
        last_error=status.last_error,
        strategies=None if strategies is None else tuple(sorted(strategies)),
        failed_strategies=account.subscription.failed,
        applied=account.desired.revision if account.is_applied else 0,
        lag_seconds=round(account.lag_seconds(), 1) or UNSET,
        checkpoint=_standing(account),
        enum_forms=account.source.decoder.names.forms or UNSET,
        unnamed_enums=account.source.decoder.names.unnamed or UNSET,
        epoch=epoch,
    )


def _standing(account: Account) -> CheckpointPosition | UnsetType:
    if account.session is None:
        return CheckpointPosition(0, 0) if account.is_unreadable else UNSET
    return (
        CheckpointPosition(account.session.verified, account.session.incarnation) if account.session.is_begun else UNSET
    )
