"""The writer of one shard on Kafka.

A commit is one transaction over the events' partitions and the shard's partition of the checkpoint topic. aiokafka
commits a transaction in which a batch failed, and reports success. So each batch is awaited, and the transaction is
ended only when all of them are stored.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka
from aiokafka.structs import TopicPartition

from gateway.broker.kafka import client_internals, cluster
from gateway.broker.kafka import topic_repair as repair
from gateway.broker.kafka.cluster import ClusterFacts
from gateway.broker.kafka.commit_limits import LARGE, CommitLimits, largest
from gateway.broker.kafka.connection import Connection
from gateway.broker.kafka.connection_limit import time_limit
from gateway.broker.kafka.ends import PartitionEnds, RecordBatch, parts_of
from gateway.broker.kafka.error_codes import problem_of
from gateway.broker.kafka.errors import describe, map_aiokafka_errors, permissions_may_return
from gateway.broker.kafka.fence import Claim, read_shard, superseded
from gateway.broker.kafka.losses import partitions_with_leader
from gateway.broker.kafka.topics import CLAIM, Headers, Topics, headers_of, partition_of
from gateway.broker.ports import Commit, Limits, Lost, check_limits
from gateway.errors import ActionRequired, BrokerError, CommitRejected, Fenced, OutcomeUnknown, TooLarge, Unavailable
from gateway.publication import Message
from gateway.tasks import retrieve_exception

LIMITS: Final = Limits(messages=5000, bytes=16 * 1024 * 1024)

_GRACE: Final = 1.0
"""Seconds that a rival may take between fencing us and its claim."""
_POLL_INTERVAL_S: Final = 0.1
_MARKED_S: Final = 5.0
"""Seconds until the markers of a transaction must be written that is answered for."""
_FORGOTTEN: Final = (kafka.OutOfOrderSequenceNumber, kafka.UnknownProducerId)
"""A partition has no record of what this producer wrote there before."""
_FENCED: Final = (kafka.ProducerFenced, kafka.InvalidProducerEpoch)


@dataclass(slots=True)
class _Batch:
    tp: TopicPartition
    builder: Any
    messages: list[Message] = field(default_factory=list)


class KafkaShard:
    """The writer of one shard (`gateway.broker.ports.ShardLog`)."""

    def __init__(  # noqa: PLR0917 - in one place
        self,
        connection: Connection,
        topics: Topics,
        claim: Claim,
        shard: int,
        facts: ClusterFacts,
        producer: AIOKafkaProducer,
        ends: PartitionEnds,
        limits: CommitLimits,
    ) -> None:
        self.producer = producer
        self._limits = limits
        self._connection = connection
        self._topics = topics
        self._shard = shard
        self._facts = facts
        self.own_claim = claim
        self.claimed_at = 0
        self._own = TopicPartition(topics.checkpoints, shard)
        self.ends = ends
        self._is_read = False  # whether its checkpoints were
        self._spent: BrokerError | None = None

    @property
    def epoch(self) -> int:
        """One more than the offset of the claim: it rises with every record of the partition, and compaction keeps it.

        The producer's own epoch would not do: it restarts with each producer id.
        """
        return self.claimed_at + 1

    @property
    def limits(self) -> Limits:
        """What one commit may hold."""
        return LIMITS

    @property
    def failed(self) -> bool:
        """Whether it was spent by anything but a newer claim."""
        return self._spent is not None and not isinstance(self._spent, Fenced)

    async def claim(self) -> None:
        """Commit the claim; raises Unavailable or OutcomeUnknown."""
        builder = self.producer.create_batch()
        builder.append(key=CLAIM, value=self.own_claim.encode(), timestamp=_now())
        try:
            await self._commit([_Batch(self._own, builder)])
        except Fenced as fenced:
            raise OutcomeUnknown(f"a rival claimed the shard at the same moment: {fenced}") from fenced
        self.claimed_at = max(0, self.ends.last(self._own))

    @property
    def lost(self) -> Mapping[str, Collection[Lost]]:
        """What topics of events lost; see the contract."""
        return self.ends.lost

    async def checkpoints(self) -> dict[str, bytes]:
        """Return every checkpoint of the shard; see the contract."""
        if self._is_read:  # else what was committed would be taken for what is there now
            await self.check()
        seen = await read_shard(self._connection, self._own, 0)
        if seen.newest != self.own_claim:
            raise self._spend(superseded(self._shard, seen.newest))
        self._is_read = True
        self.claimed_at = seen.claimed_at  # a claim that was sent twice is answered without its offset
        self.ends.on_checkpoints_read(seen.places)
        return seen.checkpoints

    async def commit(self, commit: Commit) -> None:
        """Store all of `commit` or nothing of it; see the contract."""
        if self._spent is not None:
            raise type(self._spent)(f"this log is spent: {self._spent}") from self._spent
        check_limits(commit, LIMITS)
        if not commit.messages and not commit.checkpoints:
            return
        try:
            await self._commit(self._batches(commit))
        except OutcomeUnknown:
            self.ends.may_know(commit.checkpoints)
            raise
        self.ends.knows(commit.checkpoints)

    async def check(self) -> None:
        """Check whether what this writer stored last is there; see the contract."""
        if self._spent is not None:
            raise type(self._spent)(f"this log is spent: {self._spent}") from self._spent
        clock = asyncio.get_running_loop().time
        deadline, is_good = clock() + _MARKED_S, False
        while not is_good:
            with permissions_may_return():
                events = await partitions_with_leader(self._connection, self.ends.of_events())
                found = await cluster.places(self._connection, [self._own, *events])
            ends = {tp: end or 0 for tp, end in found.items()}
            try:
                is_good = self.ends.compare(ends, is_marked=clock() > deadline)
            except Unavailable as error:
                raise self._spend(OutcomeUnknown(str(error))) from None
            if not is_good:
                await asyncio.sleep(_POLL_INTERVAL_S)

    async def _commit(self, batches: Sequence[_Batch]) -> None:
        self._spent = OutcomeUnknown("a commit was cancelled")
        is_ending = False
        problem: BrokerError
        clock, size = asyncio.get_running_loop().time, sum(int(batch.builder.size()) for batch in batches)
        limit, began = self._limits.seconds(size), clock()
        try:
            async with time_limit(self.producer.client, limit):
                await self.producer.begin_transaction()
                await self._store(batches)
                is_ending = True
                await self.producer.commit_transaction()
        except TimeoutError:
            why = await repair.problems(self._connection, self._topics, self._facts)
            what = f"Kafka did not answer within {limit:g} s{why}"
            problem = OutcomeUnknown(what) if is_ending else self._too_late(what, size, batches)
        except _FENCED as error:
            problem = await self._who_fenced(error)
        except BrokerError as error:
            problem = error
        except (kafka.KafkaError, OSError, AssertionError) as error:  # AssertionError: it failed for good before
            cause = client_internals.aborted_by(self.producer) or error
            problem = OutcomeUnknown(describe(cause)) if is_ending else problem_of(cause)
        else:
            self._spent = None
            self._limits.came_in_time(size, clock() - began)
            self.ends.on_stored()
            return
        if is_ending:
            self.ends.on_stored()
        raise self._spend(problem)

    def _too_late(self, what: str, size: int, batches: Sequence[_Batch]) -> BrokerError:
        """Return the error of a commit that was not stored in time: where it was large, it is given longer once more.

        Where it was given the longest time, a person must see to it.
        """
        what = f"{what}; nothing was stored"
        if size < LARGE:
            return Unavailable(what)
        what = f"{what} of {size} bytes{largest(message for batch in batches for message in batch.messages)}"
        if not self._limits.came_too_late(size):
            return Unavailable(what)
        return ActionRequired(f"the line to Kafka is too slow: {what}. Mend it, or raise broker.commit_timeout")

    async def _store(self, batches: Sequence[_Batch]) -> None:
        """Send all batches, in order within each partition, and wait until all of them are stored."""
        by_partition: dict[TopicPartition, list[_Batch]] = defaultdict(list)
        for batch in batches:
            by_partition[batch.tp].append(batch)
        for topic in {tp.topic for tp in by_partition}:
            await self._check_partitions(topic)
        sent, held, at = [], [], []
        for rank in zip_longest(*by_partition.values()):
            for batch in rank:
                if batch is not None:
                    tp = batch.tp
                    outcome = await self.producer.send_batch(batch.builder, tp.topic, partition=tp.partition)
                    outcome.add_done_callback(retrieve_exception)  # where the next cannot be sent
                    sent.append(outcome)
                    held.append((batch.builder.record_count(), parts_of(batch.messages)))
                    at.append(tp)
        stored: list[Any] = await asyncio.gather(*sent, return_exceptions=True)
        failures = [one for one in stored if isinstance(one, BaseException)]
        for tp, one in zip(at, stored, strict=True):
            if isinstance(one, _FORGOTTEN):
                self.ends.doubt(tp)
        for failure in sorted(failures, key=lambda one: not isinstance(one, _FENCED)):
            raise failure
        self.ends.on_placed(
            RecordBatch(one.topic_partition, one.offset, *contents) for one, contents in zip(stored, held, strict=True)
        )

    async def _check_partitions(self, topic: str) -> None:
        """Refuse a topic that was re-created with fewer partitions than are used; more do no harm."""
        with map_aiokafka_errors(topic, "Describe"):
            count = len(await self.producer.partitions_for(topic))
        expected = self._facts.shards if topic == self._own.topic else self._facts.partitions
        if count < expected:
            raise Unavailable(f"{topic} has {count} partitions now, not {expected}; nothing was stored")

    def _batches(self, commit: Commit) -> list[_Batch]:
        """Put records into batches; raises TooLarge for a message, CommitRejected for a checkpoint that none holds."""
        now = _now()
        open_batches: dict[TopicPartition, _Batch] = {}
        full: list[_Batch] = []

        def add(tp: TopicPartition, key: bytes, value: bytes | None, headers: Headers) -> int | None:
            """Add a record; give its size where the topic does not take it."""
            batch = open_batches.get(tp)
            if batch is None or batch.builder.append(key=key, value=value, timestamp=now, headers=headers) is None:
                if batch is not None:
                    full.append(batch)
                batch = open_batches[tp] = _Batch(tp, self.producer.create_batch())
                batch.builder.append(key=key, value=value, timestamp=now, headers=headers)
                size = int(batch.builder.size())
                return size if size > self._facts.largest[tp.topic] else None
            return None

        places: dict[tuple[str, str], TopicPartition] = {}
        for index, message in enumerate(commit.messages):
            which = message.topic, message.account
            tp = places.get(which)
            if tp is None:
                partition = partition_of(message.account, self._facts.partitions)
                tp = places[which] = TopicPartition(self._topics.message(message.topic), partition)
            size = add(tp, message.key, message.value, headers_of(message))
            if size is not None:
                raise TooLarge(index, size, self._facts.largest[tp.topic])
            open_batches[tp].messages.append(message)
        for account, checkpoint in commit.checkpoints.items():
            size = add(self._own, account.encode(), checkpoint, [])
            if size is not None:
                most = self._facts.largest[self._own.topic]
                raise self._spend(CommitRejected(f"a checkpoint has {size} bytes, Kafka takes at most {most}"))
        return [*full, *open_batches.values()]

    async def _who_fenced(self, error: Exception) -> BrokerError:
        """Distinguish a rival from a transaction that timed out: the broker fences its writer, too.

        A rival that has fenced us and not claimed yet is given a moment, lest we fence it in turn.
        """
        deadline = asyncio.get_running_loop().time() + _GRACE
        while True:
            try:
                newest = (await read_shard(self._connection, self._own, self.claimed_at)).newest
            except BrokerError as unread:
                return OutcomeUnknown(f"{describe(error)}, and the claims cannot be read: {unread}")
            if newest != self.own_claim:
                return superseded(self._shard, newest)
            if asyncio.get_running_loop().time() > deadline:
                return OutcomeUnknown(f"{describe(error)}, although nobody else has claimed shard {self._shard}")
            await asyncio.sleep(_POLL_INTERVAL_S)

    def _spend(self, error: BrokerError) -> BrokerError:
        self._spent = error
        return error


def _now() -> int:
    """Return the records' timestamp, for topics whose times are not the broker's: retention counts from it.

    Where our clock is off by an hour, the broker refuses the record, which must wait then: the event is sound.
    """
    return int(time.time() * 1000)
