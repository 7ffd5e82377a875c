"""What is counted of an account, in the words of the metrics."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from gateway.replica.source.account import Account, Activity
from gateway.telemetry.metrics import OUTCOMES, AccountNumbers

REASONS: Final = (
    *("silent", "dropped", "closed", "protocol", "too-large", "call", "deaf", "dead-letters"),
    *("unreachable", "timeout", "negotiate", "handshake", "proxy", "refused"),
    *("key", "diverged", "released", "unexpected"),
)
"""For which a connection ends or cannot be made; besides them `http-` and a status that the hub answered with."""


def numbers_of(account: Account) -> AccountNumbers:
    """Give what is counted of `account`."""
    heard_at, counts = account.heard_at, account.counts
    return AccountNumbers(
        account=account.name,
        state=account.activity.value,
        is_awaited=account.activity not in _NOT_AWAITED,
        lag=account.lag.sequences,
        lag_seconds=account.lag_seconds(),
        heard_at=None if heard_at is None else time.time() - (asyncio.get_running_loop().time() - heard_at),
        is_connected=account.is_connected,
        verified=account.lag.verified,
        disconnects=dict(counts.disconnects),
        outcomes={outcome: counts.outcomes[outcome] for outcome in _TOLD if outcome in counts.outcomes},
    )


_NOT_AWAITED: Final = frozenset({Activity.PAUSED, Activity.REFUSED, Activity.DIVERGED})
_TOLD: Final = (*OUTCOMES, "gap")
