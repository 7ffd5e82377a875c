"""Ownership on Kafka: a consumer group over a topic with one partition a shard, of which nothing is ever read.

Rebalances are eager: the group revokes all partitions and assigns them again, by an assignor that moves few. So revoked
partitions are still served, and only those that the new assignment took are stopped. A shard that moves may be claimed
by its next owner before this one has stopped it: the claim fences what is still under way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka import errors as kafka
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.structs import TopicPartition

from gateway.broker.kafka import client_internals
from gateway.broker.kafka.connection import Connection
from gateway.broker.kafka.errors import as_action_required, describe, map_aiokafka_errors, permissions_may_return
from gateway.broker.kafka.topics import Topics
from gateway.broker.kafka.trial import LASTED, Trial, timeout_refusal
from gateway.errors import ActionRequired, ConfigurationError, Unavailable

log = logging.getLogger(__name__)

_POLL_INTERVAL_S: Final = 0.1
"""Seconds between two polls: by them a new assignment is seen, and a consumer that is not polled is taken for dead."""
_RETRY_DELAY_S: Final = 1.0
"""Seconds before a member that failed joins again."""
_CONFIRM: Final = 5.0
"""Seconds for the answer to a confirmation."""
_REFUSED: Final = (
    kafka.CommitFailedError,
    kafka.UnknownMemberIdError,
    kafka.IllegalGenerationError,
    kafka.RebalanceInProgressError,
)
"""The group has gone on without us, or is about to."""


@dataclass(frozen=True, slots=True)
class GroupTiming:
    """Seconds."""

    session: float = 6.0
    """Without a heartbeat after which a member is taken for dead; the broker allows no less by default."""
    heartbeat: float = 0.3
    """Its answer informs a member of a rebalance; until then the shards of a member that left are silent."""


class KafkaOwnership:
    """The ownership of one deployment (`gateway.broker.ports.Ownership`)."""

    def __init__(self, connection: Connection, topics: Topics, timing: GroupTiming | None = None) -> None:
        self._connection = connection
        self._topics = topics
        self._timing = timing or GroupTiming()

    async def check(self) -> None:
        """See whether we may be in the group; raises ConfigurationError, Unavailable."""
        answer = await self._connection.ask(FindCoordinatorRequest(self._topics.group, 0))
        if answer.error_code == kafka.GroupAuthorizationFailedError.errno:  # later nothing would report more than this
            remedy = "Give the gateway's user the ACLs of docs/operate/kafka.md."
            raise ConfigurationError(f"group {self._topics.group}", "Kafka does not permit Read", remedy)

    @asynccontextmanager
    async def join(self, member: str, shards: int) -> AsyncIterator[KafkaMembership]:
        """Take part; see the contract."""
        membership = KafkaMembership(self._connection, self._topics, self._timing, member, shards)
        try:
            yield membership  # it joins the group with the first request for changes, and again until it can
        finally:
            await membership.end()


class KafkaMembership(ConsumerRebalanceListener):  # type: ignore[misc]  # it has no annotations
    """One member (`gateway.broker.ports.Membership`)."""

    def __init__(self, connection: Connection, topics: Topics, timing: GroupTiming, member: str, shards: int) -> None:
        self._connection = connection
        self._topics = topics
        self._timing = timing
        self._member = member
        self._shards = shards
        self._consumer: AIOKafkaConsumer | None = None
        self._consuming = AsyncExitStack()
        self._assigned: frozenset[int] = frozenset()
        self._is_known = False
        self._is_changed = False
        self._is_leaving = False
        self._failing_since: float | None = None
        self._problem = ""
        self._joining_since: float | None = None
        self._polling: asyncio.Task[Any] | None = None
        self._trial = Trial(connection, topics, session=timing.session, transaction=0)

    async def begin(self) -> None:
        """Join the group, as a new member; raises Unavailable."""
        self._failing_since = None
        # Of its own for each member: the library keeps what a member had in the assignor's class.
        sticky = type("Sticky", (StickyPartitionAssignor,), {})
        consumer = await self._consuming.enter_async_context(
            self._connection.consumer(
                group_id=self._topics.group,
                client_id=self._member.replace("/", "-"),
                session_timeout_ms=round(self._timing.session * 1000),
                max_poll_interval_ms=round(self._timing.session * 1000),
                heartbeat_interval_ms=round(self._timing.heartbeat * 1000),
                partition_assignment_strategy=(sticky,),
            )
        )
        self._joining_since = self._joining_since or _clock()
        consumer.subscribe([self._topics.checkpoints], listener=self)
        self._consumer = consumer

    async def end(self) -> None:
        """Leave the group."""
        self._consumer = None
        polling, self._polling = self._polling, None
        if polling is not None:
            polling.cancel()
            await asyncio.wait({polling})
            if not polling.cancelled():
                polling.exception()
        await self._consuming.aclose()

    async def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ANN401 - the library's
        """Go on: most of it will be assigned again."""

    async def on_partitions_assigned(self, assigned: Any) -> None:  # noqa: ANN401 - the library's
        """Take in the new assignment."""
        self._joining_since = None
        if self._consumer is not None:
            self._consumer.pause(*assigned)  # nothing of it is to be read
        self._assigned = frozenset(tp.partition for tp in assigned if tp.partition < self._shards)
        self._is_known = self._is_changed = True

    async def assignments(self) -> AsyncIterator[frozenset[int]]:
        """Yield the shards to serve; see the contract."""
        while True:
            if self._is_changed and (self._is_known or self._is_leaving):
                self._is_changed = False
                yield frozenset() if self._is_leaving else self._assigned
                continue
            try:
                await self._poll()
            except (kafka.KafkaError, OSError, Unavailable) as error:
                self._note_problem(await self._explained(error))
                await self.end()  # the library's member does not outlive an error, and keeps the login it began with
                await asyncio.sleep(_RETRY_DELAY_S)

    async def _explained(self, error: Exception) -> Exception:
        """Return the error with the names of those in the way, where the group has members that are no gateways."""
        if isinstance(error, kafka.InconsistentGroupProtocolError):
            try:
                await self._trial.group(0)
            except (ActionRequired, Unavailable, ConfigurationError) as found:
                return found
        return error

    def _note_problem(self, error: Exception) -> None:
        """Keep why the group cannot be used, and log it where it is another reason than before."""
        explained = as_action_required(error, "Read") or timeout_refusal(error, session=self._timing.session) or error
        problem = str(explained) if isinstance(explained, Unavailable) else describe(explained)
        if problem != self._problem:
            level = logging.ERROR if isinstance(explained, ActionRequired) else logging.WARNING
            log.log(level, "shard ownership unavailable: %s", problem)
        self._problem = problem

    async def _poll(self) -> None:
        if self._failing_since is not None and _clock() - self._failing_since > self._timing.session:
            if await self._is_there():
                await self.end()
            else:
                self._failing_since = _clock()
        if self._consumer is None:
            with permissions_may_return():
                await self._connection.explain()
                await self.begin()
        await self._check_joining()
        assert self._consumer is not None  # noqa: S101 - it has just begun
        # In a task, since it returns only once there is an assignment, and there may never be one.
        polling = self._polling = self._polling or asyncio.create_task(
            self._consumer.getmany(timeout_ms=round(_POLL_INTERVAL_S * 1000))
        )
        await asyncio.wait({polling}, timeout=_RETRY_DELAY_S)
        if polling.done():
            self._polling = None
            polling.result()

    async def _check_joining(self) -> None:
        """Raise what keeps the member out of the group for so long, where the library would wait for ever."""
        if self._joining_since is None:
            self._problem = ""
        elif _clock() - self._joining_since > LASTED:
            self._joining_since = _clock()
            await self._trial.group(0)

    async def _is_there(self) -> bool:
        """Return whether Kafka can be reached, if only to be refused: an outage is no reason to join again.

        The group would wait for the old self after it, for as long as a session lasts.
        """
        try:
            await self._connection.explain()
        except Unavailable:
            return False
        except ConfigurationError:
            return True
        return True

    async def is_owner(self, shard: int) -> bool:
        """Commit an offset as a member of the present generation, which no reader uses; see the contract."""
        if self._is_leaving or shard not in self._assigned:
            return False
        if self._consumer is None:
            raise Unavailable(f"whose shard {shard} is cannot be told: {self._problem}")
        try:
            with map_aiokafka_errors("the group of the gateways"):
                async with asyncio.timeout(_CONFIRM):
                    await client_internals.commit_as_member(
                        self._consumer, TopicPartition(self._topics.checkpoints, shard)
                    )
        except Unavailable as error:
            if isinstance(error.__cause__, _REFUSED):
                if shard in self._assigned:  # it may still be ours in the next generation
                    raise
                return False
            if isinstance(error.__cause__, kafka.UnknownTopicOrPartitionError):
                return shard in self._assigned  # opening the log reports what is missing, and creates it where it may
            if (denied := as_action_required(error.__cause__ or error, "Read")) is not None:
                raise denied from error
            self._failing_since = self._failing_since or _clock()
            with permissions_may_return():
                await self._connection.explain()
            raise
        self._failing_since = None
        return shard in self._assigned and not self._is_leaving

    async def release(self, shard: int) -> None:
        """Do nothing, since no member waits for it; see the contract."""
        if shard in self._assigned and not self._is_leaving:
            self._is_changed = True
        await asyncio.sleep(0)

    async def leave(self) -> None:
        """Assign nothing any more; the group is left when the membership ends, else all would be dealt out now."""
        self._is_leaving = self._is_changed = True
        await asyncio.sleep(0)


def _clock() -> float:
    return asyncio.get_running_loop().time()
