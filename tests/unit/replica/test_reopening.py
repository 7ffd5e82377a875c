"""When a shard's log is opened again: a table of what ended it, and of what was committed until then."""

from __future__ import annotations

import pytest

from gateway.errors import (
    ActionRequired,
    BrokerError,
    CommitRejected,
    Fenced,
    OutcomeUnknown,
    StorageFull,
    TooManyMessages,
    Unavailable,
)
from gateway.replica.sink.reopening import Reopening


def longest_delay(error: BrokerError, *, lasted: float = 0.0, has_committed: bool = False) -> float:
    """Return the longest of the delays after many failures alike."""
    reopening = Reopening()
    return max(
        reopening.delay_after(error, lasted=lasted, has_committed=has_committed, can_halve=False) for _ in range(200)
    )


@pytest.mark.parametrize("error", [Unavailable("away"), OutcomeUnknown("who knows"), Fenced("another's")])
def test_failures_in_a_row_wait_ever_longer_up_to_five_seconds(error: BrokerError) -> None:
    assert 0.25 < longest_delay(error) <= 5.0


def test_a_broker_without_room_is_left_alone_for_longer() -> None:
    assert 5.0 < longest_delay(StorageFull("full")) <= 30.0


@pytest.mark.parametrize(
    ("error", "begins_anew"), [(Unavailable("away"), True), (ActionRequired("no permission"), False)]
)
def test_a_commit_ends_the_backoff_unless_a_person_must_act(error: BrokerError, *, begins_anew: bool) -> None:
    assert (longest_delay(error, has_committed=True) <= 0.25) is begins_anew


def test_a_log_that_lasted_ends_the_backoff() -> None:
    assert longest_delay(Unavailable("away"), lasted=60.0) <= 0.25


@pytest.mark.parametrize(
    ("error", "is_at_once"),
    [(TooManyMessages("10"), True), (CommitRejected("no"), True), (Unavailable("away"), False)],
)
def test_a_commit_that_can_be_halved_is_tried_at_once(error: BrokerError, *, is_at_once: bool) -> None:
    reopening = Reopening()
    delays = [reopening.delay_after(error, lasted=0.0, has_committed=False, can_halve=True) for _ in range(20)]
    assert (max(delays) == 0.0) is is_at_once


def test_the_hub_is_let_go_once_there_is_no_log_for_half_a_minute() -> None:
    reopening = Reopening()
    tries = [(0.0, False), (29.0, False), (31.0, False), (32.0, True), (60.0, False), (63.0, False)]
    assert [reopening.is_away_for_long(now, was_open=was_open) for now, was_open in tries] == [
        False,
        False,
        True,
        False,
        False,
        True,
    ]
