"""The topics on Kafka: how they are made, what about existing ones is refused, and where an account's events go."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka.structs import TopicPartition
from confluent_kafka import Message as Delivered
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from gateway.broker.kafka import cluster
from gateway.broker.kafka.cluster import MissingTopics
from gateway.broker.kafka.connection import ConnectionOptions, connect
from gateway.broker.kafka.fetch import read_all
from gateway.broker.kafka.log import EventLogSettings, KafkaLog
from gateway.broker.kafka.ownership import KafkaOwnership
from gateway.broker.kafka.reader import KafkaReader
from gateway.broker.kafka.registry import KafkaRegistry
from gateway.broker.kafka.topic_rules import ClusterSettings
from gateway.broker.kafka.topics import Topics, headers_of, message_of, partition_of
from gateway.broker.ports import Commit
from gateway.errors import ConfigurationError, OutcomeUnknown, Unavailable
from gateway.publication import Message
from tests.support import kafka_server
from tests.support.event_log_suite import AWKWARD, message, numbers
from tests.support.kafka_server import KafkaServer
from tests.support.kafka_topics import admin, made
from tests.support.rigs import KafkaRig, kafka_rig
from tests.support.sockets import free_port

log = logging.getLogger(__name__)

BESIDE_OTHER_LOADS = 20.0
"""Seconds."""


@pytest.fixture
def wanted() -> ClusterSettings:
    return ClusterSettings(Topics(f"t{uuid4().hex[:12]}", ("order-update", "error")), partitions=3, shards=5)


async def prepared(address: str, settings: ClusterSettings) -> None:
    async with connect(ConnectionOptions([address])) as connection:
        await cluster.prepare(connection, settings)


async def test_topics_are_made_as_they_must_be_and_then_left_alone(kafka_address: str, wanted: ClusterSettings) -> None:
    settings = replace(wanted, retention=3600.0)
    await prepared(kafka_address, settings)
    await prepared(kafka_address, settings)
    topics = settings.topics
    client = admin(kafka_address)
    found = (await asyncio.to_thread(client.list_topics, timeout=10)).topics
    counts = {name: len(topic.partitions) for name, topic in found.items() if name.startswith(topics.prefix)}
    assert counts == {f"{topics.prefix}.order-update.v1": 3, f"{topics.prefix}.error.v1": 3} | {
        f"{topics.prefix}.gateway.checkpoints": 5,
        f"{topics.prefix}.gateway.accounts": 1,
        f"{topics.prefix}.gateway.control": 2,
        f"{topics.prefix}.gateway.audit": 1,
    }
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in (topics.message("error"), topics.checkpoints)]
    events, checkpoints = [
        {name: entry.value for name, entry in (await asyncio.to_thread(done.result)).items()}
        for done in client.describe_configs(resources).values()
    ]
    assert (events["cleanup.policy"], events["retention.ms"], events["min.insync.replicas"]) == (
        "delete",
        "3600000",
        "1",
    )
    assert checkpoints["cleanup.policy"] == "compact"


@pytest.mark.parametrize(
    ("topic", "config", "expected"),
    [
        ("error", {"cleanup_policy": "compact"}, "cleanup.policy is compact: equal keys of two accounts would erase"),
        ("error", {"cleanup_policy": "compact,delete"}, "cleanup.policy is compact,delete: equal keys"),
        ("error", {"retention_ms": "1000"}, "retention.ms is 1000, events would leave before topics.retention"),
        ("error", {"retention_bytes": "1000"}, "retention.bytes is 1000: events would leave however young they are"),
        ("error", {"max_message_bytes": "8000"}, "max.message.bytes is 8000: usual events need 8192"),
        ("error", {"min_insync_replicas": "2"}, "min.insync.replicas is 2 of 1 replicas: nothing could be written"),
    ],
)
async def test_a_topic_that_would_break_a_promise_is_refused_in_words(
    kafka_address: str, wanted: ClusterSettings, topic: str, config: dict[str, str], expected: str
) -> None:
    await made(kafka_address, wanted.topics.message(topic), **config)
    with pytest.raises(ConfigurationError) as refused:
        await prepared(kafka_address, replace(wanted, retention=3600.0))
    assert f"{wanted.topics.message(topic)}: {expected}" in str(refused.value)


async def test_a_bound_by_size_is_taken_where_it_is_set(kafka_address: str, wanted: ClusterSettings) -> None:
    await made(kafka_address, wanted.topics.message("error"), retention_bytes="1000")
    await prepared(kafka_address, replace(wanted, retention=3600.0, retention_bytes=1000))
    with pytest.raises(ConfigurationError, match=r"to 2000, or topics\.retention_bytes to 1000 if that is meant"):
        await prepared(kafka_address, replace(wanted, retention=3600.0, retention_bytes=2000))


async def test_topics_are_compared_while_the_gateway_works_and_none_is_made(
    kafka_address: str, wanted: ClusterSettings
) -> None:
    await prepared(kafka_address, wanted)
    name = wanted.topics.message("error")
    client = admin(kafka_address)
    async with connect(ConnectionOptions([kafka_address])) as connection:
        await cluster.compare(connection, wanted)
        entry = ConfigEntry("retention.bytes", "1000", incremental_operation=AlterConfigOpType.SET)
        change = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
        for done in client.incremental_alter_configs([change]).values():
            await asyncio.to_thread(done.result)
        while (await cluster._configs(connection, [name]))[name]["retention.bytes"] != "1000":
            await asyncio.sleep(0.01)  # a broker hears of it a moment later
        with pytest.raises(ConfigurationError, match=f"{name}: retention.bytes is 1000"):
            await cluster.compare(connection, wanted)
        await asyncio.to_thread(client.delete_topics([name])[name].result)
        while await cluster.partitions(connection, [name]):
            await asyncio.sleep(0.01)
        with pytest.raises(MissingTopics, match=name):
            await cluster.compare(connection, wanted)


async def test_brokers_that_bound_all_topics_by_size_bound_none_of_ours(tmp_path: Path) -> None:
    kafka_server.require_java()
    wanted = ClusterSettings(Topics("t", ("order-update", "error")), partitions=3, shards=5)
    with KafkaServer(tmp_path / "kafka", config={"log.retention.bytes": "1000"}) as server:
        await prepared(server.address, wanted)


async def test_a_compacted_topic_of_events_is_taken_where_keys_have_the_account(
    kafka_address: str, wanted: ClusterSettings
) -> None:
    await made(kafka_address, wanted.topics.message("error"), cleanup_policy="compact")
    await prepared(kafka_address, replace(wanted, retention=3600.0, account_in_key=True))


async def test_checkpoints_that_would_expire_are_refused(kafka_address: str, wanted: ClusterSettings) -> None:
    await made(kafka_address, wanted.topics.checkpoints, 5, cleanup_policy="delete", max_message_bytes="50000")
    with pytest.raises(ConfigurationError, match="checkpoints would expire") as refused:
        await prepared(kafka_address, wanted)
    assert "max.message.bytes is 50000: a checkpoint needs 148480" in str(refused.value)


async def test_a_control_topic_whose_ages_nobody_could_tell_is_refused(
    kafka_address: str, wanted: ClusterSettings
) -> None:
    await made(kafka_address, wanted.topics.control, 1, cleanup_policy="compact")
    with pytest.raises(ConfigurationError, match=r"message.timestamp.type is CreateTime: ages would") as refused:
        await prepared(kafka_address, wanted)
    assert "gateway.control: it has 1 partitions, not 2" in str(refused.value)


async def test_other_numbers_of_partitions_and_shards_are_refused(kafka_address: str, wanted: ClusterSettings) -> None:
    await prepared(kafka_address, wanted)
    with pytest.raises(ConfigurationError, match=r"it has 3 partitions, and topics.partitions is 4"):
        await prepared(kafka_address, replace(wanted, partitions=4))
    with pytest.raises(ConfigurationError, match=r"gateway.checkpoints: it has 5 partitions, and shards is 6"):
        await prepared(kafka_address, replace(wanted, shards=6))


async def grown(address: str, **partitions: int) -> None:
    """Add topics more partitions, as somebody may who thinks of throughput."""
    news = [NewPartitions(name, count) for name, count in partitions.items()]
    client = admin(address)
    for done in client.create_partitions(news).values():
        await asyncio.to_thread(done.result)
    while True:  # the broker itself hears of it after the controller has answered
        topics = (await asyncio.to_thread(client.list_topics, timeout=10)).topics
        if all(len(topics[name].partitions) == count for name, count in partitions.items()):
            return
        await asyncio.sleep(0.05)


async def test_a_topic_with_too_few_partitions_is_refused_with_what_can_be_done(
    kafka_address: str, wanted: ClusterSettings
) -> None:
    await prepared(kafka_address, wanted)
    with pytest.raises(ConfigurationError) as refused:
        await prepared(kafka_address, replace(wanted, partitions=4))
    name = wanted.topics.message("error")
    assert f"add partitions with `kafka-topics --alter --topic {name} --partitions 4`" in str(refused.value)
    assert "set it to what it was when the deployment first started" in str(refused.value)
    await grown(kafka_address, **dict.fromkeys(wanted.topics.events, 4))
    await prepared(kafka_address, replace(wanted, partitions=4))


async def test_partitions_that_were_added_are_left_empty_and_the_gateway_goes_on(
    kafka_address: str, wanted: ClusterSettings
) -> None:
    """Kafka takes no partition away, so there must be a way on; an account stays where its older events are."""
    topics, accounts = wanted.topics, ["a", "b", "c", "acme"]
    async with connect(ConnectionOptions([kafka_address])) as connection:
        assert await cluster.prepare(connection, wanted) == []
        registry = KafkaRegistry(connection, topics, 3)
        await registry.ensure_layout(5)
        log = KafkaLog(connection, EventLogSettings(topics, "a", partitions=3))
        async with log.open(4) as shard:
            await shard.commit(Commit([message(1, account=one, topic="error") for one in accounts], {"a": b"1"}))
            own = {topics.checkpoints: 7, topics.accounts: 2, topics.control: 3}
            await grown(kafka_address, **{topics.message("error"): 8}, **own)
            await shard.commit(Commit([message(2, account=one, topic="error") for one in accounts], {"a": b"2"}))

        surplus = await cluster.prepare(connection, wanted)
        assert surplus == [
            f"{name} has {count} partitions, and the gateway goes on with the first {used}"
            for name, count, used in (
                (topics.message("error"), 8, 3),
                (topics.checkpoints, 7, 5),
                (topics.accounts, 2, 1),
                (topics.control, 3, 2),
            )
        ]
        await KafkaRegistry(connection, topics, 3).ensure_layout(5)
        async with KafkaLog(connection, EventLogSettings(topics, "b", partitions=3)).open(4) as shard:
            assert await shard.checkpoints() == {"a": b"2"}
            await shard.commit(Commit([message(3, account=one, topic="error") for one in accounts], {"a": b"3"}))
        reader = KafkaReader(connection, topics)
        for account in accounts:
            reading = reader.read(topics=None, accounts=[account], start="first", follow=False)
            found = [one async for one in reading]
            assert [one.message.key for one in found] == [b"1", b"2", b"3"]
            assert {one.position.split(":")[0] for one in found} == {f"error/{partition_of(account, 3)}"}
        ownership = KafkaOwnership(connection, topics)
        async with ownership.join("test", 5) as membership, aclosing(membership.assignments()) as changes:  # type: ignore[type-var]
            assert await anext(changes) == {0, 1, 2, 3, 4}


async def test_partitions_that_grew_along_with_the_setting_are_refused_too(
    kafka_address: str, wanted: ClusterSettings
) -> None:
    async with connect(ConnectionOptions([kafka_address])) as connection:
        await cluster.prepare(connection, wanted)
        await KafkaRegistry(connection, wanted.topics).ensure_layout(5)
        client = admin(kafka_address)
        grown = client.create_partitions([NewPartitions(name, 4) for name in wanted.topics.events])
        for done in grown.values():
            await asyncio.to_thread(done.result)
        await cluster.prepare(connection, replace(wanted, partitions=4))
        with pytest.raises(ConfigurationError, match=r"topics.partitions: 4 is not .* started with: 3"):
            await KafkaRegistry(connection, wanted.topics).ensure_layout(5)


async def test_missing_topics_that_are_not_to_be_made_are_named(kafka_address: str, wanted: ClusterSettings) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"there is no {wanted.topics.message('order-update')}, .*checkpoints"
    ):
        await prepared(kafka_address, replace(wanted, create=False))


async def test_too_few_brokers_are_waited_for(kafka_address: str, wanted: ClusterSettings) -> None:
    with pytest.raises(Unavailable, match=r"cannot be made: .*replicat"):
        await prepared(kafka_address, replace(wanted, replicas=5))


@pytest.mark.parametrize("server", ["", "nats://127.0.0.1:4222", "localhost", "localhost:0", "localhost:x"])
async def test_what_is_no_address_is_refused(server: str) -> None:
    with pytest.raises(ConfigurationError, match=r"broker\.servers: .* Give host:port, without a scheme"):
        async with connect(ConnectionOptions([server])):
            pass


async def test_an_address_where_nobody_listens_is_named() -> None:
    nothing = f"127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match=rf"cannot connect to Kafka: {nothing}: .*onnect"):
        async with connect(ConnectionOptions([nothing])):
            pass


async def test_an_account_has_the_partition_that_other_clients_give_its_name(kafka_address: str) -> None:
    """librdkafka's murmur2_random is that of the Java client."""
    topic, partitions = f"t{uuid4().hex[:12]}", 7
    await made(kafka_address, topic, partitions)
    names = [f"account-{number}" for number in range(990)] + [
        "A",
        "b_-",
        "x" * 63,
        "0",
        "main",
        "ab",
        "abc",
        "abcd",
        "é",
        "z9",
    ]
    theirs: dict[str, int] = {}

    def delivered(error: object, record: Delivered) -> None:
        assert error is None
        theirs[record.key().decode()] = record.partition()

    producer = Producer({"bootstrap.servers": kafka_address, "partitioner": "murmur2_random"})
    for name in names:
        producer.produce(topic, b"", key=name.encode(), on_delivery=delivered)
    assert await asyncio.to_thread(producer.flush, 30) == 0
    assert theirs == {name: partition_of(name, partitions) for name in names}
    assert set(theirs.values()) == set(range(partitions))


