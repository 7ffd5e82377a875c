"""Which of two reports holds: by their epochs, by whether something has ended, and by their ages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from gateway.broker.control_view import STALE_AFTER_S, View
from gateway.broker.memory.control import MemoryControl
from gateway.broker.ports import Record
from gateway.state import Observed, Phase, ReplayState, ShardState, encode_record

NONE = msgspec.UNSET


class Scripted(MemoryControl):
    """A control store that gives these records, each of another age, and nothing more."""

    def __init__(self, *records: tuple[str, msgspec.Struct | bytes | None, float]) -> None:
        super().__init__()
        self._records = records

    async def watch(self) -> AsyncIterator[Record | None]:
        for revision, (key, content, age) in enumerate(self._records, 1):
            value = content if isinstance(content, bytes) else b"" if content is None else encode_record(content)
            yield Record(key, value, 0 if content is None else revision, is_observed=True, age=age)
        yield None
        await asyncio.Event().wait()


async def followed(*records: tuple[str, msgspec.Struct | bytes | None, float]) -> View:
    view = View(lambda _: None)
    following = asyncio.create_task(view.follow(Scripted(*records)))
    await view.has_synced.wait()
    following.cancel()
    return view


def account(owner: str, epoch: int | msgspec.UnsetType) -> Observed:
    return Observed(owner=owner, state="live", since="", epoch=epoch)


def replay(phase: Phase, epoch: int | msgspec.UnsetType) -> ReplayState:
    return ReplayState(owner="gateway-0/1", phase=phase, epoch=epoch)


@pytest.mark.parametrize(
    ("before", "now", "holds"),
    [(NONE, NONE, "new"), (NONE, 1, "new"), (7, 7, "new"), (7, 8, "new"), (7, 6, "old"), (7, NONE, "old")],
)
async def test_a_report_of_an_older_epoch_is_passed_over(
    before: int | msgspec.UnsetType, now: int | msgspec.UnsetType, holds: str
) -> None:
    view = await followed(("account.main", account("old", before), 9), ("account.main", account("new", now), 1))
    assert view.observed["main"].value == account(holds, before if holds == "old" else now)
    assert view.last_writer("account.main").revision == 2
    shards = [("shard.3", ShardState("old", 1, epoch=before), 9), ("shard.3", ShardState("new", 1, epoch=now), 1)]
    view = await followed(*shards)
    assert view.shards["3"].value == shards[holds == "new"][1]


async def test_who_asked_hears_of_a_report_that_is_passed_over_and_of_no_other() -> None:
    keys: list[str] = []
    view = View(lambda _: None, passed_over=keys.append)
    records = [("account.main", account("new", 7), 9), ("account.main", account("old", 6), 2)]
    more = [("account.other", account("new", 7), 2), ("account.other", account("new", 7), 1)]
    following = asyncio.create_task(view.follow(Scripted(*records, *more)))
    await view.has_synced.wait()
    following.cancel()
    assert keys == ["account.main"]


@pytest.mark.parametrize("end", [Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED])
@pytest.mark.parametrize("late", [Phase.PENDING, Phase.RUNNING])
@pytest.mark.parametrize("epoch", [NONE, 3, 7, 9])
async def test_a_replay_that_ended_does_not_run_again(end: Phase, late: Phase, epoch: int | msgspec.UnsetType) -> None:
    view = await followed(("replay.r", replay(end, 7), 2 * STALE_AFTER_S), ("replay.r", replay(late, epoch), 1))
    assert view.phase("r") is end


async def test_a_replay_that_is_forgotten_may_be_asked_for_again() -> None:
    records = [
        ("replay.r", replay(Phase.COMPLETED, 7), 3),
        ("replay.r", None, 2),
        ("replay.r", replay(Phase.RUNNING, 7), 1),
    ]
    assert (await followed(*records)).phase("r") is Phase.RUNNING


async def test_what_nobody_repeated_for_long_holds_nothing_off() -> None:
    """As where an older release goes on, which names no epoch."""
    view = await followed(
        ("account.main", account("old", 7), STALE_AFTER_S + 2), ("account.main", account("new", NONE), 1)
    )
    assert view.observed["main"].value == account("new", NONE)


async def test_what_a_later_release_says_holds_and_what_this_one_says_follows_it() -> None:
    later = b'{"version":2}'
    view = await followed(("account.main", account("old", 7), 3), ("account.main", later, 2))
    assert view.observed["main"].value is None
    view = await followed(("account.main", later, 3), ("account.main", account("new", 2), 1))
    assert view.observed["main"].value == account("new", 2)


async def test_nothing_is_left_of_what_was_passed_over_and_then_forgotten() -> None:
    records = [
        ("account.main", account("old", 7), 3),
        ("account.main", account("new", 2), 2),
        ("account.main", None, 1),
    ]
    view = await followed(*records)
    assert (view.observed, view.last_writer("account.main").revision) == ({}, 0)
