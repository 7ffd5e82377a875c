"""A broker as a release with format version 1 left it: this release goes on from there, and can be taken back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats
from confluent_kafka import Consumer, Producer, TopicPartition

from gateway.broker.jetstream.ownership import JetStreamOwnership
from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.kafka.registry import KafkaRegistry
from gateway.broker.ports import Commit
from tests.support.nats_server import NatsServer
from tests.support.rigs import SHARDS, kafka_rig, nats_rig

WRITTEN = json.loads((Path(__file__).parents[1] / "fixtures/records/v1.json").read_text())
CHECKPOINT = WRITTEN["checkpoint"].encode()
SHARD = 3


def like(written: str) -> Callable[[bytes | None], bool]:
    """Return whether a value has the members of `written`, each of the same type."""
    types = {name: type(value) for name, value in json.loads(written).items()}

    def is_like(value: bytes | None) -> bool:
        found: dict[str, Any] = json.loads(value or b"{}")
        return {name: type(member) for name, member in found.items()} == types and found["version"] == 1

    return is_like


async def test_this_release_goes_on_from_version_1_on_jetstream_and_writes_it(nats_server: NatsServer) -> None:
    written = WRITTEN["jetstream"]
    async with nats_rig(nats_server.url) as rig:
        topics, registry = rig.topics, JetStreamRegistry(rig.connection, rig.topics)
        ownership = JetStreamOwnership(rig.connection, topics)
        await registry.prepare(replicas=1, create=True)
        await ownership.prepare(replicas=1, create=True)
        client = await nats.connect(nats_server.url)
        try:
            stream = client.jetstream()
            for subject, value in {
                topics.fence(SHARD): written["fence"],
                topics.checkpoint(SHARD, "main"): WRITTEN["checkpoint"],
                topics.deployment: written["deployment"],
                topics.begun("main"): written["account"],
                topics.owning("member.5f0e"): written["member"],
                topics.owning(f"lease.{SHARD}"): written["member"],
            }.items():
                await stream.publish(subject, value.encode())

            await registry.ensure_layout(SHARDS)
            assert await registry.accounts() == {"main"}
            async with ownership.join("host/8", SHARDS) as membership:
                given = await anext(membership.assignments())
                assert SHARD not in given  # it is the former release's, which may still be at work
                async with rig.log("host/8").open(SHARD) as log:
                    assert await log.checkpoints() == {"main": CHECKPOINT}
                    await log.commit(Commit([], {"other": CHECKPOINT}))
                await registry.register("other")
                for subject, like_this in {
                    topics.fence(SHARD): written["fence"],
                    topics.begun("other"): written["account"],
                    topics.owning("member.*"): written["member"],
                    topics.owning(f"lease.{min(given)}"): written["member"],
                }.items():
                    message = await stream.get_last_msg(await stream.find_stream_name_by_subject(subject), subject)
                    assert like(like_this)(message.data), subject
                stored = await stream.get_last_msg(topics.stream, topics.fence(SHARD))
                assert json.loads(stored.data or b"")["epoch"] == 5
        finally:
            await client.close()


async def test_this_release_goes_on_from_version_1_on_kafka_and_writes_it(kafka_address: str) -> None:
    written = WRITTEN["kafka"]
    async with kafka_rig(kafka_address) as rig:
        topics = rig.topics

        def plant() -> None:
            producer = Producer({"bootstrap.servers": kafka_address})
            for topic, partition, key, value in (
                (topics.checkpoints, SHARD, ".claim", written["claim"]),
                (topics.checkpoints, SHARD, "main", WRITTEN["checkpoint"]),
                (topics.accounts, 0, "deployment", written["deployment"]),
                (topics.accounts, 0, "account/main", written["account"]),
            ):
                producer.produce(topic, value.encode(), key.encode(), partition)
            assert producer.flush(10) == 0

        await asyncio.to_thread(plant)
        registry = KafkaRegistry(rig.connection, topics)
        await registry.ensure_layout(SHARDS)
        assert await registry.accounts() == {"main"}
        async with rig.log("host/8").open(SHARD) as log:
            assert await log.checkpoints() == {"main": CHECKPOINT}
            await log.commit(Commit([], {"other": CHECKPOINT}))
        await registry.register("other")

        def last(topic: str, partition: int, key: bytes) -> bytes | None:
            consumer = Consumer({"bootstrap.servers": kafka_address, "group.id": "x", "enable.partition.eof": True})
            try:
                consumer.assign([TopicPartition(topic, partition, 0)])
                found = None
                while (record := consumer.poll(10)) is not None and record.error() is None:
                    found = record.value() if record.key() == key else found
                return found
            finally:
                consumer.close()

        for topic, partition, key, like_this in (
            (topics.checkpoints, SHARD, b".claim", written["claim"]),
            (topics.checkpoints, SHARD, b"other", WRITTEN["checkpoint"]),
            (topics.accounts, 0, b"account/other", written["account"]),
        ):
            assert like(like_this)(await asyncio.to_thread(last, topic, partition, key)), key
