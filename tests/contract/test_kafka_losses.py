"""What topics of Kafka lose, and what somebody does to them that is none of a loss."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import confluent_kafka
import pytest
import structlog
from aiokafka.structs import TopicPartition
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from gateway.broker.kafka import cluster
from gateway.broker.kafka.topics import partition_of
from gateway.broker.ports import Commit, Lost
from gateway.errors import OutcomeUnknown, Unavailable
from tests.support import kafka_server
from tests.support.event_log_suite import messages, numbers
from tests.support.kafka_proxy import Api, Wire
from tests.support.kafka_server import KafkaServer
from tests.support.kafka_topics import admin, made
from tests.support.putting_back import keep_only, put_back_only
from tests.support.rigs import PARTITIONS, KafkaRig, kafka_rig
from tests.support.sockets import free_port

EVENTS: Final = "*.order-update.v1-*"
"""The folders of a topic's partitions."""


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


async def test_a_topic_refilled_after_a_shard_was_opened_lost_what_is_not_there(
    kafka: KafkaRig, kafka_address: str
) -> None:
    """It was empty when the loss was found, and no checkpoint knows of that yet."""
    log, topic = kafka.log("a"), kafka.topics.message("order-update")
    async with log.open(1) as shard:
        await shard.checkpoints()
        await shard.commit(Commit(messages(1, 5), {"demo": b"5"}))
    copies = await asyncio.to_thread(records, kafka_address, topic, 5)
    await replaced(kafka_address, topic, [])
    async with log.open(1) as shard:
        await shard.checkpoints()
        assert shard.lost == {"demo": {Lost(1, number) for number in range(1, 6)}}
    await refilled(kafka_address, topic, copies[:4])
    async with log.open(1) as again:
        await again.checkpoints()
        assert again.lost == {"demo": {Lost(1, 5)}}
        await again.commit(Commit(messages(5, 6), {"demo": b"6"}))
    assert await numbers(kafka.reader) == list(range(1, 7))


async def test_events_of_a_transaction_that_lost_its_marker_come_again_once(
    folder: Path,
) -> None:
    """Its records are there, the marker behind them is not, and the coordinator holds the transaction for ended."""
    kafka_server.require_java()
    wire_port = free_port()
    config = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{wire_port}"}
    with KafkaServer(folder / "server", config=config) as server:
        async with Wire(wire_port, server.port) as wire, kafka_rig(f"127.0.0.1:{wire_port}") as rig:
            log = rig.log("a")
            async with log.open(1) as shard:
                await shard.checkpoints()
                await shard.commit(Commit(messages(1, 5), {"demo": b"5"}))
                snag = wire.snag(Api.END_TXN, "request")
                committing = asyncio.create_task(shard.commit(Commit(messages(6, 10), {"demo": b"10"})))
                await snag.caught.wait()
                await asyncio.to_thread(keep_only, server, f"**/{EVENTS}")
                snag.let_go()
                await committing
                assert await numbers(rig.reader) == list(range(1, 11))
                await asyncio.to_thread(put_back_only, server, f"**/{EVENTS}")
                await until_it_answers(rig)
                with pytest.raises(OutcomeUnknown, match="went back"):
                    await shard.check()
            async with log.open(1) as again:
                assert await again.checkpoints() == {"demo": b"10"}
                assert again.lost == {"demo": {Lost(1, number) for number in range(6, 11)}}
                await again.commit(Commit(messages(6, 12), {"demo": b"12"}))
            assert await numbers(rig.reader) == list(range(1, 13))


