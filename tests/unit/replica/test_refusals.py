"""What the broker refuses: a sound message waits for better times, one that is at fault keeps nobody up."""

from __future__ import annotations

import asyncio

import pytest

from gateway.broker.memory.faults import Edge
from gateway.errors import CommitRejected
from gateway.events.event import Event
from gateway.publication import DEAD_LETTER
from gateway.replica.sink.rejections import Rejections
from gateway.session.types import OutgoingItem, ReplayMark
from tests.support.in_process import Build, World
from tests.unit.replica.picky import Picky


def item(account: str, sequence: int, replay: str | None = None) -> OutgoingItem:
    event = Event(account, "order-update", sequence, f"id-{sequence}", "2026-11-29T12:00:00Z", None, b"{}")
    return OutgoingItem(event, replay=None if replay is None else ReplayMark(replay))


def letters(world: World, account: str) -> list[bytes]:
    return [message.key for message in world.messages(account) if message.topic == DEAD_LETTER]


async def test_a_broker_that_refuses_everything_for_a_while_buries_nothing(build: Build) -> None:
    world = await build("alpha", "beta", prefill=4)
    await world.replica()
    for account in ("alpha", "beta"):
        await world.published(account, range(1, 5))
    refusals = 0

    async def faults(edge: Edge) -> None:
        nonlocal refusals
        await asyncio.sleep(0)
        if edge.call == "commit" and edge.when == "before" and refusals < 7:
            refusals += 1
            raise CommitRejected("not now")

    world.broker.faults = faults
    for account in ("alpha", "beta"):
        world.hub.user(account).emit(1)
    for account in ("alpha", "beta"):
        await world.published(account, range(1, 6))
        assert world.keys_of(account) == list(range(1, 6))
        assert letters(world, account) == []


async def test_others_go_on_while_one_message_is_refused(build: Build) -> None:
    world = await build("alpha", "beta", prefill=4)
    await world.replica(Picky(world.broker.log("picky"), culprit=5))
    for account in ("alpha", "beta"):
        await world.published(account, range(1, 5))
    world.hub.user("alpha").emit(1)
    await world.until(lambda: world.replicas[0]._shards.known[0].counts["reopened"] >= 1, "it is refused")
    world.hub.patch_faults("beta", sequence_step=2)
    for _ in range(5):
        world.hub.user("beta").emit(1)
        await asyncio.sleep(0.1)
    sequences = [number for number in world.hub.user("beta").history.sequences if number != 5]
    await world.published("beta", sequences)
    assert letters(world, "alpha") == []


@pytest.mark.parametrize("accounts", [("alpha",), ("alpha", "beta")])
async def test_a_message_that_alone_is_refused_is_dead_lettered_in_the_end(
    build: Build, accounts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.replica.sink.rejections._FOR", 1.0)
    world = await build(*accounts, prefill=9)
    await world.replica(Picky(world.broker.log("picky"), culprit=5))
    for account in accounts:
        await world.published(account, range(1, 10))
        assert world.keys_of(account) == list(range(1, 10))
        assert letters(world, account) == [b"5"]


def test_it_takes_several_refusals_over_seconds_and_something_stored() -> None:
    refusals, bad = Rejections(), item("alpha", 7)
    for at in (0.0, 1.0, 3.0):
        refusals.on_rejected(bad, at)
    refusals.on_rejected(bad, 12.0)
    assert not refusals.must_dead_letter(bad), "nothing else was stored since"
    refusals.on_stored([item("beta", 1)])
    assert not refusals.must_dead_letter(bad), "it may be taken now"
    refusals.on_rejected(bad, 17.0)
    assert refusals.must_dead_letter(bad)
    assert not refusals.must_dead_letter(item("alpha", 8))
    refusals.on_stored([bad])
    assert not refusals.must_dead_letter(bad)


def test_a_message_that_rested_longer_than_the_broker_ailed_is_tried_again() -> None:
    refusals, bad = Rejections(), item("alpha", 7)
    refusals.on_stored([item("beta", 1)])
    for at in (0.0, 1.0, 3.0, 7.0):
        refusals.on_rejected(bad, at)
        refusals.on_stored([item("beta", 1)])
    assert refusals.is_due(12.0, ["alpha"]) == "alpha"
    assert not refusals.must_dead_letter(bad), "it was refused for 7 s, and rested for 5"
    refusals.on_rejected(bad, 12.0)
    assert refusals.must_dead_letter(bad)


def test_its_account_is_left_out_until_it_is_tried_again_alone() -> None:
    refusals, bad = Rejections(), item("alpha", 7)
    assert refusals.on_rejected(bad, 0.0) == 1.0
    assert refusals.is_set_aside(0.5) == ["alpha"]
    assert refusals.is_due(0.5, ["alpha", "beta"]) is None
    assert refusals.is_set_aside(1.0) == []
    assert refusals.is_due(1.0, ["beta"]) is None
    assert refusals.is_due(1.0, ["beta", "alpha"]) == "alpha"
    assert [refusals.on_rejected(bad, 10.0 * time) for time in range(1, 5)] == [2.0, 4.0, 5.0, 5.0]


def test_two_refused_in_turn_are_each_remembered_and_replays_apart() -> None:
    refusals = Rejections()
    bad = [item("alpha", 7), item("beta", 7), item("alpha", 7, "replay-1")]
    for at in (0.0, 5.0, 10.0):
        for one in bad:
            refusals.on_rejected(one, at)
        refusals.on_stored([item("gamma", 1)])
    assert all(refusals.must_dead_letter(one) for one in bad)
    assert sorted(refusals.is_set_aside(10.0)) == ["alpha", "beta"]
    assert refusals.wants_proof(10.0) == []


def test_an_account_that_goes_is_forgotten_and_so_is_an_absent_message() -> None:
    refusals, bad = Rejections(), item("alpha", 7)
    refusals.on_rejected(bad, 0.0)
    assert refusals.is_due(60.9, ["alpha"]) == "alpha"
    assert refusals.is_due(61.0, ["alpha"]) is None
    refusals.on_rejected(bad, 0.0)
    assert refusals.wants_proof(10.0) == ["alpha"]
    refusals.forget("alpha")
    assert refusals.wants_proof(10.0) == []
