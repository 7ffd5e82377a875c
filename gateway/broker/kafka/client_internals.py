"""The places where aiokafka is used below its public surface, each with the reason.

Checked with aiokafka 0.14; the contract suite fails when one of the names moves.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import aiokafka.client
import aiokafka.consumer.fetcher
import aiokafka.producer.sender
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    KafkaConnectionError,
    KafkaError,
    NoError,
    RebalanceInProgressError,
    for_code,
)
from aiokafka.producer import message_accumulator
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.producer.transaction_manager import TransactionState
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import TopicPartition

from gateway.broker.kafka.client_connection import ClientConnection
from gateway.broker.kafka.connection_limit import CLOSED, ConnectionLimit
from gateway.broker.kafka.lenient_records import LenientRecords
from gateway.broker.peers import HEAD_START, PeerRace, resolve
from gateway.broker.traffic import drop
from gateway.tasks import retrieve_exception

_PAUSE: Final = 0.001
"""Seconds before a transaction that closely follows another is begun again."""


def apply_patches() -> None:
    """Apply six patches to the library, once a process; raises AttributeError where the patched names are gone.

    A transaction begun right after another waits until the first one's markers are written: 20 ms by aiokafka's choice,
    which makes 24 ms a commit of 1.6. Its metadata requests let the broker create a deleted topic, with other
    partitions and settings than ours; and a client that has no topic yet asks for all topics of the cluster, which are
    megabytes where others have many. It tries servers one after another, each client by itself, with one limit for all
    that a connection does. A client that is cancelled in its first request never closes that connection, and while it
    waits for one broker it connects to no other. Where a commit gave up waiting, no code retrieves why its batches
    failed. And it reads nothing of a partition behind a record with a header whose name is not UTF-8.
    """
    aiokafka.consumer.fetcher.MemoryRecords = LenientRecords
    sender, client, batch = aiokafka.producer.sender, aiokafka.client, message_accumulator.MessageBatch
    sender.BACKOFF_OVERRIDE = min(sender.BACKOFF_OVERRIDE, _PAUSE)
    if client.MetadataRequest is not _metadata:
        client.MetadataRequest = _metadata
        _ = client.AIOKafkaClient.bootstrap, client.AIOKafkaClient._get_conn  # noqa: SLF001
        client.AIOKafkaClient.bootstrap = _bootstrap
        client.AIOKafkaClient._get_conn = _connected  # noqa: SLF001
        batch.failure = _with_failures_retrieved(batch.failure)


def _metadata(topics: Sequence[str] | None) -> MetadataRequest:
    """Return a request for the metadata of these topics, and of the brokers; it creates no topic."""
    return MetadataRequest(topics or [], allow_auto_topic_creation=False)


class Unreached(KafkaConnectionError):  # type: ignore[misc]  # it has no annotations
    """No server has let us in."""

    def __init__(self, failures: Mapping[str, Exception]) -> None:
        """Take the failures by address."""
        failed = "; ".join(f"{at}: {str(why) or type(why).__name__}" for at, why in failures.items())
        super().__init__(f"cannot connect to Kafka: {failed}")
        self.failures = failures

    def __str__(self) -> str:
        """Return it without the name of the class, which the library puts before it."""
        return str(self.args[0])


def prepare(
    client: AIOKafkaClient, door: ConnectionLimit, known: AIOKafkaClient | None = None, topics: Iterable[str] = ()
) -> None:
    """Let a client that has not begun open its connections through `door`, first to the brokers in `known`.

    Its first request is for `topics`. The library requests each topic by itself when it is first used, and all before
    it again: a shard's first commit to 22 topics took as many round trips, 9 s where one takes 0.4 s (measured).
    """
    client._gateway_door = door  # noqa: SLF001
    client._topics = set(topics)  # noqa: SLF001
    if known is not None:
        client.cluster._brokers = dict(known.cluster._brokers)  # noqa: SLF001


def nearest(client: AIOKafkaClient) -> list[int]:
    """Return the brokers of a client, in random order, those first to which it has a connection."""
    nodes = [broker.nodeId for broker in client.cluster.brokers()]
    random.shuffle(nodes)
    at_hand = {node for (node, _), one in client._conns.items() if one.connected()}  # noqa: SLF001
    return sorted(nodes, key=lambda node: node not in at_hand)


async def _bootstrap(client: AIOKafkaClient) -> None:
    """Ask a server for the brokers: those first that are known, the next one beside one that is silent.

    Raises Unreached. The connection is kept where it is to a broker's own address.
    """
    client._gateway_openings = set()  # noqa: SLF001
    known = [(one.host, one.port) for one in client.cluster._brokers.values()]  # noqa: SLF001
    random.shuffle(known)
    addresses = list(dict.fromkeys([*known, *((host, port) for host, port, _ in client.hosts)]))
    while True:
        try:
            connection, metadata = await _first_asked(client, addresses)
            break
        except Unreached as error:
            is_late = any(isinstance(one, TimeoutError) for one in error.failures.values())
            if not is_late or getattr(client, "_gateway_time_limit", None) is None:
                raise
            # What its caller has made already must not be thrown away for one late answer: the call's limit ends this.
    client.cluster.update_metadata(metadata)
    where = connection.host, connection.port
    named = [one.nodeId for one in client.cluster._brokers.values() if (one.host, one.port) == where]  # noqa: SLF001
    if not metadata.brokers:  # none is known yet: the library asks this one again
        named = ["bootstrap"]
    if named:
        connection._on_close_cb = client._on_connection_closed  # noqa: SLF001
        client._conns[named[0], ConnectionGroup.DEFAULT] = connection  # noqa: SLF001
    else:
        connection.close()
    if client._sync_task is None:  # noqa: SLF001
        client._sync_task = asyncio.create_task(client._md_synchronizer())  # noqa: SLF001


async def _first_asked(client: AIOKafkaClient, addresses: Sequence[tuple[str, int]]) -> tuple[Any, Any]:
    """Open a connection to the first that lets us in, and ask for the brokers; raises Unreached."""
    race: PeerRace[tuple[Any, Any]] = PeerRace(_close_first, CLOSED)
    won = None
    try:
        for host, port in addresses:
            race.begin(f"{host}:{port}", _asked(client, host, port))
            if won := await race.won(HEAD_START):
                break
        while won is None and race.is_under_way:
            won = await race.won()
    finally:
        try:
            await race.end()
        except BaseException:
            if won is not None:
                won[1][0].close()
            raise
    if won is None:
        raise Unreached(race.failures)
    return won[1]


async def _asked(client: AIOKafkaClient, host: str, port: int) -> tuple[Any, Any]:
    """Open a connection and ask for the brokers; raises one of CLOSED."""
    connection = await _opened(client, host, port, None)
    try:
        return connection, await connection.send(_metadata(sorted(client._topics)))  # noqa: SLF001
    except BaseException:
        connection.close()
        raise


async def _close_first(won: tuple[Any, Any]) -> None:
    won[0].close()


async def _connected(client: AIOKafkaClient, node_id: Any, *, group: Any = ConnectionGroup.DEFAULT) -> Any:  # noqa: ANN401
    """Return the client's connection to a broker, a new one where there is none; None where it cannot be made."""
    which = node_id, group
    locks = client.__dict__.setdefault("_gateway_locks", defaultdict(asyncio.Lock))
    asked = asyncio.get_running_loop().time()
    async with locks[which]:
        present = client._conns.get(which)  # noqa: SLF001
        if present is not None and present.connected():
            return present
        client._conns.pop(which, None)  # noqa: SLF001
        broker = client.cluster.broker_metadata(node_id)
        failed_at = client.__dict__.setdefault("_gateway_failed", {})
        if broker is not None and failed_at.get(which, -1.0) < asked and not isinstance(client._conns, _ShutDown):  # noqa: SLF001
            try:
                made = await _opened(client, broker.host, broker.port, client._on_connection_closed)  # noqa: SLF001
            except CLOSED:
                failed_at[which] = asyncio.get_running_loop().time()
            else:
                client._conns[which] = made  # noqa: SLF001
                return made
    client.force_metadata_update()  # the metadata of the brokers may be of yesterday
    return None


