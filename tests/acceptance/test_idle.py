"""What an account costs that has nothing to do, and that connections leave nothing behind when they are gone."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tests.support.crowd import connected, count, memory
from tests.support.gateway_process import House, Process, house, until

pytestmark = pytest.mark.usefixtures("started_afresh")

log = logging.getLogger(__name__)

FEW, MANY = 100, 1_100
BUDGET = 50.0
"""KiB of each account, over plain TCP."""
ROUNDS, DROPPED = 5, 200


def quiet(here: House) -> None:
    """Let the gateway look at the history as rarely as it does by default."""
    here.config.write_text(here.config.read_text().replace("history_grace: 1.0, audit_interval: 0.5", ""))


async def idle(folder: Path, accounts: int) -> float:
    """Return the MiB that a gateway takes with so many accounts that have nothing to do."""
    folder.mkdir()
    async with house(folder, accounts=accounts) as here:
        quiet(here)
        gateway = await here.gateway()
        await connected(here)
        await until(lambda: live(gateway) >= accounts, "all are live")
        return memory(gateway, "VmRSS")


async def test_an_idle_account_costs_less_than_its_budget(tmp_path: Path) -> None:
    few, many = await idle(tmp_path / "few", FEW), await idle(tmp_path / "many", MANY)
    cost = (many - few) * 1024 / (MANY - FEW)
    log.info("an idle account costs %.1f KiB (%.1f MiB with %d, %.1f MiB with %d)", cost, few, FEW, many, MANY)
    assert cost < BUDGET


def live(gateway: Process) -> int:
    """Count the accounts that it says are live; many at once it sums up."""
    return sum(line.get("repeated", 1) for line in gateway.lines() if line.get("state") == "live")


def descriptors(gateway: Process) -> int:
    return sum(1 for _ in Path(f"/proc/{gateway.popen.pid}/fd").iterdir())


async def test_a_thousand_connections_leave_nothing_behind(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=DROPPED) as here:
        gateway = await here.gateway()
        await connected(here)

        async def dropped(rounds: int) -> None:
            for _ in range(rounds):
                before = await count(here, "connects")
                await here.ask("POST /drop", how="abort")
                await until(lambda before=before: _more(here, before), "all connected again")
                await connected(here)

        await dropped(1)  # what is made once is made now
        await asyncio.sleep(1)
        files, size = descriptors(gateway), memory(gateway, "VmRSS")
        await dropped(ROUNDS)
        await until(lambda: descriptors(gateway) <= files, f"no more than {files} descriptors are open")
        grown = memory(gateway, "VmRSS") - size
        assert await count(here, "connects") >= DROPPED * (ROUNDS + 2)
    log.info("%d descriptors before and after, %.1f MiB more", files, grown)
    assert grown < 16  # as large as a leak of 16 KiB a connection would be; what is freed is not given back at once


async def _more(here: House, before: int) -> bool:
    await asyncio.sleep(0.05)
    return await count(here, "connects") >= before + DROPPED
