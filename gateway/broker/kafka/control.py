"""The control store on Kafka: a compacted topic, one partition of desired state and one of observed state.

There are two partitions, for two reasons. A write reads all desired state, and must not wade through the reports of
thousands of owners. And a writer that dies in its transaction holds up the readers of its partition, until the next
write or the end of the transaction.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka
from aiokafka.structs import TopicPartition

from gateway.broker.kafka import cluster, fetch, topic_rules
from gateway.broker.kafka.connection import Connection
from gateway.broker.kafka.errors import as_action_required, describe, permissions_may_return
from gateway.broker.kafka.topics import DESIRED, OBSERVED, Topics
from gateway.broker.ports import Record
from gateway.broker.watch import watch
from gateway.errors import BrokerError, Conflict, OutcomeUnknown, Unavailable

_POLL_INTERVAL_S: Final = 2.0
"""Seconds between two looks whether the topic is still the one that is followed."""
_BACKOFF: Final = 0.1
"""Seconds that a write waits at most before its second attempt; doubled for each further one."""
_FENCED: Final = (kafka.ProducerFenced, kafka.InvalidProducerEpoch)


@dataclass(slots=True)
class _Change:
    """A write, and how far it has come."""

    records: Mapping[tuple[TopicPartition, str], bytes | None]
    """What is to be written, by partition and key; None erases."""
    expect: Mapping[str, int] = field(default_factory=dict)
    """The revisions that keys of desired state must still have."""
    is_ending: bool = False
    """Whether the end of its transaction was requested: from then on it may be stored."""

    def failed(self, why: str) -> BrokerError:
        """Return the error that has the outcome of the write."""
        return OutcomeUnknown(why) if self.is_ending else Unavailable(f"{why}; nothing was written")


class _Overtaken(Exception):
    """Another writer began before this one came to the end of its transaction; nothing was written."""


class KafkaControl:
    """The control store of one deployment (`gateway.broker.ports.ControlStore`).

    A key's revision is one more than its record's offset, which compaction keeps. An erased key is a tombstone, which
    compaction removes after a day; a key whose last record is one has no revision.

    Ages are by the broker's clock, as far as Kafka reports it. The topic's records carry the broker's time, and the
    answers to the writes and reports of this process have the present time there; before the first one, it is taken to
    be ours.
    """

    def __init__(self, connection: Connection, topics: Topics, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives our time, in seconds since 1970."""
        self._connection = connection
        self._desired = TopicPartition(topics.control, DESIRED)
        self._observed = TopicPartition(topics.control, OBSERVED)
        self._transactional_id = topics.control_id
        self._clock = clock
        self._ahead = 0.0
        """Seconds that the broker's clock is ahead of ours."""
        self._writing = asyncio.Lock()

    # Reading ------------------------------------------------------------------------------------------------

    def watch(self) -> AsyncIterator[Record | None]:
        """Yield the last values, then each change; see the contract.

        It begins again from the topic's first record after every trouble, and gives nothing twice.
        """
        return watch(self._read)

    async def _read(self) -> AsyncGenerator[tuple[tuple[int, int], Record | None], None]:
        """Yield records with their places and times, and None after each batch: the first is all that there is."""
        with permissions_may_return():
            async with aclosing(self._batches()) as batches:  # type: ignore[type-var]
                async for newest in batches:
                    for stored in newest.values():
                        yield (stored.offset, stored.timestamp), self._record(stored)
                    yield (0, 0), None

    async def _batches(self) -> AsyncIterator[dict[tuple[int, bytes], fetch.Record]]:
        """Yield the newest record of every key, then of those that changed.

        It ends where the topic is another one, or begins elsewhere than it did: no compaction does that.
        """
        firsts, places = await self._places(cluster.FIRST), await self._places(cluster.END)
        begin = dict.fromkeys(places, 0)
        newest: dict[tuple[int, bytes], fetch.Record] = {}
        async with aclosing(fetch.read_all(self._connection, begin, places)) as records:  # type: ignore[type-var]
            async for record in records:
                if record.key is not None:
                    newest[record.partition, record.key] = record
        yield newest
        looked = time.monotonic()
        async with aclosing(fetch.follow(self._connection, dict(places))) as batches:  # type: ignore[type-var]
            async for batch in batches:
                for record in batch:
                    tp = TopicPartition(record.topic, record.partition)
                    if record.offset < places[tp]:
                        return
                    places[tp] = record.offset + 1
                yield {(record.partition, record.key): record for record in batch if record.key is not None}
                if time.monotonic() - looked > _POLL_INTERVAL_S:
                    ends = await self._places(cluster.END)
                    if any(ends[tp] < places[tp] for tp in places) or await self._places(cluster.FIRST) != firsts:
                        return
                    looked = time.monotonic()

    async def _places(self, which: int) -> dict[TopicPartition, int]:
        places = await cluster.places(self._connection, [self._desired, self._observed], which)
        return {tp: place or 0 for tp, place in places.items()}

    def _record(self, record: fetch.Record) -> Record:
        age = max(0.0, self._clock() + self._ahead - record.timestamp / 1000)
        is_observed = record.partition == OBSERVED
        return Record(record.key.decode(errors="replace"), record.value or b"", _revision(record), is_observed, age)

    def _set_broker_time(self, timestamp: int) -> None:
        """Learn what time it is at the broker, from what it has just stored."""
        self._ahead = timestamp / 1000 - self._clock()

    # Writing ------------------------------------------------------------------------------------------------

    async def write(self, key: str, value: bytes, expect: int) -> int:
        """Replace the desired state of `key`; see the contract.

        The start of a transactional producer keeps every other writer from ending its transaction; so what is read
        then stays true until this one has ended its own. Two at once overtake each other until one comes through.
        """
        return await self._carry_out(_Change({(self._desired, key): value}, {key: expect}))

    async def forget(self, keys: Collection[str]) -> None:
        """Erase the desired and the observed state of `keys`; see the contract.

        It is one transaction of the same producer, so a writer that has compared before it cannot write after it. A
        gateway that dies in it holds up the readers of both partitions.
        """
        if keys:
            await self._carry_out(_Change({(tp, key): None for key in keys for tp in (self._desired, self._observed)}))

    async def _carry_out(self, change: _Change) -> int:
        """Make `change`, and return the revision of its first record."""
        limit = self._connection.options.timeout
        longest = _BACKOFF
        try:
            async with asyncio.timeout(limit), self._writing:
                while True:
                    with suppress(_Overtaken), permissions_may_return():
                        return await self._attempt(change)
                    await asyncio.sleep(random.uniform(0, longest))  # noqa: S311 - no secret
                    longest *= 2
        except TimeoutError as error:
            raise change.failed(f"Kafka did not answer within {limit:g} s") from error

    async def _attempt(self, change: _Change) -> int:
        producer = await self._connection.producer(
            transactional_id=self._transactional_id,
            topics=[self._desired.topic],
            largest=topic_rules.SMALLEST_MESSAGE,
            transaction_timeout=self._connection.options.timeout,
        )
        try:
            for key, expect in change.expect.items():
                revision = await self._read_revision(key)
                if revision != expect:
                    raise Conflict(f"{key} is at revision {revision}, not {expect}")
            await producer.begin_transaction()
            stored: list[Any] = await self._send(producer, change)
            change.is_ending = True
            await producer.commit_transaction()
        except _FENCED as error:
            if change.is_ending:
                raise change.failed(describe(error)) from error
            raise _Overtaken from error
        except (kafka.KafkaError, OSError, AssertionError) as error:  # AssertionError: it failed for good before
            raise (None if change.is_ending else as_action_required(error)) or change.failed(describe(error)) from error
        finally:
            await self._connection.end_producer(producer)
        self._set_broker_time(stored[0].timestamp)
        return int(stored[0].offset) + 1

    async def _send(self, producer: AIOKafkaProducer, change: _Change) -> list[Any]:
        """Send the records of `change`, and wait until each is stored: only then may the transaction be ended."""
        sent = [
            await producer.send(tp.topic, value, key.encode(), partition=tp.partition)
            for (tp, key), value in change.records.items()
        ]
        return await asyncio.gather(*sent)

    async def _read_revision(self, key: str) -> int:
        """Read the desired state to its end: a transaction that is being ended there is waited for."""
        revision = 0
        ends = await self._places(cluster.END)
        end = {self._desired: ends[self._desired]}
        async with aclosing(fetch.read_all(self._connection, {self._desired: 0}, end)) as records:  # type: ignore[type-var]
            async for record in records:
                if record.key == key.encode():
                    revision = _revision(record)
        return revision

    async def publish_observed(self, observed: Mapping[str, bytes]) -> None:
        """Publish the observed state; see the contract."""
        if observed:
            records = {key.encode(): value for key, value in observed.items()}
            with permissions_may_return():
                self._set_broker_time(await self._connection.write(self._observed, records))


def _revision(record: fetch.Record) -> int:
    """A tombstone makes a key one that never was."""
    return 0 if record.value is None else int(record.offset) + 1
