"""Replicas that share shards: what a change of ownership does to accounts, and what it leaves alone."""

from __future__ import annotations

import asyncio
from collections import Counter

from gateway.accounts import shard_of
from gateway.broker.leases import LeaseTiming
from gateway.broker.memory.ownership import MemoryOwnership
from gateway.replica.replica import Replica
from gateway.replica.source.account import AccountState
from tests.support.in_process import Build, World

NAMES = tuple(f"account-{number}" for number in range(8))
SHARDS = 16
QUICK = LeaseTiming(lease=1.0, renewal=0.2, look=0.1)


async def shared_world(build: Build, *names: str) -> World:
    world = await build(*(names or NAMES), prefill=5)
    world.ownership = MemoryOwnership(QUICK)
    return world


def connected_to(world: World, name: str) -> int:
    """Count the hub's connections of an account."""
    return len(world.hub.server.of(world.hub.user(name)))


def live(replica: Replica) -> set[str]:
    return {status.account for status in replica.statuses() if status.state is AccountState.LIVE}


async def settle(world: World, *replicas: Replica) -> list[set[str]]:
    """Wait until these have even shares, each account live in exactly one of them, over one connection.

    Uneven shares are a hand-over that goes on, which moves more accounts later.
    """

    async def is_so() -> bool:
        leases = [await world.ownership.read(f"lease.{shard}") for shard in range(SHARDS)]
        sizes = Counter(lease.token for lease in leases if lease is not None).values()
        if sum(sizes) < SHARDS or len(sizes) < len(replicas) or max(sizes) - min(sizes) > 1:
            return False
        serving = [name for replica in replicas for name in live(replica)]
        connected = [connected_to(world, name) for name in world.hub.hub.users]
        return sorted(serving) == sorted(world.hub.hub.users) and set(connected) == {1}

    await world.until(is_so, "each account is live in one replica")
    return [live(replica) for replica in replicas]


async def test_a_second_replica_takes_its_own_and_others_keep_their_connections(build: Build) -> None:
    world = await shared_world(build)
    first = await world.replica(shards=SHARDS)
    await settle(world, first)
    second = await world.replica(shards=SHARDS)
    kept, moved = await settle(world, first, second)
    for name in NAMES:
        world.hub.user(name).emit(5)
        await world.published(name, range(1, 11))
        assert world.keys_of(name) == list(range(1, 11))
        assert world.hub.user(name).counts["connects"] == (1 if name in kept else 2)
    assert {shard_of(name, SHARDS) for name in kept}.isdisjoint({shard_of(name, SHARDS) for name in moved})


async def test_a_replica_that_ends_hands_over_and_the_other_goes_on(build: Build) -> None:
    world = await shared_world(build)
    first, second = await world.replica(shards=SHARDS), await world.replica(shards=SHARDS)
    await settle(world, first, second)
    second.stop()
    await settle(world, first)
    for name in NAMES:
        world.hub.user(name).emit(5)
        await world.published(name, range(1, 11))
        assert world.keys_of(name) == list(range(1, 11))


async def test_a_stranger_that_claims_a_shard_does_not_keep_it(build: Build) -> None:
    world = await shared_world(build, "alpha")
    replica = await world.replica(shards=SHARDS)
    await settle(world, replica)
    async with world.broker.log("a stranger").open(shard_of("alpha", SHARDS)):
        world.hub.user("alpha").emit(5)
        await world.published("alpha", range(1, 11))
    assert world.keys_of("alpha") == list(range(1, 11))
    assert world.hub.user("alpha").counts["connects"] == 1


async def take(world: World, shard: int) -> None:
    """Take the lease of a shard for somebody who will not renew it."""
    lease = f"lease.{shard}"
    stored = await world.ownership.read(lease)
    await world.ownership.write(lease, "an heir", stored.revision)


async def test_pages_are_as_small_after_a_shard_came_back_as_before(build: Build) -> None:
    world = await build("alpha", prefill=200)
    world.ownership = MemoryOwnership(QUICK)
    world.hub.patch_faults("alpha", max_events_limit=50)
    replica = await world.replica(shards=SHARDS)
    await settle(world, replica)
    await world.published("alpha", range(1, 201))
    counts = world.hub.user("alpha").counts
    refused = counts["refused"]
    assert refused > 1

    await take(world, shard_of("alpha", SHARDS))
    await world.until(lambda: not live(replica), "it is not served any more")
    world.hub.user("alpha").emit(100)
    await world.published("alpha", range(1, 301))
    assert (counts["connects"], counts["refused"]) == (2, refused)


async def test_a_lost_shard_closes_its_connection_and_leaves_its_heir_alone(build: Build) -> None:
    world = await shared_world(build, "alpha")
    replica = await world.replica(shards=SHARDS)
    await settle(world, replica)
    shard = shard_of("alpha", SHARDS)
    await take(world, shard)
    async with world.broker.log("an heir").open(shard):
        claims = world.broker.epochs[shard]
        world.hub.user("alpha").emit(5)
        await world.until(lambda: connected_to(world, "alpha") == 0, "the connection is closed")
        await world.until(lambda: not live(replica), "it is not served any more")
        assert world.broker.epochs[shard] == claims
    await world.published("alpha", range(1, 11))  # the heir's lease ends, since nobody renews it
    assert world.keys_of("alpha") == list(range(1, 11))


async def test_an_outage_of_the_broker_moves_nothing(build: Build) -> None:
    world = await shared_world(build)
    first, second = await world.replica(shards=SHARDS), await world.replica(shards=SHARDS)
    before = await settle(world, first, second)
    connects = [world.hub.user(name).counts["connects"] for name in NAMES]
    world.ownership.is_away = True
    await asyncio.sleep(2 * QUICK.lease)
    world.ownership.restart()
    world.ownership.is_away = False
    await asyncio.sleep(2 * QUICK.lease)
    assert await settle(world, first, second) == before
    assert [world.hub.user(name).counts["connects"] for name in NAMES] == connects
