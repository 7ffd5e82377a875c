"""Puts the parts together: from settings to an open broker, for every command that needs one."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from gateway.broker.jetstream.access import Access
from gateway.broker.jetstream.connect import Connection, ConnectionOptions, connect
from gateway.broker.jetstream.log import JetStreamLog, LogSettings
from gateway.broker.jetstream.read import JetStreamReader
from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.jetstream.stream import StreamSettings, prepare
from gateway.broker.jetstream.topics import Topics
from gateway.broker.ports import EventLog, LogReader
from gateway.errors import ConfigurationError
from gateway.events.catalogue import KINDS
from gateway.hub import PATH, Hub
from gateway.replica.replica import hub_http, transport_of
from gateway.settings import BrokerSettings, Settings
from gateway.signalr.connection import connect as connect_hub
from gateway.verify.compare import Logged


@dataclass(frozen=True, slots=True)
class Broker:
    """An open broker."""

    log: EventLog
    reader: LogReader
    registry: JetStreamRegistry
    connection: Connection


@asynccontextmanager
async def open_broker(settings: BrokerSettings) -> AsyncIterator[Broker]:
    """Connect to the broker that the settings name.

    Raises ConfigurationError, Unavailable.
    """
    topics = Topics(settings.prefix)
    async with connect(_options(settings)) as connection:
        log_settings = LogSettings(
            topics=topics,
            owner=f"{socket.gethostname()}/{os.getpid()}",
            ttl=None if settings.retention is None else max(1, round(settings.retention)),
        )
        yield Broker(
            log=JetStreamLog(connection, log_settings),
            reader=JetStreamReader(connection, topics),
            registry=JetStreamRegistry(connection, topics),
            connection=connection,
        )


async def prepare_broker(broker: Broker, settings: Settings) -> None:
    """Create what is missing, or only check it; raises ConfigurationError, Unavailable."""
    replicas, create = settings.broker.replicas, settings.broker.create
    topics = Topics(settings.broker.prefix)
    await prepare(broker.connection, StreamSettings(topics=topics, replicas=replicas, create=create))
    await broker.registry.prepare(replicas=replicas, create=create)
    await broker.registry.agree(settings.shards)


@asynccontextmanager
async def open_hub(settings: Settings, key: str) -> AsyncIterator[Hub]:
    """Connect to the hub to ask it something; pushes are passed over. Raises HubError."""
    async with hub_http(settings.hub) as http:
        connection = await connect_hub(transport_of(settings.hub, http), settings.hub.url + PATH, key)
        reading = asyncio.create_task(connection.run(lambda _target, _arguments: None))
        try:
            yield Hub(connection)
        finally:
            reading.cancel()
            await asyncio.wait({reading})  # what ended it, the calls have raised
            await connection.close()


async def read_log(reader: LogReader, account: str, topics: Sequence[str] = KINDS) -> AsyncGenerator[Logged, None]:
    """Give what the log holds of an account now, as a comparison takes it; raises Unavailable."""
    reading = reader.read(topics=topics, accounts=[account], start="first", follow=False)
    async with aclosing(reading) as messages:  # type: ignore[type-var]
        async for stored in messages:
            message = stored.message
            sequence = message.attributes.get("sequence")
            yield Logged(
                kind=message.topic,
                sequence=None if sequence is None else int(sequence),
                value=message.value,
                late="late" in message.attributes,
            )


def _options(settings: BrokerSettings) -> ConnectionOptions:
    if settings.sasl.mechanism is not None:
        raise ConfigurationError("broker.sasl.mechanism", "is set, and NATS has none", "Take it away.")
    return ConnectionOptions(
        servers=settings.servers,
        access=Access(
            user=settings.sasl.username,
            password_file=settings.sasl.password_file,
            credentials_file=settings.credentials_file,
            ca_file=settings.tls.ca_file,
            cert_file=settings.tls.cert_file,
            key_file=settings.tls.key_file,
            handshake_first=settings.tls.handshake_first,
        ),
        inbox_prefix=settings.inbox_prefix,
        timeout=settings.commit_timeout,
    )
