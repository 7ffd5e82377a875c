"""A commit that was too large for a slow line is given longer, and nothing else is."""

from __future__ import annotations

from gateway.broker.kafka.commit_limits import LARGE, CommitLimits


def test_a_late_commit_is_given_twice_as_long_and_smaller_ones_are_not() -> None:
    limits = CommitLimits(10.0)
    reported = [limits.came_too_late(4 * LARGE) for _ in range(5)]
    assert reported == [False, False, False, True, True]
    assert (limits.seconds(4 * LARGE), limits.factor) == (80.0, 8)
    assert limits.seconds(4 * LARGE - 1) == 10.0


def test_a_small_one_that_came_too_late_is_no_sign_of_a_slow_line() -> None:
    limits = CommitLimits(10.0)
    assert not limits.came_too_late(LARGE - 1)
    assert limits.factor == 1


def test_a_line_that_is_quick_again_is_given_the_usual_time() -> None:
    limits = CommitLimits(10.0)
    limits.came_too_late(4 * LARGE)
    limits.came_in_time(4 * LARGE, 15.0)
    limits.came_in_time(LARGE, 1.0)
    assert limits.seconds(4 * LARGE) == 20.0
    limits.came_in_time(4 * LARGE, 4.0)
    assert (limits.seconds(4 * LARGE), limits.factor) == (10.0, 1)


def test_a_transaction_timeout_that_brokers_refuse_is_not_tried_again() -> None:
    limits = CommitLimits(10.0)
    assert not limits.shorten()
    assert not limits.came_too_late(4 * LARGE)
    assert not limits.came_too_late(4 * LARGE)
    assert limits.shorten()
    assert limits.factor == 2
    assert limits.came_too_late(4 * LARGE), "there is nothing longer to try"
