from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.broker.memory.log import MemoryBroker
from gateway.simulator import SimulatorConfig, simulator
from tests.support.in_process import Build, World


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    """Make a world with a hub and accounts that have `prefill` events each."""
    async with AsyncExitStack() as stack:

        async def build(*accounts: str, prefill: int = 0) -> World:
            users = {account: f"key-of-{account}" for account in accounts}
            for account, key in users.items():
                (tmp_path / account).write_text(key)
            hub = await stack.enter_async_context(simulator(SimulatorConfig(users=users, prefill=prefill, seed=1)))
            inner = await stack.enter_async_context(AsyncExitStack())
            return World(hub, MemoryBroker(), tmp_path, inner)

        yield build
