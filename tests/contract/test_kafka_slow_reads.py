"""What a shard's checkpoints take over a slow line: the time that their bytes take, however short the time limits are.

Kafka answers a read with up to a whole segment. One that was asked for again and again, because it did not come whole
within the limit of one request, would never come.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.broker.ports import Commit
from gateway.errors import Unavailable
from tests.support import kafka_server
from tests.support.kafka_proxy import Wire
from tests.support.kafka_server import KafkaServer
from tests.support.rigs import KafkaRig, kafka_rig
from tests.support.slow_line import FAST, SlowLine, slow_line
from tests.support.sockets import free_port

TIMEOUT = 2.0
"""Seconds of a call; the limit of one request is half of that."""
RATE = 100_000.0
"""Bytes a second."""
WAITING = {f"account-{number}": bytes([number]) * 100_000 for number in range(6)}
"""Checkpoints, which take three times as long as a call may."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    kafka_server.require_java()
    wire = free_port()
    config = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{wire}"}
    with KafkaServer(tmp_path_factory.mktemp("kafka-slow"), config=config) as made:
        made.wire_port = wire
        yield made


@pytest.fixture
async def line(server: KafkaServer) -> AsyncIterator[SlowLine]:
    async with slow_line(lambda: server.port) as made, Wire(server.wire_port, made.port):
        yield made


@pytest.fixture
async def rig(line: SlowLine, server: KafkaServer) -> AsyncIterator[KafkaRig]:
    async with kafka_rig(f"127.0.0.1:{server.wire_port}", timeout=TIMEOUT) as made:
        yield made
        line.rate, line.is_hung = FAST, False


async def fill(rig: KafkaRig) -> None:
    async with rig.log("a").open(1) as shard:
        await shard.checkpoints()
        for account, value in WAITING.items():
            await shard.commit(Commit((), {account: value}))


async def test_checkpoints_over_a_slow_line_take_the_time_of_their_bytes(rig: KafkaRig, line: SlowLine) -> None:
    await fill(rig)
    line.rate = RATE
    async with rig.log("b").open(1) as shard:
        began = time.monotonic()
        assert await shard.checkpoints() == WAITING
        assert time.monotonic() - began > 2 * TIMEOUT  # else the line was not slow


async def test_an_answer_that_stops_midway_is_given_up_and_comes_whole_later(rig: KafkaRig, line: SlowLine) -> None:
    await fill(rig)
    line.rate = RATE
    async with rig.log("b").open(1) as shard:
        reading = asyncio.create_task(shard.checkpoints())
        await asyncio.sleep(1)  # some of it has come
        line.is_hung = True
        with pytest.raises(Unavailable):
            await reading
        line.is_hung, line.rate = False, FAST
        assert await shard.checkpoints() == WAITING


async def test_a_transaction_left_open_is_given_up_although_empty_answers_come(rig: KafkaRig) -> None:
    await fill(rig)
    stranger = await rig.connection.producer(
        transactional_id=f"{rig.topics.prefix}-stranger", topics=(), largest=1024, transaction_timeout=60
    )
    async with rig.log("b").open(1) as shard:
        await stranger.begin_transaction()
        await stranger.send_and_wait(rig.topics.checkpoints, b"{}", b"somebody", partition=1)
        with pytest.raises(Unavailable, match="a transaction is open there"):
            async with asyncio.timeout(15 * TIMEOUT):
                await shard.checkpoints()
        await stranger.abort_transaction()
        assert await shard.checkpoints() == WAITING
    await rig.connection.end_producer(stranger)
