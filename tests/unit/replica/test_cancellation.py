"""An account that is asked to end does, in whatever moment that is."""

from __future__ import annotations

import asyncio

from tests.support.in_process import Build


async def test_an_account_ended_in_the_moment_its_connection_ends_does_end(build: Build) -> None:
    world = await build("alpha", prefill=3)
    replica = await world.replica()
    await world.published("alpha", range(1, 4))
    (running,) = [task for task in asyncio.all_tasks() if task.get_name() == "account-alpha"]
    replica._shards.accounts["alpha"].release("the test says so")

    running.cancel()

    await asyncio.wait({running}, timeout=10)
    assert running.cancelled()


async def test_a_connection_made_in_the_moment_its_account_ends_is_closed(build: Build) -> None:
    world = await build("alpha", prefill=3)
    closed = asyncio.Event()

    class Made:
        last_received_at = 0.0

        async def close(self) -> None:
            closed.set()

    async def connect(*_: object) -> Made:
        account = asyncio.current_task()
        assert account is not None
        account.cancel()
        return Made()

    await world.replica(connect=connect)
    async with asyncio.timeout(10):
        await closed.wait()
