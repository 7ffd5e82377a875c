"""Finds what topics of events lost, among the records that this process wrote there."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
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
"""Key of a record that marks where a partition ends; compacted topics take none without."""


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

    All shards share the partitions of events, so `every` one of this process is notified of them. Else the first one to
    be opened would write on, up to where the others had written, and they would miss nothing.

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
                if one.last(tp) == lasts[tp] >= ends.found_end(tp, now[tp]):  # it may have looked itself meanwhile
                    one.notify(tp, ends.found_end(tp, now[tp]))
        short = ends.short(now)
        oldest = await _oldest(connection, short)
        begin = {tp: max(oldest[tp], ends.first(tp, now[tp])) for tp in short}
        left = await _events(connection, topics, begin, now, {tp: ends.sought(tp) for tp in short})
        oldest = await _oldest(connection, short)  # again: some may have grown too old meanwhile
        for tp, end in short.items():
            ends.lose(tp, end, oldest[tp], left[tp], now=now[tp])
            await asyncio.sleep(0)  # others have their turn: each takes some milliseconds


async def _proven(
    producer: AIOKafkaProducer, partitions: Collection[TopicPartition], limit: float
) -> dict[TopicPartition, int]:
    """Return where partitions end, each proven by a record that its leader and all in sync stored; raises Unavailable.

    A broker that its cluster has replaced as a leader still reports where its copy ends, which may be before what is
    stored. It takes no record. The records are of a transaction that is aborted, so no reader gets them; its marker
    also ends what a former writer of this name may have left open there, which would hold up every reader.
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


async def _oldest(connection: Connection, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
    """Return the place in each partition before which everything was too old to be kept; raises Unavailable."""
    return {tp: first or 0 for tp, first in (await cluster.places(connection, [*partitions], cluster.FIRST)).items()}


async def _events(
    connection: Connection,
    topics: Topics,
    begin: Mapping[TopicPartition, int],
    end: Mapping[TopicPartition, int],
    sought: Mapping[TopicPartition, Collection[Found]],
) -> dict[TopicPartition, set[Found]]:
    """Return which of the events that are sought are in each partition, from where it is to begin up to its end.

    All partitions are read at once. With a consumer for each, a replica whose broker was put back took a minute for
    some hundred of them.
    """
    found: dict[TopicPartition, set[Found]] = {tp: set() for tp in begin}
    kinds = {topic: topics.kind(topic) for topic in {tp.topic for tp in begin}}
    async with aclosing(read_all(connection, begin, end)) as records:  # type: ignore[type-var]
        async for record in records:
            tp = TopicPartition(record.topic, record.partition)
            message = message_of(kinds[tp.topic], record.key, record.value, record.headers)
            event = None if message is None else numbered(message)
            if message is not None and event is not None and (message.account, event) in sought[tp]:
                found[tp].add((message.account, event))
    return found
