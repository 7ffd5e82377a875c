"""The required configuration of each topic, and what about an existing one would break a promise. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gateway.broker.kafka.topics import DESIRED, OBSERVED, Topics
from gateway.publication import USUAL_MESSAGE
from gateway.session.checkpoint import LARGEST

SMALLEST_MESSAGE: Final = LARGEST + 1024
"""Bytes that the checkpoint topic must take: a checkpoint, and the record around it."""

_QUICKLY_COMPACTED: Final = {
    "segment.bytes": str(1024 * 1024),
    "segment.ms": str(3600 * 1000),
    "min.cleanable.dirty.ratio": "0.1",
}
"""A takeover reads all of a partition, and a watch all of its topic, so what is superseded must not stay for long.

Kafka compacts all but the newest segment, and takes none below 1 MiB. A takeover that has to read 7,500 commits spends
0.12 s of CPU on each shard, which is several seconds beside busy processes (measured).
"""
_TOMBSTONES: Final = 24 * 3600 * 1000
"""Milliseconds for which a replica that was cut off still sees what was forgotten."""
SAFE_ELECTION: Final = {"unclean.leader.election.enable": "false"}
"""A copy that lacks messages must not become the leader. Some managed clusters do not let it be set at all."""
_TIMED: Final = {"message.timestamp.type": "LogAppendTime"}
"""Times are the broker's, which refuses what is from more than an hour ahead: a gateway's clock may be off."""


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """How the topics are to be."""

    topics: Topics
    partitions: int = 8
    """Of each topic of events."""
    shards: int = 16
    """Partitions of the checkpoint topic."""
    replicas: int = 1
    retention: float | None = None
    """Seconds; None keeps events for ever."""
    retention_bytes: int | None = None
    """Bytes of each partition of events that may bound that; None lets no size do so."""
    audit_retention: float | None = None
    """Seconds that a record of the audit topic stays; None keeps it for ever."""
    create: bool = True
    """Make the topics that are missing; existing ones are only ever checked."""
    account_in_key: bool = False
    """Whether keys begin with the account, so that a compacted topic of events loses nothing."""

    @property
    def in_sync(self) -> int:
        """Replicas that must have a message before it counts: one may be away, where there are three."""
        return max(1, self.replicas - 1)


@dataclass(frozen=True, slots=True)
class DesiredTopic:
    """A topic as it is to be."""

    name: str
    partitions: int
    config: dict[str, str]
    setting: str
    """The setting with the number of partitions."""


def desired_topics(settings: ClusterSettings) -> Iterator[DesiredTopic]:
    """Yield every topic as it is to be."""
    topics = settings.topics
    in_sync = {"min.insync.replicas": str(settings.in_sync)}
    retention = "-1" if settings.retention is None else str(round(settings.retention * 1000))
    size = "-1" if settings.retention_bytes is None else str(settings.retention_bytes)
    always = {**in_sync, **_TIMED, **SAFE_ELECTION}
    events = {"cleanup.policy": "delete", "retention.ms": retention, "retention.bytes": size, **always}
    kept = {"cleanup.policy": "compact", "delete.retention.ms": str(_TOMBSTONES), **_QUICKLY_COMPACTED, **always}
    for name in topics.events:
        yield DesiredTopic(name, settings.partitions, events, "topics.partitions")
    yield DesiredTopic(topics.checkpoints, settings.shards, kept, "shards")
    yield DesiredTopic(topics.accounts, 1, kept, "")
    yield DesiredTopic(topics.control, max(DESIRED, OBSERVED) + 1, kept, "")
    audit_retention = "-1" if settings.audit_retention is None else str(round(settings.audit_retention * 1000))
    audit = {"cleanup.policy": "delete", "retention.ms": audit_retention, "retention.bytes": "-1", **always}
    yield DesiredTopic(topics.audit, 1, audit, "")


def shape_problems(wanted: DesiredTopic, settings: ClusterSettings, replicas: list[int]) -> list[str]:
    """Return what is wrong with a topic whose partitions have so many replicas."""
    problems = []
    if len(replicas) < wanted.partitions:
        what = f"it has {len(replicas)} partitions, not {wanted.partitions}"
        remedy = how_to_add(wanted.name, wanted.partitions)
        if wanted.setting:
            what = f"it has {len(replicas)} partitions, and {wanted.setting} is {wanted.partitions}"
            remedy = f"set it to what it was when the deployment first started, or {remedy}"
        problems.append(f"{what}: there would be no place for some of what belongs there; {remedy}")
    if min(replicas) < settings.replicas:
        problems.append(
            f"it has {min(replicas)} replicas, not {settings.replicas}: too few brokers may fail; give it more with "
            f"kafka-reassign-partitions, or set broker.replicas to {min(replicas)}"
        )
    return problems


def how_to_add(name: str, partitions: int) -> str:
    """Return how partitions are added."""
    return f"add partitions with `kafka-topics --alter --topic {name} --partitions {partitions}`"


def surplus(wanted: DesiredTopic, count: int) -> str:
    """Return the words for a topic that has more partitions than are used."""
    return f"{wanted.name} has {count} partitions, and the gateway goes on with the first {wanted.partitions}"


def config_problems(wanted: DesiredTopic, settings: ClusterSettings, config: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with the configuration of a topic."""
    policy = config["cleanup.policy"]
    if wanted.name == settings.topics.audit:
        yield from _forgetting(wanted, config)
    elif wanted.config["cleanup.policy"] == "delete":
        if "compact" in policy and not settings.account_in_key:
            yield (
                f"cleanup.policy is {policy}: equal keys of two accounts would erase each other; set it to delete, or "
                f"messages.key to account-sequence"
            )
        elif "delete" in policy:
            yield from _leaving(wanted, config)
    elif policy != "compact":
        yield f"cleanup.policy is {policy}: checkpoints would expire; set it to compact"
    yield from _losing(wanted, settings, config)


