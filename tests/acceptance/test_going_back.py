"""A broker that loses power, or whose volume is put back: what it lost is published again from the hub's history."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support import kafka_cluster, kafka_server
from tests.support.gateway_process import TIMEOUT_S, Process, Scene, house, until
from tests.support.kafka_server import KafkaServer
from tests.support.putting_back import Stoppable, keep, put_back_only

log = logging.getLogger(__name__)

EVENTS = "*.order-update.v1-*"
"""The folders of a topic's partitions."""


@asynccontextmanager
async def on_nats(folder: Path) -> AsyncIterator[tuple[Scene, Stoppable]]:
    async with house(folder, accounts=2, prefill=1000, seed=3) as here:
        yield here, here.server


@asynccontextmanager
async def on_kafka(folder: Path) -> AsyncIterator[tuple[Scene, Stoppable]]:
    kafka_server.require_java()
    server = KafkaServer(folder / "kafka")
    server.put_behind_a_wire()
    with server:
        async with kafka_cluster.made(folder, server, accounts=("alpha", "beta"), prefill=1000) as here:
            yield here, server


IDLE: Final = "nothing comes"


@pytest.mark.parametrize(
    ("on", "then"),
    [
        pytest.param(on_nats, "events come", id="nats-events come"),
        pytest.param(on_nats, IDLE, id="nats-nothing comes"),
        pytest.param(on_kafka, "events come", id="kafka-events come"),
        pytest.param(on_kafka, IDLE, id="kafka-nothing comes", marks=pytest.mark.long),
    ],
)
async def test_what_a_store_that_went_back_lost_is_published_again_and_no_more(
    tmp_path: Path,
    on: type,  # a function that gives a scene
    then: str,
) -> None:
    async with on(tmp_path) as (here, _):
        gateway = await here.gateway()
        await here.settled(1000)
        await asyncio.to_thread(here.keep_store)
        await here.emit(200, 100)
        await here.settled(1200)
        await asyncio.to_thread(here.put_store_back)
        total = 1200
        if then == "events come":
            await here.emit(100, 100)
            total = 1300
        await until(lambda: "broker store went back in time" in gateway.stderr, "it is told")
        await here.settled(total)
        await asyncio.sleep(1)
        verdict = await here.verdict()

    log.info("%s", verdict)
    assert verdict.faults == {}
    assert (verdict.emitted, verdict.found) == (2 * total, 2 * total)
    assert ranges(gateway) == dict.fromkeys(here.accounts, (1001, 1200))


@pytest.mark.parametrize("then", [pytest.param("events come", marks=pytest.mark.long), IDLE])
async def test_what_a_topic_of_events_lost_is_published_again_and_no_more(tmp_path: Path, then: str) -> None:
    """The checkpoints stand, and say that its events are stored."""
    async with on_kafka(tmp_path) as (here, server):
        gateway = await here.gateway()
        await here.settled(1000)
        await asyncio.to_thread(keep, server)
        await here.emit(200, 100)
        await here.settled(1200)
        await asyncio.to_thread(put_back_only, server, f"**/{EVENTS}")
        total = 1200
        if then == "events come":
            await here.emit(100, 100)
            total = 1300
        await until(lambda: "broker store went back in time" in gateway.stderr, "it is told")
        await here.settled(total)
        await until_found(here, 2 * total)
        await asyncio.sleep(1)
        verdict = await here.verdict()

    log.info("%s", verdict)
    assert verdict.faults == {}
    assert (verdict.emitted, verdict.found) == (2 * total, 2 * total)
    for account, (first, last) in ranges(gateway).items():
        assert 1000 < first < last <= 1200, account
    assert ranges(gateway).keys() == set(here.accounts)


async def until_found(here: Scene, count: int) -> None:
    """Wait until so many events are in the log: the checkpoints do not tell when what was lost is there again."""
    async with asyncio.timeout(TIMEOUT_S):
        while (await here.verdict()).found < count:
            await asyncio.sleep(0.5)


def ranges(gateway: Process) -> dict[str, tuple[int, int]]:
    """Return what the gateway says at ERROR of what was lost, by account."""
    lines = [line for line in gateway.stderr.splitlines() if "broker store went back in time" in line]
    assert all('"level":"error"' in re.sub(r"\s", "", line) for line in lines)
    found = [re.search(r'"account": ?"([\w-]+)".*"first": ?(\d+), ?"last": ?(\d+)', line) for line in lines]
    return {one[1]: (int(one[2]), int(one[3])) for one in found if one}
