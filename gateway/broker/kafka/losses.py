"""Looking for what topics of events lost, among what this process knows to have written there."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import aclosing

from aiokafka.structs import TopicPartition

from gateway.broker.kafka import cluster
from gateway.broker.kafka.connection import Connection, permissions_may_return
from gateway.broker.kafka.ends import PartitionEnds, numbered
from gateway.broker.kafka.fetch import read_all
from gateway.broker.kafka.topics import Topics, message_of
from gateway.broker.ports import Lost


async def look_back(connection: Connection, topics: Topics, ends: PartitionEnds) -> None:
    """Let `ends` find what is not there any more of partitions that lost their ends; raises Unavailable.

    Partitions without a leader are left for another time: they keep no other topic from being written to.
    """
    if not (known := ends.of_events()):
        return
    with permissions_may_return():
        now = {tp: end or 0 for tp, end in (await cluster.places(connection, await led(connection, known))).items()}
        for tp, end in ends.short(now).items():
            oldest = (await cluster.places(connection, [tp], cluster.FIRST))[tp] or 0  # what is before it is too old
            begin = max(oldest, ends.first(tp, now[tp]))
            ends.lose(tp, end, oldest, await _events(connection, topics, tp, begin, now[tp]))


async def led(connection: Connection, known: Collection[TopicPartition]) -> list[TopicPartition]:
    """Return those of the partitions that are there and have a leader; raises Unavailable."""
    if not known:
        return []
    found = await cluster.described(connection, sorted({tp.topic for tp in known}))
    return [tp for tp in known if tp.partition in (at := found.get(tp.topic, {})) and at[tp.partition].leader >= 0]


async def _events(
    connection: Connection, topics: Topics, tp: TopicPartition, begin: int, end: int
) -> set[tuple[str, Lost]]:
    """Return the events in a partition from a place up to another, by account."""
    found, kind = set(), topics.kind(tp.topic)
    async with aclosing(read_all(connection, {tp: begin}, {tp: end})) as records:  # type: ignore[type-var]
        async for record in records:
            message = message_of(kind, record.key, record.value, record.headers)
            if message is not None and (event := numbered(message)) is not None:
                found.add((message.account, event))
    return found
