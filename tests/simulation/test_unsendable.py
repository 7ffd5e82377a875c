"""A message too large for the line to Kafka, in virtual time: its account waits for a person, its neighbours do not.

It is tried again and again, each time for as long as a commit may take at the most; meanwhile its shard commits nothing
else. What bounds the wait of its neighbours is that try, and that no other begins before they had their turn.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Final, cast

import pytest

from gateway.broker.kafka.commit_limits import LARGE, CommitLimits
from gateway.broker.memory.control import MemoryControl
from gateway.broker.memory.log import MemoryBroker, MemoryLog, MemoryShard
from gateway.broker.memory.registry import MemoryRegistry
from gateway.broker.ports import Commit, ShardLog
from gateway.errors import ActionRequired, Unavailable
from gateway.publication import DEAD_LETTER, NOTIFICATIONS
from gateway.replica.replica import Replica
from gateway.settings.model import Settings
from gateway.settings.sections import AccountsSettings, HubSettings
from tests.simulation.replica_hub import FakeHub
from tests.simulation.virtual import simulate

log = logging.getLogger(__name__)

RATE: Final = 10_000.0
"""Bytes a second of the line."""
USUAL: Final = 10.0
LONGEST: Final = 8 * USUAL
UNSENDABLE: Final = 950_000
"""Bytes of a message that takes 95 s."""
SECONDS: Final = 1000.0


class SlowLog:
    """A log at the end of a line that is slow, whose commits are given up as on Kafka."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.limits = CommitLimits(USUAL)
        self.needs: list[str] = []
        """What a person was told."""
        self.failures = 0
        self.quick_from = SECONDS
        """When the line is quick again."""

    @asynccontextmanager
    async def open(self, shard: int) -> AsyncIterator[ShardLog]:
        async with self._log.open(shard) as good:
            yield SlowShard(self, good)


class SlowShard:
    """Its writer."""

    def __init__(self, log: SlowLog, good: MemoryShard) -> None:
        self._log, self._good = log, good
        self.epoch, self.limits, self.lost = good.epoch, good.limits, good.lost
        self.checkpoints, self.check = good.checkpoints, good.check

    async def commit(self, commit: Commit) -> None:
        size = sum(one.size for one in commit.messages) + sum(len(one or b"") for one in commit.checkpoints.values())
        limit, took = (
            self._log.limits.seconds(size),
            size / (RATE if asyncio.get_running_loop().time() < self._log.quick_from else 100 * RATE),
        )
        await asyncio.sleep(min(limit, took))
        if took > limit:
            self._log.failures += 1
            if size >= LARGE and self._log.limits.came_too_late(size):
                self._log.needs.append("the line is too slow")
                raise ActionRequired("the line is too slow")
            raise Unavailable("nothing was stored")
        self._log.limits.came_in_time(size, took)
        await self._good.commit(commit)


class Lived:
    """A replica of one shard, an account with a message that never fits, and live ones."""

    def __init__(self, seed: int, live: int, unsendable: int) -> None:
        self.dice = Random(seed)
        self.large = [f"large-{number}" for number in range(unsendable)]
        self.live = [f"live-{number}" for number in range(live)]
        self.hub = FakeHub([*self.large, *self.live])
        self.quick_from = SECONDS
        self.keys = Path(tempfile.mkdtemp(prefix="keys-"))

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self.broker = MemoryBroker(clock=loop.time)
        self.log = SlowLog(self.broker.log("a"))
        self.log.quick_from = self.quick_from
        for name in self.hub.users:
            (self.keys / name).write_text(f"key-of-{name}")
        settings = Settings(hub=HubSettings(url="http://hub"), accounts=AccountsSettings(directory=self.keys), shards=1)
        replica = Replica(
            settings,
            self.log,
            MemoryRegistry(),
            cast("Any", None),
            control=MemoryControl(),
            member="host/a",
            connect=self.hub.connector(),
        )
        running = asyncio.create_task(replica.run())
        await asyncio.sleep(30)
        for name in self.large:
            self.hub.users[name].emit(UNSENDABLE)
        async with asyncio.TaskGroup() as tasks:
            for name in self.live:
                tasks.create_task(self._emit(name))
        replica.stop()
        await running

    async def _emit(self, name: str) -> None:
        clock = asyncio.get_running_loop().time
        while clock() < SECONDS:
            await asyncio.sleep(self.dice.expovariate(0.2))
            self.hub.users[name].emit()

    def late(self) -> list[float]:
        """Return the seconds from each event of a live account to its commit; what is not there yet waits still."""
        stored = {
            (entry.stored.message.account, int(entry.stored.message.key)): entry.at
            for entry in self.broker.entries
            if entry.stored.message.topic not in {NOTIFICATIONS, DEAD_LETTER}
        }
        return [
            stored.get((name, one.sequence), SECONDS) - one.at
            for name in self.live
            for one in self.hub.users[name].happenings
        ]


@pytest.mark.parametrize(("live", "unsendable"), [(1, 1), (6, 1), (2, 3)])
def test_a_message_that_never_fits_holds_its_neighbours_up_for_one_try(live: int, unsendable: int) -> None:
    """They waited for ever: each commit had it, and failed."""
    world = Lived(1, live, unsendable)
    simulate(1, world.run)
    late = sorted(world.late())
    log.info("%d events, %.1f s late, the last %.1f s; %d tries", len(late), median(late), late[-1], world.log.failures)
    assert world.log.needs
    assert late[-1] < LONGEST + 20
    assert median(late) < LONGEST / 2


def test_a_message_that_fits_once_the_line_is_quick_again_is_stored() -> None:
    world = Lived(1, 2, 1)
    world.quick_from = SECONDS / 2
    simulate(1, world.run)
    stored = [entry.at for entry in world.broker.entries if entry.stored.message.size > UNSENDABLE]
    assert len(stored) == 1
    assert SECONDS / 2 < stored[0] < SECONDS / 2 + 2 * LONGEST + 20
    assert max(late for late in world.late()) < LONGEST + 20