@pytest.mark.timeout(240)
async def test_what_an_unclean_leader_lost_is_published_again_once(folder: Path) -> None:
    """Two of three brokers have the topic; the one that missed its last events leads after the other's end."""
    kafka_server.require_java()
    with kafka_server.cluster(folder, controllers=1) as servers:
        _, ahead, behind = servers
        client = admin(servers[0].address)
        async with kafka_rig(*(one.address for one in servers), replicas=3) as rig:
            log, name = rig.log("a"), rig.topics.message("order-update")
            place = TopicPartition(name, partition_of("demo", PARTITIONS))
            await deleted(client, name)  # the gateway would not begin with such a topic
            config = {"unclean.leader.election.enable": "true", "min.insync.replicas": "1"}
            assigned = [[ahead.number, behind.number]] * PARTITIONS
            wanted = NewTopic(name, PARTITIONS, replica_assignment=assigned, config=config)
            await asyncio.to_thread(client.create_topics([wanted])[name].result)

            async def is_led_by(server: KafkaServer, *in_sync: KafkaServer) -> None:
                async with asyncio.timeout(60):
                    while True:
                        with suppress(confluent_kafka.KafkaException):  # nobody of them answers yet
                            found = await asyncio.to_thread(client.list_topics, timeout=10)
                            part = found.topics[name].partitions[place.partition]
                            if part.leader == server.number and set(part.isrs) == {one.number for one in in_sync}:
                                return
                        await asyncio.sleep(0.1)

            async def stored(*numbers_: int, checkpoint: bytes) -> Mapping[str, Collection[Lost]]:
                async with asyncio.timeout(60):
                    while True:
                        with suppress(Unavailable, OutcomeUnknown):
                            async with log.open(1) as shard:
                                await shard.checkpoints()
                                lost = {account: set(events) for account, events in shard.lost.items()}
                                await shard.commit(Commit(messages(*numbers_), {"demo": checkpoint}))
                                while True:  # until all in sync have the marker of the transaction as well
                                    with suppress(Unavailable):
                                        await shard.check()
                                        return lost

            assert await stored(1, 5, checkpoint=b"5") == {}
            behind.kill()
            await is_led_by(ahead, ahead)
            assert await stored(6, 10, checkpoint=b"10") == {}
            ahead.kill()
            await asyncio.to_thread(behind.start)
            await is_led_by(behind, behind)
            lost = await stored(6, 12, checkpoint=b"12")
            assert lost == {"demo": {Lost(1, number) for number in range(6, 11)}}
            await asyncio.to_thread(ahead.start)
            await is_led_by(behind, ahead, behind)
            assert await numbers(rig.reader) == list(range(1, 13))


async def until_it_answers(rig: KafkaRig) -> None:
    """Wait until the gateway's connection is there again."""
    async with asyncio.timeout(30):
        while True:
            with suppress(Unavailable):
                await cluster.places(rig.connection, [TopicPartition(rig.topics.checkpoints, 1)])
                return
            await asyncio.sleep(0.05)


def records(address: str, topic: str, count: int) -> list[Message]:
    """Return so many records of a topic that a consumer reads, in their order in each partition."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": topic, "isolation.level": "read_committed"})
    every = range(PARTITIONS)
    consumer.assign([confluent_kafka.TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in every])
    found: list[Message] = []
    while len(found) < count:
        record = consumer.poll(10)
        assert record is not None, f"{topic} has {len(found)} records"
        assert record.error() is None
        found.append(record)
    consumer.close()
    return found


async def deleted(client: AdminClient, topic: str) -> None:
    """Delete a topic, and see it gone."""
    await asyncio.to_thread(client.delete_topics([topic])[topic].result)
    while topic in (await asyncio.to_thread(client.list_topics, timeout=10)).topics:
        await asyncio.sleep(0.05)


async def replaced(address: str, topic: str, copies: Sequence[Message]) -> None:
    """Delete a topic, make it again, and store copies of records there."""
    await deleted(admin(address), topic)
    await made(address, topic, PARTITIONS)
    await refilled(address, topic, copies)


async def refilled(address: str, topic: str, copies: Sequence[Message]) -> None:
    """Store copies of records in a topic."""
    producer = Producer({"bootstrap.servers": address})
    for record in copies:
        producer.produce(topic, record.value(), record.key(), record.partition(), headers=record.headers())
    await asyncio.to_thread(producer.flush)