async def _opened(client: AIOKafkaClient, host: str, port: int, on_close: Any) -> Any:  # noqa: ANN401
    """Open a connection in a task of its own, which the client's end cancels; raises one of CLOSED."""
    clock = asyncio.get_running_loop().time
    time_limit, began, is_open = getattr(client, "_gateway_time_limit", None), clock(), False
    openings = client.__dict__.setdefault("_gateway_openings", set())
    door = client.__dict__.setdefault("_gateway_door", ConnectionLimit(client._request_timeout_ms / 500))  # noqa: SLF001

    async def attempt(limit: float) -> Any:  # noqa: ANN401
        connection = ClientConnection(
            host,
            port,
            client_id=client._client_id,  # noqa: SLF001
            request_timeout_ms=limit * 1000,
            ssl_context=client._ssl_context,  # noqa: SLF001
            security_protocol=client._security_protocol,  # noqa: SLF001
            on_close=on_close,
            max_idle_ms=client._connections_max_idle_ms,  # noqa: SLF001
            sasl_mechanism=client._sasl_mechanism,  # noqa: SLF001
            sasl_plain_username=client._sasl_plain_username,  # noqa: SLF001
            sasl_plain_password=client._sasl_plain_password,  # noqa: SLF001
            sasl_oauth_token_provider=client._sasl_oauth_token_provider,  # noqa: SLF001
        )
        try:
            async with asyncio.timeout(limit):
                await resolve(host)
                await connection.connect()
        except BaseException:
            connection.close()
            raise
        connection._request_timeout = client._request_timeout_ms / 1000  # noqa: SLF001 - of any later request
        return connection

    opening = asyncio.create_task(door.slot(host, port, attempt), name=f"kafka-opening-{host}:{port}")
    openings.add(opening)
    if time_limit is not None:
        time_limit.began()
    try:
        await asyncio.wait({opening})
        if opening.cancelled():
            raise KafkaConnectionError("the client has ended")
        connection = opening.result()
        is_open = True
        return connection
    finally:
        openings.discard(opening)
        if time_limit is not None:
            time_limit.ended(0.0 if is_open else clock() - began)
        if not is_open:  # also where it is open, and its waiter was cancelled in that moment
            opening.cancel()
            await asyncio.wait({opening})
            if not opening.cancelled() and opening.exception() is None:
                opening.result().close()


