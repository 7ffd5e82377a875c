"""The brokers there are: from settings to an open one, whichever it is."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.broker.jetstream import connect as jetstream
from gateway.broker.jetstream import log as jetstream_log
from gateway.broker.jetstream import stream
from gateway.broker.jetstream import topics as jetstream_topics
from gateway.broker.jetstream.read import JetStreamReader
from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.kafka import cluster
from gateway.broker.kafka import connect as kafka
from gateway.broker.kafka import log as kafka_log
from gateway.broker.kafka import topics as kafka_topics
from gateway.broker.kafka.read import KafkaReader
from gateway.broker.kafka.registry import KafkaRegistry
from gateway.broker.ports import EventLog, LogReader, Registry
from gateway.errors import ConfigurationError
from gateway.settings import BrokerSettings, Settings, TlsSettings

NAMES: Final = {"jetstream": "NATS", "kafka": "Kafka"}
_TRANSACTION: Final = 10.0
"""Seconds after which Kafka aborts the transaction of a writer that is gone; its readers wait for that long."""


@dataclass(frozen=True, slots=True)
class Broker:
    """An open broker."""

    log: EventLog
    reader: LogReader
    registry: Registry
    one_order: bool
    """Whether the log has one order over all kinds of an account, or one for each kind."""
    prepare: Callable[[Settings], Awaitable[str]]
    """Creates what is missing, or only checks it, and says what is there; raises ConfigurationError, Unavailable."""


def open_broker(settings: BrokerSettings) -> AbstractAsyncContextManager[Broker]:
    """Connect to the broker that the settings name; entering raises ConfigurationError, Unavailable."""
    return _open_kafka(settings) if settings.kind == "kafka" else _open_jetstream(settings)


async def prepare_broker(broker: Broker, settings: Settings) -> str:
    """Make the broker ready to be written to, and say what is there; raises ConfigurationError, Unavailable."""
    found = await broker.prepare(settings)
    await broker.registry.agree(settings.shards)
    return found


@asynccontextmanager
async def _open_jetstream(settings: BrokerSettings) -> AsyncIterator[Broker]:
    topics = jetstream_topics.Topics(settings.prefix)
    options = jetstream.ConnectionOptions(
        servers=settings.servers,
        user=settings.sasl.username,
        password=_password(settings),
        credentials_file=settings.credentials_file,
        tls=_tls_context(settings.tls),
        timeout=settings.commit_timeout,
    )
    async with jetstream.connect(options) as connection:
        log_settings = jetstream_log.LogSettings(
            topics=topics,
            owner=_owner(),
            ttl=None if settings.retention is None else max(1, round(settings.retention)),
        )
        registry = JetStreamRegistry(connection, topics)

        async def prepare(whole: Settings) -> str:
            replicas, create = whole.broker.replicas, whole.broker.create
            await stream.prepare(connection, stream.StreamSettings(topics=topics, replicas=replicas, create=create))
            await registry.prepare(replicas=replicas, create=create)
            return f"nats-server {connection.link.server_version}, stream {topics.stream} as it must be"

        reader = JetStreamReader(connection, topics)
        log = jetstream_log.JetStreamLog(connection, log_settings)
        yield Broker(log, reader, registry, one_order=True, prepare=prepare)


@asynccontextmanager
async def _open_kafka(settings: BrokerSettings) -> AsyncIterator[Broker]:
    topics = kafka_topics.Topics(settings.prefix)
    options = kafka.ConnectionOptions(
        servers=settings.servers,
        mechanism=settings.sasl.mechanism,
        user=settings.sasl.username,
        password=_password(settings),
        token_file=settings.sasl.token_file,
        tls=_tls_context(settings.tls),
        timeout=settings.commit_timeout,
    )
    async with kafka.connect(options) as connection:
        log_settings = kafka_log.LogSettings(
            topics=topics,
            owner=_owner(),
            commit_timeout=settings.commit_timeout,
            transaction_timeout=max(_TRANSACTION, settings.commit_timeout),
        )

        async def prepare(whole: Settings) -> str:
            wanted = cluster.ClusterSettings(
                topics,
                partitions=settings.partitions,
                shards=whole.shards,
                replicas=settings.replicas,
                retention=settings.retention,
                create=settings.create,
                account_in_key=whole.messages.key == "account-sequence",
            )
            await cluster.prepare(connection, wanted)
            count = len(topics.events) + 2
            return (
                f"Kafka, {count} topics {topics.prefix}.… as they must be, events in {settings.partitions} partitions"
            )

        reader, registry = KafkaReader(connection, topics), KafkaRegistry(connection, topics)
        log = kafka_log.KafkaLog(connection, log_settings)
        yield Broker(log, reader, registry, one_order=False, prepare=prepare)


def _owner() -> str:
    return f"{socket.gethostname()}/{os.getpid()}"


def _password(settings: BrokerSettings) -> Callable[[], str] | None:
    """Give what reads the password, each time it is wanted."""
    path = settings.sasl.password_file
    return None if path is None else lambda: _read_secret("broker.sasl.password_file", path)


def _read_secret(setting: str, path: Path) -> str:
    try:
        return path.read_text("utf-8").removesuffix("\n")
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(setting, f"{path} cannot be read ({error})", "Name a readable file.") from error


def _tls_context(tls: TlsSettings) -> ssl.SSLContext | None:
    if not tls.enabled and tls.ca_file is None and tls.cert_file is None:
        return None
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.cert_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError("broker.tls", f"a file cannot be used ({error})", "Name PEM files.") from error
    return context
