"""Messages of others where a gateway writes: whoever may publish there can err, and no gateway ends of it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from gateway.broker.jetstream.ownership import JetStreamOwnership
from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.kafka.control import KafkaControl
from gateway.broker.kafka.registry import KafkaRegistry
from gateway.broker.kafka.topics import CLAIM
from gateway.broker.leases import LeaseTiming
from gateway.broker.ports import Commit
from gateway.errors import ConfigurationError, Fenced
from tests.support.event_log_suite import messages, numbers
from tests.support.rigs import SHARDS, KafkaRig, NatsRig

STRAYS = [b"", b"hello", b"\xff\x00", b"[]", b"7", b"null", b'{"owner": "x"}', b'{"epoch": "one"}', b"[" * 20_000]


@pytest.mark.parametrize("stray", STRAYS)
async def test_a_stray_message_on_a_fence_is_a_rivals_claim_the_shard_reopens(nats: NatsRig, stray: bytes) -> None:
    log = nats.log("a")
    async with log.open(1) as shard:
        await shard.commit(Commit(messages(1, 2), {"demo": b"2"}))
        await nats.connection.link.ask(nats.topics.fence(1), stray, {})
        with pytest.raises(Fenced, match="claimed by somebody whose message is no claim"):
            await shard.commit(Commit(messages(3, 4), {"demo": b"4"}))
    async with log.open(1) as again:
        assert await again.checkpoints() == {"demo": b"2"}
        await again.commit(Commit(messages(3, 3), {"demo": b"3"}))

    assert await numbers(nats.reader) == [1, 2, 3]


@pytest.mark.parametrize("stray", STRAYS)
async def test_a_stray_message_on_a_fence_nobody_has_claimed_keeps_nobody_out(nats: NatsRig, stray: bytes) -> None:
    await nats.connection.link.ask(nats.topics.fence(1), stray, {})

    async with nats.log("a").open(1) as shard:
        await shard.commit(Commit(messages(1, 1), {}))

    assert await numbers(nats.reader) == [1]


@pytest.mark.parametrize("stray", [b"hello", b'{"token": 7}'])
async def test_a_stray_lease_is_anothers_until_it_ends(nats: NatsRig, stray: bytes) -> None:
    ownership = JetStreamOwnership(nats.connection, nats.topics, LeaseTiming(lease=1.0, renewal=0.3, look=0.1))
    await ownership.prepare(replicas=1, create=True)
    await nats.connection.link.ask(nats.topics.owning("lease.0"), stray, {})
    await nats.connection.link.ask(nats.topics.owning("member.stray"), stray, {})

    async with (
        asyncio.timeout(10),
        ownership.join("a", 2) as membership,
        aclosing(membership.assignments()) as changes,  # type: ignore[type-var]
    ):
        async for shards in changes:
            if shards == {0, 1}:
                break


@pytest.mark.parametrize("stray", [b"", b"hello", b"{}", b'{"version": 1}'])
async def test_a_stray_message_for_the_number_of_shards_is_named(nats: NatsRig, stray: bytes) -> None:
    registry = JetStreamRegistry(nats.connection, nats.topics)
    await registry.prepare(replicas=1, create=True)
    await registry.ensure_layout(SHARDS)
    await nats.connection.link.ask(nats.topics.deployment, stray, {})

    with pytest.raises(ConfigurationError, match="is no record of a gateway"):
        await registry.ensure_layout(SHARDS)


@pytest.mark.parametrize("stray", [b"hello", b"{}", b'{"version": 1}'])
async def test_on_kafka_likewise_where_nothing_else_is_left(kafka: KafkaRig, stray: bytes) -> None:
    registry = KafkaRegistry(kafka.connection, kafka.topics)
    await kafka.connection.write(registry._tp, {b"deployment": stray})

    with pytest.raises(ConfigurationError, match="the last record with the key deployment is not a gateway's"):
        await registry.ensure_layout(SHARDS)


@pytest.mark.parametrize("stray", [b"hello", b"{}", b'{"version": 1}'])
async def test_on_kafka_a_gateway_that_runs_goes_on_beside_stray_accounts(kafka: KafkaRig, stray: bytes) -> None:
    registry = KafkaRegistry(kafka.connection, kafka.topics)
    await registry.ensure_layout(SHARDS)
    await registry.register("main")
    await kafka.connection.write(registry._tp, {b"deployment": stray, b"account/\xff": b"?", b"\xff": b"?"})

    assert await registry.accounts() == {"main"}
    await registry.ensure_layout(SHARDS)


@pytest.mark.parametrize("stray", STRAYS)
async def test_on_kafka_strays_among_checkpoints_are_skipped_or_a_rivals_claim(kafka: KafkaRig, stray: bytes) -> None:
    log = kafka.log("a")
    async with log.open(1) as shard:
        await shard.commit(Commit(messages(1, 2), {"demo": b"2"}))
        own = shard._own  # type: ignore[attr-defined]
        await kafka.connection.write(own, {b"\xff\xfe": stray})
        assert await shard.checkpoints() == {"demo": b"2"}
        await kafka.connection.write(own, {CLAIM: stray})
        with pytest.raises(Fenced):
            await shard.checkpoints()
    async with log.open(1) as again:
        assert (await again.checkpoints())["demo"] == b"2"
        await again.commit(Commit(messages(3, 3), {"demo": b"3"}))

    assert await numbers(kafka.reader) == [1, 2, 3]


async def test_on_kafka_a_stray_control_record_ends_no_watch(kafka: KafkaRig) -> None:
    store = KafkaControl(kafka.connection, kafka.topics)
    await kafka.connection.write(store._desired, {b"\xff\xfe": b"?", b"account.main": b"not json"})

    async with asyncio.timeout(20), aclosing(store.watch()) as records:  # type: ignore[type-var]
        seen = []
        async for record in records:
            if record is None:
                break
            seen.append(record.value)
    assert b"not json" in seen
