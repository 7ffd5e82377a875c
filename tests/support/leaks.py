"""What must not stay behind of what has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


def sockets() -> set[str]:
    """Return the sockets that this process has open."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(entry.readlink()))
        except FileNotFoundError:  # that of the listing itself
            continue
    return {name for name in found if name.startswith("socket:")}


@asynccontextmanager
async def leaving_nothing() -> AsyncIterator[None]:
    """Check that what runs inside leaves no task and no socket."""
    tasks, before = asyncio.all_tasks(), sockets()
    yield
    assert asyncio.all_tasks() <= tasks
    await asyncio.sleep(0)  # a transport closes its socket in the loop's next turn
    assert sockets() <= before
