"""A slow way to the broker: everything goes over it in the time that its bytes take, and nothing starves behind it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

import pytest

from tests.support import kafka_cluster, kafka_server
from tests.support.checker import Found
from tests.support.gateway_process import Scene, house, until, verified_of
from tests.support.kafka_server import KafkaServer
from tests.support.slow_line import SlowLine

log = logging.getLogger(__name__)

RATE: Final = 40_000.0
"""Bytes a second."""
LIVE: Final = 60
"""Events of another account that come meanwhile."""
LATE: Final = 5.0
"""Seconds that those may be late."""
SLACK: Final = 3
"""How much longer all of it may take on a busy machine."""


@asynccontextmanager
async def over_nats(folder: Path, rate: float, delay: float) -> AsyncIterator[tuple[Scene, SlowLine]]:
    async with house(folder, accounts=["alpha", "beta"], seed=3, has_line=True) as here:
        here.line.rate, here.line.delay = rate, delay
        yield here, here.line


@asynccontextmanager
async def over_kafka(folder: Path, rate: float, delay: float) -> AsyncIterator[tuple[Scene, SlowLine]]:
    kafka_server.require_java()
    server = KafkaServer(folder / "kafka")
    server.put_behind_a_wire()
    with server:
        async with kafka_cluster.made(folder, server, accounts=("alpha", "beta"), has_line=True) as here:
            here.line.rate, here.line.delay = rate, delay
            yield here, here.line


FAR: Final = [
    pytest.param(over, 3000, delay, id=f"{over.__name__} {2 * delay:g} s", marks=pytest.mark.long)
    for over in (over_nats, over_kafka)
    for delay in (0.0, 0.2)
]
CASES: Final = [
    pytest.param(over_nats, 600, 0.0, id="nats"),
    pytest.param(over_kafka, 600, 0.0, id="kafka"),
    *FAR,
]


def size_of(found: list[Found]) -> int:
    """Return the bytes of messages, with their headers."""
    return sum(len(one.value) + sum(len(name) + len(text) + 4 for name, text in one.headers.items()) for one in found)


def delays(found: list[Found], account: str) -> list[float]:
    """Return the seconds from each event of an account to when it was stored, by one clock."""
    return [
        one.stored_at - datetime.fromisoformat(json.loads(one.value)["EventTime"]).timestamp()
        for one in found
        if one.subject.endswith(account)
    ]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("over", "waiting", "delay"), CASES)
async def test_a_slow_line_carries_all_that_waits_and_live_events_go_beside_it(
    tmp_path: Path, over: type, waiting: int, delay: float
) -> None:
    async with over(tmp_path, RATE, delay) as (here, line):
        await here.ask("POST /users/alpha/emit", count=waiting)
        gateway = await here.gateway()
        await until(lambda: gateway.stderr.count('"state": "live"') == 2, "the accounts are live")
        began, carried = time.monotonic(), line.carried
        await here.ask("POST /users/beta/emit", count=LIVE, rate=2)
        await here.reached({"alpha": waiting}, verified_of, timeout_s=SLACK * 120)
        seconds = time.monotonic() - began
        carried = line.carried - carried
        await here.reached({"beta": LIVE}, verified_of)
        found, verdict = await here.log(), await here.verdict()

    least = size_of([one for one in found if one.subject.endswith("alpha")]) / RATE
    worst = max(delays(found, "beta"))
    log.info(
        "%s in %.1f s; its bytes take %.1f s, all %.1f s over %d connections; live at most %.1f s late",
        verdict,
        seconds,
        least,
        carried / RATE,
        line.connections,
        worst,
    )
    assert verdict.faults == {}
    assert verdict.found == waiting + LIVE
    assert here.errors() == []
    assert "shard log failed, reopening" not in gateway.stderr
    assert "reconnected to NATS" not in gateway.stderr
    assert seconds < SLACK * least
    assert worst < SLACK * LATE
