"""The event log on Kafka: a transactional producer a shard, whose start fences every older one of its name.

Kafka returns `ProducerFenced` also where there is no other producer: after a transaction timed out, or a broker was
unavailable for long. So a writer begins with a claim, a record in the checkpoint partition that only the newest
producer can commit. A fenced writer reads whose claim is the newest.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka
from aiokafka.structs import TopicPartition

from gateway.broker.kafka import cluster
from gateway.broker.kafka import topic_repair as repair
from gateway.broker.kafka.cluster import ClusterFacts, MissingTopics
from gateway.broker.kafka.commit_limits import CommitLimits
from gateway.broker.kafka.connection import Connection
from gateway.broker.kafka.ends import PartitionEnds
from gateway.broker.kafka.error_codes import problem_of
from gateway.broker.kafka.errors import permissions_may_return
from gateway.broker.kafka.fence import Claim, read_shard, superseded
from gateway.broker.kafka.losses import look_back
from gateway.broker.kafka.shard import KafkaShard
from gateway.broker.kafka.topic_rules import ClusterSettings
from gateway.broker.kafka.topics import Topics
from gateway.broker.kafka.trial import LASTED, Trial, timeout_refusal
from gateway.errors import ActionRequired, Unavailable

_BATCH: Final = 1024 * 1024
"""Bytes of one batch of records, unless a topic takes less; a larger message stands alone."""


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
class _FailedWriter:
    """A writer of this process that failed, while its claim was the newest as far as it knew."""

    since: int
    """The place of its claim."""
    claims: set[Claim]
    """Its claim, and those with which we have tried to follow it."""


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
                self._interrupted[shard].claims.add(opened.own_claim)  # it may stand although the answer is a failure
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
        newest = (await read_shard(self._connection, own, interrupted.since)).newest
        if newest not in interrupted.claims:
            del self._interrupted[shard]  # the next opener reads it
            raise superseded(shard, newest)

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
            if (needed := timeout_refusal(error.__cause__ or error, transaction=timeout)) is not None:
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
