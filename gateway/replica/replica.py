"""One process of the gateway: its accounts, assigned to shards, and what they share.

Where replicas share the shards, a change of ownership touches only the shards that change owner: all others keep their
logs, their sessions and their connections to the hub.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NoReturn

import aiohttp

from gateway.accounts import AccountsDirectory
from gateway.broker.control_view import View
from gateway.broker.ports import ControlStore, EventLog, Membership, Ownership, Registry
from gateway.errors import OutcomeUnknown, Unavailable
from gateway.events.decode import Decoder
from gateway.hub.client import transport_of
from gateway.hub.methods import PATH
from gateway.replica.applied_changes import log_applied_change
from gateway.replica.containment import SupervisedTasks, contained, raise_if_cancelled, report_unexpected
from gateway.replica.key_watcher import SCAN_INTERVAL_S, KeyWatcher
from gateway.replica.memory import MemoryBudget
from gateway.replica.orphaned import OrphanedAccounts
from gateway.replica.provisioning import Provisioning
from gateway.replica.replay.job import ReplaySettings
from gateway.replica.reporter import Reporter
from gateway.replica.reports import ReplicaReports
from gateway.replica.served import ServedShards
from gateway.replica.sink.commit_slots import CommitSlots
from gateway.replica.sink.shard_settings import ShardSettings
from gateway.replica.source.account import Account
from gateway.replica.source.context import AdaptivePageSize, Connect, RateLimiter, SourceContext
from gateway.replica.status import AccountStatus, status_of
from gateway.session.types import SessionLimits
from gateway.settings.model import Settings
from gateway.signalr.connect import connect as connect_to_hub
from gateway.state import ACCOUNT
from gateway.telemetry.counters import Counters
from gateway.telemetry.logs import get_logger
from gateway.telemetry.replica_metrics import ReplicaMetrics
from gateway.telemetry.tracer import NOOP_TRACER, Tracer

_PAGE_MEMORY_SHARE: Final = 8
"""The part of the memory that one page may be expected to take, as a divisor: others must find room beside it."""


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

        Without `ownership` it serves all shards; else those assigned to it, under the name `member` for people. Without
        `control` there is no desired state of the accounts, and nothing is reported. `connect` connects to another hub
        than that of the settings, such as a simulated one. `provision` creates what the broker lacks, and compares what
        is there; without it neither is done.
        """
        assert settings.accounts.directory is not None  # noqa: S101 - the settings see to it
        keys = AccountsDirectory(settings.accounts.directory)
        self._logger = get_logger()
        self._key_watcher = KeyWatcher(keys, time.monotonic)
        if not self._key_watcher.names:
            self._logger.warning("accounts.directory has no key files", directory=str(settings.accounts.directory))
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
            session=SessionLimits(
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
        self._ownership = ownership
        self._control = control
        self._member = member
        self._stop = asyncio.Event()
        self._membership: Membership | None = None
        self._background: SupervisedTasks | None = None  # what is done for all, by its name in the metrics
        self.view = View(self._on_desired_changed, self._on_replay_changed, self._on_report_rejected)
        """The records of the control store."""
        self._orphaned = OrphanedAccounts(self.view, member)
        self._shards = ServedShards(settings.shards, log, self._shard_settings)
        self._reports = ReplicaReports(
            self._shards,
            self.view,
            self._orphaned,
            self._source,
            self._shard_settings,
            member=member,
            is_controlled=control is not None,
        )
        for name in sorted(self._key_watcher.names):
            self._add(name)

    def stop(self) -> None:
        """Let `run` return once the commits in hand are finished and the shards handed over."""
        self._stop.set()
        for shard in self._shards.known.values():
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
                        control,
                        self._reports.accounts,
                        self._reports.states,
                        self.view.last_writer,
                        self._reports.on_failed,
                        unavailable=self._shard_settings.provisioning.request_check,
                    )
                    self._run_background_tasks("view", lambda: self.view.follow(control))
                    await self._until_synced()
                    self._run_background_tasks("reports", partial(reporter.run, self._stop))
                if self._ownership is None:
                    self._assign(frozenset(range(self._shards.count)), tasks)
                    await self._shards.until_all_ended()
                else:
                    await self._share(self._ownership, tasks)
            finally:
                self._background.cancel_all()
            if reporter is not None and self._stop.is_set():
                await reporter.withdraw()

    def _run_background_tasks(self, part: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` until the end: neither an unexpected error nor a stray cancellation ends it."""
        assert self._background is not None  # noqa: S101 - it is run
        counters = self._source.counters
        self._background.run(part, lambda: contained(counters, part, work), partial(report_unexpected, counters, part))

    async def _until_synced(self) -> None:
        """Wait until everything is known that is wanted, or until asked to stop."""
        waiting = {asyncio.create_task(event.wait()) for event in (self.view.has_synced, self._stop)}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def _share(self, ownership: Ownership, tasks: asyncio.TaskGroup) -> None:
        async with ownership.join(self._member, self._shards.count) as membership:
            self._membership = membership
            self._run_background_tasks("ownership", lambda: self._follow(membership, tasks))
            await self._stop.wait()
            await membership.leave()
            await self._shards.until_all_ended()
            assert self._background is not None  # noqa: S101 - it is run
            self._background.cancel("ownership")

    async def _follow(self, membership: Membership, tasks: asyncio.TaskGroup) -> None:
        """Begin and stop shards as they come and go, never waiting for any of them."""
        async for wanted in membership.assignments():
            self._logger.info("shard assignment received", shards=len(wanted), of=self._shards.count)
            before = self._shards.assigned
            self._assign(wanted, tasks)
            for number in self._shards.serving.keys() - wanted:
                self._shards.known[number].stop()
            for number in before - wanted - self._shards.serving.keys():  # nothing of it was served here
                tasks.create_task(self._release(membership, number), name=f"release-{number}")

    async def _release(self, membership: Membership, number: int) -> None:
        try:
            await membership.release(number)
        except Exception as error:  # noqa: BLE001 - its lease ends by itself
            report_unexpected(self._source.counters, "release", error, shard=number)

    def _assign(self, wanted: frozenset[int], tasks: asyncio.TaskGroup) -> None:
        """Begin to serve these shards; what is reported before a log is open names the epoch of the owner before."""
        for number in wanted - self._shards.assigned:
            shard = self._shards.shard(number)
            shard.epoch = max(shard.epoch, self.view.epoch_of_shard(number))
        self._shards.assigned = wanted
        self._serve_assigned(tasks)

    def _serve_assigned(self, tasks: asyncio.TaskGroup) -> None:
        """Begin what is given and not served yet; a shard of which nothing is to be done here is left alone."""
        idle = self._shards.assigned - self._shards.serving.keys()
        if not idle or self._stop.is_set():
            return
        reported = {self._shards.number_of(name) for name in self.view.observed}  # maybe without a key by now
        for number in sorted(idle):
            shard = self._shards.known[number]
            if shard.accounts or shard.sessions.forgets or number in reported:
                self._shards.serving[number] = tasks.create_task(self._serve(number), name=f"shard-{number}")

    async def _serve(self, number: int) -> None:
        try:
            await self._shards.known[number].run(self._membership)
        except Exception as error:  # noqa: BLE001 - the other shards go on; this one is begun again like one that is new
            raise_if_cancelled()
            report_unexpected(self._source.counters, "shard", error, shard=number)
        finally:
            del self._shards.serving[number]  # from here on it can be given again
        if self._membership is not None:
            await self._release(self._membership, number)

    # Accounts -------------------------------------------------------------------------------------------

    async def _watch_accounts(self, tasks: asyncio.TaskGroup) -> NoReturn:
        """Let accounts come and go with their keys."""
        while True:
            await asyncio.sleep(SCAN_INTERVAL_S)
            names = await asyncio.to_thread(self._key_watcher.scan)
            for name in sorted(names - self._shards.accounts.keys()):
                self._logger.info("account added: key file found", account=name)
                self._add(name)
            for name in sorted(self._shards.accounts.keys() - names):
                self._logger.warning("account removed: key file gone, checkpoint kept", account=name)
                self._shards.of(name).remove(name)
                del self._shards.accounts[name]
                self._on_desired_changed(name)
            await self._erase()
            self._serve_assigned(tasks)
            shards = ((name, self._shards.number_of(name)) for name in names)
            elsewhere = [(name, shard) for name, shard in shards if shard not in self._shards.assigned]
            if self._control is not None and self._membership is not None:
                self._orphaned.update(elsewhere, asyncio.get_running_loop().time())

    def _add(self, name: str) -> None:
        shard = self._shards.of(name)
        self._shards.accounts[name] = Account(name, self._source, shard.has_work, self.view.desired_of(name))
        shard.add(self._shards.accounts[name])

    def _on_desired_changed(self, name: str) -> None:
        desired = self.view.desired_of(name)
        is_deleted = name not in self.view.desired or (desired.desired is not None and desired.desired.forget is True)
        if is_deleted and self._shards.number_of(name) not in self._shards.serving:
            self._shards.of(name).sessions.high_water.forget(name)  # its owner may reset it
        if name in self._shards.accounts:
            if self.view.has_synced.is_set() and self._shards.number_of(name) in self._shards.assigned:
                log_applied_change(self._source.counters, name, self._shards.accounts[name].desired, desired)
            self._shards.accounts[name].set_desired(desired)
        elif desired.desired is not None:
            shard = self._shards.of(name)
            if desired.desired.forget is True:
                shard.forget(name)
            else:
                shard.sessions.forgets.discard(name)

    async def _erase(self) -> None:
        """Erase desired and observed state of accounts whose checkpoints are erased, and that have no key."""
        shards = [shard for shard in self._shards.known.values() if shard.sessions.forgotten]
        for shard in shards:
            shard.sessions.forgotten -= self._shards.accounts.keys()  # its key came back meanwhile
        names = {name for shard in shards for name in shard.sessions.forgotten}
        if not names or self._control is None:
            return
        try:
            await self._control.forget([ACCOUNT + name for name in sorted(names)])
        except (Unavailable, OutcomeUnknown) as error:
            self._logger.warning("failed to delete accounts, retrying", accounts=sorted(names), error=str(error))
            return
        for shard in shards:
            shard.sessions.forgotten.clear()
        self._logger.warning("accounts deleted", accounts=sorted(names))

    def _on_report_rejected(self, key: str) -> None:
        """Check an account again for which the store has a former owner's report."""
        account = self._shards.accounts.get(key.removeprefix(ACCOUNT)) if key.startswith(ACCOUNT) else None
        if account is not None:
            account.touch()

    def _on_replay_changed(self, id_: str) -> None:
        sighting = self.view.replays.get(id_)
        if sighting is None:
            for shard in self._shards.known.values():
                shard.replays.set_desired(id_, None)
        elif sighting.value is not None:
            self._shards.of(sighting.value.account).replays.set_desired(id_, sighting.value)

    # Observed state -------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether it has joined the other replicas, has read desired and observed state, and can serve a shard.

        It cannot where a person must fix something before any of its shards can be opened.
        """
        shards = [self._shards.known[number] for number in self._shards.serving]
        is_stuck = bool(shards) and all(shard.needs is not None for shard in shards)
        is_there = self.view.has_synced.is_set() and (self._ownership is None or self._membership is not None)
        return is_there and not is_stuck

    async def metrics(self) -> ReplicaMetrics:
        """Return what is counted of this replica and of the accounts served here; one where that fails is left out."""
        return await self._reports.metrics()

    def statuses(self) -> list[AccountStatus]:
        """Return the status of each account, in the order of their names."""
        return [status_of(self._shards.accounts[name]) for name in sorted(self._shards.accounts)]

    def commits(self) -> int:
        """Return the number of commits since this process began."""
        return sum(shard.counts["commits"] for shard in self._shards.known.values())
