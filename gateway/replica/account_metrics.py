"""The metrics of each account."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from gateway.replica.source.account import Account, AccountState
from gateway.telemetry.metrics import OUTCOMES
from gateway.telemetry.replica_metrics import AccountMetrics

DISCONNECT_REASONS: Final = (
    *("silent", "dropped", "closed", "protocol", "too-large", "call", "deaf", "dead-letters", "diverged", "released"),
    "unexpected",
)
"""Why a connection to the hub ends."""
CONNECT_FAILURE_REASONS: Final = (
    *("unreachable", "timeout", "negotiate", "handshake", "protocol", "proxy", "unauthorized", "key", "unexpected"),
)
"""Why an attempt to connect fails; also `http-` and a status that the hub answered with."""


def metrics_of(account: Account) -> AccountMetrics:
    """Return what is counted of `account`."""
    received_at, counts = account.link.last_received_at, account.counters
    return AccountMetrics(
        account=account.name,
        state=account.state.value,
        is_awaited=account.state not in _NOT_AWAITED,
        lag=account.lag.sequences,
        lag_seconds=account.lag_seconds(),
        last_received_at=None
        if received_at is None
        else time.time() - (asyncio.get_running_loop().time() - received_at),
        is_connected=account.link.is_up,
        verified=account.lag.verified,
        disconnects=dict(counts.disconnects),
        connect_failures=dict(counts.connect_failures),
        outcomes={outcome: counts.outcomes[outcome] for outcome in _EXPORTED if outcome in counts.outcomes},
    )


_NOT_AWAITED: Final = frozenset({AccountState.PAUSED, AccountState.UNAUTHORIZED, AccountState.DIVERGED})
_EXPORTED: Final = (*OUTCOMES, "gap")
