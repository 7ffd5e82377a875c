"""Timers that end together: never late, hardly early, and many in one moment."""

from __future__ import annotations

import random

import pytest

from gateway.together import same_tick


@pytest.mark.parametrize("interval", [0.05, 1.0, 15.0, 30.0, 86_400.0])
def test_a_moment_is_never_late_and_less_than_a_hundredth_early(interval: float) -> None:
    for _ in range(1000):
        due = random.uniform(0, 1e6)
        early = due - same_tick(due, interval)
        assert -1e-9 <= early <= min(0.1, interval / 100) + 1e-9


def test_thousands_of_pings_end_in_few_moments() -> None:
    moments = {same_tick(1000 + random.uniform(0, 15), 15) for _ in range(5000)}
    assert len(moments) <= 151


def test_a_moment_that_is_shared_stays_so() -> None:
    at = same_tick(1234.567, 15)
    for _ in range(100):
        later = same_tick(at + 0.002 + 15, 15)  # a timer comes a little late
        assert later == pytest.approx(at + 15)
        at = later
