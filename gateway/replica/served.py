"""What a replica has: its accounts, the shards they are assigned to, and the shards that it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from gateway.accounts import shard_of
from gateway.broker.ports import EventLog
from gateway.replica.sink.shard import Shard
from gateway.replica.sink.shard_settings import ShardSettings
from gateway.replica.source.account import Account


class ServedShards:
    """The shards of one replica, by number; most are there only once something is to be done in them."""

    def __init__(self, count: int, event_log: EventLog, settings: ShardSettings) -> None:
        """There are `count` shards in all; each opens its part of `event_log`."""
        self.count = count
        self._event_log = event_log
        self._settings = settings
        self.known: dict[int, Shard] = {}
        self.assigned: frozenset[int] = frozenset()
        """What is to be served here."""
        self.serving: dict[int, asyncio.Task[None]] = {}
        """What is, which begins later and ends later."""
        self.accounts: dict[str, Account] = {}
        """Of all shards that have keys here."""

    def number_of(self, account: str) -> int:
        """Return the number of an account's shard."""
        return shard_of(account, self.count)

    def of(self, account: str) -> Shard:
        """Return the shard of an account."""
        return self.shard(self.number_of(account))

    def shard(self, number: int) -> Shard:
        """Return a shard, which is made where it is not there yet."""
        shard = self.known.get(number)
        if shard is None:
            shard = self.known[number] = Shard(number, self._event_log, self._settings)
        return shard

    def served_accounts(self) -> Iterator[Account]:
        """Yield the accounts of the shards that are served."""
        for number in self.serving:
            yield from self.known[number].accounts.values()

    async def until_all_ended(self) -> None:
        """Wait until no shard is served."""
        while self.serving:
            await asyncio.wait(self.serving.values())
