"""The contract of the audit trail, on every broker: records are only added, and none is lost or out of order."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from uuid import uuid4

import pytest
from aiokafka.structs import TopicPartition

from gateway.broker.jetstream import records
from gateway.broker.jetstream.audit import JetStreamAudit
from gateway.broker.jetstream.link import JetStreamApiError
from gateway.broker.kafka import cluster, fetch, topic_rules
from gateway.broker.kafka.audit import KafkaAudit
from gateway.broker.memory.audit import MemoryAudit
from gateway.broker.ports import AuditTrail
from gateway.errors import ConfigurationError, OutcomeUnknown, Unavailable
from tests.support.kafka_server import KafkaServer
from tests.support.kafka_topics import made
from tests.support.nats_server import NatsServer
from tests.support.rigs import KINDS, PARTITIONS, SHARDS, KafkaRig, NatsRig, kafka_rig, nats_rig, when_whole

DAY = 24 * 3600.0


@dataclass
class Trail:
    """An audit trail, and a way to read it."""

    append: Callable[[str, str, bytes], Awaitable[None]]
    stored: Callable[[], Awaitable[list[bytes]]]


async def _of_nats(rig: NatsRig, replicas: int) -> Trail:
    trail = JetStreamAudit(rig.connection, rig.topics)
    await when_whole(rig.connection, lambda: trail.prepare(replicas=replicas, create=True, retention=DAY))

    async def append(id_: str, account: str, record: bytes) -> None:
        while True:  # until the server that we are connected to knows of the stream
            try:
                return await trail.append(id_, account, record)
            except Unavailable:
                assert replicas > 1
                await asyncio.sleep(0.05)

    async def stored() -> list[bytes]:
        link, stream = rig.connection.link, rig.topics.audit_stream
        last = await records.last(link, stream, rig.topics.audit)
        found = []
        for sequence in range(1, (0 if last is None else last.sequence) + 1):
            message = await records._get(link, stream, {"seq": sequence})
            assert message is not None
            found.append(message.value)
        return found

    return Trail(append, stored)


def _of_kafka(rig: KafkaRig) -> Trail:
    trail: AuditTrail = KafkaAudit(rig.connection, rig.topics)

    async def stored() -> list[bytes]:
        tp = TopicPartition(rig.topics.audit, 0)
        end = {tp: (await cluster.places(rig.connection, [tp]))[tp] or 0}
        async with aclosing(fetch.read_all(rig.connection, {tp: 0}, end)) as found:  # type: ignore[type-var]
            return [record.value async for record in found]

    return Trail(trail.append, stored)


@pytest.fixture(params=["memory", "jetstream", "jetstream-3", "kafka", "kafka-3"])
async def trail(request: pytest.FixtureRequest) -> AsyncIterator[Trail]:
    """Yield each broker in turn."""
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            memory = MemoryAudit()

            async def stored() -> list[bytes]:
                return memory.records

            yield Trail(memory.append, stored)
        elif request.param == "jetstream":
            server: NatsServer = request.getfixturevalue("nats_server")
            yield await _of_nats(await stack.enter_async_context(nats_rig(server.url)), 1)
        elif request.param == "jetstream-3":
            servers: list[NatsServer] = request.getfixturevalue("nats_cluster")
            rig = await stack.enter_async_context(nats_rig(*(one.url for one in servers), replicas=3))
            yield await _of_nats(rig, 3)
        elif request.param == "kafka":
            yield _of_kafka(await stack.enter_async_context(kafka_rig(request.getfixturevalue("kafka_address"))))
        else:
            nodes: list[KafkaServer] = request.getfixturevalue("kafka_cluster")
            on_three = await stack.enter_async_context(kafka_rig(*(node.address for node in nodes), replicas=3))
            yield _of_kafka(on_three)


async def test_records_are_stored_in_the_order_in_which_they_are_appended(trail: Trail) -> None:
    wanted = [b'{"n":%d}' % number for number in range(20)]
    for number, record in enumerate(wanted):
        await trail.append(uuid4().hex, f"account-{number % 3}", record)
    assert await trail.stored() == wanted


async def test_a_record_of_many_strategies_is_taken(trail: Trail) -> None:
    record = b"[" + b"1234567890," * 20_000 + b"1]"
    await trail.append(uuid4().hex, "main", record)
    assert await trail.stored() == [record]


# JetStream -----------------------------------------------------------------------------------------------------------


async def test_a_record_that_is_sent_again_is_stored_once_on_jetstream(nats: NatsRig) -> None:
    trail = await _of_nats(nats, 1)
    for _ in range(3):
        await trail.append("the-id", "main", b"{}")
    assert await trail.stored() == [b"{}"]


async def test_nothing_can_be_taken_out_of_the_stream(nats: NatsRig) -> None:
    trail = await _of_nats(nats, 1)
    await trail.append("a", "main", b"{}")
    link, stream = nats.connection.link, nats.topics.audit_stream
    for call, body in ((f"STREAM.MSG.DELETE.{stream}", {"seq": 1}), (f"STREAM.PURGE.{stream}", {})):
        with pytest.raises(JetStreamApiError):
            await link.api(call, body)
    config = (await link.api(f"STREAM.INFO.{stream}"))["config"]
    with pytest.raises(JetStreamApiError):
        await link.api(f"STREAM.UPDATE.{stream}", config | {"deny_delete": False, "deny_purge": False})
    assert await trail.stored() == [b"{}"]
    assert config["max_age"] == round(DAY * 1e9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_age": 3600 * 10**9}, "max_age is 3600 s: records would leave before topics.audit_retention"),
        ({"max_bytes": 10_000}, "max_bytes is 10000"),
        ({"max_msgs": 10}, "max_msgs is 10"),
        ({"max_msgs_per_subject": 1}, "max_msgs_per_subject is 1"),
        ({"deny_delete": False}, "deny_delete is off"),
        ({"deny_purge": False}, "deny_purge is off"),
        ({"storage": "memory"}, "storage is memory"),
        ({"retention": "workqueue"}, "retention is workqueue"),
        ({"subjects": ["other.{prefix}"]}, "subjects lack {prefix}.gateway.audit"),
    ],
)
async def test_a_stream_that_could_lose_records_is_refused(
    nats: NatsRig, change: dict[str, object], message: str
) -> None:
    topics, prefix = nats.topics, nats.topics.prefix
    config: dict[str, object] = {
        "name": topics.audit_stream,
        "subjects": [topics.audit],
        "storage": "file",
        "retention": "limits",
        "deny_delete": True,
        "deny_purge": True,
    }
    changed = {
        name: [one.format(prefix=prefix) for one in value] if isinstance(value, list) else value
        for name, value in change.items()
    }
    await nats.connection.link.api(f"STREAM.CREATE.{topics.audit_stream}", config | changed)
    trail = JetStreamAudit(nats.connection, topics)
    with pytest.raises(ConfigurationError, match=message.format(prefix=prefix)):
        await trail.prepare(replicas=1, create=True, retention=DAY)


async def test_a_stream_that_keeps_more_is_taken_as_it_is(nats: NatsRig) -> None:
    trail = JetStreamAudit(nats.connection, nats.topics)
    await trail.prepare(replicas=1, create=True, retention=None)
    await trail.prepare(replicas=1, create=False, retention=DAY)
    with pytest.raises(ConfigurationError, match="there is no such stream"):
        await JetStreamAudit(nats.connection, replace(nats.topics, prefix=f"{nats.topics.prefix}x")).prepare(
            replicas=1, create=False, retention=DAY
        )


async def test_a_short_retention_is_taken(nats: NatsRig) -> None:
    await JetStreamAudit(nats.connection, nats.topics).prepare(replicas=1, create=True, retention=5)


async def test_a_stream_that_is_gone_is_said_and_what_was_not_stored_too(nats: NatsRig) -> None:
    trail = JetStreamAudit(nats.connection, nats.topics)
    with pytest.raises((Unavailable, OutcomeUnknown)):
        await trail.append("a", "main", b"{}")


# Kafka ---------------------------------------------------------------------------------------------------------------


async def test_on_kafka_the_retention_is_the_settings_and_a_shorter_one_refused(kafka: KafkaRig) -> None:
    settings = topic_rules.ClusterSettings(kafka.topics, partitions=PARTITIONS, shards=SHARDS, audit_retention=None)
    await cluster.prepare(kafka.connection, settings)
    topics = replace(kafka.topics, prefix=f"{kafka.topics.prefix}x", kinds=KINDS[:1])
    short = topic_rules.ClusterSettings(topics, partitions=1, shards=1, audit_retention=60.0)
    await cluster.prepare(kafka.connection, short)
    with pytest.raises(ConfigurationError, match=r"gateway\.audit: retention\.ms is 60000: .* topics\.audit_retention"):
        await cluster.prepare(kafka.connection, replace(short, audit_retention=DAY))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"cleanup_policy": "compact"}, "cleanup.policy is compact"),
        ({"cleanup_policy": "compact,delete"}, "cleanup.policy is compact,delete"),
        ({"retention_bytes": "1000"}, "retention.bytes is 1000"),
    ],
)
@pytest.mark.parametrize("account_in_key", [True, False])
async def test_on_kafka_a_topic_that_could_lose_records_is_refused(
    kafka_address: str, kafka: KafkaRig, config: dict[str, str], message: str, account_in_key: bool
) -> None:
    topics = replace(kafka.topics, prefix=f"t{uuid4().hex[:12]}", kinds=KINDS[:1])
    await made(kafka_address, topics.audit, 1, retention_ms="-1", **config)
    settings = topic_rules.ClusterSettings(topics, partitions=1, shards=1, account_in_key=account_in_key)
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        await cluster.prepare(kafka.connection, settings)