async def test_records_are_cloudevents_with_the_key_and_the_accounts_partition(
    kafka: KafkaRig, kafka_address: str
) -> None:
    given = message(7, account="acme")
    async with kafka.log("a").open(0) as shard:
        await shard.commit(Commit([given]))
    record = await asyncio.to_thread(_first_record, kafka_address, kafka.topics.message("order-update"))
    assert (record.key(), record.value()) == (b"7", given.value)
    assert record.partition() == partition_of("acme", 3)
    assert dict(record.headers() or []) == {
        "ce_specversion": b"1.0",
        "ce_id": b"acme/7",
        "ce_source": b"/mesolive/acme",
        "ce_type": b"mesolive.order-update.v1",
        "content-type": b"application/json",
        "ce_sequence": b"00000000000000000007",
        "ce_account": b"acme",
    }


def _first_record(address: str, topic: str) -> Delivered:
    from confluent_kafka import Consumer  # noqa: PLC0415 - its own reader

    settings = {"bootstrap.servers": address, "group.id": uuid4().hex, "auto.offset.reset": "earliest"}
    consumer = Consumer(settings | {"isolation.level": "read_committed"})
    consumer.subscribe([topic])
    try:
        while True:
            record = consumer.poll(30)
            assert record is not None, "nothing came"
            if record.error() is None:
                return record
    finally:
        consumer.close()


