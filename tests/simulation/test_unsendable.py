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
from gateway.publication import REPLAY as AGAIN
from gateway.replica.replica import Replica
from gateway.settings.model import Settings
from gateway.settings.sections import AccountsSettings, HubSettings
from gateway.state import REPLAY, Phase, Replay, ReplayState, encode_record
from tests.simulation.replica_hub import FakeHub
from tests.simulation.virtual import simulate

log = logging.getLogger(__name__)

RATE: Final = 10_000.0
"""Bytes a second of the line."""
USUAL: Final = 10.0
LONGEST: Final = 8 * USUAL
UNSENDABLE: Final = 950_000
"""Bytes of a message that takes 95 s."""
MESSAGE: Final = "the line is too slow"
SECONDS: Final = 1000.0
CANCELLED_AT: Final = 400.0
"""Between two tries of a replay's message."""


class SlowLog:
    """A log at the end of a line that is slow, whose commits are given up as on Kafka."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.limits = CommitLimits(USUAL)
        self.needs: list[str] = []
        """What a person was told."""
        self.failures = 0
        self.slow_from, self.quick_from = 0.0, SECONDS
        """When the line is slow."""

    @property
    def rate(self) -> float:
        """Bytes a second now."""
        return RATE if self.slow_from <= asyncio.get_running_loop().time() < self.quick_from else 100 * RATE

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
        limit, took = self._log.limits.seconds(size), size / self._log.rate
        await asyncio.sleep(min(limit, took))
        if took > limit:
            self._log.failures += 1
            if size >= LARGE and self._log.limits.came_too_late(size):
                self._log.needs.append(MESSAGE)
                raise ActionRequired(MESSAGE)
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
        self.slow_from, self.quick_from = 0.0, SECONDS
        self.control = MemoryControl()
        self.replayed_from: float | None = None
        """When everything is asked for again."""
        self.replays: dict[str, ReplayState] = {}
        """How far those are at the end."""
        self.then: dict[str, ReplayState] = {}
        """How far they are a few seconds after some are cancelled."""
        self.errors: list[dict[str, str | None]] = []
        """The accounts' last errors, twice a second."""
        self.cancelled: list[str] = []
        """Those that an operator ends in the middle."""
        self.keys = Path(tempfile.mkdtemp(prefix="keys-"))

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self.broker = MemoryBroker(clock=loop.time)
        self.log = SlowLog(self.broker.log("a"))
        self.log.slow_from, self.log.quick_from = self.slow_from, self.quick_from
        for name in self.hub.users:
            (self.keys / name).write_text(f"key-of-{name}")
        settings = Settings(hub=HubSettings(url="http://hub"), accounts=AccountsSettings(directory=self.keys), shards=1)
        self.replica = replica = Replica(
            settings,
            self.log,
            MemoryRegistry(),
            cast("Any", None),
            control=self.control,
            member="host/a",
            connect=self.hub.connector(),
        )
        running = asyncio.create_task(replica.run())
        await asyncio.sleep(30)
        for name in self.large:
            self.hub.users[name].emit(UNSENDABLE)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look())
            for name in self.live:
                tasks.create_task(self._emit(name))
            if self.replayed_from is not None:
                tasks.create_task(self._replay(self.replayed_from))
        replica.stop()
        await running

    async def _look(self) -> None:
        """See twice a second what the accounts complain of."""
        clock = asyncio.get_running_loop().time
        while clock() < SECONDS - 1:
            await asyncio.sleep(0.5)
            self.errors.append({one.account: one.last_error for one in self.replica.statuses()})

    async def _replay(self, at: float) -> None:
        """Ask for all of each account again."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(at - loop.time())
        for name, user in self.hub.users.items():
            wanted = Replay(account=name, until=len(user.happenings), requested_at="", requested_by="")
            await self.control.write(REPLAY + name, encode_record(wanted), 0)
        await asyncio.sleep(CANCELLED_AT - loop.time())
        for name in self.cancelled:
            wanted = Replay(account=name, until=1, requested_at="", requested_by="", cancel_requested=True)
            revision = self.control.records[False, REPLAY + name][0].revision
            await self.control.write(REPLAY + name, encode_record(wanted), revision)
        await asyncio.sleep(10)
        self.then = self._states()
        await asyncio.sleep(SECONDS - 1 - loop.time())
        self.replays = self._states()

    def _states(self) -> dict[str, ReplayState]:
        (shard,) = self.replica._shards.known.values()
        return {id_: state_of() for id_, state_of in shard.replays.states()}

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
            if entry.stored.message.topic not in {NOTIFICATIONS, DEAD_LETTER, AGAIN}
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
    assert not [reported for reported in world.errors if any(reported[name] for name in world.live)], (
        "they wait for a try"
    )
    assert [world.errors[-1][name] for name in world.large] == [MESSAGE] * unsendable
    assert late[-1] < LONGEST + 20
    assert median(late) < LONGEST / 2


def test_a_message_that_fits_once_the_line_is_quick_again_is_stored() -> None:
    world = Lived(1, 2, 1)
    world.quick_from = SECONDS / 2
    simulate(1, world.run)
    stored = [entry.at for entry in world.broker.entries if entry.stored.message.size > UNSENDABLE]
    assert len(stored) == 1
    assert MESSAGE in {reported["large-0"] for reported in world.errors}
    assert world.errors[-1]["large-0"] is None, "it is over"
    assert SECONDS / 2 < stored[0] < SECONDS / 2 + 2 * LONGEST + 20
    assert max(late for late in world.late()) < LONGEST + 20


@pytest.mark.parametrize(("live", "unsendable"), [(1, 1), (6, 1), (2, 3)])
def test_a_replay_of_what_never_fits_waits_in_words_and_alone(live: int, unsendable: int) -> None:
    world = Lived(1, live, unsendable)
    world.slow_from, world.replayed_from = 60.0, 70.0
    simulate(1, world.run)
    late = sorted(world.late())
    log.info("%d events, %.1f s late, the last %.1f s; %d tries", len(late), median(late), late[-1], world.log.failures)
    log.info("%s", world.replays)
    assert not [reported for reported in world.errors if any(reported.values())], "no account is concerned"
    assert {world.replays[name].phase for name in world.live} == {Phase.COMPLETED}
    for name in world.large:
        assert world.replays[name].phase is Phase.RUNNING
        assert MESSAGE in (world.replays[name].detail or "")
    assert late[-1] < LONGEST + 20
    assert median(late) < LONGEST / 2


def test_a_replay_that_never_fits_can_be_cancelled_or_ends_in_time() -> None:
    """Its message is not tried again before it ends: that would hold its neighbours up once more."""
    world = Lived(1, 2, 2)
    world.slow_from, world.replayed_from, world.quick_from = 60.0, 70.0, SECONDS / 2
    world.cancelled = world.large[1:]
    simulate(1, world.run)
    assert {name: world.then[name].phase for name in world.large} == {
        "large-0": Phase.RUNNING,
        "large-1": Phase.CANCELLED,
    }
    phases = {name: state.phase for name, state in world.replays.items()}
    assert phases == dict.fromkeys([*world.large, *world.live], Phase.COMPLETED) | {"large-1": Phase.CANCELLED}
    assert {state.detail for state in world.replays.values()} == {None}
