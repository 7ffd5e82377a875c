"""The cluster's state of our topics, and how they are created: what about an existing one would break a promise.

A compacted topic of events keeps only the last of those that share a key, and keys of two accounts may be equal. A
topic with fewer partitions than are used has no place for some accounts. One with more has some that stay empty: Kafka
removes no partition, and the gateway itself chooses the partition of an account.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from aiokafka.errors import for_code
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.structs import TopicPartition

from gateway.broker.kafka.connection import Connection, ConnectionOptions, connect
from gateway.broker.kafka.errors import map_aiokafka_errors, permission_error
from gateway.broker.kafka.topic_rules import (
    SAFE_ELECTION,
    SMALLEST_MESSAGE,
    ClusterSettings,
    DesiredTopic,
    config_problems,
    desired_topics,
    how_to_add,
    shape_problems,
    surplus,
)
from gateway.broker.kafka.topics import Topics
from gateway.errors import ActionRequired, ConfigurationError, Unavailable
from gateway.publication import USUAL_MESSAGE

FIRST: Final = -2
END: Final = -1
"""Instead of a time, in milliseconds since 1970: the place of the first record, and the one behind the last."""

_TOPIC: Final = 2
_UNKNOWN: Final = 3
_DENIED: Final = frozenset({29, 31})
_EXISTS: Final = 36
_OPERATORS: Final = frozenset({17, 37, 40, 44})
"""Of CreateTopics: an invalid name, number of partitions or configuration; a policy of the cluster."""
_TRANSIENT: Final = 0.05
_PROPAGATION_S: Final = 1.0
"""Seconds after which every broker has a topic that another one has created."""
_NOT_TAKEN: Final = frozenset({40, 44})
"""Of CreateTopics: a configuration, or a policy of the cluster."""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """The facts about the topics that a writer needs."""

    partitions: int
    """Of each topic of events, as far as they are used."""
    shards: int
    """Partitions of the checkpoint topic; there may be more than shards."""
    largest: dict[str, int]
    """Bytes of one batch of records that a topic takes."""
    in_sync: dict[str, int]
    """Replicas that must have a message of a topic before it counts."""


class MissingTopics(ActionRequired):
    """Topics that were there are gone; nothing was stored."""

    def __init__(self, names: Sequence[str]) -> None:
        """Name the topics."""
        super().__init__(f"there is no topic {', '.join(names)}: make it again, as `gateway check` does")
        self.names = names


@dataclass(frozen=True, slots=True)
class Partition:
    """The cluster's state of a partition."""

    leader: int
    """Below zero where there is none now."""
    replicas: int
    in_sync: int
    """Replicas that have everything now."""


async def prepare(connection: Connection, settings: ClusterSettings) -> list[str]:
    """Make the topics that are missing, and refuse those that would break a promise.

    Returns what is not as it was to be, and harms nothing.

    Raises:
        ConfigurationError: a permission is missing, a topic missing (and not to be made) or dangerous; says
            which, and what to do.
        Unavailable: Kafka did not answer, or has too few brokers now.

    """
    wanted = list(desired_topics(settings))
    names = [one.name for one in wanted]
    with map_aiokafka_errors("the topics"):
        async with asyncio.timeout(connection.options.timeout):
            found = await described(connection, names)
            missing = [one for one in wanted if one.name not in found]
            if missing:
                await _create(connection, settings, missing)
                while missing := [one for one in wanted if one.name not in found]:
                    found = await described(connection, names)
                    await asyncio.sleep(_TRANSIENT)
            while any(one.leader < 0 for topic in found.values() for one in topic.values()):
                await asyncio.sleep(_TRANSIENT)
                found = await described(connection, names)
    return await _compare(connection, settings, found)


async def compare(connection: Connection, settings: ClusterSettings) -> None:
    """Compare the topics with what they must be, and make none.

    Raises MissingTopics, ConfigurationError for what is dangerous or not permitted, Unavailable.
    """
    names = [one.name for one in desired_topics(settings)]
    with map_aiokafka_errors("the topics"):
        async with asyncio.timeout(connection.options.timeout):
            found = await described(connection, names)
    if missing := [name for name in names if name not in found]:
        raise MissingTopics(missing)
    await _compare(connection, settings, found)


