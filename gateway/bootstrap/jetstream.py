"""Opens NATS JetStream by the settings; imported only where that is the broker: see `gateway.bootstrap.broker`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial

from gateway.accounts import shard_of
from gateway.bootstrap.broker_parts import TOPICS, Broker, BrokerFacts, access_of, replica_name
from gateway.broker.jetstream import stream
from gateway.broker.jetstream.audit import JetStreamAudit
from gateway.broker.jetstream.connection import ConnectionOptions, connect
from gateway.broker.jetstream.control import JetStreamControl
from gateway.broker.jetstream.log import EventLogSettings, JetStreamLog
from gateway.broker.jetstream.ownership import JetStreamOwnership
from gateway.broker.jetstream.reader import JetStreamReader
from gateway.broker.jetstream.registry import JetStreamRegistry
from gateway.broker.jetstream.topics import Topics
from gateway.broker.jetstream.trial import OLDEST, Trial
from gateway.broker.one_cluster import AT_START, OneCluster
from gateway.errors import ConfigurationError
from gateway.settings.model import Settings
from gateway.settings.sections import BrokerSettings, TopicsSettings


def topic_names(prefix: str) -> dict[str, str]:
    """Return the subject filter of each kind, for all accounts."""
    topics = Topics(prefix)
    return {kind: topics.messages(kind, None) for kind in TOPICS}


@asynccontextmanager
async def open_jetstream(settings: BrokerSettings, kept: TopicsSettings) -> AsyncIterator[Broker]:
    """Connect; entering raises ConfigurationError, Unavailable."""
    topics = Topics(settings.prefix)
    if settings.sasl.mechanism is not None:
        raise ConfigurationError("broker.sasl.mechanism", "is set, and NATS has none", "Take it away.")
    options = ConnectionOptions(
        servers=settings.servers,
        access=access_of(settings),
        inbox_prefix=settings.inbox_prefix,
        api_prefix=settings.api_prefix,
        timeout=settings.commit_timeout,
        discover=settings.discover,
    )
    async with connect(options) as connection:
        log_settings = EventLogSettings(
            topics=topics,
            owner=replica_name(os.getpid()),
            ttl=None if kept.retention is None else max(1, round(kept.retention)),
        )
        registry = JetStreamRegistry(connection, topics)
        ownership = JetStreamOwnership(connection, topics)
        audit = JetStreamAudit(connection, topics)
        one_cluster = OneCluster(settings.servers, partial(stream.identity, connection, topics))

        async def prepare(_: Settings, limit: float = AT_START) -> BrokerFacts:
            replicas, create = settings.replicas, kept.create
            await one_cluster.check(limit)  # before anything is made in another one
            await stream.prepare(connection, stream.StreamSettings(topics=topics, replicas=replicas, create=create))
            await registry.prepare(replicas=replicas, create=create)
            await ownership.prepare(replicas=replicas, create=create)
            await audit.prepare(replicas=replicas, create=create, retention=kept.audit_retention)
            if one_cluster.is_new:
                await one_cluster.check(limit)
            summary = f"nats-server {connection.link.server_version}, stream {topics.stream} as it must be"
            return BrokerFacts(f"{summary}; {OLDEST} is the oldest server that is supported")

        trial = Trial(connection, topics)

        async def tried_whole() -> list[str]:
            await one_cluster.check(settings.commit_timeout)
            await trial.reads()
            await trial.batches()
            return []

        async def again(whole: Settings) -> None:
            await prepare(whole, settings.commit_timeout)
            await registry.ensure_layout(whole.shards)

        async def refused(whole: Settings, accounts: Iterable[str]) -> list[str]:
            return await connection.link.refused(_written(topics, whole.shards, accounts))

        reader = JetStreamReader(connection, topics)
        log = JetStreamLog(connection, log_settings)
        control = JetStreamControl(connection, topics)
        yield Broker(
            log,
            reader,
            registry,
            ownership,
            control,
            audit,
            log_settings.owner,
            one_order=True,
            prepare=prepare,
            again=again,
            refused=refused,
            tried=trial.reads,
            tried_whole=tried_whole,
        )


def _written(topics: Topics, shards: int, accounts: Iterable[str]) -> list[str]:
    """Return every subject that the gateway will write to for these accounts, in the order of their names."""
    subjects = [
        topics.audit,
        topics.owning("member.check"),
        *(topics.owning(f"lease.{shard}") for shard in range(shards)),
    ]
    for account in sorted(accounts):
        shard = shard_of(account, shards)
        subjects += [topics.fence(shard), topics.checkpoint(shard, account), topics.begun(account)]
        subjects += [topics.desired(account), topics.observed(account)]
        subjects += [topics.message(topic, account) for topic in TOPICS]
    return subjects
