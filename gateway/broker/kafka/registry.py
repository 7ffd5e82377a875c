"""The permanent records of a deployment, apart from the log: the accounts it has begun, and its layout.

It is a compacted topic of its own, so that it still has the accounts when an operator deletes the log's. Then a missing
checkpoint is a loss to be examined, not a new account whose whole history is published again.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection
from contextlib import aclosing
from typing import Any, Final

from aiokafka.structs import TopicPartition

from gateway.broker.foreign_records import name_of, parsed_object
from gateway.broker.kafka import cluster
from gateway.broker.kafka.connection import Connection
from gateway.broker.kafka.errors import permissions_may_return
from gateway.broker.kafka.fetch import read_all
from gateway.broker.kafka.topics import Topics
from gateway.errors import ConfigurationError
from gateway.telemetry.logs import get_logger

VERSION: Final = 1
_DEPLOYMENT: Final = b"deployment"
_ACCOUNT: Final = "account/"
_TOMBSTONE_RETENTION_S: Final = 3600.0
"""Seconds for which tombstones are relied upon to be read: compaction takes them away after a day, by default."""


async def started_with(connection: Connection, topics: Topics) -> int | None:
    """Return over how many partitions a deployment spreads its accounts; None where no record has it."""
    tp = TopicPartition(topics.accounts, 0)
    if not await cluster.partitions(connection, [tp.topic]):
        return None
    end = (await cluster.places(connection, [tp]))[tp] or 0
    async with aclosing(read_all(connection, {tp: 0}, {tp: end})) as records:  # type: ignore[type-var]
        async for record in records:
            deployment = parsed_object(record.value or b"") if record.key == _DEPLOYMENT else {}
            if isinstance(deployment.get("partitions"), int):  # it never changes
                return int(deployment["partitions"])
    return None


def _example(shards: int, partitions: int) -> str:
    return json.dumps({"version": VERSION, "shards": shards, "partitions": partitions})


class KafkaRegistry:
    """The registry of one deployment (`gateway.broker.ports.Registry`)."""

    def __init__(self, connection: Connection, topics: Topics, partitions: int | None = None) -> None:
        """`partitions` of each topic of events are used; None: as many as there are."""
        self._connection = connection
        self._tp = TopicPartition(topics.accounts, 0)
        self._topics = topics
        self._partitions = partitions
        self._accounts: set[str] = set()
        self._deployment: dict[str, Any] | None = None  # empty where its record is not a gateway's
        self._next = 0
        self._read_at = time.monotonic()
        self._reading = asyncio.Lock()

    async def ensure_layout(self, shards: int) -> None:
        """Fix the numbers of shards and partitions at the first start.

        Raises ConfigurationError where they differ, or where there are events and no record of how far they go.
        """
        facts = await cluster.facts(self._connection, self._topics, self._partitions)
        await self._read()
        if self._deployment is None:
            await self._check_first()
            first = {"version": VERSION, "shards": shards, "partitions": facts.partitions}
            await self._write(_DEPLOYMENT, first)
            await self._read()
        stored = self._deployment or {}
        if not stored:
            raise ConfigurationError(
                f"topic {self._tp.topic}",
                f"the last record with the key {_DEPLOYMENT.decode()} is not a gateway's",
                f"Write the one before it again, such as {_example(shards, facts.partitions)}, with the numbers of "
                "shards and partitions that the deployment started with.",
            )
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

    async def accounts(self) -> frozenset[str]:
        """Return every account that was ever begun, and not forgotten since; raises Unavailable."""
        with permissions_may_return():
            await self._read()
        return frozenset(self._accounts)

    async def register(self, account: str) -> None:
        """Remember `account`; it is no error that it is known. Raises Unavailable.

        It is written in any case: another replica may have forgotten it since this one has read last.
        """
        with permissions_may_return():
            await self._write((_ACCOUNT + account).encode(), {"version": VERSION})
        self._accounts.add(account)

    async def forget(self, accounts: Collection[str]) -> None:
        """Erase `accounts`, by tombstones; an unknown one is no error. Raises Unavailable."""
        if not accounts:
            return
        with permissions_may_return():
            await self._connection.write(self._tp, {(_ACCOUNT + account).encode(): None for account in accounts})
        self._accounts.difference_update(accounts)

    async def _check_first(self) -> None:
        """Refuse to begin where events exist, and both topics that record how far they go were re-created."""
        tps = await cluster.partitions(self._connection, [*self._topics.events, self._topics.checkpoints])
        ends = await cluster.places(self._connection, tps)
        written = sorted({tp.topic for tp, end in ends.items() if end})
        if written and self._topics.checkpoints not in written:
            raise ConfigurationError(
                f"topic {self._topics.checkpoints}",
                f"is empty, and so is {self._tp.topic}, although events were written to {', '.join(written)}: all of "
                "the history would be published again",
                "Put both back from a copy; or, if that is meant, delete the topics of events, or set another prefix.",
            )

    async def _write(self, key: bytes, value: dict[str, Any]) -> None:
        """Write a record; writing it twice, after a lost answer, does no harm."""
        await self._connection.write(self._tp, {key: json.dumps(value).encode()})

    async def _read(self) -> None:
        """Read what was written since the last time: it may be a hundred thousand accounts.

        After a long time everything is read again: what was forgotten meanwhile may have left no trace.
        """
        async with self._reading:
            end = (await cluster.places(self._connection, [self._tp]))[self._tp] or 0
            if end < self._next:  # the topic was re-created; the accounts read before stay known
                await self._write_again()
                self._next = 0
                end = (await cluster.places(self._connection, [self._tp]))[self._tp] or 0
            began, place, accounts = time.monotonic(), self._next, self._accounts
            if began - self._read_at > _TOMBSTONE_RETENTION_S:
                place, accounts = 0, set()
            records = read_all(self._connection, {self._tp: place}, {self._tp: end})
            async with aclosing(records):  # type: ignore[type-var]
                async for record in records:
                    name = name_of(record.key) or ""
                    if record.key == _DEPLOYMENT and record.value is not None:
                        deployment = parsed_object(record.value)
                        self._deployment = deployment if "shards" in deployment else self._deployment or {}
                    elif name.startswith(_ACCOUNT):
                        account = name.removeprefix(_ACCOUNT)
                        (accounts.discard if record.value is None else accounts.add)(account)
            self._next, self._read_at, self._accounts = end, began, accounts

    async def _write_again(self) -> None:
        get_logger().error("account registry lost, rewriting it from memory", topic=self._tp.topic)
        if self._deployment is not None:
            await self._write(_DEPLOYMENT, self._deployment)
        for account in sorted(self._accounts):
            await self._write((_ACCOUNT + account).encode(), {"version": VERSION})
