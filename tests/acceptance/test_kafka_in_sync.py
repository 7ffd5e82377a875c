"""Too few replicas in sync: the gateway says so in words, waits, and is exact when a broker is back, by itself.

One of the three brokers alone is the controller, so that the cluster knows whom it lacks while two are away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import kafka_server
from tests.support.kafka_cluster import made
from tests.support.kafka_server import KafkaServer


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[KafkaServer]]:
    kafka_server.require_java()
    folder = tmp_path_factory.mktemp("kafka-in-sync")
    with kafka_server.cluster(folder, wired=True, controllers=1) as made_:
        yield made_


@pytest.mark.long  # the short run has the port alone, in tests/contract/test_kafka_start.py
@pytest.mark.timeout(180)
async def test_too_few_replicas_in_sync_are_said_and_waited_for(tmp_path: Path, servers: list[KafkaServer]) -> None:
    async with made(tmp_path, *servers, broker=", commit_timeout: 4") as place:
        gateway = await place.gateway()
        await gateway.wait_for_log('"state": "live"')
        await place.emit(50, 300)
        await place.settled(50)
        for number in (1, 2):
            servers[number].kill()
            place.wires[number].cut()
        await place.emit(200, 300)
        message = "1 of the 2 replicas in sync that its min.insync.replicas asks for, in partition "
        logged = await gateway.wait_for_log(rf".*{place.prefix}\S* has {message}.*")
        assert '"level": "warning"' in logged[0]
        await gateway.wait_for_log(rf"(?s)({message}.*){{2}}")  # it keeps trying
        await asyncio.to_thread(servers[1].start)
        await place.settled(250)
        verdict = await place.verdict()
        tries = gateway.stderr.count("shard log failed, reopening")
        await asyncio.to_thread(servers[2].start)
    assert verdict.faults == {}
    assert verdict.found == 750
    assert tries < 60  # with backoff
