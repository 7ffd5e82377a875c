"""Whole replicas in the test's own process, between a simulated hub and a broker in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from inspect import isawaitable
from pathlib import Path
from typing import Any

from gateway.broker.memory.control import MemoryControl
from gateway.broker.memory.log import MemoryBroker
from gateway.broker.memory.ownership import MemoryOwnership
from gateway.broker.memory.registry import MemoryRegistry
from gateway.broker.ports import EventLog
from gateway.hub.client import hub_http
from gateway.publication import NOTIFICATIONS, Message
from gateway.replica.replica import Replica
from gateway.replica.source.account import AccountState
from gateway.replica.status import AccountStatus
from gateway.settings.model import Settings
from gateway.settings.sections import AccountsSettings, HubSettings, MessagesSettings
from gateway.settings.sections import SessionSettings as Session
from gateway.simulator import Simulator
from gateway.telemetry.tracer import NOOP_TRACER, Tracer

LIMIT = 20.0


@dataclass
class World:
    """A simulated hub, a broker in memory, and replicas between them, all in this process."""

    hub: Simulator
    broker: MemoryBroker
    keys: Path
    stack: AsyncExitStack
    replicas: list[Replica] = field(default_factory=list)
    registry: MemoryRegistry = field(default_factory=MemoryRegistry)
    ownership: MemoryOwnership | None = None
    """None lets the newest claim alone decide."""
    control: MemoryControl | None = None
    """None: nobody wants anything."""

    async def replica(
        self,
        log: EventLog | None = None,
        *,
        shards: int = 1,
        messages: MessagesSettings | None = None,
        keys: Path | None = None,
        tracer: Tracer = NOOP_TRACER,
        skip_poison_after: int | None = None,
        audit: float = 0.2,
        connect: Any = None,  # noqa: ANN401
        memory_bytes: int = 256 * 2**20,
        provision: Callable[[], Awaitable[object]] | None = None,
        **hub: Any,  # noqa: ANN401
    ) -> Replica:
        """Start a replica, with further settings of the hub's; it is stopped at the end."""
        settings = Settings(
            hub=HubSettings(url=self.hub.url, **hub),
            accounts=AccountsSettings(directory=keys or self.keys),
            session=Session(history_grace=0.5, audit_interval=audit, skip_poison_after=skip_poison_after),
            shards=shards,
            memory_bytes=memory_bytes,
            messages=messages or MessagesSettings(),
        )
        http = await self.stack.enter_async_context(hub_http(settings.hub))
        owner = f"replica-{len(self.replicas) + 1}"
        event_log = log or self.broker.log(owner)
        replica = Replica(
            settings,
            event_log,
            self.registry,
            http,
            ownership=self.ownership,
            control=self.control,
            member=owner,
            tracer=tracer,
            connect=connect,
            provision=provision,
        )
        self.replicas.append(replica)
        running = asyncio.create_task(replica.run())

        async def end() -> None:
            replica.stop()
            async with asyncio.timeout(LIMIT):
                await running

        self.stack.push_async_callback(end)
        return replica

    def status(self, account: str) -> AccountStatus:
        """Return what the last replica says of an account."""
        return next(status for status in self.replicas[-1].statuses() if status.account == account)

    async def becomes(self, account: str, state: AccountState) -> None:
        """Wait until the last replica says so."""
        await self.until(lambda: self.status(account).state is state, f"{account} becomes {state.value}")

    def messages(self, account: str) -> list[Message]:
        """Return what is in the log, in its order."""
        return [entry.stored.message for entry in self.broker.entries if entry.stored.message.account == account]

    def keys_of(self, account: str) -> list[int]:
        """Return the sequences of the events in the log, in its order."""
        return [int(message.key) for message in self.messages(account) if message.topic != NOTIFICATIONS]

    async def published(self, account: str, sequences: Iterable[int]) -> None:
        """Wait until the log has these; what it has besides is for the test to look at."""
        wanted = set(sequences)
        await self.until(lambda: wanted <= set(self.keys_of(account)), f"{account} is published")

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until `condition` holds, which may be a coroutine function."""

        async def holds() -> object:
            holds = condition()
            return await holds if isawaitable(holds) else holds

        try:
            async with asyncio.timeout(LIMIT):
                while not await holds():
                    await asyncio.sleep(0.005)
        except TimeoutError:
            statuses = [status for replica in self.replicas for status in replica.statuses()]
            raise AssertionError(f"it did not happen: {what}; {statuses}") from None


Build = Callable[..., Awaitable[World]]
"""Makes a world with these accounts, which have `prefill` events each."""
