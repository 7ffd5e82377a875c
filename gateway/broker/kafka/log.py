"""The event log on Kafka: a transactional producer a shard, whose start fences every older one of its name.

A commit is one transaction over the events' partitions and the shard's partition of the checkpoint topic. aiokafka
commits a transaction in which a batch failed, and says that all is well: so each batch is awaited, and only when
all of them are stored is the transaction ended.

Kafka says `ProducerFenced` also where nobody else is: after a transaction timed out, or a broker was away for
long. So a writer begins with a claim, a record in the checkpoint partition that only the newest producer can
commit; who is told that it is fenced looks whose claim is the newest.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final
from uuid import uuid4

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka
from aiokafka.structs import TopicPartition

from gateway.broker.foreign_records import name_of, parsed_object
from gateway.broker.kafka import client_internals as innards
from gateway.broker.kafka import cluster
from gateway.broker.kafka import topic_repair as repair
from gateway.broker.kafka.cluster import ClusterFacts, MissingTopics
from gateway.broker.kafka.commit_limits import LARGE, CommitLimits, largest
from gateway.broker.kafka.connection import Connection
from gateway.broker.kafka.connection_limit import patience
from gateway.broker.kafka.ends import Batch, PartitionEnds, parts_of
from gateway.broker.kafka.error_codes import problem_of
from gateway.broker.kafka.errors import describe, map_aiokafka_errors, permissions_may_return
from gateway.broker.kafka.fetch import read_all
from gateway.broker.kafka.losses import led, look_back
from gateway.broker.kafka.topic_rules import ClusterSettings
from gateway.broker.kafka.topics import CLAIM, Headers, Topics, headers_of, partition_of
from gateway.broker.kafka.trial import LASTED, Trial, meant
from gateway.broker.ports import Commit, Limits, Lost, check_limits
from gateway.errors import ActionRequired, BrokerError, CommitRejected, Fenced, OutcomeUnknown, TooLarge, Unavailable
from gateway.publication import Message
from gateway.tasks import retrieve_exception

VERSION: Final = 1
LIMITS: Final = Limits(messages=5000, bytes=16 * 1024 * 1024)

_BATCH: Final = 1024 * 1024
"""Bytes of one batch of records, unless a topic takes less; a larger message stands alone."""
_GRACE: Final = 1.0
"""Seconds that a rival may take between fencing us and its claim."""
_POLL_INTERVAL_S: Final = 0.1
_MARKED_S: Final = 5.0
"""Seconds until the markers of a transaction must be written that is answered for."""
_FORGOTTEN: Final = (kafka.OutOfOrderSequenceNumber, kafka.UnknownProducerId)
"""A partition does not know what this producer wrote there before."""
_FENCED: Final = (kafka.ProducerFenced, kafka.InvalidProducerEpoch)


@dataclass(frozen=True, slots=True)
class EventLogSettings:
    """How the log is written."""

    topics: Topics
    owner: str
    """Names this process in its claims, for people."""
    commit_timeout: float = 10.0
    """Seconds for one commit."""
    transaction_timeout: float = 10.0
    """Seconds after which the broker aborts a transaction whose writer is gone; readers wait for that long."""
    partitions: int | None = None
    """Of each topic of events, over which accounts are spread; None: as many as the topics have."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the newest writer of a shard committed before anything else."""

    owner: str
    token: str
    """Tells this claim from every other one."""

    def encode(self) -> bytes:
        """Return the record's value."""
        return json.dumps({"version": VERSION, "owner": self.owner, "token": self.token}).encode()


@dataclass(frozen=True, slots=True)
class _FailedWriter:
    """A writer of this process that failed, while its claim was the newest as far as it knew."""

    since: int
    """The place of its claim."""
    claims: set[Claim]
    """Its claim, and those with which we have tried to follow it."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a shard's partition says."""

    checkpoints: dict[str, bytes]
    newest: Claim | None
    claimed_at: int
    """The place of the newest claim; 0 where there is none."""


@dataclass(slots=True)
class _Batch:
    tp: TopicPartition
    builder: Any
    messages: list[Message] = field(default_factory=list)


