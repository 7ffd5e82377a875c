"""Brokers that are hard to connect to, and a gateway of 24 accounts: dead addresses, and few connections a second."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support import kafka_cluster, kafka_server
from tests.support.gateway_process import Process, Scene, house, settled_of, until
from tests.support.kafka_server import KafkaServer
from tests.support.sockets import dead_addresses

log = logging.getLogger(__name__)

ACCOUNTS: Final = [f"account-{number}" for number in range(1, 25)]
SOON: Final = 10.0
"""Seconds that two dead addresses of three may cost."""
ADMITTED: Final = 4.0
"""Connections a second."""
PATIENT: Final = 150.0
"""Seconds until the accounts are live at such a broker, at the most: it takes 20 s, and took for ever once."""
ROUNDS: Final = 3


@asynccontextmanager
async def over(broker: str, folder: Path) -> AsyncIterator[Scene]:
    if broker == "nats":
        async with house(folder, accounts=ACCOUNTS, has_line=True) as here:
            yield here
        return
    kafka_server.require_java()
    server = KafkaServer(folder / "kafka")
    server.put_behind_a_wire()
    with server:
        async with kafka_cluster.made(folder, server, accounts=ACCOUNTS, has_line=True, shards=16) as here:
            yield here


async def stored(here: Scene, number: int) -> None:
    """Let each account have one event more, and wait until that is in the log."""
    for name in ACCOUNTS:
        await here.ask(f"POST /users/{name}/emit", count=1)
    await here.reached(dict.fromkeys(ACCOUNTS, number), settled_of, timeout_s=PATIENT)


def live(gateway: Process) -> int:
    return len({line["account"] for line in gateway.lines() if line.get("state") == "live"})


async def ended(gateway: Process) -> None:
    gateway.signal(signal.SIGTERM)
    assert await gateway.ended() == 0


@pytest.mark.parametrize("broker", ["nats", "kafka"])
async def test_two_dead_addresses_of_three_hold_the_first_events_up_for_no_time(tmp_path: Path, broker: str) -> None:
    took = []
    with dead_addresses("silent", 2) as dead:
        async with over(broker, tmp_path) as here:
            for number, addresses in enumerate(([], dead), 1):
                text = here.config.read_text()
                for one in addresses:
                    text = text.replace("servers: ['", f"servers: ['nats://{one}', '").replace(
                        "servers: '127", f"servers: '{one},127"
                    )
                assert all(one in text for one in addresses)
                here.config.write_text(text)
                began = time.monotonic()
                gateway = await here.gateway()
                await stored(here, number)
                took.append(time.monotonic() - began)
                await ended(gateway)
            verdict = await here.verdict()
    log.info("%s; %.1f s without them and %.1f s with them", verdict, *took)
    assert verdict.faults == {}
    assert took[1] < 2 * took[0] + SOON


@pytest.mark.parametrize("broker", ["nats", pytest.param("kafka", marks=pytest.mark.long)])
async def test_a_broker_of_few_connections_serves_all_accounts_and_is_left_alone(tmp_path: Path, broker: str) -> None:
    async with over(broker, tmp_path) as here:
        here.line.admits = ADMITTED
        began = time.monotonic()
        gateway = await here.gateway()
        await until(lambda: live(gateway) == len(ACCOUNTS), "all accounts are live", PATIENT)
        took, opened = time.monotonic() - began, here.line.connections
        await stored(here, 1)
        settled = here.line.connections
        for number in range(ROUNDS):
            await stored(here, 2 + number)
        more = here.line.connections - settled
        await ended(gateway)
        verdict = await here.verdict()
    log.info("%s; live after %.1f s and %d connections, then %d, then %d", verdict, took, opened, settled, more)
    assert verdict.faults == {}
    assert more <= 1
