"""No user of docs/operate/kafka.md reaches what is another's: topics, groups and offsets, on a real authorizer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AclBindingFilter,
    AdminClient,
    ResourcePatternType,
)

from gateway.broker.kafka import cluster, topic_rules
from gateway.broker.kafka.connection import connect
from gateway.broker.kafka.log import EventLogSettings, KafkaLog
from gateway.broker.kafka.reader import KafkaReader
from gateway.broker.kafka.topics import Topics
from gateway.broker.ports import Commit
from tests.support import kafka_server
from tests.support.event_log_suite import message
from tests.support.kafka_secured import PASSWORD, READER, TOPICS, Secured, given_to, replace_name, until_it_works


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    kafka_server.require_java()
    made = Secured(tmp_path_factory.mktemp("kafka-secured"))
    with made.server:
        made.allow()
        asyncio.run(until_it_works(made))
        yield made


async def test_a_reader_reads_topics_of_messages_and_none_of_the_gateways_own(secured: Secured) -> None:
    everything = Topics("mesolive")
    assert {acl.name for acl in READER} == {*everything.events, everything.accounts}
    async with connect(secured.options("reader")) as connection:
        demo = KafkaReader(connection, TOPICS).read(topics=None, accounts=["demo"], start="first", follow=False)
        assert [stored.message.account async for stored in demo]
    for private in (everything.control, everything.checkpoints):
        assert refusal(secured, "reader", private) == KafkaError.TOPIC_AUTHORIZATION_FAILED


SERVICE_TOPICS = {"orders": TOPICS.message("order-update"), "positions": TOPICS.message("position-update")}


def consumer_of(secured: Secured, user: str, group: str) -> Consumer:
    """Return a consumer of librdkafka, as a service has one."""
    own = {"group.id": group, "auto.offset.reset": "earliest", "isolation.level": "read_committed"}
    return Consumer(login(secured, user) | own)


def login(secured: Secured, user: str) -> dict[str, str]:
    """Return how a user logs in with librdkafka."""
    return {
        "bootstrap.servers": secured.server.address,
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": user,
        "sasl.password": PASSWORD,
        "ssl.ca.location": str(secured.authority.file),
    }


def refusal(secured: Secured, user: str, topic: str) -> int | None:
    """Return the error that a user gets who asks about a topic; None if it may read it."""
    consumer = consumer_of(secured, user, user)
    try:
        error = consumer.list_topics(topic, timeout=10).topics[topic].error
    finally:
        consumer.close()
    return None if error is None else int(error.code())


def first_error(consumer: Consumer) -> int | None:
    """Return the first error, or None for a record."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        record = consumer.poll(1)
        if record is not None:
            error = record.error()
            return None if error is None else int(error.code())
    raise AssertionError("neither a record nor an error came")


@pytest.fixture(scope="module")
def consumed(secured: Secured) -> Secured:
    """Let there be events of both services, and let each have read its own in its own group."""
    topics = Topics("mesolive", ("order-update", "position-update"))

    async def commit() -> None:
        async with connect(secured.options()) as connection:
            await cluster.prepare(connection, topic_rules.ClusterSettings(topics, partitions=2, shards=2))
            async with KafkaLog(connection, EventLogSettings(topics, "test", commit_timeout=4.0)).open(0) as shard:
                await shard.commit(Commit([message(1, topic=kind) for kind in topics.kinds], {"demo": b"1"}))

    asyncio.run(commit())
    for user, topic in SERVICE_TOPICS.items():
        consumer = consumer_of(secured, user, user)
        consumer.subscribe([topic])
        try:
            assert first_error(consumer) is None
            consumer.commit(asynchronous=False)
        finally:
            consumer.close()
    return secured


@pytest.mark.parametrize(("user", "other"), [("orders", "positions"), ("positions", "orders")])
async def test_a_service_reads_neither_another_s_topic_nor_in_its_group(
    consumed: Secured, user: str, other: str
) -> None:
    for topic in (SERVICE_TOPICS[other], TOPICS.control, TOPICS.checkpoints, TOPICS.accounts):
        assert refusal(consumed, user, topic) == KafkaError.TOPIC_AUTHORIZATION_FAILED
    in_its_group = consumer_of(consumed, user, other)
    try:
        in_its_group.subscribe([SERVICE_TOPICS[user]])
        assert first_error(in_its_group) == KafkaError.GROUP_AUTHORIZATION_FAILED
    finally:
        in_its_group.close()
    admin = AdminClient(login(consumed, user))
    place = TopicPartition(SERVICE_TOPICS[user], 0, 0)
    for tried in (
        admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(other)]),
        admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(other, [place])]),
        admin.describe_consumer_groups([other]),
        admin.delete_consumer_groups([other]),
    ):
        with pytest.raises(KafkaException) as refused:
            tried[other].result(timeout=20)
        assert refused.value.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED


async def test_a_permission_that_reaches_further_is_found(consumed: Secured) -> None:
    """The prefix that the page once gave a reader shows it what operators want."""
    wide = given_to("User:orders", replace_name(READER[0], "mesolive.", ResourcePatternType.PREFIXED))
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{consumed.internal}"})
    (given,) = admin.create_acls([wide]).values()
    given.result()
    try:
        deadline = time.monotonic() + 30
        while refusal(consumed, "orders", TOPICS.control) is not None:
            assert time.monotonic() < deadline, "the broker hears of its permissions a moment after they are given"
    finally:
        (taken,) = admin.delete_acls(
            [
                AclBindingFilter(
                    wide.restype,
                    wide.name,
                    wide.resource_pattern_type,
                    wide.principal,
                    wide.host,
                    wide.operation,
                    wide.permission_type,
                )
            ]
        ).values()
        taken.result()
