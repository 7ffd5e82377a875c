"""A thousand accounts that all page at once after an outage, within a byte budget that holds a fraction of it."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path

import pytest

from tests.acceptance.processes import House, Process, house, settled_of, until

ACCOUNTS = 1_000
EVENTS = 100
USUAL = 5
"""Events of each account before the outage: one that never had any holds less than it always will."""
RECONNECTS = 2
"""Times that all accounts connect again before memory is measured: the first costs some 15 MiB, and no page of it."""
BUDGET = 16
"""MiB: a fraction of all that waits here."""
AROUND = 16
"""MiB that a thousand accounts may take besides: identities of what they publish, pages that come, free pieces.

18 to 28 MiB were measured in all; 45 where what served a connection stayed until the garbage collector came.
"""


def memory(gateway: Process, what: str) -> float:
    """Return a figure of the kernel, in MiB."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{gateway.popen.pid}/status").read_text("utf-8"))
    assert found is not None
    return int(found[1]) / 1024


async def count(here: House, what: str) -> int:
    """Add up what the hub counted of its users."""
    return sum(user["counts"].get(what, 0) for user in (await here.ask("GET /status"))["users"])


async def connected(here: House, times: int = 1) -> None:
    """Wait until each account has one connection, its `times`th."""

    async def all_are() -> bool:
        await asyncio.sleep(0.25)  # a status of a thousand users keeps the hub busy
        users = (await here.ask("GET /status"))["users"]
        return all(len(user["connections"]) == 1 and user["counts"].get("connects", 0) >= times for user in users)

    await until(all_are, f"all accounts are connected, for the {times}. time")


@pytest.mark.alone
async def test_a_thousand_accounts_that_page_at_once_stay_within_the_byte_budget(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=ACCOUNTS) as here:
        config = here.config.read_text("utf-8").replace("audit_interval: 0.5", "audit_interval: 30")
        config = config.replace("broker: {", "broker: {commit_timeout: 120, ")
        here.config.write_text(f"{config}memory_bytes: {BUDGET * 2**20}\n", "utf-8")
        gateway = await here.gateway()
        await connected(here)
        await here.emit(USUAL, 1_000)
        await here.reached(await here.latest(), settled_of)
        for times in range(2, 2 + RECONNECTS):
            await here.ask("POST /drop", how="cut")
            await connected(here, times)
        idle = memory(gateway, "VmRSS")

        here.wire.hold()  # what is read must wait: the broker is slow
        await here.ask("POST /unlisten", seconds=4)
        await here.ask("POST /drop", how="cut")
        await here.emit(EVENTS, 1_000_000)
        shown = 0

        async def is_full() -> bool:
            nonlocal shown
            await asyncio.sleep(2)
            before, shown = shown, await count(here, "history events")
            return 0 < before == shown

        await until(is_full, "nobody pages any more")
        here.wire.release()
        await here.settled(USUAL + EVENTS)
        peak = memory(gateway, "VmHWM")
        verdict = await here.verdict()

    logging.getLogger(__name__).info(
        "%s; %d events were read, of %d, when memory was full; %.0f MiB idle, %.0f MiB at the most, budget %d MiB",
        verdict,
        shown,
        ACCOUNTS * EVENTS,
        idle,
        peak,
        BUDGET,
    )
    assert verdict.faults == {}
    assert verdict.emitted == ACCOUNTS * (USUAL + EVENTS)
    assert peak - idle < BUDGET + AROUND
