"""An upgrade as Kubernetes makes it: a new replica comes, is ready, an old one is asked to end, until none is left.

It is the chart's order: one more than wanted, none fewer; for its minReadySeconds stands that all events flow again
before the next step.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support import kafka_server
from tests.support.checker import Found
from tests.support.control_client import control_of
from tests.support.fault_injection import silences
from tests.support.flows import HANDOVER, RATE, SLACK, has_ended, steady_flow
from tests.support.gateway_process import Scene, house, meanwhile, settled_of, until
from tests.support.kafka_cluster import made
from tests.support.kafka_server import KafkaServer
from tests.support.sockets import free_port

REPLICAS: Final = 3
ACCOUNTS: Final = [f"account-{number}" for number in range(1, 13)]
GRACE: Final = 10.0
"""Seconds that an ending replica gets; the chart gives it 15."""
UPGRADE: Final = {"GATEWAY_HUB__CALL_TIMEOUT": "20"}
"""What the new replicas are told otherwise."""
log = logging.getLogger(__name__)


@asynccontextmanager
async def scene(folder: Path, broker: str) -> AsyncIterator[Scene]:
    """Yield a hub and a broker; the gateways share 16 shards."""
    if broker == "jetstream":
        async with house(folder, accounts=ACCOUNTS) as place:
            yield place
        return
    kafka_server.require_java()
    wire = free_port()
    config = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{wire}"}
    with KafkaServer(folder / "kafka", config=config) as server:
        server.wire_port = wire
        async with made(folder, server, accounts=ACCOUNTS, shards=16) as on_kafka:
            yield on_kafka


@pytest.mark.alone
@pytest.mark.timeout(300)
@pytest.mark.parametrize("broker", ["jetstream", "kafka"])
async def test_an_upgrade_silences_no_account_for_two_seconds_and_is_exact(tmp_path: Path, broker: str) -> None:
    crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # where others want the cores too, it takes longer
    async with scene(tmp_path, broker) as here:
        old = [await here.gateway() for _ in range(REPLICAS)]
        for gateway in old:
            await (await control_of(gateway, here.http)).ready()
        async with meanwhile(steady_flow(here)):
            await here.reached(dict.fromkeys(here.accounts, 1), settled_of)
            began = time.time()
            for gateway in old:
                new = await control_of(await here.gateway(UPGRADE), here.http)
                await new.ready()
                await here.reached(await here.latest(), settled_of)
                gateway.signal(signal.SIGTERM)
                assert await gateway.ended(GRACE) == 0
            await here.reached(await here.latest(), settled_of)
            ended = time.time()
        await until(lambda: has_ended(here), "nothing is emitted any more")
        await here.settled(1)
        verdict = await here.verdict()
        found: list[Found] = await here.log()
    longest = silences(found, here.accounts, began, ended)
    log.info(
        "%s; %.1f s for %d replicas; the longest silence: %.2f s",
        verdict,
        ended - began,
        REPLICAS,
        max(longest.values()),
    )
    assert verdict.faults == {}
    assert verdict.emitted == verdict.found > RATE
    assert here.errors() == []
    # Beside other loads half as much again, which is still less than a lease: who hands nothing over is found.
    assert max(longest.values()) < HANDOVER * min(max(crowd, 1.5), SLACK), longest
