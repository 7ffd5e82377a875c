"""What every event log must do, whatever the broker; see `gateway.broker.ports`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from gateway.broker.jetstream import batch, records
from gateway.broker.memory.log import MemoryBroker
from gateway.broker.ports import Commit, EventLog, Limits, Lost, ShardLog, Stored, check_limits
from gateway.errors import BrokerError, ConfigurationError, Fenced, OutcomeUnknown, TooLarge, Unavailable
from tests.support import event_log_suite
from tests.support.event_log_suite import message, messages, numbers, read
from tests.support.rigs import LARGEST, NatsRig, Rig


async def test_opening_a_shard_fences_every_older_writer(rig: Rig) -> None:
    await event_log_suite.opening_fences_every_older_writer(rig.log("a"), rig.reader)


async def test_messages_are_read_back_in_order_with_key_value_and_attributes(rig: Rig) -> None:
    await event_log_suite.a_commit_is_read_back_as_it_was(rig.log("a"), rig.reader, one_order=rig.one_order)


async def test_a_cancelled_commit_is_all_or_nothing_and_a_reopened_log_tells(rig: Rig) -> None:
    await event_log_suite.a_cancelled_commit_is_all_or_nothing(rig.log("a"), rig.reader)


async def test_of_writers_that_race_for_a_shard_only_the_newest_goes_on(rig: Rig) -> None:
    await event_log_suite.of_racing_writers_only_the_newest_goes_on(rig.log("a"), rig.reader)


async def test_a_log_is_spent_after_a_cancelled_commit(rig: Rig) -> None:
    async with rig.log("a").open(0) as shard:
        commit = asyncio.create_task(shard.commit(Commit(messages(1, 10))))
        await asyncio.sleep(0)
        commit.cancel()
        await asyncio.wait({commit})
        assert commit.cancelled()

        with pytest.raises(OutcomeUnknown):
            await shard.commit(Commit(messages(11, 11)))


async def test_a_fenced_log_stays_fenced(rig: Rig) -> None:
    async with rig.log("a").open(0) as old, rig.log("b").open(0):
        with pytest.raises(Fenced):
            await old.commit(Commit(messages(1, 1)))
        with pytest.raises(Fenced):
            await old.commit(Commit(messages(1, 1)))


async def test_a_writer_that_failed_does_not_take_its_shard_back_from_a_rival(rig: Rig) -> None:
    """As a process does that was frozen past its time limits: it hears of those before it hears of its heir."""
    log = rig.log("a")
    async with log.open(0) as shard:
        commit = asyncio.create_task(shard.commit(Commit(messages(1, 10))))
        await asyncio.sleep(0)
        commit.cancel()
        await asyncio.wait({commit})
    async with rig.log("b").open(0) as heir:
        with pytest.raises(Fenced):
            async with log.open(0):
                pass
        await heir.commit(Commit(messages(11, 12), {"demo": b"12"}))
        async with log.open(0) as again:  # it knows of the heir now: whoever opens it does so on purpose
            assert await again.checkpoints() == {"demo": b"12"}


async def test_a_writer_that_failed_opens_again_where_there_is_no_rival(rig: Rig) -> None:
    log = rig.log("a")
    for round_ in range(3):
        async with log.open(0) as shard:
            commit = asyncio.create_task(shard.commit(Commit(messages(1, 10), {"demo": b"%d" % round_})))
            await asyncio.sleep(0)
            commit.cancel()
            await asyncio.wait({commit})
    async with log.open(0) as shard:
        await shard.commit(Commit(messages(1, 1), {"demo": b"last"}))


async def test_the_epoch_rises_with_every_claim_whoever_makes_it(rig: Rig) -> None:
    epochs = [0]
    for owner in ("a", "a", "b", "a"):
        async with rig.log(owner).open(0) as shard:
            await shard.checkpoints()
            epochs.append(shard.epoch)
            await shard.commit(Commit(messages(1, 3), {"demo": b"3"}))
            assert shard.epoch == epochs[-1]
    assert epochs == sorted(set(epochs))


async def test_an_older_writer_may_not_read_checkpoints(rig: Rig) -> None:
    async with rig.log("a").open(0) as old, rig.log("b").open(0):
        with pytest.raises(Fenced):
            await old.checkpoints()


async def test_shards_do_not_fence_each_other(rig: Rig) -> None:
    async with rig.log("a").open(1) as one, rig.log("b").open(11) as eleven:
        await one.commit(Commit(messages(1, 1), {"of-one": b"1"}))
        await eleven.commit(Commit(messages(2, 2), {"of-eleven": b"2"}))

        assert await one.checkpoints() == {"of-one": b"1"}
        assert await eleven.checkpoints() == {"of-eleven": b"2"}


async def test_a_checkpoint_is_replaced(rig: Rig) -> None:
    async with rig.log("a").open(0) as shard:
        for state in (b"first", b"", b"\x00\xff" * 30_000):
            await shard.commit(Commit([], {"demo": state, "other": b"same"}))
            assert await shard.checkpoints() == {"demo": state, "other": b"same"}


async def test_a_checkpoint_that_is_forgotten_stays_so_until_another_is_made(rig: Rig) -> None:
    await event_log_suite.what_is_forgotten_stays_forgotten(rig.log("a"), rig.reader)
    async with rig.log("b").open(3) as shard:
        assert await shard.checkpoints() == {event_log_suite.REPLAY: b"again", "other": b"o"}
        await shard.commit(Commit([], {event_log_suite.REPLAY: None}))
    async with rig.log("a").open(3) as shard:
        assert await shard.checkpoints() == {"other": b"o"}


async def test_an_older_writer_makes_nothing_forgotten(rig: Rig) -> None:
    await event_log_suite.an_older_writer_makes_nothing_forgotten(rig.log("a"), rig.reader)


async def test_a_cancelled_commit_forgets_with_its_messages_or_not_at_all(rig: Rig) -> None:
    await event_log_suite.a_cancelled_commit_forgets_with_its_messages_or_not_at_all(rig.log("a"), rig.reader)


async def test_many_checkpoints_are_forgotten_together_while_others_are_made(rig: Rig) -> None:
    replays = [f"~{number:032x}" for number in range(400)]
    async with rig.log("a").open(0) as shard:
        await shard.commit(Commit(messages(1, 10), dict.fromkeys(replays, b"x")))
        assert await shard.checkpoints() == dict.fromkeys(replays, b"x")

        await shard.commit(Commit(messages(11, 20), {**dict.fromkeys(replays[1:]), "demo": b"20"}))
        assert await shard.checkpoints() == {replays[0]: b"x", "demo": b"20"}
    assert await numbers(rig.reader) == list(range(1, 21))


def test_what_is_forgotten_counts_as_a_message_and_no_bytes_but_its_name() -> None:
    commit = Commit([], {"main": None, "other": b"1"})
    check_limits(commit, Limits(messages=2, bytes=10))
    with pytest.raises(ValueError, match="10 bytes"):
        check_limits(commit, Limits(messages=2, bytes=9))
    with pytest.raises(ValueError, match="2 messages and checkpoints"):
        check_limits(commit, Limits(messages=1, bytes=10))


async def test_on_jetstream_a_checkpoints_marker_ends_but_no_checkpoint_after_it(
    nats: NatsRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_FORGETS", batch._FORGETS.replace(str(batch.FORGOTTEN_FOR), "1"))
    subjects = nats.topics.checkpoints(0)
    async with nats.log("a").open(0) as shard:
        await shard.commit(Commit([], {"gone": b"1", "back": b"1"}))
        await shard.commit(Commit([], {"gone": None, "back": None}))
        marked = await records.subjects(nats.connection.link, nats.topics.stream, subjects)
        assert marked == {nats.topics.checkpoint(0, name) for name in ("gone", "back")}
        await shard.commit(Commit([], {"back": b"2"}))
        await asyncio.sleep(2)
        left = await records.subjects(nats.connection.link, nats.topics.stream, subjects)
        assert left == {nats.topics.checkpoint(0, "back")}
        assert await shard.checkpoints() == {"back": b"2"}


async def test_a_new_shard_has_no_checkpoints(rig: Rig) -> None:
    async with rig.log("a").open(0) as shard:
        assert await shard.checkpoints() == {}


async def test_many_accounts_commit_together(rig: Rig) -> None:
    states = {f"account-{number}".ljust(63, "x"): b"%d" % number for number in range(490)}
    async with rig.log("a").open(0) as shard:
        await shard.commit(Commit(messages(1, 10), states))

        assert await shard.checkpoints() == states


async def test_an_empty_commit_stores_nothing(rig: Rig) -> None:
    async with rig.log("a").open(0) as shard:
        await shard.commit(Commit([]))
    assert await numbers(rig.reader) == []


async def test_a_commit_may_have_one_message(rig: Rig) -> None:
    async with rig.log("a").open(0) as shard:
        await shard.commit(Commit(messages(1, 1)))
    assert await numbers(rig.reader) == [1]


async def test_a_commit_may_have_as_many_messages_as_the_limit_says(rig: Rig) -> None:
    async with rig.log("a").open(0) as shard:
        most = shard.limits.messages
        await shard.commit(Commit(messages(1, most - 1), {"demo": b"x"}))
        assert await shard.checkpoints() == {"demo": b"x"}
    assert await numbers(rig.reader) == list(range(1, most))


async def test_one_message_above_the_limit_is_refused_aloud_and_stores_nothing(rig: Rig) -> None:
    async with rig.log("a").open(0) as shard:
        most = shard.limits.messages
        with pytest.raises(ValueError, match=str(most + 1)):
            await shard.commit(Commit(messages(1, most), {"demo": b"x"}))

        assert await shard.checkpoints() == {}
        await shard.commit(Commit(messages(1, 1)))
    assert await numbers(rig.reader) == [1]


async def test_a_message_that_is_too_large_is_named_and_nothing_is_stored(rig: Rig) -> None:
    big = message(3, value=b"x" * LARGEST)
    async with rig.log("a").open(0) as shard:
        with pytest.raises(TooLarge) as refused:
            await shard.commit(Commit([message(1), message(2), big, message(4)], {"demo": b"x"}))
        assert refused.value.index == 2

        assert await shard.checkpoints() == {}
        await shard.commit(Commit([message(1), message(2), message(4)], {"demo": b"4"}))
        assert await shard.checkpoints() == {"demo": b"4"}
    assert await numbers(rig.reader) == [1, 2, 4]


async def test_a_writer_whose_shard_is_claimed_is_either_before_or_refused(rig: Rig) -> None:
    acknowledged = 0

    async def write(shard: ShardLog) -> None:
        nonlocal acknowledged
        while True:
            last = acknowledged + 3
            await shard.commit(Commit(messages(acknowledged + 1, last), {"demo": b"%d" % last}))
            acknowledged = last

    for _ in range(5):
        async with rig.log("a").open(4) as old:
            writer = asyncio.create_task(write(old))
            before = acknowledged
            while acknowledged < before + 30:
                await asyncio.sleep(0)
            async with rig.log("b").open(4) as new:
                stored = int((await new.checkpoints())["demo"])
                with pytest.raises(BrokerError) as refused:
                    await writer
                assert isinstance(refused.value, (Fenced, OutcomeUnknown, Unavailable))
                assert stored == acknowledged or (
                    stored == acknowledged + 3 and not isinstance(refused.value, Unavailable)
                ), "who is told that nothing was stored must be right"
                assert await numbers(rig.reader) == list(range(1, stored + 1))
                acknowledged = stored


async def test_a_read_filters_by_topic_and_account(rig: Rig) -> None:
    stored = [message(1, "a", "x"), message(2, "b", "x"), message(3, "a", "y"), message(4, "b", "y")]
    async with rig.log("a").open(0) as shard:
        await shard.commit(Commit(stored, {"a": b"", "b": b""}))

    async def given(topics: list[str] | None, accounts: list[str] | None) -> list[int]:
        found = [int(one.message.key) for one in await read(rig.reader, topics=topics, accounts=accounts)]
        return found if rig.one_order else sorted(found)

    assert await given(None, None) == [1, 2, 3, 4]
    assert await given(["x"], None) == [1, 2]
    assert await given(None, ["b"]) == [2, 4]
    assert await given(["y", "x"], ["a"]) == [1, 3]
    assert await given(["y"], ["b", "a", "b"]) == [3, 4]
    assert await given(["z"], None) == []
    assert await given([], None) == []


async def test_a_read_starts_where_it_is_told(rig: Rig) -> None:
    async with rig.log("a").open(0) as shard:
        await shard.commit(Commit(messages(1, 3), {"demo": b""}))
        await asyncio.sleep(0.01)
        noon = datetime.now(UTC).isoformat()
        await asyncio.sleep(0.01)
        assert await read(rig.reader, start=noon) == []
        await shard.commit(Commit(messages(4, 5), {"demo": b""}))
    everything = await read(rig.reader)

    async def given(start: str) -> list[int]:
        return [int(one.message.key) for one in await read(rig.reader, start=start)]

    assert await given("last") == [5]
    assert await given("new") == []
    assert await given(everything[2].position) == [3, 4, 5]
    assert await given(noon) == [4, 5]
    with pytest.raises(ConfigurationError, match="yesterday"):
        await given("yesterday")


async def test_a_read_that_follows_goes_on_with_what_is_stored_later(rig: Rig) -> None:
    async with rig.log("a").open(0) as shard:
        await shard.commit(Commit(messages(1, 2)))
        seen: list[int] = []
        both = asyncio.Event()

        async def follow(start: str) -> None:
            async for stored in rig.reader.read(topics=None, accounts=None, start=start, follow=True):
                seen.append(int(stored.message.key))
                both.set()

        follower = asyncio.create_task(follow("first"))
        for last in (2, 4, 304):
            if last > 2:
                await shard.commit(Commit(messages(seen[-1] + 1, last)))
            while len(seen) < last:
                both.clear()
                await both.wait()
        follower.cancel()
        await asyncio.wait({follower})
        assert follower.cancelled()
        assert seen == list(range(1, 305))


async def test_a_read_ends_at_the_end_that_the_log_had_when_it_began(rig: Rig) -> None:
    async with rig.log("a").open(0) as shard:
        await shard.commit(Commit(messages(1, 600)))
        seen: list[Stored] = []
        async for stored in rig.reader.read(topics=None, accounts=None, start="first", follow=False):
            if not seen:
                await shard.commit(Commit(messages(601, 700)))
            seen.append(stored)
    assert [int(stored.message.key) for stored in seen] == list(range(1, 601))


class Defect:
    """A log with a fault planted between the caller and a good one."""

    def __init__(self, log: EventLog, commit: type[_Planted]) -> None:
        self._log = log
        self._commit = commit

    @asynccontextmanager
    async def open(self, shard: int) -> AsyncIterator[ShardLog]:
        async with self._log.open(shard) as good:
            yield self._commit(good)


class _Planted:
    def __init__(self, good: ShardLog) -> None:
        self.good = good

    @property
    def epoch(self) -> int:
        return self.good.epoch

    @property
    def limits(self) -> Limits:
        return self.good.limits

    @property
    def lost(self) -> Mapping[str, Collection[Lost]]:
        return self.good.lost

    async def checkpoints(self) -> dict[str, bytes]:
        return await self.good.checkpoints()

    async def commit(self, commit: Commit) -> None:
        raise NotImplementedError


class TornCommit(_Planted):
    async def commit(self, commit: Commit) -> None:
        await self.good.commit(Commit(commit.messages))
        await self.good.commit(Commit([], commit.checkpoints))


class Swapped(_Planted):
    async def commit(self, commit: Commit) -> None:
        await self.good.commit(Commit([*reversed(commit.messages)], commit.checkpoints))


class Repeated(_Planted):
    async def commit(self, commit: Commit) -> None:
        await self.good.commit(Commit([*commit.messages, *commit.messages[:1]], commit.checkpoints))


class Skipped(_Planted):
    async def commit(self, commit: Commit) -> None:
        await self.good.commit(Commit(commit.messages[1:], commit.checkpoints))


class Fooled(_Planted):
    """Says that a refused commit succeeded."""

    async def commit(self, commit: Commit) -> None:
        try:
            await self.good.commit(commit)
        except Fenced:
            return


class Keeping(_Planted):
    """Stores what there is, and forgets nothing."""

    async def commit(self, commit: Commit) -> None:
        kept = {name: checkpoint for name, checkpoint in commit.checkpoints.items() if checkpoint is not None}
        await self.good.commit(Commit(commit.messages, kept))


class Emptying(_Planted):
    """Leaves an empty checkpoint of what it should forget."""

    async def commit(self, commit: Commit) -> None:
        emptied = {name: checkpoint or b"" for name, checkpoint in commit.checkpoints.items()}
        await self.good.commit(Commit(commit.messages, emptied))


@pytest.mark.parametrize(
    ("defect", "behaviour"),
    [
        (Keeping, event_log_suite.what_is_forgotten_stays_forgotten),
        (Emptying, event_log_suite.what_is_forgotten_stays_forgotten),
        (Fooled, event_log_suite.an_older_writer_makes_nothing_forgotten),
        (TornCommit, event_log_suite.a_cancelled_commit_forgets_with_its_messages_or_not_at_all),
        (TornCommit, event_log_suite.a_cancelled_commit_is_all_or_nothing),
        (Swapped, event_log_suite.a_commit_is_read_back_as_it_was),
        (Repeated, event_log_suite.a_commit_is_read_back_as_it_was),
        (Skipped, event_log_suite.a_commit_is_read_back_as_it_was),
        (Fooled, event_log_suite.opening_fences_every_older_writer),
        (Fooled, event_log_suite.of_racing_writers_only_the_newest_goes_on),
    ],
)
async def test_the_suite_notices_a_planted_defect(defect: type[_Planted], behaviour: event_log_suite.Behaviour) -> None:
    broker = MemoryBroker()
    with pytest.raises(AssertionError):
        await behaviour(Defect(broker.log("a"), defect), broker.reader())
