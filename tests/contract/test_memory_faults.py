"""The faults that a simulation injects into the broker in memory do what they would do to a real one."""

from __future__ import annotations

import asyncio

import pytest

from gateway.broker.memory.faults import Edge
from gateway.broker.memory.log import MemoryBroker
from gateway.broker.ports import Commit
from gateway.errors import Fenced, OutcomeUnknown, Unavailable
from tests.support.event_log_suite import messages, numbers


def strike(call: str, when: str, error: Exception) -> MemoryBroker:
    async def faults(edge: Edge) -> None:
        if (edge.call, edge.when) == (call, when):
            raise error

    return MemoryBroker(faults=faults)


async def test_a_lost_answer_leaves_the_commit_stored_and_the_log_spent() -> None:
    broker = strike("commit", "after", OutcomeUnknown())
    async with broker.log("a").open(0) as shard:
        with pytest.raises(OutcomeUnknown):
            await shard.commit(Commit(messages(1, 2)))
        with pytest.raises(OutcomeUnknown):
            await shard.commit(Commit(messages(3, 4)))
    assert await numbers(broker.reader()) == [1, 2]


async def test_an_outage_before_the_commit_stores_nothing() -> None:
    broker = strike("commit", "before", Unavailable())
    async with broker.log("a").open(0) as shard:
        with pytest.raises(Unavailable):
            await shard.commit(Commit(messages(1, 2)))
    assert await numbers(broker.reader()) == []


async def test_a_lost_claim_fences_all_the_same() -> None:
    broker = MemoryBroker()
    async with broker.log("a").open(0) as old:
        broker.faults = strike("open", "after", OutcomeUnknown()).faults
        with pytest.raises(OutcomeUnknown):
            async with broker.log("b").open(0):
                pass
        with pytest.raises(Fenced):
            await old.commit(Commit(messages(1, 1)))


@pytest.mark.parametrize("claimed_first", [False, True])
async def test_a_commit_still_under_way_lands_later_unless_a_claim_came_first(*, claimed_first: bool) -> None:
    under_way: list[Edge] = []

    async def faults(edge: Edge) -> None:
        if (edge.call, edge.when) == ("commit", "before"):
            under_way.append(edge)
            raise OutcomeUnknown

    broker = MemoryBroker(faults=faults)
    async with broker.log("a").open(0) as shard:
        with pytest.raises(OutcomeUnknown):
            await shard.commit(Commit(messages(1, 2)))
    if claimed_first:
        async with broker.log("a").open(0):
            assert not under_way[0].land()
        assert await numbers(broker.reader()) == []
    else:
        assert under_way[0].land()
        under_way[0].land()
        assert await numbers(broker.reader()) == [1, 2]


async def test_a_fault_may_wait_for_ever_and_be_cancelled() -> None:
    async def faults(edge: Edge) -> None:
        if edge.call == "commit":
            await asyncio.Event().wait()

    broker = MemoryBroker(faults=faults)
    async with broker.log("a").open(0) as shard:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await shard.commit(Commit(messages(1, 1)))
        with pytest.raises(OutcomeUnknown):
            await shard.commit(Commit(messages(1, 1)))
    assert await numbers(broker.reader()) == []
