"""The brokers there are: from settings to an open one, whichever it is."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from gateway.accounts import shard_of
from gateway.broker.access import Access, read_password
from gateway.broker.jetstream import connect as jetstream
from gateway.broker.jetstream import log as jetstream_log
from gateway.broker.jetstream import stream
from gateway.broker.jetstream import topics as jetstream_topics
from gateway.broker.jetstream.control import JetStreamControl
from gateway.broker.jetstream.ownership import JetStreamOwnership
from gateway.broker.jetstream.read import JetStreamReader
from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.kafka import cluster, permissions
from gateway.broker.kafka import connect as kafka
from gateway.broker.kafka import log as kafka_log
from gateway.broker.kafka import topics as kafka_topics
from gateway.broker.kafka.control import KafkaControl
from gateway.broker.kafka.ownership import KafkaOwnership
from gateway.broker.kafka.read import KafkaReader
from gateway.broker.kafka.registry import KafkaRegistry
from gateway.broker.ports import ControlStore, EventLog, LogReader, Ownership, Registry
from gateway.errors import ConfigurationError
from gateway.events.catalogue import KINDS
from gateway.publication import DEAD_LETTER, NOTIFICATIONS, REPLAY
from gateway.settings import BrokerSettings, Settings, TopicsSettings
from gateway.telemetry import traces

NAMES: Final = {"jetstream": "NATS", "kafka": "Kafka"}
DOCS: Final = {"jetstream": "nats.md", "kafka": "kafka.md"}
_TRANSACTION: Final = 10.0
"""Seconds after which Kafka aborts the transaction of a writer that is gone; its readers wait for that long."""


@dataclass(frozen=True, slots=True)
class Broker:
    """An open broker."""

    log: EventLog
    reader: LogReader
    registry: Registry
    ownership: Ownership
    """Who of several replicas serves which shard."""
    control: ControlStore
    """What operators want and what is so."""
    member: str
    """This process, for people."""
    one_order: bool
    """Whether the log has one order over all kinds of an account, or one for each kind."""
    prepare: Callable[[Settings], Awaitable[str]]
    """Creates what is missing, or only checks it, and says what is there; raises ConfigurationError, Unavailable."""
    refused: Callable[[Settings, Iterable[str]], Awaitable[list[str]]]
    """Says in words what the broker would not let the gateway write for these accounts, without writing it."""


def open_broker(settings: BrokerSettings, topics: TopicsSettings | None = None) -> AbstractAsyncContextManager[Broker]:
    """Connect to the broker that the settings name; entering raises ConfigurationError, Unavailable.

    Who only reads needs no `topics`.
    """
    opened = _open_kafka if settings.kind == "kafka" else _open_jetstream
    return opened(settings, topics or TopicsSettings())


def topic_names(settings: BrokerSettings) -> dict[str, str]:
    """Give what each kind's topic is called: on NATS the subject filter for all accounts."""
    kinds = (*KINDS, DEAD_LETTER, NOTIFICATIONS, REPLAY)
    if settings.kind == "kafka":
        on_kafka = kafka_topics.Topics(settings.prefix)
        return {kind: on_kafka.message(kind) for kind in kinds}
    on_nats = jetstream_topics.Topics(settings.prefix)
    return {kind: on_nats.messages(kind, None) for kind in kinds}


def in_traces(settings: BrokerSettings) -> traces.Broker:
    """Give the broker in the words of traces."""
    return traces.Broker({"jetstream": "nats"}.get(settings.kind, settings.kind), topic_names(settings))


async def prepare_broker(broker: Broker, settings: Settings) -> str:
    """Make the broker ready to be written to, and say what is there; raises ConfigurationError, Unavailable."""
    found = await broker.prepare(settings)
    await broker.registry.agree(settings.shards)
    return found


