"""A trial of what the gateway needs of Kafka: a place in a group, a transaction, each broker at its address.

A setting of the brokers may stand in the way of each, and then Kafka's own client reports little or waits for ever.
Some failures are temporary: a coordinator is unavailable for seconds while its partition moves. The trial waits for
that, and reports only a lasting failure as one that needs a person.

The gateway asks its own group as a member that does not exist: the broker looks at the session before it looks for the
member. `gateway check` tries more: it joins a group of its own and begins a transaction, which leave no record behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import uuid4

from aiokafka import errors as kafka
from aiokafka.errors import for_code
from aiokafka.protocol.admin import ApiVersionRequest, DeleteGroupsRequest, DescribeConfigsRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.group import JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest

from gateway.broker.kafka import cluster
from gateway.broker.kafka.connection import Connection
from gateway.broker.kafka.errors import describe, permission_error
from gateway.broker.kafka.foreign_members import INCONSISTENT, held_by_others
from gateway.broker.kafka.listener import unreachable
from gateway.broker.kafka.topics import OBSERVED, Topics
from gateway.errors import ActionRequired, ConfigurationError, GatewayError, Unavailable

log = logging.getLogger(__name__)

_T = TypeVar("_T")

LASTED: Final = 30.0
"""Seconds after which it is a person's that there is no coordinator."""
OLDEST: Final = "2.5"
"""The oldest release that has all that the gateway asks for."""

_LOG_AFTER_S: Final = 3.0
"""Seconds after which it is said what is waited for."""
_AGAIN: Final = 0.2
_SOON: Final = 500
"""Milliseconds for which a new group waits for more members."""
_NOBODY: Final = "gateway-check"
"""The id of no member: brokers give those that end with a UUID."""
_BROKER: Final = 4
"""In DescribeConfigs: the resource is a broker."""
_GROUP, _TRANSACTION = 0, 1

_NO_COORDINATOR: Final = frozenset({14, 15, 16})
"""The coordinator loads, is not there, or is another broker by now."""
_BUSY: Final = 51
"""The last transaction of this id is being ended."""
_SESSION: Final = 26
_TIMEOUT: Final = 50
_MEMBER_NEEDED: Final = 79
_FENCED: Final = frozenset({47, 90})
"""Another `gateway check` has begun meanwhile."""
_TOPIC_DENIED: Final = 29
_GROUP_DENIED: Final = 30
_ID_DENIED: Final = 53

_RELEASES: Final = (
    (90, 0, "4.1"),
    (0, 12, "4.0"),
    (1, 17, "3.9"),
    (75, 0, "3.8"),
    (1, 16, "3.7"),
    (1, 15, "3.5"),
    (65, 0, "3.0"),
    (60, 0, "2.8"),
    (57, 0, "2.7"),
    (48, 0, "2.6"),
    (22, 3, "2.5"),
)
"""By a request and its version: the release that has it first."""


@dataclass(frozen=True, slots=True)
class _Duty:
    """What a coordinator is for, and what it keeps its records in."""

    what: str
    topic: str
    factor: str
    """The setting of the brokers with the number of its copies."""
    in_sync: str
    """The one with the number of copies that must have a record."""


_GROUPS: Final = _Duty("groups", "__consumer_offsets", "offsets.topic.replication.factor", "min.insync.replicas")
_TRANSACTIONS: Final = _Duty(
    "transactions",
    "__transaction_state",
    "transaction.state.log.replication.factor",
    "transaction.state.log.min.isr",
)


@dataclass(frozen=True, slots=True)
class _At:
    """A broker that is a coordinator."""

    number: int
    host: str
    port: int

    def __str__(self) -> str:
        return f"broker {self.number} ({self.host}:{self.port})"


class _Passing(Unavailable):
    """A coordinator is not there; nothing was stored."""

    def __init__(self, duty: _Duty, why: str) -> None:
        super().__init__(f"Kafka has no coordinator of {duty.what} now ({why})")
        self.duty = duty


