"""The places where aiokafka is used below its public surface, each with the reason.

Checked with aiokafka 0.14; the contract suite fails when one of the names moves.
"""

from __future__ import annotations

import asyncio
import functools
from contextlib import suppress
from typing import Any, Final

import aiokafka.client
import aiokafka.producer.sender
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

_PAUSE: Final = 0.001
"""Seconds before a transaction that closely follows another is begun again."""


def mend() -> None:
    """Change two constants of the library, once a process; raises AttributeError where they are no more.

    A transaction begun right after another waits until the first one's markers are written: 20 ms by aiokafka's
    choice, which makes 24 ms a commit of 1.6. And its metadata requests let the broker create a topic that
    somebody deleted, with other partitions and settings than ours.
    """
    sender, client = aiokafka.producer.sender, aiokafka.client
    sender.BACKOFF_OVERRIDE = min(sender.BACKOFF_OVERRIDE, _PAUSE)
    if not isinstance(client.MetadataRequest, functools.partial):
        client.MetadataRequest = functools.partial(client.MetadataRequest, allow_auto_topic_creation=False)


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
    batches = producer._message_accumulator._batches.values()  # noqa: SLF001
    waiters = [batch._drain_waiter for of_partition in batches for batch in of_partition]  # noqa: SLF001
    for outcome in (transaction._transaction_waiter, *waiters):  # noqa: SLF001
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
    _abort_connections(client)
    await client.close()


def _abort_connections(client: AIOKafkaClient) -> None:
    for connection in client._conns.values():  # noqa: SLF001
        connection._on_close_cb = None  # noqa: SLF001 - it would ask for metadata, over a new connection
        writer: Any = connection._writer  # noqa: SLF001 - None once it is closed
        if writer is not None:
            writer.transport.abort()
