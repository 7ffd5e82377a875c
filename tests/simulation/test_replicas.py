"""Whole replicas through faults of the hub, the broker and their machines; and whether the judges notice faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from gateway.broker.control_view import View
from gateway.broker.kafka import error_codes as kafka_codes
from gateway.broker.memory.log import MemoryBroker
from gateway.broker.ports import Commit, ShardLog
from gateway.errors import ActionRequired, BrokerError, CommitRejected
from gateway.replica.sink.commit_slots import CommitSlots
from gateway.replica.sink.forgetting import AccountForgetter
from gateway.replica.sink.message_maker import PreparedMessages
from gateway.replica.sink.pending_commit import PendingCommit
from gateway.replica.sink.shard import Shard
from gateway.replica.source.context import AccountPageSize
from gateway.replica.source.history_client import HistoryClient
from gateway.replica.source.supervisor import Supervisor
from gateway.session.page_merge import PageMerger
from gateway.session.session import Session
from gateway.session.types import OutgoingItem
from gateway.state import Phase
from tests.simulation.replica_hub import Bug
from tests.simulation.replica_verdict import violations
from tests.simulation.replica_world import FLOW, World, lived, repeat

SEEDS = 96
"""Of each run; a person asks for as many as he likes: `python -m tests.simulation.replica_world 1 20000`."""
_EACH = 12


@pytest.mark.parametrize("first", range(0, SEEDS, _EACH))
def test_every_event_is_there_once_and_in_time_whatever_happens_to_others(first: int) -> None:
    for seed in range(first, first + _EACH):
        found = violations(lived(seed))
        assert not found, f"{repeat(seed)}: {found[:5]}"


def log_of(world: World) -> list[tuple[float, str, str, bytes, bytes]]:
    """Return all that a world's log holds, and when it came."""
    messages = [(entry.at, entry.stored.message) for entry in world.broker.entries]
    return [(at, message.account, message.topic, message.key, message.value) for at, message in messages]


def test_a_seed_is_repeated_to_the_letter() -> None:
    first, again = lived(45), lived(45)
    assert first.story == again.story
    assert log_of(first) == log_of(again)
    assert first.lines == again.lines
    assert first.shown == again.shown
    assert log_of(first) != log_of(lived(46))


def test_a_calm_world_has_nothing_to_complain_of() -> None:
    for seed in range(3):
        world = lived(seed, calm=True)
        assert violations(world) == []
        assert world.story == []
        assert world.lines == []


# Errors that nobody expects ----------------------------------------------------------------------------------


def struck(seed: int, at: int, *, account: str | None = None, shard: int | None = None) -> World:
    """Return a world in which nothing fails but one error, where one account or shard waits for the `at`th time."""

    def plant(world: World) -> None:
        bug = Bug(Random(seed), at=at)
        world.events += world.plant(bug, 1.0, FLOW, account=account, shard=shard)

    return lived(seed, calm=True, change=plant)


def unexpected(world: World) -> list[str]:
    return [line["part"] for line in world.lines if line["event"].startswith("unexpected error")]


@pytest.mark.parametrize("first", range(0, 30, 15))
def test_an_error_where_an_account_waits_is_told_once_and_hits_nobody_else(first: int) -> None:
    for at in range(first, first + 15):
        world = struck(5, at, account="account-0")
        assert violations(world) == [], at
        assert unexpected(world) == ["account"], at
        assert len(world.lines) == 1, at


@pytest.mark.parametrize("first", range(0, 30, 15))
def test_an_error_where_a_shard_waits_is_told_once_and_hits_nobody_else(first: int) -> None:
    for at in range(first, first + 15):
        world = struck(5, at, shard=0)
        assert violations(world) == [], at
        assert unexpected(world) == ["shard"], at


# Planted faults ---------------------------------------------------------------------------------------------


def found_in(*seeds: int) -> str:
    """Return what is wrong with these seeds, in one text."""
    return "\n".join(violation for seed in seeds for violation in violations(lived(seed)))