class KafkaLog:
    """The event log of one deployment on Kafka (`gateway.broker.ports.EventLog`)."""

    def __init__(self, connection: Connection, settings: EventLogSettings) -> None:
        self._connection = connection
        self._settings = settings
        self._facts: ClusterFacts | None = None
        self._asking = asyncio.Lock()
        self._restored: ClusterSettings | None = None
        self._claiming: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._interrupted: dict[int, _FailedWriter] = {}
        self._ends: dict[int, PartitionEnds] = {}
        """By shard, over all its writers: so what is lost while none can write is noticed, too."""
        self._limits: defaultdict[int, CommitLimits] = defaultdict(lambda: CommitLimits(settings.commit_timeout))
        self._waiting_since: float | None = None
        """Since when no producer could start."""

    def recreate_missing_topics(self, settings: ClusterSettings) -> None:
        """Make topics again that are deleted from now on, where no promise suffers; else their lack is an error."""
        self._restored = settings

    @asynccontextmanager
    async def open(self, shard: int) -> AsyncIterator[KafkaShard]:
        """Claim `shard`; see the contract.

        Where a writer of ours failed, and a rival has claimed the shard since, this raises Fenced and claims
        nothing: a process that was frozen past its time limits would else take the shard back from its heir.
        """
        with permissions_may_return():
            facts = await self._known()
        if shard >= facts.shards:
            raise ValueError(f"shard {shard} of {facts.shards}")
        async with self._claiming[shard]:  # two of one process would fence each other before either has claimed
            await self._check_rivals(shard)
            producer = await self._start(shard, facts)
            claim, ends, limits = Claim(self._settings.owner, uuid4().hex), self._ends_of(shard), self._limits[shard]
            opened = KafkaShard(self._connection, self._settings.topics, claim, shard, facts, producer, ends, limits)
            if shard in self._interrupted:
                self._interrupted[shard].claims.add(opened.own_claim)  # it may stand although we hear of a failure
            try:
                await opened.claim()
                topics, limit = self._settings.topics, self._settings.commit_timeout
                await look_back(self._connection, producer, topics, opened.ends, self._ends.values(), limit)
            except BaseException:
                self._facts = None  # it may be for what was changed
                await self._connection.end_producer(opened.producer)
                raise
            self._interrupted.pop(shard, None)
        try:
            yield opened
        finally:
            if opened.failed:
                self._facts = None  # what failed may have been changed
                self._interrupted[shard] = _FailedWriter(opened.claimed_at, {opened.own_claim})
            await self._connection.end_producer(opened.producer)

    def _ends_of(self, shard: int) -> PartitionEnds:
        ends = self._ends.setdefault(
            shard, PartitionEnds(shard, TopicPartition(self._settings.topics.checkpoints, shard))
        )
        ends.begin_again()
        return ends

    async def _check_rivals(self, shard: int) -> None:
        interrupted = self._interrupted.get(shard)
        if interrupted is None:
            return
        own = TopicPartition(self._settings.topics.checkpoints, shard)
        newest = (await _read(self._connection, own, interrupted.since)).newest
        if newest not in interrupted.claims:
            del self._interrupted[shard]  # who opens it again knows of it
            raise _superseded(shard, newest)

    async def _start(self, shard: int, facts: ClusterFacts) -> AIOKafkaProducer:
        timeout = self._settings.transaction_timeout * self._limits[shard].factor
        try:
            with permissions_may_return():
                started = await self._connection.producer(
                    transactional_id=self._settings.topics.transactional_id(shard),
                    topics=facts.largest,
                    largest=min(_BATCH, *facts.largest.values()),
                    transaction_timeout=timeout,
                )
        except ActionRequired:
            raise
        except Unavailable as error:
            if (needed := meant(error.__cause__ or error, transaction=timeout)) is not None:
                if timeout > self._settings.transaction_timeout and self._limits[shard].shorten():
                    raise Unavailable(f"{needed}; a shorter one is tried") from error
                raise needed from error
            if isinstance(error.__cause__, kafka.KafkaError):
                problem = problem_of(error.__cause__)
                if isinstance(problem, ActionRequired):
                    raise problem from error
            await self._check_coordinator()
            why = await repair.problems(self._connection, self._settings.topics, facts)
            raise Unavailable(f"{error}{why}") from error
        self._waiting_since = None
        return started

    async def _check_coordinator(self) -> None:
        """Raise what keeps producers from their start for so long, where that is their coordinator's."""
        now = asyncio.get_running_loop().time()
        self._waiting_since = self._waiting_since or now
        if now - self._waiting_since > LASTED:
            timeout = self._settings.transaction_timeout
            await Trial(self._connection, self._settings.topics, session=0, transaction=timeout).transactions(0)

    async def _known(self) -> ClusterFacts:
        async with self._asking:
            if self._facts is None:
                try:
                    self._facts = await self._asked()
                except MissingTopics as missing:
                    if self._restored is None:
                        raise
                    await repair.restore(self._connection, self._restored, missing)
                    self._facts = await self._asked()
            return self._facts

    async def _asked(self) -> ClusterFacts:
        return await cluster.facts(self._connection, self._settings.topics, self._settings.partitions)


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

        The producer's own epoch would not do: it begins anew with each producer id.
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
        seen = await _read(self._connection, self._own, 0)
        if seen.newest != self.own_claim:
            raise self._spend(_superseded(self._shard, seen.newest))
        self._is_read = True
        self.claimed_at = seen.claimed_at  # a claim that was sent twice is answered without its offset
        return seen.checkpoints

    async def commit(self, commit: Commit) -> None:
        """Store all of `commit` or nothing of it; see the contract."""
        if self._spent is not None:
            raise type(self._spent)(f"this log is spent: {self._spent}") from self._spent
        check_limits(commit, LIMITS)
        if not commit.messages and not commit.checkpoints:
            return
        await self._commit(self._batches(commit))
        self.ends.knows(commit.checkpoints)

    async def check(self) -> None:
        """Ask whether what this writer stored last is there; see the contract."""
        if self._spent is not None:
            raise type(self._spent)(f"this log is spent: {self._spent}") from self._spent
        clock = asyncio.get_running_loop().time
        deadline, is_good = clock() + _MARKED_S, False
        while not is_good:
            with permissions_may_return():
                events = await led(self._connection, self.ends.of_events())
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
            async with patience(self.producer.client, limit):
                await self.producer.begin_transaction()
                await self._store(batches)
                is_ending = True
                await self.producer.commit_transaction()
        except TimeoutError:
            why = await repair.problems(self._connection, self._topics, self._facts)
            said = f"Kafka did not answer within {limit:g} s{why}"
            problem = OutcomeUnknown(said) if is_ending else self._too_late(said, size, batches)
        except _FENCED as error:
            problem = await self._who_fenced(error)
        except BrokerError as error:
            problem = error
        except (kafka.KafkaError, OSError, AssertionError) as error:  # AssertionError: it failed for good before
            cause = innards.aborted_by(self.producer) or error
            problem = OutcomeUnknown(describe(cause)) if is_ending else problem_of(cause)
        else:
            self._spent = None
            self._limits.came_in_time(size, clock() - began)
            self.ends.on_stored()
            return
        if is_ending:
            self.ends.on_stored()
        raise self._spend(problem)

    def _too_late(self, said: str, size: int, batches: Sequence[_Batch]) -> BrokerError:
        """Return the error of a commit that was not stored in time: where it was large, it is given longer once more.

        Where it was given the longest time, a person must see to it.
        """
        said = f"{said}; nothing was stored"
        if size < LARGE:
            return Unavailable(said)
        said = f"{said} of {size} bytes{largest(message for batch in batches for message in batch.messages)}"
        if not self._limits.came_too_late(size):
            return Unavailable(said)
        return ActionRequired(f"the line to Kafka is too slow: {said}. Mend it, or raise broker.commit_timeout")

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
            Batch(one.topic_partition, one.offset, *contents) for one, contents in zip(stored, held, strict=True)
        )

    async def _check_partitions(self, topic: str) -> None:
        """Refuse a topic that was made anew with fewer partitions than are used; more do no harm."""
        with map_aiokafka_errors(topic, "Describe"):
            count = len(await self.producer.partitions_for(topic))
        expected = self._facts.shards if topic == self._own.topic else self._facts.partitions
        if count < expected:
            raise Unavailable(f"{topic} has {count} partitions now, not {expected}; nothing was stored")

    def _batches(self, commit: Commit) -> list[_Batch]:
        """Put records into batches; raises TooLarge for a message, CommitRejected for a checkpoint that none holds."""
        now = _now()
        filling: dict[TopicPartition, _Batch] = {}
        full: list[_Batch] = []

        def add(tp: TopicPartition, key: bytes, value: bytes | None, headers: Headers) -> int | None:
            """Add a record; give its size where the topic does not take it."""
            batch = filling.get(tp)
            if batch is None or batch.builder.append(key=key, value=value, timestamp=now, headers=headers) is None:
                if batch is not None:
                    full.append(batch)
                batch = filling[tp] = _Batch(tp, self.producer.create_batch())
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
            filling[tp].messages.append(message)
        for account, checkpoint in commit.checkpoints.items():
            size = add(self._own, account.encode(), checkpoint, [])
            if size is not None:
                most = self._facts.largest[self._own.topic]
                raise self._spend(CommitRejected(f"a checkpoint has {size} bytes, Kafka takes at most {most}"))
        return [*full, *filling.values()]

    async def _who_fenced(self, error: Exception) -> BrokerError:
        """Distinguish a rival from a transaction that timed out: the broker fences its writer, too.

        A rival that has fenced us and not claimed yet is given a moment, lest we fence it in turn.
        """
        deadline = asyncio.get_running_loop().time() + _GRACE
        while True:
            try:
                newest = (await _read(self._connection, self._own, self.claimed_at)).newest
            except BrokerError as unread:
                return OutcomeUnknown(f"{describe(error)}, and the claims cannot be read: {unread}")
            if newest != self.own_claim:
                return _superseded(self._shard, newest)
            if asyncio.get_running_loop().time() > deadline:
                return OutcomeUnknown(f"{describe(error)}, although nobody else has claimed shard {self._shard}")
            await asyncio.sleep(_POLL_INTERVAL_S)

    def _spend(self, error: BrokerError) -> BrokerError:
        self._spent = error
        return error