@asynccontextmanager
async def _open_jetstream(settings: BrokerSettings, kept: TopicsSettings) -> AsyncIterator[Broker]:
    topics = jetstream_topics.Topics(settings.prefix)
    if settings.sasl.mechanism is not None:
        raise ConfigurationError("broker.sasl.mechanism", "is set, and NATS has none", "Take it away.")
    options = jetstream.ConnectionOptions(
        servers=settings.servers,
        access=_access(settings),
        inbox_prefix=settings.inbox_prefix,
        timeout=settings.commit_timeout,
    )
    async with jetstream.connect(options) as connection:
        log_settings = jetstream_log.LogSettings(
            topics=topics,
            owner=replica_name(os.getpid()),
            ttl=None if kept.retention is None else max(1, round(kept.retention)),
        )
        registry = JetStreamRegistry(connection, topics)
        ownership = JetStreamOwnership(connection, topics)

        async def prepare(_: Settings) -> str:
            replicas, create = settings.replicas, kept.create
            await stream.prepare(connection, stream.StreamSettings(topics=topics, replicas=replicas, create=create))
            await registry.prepare(replicas=replicas, create=create)
            await ownership.prepare(replicas=replicas, create=create)
            return f"nats-server {connection.link.server_version}, stream {topics.stream} as it must be"

        async def refused(whole: Settings, accounts: Iterable[str]) -> list[str]:
            return await connection.link.refused(_written(topics, whole.shards, accounts))

        reader = JetStreamReader(connection, topics)
        log = jetstream_log.JetStreamLog(connection, log_settings)
        control = JetStreamControl(connection, topics)
        yield Broker(
            log,
            reader,
            registry,
            ownership,
            control,
            log_settings.owner,
            one_order=True,
            prepare=prepare,
            refused=refused,
        )


def _written(topics: jetstream_topics.Topics, shards: int, accounts: Iterable[str]) -> list[str]:
    """Give every subject that the gateway will write to for these accounts, in the order of their names."""
    subjects = [topics.owning("member.check"), *(topics.owning(f"lease.{shard}") for shard in range(shards))]
    for account in sorted(accounts):
        shard = shard_of(account, shards)
        subjects += [topics.fence(shard), topics.checkpoint(shard, account), topics.begun(account)]
        subjects += [topics.desired(account), topics.observed(account)]
        subjects += [topics.message(topic, account) for topic in (*KINDS, DEAD_LETTER, NOTIFICATIONS, REPLAY)]
    return subjects


@asynccontextmanager
async def _open_kafka(settings: BrokerSettings, kept: TopicsSettings) -> AsyncIterator[Broker]:
    topics = kafka_topics.Topics(settings.prefix)
    access, password_file = _access(settings), settings.sasl.password_file
    options = kafka.ConnectionOptions(
        servers=settings.servers,
        mechanism=settings.sasl.mechanism,
        user=settings.sasl.username,
        password=None if password_file is None else lambda: read_password(password_file),
        token_file=settings.sasl.token_file,
        tls=access.tls if access.wants_tls else None,
        timeout=settings.commit_timeout,
    )
    async with kafka.connect(options) as connection:
        log_settings = kafka_log.LogSettings(
            topics=topics,
            owner=replica_name(os.getpid()),
            commit_timeout=settings.commit_timeout,
            transaction_timeout=max(_TRANSACTION, settings.commit_timeout),
        )

        async def prepare(whole: Settings) -> str:
            wanted = cluster.ClusterSettings(
                topics,
                partitions=kept.partitions,
                shards=whole.shards,
                replicas=settings.replicas,
                retention=kept.retention,
                create=kept.create,
                account_in_key=whole.messages.key == "account-sequence",
            )
            await cluster.prepare(connection, wanted)
            await ownership.check()
            log.restore_as(wanted)
            count = len(topics.events) + 3
            return f"Kafka, {count} topics {topics.prefix}.… as they must be, events in {kept.partitions} partitions"

        async def refused(whole: Settings, _: Iterable[str]) -> list[str]:
            return await permissions.refused(connection, topics, whole.shards)

        reader, registry = KafkaReader(connection, topics), KafkaRegistry(connection, topics)
        ownership = KafkaOwnership(connection, topics)
        log = kafka_log.KafkaLog(connection, log_settings)
        yield Broker(
            log,
            reader,
            registry,
            ownership,
            KafkaControl(connection, topics),
            log_settings.owner,
            one_order=False,
            prepare=prepare,
            refused=refused,
        )


def replica_name(process: int) -> str:
    """Give the name, for people, of the gateway that is this process of this machine."""
    return f"{socket.gethostname()}/{process}"


def _access(settings: BrokerSettings) -> Access:
    return Access(
        user=settings.sasl.username,
        password_file=settings.sasl.password_file,
        credentials_file=settings.credentials_file,
        tls_wanted=settings.tls.enabled,
        ca_file=settings.tls.ca_file,
        cert_file=settings.tls.cert_file,
        key_file=settings.tls.key_file,
        handshake_first=settings.tls.handshake_first,
    )