def test_an_account_that_does_not_hear_that_it_is_to_end_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def deaf(coroutine: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever it returns
        return await asyncio.create_task(coroutine)  # its error, though the caller was cancelled

    monkeypatch.setattr("gateway.replica.source.supervisor.run_apart", deaf)
    assert "is live in 0 replicas at rest" in found_in(387)


def test_an_account_that_takes_the_first_history_for_its_own_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PageMerger, "check_without_anchor", lambda *_: None)
    assert "never published" in found_in(68, 398)


def test_a_sound_message_that_is_dead_lettered_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.replica.sink.rejections.Rejections.must_dead_letter", lambda *_: True)
    assert "a dead letter" in found_in(23, 25)


def refused_in(*seeds: int) -> str:
    """Return what is wrong with these seeds where the broker also refuses commits, with codes of real ones."""
    return "\n".join(violation for seed in seeds for violation in violations(lived(seed, certain="refusals")))


def test_no_code_of_a_broker_makes_a_sound_message_a_dead_letter() -> None:
    """In 95 and 367 one became so that was refused for 9 s, and had rested until the broker was well again."""
    for seed in (95, 367, *range(10)):
        assert not refused_in(seed), repeat(seed, "refusals")


def test_a_code_of_jetstream_taken_for_one_about_a_message_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that takes no roll-ups any more."""
    sound = refused_in(72, 294)
    monkeypatch.setattr("gateway.broker.jetstream.error_codes.ONE_MESSAGE", frozenset({10111}))
    assert not sound
    for seed in (72, 294):
        assert "a dead letter" in refused_in(seed)


def test_codes_of_kafka_taken_for_ones_about_a_message_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of topics and brokers."""
    sound, sorted_well = refused_in(47, 51), kafka_codes.problem_of

    def sorted_wrongly(error: BaseException) -> BrokerError:
        problem = sorted_well(error)
        return CommitRejected(str(problem)) if isinstance(problem, ActionRequired) else problem

    monkeypatch.setattr(kafka_codes, "problem_of", sorted_wrongly)
    assert not sound
    for seed in (47, 51):
        assert "a dead letter" in refused_in(seed)


def test_slots_for_commits_that_are_kept_by_shards_that_hang_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def keep(self: CommitSlots, size: int, *, has_failed: bool) -> AsyncIterator[None]:  # noqa: ARG001
        async with self._usual:
            yield

    monkeypatch.setattr("tests.simulation.replica_world._CROWDS", 0.0)
    monkeypatch.setattr("tests.simulation.replica_world._HUNG", 1.0)
    sound = found_in(4)
    monkeypatch.setattr(CommitSlots, "slot", keep)
    assert not sound
    assert "s after it happened" in found_in(4, 5)


def test_pages_that_hold_room_for_ever_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.replica.memory.Reservation.release", lambda _: None)
    found = found_in(1)
    assert "holds bytes at rest" in found


def test_room_that_is_kept_while_nobody_asks_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def keep(_self: HistoryClient, delay: float, _reservation: object) -> None:
        await asyncio.sleep(delay)

    monkeypatch.setattr("tests.simulation.replica_world._CROWDS", 1.0)
    sound = found_in(8)
    monkeypatch.setattr(HistoryClient, "_pause", keep)
    monkeypatch.setattr(AccountPageSize, "halve", lambda *_, **__: False)  # else they soon ask for little
    assert not sound
    assert "s after it happened" in found_in(8, 37)


