"""The contract of ownership, on every broker that has it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from gateway.broker import leases
from gateway.broker.jetstream.connection import ConnectionOptions, connect
from gateway.broker.jetstream.ownership import JetStreamOwnership
from gateway.broker.kafka.ownership import KafkaOwnership
from gateway.broker.memory.ownership import MemoryOwnership
from gateway.broker.ports import Ownership
from gateway.errors import Unavailable
from tests.support import kafka_server, ownership_suite, rigs
from tests.support.kafka_server import KafkaServer
from tests.support.nats_server import NatsServer, cluster
from tests.support.ownership_suite import Group, moved, of, until
from tests.support.rigs import NatsRig, kafka_rig, nats_rig, when_whole


@asynccontextmanager
async def on_nats(*urls: str, replicas: int = 1) -> AsyncIterator[Ownership]:
    async with nats_rig(*urls, replicas=replicas) as rig:
        ownership = JetStreamOwnership(rig.connection, rig.topics)
        await when_whole(rig.connection, lambda: ownership.prepare(replicas=replicas, create=True))
        yield ownership


@asynccontextmanager
async def group_of(ownership: Ownership) -> AsyncIterator[Group]:
    async with AsyncExitStack() as stack:
        yield Group(ownership, stack)


@pytest.fixture(params=["memory", "jetstream", "jetstream-3"])
async def group(request: pytest.FixtureRequest) -> AsyncIterator[Group]:
    """Yield each broker in turn where members are awake only while they follow the changes."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(_group_on(request.param, request, stack))


