"""A thousand accounts that all page at once after an outage, within a byte budget that holds a fraction of it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tests.support.crowd import connected, count, memory
from tests.support.gateway_process import house, settled_of, until

pytestmark = pytest.mark.usefixtures("started_afresh")

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
