"""How fast connections to the hub are begun: evenly, and slowly while it takes nobody."""

from __future__ import annotations

import asyncio

import pytest

from gateway.replica.source.context import RateLimiter


async def test_turns_come_one_after_the_other_at_the_rate() -> None:
    pace, began = RateLimiter(50), asyncio.get_running_loop().time()
    await asyncio.gather(*(pace.acquire() for _ in range(11)))
    assert asyncio.get_running_loop().time() - began >= 10 / 50 - 0.001


def test_it_slows_to_a_twentieth_while_none_is_taken_and_recovers_after_30() -> None:
    pace = RateLimiter(300)
    for _ in range(100):
        pace.on_failure()
    assert pace.rate == pytest.approx(15)
    for _ in range(32):
        pace.on_success()
    assert pace.rate == 300
