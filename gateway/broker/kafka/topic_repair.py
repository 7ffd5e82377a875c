"""The faults of topics while the gateway works: reported, and repaired where no promise suffers.

A deleted topic of events is created again, empty. Its contents are lost, except those that a process wrote there and
the hub still has, and the checkpoints have the place to go on from. The topic of the accounts is created again too, and
this process writes them again. That of the checkpoints is not: an empty one would hide that a copy of it could be put
back.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.broker.kafka import cluster, topic_rules
from gateway.broker.kafka.cluster import ClusterFacts, MissingTopics
from gateway.broker.kafka.connection import Connection
from gateway.broker.kafka.topic_rules import ClusterSettings
from gateway.broker.kafka.topics import Topics
from gateway.errors import ActionRequired, GatewayError
from gateway.publication import DEAD_LETTER, NOTIFICATIONS, REPLAY
from gateway.telemetry.logs import get_logger

_CHECK_INTERVAL_S: Final = 0.2
"""The part of a call's time that a look at what ails the cluster may take on top of it."""
_NAMED: Final = 3
_PUBLISHED_ONCE: Final = (DEAD_LETTER, NOTIFICATIONS, REPLAY)
_EVENTS: Final = "its events: what this process wrote there last is published again, what is older is lost"


async def problems(connection: Connection, topics: Topics, facts: ClusterFacts) -> str:
    """Return which faults of the topics prevent writing, after a semicolon; an empty text where none is known."""
    try:
        async with asyncio.timeout(connection.options.timeout * _CHECK_INTERVAL_S):
            found = await cluster.described(connection, list(facts.in_sync))
    except (TimeoutError, GatewayError) as error:
        return f"; {error}" if isinstance(error, GatewayError) else ""
    faults = [f"there is no topic {name}" for name in facts.in_sync if name not in found]
    for name, partitions in found.items():
        for number, one in partitions.items():
            if one.leader < 0:
                faults.append(f"{name} has no leader for partition {number}")
            elif one.in_sync < facts.in_sync[name]:
                faults.append(
                    f"{name} has {one.in_sync} of the {facts.in_sync[name]} replicas in sync that its "
                    f"min.insync.replicas asks for, in partition {number}"
                )
    faults.sort(key=lambda fault: not fault.startswith(topics.checkpoints))
    more = f"; and {len(faults) - _NAMED} partitions more" if len(faults) > _NAMED else ""
    return "".join(f"; {fault}" for fault in faults[:_NAMED]) + more


def lost_with(topics: Topics, name: str) -> str:
    """Return, as text, what a deleted topic held, and what becomes of that."""
    once = dict.fromkeys(map(topics.message, _PUBLISHED_ONCE), "its messages, which are lost: none is published again")
    return {
        topics.accounts: "the accounts, which are written again",
        topics.audit: "the record of who changed what, which is lost",
        topics.control: "the desired state of accounts and all replays, which are lost: paused accounts run again",
        **once,
    }.get(name, _EVENTS)


async def restore(connection: Connection, settings: ClusterSettings, missing: MissingTopics) -> None:
    """Create deleted topics again, and log at ERROR what is lost.

    Raises:
        ActionRequired: they are not to be made, or that of the checkpoints is among them.
        ConfigurationError: they cannot be made.
        Unavailable: Kafka did not answer.

    """
    log, topics = get_logger(), settings.topics
    if topics.checkpoints in missing.names:
        raise ActionRequired(
            f"there is no topic {topics.checkpoints} any more, and with it went how far each account is published. "
            "Put it back from a copy; or let `gateway check` make it anew: then each account stands still until its "
            "checkpoint is reset, lest its history be published again"
        )
    if not settings.create:
        wanted = [one for one in topic_rules.desired_topics(settings) if one.name in missing.names]
        how = "; ".join(f"{one.name} with {one.partitions} partitions and {one.config}" for one in wanted)
        raise ActionRequired(f"topics are gone, and topics.create is false: somebody else must make {how}")
    for name in missing.names:
        log.error("topic was deleted, re-creating it", topic=name, went_with_it=lost_with(topics, name))
    await cluster.prepare(connection, settings)
