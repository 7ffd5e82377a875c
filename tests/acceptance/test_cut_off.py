"""A replica that is cut off from its broker, but not from the hub: another takes over, and it comes back by itself."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Final

import pytest

from tests.support import kafka_server
from tests.support.fault_injection import silences
from tests.support.gateway_process import House, Process, settled_of, until
from tests.support.kafka_cluster import Place
from tools import chaos

log = logging.getLogger(__name__)

ACCOUNTS: Final = 24
RATE: Final = 8.0
SLACK: Final = 2
"""How many times as long a takeover may take beside other loads; the figures are logged."""


@pytest.mark.timeout(240)
async def test_on_jetstream_another_takes_over_from_one_that_is_cut_off(tmp_path: Path) -> None:
    async with chaos.jetstream(tmp_path, seed=40, accounts=ACCOUNTS) as scene:
        await one_is_cut_off_for_long(scene, takeover=5)


@pytest.mark.long  # the short run has what is frozen or killed on Kafka in test_kafka.py
@pytest.mark.timeout(240)
async def test_on_kafka_another_takes_over_from_one_that_is_cut_off(tmp_path: Path) -> None:
    kafka_server.require_java()
    async with chaos.kafka(tmp_path, seed=41, accounts=ACCOUNTS) as scene:
        await one_is_cut_off_for_long(scene, takeover=9)


async def one_is_cut_off_for_long(scene: House | Place, *, takeover: float) -> None:
    busy, idle = scene.accounts[::2], scene.accounts[1::2]
    for account in idle:
        await scene.ask(f"POST /users/{account}/emit", count=1)
    for account in busy:
        await scene.ask(f"POST /users/{account}/emit", rate=RATE)
    stays, goes = await scene.gateway(), await scene.gateway()
    await flows_through(scene, stays, goes)
    assert await has_one_each(scene)

    await until(lambda: scene.in_flight(goes.popen.pid) > 0, "a commit is in flight")
    began = time.time()
    events = scene.in_flight(goes.popen.pid)
    scene.sever(goes.popen.pid)
    await scene.reached(await scene.latest(), settled_of)
    taken_over = time.time()
    doubled: set[str] = set()

    async def are_let_go() -> bool:
        doubled.update(account for account, count in (await connections(scene)).items() if count > 1)
        return bool(doubled) and has_let_go(goes) >= doubled

    await until(are_let_go, "all connections are let go")
    waited = time.time() - began
    await until(lambda: has_one_each(scene), "each account has one connection")

    scene.mend()
    await flows_through(scene, stays, goes)
    await scene.ask("POST /pause")
    await scene.settled(1)
    await until(lambda: has_one_each(scene), "each account has one connection again")
    verdict = await scene.verdict()

    longest = max(silences(await scene.log(), busy, began, taken_over).values())
    log.info("%s; struck with %d events in flight; silent for %.2f s at the most", verdict, events, longest)
    log.info("%d accounts moved; their old connections were let go after %.1f s", len(doubled), waited)
    assert verdict.faults == {}
    assert verdict.emitted == verdict.found > 0
    assert events
    assert doubled & set(busy)
    assert doubled & set(idle)
    assert waited > 30
    assert longest < SLACK * takeover
    assert scene.errors() == []


async def flows_through(scene: House | Place, *gateways: Process) -> None:
    """Wait until the present is in the log, and each of these has events in flight; the last of them now."""
    for gateway in gateways:
        await until(lambda gateway=gateway: scene.in_flight(gateway.popen.pid) > 0, f"{gateway.name} has a part")
    await scene.reached(await scene.latest(), settled_of)
    await until(lambda: scene.in_flight(gateways[-1].popen.pid) > 0, f"{gateways[-1].name} has a part")


def has_let_go(gateway: Process) -> set[str]:
    """Return the accounts whose connections a gateway gave up because it has no log."""
    return {line["account"] for line in gateway.lines() if line.get("why") == "there is no log to write to"}


async def connections(scene: House | Place) -> dict[str, int]:
    """Return how many connections each account has at the hub."""
    return {user["name"]: len(user["connections"]) for user in await scene.users()}


async def has_one_each(scene: House | Place) -> bool:
    """Return whether each account has one connection."""
    return set((await connections(scene)).values()) == {1}
