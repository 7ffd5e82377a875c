"""The observed state of one account, for people, for other replicas and for the control plane."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import UNSET, UnsetType

from gateway.replica.source.account import Account, AccountState
from gateway.state import CheckpointPosition, Observed


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """The observed state of one account, for people and machines."""

    account: str
    state: AccountState
    published: int
    """Messages committed since this process began."""
    latest: int
    """The hub's latest sequence as last returned."""
    settled: int
    """The highest sequence that is committed: published, filtered or dead-lettered."""
    last_error: str | None
    """The last error, until the account is live again; of a message that does not get through, until it does."""
    connects: int

    @property
    def lag(self) -> int:
        """Sequences that the hub has and the log has not: an upper bound, since they may have holes."""
        return max(0, self.latest - self.settled)


def status_of(account: Account) -> AccountStatus:
    """Return the observed state of `account`."""
    return AccountStatus(
        account=account.name,
        state=account.state,
        published=account.counters.published,
        latest=account.lag.latest,
        settled=account.lag.settled,
        last_error=account.last_error or account.lag.held_up_by,
        connects=account.counters.connects,
    )


def observed_of(account: Account, member: str, epoch: int | UnsetType) -> Observed:
    """Return it as the owner `member` reports it to others; `epoch` is the shard's."""
    status, session = status_of(account), account.session
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
        checkpoint=_position_of(account),
        enum_forms=account.source.decoder.names.forms or UNSET,
        unnamed_enums=account.source.decoder.names.unnamed or UNSET,
        epoch=epoch,
    )


def _position_of(account: Account) -> CheckpointPosition | UnsetType:
    if account.session is None:
        return CheckpointPosition(0, 0) if account.is_unreadable else UNSET
    return (
        CheckpointPosition(account.session.verified, account.session.incarnation) if account.session.is_begun else UNSET
    )
