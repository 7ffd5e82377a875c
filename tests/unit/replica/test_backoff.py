"""How long to wait before trying again."""

from __future__ import annotations

import random

import pytest

from gateway.backoff import Backoff


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(7)


def test_delays_are_even_from_zero_to_the_time_waited_or_the_first_top() -> None:
    parts: list[list[float]] = [[] for _ in range(8)]
    for _ in range(2000):
        backoff, waited = Backoff(), 0.0
        for part in parts:
            delay = backoff.next_delay()
            part.append(delay / (0.25 + waited))
            waited += delay

    for part in parts:
        assert 0 <= min(part) < 0.02
        assert 0.98 < max(part) <= 1
        assert 0.45 < sum(part) / len(part) < 0.55


def test_who_is_away_for_long_is_asked_rarely() -> None:
    def asked(seconds: float) -> int:
        backoff, waited, count = Backoff(), 0.0, 0
        while waited < seconds:
            waited += backoff.next_delay()
            count += 1
        return count

    assert sum(asked(60) for _ in range(500)) / 500 < 16
    assert sum(asked(3600) for _ in range(50)) / 50 < 260  # each 15 s


def test_no_delay_is_above_the_cap_however_many_failures_there_were() -> None:
    backoff = Backoff(cap=5.0)

    assert max(backoff.next_delay() for _ in range(5000)) <= 5.0


def test_what_the_other_side_asked_for_is_waited_at_least_plus_jitter() -> None:
    delays = [Backoff().next_delay(at_least=10.0) for _ in range(500)]

    assert min(delays) >= 10.0
    assert max(delays) <= 10.25
    assert max(delays) - min(delays) > 0.2


def test_after_a_stable_while_the_next_failure_counts_as_the_first() -> None:
    def worst(lasted: float) -> float:
        delays = []
        for _ in range(300):
            backoff = Backoff(stable_after=30.0)
            for _ in range(20):
                backoff.next_delay(lasted=1.0)
            delays.append(backoff.next_delay(lasted=lasted))
        return max(delays)

    assert worst(29.9) > 10
    assert worst(30.0) <= 0.25