async def test_a_hundred_thousand_checkpoints_are_read_in_seconds(kafka: KafkaRig) -> None:
    """What a takeover waits for; twice as many records lie there, since half of them are superseded.

    It takes 0.3 to 0.5 s where nothing else runs: the figure is logged. One by one they would take minutes.
    """
    names = [f"account-{number}" for number in range(100_000)]
    for state in (b"old" * 60, b"new" * 60):
        async with kafka.log("a").open(1) as shard:
            step = shard.limits.messages
            for start in range(0, len(names), step):
                await shard.commit(Commit([], dict.fromkeys(names[start : start + step], state)))
    began = time.monotonic()
    async with kafka.log("b").open(1) as shard:
        found = await shard.checkpoints()
    took = time.monotonic() - began
    log.info("100,000 checkpoints were read after %.2f s", took)
    assert took < BESIDE_OTHER_LOADS
    assert found == dict.fromkeys(names, b"new" * 60)


async def test_superseded_checkpoints_leave_before_a_takeover_has_much_to_read(tmp_path: Path) -> None:
    kafka_server.require_java()
    with KafkaServer(tmp_path / "kafka", config={"log.cleaner.backoff.ms": "100"}) as server:
        async with kafka_rig(server.address, shards=1) as rig, rig.log("a").open(0) as shard:
            for number in range(200):
                await shard.commit(Commit([], {"main": f"{number:030000}".encode()}))
            tp = TopicPartition(rig.topics.checkpoints, 0)
            end = (await cluster.places(rig.connection, [tp]))[tp] or 0
            async with asyncio.timeout(60):
                while len(left := [one async for one in read_all(rig.connection, {tp: 0}, {tp: end})]) > 200 // 3:
                    await asyncio.sleep(0.1)
            assert left[-1].value == f"{199:030000}".encode()


