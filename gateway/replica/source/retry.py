"""What follows from each error that ended a connection, or prevented it: when the supervisor tries again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.errors import (
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    Diverged,
    HubError,
    TooManyDeadLetters,
    Unauthorized,
)
from gateway.replica.source.account import AccountState

_DIVERGED_DELAY_S: Final = 60.0
"""Seconds before a history that diverged is looked at again; at once when the key was changed."""
_UNAUTHORIZED_DELAY_S: Final = 15.0
"""Seconds before a refused key is tried again, at the least: it is read afresh each time."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How an account goes on after an error."""

    reason: str
    """As metrics count it."""
    state: AccountState | None = None
    """The account's state until it is connected again; None where its session decides."""
    at_least: float | None = None
    """Seconds that the backoff comes on top of."""
    instead: float | None = None
    """Seconds to wait instead of a backoff, up to half as many more."""
    is_mendable: bool = False
    """Whether to try at once when the key was changed or the account has another session."""
    is_outage: bool = False
    """Whether a connection that lasted ends the backoff: the hub was there."""


def retry_of(error: HubError | Diverged | ConfigurationError) -> Retry:
    """Return how to go on after `error`. All of them may pass, so that there is no giving up."""
    match error:
        case Unauthorized():
            at_least = max(_UNAUTHORIZED_DELAY_S, error.retry_after or 0)
            return Retry(error.reason, AccountState.UNAUTHORIZED, at_least=at_least, is_mendable=True)
        case Diverged():
            return Retry("diverged", AccountState.DIVERGED, instead=_DIVERGED_DELAY_S, is_mendable=True)
        case ConfigurationError():
            return Retry("key")
        case TooManyDeadLetters():
            return Retry("dead-letters", at_least=error.remaining)
        case ConnectFailed():
            return Retry(error.reason, at_least=error.retry_after, is_outage=True)
        case ConnectionLost():
            return Retry(error.reason, is_outage=True)
    return Retry("call", is_outage=True)