def _losing(wanted: DesiredTopic, settings: ClusterSettings, config: dict[str, str]) -> Iterator[str]:
    """Yield what would let a topic lose an acknowledged record, or misreport its age, or take nothing."""
    is_compact = wanted.config["cleanup.policy"] == "compact"
    least, who = (SMALLEST_MESSAGE, "a checkpoint needs") if is_compact else (USUAL_MESSAGE, "usual events need")
    if int(config["max.message.bytes"]) < least:
        yield f"max.message.bytes is {config['max.message.bytes']}: {who} {least}"
    clock = config["message.timestamp.type"]
    if wanted.name == settings.topics.control and clock != "LogAppendTime":
        yield f"message.timestamp.type is {clock}: ages would be by the writers' clocks; set it to LogAppendTime"
    if wanted.name == settings.topics.control and int(config["delete.retention.ms"]) < _TOMBSTONES:
        yield (
            f"delete.retention.ms is {config['delete.retention.ms']}: replicas that are cut off for longer would not "
            f"hear of what is forgotten; set it to {_TOMBSTONES}"
        )
    if settings.replicas > 1 and config["unclean.leader.election.enable"] == "true":
        yield (
            "unclean.leader.election.enable is true: a copy that lacks what was acknowledged may become the leader; "
            "set it to false"
        )
    in_sync = int(config["min.insync.replicas"])
    if in_sync < settings.in_sync:
        yield f"min.insync.replicas is {in_sync}, not {settings.in_sync}: what was acknowledged could be lost"
    if in_sync > settings.replicas:
        yield f"min.insync.replicas is {in_sync} of {settings.replicas} replicas: nothing could be written"


def _forgetting(wanted: DesiredTopic, config: dict[str, str]) -> Iterator[str]:
    """Yield what lets records of the audit topic expire too early."""
    policy, retention, size = config["cleanup.policy"], config["retention.ms"], config["retention.bytes"]
    if policy != "delete":
        yield f"cleanup.policy is {policy}: newer records would erase older ones of their account; set it to delete"
    if not _long_enough(retention, wanted.config["retention.ms"]):
        audit_retention = wanted.config["retention.ms"]
        yield f"retention.ms is {retention}: records would leave before topics.audit_retention ({audit_retention} ms)"
    if size != "-1":
        yield f"retention.bytes is {size}: records would leave however young they are; set it to -1"


def _leaving(wanted: DesiredTopic, config: dict[str, str]) -> Iterator[str]:
    """Yield what lets events expire too early; brokers have a bound by size for topics that have none."""
    if not _long_enough(config["retention.ms"], wanted.config["retention.ms"]):
        yield (
            f"retention.ms is {config['retention.ms']}, events would leave before topics.retention "
            f"({wanted.config['retention.ms']} ms)"
        )
    size = config["retention.bytes"]
    if not _long_enough(size, wanted.config["retention.bytes"]):
        yield (
            f"retention.bytes is {size}: events would leave however young they are; set it to "
            f"{wanted.config['retention.bytes']}, or topics.retention_bytes to {size} if that is meant"
        )


def _long_enough(given: str, wanted: str) -> bool:
    return given == "-1" or (wanted != "-1" and int(given) >= int(wanted))
