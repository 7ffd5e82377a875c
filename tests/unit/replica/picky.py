"""A broker that refuses one event, and does not say which."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

from gateway.broker.ports import Commit, EventLog, Limits, Lost, ShardLog
from gateway.errors import CommitRejected


class Picky:
    """A log that refuses every commit in which the event `culprit` stands, without saying why."""

    def __init__(self, log: EventLog, culprit: int) -> None:
        self.commits: list[int] = []
        self._log = log
        self._culprit = str(culprit).encode()

    @asynccontextmanager
    async def open(self, shard: int) -> AsyncIterator[ShardLog]:
        async with self._log.open(shard) as good:
            yield _PickyShard(self, good, self._culprit)


class _PickyShard:
    def __init__(self, log: Picky, good: ShardLog, culprit: bytes) -> None:
        self._picky = log
        self._good = good
        self._culprit = culprit

    @property
    def epoch(self) -> int:
        return self._good.epoch

    @property
    def limits(self) -> Limits:
        return self._good.limits

    @property
    def lost(self) -> Mapping[str, Collection[Lost]]:
        return self._good.lost

    async def checkpoints(self) -> dict[str, bytes]:
        return await self._good.checkpoints()

    async def commit(self, commit: Commit) -> None:
        self._picky.commits.append(len(commit.messages))
        if any(message.key == self._culprit and message.topic != "dead-letter" for message in commit.messages):
            raise CommitRejected("something in the batch was refused")
        await self._good.commit(commit)