async def _read(connection: Connection, own: TopicPartition, start: int) -> _Seen:
    """Read a shard's partition to the end that it has now."""
    found: dict[str, bytes] = {}
    newest: bytes | None = None
    claimed_at = 0
    with permissions_may_return():
        places = await cluster.places(connection, [own])
        async with aclosing(read_all(connection, {own: start}, {own: places[own] or 0})) as records:  # type: ignore[type-var]
            async for record in records:
                if record.key == CLAIM:
                    newest, claimed_at = record.value, int(record.offset)
                elif (name := name_of(record.key)) is None:
                    continue  # not of a gateway
                elif record.value is None:
                    found.pop(name, None)
                else:
                    found[name] = record.value
    return _Seen(found, None if newest is None else _claim_of(newest), claimed_at)


def _claim_of(value: bytes) -> Claim:
    said = parsed_object(value)
    return Claim(str(said.get("owner", "somebody whose record is no claim of a gateway")), str(said.get("token", "")))


def _superseded(shard: int, newest: Claim | None) -> BrokerError:
    """Say whose the shard is, or that nobody knows any more."""
    if newest is None:
        return OutcomeUnknown(f"the claim of shard {shard} is gone from the checkpoint topic: it was made anew")
    return Fenced(f"shard {shard} was claimed by {newest.owner}")


def _now() -> int:
    """Return the records' timestamp, for topics whose times are not the broker's: retention counts from it.

    Where our clock is off by an hour, the broker refuses the record, which must wait then: the event is sound.
    """
    return int(time.time() * 1000)
