"""Thousands of accounts at once: how they come to life, and how gently a hub is asked that refuses them all."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.gateway_process import House, house, until
from tests.support.metrics_client import Metrics, metrics_of

log = logging.getLogger(__name__)

REPLICAS: Final = 2
SIZES: Final = [
    pytest.param(200, 20, 15.0, id="200"),
    pytest.param(5_000, 300, 60.0, id="5000", marks=[pytest.mark.long, pytest.mark.alone]),
]
"""Accounts, the connections a second that a replica may begin, and the seconds for which the hub refuses everybody."""
TIMEOUT_S: Final = 120.0


async def steps(here: House, since: float) -> list[dict[str, Any]]:
    """Return what clients did at the hub's doors after a moment; the hub keeps the last 10,000 steps."""
    entries: list[dict[str, Any]] = await here.ask(f"GET /log?since={since}")
    return entries


async def are_live(replicas: Sequence[Metrics], accounts: int) -> bool:
    """Return whether all accounts are live; to ask the hub for its five thousand users would keep it busy."""
    await asyncio.sleep(0.5)  # a scrape looks at each account
    return sum([(await replica.scrape()).get(("accounts", "live"), 0) for replica in replicas]) == accounts


@pytest.mark.timeout(420)
@pytest.mark.parametrize(("accounts", "rate", "refusing"), SIZES)
async def test_many_begin_within_the_limits_and_a_refusing_hub_is_asked_gently(
    tmp_path: Path, accounts: int, rate: int, refusing: float
) -> None:
    settings = {"GATEWAY_METRICS__PER_ACCOUNT": "false", "GATEWAY_HUB__CONNECTS_PER_SECOND": str(rate)}
    async with house(tmp_path, accounts=accounts) as here:
        audits = accounts / 150  # seconds between two of an account: 150 a second, whatever the size
        here.config.write_text(here.config.read_text().replace("audit_interval: 0.5", f"audit_interval: {audits}"))
        began = time.time()
        gateways = [await here.gateway(settings) for _ in range(REPLICAS)]
        replicas = [await metrics_of(gateway, here.http) for gateway in gateways]
        await until(lambda: are_live(replicas, accounts), "all are live", TIMEOUT_S)
        took = time.time() - began
        begun = await steps(here, began)

        refused_from = time.time()
        await here.ask("POST /refuse", status=503, seconds=refusing)
        await here.ask("POST /drop", how="cut")
        refused: list[dict[str, Any]] = []
        while time.time() < refused_from + refusing:
            await asyncio.sleep(2)
            refused += await steps(here, refused[-1]["time"] if refused else refused_from)
        tries = [entry for entry in refused if entry["step"] == "negotiate" and entry["status"] == 503]
        assert not await are_live(replicas, accounts)
        await until(lambda: are_live(replicas, accounts), "all are live again", TIMEOUT_S)
        again = time.time() - refused_from - refusing
        await here.emit(2, 1_000_000)
        await here.settled(2)
        verdict = await here.verdict()

    a_second = Counter(int(entry["time"]) for entry in begun if entry["step"] == "negotiate").most_common(1)[0][1]
    tries_a_second = Counter(int(entry["time"]) for entry in tries)
    by_account = Counter(entry["user"] for entry in tries)
    late = sum(count for second, count in tries_a_second.items() if second > refused_from + refusing / 2)
    log.info("%d accounts were live after %.1f s, at most %d connects a second", accounts, took, a_second)
    log.info(
        "refused for %.0f s: %d tries, at most %d a second and %d an account; in its second half %.0f a second; "
        "all were back %.1f s later",
        refusing,
        len(tries),
        max(tries_a_second.values()),
        max(by_account.values()),
        late / (refusing / 2),
        again,
    )
    assert verdict.faults == {}
    assert verdict.found == 2 * accounts
    assert a_second <= 1.2 * REPLICAS * rate
    assert refusing < len(tries) < accounts
    assert max(tries_a_second.values()) <= 1.2 * REPLICAS * rate
    assert late / (refusing / 2) < rate / 5  # a tenth of what it would take
