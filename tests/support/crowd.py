"""What the tests of many accounts ask of the hub and of the kernel."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from tests.support.gateway_process import House, Process, until


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
