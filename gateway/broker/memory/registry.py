"""The registry in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from gateway.errors import ConfigurationError


@dataclass(slots=True)
class MemoryRegistry:
    """The registry's contract in memory (`gateway.broker.ports.Registry`)."""

    shards: int | None = None
    registered: set[str] = field(default_factory=set)

    async def ensure_layout(self, shards: int) -> None:
        """See the contract."""
        await asyncio.sleep(0)
        self.shards = self.shards or shards
        if self.shards != shards:
            raise ConfigurationError("shards", f"{shards} is not {self.shards}", f"Set it to {self.shards}.")

    async def accounts(self) -> frozenset[str]:
        """See the contract."""
        await asyncio.sleep(0)
        return frozenset(self.registered)

    async def register(self, account: str) -> None:
        """See the contract."""
        await asyncio.sleep(0)
        self.registered.add(account)

    async def forget(self, accounts: Collection[str]) -> None:
        """See the contract."""
        await asyncio.sleep(0)
        self.registered.difference_update(accounts)