class Trial:
    """Tries a cluster, for one deployment."""

    def __init__(self, connection: Connection, topics: Topics, *, session: float, transaction: float) -> None:
        """`session` and `transaction` are the seconds that the gateway asks for."""
        self._connection = connection
        self._topics = topics
        self._session = round(session * 1000)
        self._transaction = round(transaction * 1000)

    async def begin(self, max_wait: float = LASTED) -> None:
        """Try what no gateway can do without, as far as that changes nothing.

        Raises:
            ConfigurationError: the group may not be joined.
            ActionRequired: a setting of the brokers is in the way; or something is not there for `max_wait` seconds.
            Unavailable: Kafka did not answer.

        """
        for problem in (await unreachable(self._connection))[0]:
            log.warning("%s", problem)
        await _all(self.group(max_wait), self._producer(max_wait))

    async def whole(self, max_wait: float) -> list[str]:
        """Try all that the gateway needs; return, as text, what was left out for lack of a permission.

        Raises as `begin`.
        """
        unreached, _ = await unreachable(self._connection)
        if unreached:
            raise ActionRequired("; ".join(unreached))
        _, producer = await _all(self.group(max_wait), self._producer(max_wait))
        left_out = [await self._lasting(self._member, max_wait)]
        if producer is None:
            left_out.append(f"a transaction, for want of Write for the transactional id {self._topics.trial_id}")
        else:
            await self._lasting(lambda: self._begun_and_aborted(*producer), max_wait)
        return [f"not tried: {one}" for one in left_out if one]

    async def group(self, max_wait: float) -> None:
        """See whether a member could join the gateway's group with its session; raises as `begin`."""
        await self._lasting(self._known_to_nobody, max_wait)

    async def transactions(self, max_wait: float) -> None:
        """See whether there is a coordinator of transactions; raises as `begin`."""
        await self._lasting(lambda: self._coordinator(self._topics.trial_id, _TRANSACTION), max_wait)

    async def release(self) -> str:
        """Return the release of Kafka, as far as its requests show it; raises Unavailable."""
        answer = await self._connection.ask(ApiVersionRequest())
        newest = {one[0]: one[2] for one in answer.api_versions}
        known = [name for key, version, name in _RELEASES if newest.get(key, -1) >= version]
        return f"it is {known[0]} or later" if known else f"it is older than {OLDEST}"

    async def _lasting(self, attempt: Callable[[], Awaitable[_T]], max_wait: float) -> _T:
        """Let it pass that there is no coordinator, for as long as `max_wait`."""
        loop = asyncio.get_running_loop()
        began, is_logged = loop.time(), False
        while True:
            try:
                return await attempt()
            except _Passing as error:
                passing = error
            if loop.time() - began >= max_wait:
                raise ActionRequired(await self._why(passing)) from passing
            if loop.time() - began >= _LOG_AFTER_S and not is_logged:
                is_logged = True
                log.warning("%s; retrying", passing)
            await asyncio.sleep(_AGAIN)

    # Groups -------------------------------------------------------------------------------------------------

    async def _known_to_nobody(self) -> None:
        at = await self._coordinator(self._topics.group, _GROUP)
        code = (await self._joined(at, self._topics.group, _NOBODY)).error_code
        if code == INCONSISTENT:
            raise await held_by_others(self._connection, self._topics.group, at.number)
        self._look_at(at, _GROUPS, self._topics.group, code)

    async def _member(self) -> str:
        """Join a group of its own as a member, and remove it; return what was left out."""
        group = f"{self._topics.trial_group}-{uuid4().hex}"
        try:
            at = await self._coordinator(group, _GROUP)
            joined = await self._joined(at, group, "")
            if joined.error_code == _MEMBER_NEEDED:
                joined = await self._joined(at, group, joined.member_id)
            self._look_at(at, _GROUPS, group, joined.error_code)
        except ConfigurationError:
            return f"a group of its own, for want of Read for groups {self._topics.trial_group}…"
        try:
            dealt = [(joined.member_id, b"")]
            request = SyncGroupRequest(group, joined.generation_id, joined.member_id, None, dealt)
            self._look_at(at, _GROUPS, group, (await self._ask(request, at)).error_code)
        finally:
            with suppress(Unavailable):
                await self._ask(LeaveGroupRequest(group, joined.member_id), at)
                await self._ask(DeleteGroupsRequest([group]), at)  # else Kafka forgets it by itself
        return ""

    async def _joined(self, at: _At, group: str, member: str) -> Any:  # noqa: ANN401 - aiokafka's own
        protocols = [("gateway", b"")] if group != self._topics.group else [("sticky", b"")]
        kind = "gateway-check" if group != self._topics.group else "consumer"
        wait = min(_SOON, self._session)
        return await self._ask(JoinGroupRequest(group, self._session, wait, member, None, kind, protocols), at)

    def _look_at(self, at: _At, duty: _Duty, name: str, code: int) -> None:
        if code in _NO_COORDINATOR:
            raise _Passing(duty, for_code(code).__name__)
        if code == _GROUP_DENIED:
            raise permission_error(f"group {name}", "Read")
        if code == _SESSION:
            raise session_refused(self._session / 1000, str(at))

    # Transactions -------------------------------------------------------------------------------------------

    async def _producer(self, max_wait: float) -> tuple[_At, int, int] | None:
        """Be given a producer; None where that is not permitted: each shard's own id may be."""
        return await self._lasting(self._producer_once, max_wait)

    async def _producer_once(self) -> tuple[_At, int, int] | None:
        name = self._topics.trial_id
        try:
            at = await self._coordinator(name, _TRANSACTION)
        except ConfigurationError:
            return None
        answer = await self._ask(InitProducerIdRequest(name, self._transaction), at)
        code = answer.error_code
        if code == _ID_DENIED:
            return None
        if code == _TIMEOUT:
            raise transaction_refused(self._transaction / 1000, str(at))
        if code in _NO_COORDINATOR or code == _BUSY:
            raise _Passing(_TRANSACTIONS, for_code(code).__name__)
        if code:
            raise Unavailable(f"{at}: {describe(for_code(code)(name))}")
        return at, int(answer.producer_id), int(answer.producer_epoch)

    async def _begun_and_aborted(self, at: _At, producer: int, epoch: int) -> None:
        """Let a partition take part in a transaction, and abort it; a marker in the partition is all that it leaves."""
        name, topic = self._topics.trial_id, self._topics.control
        try:
            request = AddPartitionsToTxnRequest(name, producer, epoch, [(topic, [OBSERVED])])
            ((_, ((_, code),)),) = (await self._ask(request, at)).errors
        finally:
            ended = await self._ask(EndTxnRequest(name, producer, epoch, False), at)  # noqa: FBT003 - an abort
        if code == _TOPIC_DENIED:
            raise permission_error(f"topic {topic}", "Write")
        for one in (code, ended.error_code if not code else 0):
            if one in _NO_COORDINATOR or one == _BUSY:
                raise _Passing(_TRANSACTIONS, for_code(one).__name__)
            if one and one not in _FENCED:
                raise Unavailable(f"{at}: {describe(for_code(one)(name))}")

    # Coordinators -------------------------------------------------------------------------------------------

    async def _coordinator(self, key: str, kind: int) -> _At:
        answer = await self._connection.ask(FindCoordinatorRequest(key, kind))
        code = answer.error_code
        if code in _NO_COORDINATOR:
            raise _Passing(_GROUPS if kind == _GROUP else _TRANSACTIONS, for_code(code).__name__)
        if code == _GROUP_DENIED:
            raise permission_error(f"group {key}", "Read")
        if code == _ID_DENIED:
            raise permission_error(f"transactional id {key}", "Write")
        if code:
            raise Unavailable(f"the coordinator of {key}: {describe(for_code(code)(key))}")
        return _At(int(answer.coordinator_id), str(answer.host), int(answer.port))

    async def _ask(self, request: Any, at: _At) -> Any:  # noqa: ANN401 - aiokafka's own
        return await self._connection.ask(request, node=at.number)

    async def _why(self, passing: _Passing) -> str:
        """Return the most likely reason, as far as the permissions allow a look."""
        duty = passing.duty
        brokers = await self._connection.brokers()
        count = f"there {'is 1 broker' if len(brokers) == 1 else f'are {len(brokers)} brokers'}"
        if ailing := await self._ailing(duty):
            return f"{passing}: {ailing}"
        asked = [(number, await self._setting(number, duty.factor)) for number, _, _ in brokers]
        for number, factor in asked:
            if factor is not None and factor > len(brokers):
                return (
                    f"{passing}: {duty.factor} is {factor} on broker {number}, and {count}, so {duty.topic} cannot be "
                    f"made. Mend it: set {duty.factor} to {len(brokers)} or less on every broker, or start more of them"
                )
        known = all(factor is not None for _, factor in asked)
        look = f"look into the brokers' logs for {duty.topic}"
        if known:
            return f"{passing}. Mend it: {look}"
        return (
            f"{passing}: most likely {duty.factor} of the brokers is above their number, and {count}. Mend it: {look}, "
            f"and set {duty.factor} to {len(brokers)} or less, or start more brokers"
        )

    async def _ailing(self, duty: _Duty) -> str:
        """Return what is wrong with the topic of the coordinators, if that is seen."""
        try:
            found = (await cluster.described(self._connection, [duty.topic])).get(duty.topic, {})
        except GatewayError:
            return ""
        for number, part in found.items():
            if part.leader < 0:
                return f"{duty.topic} has no leader for partition {number}. Mend it: start the brokers that have it"
        return self._short(duty, min((part.in_sync for part in found.values()), default=0))

    def _short(self, duty: _Duty, in_sync: int) -> str:
        if not in_sync:
            return ""
        return (
            f"nothing can be written to {duty.topic}; most likely {duty.in_sync} is above the {in_sync} of its "
            f"replicas that are in sync. Mend it: set min.insync.replicas of {duty.topic} to {in_sync} or less with "
            "kafka-configs, or start more brokers"
        )

    async def _setting(self, broker: int, name: str) -> int | None:
        """Return a number that is set on a broker; None where one may not look."""
        request = DescribeConfigsRequest([(_BROKER, str(broker), [name])])
        with suppress(GatewayError, ValueError, TypeError):
            for code, _, _, _, entries in (await self._connection.ask(request, node=broker)).resources:
                for entry in entries if code == 0 else ():
                    return int(entry[1])
        return None