async def _compare(
    connection: Connection, settings: ClusterSettings, found: dict[str, dict[int, Partition]]
) -> list[str]:
    """Return what exists in surplus, as text; raises ConfigurationError, Unavailable."""
    wanted = list(desired_topics(settings))
    configs = await _configs(connection, [one.name for one in wanted])
    problems = [
        f"{one.name}: {problem}"
        for one in wanted
        for problem in shape_problems(one, settings, [part.replicas for part in found[one.name].values()])
        + list(config_problems(one, settings, configs[one.name]))
    ]
    if problems:
        remedy = (
            "Mend what it names; or, where the deployment never began, delete the topics and let the gateway make them."
        )
        raise ConfigurationError("topics", "; ".join(problems), remedy)
    return [surplus(one, len(found[one.name])) for one in wanted if len(found[one.name]) > one.partitions]


async def identity(options: ConnectionOptions, server: str) -> str | None:
    """Ask one server for the id of its cluster; None where that has none yet.

    Raises ConfigurationError, Unavailable.
    """
    async with connect(replace(options, servers=[server])) as connection:
        answer = (await connection.ask(MetadataRequest([], allow_auto_topic_creation=False))).to_object()
    return answer.get("cluster_id") or None


async def facts(connection: Connection, topics: Topics, partitions: int | None = None) -> ClusterFacts:
    """Return the facts that a writer needs who uses so many `partitions` of each topic of events; None: all of them.

    Raises MissingTopics, Unavailable, ConfigurationError for a missing permission.
    """
    names = [*topics.events, topics.checkpoints]
    every = [*names, topics.accounts]
    deadline = asyncio.get_running_loop().time() + _PROPAGATION_S
    found = await described(connection, every)
    while missing := [name for name in every if name not in found]:
        if asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_TRANSIENT)
            found = await described(connection, every)
            continue
        raise MissingTopics(missing)
    counts = {len(found[name]) for name in topics.events}
    if partitions is None and len(counts) != 1:
        raise Unavailable(f"the topics of events have different numbers of partitions: {sorted(counts)}")
    for name in topics.events:
        if partitions is not None and len(found[name]) < partitions:
            raise ActionRequired(f"{name} {_too_few(len(found[name]), partitions)}: {how_to_add(name, partitions)}")
    configs = await _configs(connection, names, ["max.message.bytes", "min.insync.replicas"])
    largest = {name: int(config["max.message.bytes"]) for name, config in configs.items()}
    for name, limit in largest.items():
        if limit < USUAL_MESSAGE:  # it is about all events, and none of them is to become a dead letter for it
            problem = f"{name} takes messages of up to {limit} bytes, too few for usual events"
            raise ActionRequired(f"{problem}. Mend it: set max.message.bytes to {SMALLEST_MESSAGE} or more")
    in_sync = {name: int(config["min.insync.replicas"]) for name, config in configs.items()}
    return ClusterFacts(partitions or counts.pop(), len(found[topics.checkpoints]), largest, in_sync)


async def partitions(connection: Connection, topics: Iterable[str]) -> list[TopicPartition]:
    """Return all partitions of those of the topics that there are; raises Unavailable."""
    found = await described(connection, list(topics))
    return [TopicPartition(name, number) for name, leaders in found.items() for number in sorted(leaders)]


