"""Accounts are forgotten beside the commits: their neighbours in the shard do not wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from gateway.broker.memory.control import MemoryControl
from gateway.broker.memory.registry import MemoryRegistry
from gateway.errors import Unavailable
from gateway.replica.source.account import AccountState
from gateway.state import Desired, TargetState
from tests.support.in_process import Build
from tests.unit.replica.desired_state import set_desired


@dataclass
class SlowRegistry(MemoryRegistry):
    """Takes its time, as one must that waits for markers to end."""

    calls: list[list[str]] = field(default_factory=list)
    failing: int = 0
    """So many calls fail first."""
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def forget(self, accounts: Collection[str]) -> None:
        self.calls.append(sorted(accounts))
        if self.failing:
            self.failing -= 1
            raise Unavailable("nobody is there")
        await self.goes_on.wait()
        await super().forget(accounts)


async def test_the_neighbours_of_accounts_that_are_forgotten_go_on(build: Build) -> None:
    gone = [f"gone{number}" for number in range(15)]
    world = await build("alpha", *gone, prefill=2)
    world.control, world.registry = MemoryControl(), SlowRegistry()
    await world.replica()
    for name in ("alpha", *gone):
        await world.published(name, [1, 2])
    for name in gone:
        await set_desired(world, Desired(state=TargetState.PAUSED, forget=True), name)
    await world.until(lambda: world.registry.calls, "they are to be forgotten")

    world.hub.user("alpha").emit(10)
    await world.published("alpha", range(1, 13))
    assert world.registry.registered == {"alpha", *gone}, "it is not done yet"
    await world.until(lambda: world.broker.stored_checkpoints[0].keys() == {"alpha"}, "their checkpoints are gone")
    world.registry.goes_on.set()
    await world.until(lambda: world.registry.registered == {"alpha"}, "they are forgotten")

    assert len(world.registry.calls) <= 3, "many at once"


async def test_an_absent_registry_is_asked_again_and_the_account_begins_anew(build: Build) -> None:
    world = await build("alpha", "beta", prefill=2)
    world.control, world.registry = MemoryControl(), SlowRegistry(failing=2)
    await world.replica()
    for name in ("alpha", "beta"):
        await world.published(name, [1, 2])
    await set_desired(world, Desired(state=TargetState.PAUSED, forget=True))
    await world.until(lambda: len(world.registry.calls) == 3, "it is asked again")
    await set_desired(world, Desired())
    world.hub.user("beta").emit(5)
    await world.published("beta", range(1, 8))
    assert world.keys_of("alpha") == [1, 2]

    world.registry.goes_on.set()
    await world.becomes("alpha", AccountState.LIVE)
    await world.until(lambda: world.keys_of("alpha") == [1, 2, 1, 2], "it begins anew")
    assert world.registry.registered == {"alpha", "beta"}