def _with_failures_retrieved(failure: Callable[[MessageBatch, BaseException], None]) -> Any:  # noqa: ANN401
    """Retrieve the failure of a batch from both futures that it has, lest asyncio log that no code did."""

    def fail(batch: MessageBatch, exception: BaseException) -> None:
        failure(batch, exception)
        for outcome in (batch.future, batch._drain_waiter):  # noqa: SLF001
            retrieve_exception(outcome)

    return fail


def aborted_by(producer: AIOKafkaProducer) -> BaseException | None:
    """Return why no more can be sent in the open transaction; None where that is not so.

    Where a topic may not be written to, aiokafka keeps that to itself until the transaction is committed. Its
    batches are sent all the same, and refused with an InvalidTxnState that names nothing.
    """
    transaction = producer._txn_manager  # noqa: SLF001
    outcome = transaction._transaction_waiter  # noqa: SLF001
    if transaction.state is not TransactionState.ABORTABLE_ERROR or outcome.cancelled():
        return None
    failure: BaseException | None = outcome.exception()
    return failure


async def commit_as_member(consumer: AIOKafkaConsumer, tp: TopicPartition) -> None:
    """Commit an offset as a member of the consumer's present generation; raises KafkaError.

    `AIOKafkaConsumer.commit` shares a connection with the request to join, so it waits for others while the group
    rebalances. Where its answer is that the member is unknown, the library drops its new member id, and joins once
    more: the whole group then waits for its last self, for as long as a session lasts. A member that had been frozen
    did that four times over, 6 s each (measured). Cancelled, it leaves a task whose failure no code retrieves.
    """
    group = consumer._coordinator  # noqa: SLF001
    if group.coordinator_id is None:
        raise GroupCoordinatorNotAvailableError(group.group_id)
    if group.generation == OffsetCommitRequest.DEFAULT_GENERATION_ID:
        raise RebalanceInProgressError(group.group_id)
    offsets = [(tp.topic, [(tp.partition, 0, "")])]
    retention = OffsetCommitRequest.DEFAULT_RETENTION_TIME
    request = OffsetCommitRequest(group.group_id, group.generation, group.member_id, retention, offsets)
    answer = await consumer._client.send(group.coordinator_id, request)  # noqa: SLF001
    for _, partitions in answer.topics:
        for _, code in partitions:
            failure = for_code(code)
            if failure is not NoError:
                raise failure(group.group_id if failure is GroupAuthorizationFailedError else tp.topic)


