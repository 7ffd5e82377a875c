"""Reading a stream of JetStream without a consumer: whole, in order, and by any number of readers at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from gateway.broker.jetstream.control import JetStreamControl
from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.jetstream.stream import StreamSettings, prepare
from gateway.broker.ports import Commit
from gateway.errors import Unavailable
from tests.support.event_log_suite import message, messages
from tests.support.nats_server import NatsServer
from tests.support.ownership_suite import until
from tests.support.rigs import NatsRig, nats_rig
from tests.support.watchers import watching


@pytest.fixture
async def nats(nats_server: NatsServer) -> AsyncIterator[NatsRig]:
    async with nats_rig(nats_server.url) as rig:
        yield rig


async def numbers_of(
    nats: NatsRig, topics: Sequence[str] | None = None, accounts: Sequence[str] | None = None
) -> list[int]:
    """Return the numbers of the messages in the log's order."""
    found = nats.reader.read(topics=topics, accounts=accounts, start="first", follow=False)
    return [int(stored.message.key) async for stored in found]


async def test_a_reader_makes_no_consumer_and_two_followers_each_get_everything(nats: NatsRig) -> None:
    seen: list[list[int]] = [[], []]

    async def follow(mine: list[int]) -> None:
        async for stored in nats.reader.read(topics=None, accounts=None, start="first", follow=True):
            mine.append(int(stored.message.key))  # noqa: PERF401 - watched while it grows

    async with nats.log("a").open(1) as shard:
        await shard.commit(Commit(messages(1, 3)))
        followers = [asyncio.create_task(follow(mine)) for mine in seen]
        while any(len(mine) < 3 for mine in seen):
            await asyncio.sleep(0)
        consumers = await nats.connection.link.api(f"CONSUMER.NAMES.{nats.topics.stream}")
        assert not consumers["consumers"]
        await shard.commit(Commit(messages(4, 6)))
        while any(len(mine) < 6 for mine in seen):
            await asyncio.sleep(0)
        for follower in followers:
            follower.cancel()
        await asyncio.wait(followers)
    assert seen == [[1, 2, 3, 4, 5, 6]] * 2


async def test_a_reader_gets_what_takes_many_batches_and_only_what_it_wants(nats: NatsRig) -> None:
    """More messages, and more bytes, than one direct get brings; of several topics and accounts between others."""
    async with nats.log("a").open(1) as shard:
        for begin in range(1, 700, 100):
            kinds = [
                message(number, topic="order-update" if number % 3 else "error") for number in range(begin, begin + 100)
            ]
            await shard.commit(Commit(kinds, {"demo": b"1"}))
        for number in (701, 702, 703):
            await shard.commit(Commit([message(number, value=b"x" * 600_000)], {"demo": b"1"}))
        others = [message(number, account="other", topic="error") for number in (1, 2)]
        await shard.commit(Commit(others, {"other": b"2"}))
    assert await numbers_of(nats) == [*range(1, 704), 1, 2]
    orders = [number for number in range(1, 704) if number % 3 or number > 700]
    assert await numbers_of(nats, topics=["order-update"]) == orders
    assert await numbers_of(nats, topics=["order-update", "leg-update"]) == orders
    assert await numbers_of(nats, topics=["error"], accounts=["other", "absent"]) == [1, 2]
    assert await numbers_of(nats, topics=["error", "leg-update"], accounts=["other"]) == [1, 2]


async def test_a_watch_reads_all_again_from_a_stream_that_was_made_anew(nats: NatsRig) -> None:
    """Nothing but the stream changes: the connection holds, and the new one goes as far as the old one did."""
    registry, control = JetStreamRegistry(nats.connection, nats.topics), JetStreamControl(nats.connection, nats.topics)
    await registry.prepare(replicas=1, create=True)
    for name in ("one", "two"):
        await control.write(name, b"before", 0)
    async with watching(control) as view:
        await until(lambda: len(view.desired) == 2, "all is seen")
        await nats.connection.link.api(f"STREAM.DELETE.{nats.topics.control}")
        await registry.prepare(replicas=1, create=True)
        for name in ("two", "three"):
            await control.write(name, b"after", 0)
        await until(lambda: view.values() == {"one": b"", "two": b"after", "three": b"after"}, "the new one is seen")


async def test_a_follower_of_a_stream_that_was_made_anew_says_so(nats: NatsRig) -> None:
    """It waited in silence for the place in the old stream, while the new one filled."""
    seen: list[int] = []

    async def follow() -> None:
        async for stored in nats.reader.read(topics=None, accounts=None, start="first", follow=True):
            seen.append(int(stored.message.key))  # noqa: PERF401 - watched while it grows

    async with nats.log("a").open(1) as shard:
        await shard.commit(Commit(messages(1, 9)))
    following = asyncio.create_task(follow())
    await until(lambda: len(seen) == 9, "all is read")
    await nats.connection.link.api(f"STREAM.DELETE.{nats.topics.stream}")
    await prepare(nats.connection, StreamSettings(nats.topics))
    async with nats.log("a").open(1) as shard:
        await shard.commit(Commit(messages(10, 12)))
    await until(following.done, "it does not go on waiting")
    with pytest.raises(Unavailable, match=r"was re-created|stream not found"):
        await following
    assert seen == list(range(1, 10))
