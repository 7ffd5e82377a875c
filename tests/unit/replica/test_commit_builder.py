"""How a shard fills a commit: fairly, and never above what the broker takes."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from gateway.broker.memory.faults import Edge
from gateway.broker.ports import Limits
from gateway.events.event import DeadLetter, Event, Notification
from gateway.events.times import TICKS_PER_SECOND, ticks
from gateway.publication import dead_letter_message
from gateway.replica.sink.commit_slots import CommitSlots
from gateway.replica.sink.message_maker import to_message
from gateway.replica.sink.pending_commit import PendingCommit
from gateway.replica.source.account import AccountState
from gateway.session.session import Session
from gateway.session.types import Batch, OutgoingItem, ReplayMark
from tests.support.in_process import Build


async def test_many_accounts_share_commits_that_stay_within_their_limits(build: Build) -> None:
    names = [f"account-{number}" for number in range(12)]
    world = await build(*names, prefill=200)
    world.broker.limits = Limits(messages=50, bytes=1024 * 1024)
    await world.replica()
    for name in names:
        await world.published(name, range(1, 201))
        assert world.keys_of(name) == list(range(1, 201))


async def test_a_message_larger_than_a_commit_is_a_dead_letter_and_all_go_on(build: Build) -> None:
    world = await build("main", prefill=10)
    payloads = world.hub.user("main").history.payloads
    payloads[4] = payloads[4].replace(b'ame":"', b'ame":"' + b"x" * 600_000, 1)
    world.broker.limits = Limits(messages=50, bytes=1024 * 1024)
    await world.replica()
    await world.published("main", range(1, 11))
    topics = {int(message.key): message.topic for message in world.messages("main")}
    assert [key for key, topic in topics.items() if topic == "dead-letter"] == [5]
    numbers = await world.replicas[-1].metrics()
    (main,) = numbers.accounts
    assert main.outcomes == {"published": 9, "dead_letter": 1}  # by what is in the log, not by what the hub sent
    assert sum(count for (_, outcome), count in numbers.counters.events.items() if outcome == "dead_letter") == 1
    assert numbers.counters.events["position-update", "dead_letter"] == 1


async def test_an_account_is_taken_from_again_only_while_it_has_a_batch(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one event is pushed at a time, each commit was followed by a look that found nothing."""
    taken: list[Batch | None] = []
    take = Session.take

    def noted(self: Session, *arguments: Any) -> Batch | None:  # noqa: ANN401 - as it is called
        batch = take(self, *arguments)
        taken.append(batch)
        return batch

    monkeypatch.setattr(Session, "take", noted)
    world = await build("main", prefill=10)
    await world.replica()
    await world.becomes("main", AccountState.LIVE)
    for sequence in range(11, 16):
        world.hub.user("main").emit(1)
        await world.published("main", [sequence])
    assert len(taken) >= 6
    assert None not in taken


async def test_who_catches_up_leaves_room_in_the_next_commit_for_who_is_live(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It filled one more commit of its own first, which takes seconds over a slow line."""
    monkeypatch.setattr(CommitSlots, "aim", 64 * 1024)
    world = await build("alpha", "beta", prefill=400)
    commits: list[Counter[str]] = []

    async def look(edge: Edge) -> None:
        await asyncio.sleep(0)
        if edge.call == "commit" and edge.when == "after":
            new = world.broker.entries[sum(one.total() for one in commits) :]
            commits.append(Counter(entry.stored.message.account for entry in new))
        if edge.call == "commit" and edge.when == "before" and len(commits) in came:
            world.hub.user("beta").emit(1)
            shard = world.replicas[-1]._shards.known[0]
            await world.until(lambda: shard.accounts["beta"].session.queued_bytes, "the event waits")

    came: list[int] = []
    await world.replica()
    await world.published("alpha", range(1, 401))
    await world.published("beta", range(1, 401))
    commits.clear()
    world.broker.entries.clear()
    world.broker.faults = look
    came += [3, 6]
    world.hub.user("alpha").emit(1200)
    await world.published("alpha", range(401, 1601))
    assert [number for number, one in enumerate(commits) if one["beta"]] == [4, 7]
    assert min(commits[4]["alpha"], commits[7]["alpha"]) > 0.6 * max(one["alpha"] for one in commits), "and no more"


def an_event(sequence: int, kind: str = "order-update", seconds: int = 0) -> Event:
    """Make an event of a minute."""
    time = f"2026-11-22T13:32:{seconds:02d}.5Z"
    return Event("main", kind, sequence, None, time, None, b"{}")


def test_what_became_of_a_commit_is_counted_by_what_is_in_it() -> None:
    undecodable = DeadLetter("main", "invalid-payload", "", "OnOrderUpdate", b"{", 4)
    unknown = DeadLetter("main", "malformed-json", "", "GetEventsSince", b"{", 5)
    items = [
        OutgoingItem(an_event(1)),
        OutgoingItem(an_event(2, seconds=1), late=True),
        OutgoingItem(an_event(3)),
        OutgoingItem(undecodable),
        OutgoingItem(unknown),
        OutgoingItem(Notification("main", "gap", {})),
        OutgoingItem(an_event(6), replay=ReplayMark("id")),
    ]
    pending = PendingCommit(0, items, [to_message(item) for item in items])
    pending.messages[2] = dead_letter_message(undecodable)  # the broker did not take it as it was
    pending.filtered["main", "error"] += 2
    counts, delays = pending.outcomes(ticks("2026-11-22T13:32:02Z") / TICKS_PER_SECOND)
    assert counts == {
        ("main", "order-update", "published"): 1,
        ("main", "order-update", "late"): 1,
        ("main", "order-update", "dead_letter"): 2,
        ("main", "unknown", "dead_letter"): 1,
        ("main", "notifications", "gap"): 1,
        ("main", "error", "filtered"): 2,
    }
    assert delays == [1.5, 0.5]


async def test_a_commit_has_room_by_its_own_aim_while_that_of_the_line_moves(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await build("alpha")
    replica = await world.replica()
    builder, limits = replica._shards.known[0]._builder, Limits(messages=10, bytes=1024 * 1024)
    monkeypatch.setattr(CommitSlots, "aim", 1000)
    pending = builder.begin()
    monkeypatch.setattr(CommitSlots, "aim", 100)
    pending.size = 999
    assert builder.has_room(pending, limits, 1)
    monkeypatch.setattr(CommitSlots, "aim", 10_000)
    pending.size = 1000
    assert not builder.has_room(pending, limits, 1)