async def places(
    connection: Connection, tps: Sequence[TopicPartition], when: int = END
) -> dict[TopicPartition, int | None]:
    """Return the place of the first record from a time on in each partition; None where there is none yet.

    The end is that of the written records, open transactions included: a reader of committed records that reads up to
    it has the outcome of them all. Raises Unavailable.
    """
    result: dict[TopicPartition, int | None] = {}
    with map_aiokafka_errors("the places of records"):
        async with asyncio.timeout(connection.options.timeout):
            while left := [tp for tp in tps if tp not in result]:
                leaders = await described(connection, list({tp.topic for tp in left}))
                by_leader: dict[int, dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
                for tp in left:
                    known = leaders.get(tp.topic, {}).get(tp.partition)
                    if known is not None and known.leader >= 0:
                        by_leader[known.leader][tp.topic].append((tp.partition, when))
                for leader, asked in by_leader.items():
                    answer = await connection.ask(OffsetRequest(-1, 0, list(asked.items())), node=leader)
                    result |= _offsets(answer)
                if not all(tp in result for tp in left):
                    await asyncio.sleep(_TRANSIENT)
    return result


def _offsets(answer: Any) -> dict[TopicPartition, int | None]:  # noqa: ANN401 - aiokafka's own
    found: dict[TopicPartition, int | None] = {}
    for topic, parts in answer.topics:
        for partition, code, _, offset in parts:
            error = for_code(code)
            if code == 0:
                found[TopicPartition(topic, partition)] = offset if offset >= 0 else None
            elif not error.retriable:
                raise _denied(topic) if code in _DENIED else error(topic)
    return found


async def described(connection: Connection, names: list[str]) -> dict[str, dict[int, Partition]]:
    """Return each partition of the topics that there are; nothing is created by asking.

    Raises Unavailable, ConfigurationError for a missing permission.
    """
    answer = (await connection.ask(MetadataRequest(names, allow_auto_topic_creation=False))).to_object()
    found = {}
    for topic in answer["topics"]:
        code = topic["error_code"]
        if code in _DENIED:
            raise _denied(topic["topic"])
        if code != _UNKNOWN and topic["partitions"]:
            parts = topic["partitions"]
            found[topic["topic"]] = {
                one["partition"]: Partition(one["leader"], len(one["replicas"]), len(one["isr"])) for one in parts
            }
    return found


async def _configs(
    connection: Connection, names: list[str], keys: list[str] | None = None
) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    deadline = asyncio.get_running_loop().time() + _PROPAGATION_S
    while left := [name for name in names if name not in found]:
        answer = await connection.ask(DescribeConfigsRequest([(_TOPIC, name, keys) for name in left]))
        for code, message, _, name, entries in answer.resources:
            if code in _DENIED:
                raise _denied(name, "DescribeConfigs")
            if code == 0:
                found[name] = {entry[0]: entry[1] for entry in entries}
            elif code != _UNKNOWN or asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"the configuration of {name} cannot be read: {message or for_code(code).__name__}")
        if len(found) < len(names):
            await asyncio.sleep(_TRANSIENT)
    return found


async def _create(connection: Connection, settings: ClusterSettings, missing: list[DesiredTopic]) -> None:
    names = ", ".join(one.name for one in missing)
    if not settings.create:
        raise ConfigurationError("topics", f"there is no {names}", "Make them, or let the gateway make them.")
    errors = await _asked_for(connection, settings, missing)
    unsafe = {name for name, code, _ in errors if code in _NOT_TAKEN}
    if unsafe:  # maybe for that alone; what holds then is compared
        plain = [
            replace(one, config={key: value for key, value in one.config.items() if key not in SAFE_ELECTION})
            for one in missing
            if one.name in unsafe
        ]
        errors = [one for one in errors if one[0] not in unsafe]
        errors += await _asked_for(connection, settings, plain)
    for name, code, message in errors:
        problem = message or for_code(code).__name__
        if code in _DENIED:
            raise _denied(name, "Create")
        if code in _OPERATORS:
            raise ConfigurationError(f"topic {name}", f"cannot be made: {problem}", "Mend what it names.")
        if code not in {0, _EXISTS}:  # another replica may have been quicker
            raise Unavailable(f"topic {name} cannot be made: {problem}")


async def _asked_for(
    connection: Connection, settings: ClusterSettings, topics: list[DesiredTopic]
) -> list[tuple[str, int, str | None]]:
    """Ask for topics; return the name, the code and the words of each answer."""
    request = CreateTopicsRequest(
        [(one.name, one.partitions, settings.replicas, [], list(one.config.items())) for one in topics],
        round(connection.options.request_timeout * 1000),
        False,  # noqa: FBT003 - not only validated
    )
    answer = await connection.ask(request)
    return [(name, code, message) for name, code, message in answer.topic_errors]


def _too_few(count: int, wanted: int) -> str:
    return f"has {count} partitions, fewer than the {wanted} that are used"


def _denied(name: str, operation: str = "Describe") -> ConfigurationError:
    return permission_error(f"topic {name}", operation)