def test_a_value_cannot_bring_headers_of_its_own() -> None:
    given = Message("x", "demo", AWKWARD.encode(), b"", {"id": AWKWARD})
    headers = headers_of(given)
    assert [name for name, _ in headers] == ["ce_id", "gateway-account"]
    assert message_of("x", AWKWARD.encode(), b"", headers) == given


def test_an_attribute_must_have_a_name_that_cloudevents_allows() -> None:
    with pytest.raises(ValueError, match="traceParent"):
        headers_of(Message("x", "demo", b"", b"", {"traceParent": "x"}))


@pytest.mark.parametrize("prefix", ["", "a.b", "*", "a b", "ä"])
def test_a_prefix_must_suit_topics(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Topics(prefix)


def test_what_is_not_ours_is_passed_over() -> None:
    assert message_of("x", b"k", b"v", []) is None
    assert message_of("x", b"k", None, [("ce_account", b"a")]) is None


async def test_too_few_in_sync_replicas_are_waited_for_and_then_it_goes_on(kafka_cluster: list[KafkaServer]) -> None:
    async with kafka_rig(*(one.address for one in kafka_cluster), replicas=3, timeout=4.0) as rig:
        log = rig.log("a")
        async with log.open(1) as shard:
            await shard.commit(Commit([message(1)], {"demo": b"1"}))
            with kafka_cluster[1].frozen(), kafka_cluster[2].frozen(), pytest.raises((Unavailable, OutcomeUnknown)):
                await shard.commit(Commit([message(2)], {"demo": b"2"}))
        settled = 0
        async with asyncio.timeout(60):
            while not settled:
                with suppress(Unavailable, OutcomeUnknown):
                    async with log.open(1) as shard:
                        stored = int((await shard.checkpoints())["demo"])
                        await shard.commit(Commit([message(stored + 1)], {"demo": b"%d" % (stored + 1)}))
                        settled = stored + 1
        assert await numbers(rig.reader) == list(range(1, settled + 1))
