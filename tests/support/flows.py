"""Events that flow steadily while replicas come and go, and how long an account may then be silent."""

from __future__ import annotations

import asyncio
from typing import Final

from tests.support.gateway_process import House

RATE: Final = 40.0
"""Events a second of each account."""
HANDOVER: Final = 2.0
"""Seconds that an account may be silent while a replica hands it over, on a machine of its own."""
SLACK: Final = 3
"""How many times as long that may take beside other loads; the figures are logged."""


async def steady_flow(here: House) -> None:
    """Let every account's hub emit at `RATE`, until cancelled and for a second after that."""
    while True:
        await here.emit(count=round(RATE), rate=RATE)
        await asyncio.sleep(1)


async def has_ended(here: House) -> bool:
    """Return whether nothing is emitted any more."""
    return all(user["emitting"] == 0 for user in (await here.ask("GET /status"))["users"])
