"""Ownership in memory: leases that all members share."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from gateway.broker import leases
from gateway.broker.ports import Membership
from gateway.errors import Conflict, Unavailable


@dataclass(slots=True)
class MemoryOwnership:
    """The contract of ownership in memory (`gateway.broker.ports.Ownership`), shared by all members."""

    timing: leases.LeaseTiming = field(default_factory=leases.LeaseTiming)
    is_away: bool = False
    """Whether every call is answered by Unavailable."""
    generation: object = field(default_factory=object)
    _records: dict[str, tuple[leases.Lease, float]] = field(default_factory=dict)
    _revision: int = 0

    def join(self, member: str, shards: int) -> AbstractAsyncContextManager[Membership]:  # noqa: ARG002 - for people
        """Take part; see the contract."""
        return leases.join(self, shards, self.timing)

    def restart(self) -> None:
        """Forget everything, as a broker that keeps leases in its memory."""
        self._records.clear()
        self._revision, self.generation = 0, object()

    async def names(self) -> frozenset[str]:
        """See `gateway.broker.leases.LeaseStore`."""
        return frozenset(await self._current())

    async def read(self, name: str) -> leases.Lease | None:
        """See `gateway.broker.leases.LeaseStore`."""
        return (await self._current()).get(name)

    async def write(self, name: str, token: str, expect: int | None) -> int:
        """See `gateway.broker.leases.LeaseStore`."""
        current = (await self._current()).get(name)
        if expect is not None and expect != (current.revision if current else 0):
            raise Conflict(f"{name} is {current}")
        self._revision += 1
        ends = asyncio.get_running_loop().time() + self.timing.lease
        self._records[name] = leases.Lease(self._revision, token), ends
        return self._revision

    async def erase(self, name: str, revision: int) -> None:
        """See `gateway.broker.leases.LeaseStore`."""
        current = (await self._current()).get(name)
        if current is not None and current.revision == revision:
            del self._records[name]

    async def _current(self) -> dict[str, leases.Lease]:
        await asyncio.sleep(0)
        if self.is_away:
            raise Unavailable
        now = asyncio.get_running_loop().time()
        return {name: lease for name, (lease, ends) in self._records.items() if ends > now}
