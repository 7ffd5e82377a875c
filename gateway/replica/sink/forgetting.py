"""Accounts of one shard that are to be erased from the registry, beside the commits: that takes seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from gateway.backoff import Backoff
from gateway.broker.ports import Registry
from gateway.errors import BrokerError
from gateway.telemetry.logs import get_logger


class AccountForgetter:
    """Erases the accounts whose checkpoints are erased already, all that there are at once."""

    def __init__(self, registry: Registry, forgotten: Callable[[Collection[str]], None]) -> None:
        """`forgotten` is called with the names that the registry has erased."""
        self.names: set[str] = set()
        """The accounts that the registry may still have."""
        self._registry = registry
        self._forgotten = forgotten
        self._running: asyncio.Task[None] | None = None

    def start(self, names: Collection[str], tasks: asyncio.TaskGroup) -> None:
        """Forget `names` too."""
        self.names.update(names)
        if self.names and self._running is None:
            self._running = tasks.create_task(self._run(), name="forgetting")

    def stop(self) -> None:
        """Stop, since there is no log any more; what is not erased yet is found again in the desired state."""
        self.names.clear()
        if self._running is not None:
            self._running.cancel()
            self._running = None

    async def _run(self) -> None:
        backoff = Backoff(first=1.0)
        while self.names:
            names = sorted(self.names)
            try:
                await self._registry.forget(names)
            except BrokerError as error:
                delay = backoff.next_delay()
                get_logger().warning(
                    "failed to delete accounts from the registry, retrying",
                    accounts=names,
                    error=str(error),
                    retry_in=round(delay, 2),
                )
                await asyncio.sleep(delay)
            else:
                self.names.difference_update(names)
                self._forgotten(names)
        self._running = None
