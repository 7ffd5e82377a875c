"""The places where aiokafka is used below its public surface, each with the reason.

Checked with aiokafka 0.14; the contract suite fails when one of the names moves.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import aiokafka.client
import aiokafka.producer.sender
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    KafkaError,
    NoError,
    RebalanceInProgressError,
    for_code,
)
from aiokafka.producer import message_accumulator
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.producer.transaction_manager import TransactionState
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.structs import TopicPartition

_PAUSE: Final = 0.001
"""Seconds before a transaction that closely follows another is begun again."""


def mend() -> None:
    """Change four things in the library, once a process; raises AttributeError where they are no more.

    A transaction begun right after another waits until the first one's markers are written: 20 ms by aiokafka's
    choice, which makes 24 ms a commit of 1.6. And its metadata requests let the broker create a topic that
    somebody deleted, with other partitions and settings than ours. And a client that is cancelled in its first
    request never closes that connection. And where a commit gave up waiting, nobody is left to ask why its batches
    failed.
    """
    sender, client, batch = aiokafka.producer.sender, aiokafka.client, message_accumulator.MessageBatch
    sender.BACKOFF_OVERRIDE = min(sender.BACKOFF_OVERRIDE, _PAUSE)
    if not isinstance(client.MetadataRequest, functools.partial):
        client.MetadataRequest = functools.partial(client.MetadataRequest, allow_auto_topic_creation=False)
        client.AIOKafkaClient.bootstrap = _uncancelled(client.AIOKafkaClient.bootstrap)
        batch.failure = _heeded(batch.failure)


def _uncancelled(bootstrap: Callable[[AIOKafkaClient], Coroutine[Any, Any, None]]) -> Any:  # noqa: ANN401
    """Let it come to its end by itself, within two request timeouts for each server; `end_client` waits for that."""

    async def whole(client: AIOKafkaClient) -> None:
        client._gateway_bootstrap = bootstrapping = asyncio.create_task(bootstrap(client))  # noqa: SLF001
        await asyncio.shield(bootstrapping)

    return whole


def _heeded(failure: Callable[[MessageBatch, BaseException], None]) -> Any:  # noqa: ANN401
    """Take note of the failure of a batch, in both futures that it has, lest asyncio complain that nobody did."""

    def fail(batch: MessageBatch, exception: BaseException) -> None:
        failure(batch, exception)
        for outcome in (batch.future, batch._drain_waiter):  # noqa: SLF001
            if not outcome.cancelled():
                outcome.exception()

    return fail


def aborted_by(producer: AIOKafkaProducer) -> BaseException | None:
    """Give why no more can be sent in the open transaction; None where that is not so.

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

    `AIOKafkaConsumer.commit` shares a connection with the request to join, so it waits for others while the group is
    dealt out anew; and where its answer says that the member is unknown, the library forgets who it has become
    meanwhile, and joins once more: its last self is waited for by the whole group, for as long as a session lasts.
    A member that had been frozen did that four times over, 6 s each (measured). Cancelled, it leaves a task whose
    failure nobody asks for.
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


async def end_producer(producer: AIOKafkaProducer, *, farewell: float) -> None:
    """End a producer whatever its state, leaving no task and no socket; within two request timeouts.

    `AIOKafkaProducer.stop` waits for ever for batches that a frozen broker does not take, and leaks its tasks and
    sockets when it is cancelled. An open transaction is aborted if that takes less than `farewell` seconds, so
    that readers need not wait until it times out.
    """
    transaction = producer._txn_manager  # noqa: SLF001
    if transaction.is_in_transaction():
        with suppress(TimeoutError, KafkaError, AssertionError):  # AssertionError: it failed for good just now
            async with asyncio.timeout(farewell):
                await producer.flush()  # else the abort waits for batches that nobody takes, and never ends
                await producer.abort_transaction()
    producer._closed = True  # noqa: SLF001 - else its destructor complains that stop was not called
    sender = producer._sender.sender_task  # noqa: SLF001
    if sender is not None:
        sender.cancel()
        _abort_connections(producer.client)  # what is asked fails at once, so that its tasks end
        await asyncio.wait({sender})
        if not sender.cancelled():
            sender.exception()
    outcome = transaction._transaction_waiter  # noqa: SLF001
    if outcome is not None and outcome.done() and not outcome.cancelled():
        outcome.exception()  # nobody has asked for the failure in it, which asyncio would complain of
    await end_client(producer.client)


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
    bootstrapping: asyncio.Task[None] | None = getattr(client, "_gateway_bootstrap", None)
    if bootstrapping is not None:
        await asyncio.wait({bootstrapping})
        if not bootstrapping.cancelled():
            bootstrapping.exception()  # nobody asks for it who was cancelled
    _abort_connections(client)
    client._conns = _Shut(client._conns)  # noqa: SLF001 - its own tasks may be about to connect
    await client.close()


class _Shut(dict[Any, Any]):
    """The connections of a client that has ended: one that is made all the same is closed at once."""

    def __setitem__(self, which: Any, connection: Any) -> None:  # noqa: ANN401 - aiokafka's own
        super().__setitem__(which, connection)
        connection._on_close_cb = None  # noqa: SLF001 - it would ask for metadata, over a new connection
        connection.close()


def _abort_connections(client: AIOKafkaClient) -> None:
    for connection in client._conns.values():  # noqa: SLF001
        connection._on_close_cb = None  # noqa: SLF001 - it would ask for metadata, over a new connection
        writer: Any = connection._writer  # noqa: SLF001 - None once it is closed
        if writer is not None:
            writer.transport.abort()
