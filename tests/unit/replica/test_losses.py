"""A store that lost its end, as in a power cut: what the hub has is published again, nothing else, and it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from gateway.broker import leases
from gateway.broker.memory.control import MemoryControl
from gateway.broker.memory.faults import Edge, Faults, no_faults
from gateway.broker.memory.ownership import MemoryOwnership
from gateway.broker.ports import Commit, EventLog, Lost, ShardLog
from gateway.errors import OutcomeUnknown
from gateway.publication import NOTIFICATIONS
from gateway.replica.sink.commit_slots import CommitSlots
from gateway.replica.source.account import AccountState
from gateway.session.checkpoint import encode_checkpoint, reset_checkpoint
from gateway.state import Desired, Reset, TargetState
from tests.support.in_process import Build, World
from tests.unit.replica.desired_state import applied, set_desired


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.replica.sink.shard._UNCERTAIN_AFTER_S", 0.2)


async def begun(build: Build) -> World:
    """Return a world of two accounts, one of which has 30 events that came in commits of their own."""
    world = await build("alpha", "beta", prefill=10)
    world.broker.can_lose = 1000
    await world.replica()
    for account in ("alpha", "beta"):
        await world.published(account, range(1, 11))
    for last in range(11, 31):
        world.hub.user("alpha").emit(1)
        await world.published("alpha", range(1, last + 1))
    return world


def errors(logs: list[Any]) -> list[Any]:
    return [entry for entry in logs if entry["log_level"] == "error"]


async def test_what_is_lost_is_published_again_once_and_told_without_new_events(build: Build) -> None:
    world = await begun(build)
    with structlog.testing.capture_logs() as logs:
        while world.keys_of("alpha")[-1] > 18:  # on a busy machine commits without an event are among the last
            assert world.broker.go_back(1) == 1
        assert world.keys_of("alpha") == list(range(1, 19))
        await world.published("alpha", range(1, 31))

    assert world.keys_of("alpha") == list(range(1, 31))
    assert world.keys_of("beta") == list(range(1, 11))
    (error,) = errors(logs)
    assert (error["account"], error["first"], error["last"]) == ("alpha", 19, 30)
    assert "went back" in error["event"]
    assert world.replicas[0]._source.counters.went_back == 1


async def test_a_commit_that_comes_at_once_does_not_hide_what_is_lost(build: Build) -> None:
    world = await begun(build)
    world.broker.go_back(12)
    world.hub.user("alpha").emit(5)
    world.hub.user("beta").emit(5)
    await world.published("alpha", range(1, 36))
    await world.published("beta", range(1, 16))
    assert world.keys_of("alpha") == list(range(1, 36))
    assert world.keys_of("beta") == list(range(1, 16))


async def test_an_account_that_lost_its_checkpoint_too_stops_with_a_remedy(build: Build) -> None:
    world = await begun(build)
    world.registry.registered.clear()
    with structlog.testing.capture_logs() as logs:
        world.broker.go_back(1000)
        await world.becomes("alpha", AccountState.DIVERGED)
        await world.becomes("beta", AccountState.DIVERGED)
    assert world.keys_of("alpha") == []
    assert world.registry.registered == {"alpha", "beta"}
    logged = [entry for entry in errors(logs) if "went back" in entry["event"]]
    assert sorted((entry["account"], entry["last"]) for entry in logged) == [("alpha", 30), ("beta", 10)]
    assert all("reset it" in entry["remedy"] for entry in logged)


class Losing:
    """A log that lost some events and no checkpoint: whoever opens it hears which, until a checkpoint knows of them."""

    def __init__(self, log: EventLog) -> None:
        self.lost: dict[str, set[Lost]] = {}
        self.loses: dict[str, set[Lost]] = {}
        """Of which the next one that opens it hears."""
        self.mending: list[Commit] = []
        """What was stored while something was lost."""
        self._log = log

    @asynccontextmanager
    async def open(self, shard: int) -> AsyncIterator[ShardLog]:
        async with self._log.open(shard) as good:
            self.lost, self.loses = self.lost | self.loses, {}
            yield _LosingShard(self, good)


class _LosingShard:
    def __init__(self, log: Losing, good: ShardLog) -> None:
        self._losing, self._good = log, good
        self.epoch, self.limits, self.checkpoints, self.check = good.epoch, good.limits, good.checkpoints, good.check

    @property
    def lost(self) -> Mapping[str, Collection[Lost]]:
        return self._losing.lost

    async def commit(self, commit: Commit) -> None:
        await self._good.commit(commit)
        if self._losing.lost:
            self._losing.mending.append(commit)
        for account in commit.checkpoints:
            self._losing.lost.pop(account, None)


async def test_of_lost_events_the_checkpoint_takes_back_those_and_no_others(build: Build) -> None:
    world = await build("alpha", "beta", prefill=10)
    log = Losing(world.broker.log("losing"))
    await world.replica(log)
    for account in ("alpha", "beta"):
        await world.published(account, range(1, 11))
    lost = {3, 7, 8, 10}
    with structlog.testing.capture_logs() as logs:
        world.broker.entries[:] = [
            one
            for one in world.broker.entries
            if one.stored.message.account != "alpha" or int(one.stored.message.key) not in lost
        ]
        log.loses["alpha"] = {Lost(1, sequence) for sequence in lost} | {Lost(1, 11), Lost(2, 5)}

        async def fails(_: Edge) -> None:
            world.broker.faults = no_faults
            raise OutcomeUnknown("as where the broker was away")

        world.broker.faults = fails
        world.hub.user("beta").emit(1)
        await world.published("beta", range(1, 12))
        await world.until(lambda: len(world.keys_of("alpha")) == 10, "what is lost is published again")
        world.hub.user("alpha").emit(1)
        await world.until(lambda: 11 in world.keys_of("alpha"), "and events go on")

    assert world.keys_of("alpha") == [1, 2, 4, 5, 6, 9, 3, 7, 8, 10, 11]
    assert world.keys_of("beta") == list(range(1, 12))
    late = [int(one.key) for one in world.messages("alpha") if "late" in one.attributes]
    assert late == [3, 7, 8]
    (error,) = errors(logs)
    assert (error["account"], error["first"], error["last"], error["events"]) == ("alpha", 3, 10, 4)
    assert world.replicas[0]._source.counters.went_back == 1


async def test_lost_events_that_the_hub_has_no_more_are_announced_once(build: Build) -> None:
    """Of the earlier incarnation as well, whose history is nobody's any more."""
    world = await build("alpha", prefill=10)
    log = Losing(world.broker.log("losing"))
    world.control = MemoryControl()
    await world.replica(log)
    await world.published("alpha", range(1, 11))
    anew = Reset(2, 0)
    await applied(world, await set_desired(world, Desired(state=TargetState.PAUSED, reset=anew)))
    await set_desired(world, Desired(reset=anew))
    await world.until(lambda: len(numbers(world)) == 20, "it is published once more")
    world.hub.patch_faults("alpha", forget_below=8)
    with structlog.testing.capture_logs() as logs:
        world.broker.entries[:] = [one for one in world.broker.entries if "sequence" not in one.stored.message.own]
        log.loses["alpha"] = {Lost(incarnation, number) for incarnation in (1, 2) for number in range(3, 11)}
        await reopened(world)
        await world.until(lambda: len(gaps(world)) == 2, "both gaps are announced")
        await reopened(world)
        world.hub.user("alpha").emit(1)
        await world.until(lambda: 11 in numbers(world), "and events go on")

    assert numbers(world) == [8, 9, 10, 11]
    assert gaps(world) == [("1", 3, 10), ("2", 3, 7)]
    logged = [(entry["first"], entry["last"]) for entry in errors(logs) if "gap announced" in entry["event"]]
    assert logged == [(3, 10), (3, 7)]
    assert world.replicas[0]._source.counters.gaps == 2


