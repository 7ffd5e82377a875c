"""Servers that are not of one cluster: each would get some of the events, so nothing is published to any."""

from __future__ import annotations

import json
from pathlib import Path

import nats
import pytest

from tests.support import kafka_server
from tests.support.gateway_process import Scene, house
from tests.support.kafka_cluster import made
from tests.support.kafka_server import KafkaServer
from tests.support.nats_server import NatsServer

NOT_ONE = "are not of one cluster: events would be divided between them, or be in both"


async def is_refused(here: Scene, *servers: str) -> None:
    """See that `check` fails over these servers and `run` ends, and that both name them."""
    for command, code in (("check", 1), ("run", 2), ("run", 2), ("run", 2)):
        process = await here.start(command, env={"GATEWAY_BROKER__SERVERS": json.dumps(servers)})
        assert await process.ended() == code
        text = process.stdout + process.stderr
        assert f"{servers[0]} and {servers[1]} {NOT_ONE}" in text


async def test_two_addresses_of_one_nats_server(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=1, prefill=20) as here:
        servers = here.server.url, here.server.url.replace("127.0.0.1", "localhost")
        check = await here.start("check", env={"GATEWAY_BROKER__SERVERS": json.dumps(servers)})
        assert await check.ended() == 0, check.stdout
        await here.gateway({"GATEWAY_BROKER__SERVERS": json.dumps(servers)})
        await here.settled(20)


async def test_two_nats_servers_that_know_nothing_of_each_other(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=2, prefill=20) as here:
        with NatsServer(tmp_path / "other") as other:
            await is_refused(here, here.server.url, other.url)
            await here.gateway()
            await here.settled(20)
            await is_refused(here, here.server.url, other.url)
            verdict = await here.verdict()
            client = await nats.connect(other.url)
            left = await client.jetstream().streams_info()
            await client.close()
    assert (verdict.faults, verdict.found) == ({}, 40)
    assert left == [], "nothing is made on the other server, not even at the first start"


@pytest.mark.long
async def test_two_kafka_clusters(tmp_path: Path) -> None:
    kafka_server.require_java()
    with (
        KafkaServer(tmp_path / "kafka") as server,
        KafkaServer(tmp_path / "other", cluster_id="b3RoZXItY2x1c3Rlci0wMQ") as other,
    ):
        async with made(tmp_path, server, inner=f"127.0.0.1:{server.port}") as place:
            servers = f"127.0.0.1:{server.port}", f"127.0.0.1:{other.port}"
            await is_refused(place, *servers)
            place.config.write_text(place.config.read_text().replace(place.address, servers[0]))
            await place.gateway()
            await place.emit(20, 100)
            await place.settled(20)
            verdict = await place.verdict()
    assert (verdict.faults, verdict.found) == ({}, 60)
