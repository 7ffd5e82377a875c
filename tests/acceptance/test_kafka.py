"""The commands and the promise on Kafka, with real processes: kills meet transactions in flight, at the wire.

The topics are read by librdkafka, read_committed, and judged by `checker.py`, which knows nothing of the gateway.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import kafka_server
from tests.support.checker import judge
from tests.support.fault_injection import silences
from tests.support.gateway_process import until
from tests.support.kafka_cluster import made, reached
from tests.support.kafka_proxy import Api
from tests.support.kafka_server import KafkaServer
from tests.support.sockets import free_port

pytestmark = pytest.mark.usefixtures("started_afresh")

TAKEOVER = 9.0
"""Seconds that an account may be silent after its gateway was killed, or frozen."""
SLACK = 2
"""How many times as long it may take beside other loads; the figures are logged."""

log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Yield a broker that says that it is where the wire is."""
    kafka_server.require_java()
    wire = free_port()
    config = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{wire}"}
    with KafkaServer(tmp_path_factory.mktemp("kafka"), config=config) as made:
        made.wire_port = wire
        yield made


async def test_events_are_exact_through_kills_that_meet_transactions_in_flight(
    tmp_path: Path, server: KafkaServer
) -> None:
    async with made(tmp_path, server) as place:
        gateway = await place.gateway()
        await place.emit(1, 100)
        await reached(place, 1)
        for what in ("request", "answer", "request", "answer"):
            await place.emit(400, 400)
            snag = place.wire.snag(Api.END_TXN, what)
            await asyncio.wait_for(snag.caught.wait(), 20)
            gateway.kill()
            gateway = await place.gateway()
            await gateway.wait_for_log("shard log opened")
            snag.let_go()  # what the dead one asked for arrives now, too late to end anything
        await reached(place, 1601)
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended(10) == 0
        verdict = await place.verdict()
        code, output = await place.run("verify", "--wait", "0")
    assert verdict.faults == {}
    assert (verdict.emitted, verdict.found) == (4803, 4803)
    assert (code, output[-1]) == (0, "verdict: exact")


async def test_replicas_share_and_take_over_from_a_frozen_and_from_a_killed_one(
    tmp_path: Path, server: KafkaServer
) -> None:
    async with made(tmp_path, server) as place:
        one = await place.gateway()
        await place.emit(1, 100)
        await reached(place, 1)
        await place.emit(3000, 60)
        two = await place.gateway()
        await two.wait_for_log("shard log opened")
        spans = {}

        async def takes_over(what: str, blow: signal.Signals) -> None:
            opened = one.stderr.count("shard log opened")
            began = time.time()
            two.signal(blow)
            await until(lambda: one.stderr.count("shard log opened") > opened, what)
            spans[what] = (began, time.time() + 1)
            await asyncio.sleep(1)

        await takes_over("one is frozen", signal.SIGSTOP)
        shared = two.stderr.count('"shards": 1,')
        two.signal(signal.SIGCONT)
        await until(lambda: two.stderr.count('"shards": 1,') > shared, "the frozen one is given a shard again")
        await takes_over("one is killed", signal.SIGKILL)
        await reached(place, 3001)
        truth, found = await place.truth(), await place.log()
        verdict = judge(truth, found, by_kind=True)
    longest = {what: max(silences(found, place.accounts, *span).values()) for what, span in spans.items()}
    log.info("%s; the longest silences: %s", verdict, longest)
    assert verdict.faults == {}
    assert (verdict.emitted, verdict.found) == (9003, 9003)
    assert max(longest.values()) < SLACK * TAKEOVER


async def test_check_and_tail_on_kafka(tmp_path: Path, server: KafkaServer) -> None:
    async with made(tmp_path, server, prefill=20) as place:
        code, lines = await place.run("check")
        assert code == 0
        assert lines[1].startswith(f"ok    broker: Kafka, 24 topics {place.prefix}.… as they must be")
        await place.gateway()
        await reached(place, 20)
        everything, one, last = [
            (await place.run("tail", "--no-follow", *arguments))[1]
            for arguments in (("--from", "first"), ("--from", "first", "--account", "beta"), ("--from", "last"))
        ]
        assert len(everything) == 60
        assert {line.split(" ")[1] for line in one} == {"beta"}
        assert len(one) == 20
        assert len(last) == 1
        (position,) = [line.split(" ")[0] for line in last]
        assert (await place.run("tail", "--no-follow", "--from", position))[1] == last


async def test_check_says_that_nobody_listens_where_kafka_should_be(tmp_path: Path, server: KafkaServer) -> None:
    async with made(tmp_path, server) as place:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            text = place.config.read_text().replace(str(place.wire.port), str(nobody.getsockname()[1]))
            place.config.write_text(text)
            code, lines = await place.run("check")
    assert code == 1
    (failed,) = [line for line in lines if line.startswith("FAIL")]
    assert "broker.servers: cannot connect to Kafka: 127.0.0.1:" in failed
    assert failed.endswith("Start Kafka there, or mend the setting.")
