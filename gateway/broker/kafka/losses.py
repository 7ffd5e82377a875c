"""Looking for what topics of events lost, among what this process knows to have written there."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import aclosing
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.structs import TopicPartition

from gateway.broker.kafka import cluster
from gateway.broker.kafka.connection import Connection
from gateway.broker.kafka.connection_limit import time_limit
from gateway.broker.kafka.ends import Found, PartitionEnds, numbered
from gateway.broker.kafka.errors import map_aiokafka_errors, permissions_may_return
from gateway.broker.kafka.fetch import read_all
from gateway.broker.kafka.topics import Topics, message_of

_PROBE: Final = b"gateway.end"
"""Key of a record that tells where a partition ends; compacted topics take none without."""


async def look_back(  # noqa: PLR0917 - in one place
    connection: Connection,
    producer: AIOKafkaProducer,
    topics: Topics,
    ends: PartitionEnds,
    every: Collection[PartitionEnds],
    limit: float,
) -> None:
    """Let `ends` find what is not there any more of partitions that lost their ends; raises Unavailable.

    `producer` is the shard's new one, which has no transaction; it has `limit` seconds to prove where they end.

    All shards share the partitions of events, so `every` one of this process is told which of them do. Else the first
    one to be opened would write on, up to where the others had written, and they would miss nothing.

    Partitions without a leader are left for another time: they keep no other topic from being written to.
    """
    before = [(one, {tp: one.last(tp) for tp in one.of_events()}) for one in every]  # they may write meanwhile
    known = {tp for _, lasts in before for tp in lasts} | {*ends.doubted()}
    with permissions_may_return():
        with_leader = await partitions_with_leader(connection, known)
        now = {tp: end or 0 for tp, end in (await cluster.places(connection, with_leader)).items()}
        doubtful = {tp for _, lasts in before for tp in lasts.keys() & now.keys() if now[tp] <= lasts[tp]}
        doubtful |= ends.short(now).keys()
        if doubtful:
            now |= await _proven(producer, doubtful, limit)
        for one, lasts in before:
            for tp in lasts.keys() & now.keys():
                if one.last(tp) == lasts[tp] >= ends.ended(tp, now[tp]):  # it may have looked itself meanwhile
                    one.doubt(tp, ends.ended(tp, now[tp]))
        for tp, end in ends.short(now).items():
            begin = max(await _oldest(connection, tp), ends.first(tp, now[tp]))
            left = await _events(connection, topics, tp, begin, now[tp], ends.sought(tp))
            oldest = await _oldest(connection, tp)  # again: some may have grown too old meanwhile
            ends.lose(tp, end, oldest, left, now=now[tp])


async def _proven(
    producer: AIOKafkaProducer, partitions: Collection[TopicPartition], limit: float
) -> dict[TopicPartition, int]:
    """Return where partitions end, each proven by a record that its leader and all in sync stored; raises Unavailable.

    A broker that its cluster has replaced as a leader still says where its copy ends, which may be before what is
    stored. It takes no record. The records are of a transaction that is aborted, so nobody reads them; its marker also
    ends what a former writer of this name may have left open there, which would hold up every reader.
    """
    with map_aiokafka_errors("the ends of partitions"):
        async with time_limit(producer.client, limit):
            await producer.begin_transaction()
            sent = [await producer.send(tp.topic, key=_PROBE, partition=tp.partition) for tp in partitions]
            stored = await asyncio.gather(*sent)
            await producer.abort_transaction()
    return {one.topic_partition: one.offset for one in stored if one.offset >= 0}


async def partitions_with_leader(connection: Connection, known: Collection[TopicPartition]) -> list[TopicPartition]:
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
