"""Slots for commits: who hangs does not keep others waiting, neither at first nor again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.accounts import shard_of
from gateway.broker.memory import Edge, no_faults
from gateway.errors import Unavailable
from gateway.replica.account import Activity
from gateway.replica.slots import CommitSlots

Build = Callable[..., Awaitable[Any]]

HANGS = 10.0
"""Seconds until a commit is given up."""


async def test_so_many_commits_are_in_flight_at_once() -> None:
    slots, most, now = CommitSlots(2), 0, 0

    async def commit() -> None:
        nonlocal most, now
        async with slots.slot(has_failed=False):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(10):
            tasks.create_task(commit())

    assert most == 2


@pytest.mark.parametrize("has_failed", [False, True])
async def test_one_that_hangs_leaves_its_slot_and_ends_without_giving_it_back_twice(
    monkeypatch: pytest.MonkeyPatch, has_failed: bool
) -> None:
    monkeypatch.setattr("gateway.replica.slots._LASTS", 0.05)
    slots = CommitSlots(1)

    async def hang() -> None:
        async with slots.slot(has_failed=has_failed):
            await asyncio.sleep(0.2)

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        hanging = tasks.create_task(hang())
        await asyncio.sleep(0)
        async with slots.slot(has_failed=has_failed):
            assert not hanging.done()
            await hanging
            waiting = tasks.create_task(hang())
            await asyncio.sleep(0.01)
            assert not waiting.done()


async def test_one_that_is_cancelled_while_it_waits_takes_no_slot() -> None:
    slots = CommitSlots(1)

    async def wait() -> None:
        async with slots.slot(has_failed=False):
            pass

    async with slots.slot(has_failed=False):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with asyncio.timeout(1), slots.slot(has_failed=False):
        pass


async def test_shards_whose_commits_hang_hold_up_no_other(build: Build) -> None:
    hung = [f"hung{number}" for number in range(12)]
    world = await build("alpha", *hung, prefill=1)
    shards = {shard_of(name, 64) for name in hung} - {shard_of("alpha", 64)}
    assert len(shards) > 6
    await world.replica(shards=64)
    for account in ("alpha", *hung):
        await world.becomes(account, Activity.LIVE)

    async def hang(edge: Edge) -> None:
        if edge.call == "commit" and edge.when == "before" and edge.shard in shards:
            await asyncio.sleep(HANGS)
            raise Unavailable("no leader")

    world.broker.faults = hang
    for account in hung:
        world.hub.user(account).emit(1)
    await asyncio.sleep(0.1)
    delays = []
    for number in range(12):
        world.hub.user("alpha").emit(1)
        began = asyncio.get_running_loop().time()
        await world.published("alpha", range(1, number + 3))
        delays.append(asyncio.get_running_loop().time() - began)
        await asyncio.sleep(0.5)
    world.broker.faults = no_faults

    assert max(delays) < HANGS / 2, "each that hangs keeps a slot for a second, and only once"
