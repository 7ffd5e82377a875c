"""Opens Kafka by the settings. It is imported only where that is the broker: see `gateway.bootstrap.broker`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from gateway.bootstrap.broker_parts import TOPICS, Broker, BrokerFacts, access_of, replica_name
from gateway.broker.credentials import read_password
from gateway.broker.kafka import cluster, permissions, topic_rules
from gateway.broker.kafka import topic_repair as repair
from gateway.broker.kafka.audit import KafkaAudit
from gateway.broker.kafka.connection import ConnectionOptions
from gateway.broker.kafka.control import KafkaControl
from gateway.broker.kafka.listener import connected
from gateway.broker.kafka.log import EventLogSettings, KafkaLog
from gateway.broker.kafka.ownership import GroupTiming, KafkaOwnership
from gateway.broker.kafka.reader import KafkaReader
from gateway.broker.kafka.registry import KafkaRegistry
from gateway.broker.kafka.topics import Topics
from gateway.broker.kafka.trial import OLDEST, Trial
from gateway.broker.one_cluster import AT_START, OneCluster
from gateway.settings.model import Settings
from gateway.settings.sections import BrokerSettings, TopicsSettings

_TRANSACTION: Final = 10.0
"""Seconds after which Kafka aborts the transaction of a writer that is gone; its readers wait for that long."""


def topic_names(prefix: str) -> dict[str, str]:
    """Return the name of each kind's topic."""
    topics = Topics(prefix)
    return {kind: topics.message(kind) for kind in TOPICS}


@asynccontextmanager
async def open_kafka(settings: BrokerSettings, kept: TopicsSettings) -> AsyncIterator[Broker]:
    """Connect; entering raises ConfigurationError, Unavailable."""
    topics = Topics(settings.prefix)
    access, password_file = access_of(settings), settings.sasl.password_file
    options = ConnectionOptions(
        servers=settings.servers,
        mechanism=settings.sasl.mechanism,
        user=settings.sasl.username,
        password=None if password_file is None else lambda: read_password(password_file),
        token_file=settings.sasl.token_file,
        tls=access.tls if access.wants_tls else None,
        timeout=settings.commit_timeout,
    )
    async with connected(options) as connection:
        log_settings = EventLogSettings(
            topics=topics,
            owner=replica_name(os.getpid()),
            commit_timeout=settings.commit_timeout,
            transaction_timeout=max(_TRANSACTION, settings.commit_timeout),
            partitions=kept.partitions,
        )

        def topics_of(whole: Settings) -> topic_rules.ClusterSettings:
            return topic_rules.ClusterSettings(
                topics,
                partitions=kept.partitions,
                shards=whole.shards,
                replicas=settings.replicas,
                retention=kept.retention,
                retention_bytes=kept.retention_bytes,
                audit_retention=kept.audit_retention,
                create=kept.create,
                account_in_key=whole.messages.key == "account-sequence",
            )

        async def prepare(whole: Settings) -> BrokerFacts:
            wanted = topics_of(whole)
            await one_cluster.check(AT_START)  # before anything is made in another one
            surplus = await cluster.prepare(connection, wanted)
            await ownership.check()
            log.recreate_missing_topics(wanted)
            count = len(topics.events) + 4
            summary = f"Kafka, {count} topics {topics.prefix}.… as they must be, events in {kept.partitions} partitions"
            release = f"by its requests {await trial.release()}, {OLDEST} is the oldest that is supported"
            return BrokerFacts("; ".join([summary, release, *surplus]), surplus)

        async def tried() -> None:
            await trial.begin()

        async def tried_whole() -> list[str]:
            await one_cluster.check(settings.commit_timeout)
            return await trial.whole(settings.commit_timeout)

        async def again(whole: Settings) -> None:
            await one_cluster.check(settings.commit_timeout)
            try:
                await cluster.compare(connection, topics_of(whole))
            except cluster.MissingTopics as missing:
                await repair.restore(connection, topics_of(whole), missing)

        async def refused(whole: Settings, _: Iterable[str]) -> list[str]:
            return await permissions.missing_permissions(connection, topics, whole.shards)

        reader, registry = KafkaReader(connection, topics), KafkaRegistry(connection, topics, kept.partitions)
        one_cluster = OneCluster(settings.servers, partial(cluster.identity, options))
        timing = GroupTiming()
        ownership = KafkaOwnership(connection, topics, timing)
        trial = Trial(connection, topics, session=timing.session, transaction=log_settings.transaction_timeout)
        log = KafkaLog(connection, log_settings)
        yield Broker(
            log,
            reader,
            registry,
            ownership,
            KafkaControl(connection, topics),
            KafkaAudit(connection, topics),
            log_settings.owner,
            one_order=False,
            prepare=prepare,
            again=again,
            refused=refused,
            tried=tried,
            tried_whole=tried_whole,
        )