@pytest.fixture(params=["memory", "jetstream", "jetstream-3", "kafka"])
async def any_group(request: pytest.FixtureRequest) -> AsyncIterator[Group]:
    """Yield each broker in turn."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(_group_on(request.param, request, stack))


@asynccontextmanager
async def _group_on(broker: str, request: pytest.FixtureRequest, stack: AsyncExitStack) -> AsyncIterator[Group]:
    ownership: Ownership = MemoryOwnership()
    if broker == "jetstream":
        server: NatsServer = request.getfixturevalue("nats_server")
        ownership = await stack.enter_async_context(on_nats(server.url))
    elif broker == "jetstream-3":
        servers: list[NatsServer] = request.getfixturevalue("nats_cluster")
        ownership = await stack.enter_async_context(on_nats(*(one.url for one in servers), replicas=3))
    elif broker == "kafka":
        rig = await stack.enter_async_context(kafka_rig(request.getfixturevalue("kafka_address")))
        ownership = KafkaOwnership(rig.connection, rig.topics)
    async with group_of(ownership) as group:
        if broker == "kafka":
            group.shards, group.is_eager = rigs.SHARDS, True
        yield group


async def test_shares_are_even_and_nothing_moves_but_what_must(any_group: Group) -> None:
    await ownership_suite.shares_are_even_and_nothing_moves_but_what_must(any_group)


async def test_a_member_that_dies_is_replaced_in_seconds(group: Group) -> None:
    await ownership_suite.a_member_that_dies_is_replaced(group)


async def test_a_frozen_member_loses_its_shards_and_learns_it(group: Group) -> None:
    await ownership_suite.a_frozen_member_loses_its_shards_and_learns_it(group)


async def test_members_that_come_at_once_share_in_peace(any_group: Group) -> None:
    await asyncio.gather(*(any_group.join(name) for name in "abc"))
    owners = await any_group.quiet()
    assert set(owners.values()) == {"a", "b", "c"}
    assert any_group.overlaps == []


async def test_a_shard_that_is_released_unasked_is_given_again(any_group: Group) -> None:
    member = await any_group.join("a")
    await any_group.quiet()
    count = len(member.sets)
    await member.membership.release(3)
    await until(lambda: len(member.sets) > count and 3 in member.sets[-1], "it is given again", any_group)
    assert await member.membership.is_owner(3)


async def test_what_is_handed_over_waits_for_its_release(group: Group) -> None:
    a = await group.join("a")
    await group.quiet()
    waiting: dict[int, asyncio.Event] = {}
    release = a.membership.release

    async def slowly(shard: int) -> None:
        waiting[shard] = asyncio.Event()
        await release(shard)

    a.membership.release = slowly  # type: ignore[method-assign]
    b = await group.join("b")
    owners = await group.quiet()
    assert set(waiting) == of(owners, "b") == set(b.serving)
    assert not any([await a.membership.is_owner(shard) for shard in b.serving])
    assert all([await b.membership.is_owner(shard) for shard in b.serving])


# The broker goes away -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, 5.0])
async def test_after_an_outage_of_the_broker_all_keep_theirs_on_jetstream(folder: Path, seconds: float) -> None:
    async with NatsServer(folder) as server, AsyncExitStack() as stack:
        first = await stack.enter_async_context(nats_rig(server.url, timeout=2.0))
        options = ConnectionOptions(servers=[server.url], timeout=2.0, ping_interval=0.5)
        second = await stack.enter_async_context(connect(options))
        ownership = JetStreamOwnership(first.connection, first.topics)
        await ownership.prepare(replicas=1, create=True)
        group = await stack.enter_async_context(group_of(ownership))
        await group.join("a")
        group.ownership = JetStreamOwnership(second, first.topics)
        await group.join("b")
        before = await group.quiet()
        given = group.changes()
        server.kill()
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.start)
        for connection in (first.connection, second):
            await connection.connected()
        after = await group.quiet()
        for member in group.members:
            assert all([await member.membership.is_owner(shard) for shard in member.serving])
        await asyncio.sleep(leases.LeaseTiming().lease + 1)  # past the time in which nobody takes anything
        assert await group.quiet() == after == before
        assert group.changes() == given  # nobody lost a shard for a moment
        assert group.overlaps == []


async def test_after_an_outage_of_the_broker_everyone_has_what_it_had_in_memory() -> None:
    ownership = MemoryOwnership()
    async with group_of(ownership) as group:
        for name in "abc":
            await group.join(name)
        before = await group.quiet()
        given = group.changes()
        ownership.is_away = True
        await asyncio.sleep(1)
        ownership.restart()
        ownership.is_away = False
        assert await group.quiet() == before
        assert group.changes() == given


async def test_nobody_moves_for_good_when_the_leader_of_three_servers_is_killed(folder: Path) -> None:
    with cluster(folder) as servers:
        urls = [server.url for server in servers]
        async with nats_rig(*urls, replicas=3) as rig:
            ownership = JetStreamOwnership(rig.connection, rig.topics)
            await ownership.prepare(replicas=3, create=True)
            async with group_of(ownership) as group:
                for name in "ab":
                    await group.join(name)
                before = await group.quiet()
                given = group.changes()
                info = await rig.connection.link.api(f"STREAM.INFO.{rig.topics.ownership}")
                (leader,) = [server for server in servers if server.folder.name == info["cluster"]["leader"]]
                leader.kill()
                while not await confirmed(group):
                    await asyncio.sleep(0.1)
                assert await group.quiet() == before
                assert group.changes() == given
                leader.start()


async def confirmed(group: Group) -> bool:
    """Return whether every member is told that it has what it serves."""
    try:
        return all([await one.membership.is_owner(shard) for one in group.members for shard in one.serving])
    except Unavailable:
        return False


async def test_nobody_moves_where_all_records_end_at_once_as_by_a_clock_jump(nats: NatsRig) -> None:
    ownership = JetStreamOwnership(nats.connection, nats.topics)
    await ownership.prepare(replicas=1, create=True)
    async with group_of(ownership) as group:
        for name in "abc":
            await group.join(name)
        before = await group.quiet()
        given = group.changes()
        for moment in range(5):
            await asyncio.sleep(moment / 10)  # at any time between two beats
            await nats.connection.link.api(f"STREAM.PURGE.{nats.topics.ownership}")
        assert await group.quiet() == before
        assert group.changes() == given


async def test_a_member_that_died_in_an_outage_is_replaced_after_it() -> None:
    ownership = MemoryOwnership()
    async with group_of(ownership) as group:
        await group.join("a")
        dies = await group.join("b")
        before = await group.quiet()
        ownership.is_away = True
        await group.kill(dies)
        await asyncio.sleep(0.6)
        ownership.restart()
        ownership.is_away = False
        after = await group.quiet()
        assert moved(before, after) == of(before, "b")


# Defects that the suite must find -------------------------------------------------------------------------


class _NeverExpires(MemoryOwnership):
    async def write(self, name: str, token: str, expect: int | None) -> int:
        self.timing = leases.LeaseTiming(lease=1e9)
        return await super().write(name, token, expect)


class _NeverRefuses(MemoryOwnership):
    async def write(self, name: str, token: str, expect: int | None) -> int:  # noqa: ARG002
        return await super().write(name, token, None)


Deal = Callable[[int, Sequence[str], Mapping[int, str]], list[str]]
ROUNDS = 20
"""Sets of names that a deal is tried with."""


def _dealt_by_turns(shards: int, present: Sequence[str], holders: Mapping[int, str]) -> list[str]:  # noqa: ARG001
    names = sorted(present)
    return [names[shard % len(names)] for shard in range(shards)]


def _dealt_by_luck(shards: int, present: Sequence[str], holders: Mapping[int, str]) -> list[str]:  # noqa: ARG001
    return [max(present, key=lambda member: leases._weight(shard, member)) for shard in range(shards)]


def _dealt_by_names(shards: int, present: Sequence[str], holders: Mapping[int, str]) -> list[str]:  # noqa: ARG001
    return leases.assign(shards, present, {})


def _dealt_by_loads(shards: int, present: Sequence[str], holders: Mapping[int, str]) -> list[str]:
    """What is free goes to whoever has least: in part carried out, it is dealt otherwise."""
    owners = [name if (name := holders.get(shard, "")) in present else "" for shard in range(shards)]
    for shard in sorted(range(shards), key=lambda shard: owners[shard] != ""):
        owners[shard] = ""
        owners[shard] = min(sorted(present), key=owners.count)
    return owners


DEFECTS: list[tuple[Callable[[], Ownership], ownership_suite.Behaviour]] = [
    (_NeverExpires, ownership_suite.a_member_that_dies_is_replaced),
    (_NeverRefuses, ownership_suite.a_frozen_member_loses_its_shards_and_learns_it),
]


@pytest.mark.parametrize(("defect", "behaviour"), DEFECTS)
async def test_the_suite_notices_a_store_that_breaks_its_word(
    defect: Callable[[], Ownership], behaviour: ownership_suite.Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership_suite, "TIMEOUT_S", 8.0)
    async with group_of(defect()) as group:
        with pytest.raises(AssertionError):
            await behaviour(group)


async def test_the_suite_notices_a_deal_that_moves_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "assign", _dealt_by_turns)
    async with group_of(MemoryOwnership()) as group:
        with pytest.raises(AssertionError):
            await ownership_suite.shares_are_even_and_nothing_moves_but_what_must(group)


@pytest.mark.parametrize(("shards", "count"), [(16, 2), (16, 3), (16, 4), (16, 5), (16, 20), (256, 5), (1, 3)])
def test_a_deal_is_even_moves_what_must_and_is_the_same_when_half_done(shards: int, count: int) -> None:
    it_is_even_moves_what_must_and_is_the_same_when_half_done(leases.assign, shards, count)


@pytest.mark.parametrize("defect", [_dealt_by_turns, _dealt_by_luck, _dealt_by_names, _dealt_by_loads])
def test_the_suite_notices_an_uneven_a_needless_and_an_unstable_assignment(defect: Deal) -> None:
    with pytest.raises(AssertionError):
        it_is_even_moves_what_must_and_is_the_same_when_half_done(defect, 16, 4)


def it_is_even_moves_what_must_and_is_the_same_when_half_done(deal: Deal, shards: int, count: int) -> None:
    chance = random.Random(8)
    owners: dict[int, str] = {}
    present: list[str] = []
    for round_ in range(ROUNDS):
        before, names = owners, present
        gone = chance.sample(names, chance.randint(0, len(names))) if len(names) == count else []
        present = [name for name in names if name not in gone]
        come = chance.randint(0 if present else 1, count - len(present))
        present += [f"replica-{round_}-{number}" for number in range(come)]
        owners = dict(enumerate(deal(shards, present, before)))

        shares = [len(of(owners, name)) for name in present]
        assert sum(shares) == shards
        assert max(shares) - min(shares) <= 1
        if not gone or set(present) < set(names):  # only came, or only went
            others = {shard for shard in before if before[shard] in names and owners[shard] in names}
            assert all(before[shard] in gone for shard in others & moved(before, owners))
        moving = [shard for shard, owner in owners.items() if before.get(shard) != owner]
        for _ in range(5):
            half = dict(before)
            for shard in chance.sample(moving, chance.randint(0, len(moving))):
                half[shard] = chance.choice([owners[shard], ""])
            assert deal(shards, present[::-1], half) == [*owners.values()]


async def test_a_confirmation_refused_by_kafka_does_not_make_the_member_rejoin(kafka_address: str) -> None:
    """As when a frozen one wakes: an answer about who it was must not undo who it has become meanwhile."""
    async with kafka_rig(kafka_address) as rig:
        ownership = KafkaOwnership(rig.connection, rig.topics)
        async with ownership.join("a", rigs.SHARDS) as membership:
            shards = await anext(aiter(membership.assignments()))
            member = membership._consumer._coordinator
            before = member.generation, member.member_id
            member.member_id = "forgotten"
            with pytest.raises(Unavailable):
                await membership.is_owner(min(shards))
            assert (member.generation, member.member_id) == (before[0], "forgotten")
            member.member_id = before[1]
            assert await membership.is_owner(min(shards))


async def test_after_an_outage_of_kafka_a_member_is_still_who_it_was(tmp_path: Path) -> None:
    """Longer than a session, with confirmations that fail all the while."""
    kafka_server.require_java()
    with KafkaServer(tmp_path) as server:
        async with kafka_rig(server.address, timeout=2.0) as rig, group_of(_on(rig)) as group:
            group.shards, group.is_eager = rigs.SHARDS, True
            member = await group.join("a")
            await group.quiet()
            before = member.membership._consumer._coordinator.member_id
            server.kill()
            began = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() < began + 10:
                with pytest.raises(Unavailable):
                    await member.membership.is_owner(0)
                await asyncio.sleep(0.1)
            await asyncio.to_thread(server.start)
            await until(lambda: bool(member.membership._consumer), "it is a member again")
            while not await confirmed(group):
                await asyncio.sleep(0.1)
            assert member.membership._consumer._coordinator.member_id == before


def _on(rig: rigs.KafkaRig) -> KafkaOwnership:
    return KafkaOwnership(rig.connection, rig.topics)
