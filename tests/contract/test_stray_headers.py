"""Headers of others on messages where readers look: whoever may publish there can err, and no reader stops at one."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.producer import message_accumulator, producer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from gateway.broker.jetstream.control import JetStreamControl
from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.kafka.control import KafkaControl
from gateway.broker.kafka.topics import partition_of
from gateway.broker.ports import Commit
from tests.support.event_log_suite import messages
from tests.support.rigs import KafkaRig, NatsRig, Rig
from tests.support.watchers import watching


async def numbers_of_ours(rig: Rig) -> list[int]:
    found = rig.reader.read(topics=None, accounts=["demo"], start="first", follow=False)
    return [int(stored.message.key) async for stored in found if stored.message.key.isdigit()]


BLOCKS = [
    b"NATS/1.0\r\nStatus: 204\r\n\r\n",
    b"NATS/1.0\r\nStatus: 404\r\nDescription: Message Not Found\r\n\r\n",
    b"NATS/1.0\r\nStatus: 503\r\n\r\n",
    b"NATS/1.0 204 EOB\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
    b"NATS/1.0 \xff\xff\xff\r\n\r\n",
    b"NATS/1.0 \xc2\xb9\xff\xff\r\n\r\n",
    b"NATS/1.0 200 \xff\r\n\r\n",
    b"NATS/1.0 200 \xff\r\nx: y\r\n\r\n",
    b"NATS/1.0\r\n\xff\xff\r\n\r\n",
    b"NATS/1.0\r\nx\r\n\r\n",
    b"NATS/1.0\r\n: \r\n\r\n",
    b"NATS/1.0\r\nNats-Sequence: 1\r\nNats-Time-Stamp: never\r\nNats-Subject: x\r\n\r\n",
    b"NATS/1.0\r\nGateway-Key: %ff\xff\r\nce-time: \xff\r\n\r\n",
    b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
]


async def store_raw(nats: NatsRig, stream: str, subject: str, block: bytes) -> None:
    """Publish a message with these bytes as its headers, and wait until it is stored."""
    link = nats.connection.link

    async def stored() -> int:
        return int((await link.api(f"STREAM.INFO.{stream}"))["state"]["last_seq"])

    before = await stored()
    await link.send([f"HPUB {subject} {len(block)} {len(block) + 2}\r\n".encode() + block + b"{}\r\n"])
    async with asyncio.timeout(10):
        while await stored() == before:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("block", BLOCKS)
async def test_no_reader_of_the_log_stops_at_stray_headers(nats: NatsRig, block: bytes) -> None:
    async with nats.log("a").open(1) as shard:
        await shard.commit(Commit(messages(1, 3), {"demo": b"3"}))
        await store_raw(nats, nats.topics.stream, nats.topics.message("order-update", "demo"), block)
        await shard.commit(Commit(messages(4, 6), {"demo": b"6"}))
    link = nats.connection.link
    assert await numbers_of_ours(nats) == [1, 2, 3, 4, 5, 6]
    assert nats.connection.link is link  # it was not lost on the way


@pytest.mark.parametrize("block", BLOCKS)
async def test_no_watch_of_the_control_stream_stops_at_stray_headers(nats: NatsRig, block: bytes) -> None:
    await JetStreamRegistry(nats.connection, nats.topics).prepare(replicas=1, create=True)
    control = JetStreamControl(nats.connection, nats.topics)
    async with watching(control) as view:
        await control.write("account.one", b"1", 0)
        await store_raw(nats, nats.topics.control, nats.topics.desired("stray"), block)
        await control.write("account.two", b"2", 0)
        await view.reaches("account.two", 1)
    async with watching(control) as late:
        await late.reaches("account.two", 1)


@pytest.mark.parametrize("headers", [[("ce_account", b"demo"), ("ce_x", None)], [("ce_account", None)], [("", b"")]])
async def test_no_reader_on_kafka_stops_at_a_header_without_a_value(
    kafka: KafkaRig, headers: list[tuple[str, bytes | None]]
) -> None:
    async with kafka.log("a").open(1) as shard:
        await shard.commit(Commit(messages(1, 3), {"demo": b"3"}))
        await store_batch(kafka, headers)
        await shard.commit(Commit(messages(4, 6), {"demo": b"6"}))
    assert await numbers_of_ours(kafka) == [1, 2, 3, 4, 5, 6]


class _NoText(str):
    """A header's name that is sent as bytes which are not UTF-8."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:
        return b"ce_\xff\xfe"


