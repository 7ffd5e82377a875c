"""Reading partitions from one place to another, committed records only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, TypeAlias

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from gateway.broker.kafka.client_connection import receives_since
from gateway.broker.kafka.connection import Connection
from gateway.broker.kafka.errors import map_aiokafka_errors
from gateway.errors import Unavailable

Record: TypeAlias = Any
"""aiokafka's ConsumerRecord, which has no published types."""

_AT_ONCE: Final = 8 * 1024 * 1024
"""Bytes that a broker gives at once, of one partition as of all."""
_WAIT: Final = 10
"""Milliseconds to wait for records before checking whether the end is reached: a transaction's end is no record."""
_LONG_WAIT: Final = 500


async def read_to(
    connection: Connection, begin: Mapping[TopicPartition, int], end: Mapping[TopicPartition, int]
) -> AsyncIterator[list[Record]]:
    """Yield the records of partitions from `begin` up to, but not including, `end`, by partition in order.

    Waits for transactions that are open before `end`. Raises Unavailable when nothing comes in time; an answer of which
    something comes is waited for, since it may be long and the line slow.
    """
    begin = {tp: place for tp, place in begin.items() if place < end[tp]}
    if not begin:
        return
    clock = asyncio.get_running_loop().time
    async with _consumer(connection, begin, 100) as consumer:
        places = dict(begin)
        moved = clock()
        while left := [tp for tp in places if places[tp] < end[tp]]:
            with map_aiokafka_errors("a read", "Read"):
                batches = await consumer.getmany(*left, timeout_ms=_WAIT)
                for tp in left:
                    place = await consumer.position(tp)
                    if place != places[tp]:
                        places[tp], moved = place, clock()
            came = receives_since(consumer._client)  # noqa: SLF001 - as in connection.py
            if clock() - max(moved, came) > connection.options.timeout:
                raise Unavailable(
                    f"nothing can be read of {left[0].topic}, partition {left[0].partition}, from {places[left[0]]} "
                    f"on: Kafka does not answer, or a transaction is open there"
                )
            for tp in left:
                if places[tp] >= end[tp]:
                    consumer.pause(tp)
            found = [record for tp, records in batches.items() for record in records if record.offset < end[tp]]
            if found:
                yield found


async def follow(connection: Connection, begin: Mapping[TopicPartition, int]) -> AsyncIterator[list[Record]]:
    """Yield the records of partitions from `begin` on, without end; none after a quiet while. Raises Unavailable."""
    async with _consumer(connection, begin, _LONG_WAIT) as consumer:
        while True:
            with map_aiokafka_errors("a read", "Read"):
                batches = await consumer.getmany(timeout_ms=_LONG_WAIT)
            yield [record for records in batches.values() for record in records]


async def read_all(
    connection: Connection, begin: Mapping[TopicPartition, int], end: Mapping[TopicPartition, int]
) -> AsyncIterator[Record]:
    """Yield single records, as `read_to` does."""
    async with aclosing(read_to(connection, begin, end)) as batches:  # type: ignore[type-var]
        async for records in batches:
            for record in records:
                yield record


@asynccontextmanager
async def _consumer(
    connection: Connection, begin: Mapping[TopicPartition, int], longest: int
) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a consumer of these partitions from these places on, which waits up to so many milliseconds for records."""
    topics = {tp.topic for tp in begin}
    limits = {"max_partition_fetch_bytes": _AT_ONCE, "fetch_max_bytes": _AT_ONCE}
    async with connection.consumer(topics, **limits, fetch_max_wait_ms=longest) as consumer:
        consumer.assign(list(begin))
        for tp, place in begin.items():
            consumer.seek(tp, place)
        yield consumer