def session_refused(session: float, by: str = "Kafka") -> ActionRequired:
    """Return the error of brokers that refuse members the session that the gateway asks for."""
    asked = round(session * 1000)
    return ActionRequired(
        f"{by} refuses a session of {session:g} s (InvalidSessionTimeout): group.min.session.timeout.ms is above it, "
        f"or group.max.session.timeout.ms below. Mend it: set group.min.session.timeout.ms of the brokers to {asked} "
        "or less"
    )


def transaction_refused(transaction: float, by: str = "Kafka") -> ActionRequired:
    """Return the error of brokers that refuse transactions the time that the gateway asks for."""
    asked = round(transaction * 1000)
    return ActionRequired(
        f"{by} refuses a transaction of {transaction:g} s (InvalidTransactionTimeout): transaction.max.timeout.ms is "
        f"below it. Mend it: set transaction.max.timeout.ms of the brokers to {asked} or more"
    )


def timeout_refusal(error: BaseException, *, session: float = 0.0, transaction: float = 0.0) -> ActionRequired | None:
    """Return the error that an operator must fix, where a start failed for a time that the brokers refuse."""
    if isinstance(error, kafka.InvalidSessionTimeoutError):
        return session_refused(session)
    if isinstance(error, kafka.InvalidTransactionTimeout):
        return transaction_refused(transaction)
    return None


async def _all(*trials: Awaitable[Any]) -> list[Any]:
    """Wait for all trials, and return what came of them; raises what kept any of them, all together."""
    outcomes = await asyncio.gather(*trials, return_exceptions=True)
    failures = [one for one in outcomes if isinstance(one, BaseException)]
    for failure in failures:
        if not isinstance(failure, ActionRequired):
            raise failure
    if failures:
        raise ActionRequired("; ".join(dict.fromkeys(map(str, failures))))
    return outcomes
