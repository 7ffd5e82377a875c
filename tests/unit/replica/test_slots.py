"""Slots for commits: who hangs does not keep others waiting, neither at first nor again and again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random

import pytest

from gateway.accounts import shard_of
from gateway.broker.memory.faults import Edge, no_faults
from gateway.errors import Unavailable
from gateway.replica.sink.commit_slots import CommitSlots
from gateway.replica.source.account import AccountState
from tests.support.in_process import Build

HANGS = 10.0
"""Seconds until a commit is given up."""


async def test_so_many_commits_are_in_flight_at_once() -> None:
    slots, most, now = CommitSlots(2), 0, 0

    async def commit() -> None:
        nonlocal most, now
        async with slots.slot(1, has_failed=False):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(10):
            tasks.create_task(commit())

    assert most == 2


@pytest.mark.parametrize("has_failed", [False, True])
async def test_one_that_hangs_leaves_its_slot_and_does_not_give_it_back_twice(
    monkeypatch: pytest.MonkeyPatch, has_failed: bool
) -> None:
    monkeypatch.setattr("gateway.replica.sink.commit_slots._LASTS", 0.05)
    slots = CommitSlots(1)

    async def hang() -> None:
        async with slots.slot(1, has_failed=has_failed):
            await asyncio.sleep(0.2)

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        hanging = tasks.create_task(hang())
        await asyncio.sleep(0)
        async with slots.slot(1, has_failed=has_failed):
            assert not hanging.done()
            await hanging
            waiting = tasks.create_task(hang())
            await asyncio.sleep(0.01)
            assert not waiting.done()


async def test_one_that_is_cancelled_while_it_waits_takes_no_slot() -> None:
    slots = CommitSlots(1)

    async def wait() -> None:
        async with slots.slot(1, has_failed=False):
            pass

    async with slots.slot(1, has_failed=False):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with asyncio.timeout(1), slots.slot(1, has_failed=False):
        pass


async def test_shards_whose_commits_hang_hold_up_no_other(build: Build) -> None:
    hung = [f"hung{number}" for number in range(12)]
    world = await build("alpha", *hung, prefill=1)
    shards = {shard_of(name, 64) for name in hung} - {shard_of("alpha", 64)}
    assert len(shards) > 6
    await world.replica(shards=64)
    for account in ("alpha", *hung):
        await world.becomes(account, AccountState.LIVE)

    async def hang(edge: Edge) -> None:
        if edge.call == "commit" and edge.when == "before" and edge.shard in shards:
            await asyncio.sleep(HANGS)
            raise Unavailable("no leader")

    world.broker.faults = hang
    for account in hung:
        world.hub.user(account).emit(1)
    await asyncio.sleep(0.1)
    delays = []
    for number in range(12):
        world.hub.user("alpha").emit(1)
        began = asyncio.get_running_loop().time()
        await world.published("alpha", range(1, number + 3))
        delays.append(asyncio.get_running_loop().time() - began)
        await asyncio.sleep(0.5)
    world.broker.faults = no_faults

    assert max(delays) < HANGS / 2, "each that hangs keeps a slot for a second, and only once"


class Line:
    """A way to a broker, of so many bytes a second and so many seconds long, and its clock."""

    def __init__(self, rate: float, delay: float = 0.0) -> None:
        self.now = 0.0
        self.rate = rate
        self.delay = delay
        self.slots = CommitSlots(4, clock=lambda: self.now)

    async def carry(self, size: int) -> float:
        """Commit so many bytes, and return the seconds that it took."""
        began = self.now
        async with self.slots.slot(size, has_failed=False):
            self.now += self.delay + size / self.rate
        return self.now - began

    async def times_out(self, size: int, seconds: float = 10.0) -> None:
        """Commit so many bytes, and give up after so many seconds."""
        with suppress(Unavailable):
            async with self.slots.slot(size, has_failed=False):
                self.now += seconds
                raise Unavailable


async def test_over_a_fast_line_the_window_opens_within_a_few_commits() -> None:
    line = Line(rate=1e9)
    for _ in range(12):
        await line.carry(line.slots.aim)
    assert line.slots.aim >= 16 * 1024 * 1024
    assert line.now < 1


async def test_small_commits_leave_the_window_open_for_hours() -> None:
    line = Line(rate=1e9, delay=0.002)
    for _ in range(12):
        await line.carry(line.slots.aim)
    for turn in range(5000):
        line.delay = 0.002 + turn % 7 / 10_000
        await line.carry(1000)
        line.now += 1
    assert line.slots.aim >= 16 * 1024 * 1024


@pytest.mark.parametrize("delay", [0.0, 0.4, 1.6])
async def test_on_a_slow_line_a_commit_takes_the_way_and_a_second_or_three_ways(delay: float) -> None:
    line = Line(rate=40_000, delay=delay)
    taken = [await line.carry(line.slots.aim) for _ in range(30)]
    assert max(taken) < delay + 2.7
    assert sum(taken[10:]) / 20 > max(delay + 0.5, 1.8 * delay), "and not too little is sent at once"


async def test_a_far_broker_on_a_fast_line_is_sent_much_at_once() -> None:
    line = Line(rate=10e6, delay=0.4)
    for _ in range(20):
        await line.carry(line.slots.aim)
    assert line.slots.aim > 4 * 1024 * 1024


async def test_a_line_that_becomes_slow_is_sent_less_and_a_recovered_one_more() -> None:
    line = Line(rate=100e6)
    for _ in range(12):
        await line.carry(line.slots.aim)
    for _ in range(20):
        await line.times_out(line.slots.aim)
    assert line.slots.aim == 4 * 1024
    line.rate = 40_000
    for _ in range(20):
        await line.carry(line.slots.aim)
    assert 15_000 < line.slots.aim < 100_000
    line.rate = 100e6
    for _ in range(20):
        await line.carry(line.slots.aim)
    assert line.slots.aim >= 16 * 1024 * 1024


@pytest.mark.parametrize("seconds", [(0.1, 1.6), (0.3, 3.0), (1.5, 4.0)], ids=str)
async def test_a_broker_slow_at_any_size_is_not_taken_for_a_slow_line(
    seconds: tuple[float, float],
) -> None:
    for seed in range(10):
        chance, line, carried = Random(seed), Line(rate=1e9), 0
        while line.now < 600:
            line.delay = chance.uniform(*seconds)
            size = line.slots.aim
            await line.carry(size)
            carried += size
        assert carried / line.now > 1_000_000, f"bytes a second, seed {seed}"


@pytest.mark.parametrize("seconds", [(0.01, 0.1), (0.5, 1.0), (0.1, 1.6)], ids=str)
async def test_a_slow_line_to_a_broker_whose_time_varies_is_sent_what_it_carries(seconds: tuple[float, float]) -> None:
    for seed in range(10):
        chance, line, carried, longest = Random(seed), Line(rate=40_000), 0, 0.0
        while line.now < 600:
            line.delay = chance.uniform(*seconds)
            size = line.slots.aim
            longest = max(longest, await line.carry(size))
            carried += size
        assert longest < seconds[1] + 5, f"seed {seed}"
        assert carried / line.now > 10_000, f"bytes a second, seed {seed}"


async def test_a_line_that_becomes_slow_while_it_is_tried_is_believed() -> None:
    line = Line(rate=100e6, delay=0.3)
    for _ in range(12):
        await line.carry(line.slots.aim)
    line.delay = 2.5  # the broker is busy
    for _ in range(3):
        await line.carry(line.slots.aim)
    line.rate, line.delay = 40_000, 0.3
    for _ in range(20):
        await line.times_out(line.slots.aim)
    assert line.slots.aim == 4 * 1024
    for _ in range(20):
        await line.carry(line.slots.aim)
    assert 15_000 < line.slots.aim < 100_000


async def test_what_fails_at_once_tells_nothing_of_the_line() -> None:
    line = Line(rate=100e6)
    await line.times_out(1000, seconds=0.1)
    assert line.slots.window.size == 32 * 1024


async def test_a_shard_that_hangs_closes_no_window_through_which_others_go() -> None:
    line = Line(rate=100e6)
    for _ in range(12):
        await line.carry(line.slots.aim)
    before = line.slots.window.size
    with suppress(Unavailable):
        async with line.slots.slot(100, has_failed=False):
            await line.carry(1000)
            line.now += 10
            raise Unavailable
    assert line.slots.window.size >= before


async def test_one_cancelled_in_the_moment_another_leaves_is_passed_over() -> None:
    slots = CommitSlots(1)

    async def wait() -> None:
        async with slots.slot(1, has_failed=False):
            pass

    async with slots.slot(1, has_failed=False):
        waiting = asyncio.create_task(wait())
        after = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(5):
        await after
    assert slots.bytes_in_flight == 0


async def test_a_commit_with_more_than_its_part_waits_its_turn_and_goes_alone() -> None:
    line = Line(rate=100e6)
    async with line.slots.slot(30_000, has_failed=False):
        large = asyncio.create_task(line.carry(1_000_000))
        other = asyncio.create_task(line.carry(5_000))
        await asyncio.sleep(0.01)
        assert not large.done()
        assert not other.done(), "first come, first served"
    await large
    await other
    assert line.slots.bytes_in_flight == 0


async def test_a_small_commit_waits_for_no_large_one() -> None:
    line = Line(rate=100e6)
    async with line.slots.slot(30_000, has_failed=False):
        large = asyncio.create_task(line.carry(1_000_000))
        await asyncio.sleep(0.01)
        async with asyncio.timeout(0.2):
            await line.carry(10)
        assert not large.done()
    await large
    assert line.slots.bytes_in_flight == 0


async def test_a_large_commit_too_late_is_tried_smaller_though_small_ones_pass() -> None:
    line = Line(rate=100e6)
    for _ in range(12):
        await line.carry(line.slots.aim)
    before = line.slots.aim
    with suppress(Unavailable):
        async with line.slots.slot(before, has_failed=False):
            await line.carry(1000)
            line.now += 10
            raise Unavailable
    assert line.slots.aim <= before // 2


async def test_a_broker_that_takes_fewer_messages_gets_fewer_for_a_while() -> None:
    line = Line(rate=100e6)
    assert line.slots.most_messages is None
    assert line.slots.reduce_messages(1000)
    assert line.slots.most_messages == 500
    assert not line.slots.reduce_messages(4)
    assert line.slots.most_messages == 4
    line.now += 601
    assert line.slots.most_messages is None
