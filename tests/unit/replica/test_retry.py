"""What follows from each error that ended a connection: a table, since each row is what a hub and an operator meet."""

from __future__ import annotations

import pytest

from gateway.backoff import Backoff
from gateway.errors import (
    CallFailed,
    CallTimedOut,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    Diverged,
    HubError,
    TooManyDeadLetters,
    Unauthorized,
)
from gateway.replica.source.account import AccountState
from gateway.replica.source.hub_link import Released
from gateway.replica.source.retry import Retry, retry_of
from gateway.replica.source.supervisor import _delay, _root_cause


@pytest.mark.parametrize(
    ("error", "retry"),
    [
        (
            Unauthorized("401", reason="unauthorized"),
            Retry("unauthorized", AccountState.UNAUTHORIZED, at_least=15.0, is_mendable=True),
        ),
        (
            Unauthorized("401", reason="unauthorized", retry_after=40.0),
            Retry("unauthorized", AccountState.UNAUTHORIZED, at_least=40.0, is_mendable=True),
        ),
        (Diverged("another hub"), Retry("diverged", AccountState.DIVERGED, instead=60.0, is_mendable=True)),
        (ConfigurationError("accounts", "no key", "write one"), Retry("key")),
        (TooManyDeadLetters(5, 3, 42.0), Retry("dead-letters", at_least=42.0)),
        (
            ConnectFailed("503", reason="http-503", retry_after=7.0),
            Retry("http-503", at_least=7.0, is_outage=True),
        ),
        (ConnectFailed("no route", reason="unreachable"), Retry("unreachable", is_outage=True)),
        (ConnectionLost("gone", reason="dropped"), Retry("dropped", is_outage=True)),
        (CallFailed("GetEventsSince", "busy"), Retry("call", is_outage=True)),
        (CallTimedOut("GetEventsSince", 10.0), Retry("call", is_outage=True)),
    ],
)
def test_each_error_has_its_retry(error: HubError | Diverged | ConfigurationError, retry: Retry) -> None:
    assert retry_of(error) == retry


def test_a_connection_that_lasted_ends_the_backoff_of_outages_alone() -> None:
    for is_outage, longest in ((True, 0.25), (False, 30.0)):
        backoff = Backoff()
        while backoff._waited < 29.0:
            backoff.next_delay()
        delays = [_delay(Retry("any", is_outage=is_outage), backoff, lasted=60.0) for _ in range(50)]
        assert max(delays) <= longest
        assert (max(delays) > 0.25) is not is_outage


def test_a_diverged_history_is_looked_at_after_60_to_90_seconds() -> None:
    delays = [_delay(retry_of(Diverged("another hub")), Backoff(), lasted=0.0) for _ in range(50)]
    assert min(delays) >= 60.0
    assert max(delays) <= 90.0


@pytest.mark.parametrize(
    ("errors", "raised"),
    [
        ([CallFailed("one", "x"), Diverged("another hub"), ConnectionLost("gone", reason="dropped")], Diverged),
        ([ConnectionLost("gone", reason="dropped"), TooManyDeadLetters(5, 3, 42.0)], TooManyDeadLetters),
        ([ConnectionLost("gone", reason="dropped"), Released("an operator paused the account")], Released),
        ([CallFailed("one", "x"), ConnectionLost("gone", reason="dropped")], ConnectionLost),
        ([CallFailed("one", "x"), CallTimedOut("two", 1.0)], CallFailed),
    ],
)
def test_of_several_errors_the_most_telling_is_raised(errors: list[HubError], raised: type) -> None:
    nested = BaseExceptionGroup("outer", [BaseExceptionGroup("inner", errors[1:]), errors[0]])
    assert type(_root_cause(nested)) is raised
