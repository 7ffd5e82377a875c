"""A consumer of others in the gateways' group: it is named to a person, by the trial and by who wants to join."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from gateway.broker.kafka.ownership import KafkaOwnership
from gateway.broker.kafka.trial import Trial
from gateway.errors import ActionRequired
from tests.support.ownership_suite import until
from tests.support.rigs import KafkaRig

STRANGER = """
import sys
from confluent_kafka import Consumer
address, group, topic = sys.argv[1:]
names = {"bootstrap.servers": address, "group.id": group, "client.id": "reports"}
consumer = Consumer({**names, "session.timeout.ms": 6000})
consumer.subscribe([topic], on_assign=lambda *_: print("in", flush=True))
while True:
    consumer.poll(0.1)
"""
MESSAGE = (
    "the group {group} has members that are no gateways: reports at 127.0.0.1 (range). It is for gateways alone. Mend "
    "it: end those consumers, and set another group.id there"
)


@asynccontextmanager
async def stranger_in(group: str, address: str, topic: str) -> AsyncIterator[None]:
    """Let a consumer be in the group for as long as the context lasts; then it is there until its session ends."""
    command = [sys.executable, "-c", STRANGER, address, group, topic]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None
            assert await asyncio.to_thread(running.stdout.readline) == b"in\n"
            yield
        finally:
            running.kill()


async def test_a_consumer_of_others_in_the_gateways_group_is_named(
    kafka: KafkaRig, kafka_address: str, caplog: pytest.LogCaptureFixture
) -> None:
    message = MESSAGE.format(group=kafka.topics.group)
    ownership = KafkaOwnership(kafka.connection, kafka.topics)
    trial = Trial(kafka.connection, kafka.topics, session=6.0, transaction=10.0)
    async with stranger_in(kafka.topics.group, kafka_address, kafka.topics.checkpoints):
        with pytest.raises(ActionRequired) as refused:
            await trial.group(30)
        assert str(refused.value) == message
        async with ownership.join("a", 1) as membership, aclosing(membership.assignments()) as changes:  # type: ignore[type-var]
            waiting = asyncio.ensure_future(anext(changes))
            await until(lambda: "shard ownership unavailable" in caplog.text, "it is said")
            waiting.cancel()
            await asyncio.wait({waiting})
        (record,) = [one for one in caplog.records if "shard ownership unavailable" in one.getMessage()]
    assert (record.levelno, record.getMessage()) == (logging.ERROR, f"shard ownership unavailable: {message}")


async def test_who_waited_for_a_consumer_of_others_joins_once_it_is_gone(kafka: KafkaRig, kafka_address: str) -> None:
    ownership = KafkaOwnership(kafka.connection, kafka.topics)
    async with stranger_in(kafka.topics.group, kafka_address, kafka.topics.checkpoints):
        pass
    async with ownership.join("a", 1) as membership, aclosing(membership.assignments()) as changes:  # type: ignore[type-var]
        async with asyncio.timeout(30):
            assert await anext(changes) == {0}
        trial = Trial(kafka.connection, kafka.topics, session=6.0, transaction=10.0)
        await trial.group(30)  # a gateway is no stranger
