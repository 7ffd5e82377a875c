"""How many connections to Kafka a process opens, and how it gets along with a broker that admits few of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection

from gateway.broker.kafka import client_internals
from gateway.broker.kafka.connection_limit import CallTimeLimit, ConnectionLimit, time_limit
from gateway.broker.kafka.ownership import KafkaOwnership
from gateway.broker.kafka.registry import KafkaRegistry
from gateway.broker.ports import Commit, ShardLog
from gateway.errors import OutcomeUnknown, Unavailable
from tests.support import kafka_server
from tests.support.event_log_suite import message
from tests.support.kafka_server import KafkaServer
from tests.support.leaks import leaving_nothing
from tests.support.rigs import KafkaRig, kafka_rig

log = logging.getLogger(__name__)

SMALL = {"listener.name.plaintext.max.connection.creation.rate": "4"}
"""A broker that admits 4 connections a second, by a window of 11 s: some 40 at once, and then none for seconds."""
SHARDS = 16
READS = 5
"""How often the registry is read, each time over a connection of its own."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    kafka_server.require_java()
    with KafkaServer(tmp_path_factory.mktemp("kafka-small"), config=SMALL) as made:
        yield made


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the moments at which connections are opened from now on."""
    moments: list[float] = []
    connect: Callable[[AIOKafkaConnection], object] = AIOKafkaConnection.connect

    def counted(connection: AIOKafkaConnection) -> object:
        moments.append(time.monotonic())
        return connect(connection)

    monkeypatch.setattr(AIOKafkaConnection, "connect", counted)
    return moments


async def opened(rig: KafkaRig, shard: int, stack: AsyncExitStack) -> ShardLog:
    """Open a shard as a replica does: again until it succeeds, then its checkpoints are read and it commits."""
    own = rig.log("a")
    while True:
        try:
            async with AsyncExitStack() as trying:
                made = await trying.enter_async_context(own.open(shard))
                await made.checkpoints()
                await made.commit(Commit([message(1, account=f"a{shard}")], {f"a{shard}": b"1"}))
                stack.push_async_exit(trying.pop_all())
                return made
        except (Unavailable, OutcomeUnknown) as error:
            log.info("shard %s: %s", shard, error)
            await asyncio.sleep(0.5)


async def test_a_broker_of_few_connections_a_second_is_served_then_left_alone(
    small: KafkaServer, openings: list[float]
) -> None:
    """It took for ever: each shard's producer was given up after 10 s, and its connections were opened again."""
    async with kafka_rig(small.address, shards=SHARDS) as rig, AsyncExitStack() as stack:
        began = time.monotonic()
        registry = KafkaRegistry(rig.connection, rig.topics)
        membership = await stack.enter_async_context(KafkaOwnership(rig.connection, rig.topics).join("a", SHARDS))
        changes = membership.assignments()
        following = asyncio.create_task(anext(changes))  # type: ignore[arg-type]
        async with asyncio.timeout(100):
            shards = await asyncio.gather(*(opened(rig, shard, stack) for shard in range(SHARDS)))
            await registry.register("a1")
            assert await following
        took = time.monotonic() - began
        log.info("live after %.1f s and %s connections", took, len(openings))
        assert took < 60
        before = len(openings)
        for number in range(2, 2 + READS):
            for shard, one in enumerate(shards):
                await one.commit(Commit([message(number, account=f"a{shard}")], {f"a{shard}": b"%d" % number}))
            await registry.accounts()
            await registry.register(f"a{number}")
        log.info("%s more for %s commits", len(openings) - before, READS * len(shards))
        assert len(openings) - before <= READS
        await changes.aclose()


# The door -------------------------------------------------------------------------------------------------


async def test_few_connections_to_one_address_are_made_at_once_others_go_on() -> None:
    door, at_once, most = ConnectionLimit(10), Counter[int](), Counter[int]()

    async def opens(port: int) -> None:
        async def attempt(_: float) -> None:
            at_once[port] += 1
            most[port] = max(most[port], at_once[port])
            await asyncio.sleep(0.01)
            at_once[port] -= 1

        await door.slot("h", port, attempt)

    await asyncio.gather(*(opens(port) for port in (1, 2) for _ in range(10)))
    assert most == {1: 2, 2: 2}
    assert door.opened == 20


async def test_a_try_too_short_gets_more_time_and_its_failure_is_told_to_waiters() -> None:
    door, limits = ConnectionLimit(10), list[float]()

    async def fails(limit: float) -> None:
        limits.append(limit)
        await asyncio.sleep(0.01)
        raise TimeoutError

    async def opens(attempt: Callable[[float], Coroutine[Any, Any, None]]) -> BaseException | None:
        try:
            await door.slot("h", 1, attempt)
        except TimeoutError as error:
            return error
        return None

    async def succeeds(limit: float) -> None:
        limits.append(limit)

    for _ in range(5):
        assert all(await asyncio.gather(*(opens(fails) for _ in range(3))))
    assert limits == [2, 2, 8, 8, 20, 20, 20, 20, 20, 20]
    limits.clear()
    for _ in range(5):
        assert await opens(succeeds) is None
    assert limits == [20, 10, 5, 2.5, 2]


async def test_the_time_to_be_let_in_does_not_count_and_what_failed_does() -> None:
    client = SimpleNamespace()
    async with time_limit(client, 0.2):
        own: CallTimeLimit = client._gateway_time_limit
        own.began()
        await asyncio.sleep(0.4)
        own.ended(0.0)

    async def wastes() -> None:
        async with time_limit(client, 0.2):
            client._gateway_time_limit.began()
            client._gateway_time_limit.began()
            left.append(client._gateway_time_limit)
            await asyncio.sleep(0.01)
            client._gateway_time_limit.ended(0.3)
            await asyncio.sleep(10)

    left = list[CallTimeLimit]()
    with pytest.raises(TimeoutError):
        await wastes()
    left[0].ended(0.0)  # after the end of the call


@pytest.mark.parametrize("turns", range(12))
async def test_an_opening_whose_waiter_is_cancelled_leaves_no_connection(kafka_address: str, turns: int) -> None:
    client_internals.apply_patches()
    client = AIOKafkaClient(bootstrap_servers=kafka_address)
    client_internals.prepare(client, ConnectionLimit(10))
    async with leaving_nothing():
        opening = asyncio.create_task(client.bootstrap())
        while not client._gateway_door.opened and turns < 6 and not opening.done():
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait({opening})
        await client_internals.end_client(client)
