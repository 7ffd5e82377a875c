"""A thousand accounts that all page at once after an outage, within a byte budget that holds a fraction of it."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from tests.acceptance.processes import House, Process, house, until

ACCOUNTS = 1_000
EVENTS = 60
BUDGET = 16 * 1024 * 1024
UNBOUNDED = 80 * 1024 * 1024
"""Bytes that the process grew by, in the same test, with a budget of 1 GiB; with this one it grew by 20 MB."""


def megabytes(gateway: Process, what: str) -> float:
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{gateway.popen.pid}/status").read_text("utf-8"))
    assert found is not None
    return int(found[1]) / 1024


async def connections(world: House) -> int:
    users = (await world.ask("GET /status"))["users"]
    return sum(len(user["connections"]) for user in users)


async def test_a_thousand_accounts_that_page_at_once_stay_within_the_byte_budget(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=ACCOUNTS) as world:
        with world.config.open("a", encoding="utf-8") as config:
            config.write(f"memory_bytes: {BUDGET}\n")
        gateway = await world.gateway()

        async def all_connected() -> bool:
            return await connections(world) == ACCOUNTS

        await until(all_connected, "all accounts are connected")
        before = megabytes(gateway, "VmRSS")
        world.server.freeze()  # nothing can be published: what is read must wait
        await world.ask("POST /drop", how="cut")
        await world.emit(EVENTS, 1_000_000)
        await until(all_connected, "all accounts are connected again")
        await until(lambda: megabytes(gateway, "VmRSS") > before, "pages are read")
        world.server.thaw()

        await world.acknowledged(ACCOUNTS * EVENTS)
        peak = megabytes(gateway, "VmHWM")
        verdict = await world.verdict()
        logging.getLogger(__name__).info(
            "%d accounts: %.0f MB idle, %.0f MB at the most, with a budget of %d MiB",
            ACCOUNTS,
            before,
            peak,
            BUDGET // 2**20,
        )
        assert verdict.faults == {}
        assert (peak - before) * 2**20 < UNBOUNDED / 2
