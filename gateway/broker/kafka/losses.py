"""Looking for what topics of events lost, among what this process knows to have written there."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import aclosing

from aiokafka.structs import TopicPartition

from gateway.broker.kafka import cluster
from gateway.broker.kafka.connection import Connection, permissions_may_return
from gateway.broker.kafka.ends import Found, PartitionEnds, numbered
from gateway.broker.kafka.fetch import read_all
from gateway.broker.kafka.topics import Topics, message_of


async def look_back(
    connection: Connection, topics: Topics, ends: PartitionEnds, every: Collection[PartitionEnds]
) -> None:
    """Let `ends` find what is not there any more of partitions that lost their ends; raises Unavailable.

    All shards share the partitions of events, so `every` one of this process is told which of them do. Else the first
    one to be opened would write on, up to where the others had written, and they would miss nothing.

    Partitions without a leader are left for another time: they keep no other topic from being written to.
    """
    before = [(one, {tp: one.last(tp) for tp in one.of_events()}) for one in every]  # they may write meanwhile
    known = {tp for _, lasts in before for tp in lasts}
    with permissions_may_return():
        now = {tp: end or 0 for tp, end in (await cluster.places(connection, await led(connection, known))).items()}
        for one, lasts in before:
            for tp in lasts.keys() & now.keys():
                if now[tp] <= lasts[tp]:
                    one.doubt(tp, now[tp])
        for tp, end in ends.short(now).items():
            begin = max(await _oldest(connection, tp), ends.first(tp, now[tp]))
            left = await _events(connection, topics, tp, begin, now[tp], ends.sought(tp))
            ends.lose(tp, end, await _oldest(connection, tp), left)  # some may have grown too old meanwhile


async def led(connection: Connection, known: Collection[TopicPartition]) -> list[TopicPartition]:
    """Return those of the partitions that are there and have a leader; raises Unavailable."""
    if not known:
        return []
    found = await cluster.described(connection, sorted({tp.topic for tp in known}))
    return [tp for tp in known if tp.partition in (at := found.get(tp.topic, {})) and at[tp.partition].leader >= 0]


async def _oldest(connection: Connection, tp: TopicPartition) -> int:
    """Return the place in a partition before which everything was too old to be kept; raises Unavailable."""
    return (await cluster.places(connection, [tp], cluster.FIRST))[tp] or 0


async def _events(  # noqa: PLR0917 - in one place
    connection: Connection, topics: Topics, tp: TopicPartition, begin: int, end: int, sought: Collection[Found]
) -> set[Found]:
    """Return which of the events that are sought are in a partition from a place up to another."""
    found, kind = set(), topics.kind(tp.topic)
    async with aclosing(read_all(connection, {tp: begin}, {tp: end})) as records:  # type: ignore[type-var]
        async for record in records:
            message = message_of(kind, record.key, record.value, record.headers)
            event = None if message is None else numbered(message)
            if message is not None and event is not None and (message.account, event) in sought:
                found.add((message.account, event))
    return found
