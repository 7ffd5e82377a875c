"""A gateway whose wall clock somebody sets while it runs: nothing is lost, no shard moves, nothing flaps."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import kafka_server
from tests.support.gateway_process import ROOT, House, Process, settled_of, until
from tests.support.kafka_cluster import Place
from tools import chaos

log = logging.getLogger(__name__)

ACCOUNTS: Final = 12
RATE: Final = 8.0
HOURS: Final = (1, -1, 2, -2, 0)
"""How far off the clock of one of two replicas is, one after the other. Kafka takes no record that is from
more than an hour ahead."""
LOOKS: Final = 5.0
"""Seconds for which each holds: longer than the leases of JetStream, and several renewals and heartbeats."""


@pytest.mark.timeout(240)
async def test_on_jetstream_nothing_heeds_a_clock_that_jumps(tmp_path: Path) -> None:
    async with chaos.jetstream(tmp_path, seed=50, accounts=ACCOUNTS) as scene:
        await the_clock_of_one_jumps(scene)


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_on_kafka_nothing_heeds_a_clock_that_jumps(tmp_path: Path) -> None:
    kafka_server.require_java()
    async with chaos.kafka(tmp_path, seed=51, accounts=ACCOUNTS) as scene:
        await the_clock_of_one_jumps(scene)
        assert (scene.folder / "clock.seen").exists()


async def the_clock_of_one_jumps(scene: House | Place) -> None:
    clock = scene.folder / "clock"
    fixture = ROOT / "tests" / "fixtures" / "clock"
    gateways = [
        await scene.gateway(),
        await scene.gateway({"PYTHONPATH": str(fixture), "CLOCK_JUMP": str(clock)}),
    ]
    for account in scene.accounts:
        await scene.ask(f"POST /users/{account}/emit", rate=RATE)
    for gateway in gateways:
        await until(lambda gateway=gateway: scene.in_flight(gateway.popen.pid) > 0, f"{gateway.name} has a part")
    await scene.reached(await scene.latest(), settled_of)
    before, connects = [turmoil(gateway) for gateway in gateways], await made(scene)
    for hours in HOURS:
        clock.write_text(str(3600 * hours))
        await asyncio.sleep(LOOKS)
        await scene.reached(await scene.latest(), settled_of)
    after = [turmoil(gateway) for gateway in gateways]
    assert after == before
    assert await made(scene) == connects
    await scene.ask("POST /pause")
    await scene.settled(1)
    verdict = await scene.verdict()

    log.info("%s", verdict)
    assert verdict.faults == {}
    assert verdict.emitted == verdict.found > 0
    assert scene.errors() == []


def turmoil(gateway: Process) -> list[dict[str, Any]]:
    """Return what a gateway logged of shards that came, went or were opened again, and of its broker and hub."""
    return [line for line in gateway.lines() if line["level"] != "info" or "shard" in line or "shards" in line]


async def made(scene: House | Place) -> dict[str, int]:
    """Return how many connections each account ever made."""
    return {user["name"]: user["counts"].get("connects", 0) for user in await scene.users()}