@pytest.mark.parametrize("codec", [None, "gzip", "zstd"])
async def test_no_reader_on_kafka_stops_at_a_header_whose_name_is_no_text(
    kafka: KafkaRig, codec: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = KafkaControl(kafka.connection, kafka.topics)
    stray: list[tuple[str, bytes | None]] = [("ce_account", b"demo"), (_NoText(), b"1")]
    async with kafka.log("a").open(1) as shard, watching(control) as view:
        await shard.commit(Commit(messages(1, 3), {"demo": b"3"}))
        with monkeypatch.context() as patch:  # the compiled one writes text alone
            for module in (producer, message_accumulator):
                patch.setattr(module, "DefaultRecordBatchBuilder", _DefaultRecordBatchBuilderPy)
            await store_batch(kafka, stray, codec)
            await store_batch(kafka, stray, codec, topic=kafka.topics.control)
        await shard.commit(Commit(messages(4, 6), {"demo": b"6"}))
        await control.write("account.main", b"1", 0)
        await view.reaches("account.main", 1)
    found = [
        one.message async for one in kafka.reader.read(topics=None, accounts=["demo"], start="first", follow=False)
    ]
    assert [one.key for one in found] == [b"1", b"2", b"3", b"stray", b"4", b"5", b"6"]
    assert found[3].attributes == {"account": "demo", "\ufffd\ufffd": "1"}


async def store_batch(
    kafka: KafkaRig, headers: list[tuple[str, bytes | None]], compression: str | None = None, topic: str | None = None
) -> None:
    """Let a producer of somebody else write a record among the orders of `demo`, or in partition 0 of a topic."""
    servers = list(kafka.connection.options.servers)
    async with AIOKafkaProducer(bootstrap_servers=servers, compression_type=compression) as other:
        orders = kafka.topics.message("order-update")
        partition = 0 if topic else partition_of("demo", len(await other.partitions_for(orders)))
        await other.send_and_wait(topic or orders, b"{}", key=b"stray", headers=headers, partition=partition)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_what_is_compressed_is_read_whoever_compressed_it(kafka: KafkaRig, codec: str) -> None:
    """Another producer may compress, and so may Kafka itself: `compression.type` of a topic, or of a broker."""
    names = await compressing(kafka, codec)
    assert kafka.topics.message("order-update") in names
    async with kafka.log("a").open(1) as shard:
        await shard.commit(Commit(messages(1, 3), {"demo": b"3"}))
        await store_batch(kafka, [("ce_account", b"demo")], codec)
        await shard.commit(Commit(messages(4, 6), {"demo": b"6"}))
    assert await numbers_of_ours(kafka) == [1, 2, 3, 4, 5, 6]
    async with kafka.log("b").open(1) as again:
        assert await again.checkpoints() == {"demo": b"6"}


async def compressing(kafka: KafkaRig, codec: str) -> list[str]:
    """Let Kafka compress all topics of the gateway; return their names."""
    admin = AIOKafkaAdminClient(bootstrap_servers=list(kafka.connection.options.servers))
    await admin.start()
    try:
        names = [name for name in await admin.list_topics() if name.startswith(kafka.topics.prefix)]
        kind, config = ConfigResourceType.TOPIC, {"compression.type": codec}
        await admin.alter_configs([ConfigResource(kind, name, configs=config) for name in names])
    finally:
        await admin.close()
    return names
