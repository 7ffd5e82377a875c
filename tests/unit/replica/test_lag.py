"""How far a log is behind its hub."""

from __future__ import annotations

import pytest

from gateway.replica.source.lag import Lag


def test_a_log_is_behind_by_what_is_not_committed() -> None:
    lag = Lag()
    lag.begin(100.0)
    lag.on_attached(40, 30)
    lag.on_taken(50, 101.0)
    assert (lag.sequences, lag.verified) == (10, 30)
    lag.on_committed(50, 45)
    assert (lag.sequences, lag.verified) == (0, 45)


def test_it_is_never_behind_a_hub_that_has_less() -> None:
    lag = Lag()
    lag.on_attached(40, 40)
    lag.on_taken(10, 1.0)
    assert lag.sequences == 0


def test_where_events_never_pause_it_is_level_to_the_committed_moment() -> None:
    lag = Lag()
    lag.begin(0.0)
    lag.on_attached(0, 0)
    for step in range(1, 100):  # at each look something is on its way
        lag.on_taken(10 * step, float(step))
        lag.on_committed(10 * step - 5, 0)
        assert lag.sequences == 5
        assert step - lag.level_at <= 2


@pytest.mark.parametrize("commits", [0, 3])
def test_a_backlog_that_grows_is_as_old_as_what_began_it(commits: int) -> None:
    lag = Lag()
    lag.begin(0.0)
    lag.on_attached(0, 0)
    lag.on_taken(1000, 5.0)
    for _ in range(commits):
        lag.on_taken(5000, 20.0)
        lag.on_committed(900, 0)
    assert lag.level_at == 0.0
    lag.on_committed(1000, 0)
    assert lag.level_at == 5.0


def test_an_older_moment_never_takes_the_place_of_a_newer_one() -> None:
    lag = Lag()
    lag.begin(0.0)
    lag.on_taken(10, 5.0)
    lag.level_at = 7.0
    lag.on_committed(10, 10)
    assert lag.level_at == 7.0


def test_what_was_under_way_when_a_log_was_lost_proves_nothing() -> None:
    lag = Lag()
    lag.begin(0.0)
    lag.on_taken(10, 5.0)
    lag.on_attached(3, 3)
    lag.on_committed(10, 10)
    assert lag.level_at == 0.0


def test_after_another_checkpoint_the_former_history_counts_no_more() -> None:
    lag = Lag()
    lag.on_taken(1_000_000, 5.0)
    lag.forget()
    lag.on_attached(3, 3)
    assert lag.sequences == 0
