"""An account that is asked to end does, in whatever moment that is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

Build = Callable[..., Awaitable[Any]]


async def test_an_account_that_is_ended_in_the_moment_its_connection_ends_does_end(build: Build) -> None:
    world = await build("alpha", prefill=3)
    replica = await world.replica()
    await world.published("alpha", range(1, 4))
    running = replica._shards[0]._running["alpha"]
    replica._accounts["alpha"].release("the test says so")

    running.cancel()

    await asyncio.wait({running}, timeout=10)
    assert running.cancelled()