async def test_a_loss_is_told_where_the_answer_to_its_fix_is_lost(build: Build) -> None:
    """The checkpoint may be stored, and then nothing of it is found again."""
    world = await build("alpha", prefill=10)
    log = Losing(world.broker.log("losing"))
    await world.replica(log)
    await world.published("alpha", range(1, 11))
    log.loses["alpha"] = {Lost(1, number) for number in range(3, 6)}
    world.broker.entries[:] = [one for one in world.broker.entries if int(one.stored.message.key) not in {3, 4, 5}]

    async def loses_the_answer(edge: Edge) -> None:
        if edge.call == "commit" and edge.when == "after" and log.lost:
            world.broker.faults = no_faults
            raise OutcomeUnknown("stored, and the answer was lost")

    with structlog.testing.capture_logs() as logs:
        await reopened(world, loses_the_answer)
        await world.until(lambda: len(world.keys_of("alpha")) == 10, "what is lost is published again")
    (error,) = [entry for entry in errors(logs) if "went back" in entry["event"]]
    assert (error["account"], error["first"], error["last"]) == ("alpha", 3, 5)
    assert world.replicas[0]._source.counters.went_back == 1


async def test_a_reset_announces_losses_that_nobody_published_again(build: Build) -> None:
    """The loss is found while the account is paused."""
    world = await build("alpha", prefill=10)
    log = Losing(world.broker.log("losing"))
    world.control = MemoryControl()
    await world.replica(log)
    await world.published("alpha", range(1, 11))
    await applied(world, await set_desired(world, Desired(state=TargetState.PAUSED)))
    world.broker.entries[:] = [one for one in world.broker.entries if one.stored.message.key not in {b"3", b"4", b"5"}]
    log.loses["alpha"] = {Lost(1, number) for number in range(3, 6)}
    await reopened(world)
    await world.until(lambda: bool(log.mending), "the checkpoint covers them no more")
    anew = Reset(2, 10)
    await applied(world, await set_desired(world, Desired(state=TargetState.PAUSED, reset=anew)))
    await set_desired(world, Desired(reset=anew))
    world.hub.user("alpha").emit(1)
    await world.until(lambda: 11 in numbers(world), "and events go on")
    assert gaps(world) == [("1", 3, 5)]