async def end_producer(producer: AIOKafkaProducer, *, abort_timeout: float) -> None:
    """End a producer whatever its state, leaving no task and no socket; within two request timeouts.

    `AIOKafkaProducer.stop` waits for ever for batches that a frozen broker does not take, and leaks its tasks and
    sockets when it is cancelled. An open transaction is aborted if that takes less than `abort_timeout` seconds:
    else readers wait until it times out.
    """
    transaction = producer._txn_manager  # noqa: SLF001
    if transaction.is_in_transaction():
        with suppress(TimeoutError, KafkaError, AssertionError):  # AssertionError: it failed for good just now
            async with asyncio.timeout(abort_timeout):
                await producer.flush()  # else the abort waits for batches that no broker takes, and never ends
                await producer.abort_transaction()
    producer._closed = True  # noqa: SLF001 - else its destructor complains that stop was not called
    sender = producer._sender.sender_task  # noqa: SLF001
    if sender is not None:
        sender.cancel()
        _abort_connections(producer.client)
        tasks = _tasks_of(producer)
        for task in tasks:  # one that looks for a coordinator would do so until it has found one
            task.cancel()
        await asyncio.wait({sender, *tasks})
        if not sender.cancelled():
            sender.exception()
    outcome = transaction._transaction_waiter  # noqa: SLF001
    if outcome is not None and outcome.done() and not outcome.cancelled():
        outcome.exception()  # no code retrieved the failure in it, which asyncio would log
    await end_client(producer.client)


def _tasks_of(producer: AIOKafkaProducer) -> set[asyncio.Task[Any]]:
    """Return the running tasks of a producer's sender, which has no public access to them."""
    frames = {task: getattr(task.get_coro(), "cr_frame", None) for task in asyncio.all_tasks()}
    sender = producer._sender  # noqa: SLF001
    return {
        task
        for task, frame in frames.items()
        if frame is not None and frame.f_code.co_filename == aiokafka.producer.sender.__file__
        if frame.f_locals.get("self") is sender
    }


async def end_consumer(consumer: AIOKafkaConsumer) -> None:
    """End a consumer without a group, leaving no task and no socket.

    `AIOKafkaConsumer.stop` ends with its own cancellation, before it has closed its connections, where a fetch
    has just failed.
    """
    await asyncio.wait({stopping := asyncio.create_task(consumer.stop())})
    if not stopping.cancelled():
        stopping.exception()
    await end_client(consumer._client)  # noqa: SLF001


async def end_client(client: AIOKafkaClient) -> None:
    """Close a client; `AIOKafkaClient.close` alone waits until a frozen broker has taken all that was written."""
    _abort_connections(client)
    await client.close()


class _ShutDown(dict[Any, Any]):
    """The connections of a client that has ended: one that is made all the same is closed at once."""

    def __setitem__(self, which: Any, connection: Any) -> None:  # noqa: ANN401 - aiokafka's own
        super().__setitem__(which, connection)
        connection._on_close_cb = None  # noqa: SLF001 - it would ask for metadata, over a new connection
        connection.close()


def _abort_connections(client: AIOKafkaClient) -> None:
    if not isinstance(client._conns, _ShutDown):  # noqa: SLF001
        client._conns = _ShutDown(client._conns)  # noqa: SLF001 - its own tasks may be about to connect
    for opening in getattr(client, "_gateway_openings", ()):
        opening.cancel()
    for connection in client._conns.values():  # noqa: SLF001
        connection._on_close_cb = None  # noqa: SLF001 - it would ask for metadata, over a new connection
        writer: Any = connection._writer  # noqa: SLF001 - None once it is closed
        if writer is not None:
            drop(writer)
