"""The audit trail in memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from gateway.errors import BrokerError


@dataclass(slots=True)
class MemoryAudit:
    """The contract of the audit trail in memory (`gateway.broker.ports.AuditTrail`)."""

    records: list[bytes] = field(default_factory=list)
    """In the order in which they were stored."""
    failure: BrokerError | None = None
    """What each call raises."""

    async def append(self, id_: str, account: str, record: bytes) -> None:  # noqa: ARG002 - the record says both
        """Store a record; see the contract."""
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.records.append(record)