async def test_many_accounts_with_losses_are_fixed_in_few_bounded_commits(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one 900 of them took 19 minutes over a line of 0.4 s."""
    aim = 4096
    monkeypatch.setattr(CommitSlots, "aim", aim)
    names = [f"account-{number}" for number in range(40)]
    world = await build(*names, prefill=10)
    log = Losing(world.broker.log("losing"))
    replica = await world.replica(log)
    for name in names:
        await world.published(name, range(1, 11))
    log.loses = {name: {Lost(1, 10)} for name in names}
    in_flight: list[int] = []

    async def looks(edge: Edge) -> None:
        if edge.call == "commit" and edge.when == "before" and log.lost:
            in_flight.append(replica._shard_settings.commits.bytes_in_flight)

    await reopened(world, looks)
    await world.until(lambda: not log.lost, "all are mended")
    mended = log.mending
    sizes = [sum(len(value or b"") for value in one.checkpoints.values()) for one in mended]
    assert sum(len(one.checkpoints) for one in mended) == 40
    assert 2 <= len(mended) <= sum(sizes) / aim + 1
    assert max(sizes) < 2 * aim
    assert len(in_flight) == len(mended)
    assert min(in_flight) > 0


QUICK = leases.LeaseTiming(lease=0.6, renewal=0.1, look=0.05)


async def shared(build: Build) -> World:
    """Return a world like `begun`, whose shards are agreed on by leases."""
    world = await build("alpha", "beta", prefill=10)
    world.ownership = MemoryOwnership(QUICK)
    world.broker.can_lose = 1000
    await world.replica()
    await world.published("alpha", range(1, 11))
    await world.published("beta", range(1, 11))
    world.hub.user("alpha").emit(10)
    await world.published("alpha", range(1, 21))
    return world


async def ownership_lost(world: World, then: Callable[[], object]) -> None:
    """Let nobody own the shard, as where the broker forgets who did, and do something before it is owned again."""

    async def nobody(*_: object) -> bool:
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases.LeaseMembership, "is_owner", nobody)
        await world.until(lambda: not any(one._shards.serving for one in world.replicas), "nobody serves the shard")
        then()


def lose(world: World, last: int) -> None:
    """Let the broker lose what came of alpha after the sequence `last`, which ended a commit."""
    while world.keys_of("alpha")[-1] > last:
        assert world.broker.go_back(1) == 1


async def test_what_is_lost_while_nobody_owned_the_shard_is_told(build: Build) -> None:
    """A broker that loses power may forget its groups, and with them who owned what."""
    world = await shared(build)
    with structlog.testing.capture_logs() as logs:
        await ownership_lost(world, lambda: lose(world, 10))
        await world.published("alpha", range(1, 21))
    (error,) = errors(logs)
    assert (error["account"], error["first"], error["last"]) == ("alpha", 11, 20)
    assert "went back" in error["event"]


async def test_what_others_did_while_they_owned_the_shard_is_no_loss(build: Build) -> None:
    """An operator may have set the checkpoint of one account back, and deleted the other, which began anew."""
    world = await shared(build)

    def others_write() -> None:
        world.broker.stored_checkpoints[0]["alpha"] = encode_checkpoint(reset_checkpoint(2, 5, None))
        world.broker.stored_checkpoints[0]["beta"] = encode_checkpoint(reset_checkpoint(1, 5, None))
        world.replicas[0]._on_desired_changed("beta")  # as a replica hears of it

    with structlog.testing.capture_logs() as logs:
        await ownership_lost(world, others_write)
        await world.until(lambda: len(world.keys_of("alpha")) == 20 + 15, "alpha goes on from there")
        await world.until(lambda: len(world.keys_of("beta")) == 10 + 5, "and so does beta")
    assert errors(logs) == []


async def reopened(world: World, then: Faults = no_faults) -> None:
    """Wait until the log is opened again, as where a store went back."""

    async def fails(edge: Edge) -> None:
        if edge.call == "check":
            world.broker.faults = then
            raise OutcomeUnknown("it went back")
        await then(edge)

    opened = world.broker.epochs[0]
    world.broker.faults = fails
    await world.until(lambda: world.broker.epochs[0] > opened, "it is opened again")


def numbers(world: World) -> list[int]:
    """Return the sequences of the events that are in the log."""
    return [int(one.key) for one in world.messages("alpha") if "sequence" in one.own]


def gaps(world: World) -> list[tuple[str, int, int]]:
    """Return the incarnation and the range of the gaps that were announced."""
    found = [(one, json.loads(one.value)) for one in world.messages("alpha") if one.topic == NOTIFICATIONS]
    return [
        (one.attributes.get("incarnation", "1"), value["FirstSeqId"], value["LastSeqId"])
        for one, value in found
        if value["Type"] == "gap"
    ]


async def test_a_store_that_stands_is_no_loss_however_often_it_fails(build: Build) -> None:
    world = await begun(build)
    with structlog.testing.capture_logs() as logs:
        async with world.broker.log("another").open(0):
            world.hub.user("alpha").emit(5)
            await world.becomes("alpha", AccountState.FENCED)
    assert not [entry for entry in errors(logs) if "went back" in entry["event"]]


async def test_a_checkpoint_forgotten_by_a_commit_of_unknown_outcome_is_no_loss(build: Build) -> None:
    world = await build("alpha", "beta", prefill=10)
    world.control = MemoryControl()
    await world.replica()
    for account in ("alpha", "beta"):
        await world.published(account, range(1, 11))
    struck = asyncio.Event()

    async def faults(edge: Edge) -> None:
        is_gone = "alpha" not in world.broker.stored_checkpoints.get(0, {})
        if edge.call == "commit" and edge.when == "after" and is_gone and not struck.is_set():
            struck.set()
            raise OutcomeUnknown("the answer is lost")

    world.broker.faults = faults
    with structlog.testing.capture_logs() as logs:
        await set_desired(world, Desired(state=TargetState.PAUSED, forget=True))
        await world.until(struck.is_set, "the outcome is unknown")
        await world.until(lambda: world.registry.registered == {"beta"}, "it is forgotten all the same")
    assert not [entry for entry in errors(logs) if "went back" in entry["event"]]
