"""What topics of Kafka lose, and what somebody does to them that is none of a loss."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

from gateway.broker.ports import Commit
from gateway.errors import OutcomeUnknown, Unavailable
from tests.support.event_log_suite import messages, numbers
from tests.support.kafka_topics import admin, made
from tests.support.rigs import PARTITIONS, KafkaRig


async def test_a_topic_recreated_and_refilled_has_lost_nothing(kafka: KafkaRig, kafka_address: str) -> None:
    """The copy has no markers of transactions, so its records stand lower than they stood."""
    log, topic = kafka.log("a"), kafka.topics.message("order-update")
    async with kafka.log("its predecessor").open(1) as shard:
        await shard.checkpoints()
        for number in range(1, 15):
            await shard.commit(Commit(messages(number, number), {"demo": b"%d" % number}))
    async with log.open(1) as shard:
        await shard.checkpoints()
        for number in range(15, 21):
            await shard.commit(Commit(messages(number, number), {"demo": b"%d" % number}))
        copies = await asyncio.to_thread(records, kafka_address, topic, 20)
        await replaced(kafka_address, topic, copies)
        try:
            await shard.commit(Commit(messages(21, 21), {"demo": b"21"}))
        except (OutcomeUnknown, Unavailable):
            pass
        else:
            raise AssertionError("it went on beyond a topic that was made anew")
    for _ in range(2):
        with structlog.testing.capture_logs() as logs:
            async with log.open(1) as again:
                assert await again.checkpoints() == {"demo": b"20"}
                assert again.lost == {}
        assert [entry for entry in logs if entry.get("keys")] == []
    async with log.open(1) as again:
        await again.checkpoints()
        await again.commit(Commit(messages(21, 22), {"demo": b"22"}))
    assert await numbers(kafka.reader) == list(range(1, 23))


def records(address: str, topic: str, count: int) -> list[Message]:
    """Return so many records of a topic that a consumer reads, in their order in each partition."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": topic, "isolation.level": "read_committed"})
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)])
    found: list[Message] = []
    while len(found) < count:
        record = consumer.poll(10)
        assert record is not None, f"{topic} has {len(found)} records"
        assert record.error() is None
        found.append(record)
    consumer.close()
    return found


async def replaced(address: str, topic: str, copies: Sequence[Message]) -> None:
    """Delete a topic, make it again, and store copies of records there."""
    client = admin(address)
    await asyncio.to_thread(client.delete_topics([topic])[topic].result)

    while topic in (await asyncio.to_thread(client.list_topics, timeout=10)).topics:
        await asyncio.sleep(0.05)
    await made(address, topic, PARTITIONS)
    producer = Producer({"bootstrap.servers": address})
    for record in copies:
        producer.produce(topic, record.value(), record.key(), record.partition(), headers=record.headers())
    await asyncio.to_thread(producer.flush)
