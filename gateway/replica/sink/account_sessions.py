"""Where the accounts of a shard start: a checkpoint of the log, one that an operator set, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from msgspec import UNSET, UnsetType

from gateway.replica.sink.forgetting import AccountForgetter
from gateway.replica.sink.shard_settings import ShardSettings
from gateway.replica.sink.store_losses import CommittedHighWater
from gateway.replica.source.account import Account, AccountState
from gateway.session.checkpoint import Checkpoint, CheckpointUnreadable, decode_checkpoint
from gateway.session.replay_queue import KEY
from gateway.session.session import Session
from gateway.state import CheckpointPosition
from gateway.telemetry.logs import get_logger


@dataclass(frozen=True, slots=True)
class KeptPosition:
    """How far an account is that nobody with its key serves."""

    settled: int | UnsetType
    """The highest sequence that is settled; UNSET where that cannot be read."""
    checkpoint: CheckpointPosition | UnsetType
    """UNSET where there is none."""


NOT_KNOWN: Final = KeptPosition(UNSET, UNSET)


def kept_position(value: bytes) -> KeptPosition:
    """Return what a stored checkpoint says."""
    try:
        checkpoint = decode_checkpoint(value)
    except CheckpointUnreadable:
        return KeptPosition(UNSET, CheckpointPosition(0, 0))
    highest = max([checkpoint.verified, *(last for _, last in checkpoint.settled)])
    return KeptPosition(highest, CheckpointPosition(checkpoint.verified, checkpoint.incarnation))


class AccountSessions:
    """Creates the sessions of one shard's accounts, and keeps which checkpoints exist."""

    def __init__(
        self,
        shard: int,
        settings: ShardSettings,
        accounts: Mapping[str, Account],
        has_work: Callable[[Account], None],
        fail: Callable[[Account, BaseException], object],
    ) -> None:
        """`accounts` are those that are served; `fail` is called with an unexpected error of one."""
        self.newcomers: set[str] = set()
        """Accounts that are to begin from the checkpoint that is read next."""
        self.unregistered: set[str] = set()
        """Accounts whose first checkpoint is not committed yet."""
        self.key_missing: dict[str, KeptPosition] = {}
        """Accounts that have a checkpoint here, and no key, with what it says."""
        self.forgets: set[str] = set()
        """Accounts without a key whose checkpoints are to be erased."""
        self.forgotten: set[str] = set()
        """Those of them whose checkpoints are erased; the caller that handles them removes them."""
        self.high_water = CommittedHighWater(settings.counters)
        self.forgetter = AccountForgetter(settings.registry, self.on_forgotten)
        self._settings = settings
        self._accounts = accounts
        self._has_work = has_work
        self._fail = fail
        self._logger = get_logger(shard=shard)

    def attach(self, names: Collection[str], checkpoints: dict[str, bytes], known: frozenset[str]) -> None:
        """Let these accounts begin from their checkpoints."""
        self.newcomers -= set(names)
        missing = (name for name in checkpoints.keys() - self._accounts.keys() if not name.startswith(KEY))
        self.key_missing = {name: kept_position(checkpoints[name]) for name in missing}
        self.unregistered |= set(names) - checkpoints.keys() - known
        for name in self._accounts.keys() & set(names) - self.forgetter.names:
            account, value = self._accounts[name], checkpoints.get(name)
            try:
                checkpoint = decode_checkpoint(value) if value is not None else None
            except CheckpointUnreadable as error:
                account.last_error = str(error)
                account.detach(AccountState.DIVERGED)
                account.is_unreadable = True
                self._has_work(account)  # an operator may want another
                self._logger.error("account halted", account=name, error=str(error))
                continue
            try:
                session = self._session(name, checkpoint, known=name in known)
                self.high_water.compare(name, session)
                self.high_water.begin(name, session)
                account.attach(session)
            except Exception as error:  # noqa: BLE001 - its neighbours go on
                self._fail(account, error)
                continue
            if account.is_at_rest:
                self._has_work(account)  # an operator may want another checkpoint

    def on_key_gone(self, account: Account) -> None:
        """Keep how far an account is that is served no more, if it had begun."""
        self.newcomers.discard(account.name)
        if (session := account.session) is not None:
            position = CheckpointPosition(session.verified, session.incarnation) if session.is_begun else UNSET
            self.key_missing[account.name] = KeptPosition(account.lag.settled, position)

    def hold_up(self, names: Collection[str], problem: str | None) -> None:
        """Note why a message of these accounts does not get through; None where it did, or is there no more."""
        for name in names:
            account = self._accounts.get(name)
            if account is not None and account.lag.held_up_by != problem:
                account.lag.held_up_by = problem
                account.touch()

    def apply_resets(self, renewed: Mapping[str, Checkpoint | None], tasks: asyncio.TaskGroup) -> None:
        """Go on from the checkpoints that were set; what was erased is to be forgotten everywhere first."""
        for name, checkpoint in renewed.items():
            account = self._accounts.get(name)
            if checkpoint is None:
                if account is not None:
                    account.is_unreadable = False  # it is not there any more
            else:
                self._logger.warning("checkpoint reset", account=name)
                if account is not None:
                    account.lag.forget()
                    session = self._session(name, checkpoint, known=True)
                    self.high_water.begin(name, session)
                    account.attach(session)
        self.forgetter.start([name for name, checkpoint in renewed.items() if checkpoint is None], tasks)

    def on_forgotten(self, names: Collection[str]) -> None:
        """Note that nothing is known of these accounts any more: those that are served begin from nothing."""
        for name in names:
            self.unregistered.add(name)
            account = self._accounts.get(name)
            self._logger.warning("checkpoint deleted", account=name)
            if account is not None:
                self.newcomers.discard(name)
                account.lag.forget()
                session = self._session(name, None, known=False)
                self.high_water.begin(name, session)
                account.attach(session)
            elif name in self.forgets:
                self.forgets.discard(name)
                self.key_missing.pop(name, None)
                self.forgotten.add(name)

    def _session(self, name: str, checkpoint: Checkpoint | None, *, known: bool) -> Session:
        settings = self._settings
        return Session(name, checkpoint, start=settings.start, settings=settings.session, known=known)