def test_held_bytes_that_a_dropped_connection_leaves_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No page finds room then, and only pages would make it."""
    sound = found_in(37, 99)

    def drop(_: Supervisor, session: Session) -> None:
        session.on_disconnected()

    monkeypatch.setattr(Supervisor, "_drop", drop)
    assert not sound
    for seed in (37, 99):
        found = found_in(seed)
        assert "never published" in found
        assert "holds bytes at rest" in found


def test_forgetting_that_keeps_its_shard_from_committing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = found_in(52, 140)
    commit = Shard._commit

    async def commit_and_forget(self: Shard, writer: ShardLog, pending: PendingCommit) -> None:
        await commit(self, writer, pending)
        for name in [name for name, checkpoint in pending.resets.items() if checkpoint is None]:
            await self._settings.registry.forget([name])
            self.sessions.on_forgotten([name])

    monkeypatch.setattr(Shard, "_commit", commit_and_forget)
    monkeypatch.setattr(AccountForgetter, "start", lambda *_: None)
    assert not sound
    for seed in (52, 140):
        assert "s after it happened" in found_in(seed)


def test_accounts_that_are_deleted_and_not_forgotten_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AccountForgetter, "start", lambda *_: None)
    assert "is deleted, and not forgotten" in found_in(28)


def test_late_reports_of_a_zombie_that_stand_for_good_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = found_in(88, 94, 177)
    monkeypatch.setattr("gateway.replica.reporter._is_overwritten", lambda *_: False)
    not_reported_again = found_in(94)
    monkeypatch.setattr(View, "_holds", lambda *_: True)
    assert not sound
    assert "and a new listener knows: live at" in not_reported_again
    for seed in (88, 94, 177):
        assert "ended as {<Phase.RUNNING: 'running'>}" in found_in(seed)


def test_a_commit_that_is_not_bounded_by_what_its_messages_take_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = found_in(151, 163)

    def measure(self: PreparedMessages, item: OutgoingItem) -> int:
        self.messages.append(self._make(item))
        return item.content.size

    monkeypatch.setattr(PreparedMessages, "measure", measure)
    assert not sound
    for seed in (151, 163):
        assert "unexpected: ValueError('a commit of" in found_in(seed)
    assert "no dead letter of" in found_in(163)


def test_commits_that_do_not_build_on_what_is_there_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a broker lost its end, and takes the next commit whose checkpoint covers what it lost."""
    sound, store = found_in(2, 12, 13), MemoryBroker.store

    def blind(self: MemoryBroker, shard: int, epoch: int, builds_on: int, commit: Commit) -> bool:  # noqa: ARG001
        return store(self, shard, epoch, self.states.get(shard, 0), commit)

    monkeypatch.setattr(MemoryBroker, "store", blind)
    assert not sound
    for seed in (2, 12, 13):
        assert "never published" in found_in(seed)


def spoil(world: World, how: Callable[[MemoryBroker], None]) -> list[str]:
    how(world.broker)
    return violations(world)


def test_missing_doubled_late_unordered_and_strange_in_the_log_are_noticed() -> None:
    def loses(broker: MemoryBroker) -> None:
        del broker.entries[10]

    def doubles(broker: MemoryBroker) -> None:
        broker.entries.append(broker.entries[10])

    def delays(broker: MemoryBroker) -> None:
        broker.entries[10].at += 60

    def turns(broker: MemoryBroker) -> None:
        broker.entries.reverse()

    for how, message in (
        (loses, "never published"),
        (doubles, "published twice"),
        (delays, "s after it happened"),
        (turns, "not marked late"),
    ):
        assert message in "\n".join(spoil(lived(1, calm=True), how)), how


def test_a_process_that_ends_by_itself_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise ValueError("an unexpected error")

    monkeypatch.setattr("gateway.replica.source.account.Account.on_session_state", breaks)
    monkeypatch.setattr("gateway.replica.containment._wrong_configuration", lambda error: error)
    assert "replica-1 ended: " in found_in(1)


def test_a_replay_incomplete_or_with_an_end_unknown_to_some_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.simulation.replica_world._REPLAYING", 1.0)
    world = lived(11)
    assert violations(world) == []
    (id_,) = world.replays
    entries = [entry for entry in world.broker.entries if entry.stored.message.attributes.get("replayid") == id_]
    assert len(entries) == world.replays[id_].until > 1

    world.broker.entries.remove(entries[-1])
    assert "complete with" in "\n".join(violations(world))
    world.broker.entries += [entries[0], entries[-1]]
    assert "not once" in "\n".join(violations(world))
    world.phases[id_] = {Phase.COMPLETED, Phase.RUNNING}
    assert "ended as" in "\n".join(violations(world))
