"""What a deployment must never forget, apart from the log: the accounts it has begun, and how it was laid out.

It is a compacted topic of its own, so that it still knows the accounts when somebody deletes the log's: then a
missing checkpoint is a loss to be looked at, not a new account whose whole history is published again.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any, Final

from aiokafka.structs import TopicPartition

from gateway.broker.kafka import cluster
from gateway.broker.kafka.connect import Connection, at_work
from gateway.broker.kafka.fetch import read_all
from gateway.broker.kafka.topics import Topics
from gateway.errors import ConfigurationError

VERSION: Final = 1
_DEPLOYMENT: Final = b"deployment"
_ACCOUNT: Final = b"account/"


class KafkaRegistry:
    """The registry of one deployment (`gateway.broker.ports.Registry`)."""

    def __init__(self, connection: Connection, topics: Topics) -> None:
        self._connection = connection
        self._tp = TopicPartition(topics.accounts, 0)
        self._topics = topics
        self._accounts: set[str] = set()
        self._deployment: dict[str, Any] | None = None
        self._next = 0
        self._reading = asyncio.Lock()

    async def agree(self, shards: int) -> None:
        """Fix the numbers of shards and partitions at the first start; raises ConfigurationError where they differ."""
        facts = await cluster.facts(self._connection, self._topics)
        await self._read()
        if self._deployment is None:
            first = {"version": VERSION, "shards": shards, "partitions": facts.partitions}
            await self._write(_DEPLOYMENT, first)
            await self._read()
        stored = self._deployment or {}
        if stored.get("version") != VERSION:
            raise ConfigurationError(
                f"topic {self._tp.topic}",
                f"its records have version {stored.get('version')}, this release reads version {VERSION}",
                "Run the release that wrote them.",
            )
        for setting, given in (("shards", shards), ("partitions", facts.partitions)):
            if stored[setting] != given:
                name = setting if setting == "shards" else "topics.partitions"
                raise ConfigurationError(
                    name,
                    f"{given} is not the number that this deployment started with: {stored[setting]}",
                    f"Set it to {stored[setting]}; another number would look for accounts where they are not.",
                )

    async def known(self) -> frozenset[str]:
        """Give every account that was ever begun; raises Unavailable."""
        with at_work():
            await self._read()
        return frozenset(self._accounts)

    async def register(self, account: str) -> None:
        """Remember `account`; it is no error that it is known. Raises Unavailable."""
        if account not in self._accounts:
            with at_work():
                await self._write(_ACCOUNT + account.encode(), {"version": VERSION})
            self._accounts.add(account)

    async def _write(self, key: bytes, value: dict[str, Any]) -> None:
        """Write a record; writing it twice, after a lost answer, does no harm."""
        await self._connection.write(self._tp, key, json.dumps(value).encode())

    async def _read(self) -> None:
        """Read what was written since the last time: it may be a hundred thousand accounts."""
        async with self._reading:
            end = (await cluster.places(self._connection, [self._tp]))[self._tp] or 0
            if end < self._next:  # the topic was made anew; what was known stays known
                self._next = 0
            records = read_all(self._connection, {self._tp: self._next}, {self._tp: end})
            async with aclosing(records):  # type: ignore[type-var]
                async for record in records:
                    if record.key == _DEPLOYMENT:
                        self._deployment = json.loads(record.value)
                    elif record.key.startswith(_ACCOUNT):
                        self._accounts.add(record.key.removeprefix(_ACCOUNT).decode())
            self._next = end
