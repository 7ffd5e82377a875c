"""Reads the topics back as a consumer does: committed records only.

Kafka keeps the order within an account's topic. Over topics and partitions a read goes by the records' times, as far as
they come together.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from aiokafka.structs import TopicPartition

from gateway.broker.kafka import cluster, fetch
from gateway.broker.kafka.connection import Connection
from gateway.broker.kafka.fetch import Record, read_to
from gateway.broker.kafka.registry import started_with
from gateway.broker.kafka.topics import Topics, message_of, partition_of
from gateway.broker.ports import Stored, time_of

_POSITION: Final = re.compile(r"(?P<kind>[a-z0-9-]+)/(?P<partition>\d+):(?P<offset>\d+)")
_LOOK_BACK: Final = 64
"""Records before a partition's end among which a last message is looked for first."""

Places = dict[TopicPartition, int]


class KafkaReader:
    """Reads the topics of one deployment (`gateway.broker.ports.LogReader`)."""

    def __init__(self, connection: Connection, topics: Topics) -> None:
        self._connection = connection
        self._topics = topics

    async def read(
        self, *, topics: Sequence[str] | None, accounts: Sequence[str] | None, start: str, follow: bool
    ) -> AsyncIterator[Stored]:
        """Yield the messages in order within each topic and account; see the contract.

        A position is `kind/partition:offset` and means that partition alone.

        Raises:
            ConfigurationError: `start` is none.
            Unavailable: Kafka does not answer. To go on, start one offset after the last message.

        """
        tps = await self._partitions(topics, accounts)
        ends = _known(await cluster.places(self._connection, tps))
        places = await self._start(start, tps, ends, accounts)
        batches = fetch.follow(self._connection, places) if follow else read_to(self._connection, places, ends)
        async with aclosing(batches):  # type: ignore[type-var]
            async for records in batches:
                for record in sorted(records, key=_by_time):
                    stored = self._stored(record)
                    if stored is not None and (accounts is None or stored.message.account in accounts):
                        yield stored

    async def _partitions(self, topics: Sequence[str] | None, accounts: Sequence[str] | None) -> list[TopicPartition]:
        """Return the partitions in which such messages can be."""
        kinds = self._topics.kinds if topics is None else [kind for kind in self._topics.kinds if kind in topics]
        if not kinds:
            return []
        found = await cluster.partitions(self._connection, map(self._topics.message, kinds))
        if accounts is None:
            return found
        count = await started_with(self._connection, self._topics)
        if count is None:  # topics may have more partitions than are used
            return found
        wanted = {partition_of(account, count) for account in accounts}
        return [tp for tp in found if tp.partition in wanted]

    async def _start(
        self, start: str, tps: Sequence[TopicPartition], ends: Places, accounts: Sequence[str] | None
    ) -> Places:
        if start == "first":
            return await self._firsts(tps)
        if start == "new":
            return dict(ends)
        if start == "last":
            return ends | await self._last(ends, await self._firsts(tps), accounts)
        position = _POSITION.fullmatch(start)
        if position is not None:
            tp = TopicPartition(self._topics.message(position["kind"]), int(position["partition"]))
            return {one: int(position["offset"]) for one in tps if one == tp}
        since = time_of(start, position="kind/partition:offset")
        return ends | _known(await cluster.places(self._connection, tps, int(since.timestamp() * 1000)))

    async def _firsts(self, tps: Sequence[TopicPartition]) -> Places:
        return _known(await cluster.places(self._connection, tps, cluster.FIRST))

    async def _last(self, ends: Places, firsts: Places, accounts: Sequence[str] | None) -> Places:
        """Find the newest message: among the last records of each partition, then among ever more."""
        back = _LOOK_BACK
        while True:
            begin = {tp: max(firsts[tp], end - back) for tp, end in ends.items()}
            newest: Record | None = None
            async with aclosing(read_to(self._connection, begin, ends)) as batches:  # type: ignore[type-var]
                async for records in batches:
                    for record in records:
                        stored = self._stored(record)
                        wanted = stored is not None and (accounts is None or stored.message.account in accounts)
                        if wanted and (newest is None or _by_time(record) >= _by_time(newest)):
                            newest = record
            if newest is not None:
                return {TopicPartition(newest.topic, newest.partition): newest.offset}
            if begin == firsts:
                return {}
            back *= 8

    def _stored(self, record: Record) -> Stored | None:
        kind = self._topics.kind(record.topic)
        message = message_of(kind, record.key, record.value, record.headers)
        return None if message is None else Stored(message, f"{kind}/{record.partition}:{record.offset}")


def _known(places: Mapping[TopicPartition, int | None]) -> Places:
    return {tp: place for tp, place in places.items() if place is not None}


def _by_time(record: Record) -> tuple[int, str, int, int]:
    return record.timestamp, record.topic, record.partition, record.offset
