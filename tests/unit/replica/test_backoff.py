"""How long to wait before trying again."""

from __future__ import annotations

import random

import pytest

from gateway.replica.backoff import Backoff

TOPS = [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(7)


def test_delays_are_drawn_evenly_from_zero_to_a_top_that_doubles_up_to_the_cap() -> None:
    runs = [[backoff.next_delay() for _ in TOPS] for backoff in (Backoff() for _ in range(2000))]

    for delays, top in zip(zip(*runs, strict=True), TOPS, strict=True):
        assert 0 <= min(delays) < 0.02 * top
        assert 0.98 * top < max(delays) <= top
        assert 0.45 * top < sum(delays) / len(delays) < 0.55 * top


def test_no_delay_is_above_the_cap_however_many_failures_there_were() -> None:
    backoff = Backoff(cap=5.0)

    assert max(backoff.next_delay() for _ in range(5000)) <= 5.0


def test_what_the_other_side_asked_for_is_waited_at_least_with_jitter_on_top() -> None:
    delays = [Backoff().next_delay(at_least=10.0) for _ in range(500)]

    assert min(delays) >= 10.0
    assert max(delays) <= 10.25
    assert max(delays) - min(delays) > 0.2


def test_after_a_stable_while_the_next_failure_counts_as_the_first() -> None:
    def worst(lasted: float) -> float:
        delays = []
        for _ in range(300):
            backoff = Backoff(stable_after=30.0)
            for _ in range(8):
                backoff.next_delay(lasted=1.0)
            delays.append(backoff.next_delay(lasted=lasted))
        return max(delays)

    assert worst(29.9) > 10
    assert worst(30.0) <= 0.25
