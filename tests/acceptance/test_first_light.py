"""The promise itself, on real processes: whatever is killed or cut, each event is in the log once and in order.

Kills strike while a commit is in flight: a wire between gateway and NATS sees the batch go by, and says what the
server had of it at that moment. The log is read and judged by `checker.py`, which knows nothing of the gateway.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from pathlib import Path
from random import Random
from typing import Final

import pytest

from tests.support.fault_injection import RATE, cut_connections, cuts_of, has_cut, strike, summary, were_in_flight
from tests.support.gateway_process import house, meanwhile
from tests.support.nats_proxy import Catch, How

pytestmark = pytest.mark.usefixtures("started_afresh")

log = logging.getLogger(__name__)


@pytest.mark.long  # the short run has the same beside a bad hub in test_jetstream.py
async def test_20000_events_of_5_accounts_are_exact_through_5_kills_and_cuts(tmp_path: Path) -> None:
    dice = Random(20_000)
    async with house(tmp_path, seed=1) as here:
        gateway = await here.gateway()
        catches: list[Catch] = []
        async with meanwhile(cut_connections(here, dice)):
            for how in KILLS:
                catches.append(await strike(here, how, gateway.kill, dice, count=600))
                gateway = await here.gateway()
            catches.append(await strike(here, "unanswered", here.wire.cut, dice, count=600))
            await here.emit(count=400, rate=RATE)
            await asyncio.sleep(400 / RATE)
            await has_cut(here, 5)
        await here.settled(4000)
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended(10) == 0
        verdict = await here.verdict()
        cuts = await cuts_of(here)

    log.info("%s; %d connections to the hub cut; struck in flight: %s", verdict, cuts, summary(catches))
    assert verdict.faults == {}
    assert (verdict.emitted, verdict.found, verdict.late) == (20_000, 20_000, 0)
    assert here.errors() == []
    were_in_flight(catches, [*KILLS, "unanswered"])


async def test_sigterm_under_load_ends_in_10_s_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    async with house(tmp_path, seed=2) as here:
        gateway = await here.gateway()
        seconds = []
        for _ in range(2):
            await here.emit(count=600, rate=RATE)
            await here.acknowledged(here.wire.acknowledged + 1000)
            asked = time.monotonic()
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended(10) == 0
            seconds.append(time.monotonic() - asked)
            gateway = await here.gateway()
        await here.settled(1200)
        verdict = await here.verdict()

    log.info("%s; ended %s s after SIGTERM", verdict, ", ".join(f"{one:.2f}" for one in seconds))
    assert verdict.faults == {}
    assert (verdict.emitted, verdict.late) == (6000, 0)
    assert here.errors() == []


async def test_a_nats_server_killed_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    dice = Random(3)
    kills: list[How] = ["half", "unanswered", "unanswered"]
    async with house(tmp_path, seed=3) as here:
        await here.gateway()
        catches = []
        for how in kills:
            catches.append(await strike(here, how, here.server.kill, dice, count=500))
            await asyncio.to_thread(here.server.start)
        await here.settled(1500)
        verdict = await here.verdict()

    log.info("%s; struck in flight: %s", verdict, summary(catches))
    assert verdict.faults == {}
    assert (verdict.emitted, verdict.late) == (7500, 0)
    assert here.errors() == []
    were_in_flight(catches, kills)


async def test_two_kills_during_the_first_catch_up_lose_and_double_nothing(tmp_path: Path) -> None:
    kills: list[How] = ["unanswered", "half"]
    async with house(tmp_path, accounts=3, seed=4, prefill=5000) as here:
        gateway = await here.gateway()
        catches = []
        for how in kills:
            catches.append(await here.wire.strike(how, gateway.kill, skip=3))
            gateway = await here.gateway()
        await here.settled(5000)
        verdict = await here.verdict()

    log.info("%s; struck in flight: %s", verdict, summary(catches))
    assert verdict.faults == {}
    assert (verdict.emitted, verdict.late) == (15_000, 0)
    assert here.errors() == []
    were_in_flight(catches, kills)


KILLS: Final[list[How]] = ["half", "unanswered", "half", "unanswered", "unanswered"]
