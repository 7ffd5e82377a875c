"""A rig is one broker with topics of its own: what the suite needs to open logs and to read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

from gateway.broker.credentials import BrokerLogin
from gateway.broker.jetstream.connection import Connection, ConnectionOptions, connect
from gateway.broker.jetstream.log import EventLogSettings, JetStreamLog
from gateway.broker.jetstream.reader import JetStreamReader
from gateway.broker.jetstream.stream import StreamSettings, prepare
from gateway.broker.jetstream.topics import Topics
from gateway.broker.kafka import cluster as kafka_cluster
from gateway.broker.kafka import connection as kafka_connect
from gateway.broker.kafka import log as kafka_log
from gateway.broker.kafka import topic_rules as kafka_topic_rules
from gateway.broker.kafka import topics as kafka_topics
from gateway.broker.kafka.reader import KafkaReader
from gateway.broker.ports import EventLog, LogReader
from gateway.errors import Unavailable

LARGEST = 1024 * 1024
"""Bytes of one message on every broker of the suite."""


@dataclass(frozen=True)
class Rig:
    """One broker with topics of its own for one test."""

    log: Callable[[str], EventLog]
    """The log as a replica sees it, by the replica's name."""
    reader: LogReader
    one_order: bool
    """Whether the log has one order over all topics and accounts, or one for each account in each topic."""


@dataclass(frozen=True)
class NatsRig(Rig):
    """A rig on NATS, where a test can reach below the contract."""

    connection: Connection
    topics: Topics


@asynccontextmanager
async def nats_rig(
    *urls: str,
    topics: Topics | None = None,
    replicas: int = 1,
    ttl: int | None = None,
    timeout: float = 5.0,
    access: BrokerLogin | None = None,
) -> AsyncIterator[NatsRig]:
    """Yield a rig on a running server, with a stream of its own."""
    topics = topics or Topics(f"t{uuid4().hex}")
    options = ConnectionOptions(servers=urls, timeout=timeout, ping_interval=0.5, access=access or BrokerLogin())
    async with connect(options) as connection:
        settings = StreamSettings(topics, replicas=replicas)
        if replicas == 1:
            await prepare(connection, settings)
        else:
            await when_whole(connection, lambda: prepare(connection, settings))

        def log(owner: str) -> JetStreamLog:
            return JetStreamLog(connection, EventLogSettings(topics, owner, ttl=ttl))

        if replicas > 1:
            await _known_everywhere(log("rig"))
        reader = JetStreamReader(connection, topics)
        yield NatsRig(log, reader, one_order=True, connection=connection, topics=topics)


async def _known_everywhere(log: JetStreamLog) -> None:
    """Wait until the server that we are connected to knows that a new stream takes our subjects."""
    while True:
        try:
            async with log.open(0):
                return
        except Unavailable:  # an answer that it knows no such stream, too
            await asyncio.sleep(0.01)


async def when_whole(connection: Connection, prepared: Callable[[], Awaitable[None]]) -> None:
    """Prepare once all servers of a cluster are back from what an earlier test did to them."""
    while True:
        try:
            return await prepared()
        except Unavailable:
            await connection.connected()
            await asyncio.sleep(0.05)


KINDS = ("order-update", "dead-letter", "notifications", "x", "y", "z")
"""What a rig on Kafka has topics for."""
SHARDS = 12
PARTITIONS = 3


@dataclass(frozen=True)
class KafkaRig(Rig):
    """A rig on Kafka, where a test can reach below the contract."""

    connection: kafka_connect.Connection
    topics: kafka_topics.Topics


@asynccontextmanager
async def kafka_rig(
    *servers: str,
    topics: kafka_topics.Topics | None = None,
    replicas: int = 1,
    shards: int = SHARDS,
    timeout: float = 10.0,
    transaction_timeout: float = 10.0,
) -> AsyncIterator[KafkaRig]:
    """Yield a rig on a running cluster, with topics of its own."""
    topics = topics or kafka_topics.Topics(f"t{uuid4().hex[:12]}", KINDS)
    async with kafka_connect.connect(kafka_connect.ConnectionOptions(servers, timeout=timeout)) as connection:
        wanted = kafka_topic_rules.ClusterSettings(topics, partitions=PARTITIONS, shards=shards, replicas=replicas)
        await kafka_cluster.prepare(connection, wanted)

        def log(owner: str) -> kafka_log.KafkaLog:
            settings = kafka_log.EventLogSettings(
                topics, owner, commit_timeout=timeout, transaction_timeout=transaction_timeout
            )
            return kafka_log.KafkaLog(connection, settings)

        reader = KafkaReader(connection, topics)
        yield KafkaRig(log, reader, one_order=False, connection=connection, topics=topics)
