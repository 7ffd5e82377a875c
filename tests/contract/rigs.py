"""A rig is one broker with topics of its own: what the suite needs to open logs and to read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

from gateway.broker.jetstream.access import Access
from gateway.broker.jetstream.connect import Connection, ConnectionOptions, connect
from gateway.broker.jetstream.link import Unserved
from gateway.broker.jetstream.log import JetStreamLog, LogSettings
from gateway.broker.jetstream.read import JetStreamReader
from gateway.broker.jetstream.stream import StreamSettings, prepare
from gateway.broker.jetstream.topics import Topics
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
    access: Access | None = None,
) -> AsyncIterator[NatsRig]:
    """Give a rig on a running server, with a stream of its own."""
    topics = topics or Topics(f"t{uuid4().hex}")
    options = ConnectionOptions(servers=urls, timeout=timeout, ping_interval=0.5, access=access or Access())
    async with connect(options) as connection:
        settings = StreamSettings(topics, replicas=replicas)
        await (prepare(connection, settings) if replicas == 1 else _prepare_when_whole(connection, settings))

        def log(owner: str) -> JetStreamLog:
            return JetStreamLog(connection, LogSettings(topics, owner, ttl=ttl))

        if replicas > 1:
            await _known_everywhere(log("rig"))
        yield NatsRig(log, JetStreamReader(connection, topics), connection, topics)


async def _known_everywhere(log: JetStreamLog) -> None:
    """Wait until the server that we are connected to knows that a new stream takes our subjects."""
    while True:
        try:
            async with log.open(0):
                return
        except Unserved:
            await asyncio.sleep(0.01)


async def _prepare_when_whole(connection: Connection, settings: StreamSettings) -> None:
    """Wait until all servers of a cluster are back from what an earlier test did to them."""
    while True:
        try:
            return await prepare(connection, settings)
        except Unavailable:
            await connection.connected()
            await asyncio.sleep(0.05)
