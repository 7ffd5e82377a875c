"""The observed state of a replica: for its metrics, and as its accounts, shards and replays are reported to others."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Final

from msgspec import UNSET
from msgspec.structs import replace

from gateway.broker.control_view import View
from gateway.events.catalogue import KINDS, UNKNOWN
from gateway.replica.account_metrics import CONNECT_FAILURE_REASONS, DISCONNECT_REASONS, metrics_of
from gateway.replica.containment import MAX_DELAY_S, report_unexpected
from gateway.replica.orphaned import KEY_MISSING, ORPHANED, OrphanedAccounts
from gateway.replica.reporter import REPEAT_INTERVAL_S, AccountReport, StateReport
from gateway.replica.served import ServedShards
from gateway.replica.sink.account_sessions import NOT_KNOWN
from gateway.replica.sink.shard_settings import ShardSettings
from gateway.replica.source.account import AccountState
from gateway.replica.source.context import SourceContext
from gateway.replica.status import observed_of
from gateway.state import REPLAY, SHARD, Observed, Phase, ShardState
from gateway.telemetry.replica_metrics import AccountMetrics, ReplicaMetrics

_SHARD_REPORT_INTERVAL_S: Final = 5.0
"""Seconds between two reports of the owned shards."""
_REPLAY_REPORT_INTERVAL_S: Final = 30.0
"""Seconds between two reports of a replay that does not move."""
_METRICS_BATCH: Final = 250
"""Accounts whose numbers are gathered without a pause: about a millisecond."""


class ReplicaReports:
    """Reads what a replica serves; an account whose state cannot be read never hides the others."""

    def __init__(
        self,
        shards: ServedShards,
        view: View,
        orphaned: OrphanedAccounts,
        source: SourceContext,
        settings: ShardSettings,
        *,
        member: str,
        is_controlled: bool,
    ) -> None:
        """`view` has the control store's records, if it `is_controlled`; reports are written as `member`."""
        self._shards = shards
        self._view = view
        self._orphaned = orphaned
        self._counters, self._budget = source.counters, source.budget
        self._provisioning, self._commits = settings.provisioning, settings.commits
        self._member = member
        self._is_controlled = is_controlled

    async def metrics(self) -> ReplicaMetrics:
        """Return what is counted of this replica and of the accounts served here; one where that fails is left out."""
        accounts: list[AccountMetrics] = []
        for at, account in enumerate([*self._shards.served_accounts()]):
            try:
                accounts.append(metrics_of(account))
            except Exception as error:  # noqa: BLE001 - the others are told of, and its events go on
                report_unexpected(self._counters, "metrics", error, account=account.name)
            if at % _METRICS_BATCH == _METRICS_BATCH - 1:
                await asyncio.sleep(0)  # events go first
        budget, shards = self._budget, [self._shards.known[number] for number in self._shards.serving]
        return ReplicaMetrics(
            counters=self._counters.copy(),
            accounts=accounts,
            orphaned=dict(self._orphaned_states()),
            states=[*(state.value for state in AccountState), KEY_MISSING, ORPHANED],
            disconnect_reasons=DISCONNECT_REASONS,
            connect_failure_reasons=CONNECT_FAILURE_REASONS,
            kinds=(*KINDS, UNKNOWN),
            shards=self._shards.count,
            owned=len(self._shards.assigned),
            replays=self._replays_by_phase(),
            endings=[phase.value for phase in Phase if phase.is_final],
            buffer=budget.used,
            buffer_limit=budget.total,
            action_required=any(shard.needs for shard in shards) or self._provisioning.problem is not None,
            window=self._commits.window.size,
            in_flight=self._commits.bytes_in_flight,
            waiters=budget.waiters,
            waits=budget.longest_wait,
        )

    def _orphaned_states(self) -> Iterator[tuple[str, str]]:
        for number in self._shards.serving:
            yield from ((name, KEY_MISSING) for name in self._shards.known[number].sessions.key_missing)
        yield from ((name, ORPHANED) for name in self._orphaned.names)

    def _replays_by_phase(self) -> dict[str, int] | None:
        if not self._is_controlled or not self._view.has_synced.is_set():
            return None
        phases = Counter(phase.value for phase in map(self._view.phase, self._view.replays))
        return {phase.value: phases[phase.value] for phase in Phase}

    def accounts(self) -> Iterator[AccountReport | str]:
        """Yield each account whose shard is served here, and the orphaned ones; they may change meanwhile.

        Only the name is yielded where nothing has touched the account since the last look, and then a look is rarely
        taken.
        """
        rarely = asyncio.get_running_loop().time() - REPEAT_INTERVAL_S
        for number in [*self._shards.serving]:
            accounts = self._shards.known[number].accounts
            for name, account in [*accounts.items()]:
                if number not in self._shards.serving or accounts.get(name) is not account:
                    continue
                if not account.is_touched and account.looked_at > rarely:
                    yield name
                    continue
                try:
                    epoch = self._shards.known[number].epoch
                    mark = epoch, account.fingerprint()
                except Exception as error:  # noqa: BLE001 - the others are told of
                    self._shards.known[number].fail(account, error)
                else:
                    build = partial(observed_of, account, self._member, epoch or UNSET)
                    yield AccountReport(name, mark, build, repeat_after=account.refresh_fingerprint)
        for name, state in [*self._orphaned_states()]:
            epoch = self._epoch_for(name)
            if state == KEY_MISSING and self._orphaned.is_reported_elsewhere(name, epoch):
                continue
            kept = self._shards.of(name).sessions.key_missing.get(name, NOT_KNOWN)
            build = partial(
                Observed,
                self._member,
                state,
                "",
                settled=kept.settled,
                checkpoint=kept.checkpoint,
                epoch=epoch or UNSET,
            )
            yield AccountReport(name, (epoch, state, kept), build)

    def _epoch_for(self, name: str) -> int:
        """Return the epoch of the owner of an account's shard, also where that is another replica."""
        number = self._shards.number_of(name)
        return (
            self._shards.known[number].epoch if number in self._shards.assigned else self._view.epoch_of_shard(number)
        )

    def on_failed(self, name: str, error: Exception) -> float:
        """Log that an account's state cannot be read, and return the seconds until the next try."""
        report_unexpected(self._counters, "reports", error, retry_in=MAX_DELAY_S, account=name)
        return MAX_DELAY_S

    def states(self) -> Iterator[StateReport]:
        """Yield the owned shards, and the progress of replays."""
        for number in self._shards.assigned:
            shard = self._shards.known[number]
            owned = ShardState(self._member, len(shard.accounts), epoch=shard.epoch or UNSET)
            yield StateReport(f"{SHARD}{number}", owned, repeat_after=_SHARD_REPORT_INTERVAL_S)
        for number in self._shards.serving:
            shard = self._shards.known[number]
            for id_, state_of in shard.replays.states():
                try:
                    state = state_of()
                except Exception as error:  # noqa: BLE001 - the others are told of
                    report_unexpected(self._counters, "reports", error, replay=id_)
                    continue
                reported = replace(state, epoch=shard.epoch or UNSET)
                yield StateReport(
                    REPLAY + id_, reported, repeat_after=math.inf if state.phase.is_final else _REPLAY_REPORT_INTERVAL_S
                )
