"""Replays of a shard: forgotten, asked for again, cancelled and opened anew, with commits in flight meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.events.event import Event
from gateway.replica.replay.job import ReplaySettings
from gateway.replica.replay.scheduler import ReplayScheduler
from gateway.replica.source.context import AdaptivePageSize, RateLimiter
from gateway.session.replay_queue import Progress
from gateway.state import Phase, Replay, decode_record, encode_record
from gateway.telemetry.counters import Counters
from gateway.telemetry.tracer import NOOP_TRACER

WANTED = Replay(account="main", until=9, requested_at="", requested_by="")


class Shard:
    """What a shard does with its replays, and a broker that keeps their progress."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        source = SimpleNamespace(page_size=AdaptivePageSize(100, room=10**6), tracer=NOOP_TRACER)
        account = SimpleNamespace(
            name="main", source=source, on_call_failed=None, hub=None, state=SimpleNamespace(value="offline")
        )
        self.accounts: dict[str, Any] = {"main": account}
        settings = ReplaySettings("gateway-0", asyncio.Semaphore(1), RateLimiter(1000), grace=1)
        self.replays = ReplayScheduler(settings, self.accounts, lambda: None, Counters())
        self.stored: dict[str, bytes] = {}
        self.tasks = tasks
        self.commits: Counter[str] = Counter()

    def open(self) -> None:
        self.replays.on_opened(dict(self.stored), self.tasks)

    def take(self) -> dict[str, bytes | None]:
        found = {id_: self.replays.take(id_, 100, 10**6) for id_ in self.replays.ids()}
        return {f"~{id_}": one[1] for id_, one in found.items() if one is not None}

    def store(self, taken: dict[str, bytes | None]) -> None:
        for key, value in taken.items():
            self.commits[key] += 1
            if value is None:
                self.stored.pop(key, None)
            else:
                self.stored[key] = value
        self.replays.on_committed([key.removeprefix("~") for key in taken])

    async def commit(self) -> dict[str, bytes | None]:
        await asyncio.sleep(0.01)
        taken = self.take()
        self.store(taken)
        await asyncio.sleep(0.01)
        return taken

    def phases(self) -> dict[str, Phase]:
        return {id_: state().phase for id_, state in self.replays.states()}


@pytest.fixture
async def shard() -> Any:  # noqa: ANN401 - a generator
    async with asyncio.TaskGroup() as tasks:
        made = Shard(tasks)
        made.open()
        yield made
        made.replays.on_closed()


def done(phase: Phase = Phase.COMPLETED) -> bytes:
    return encode_record(Progress(phase=phase, origin=0, position=9, read=9, published=9))


async def test_one_that_ended_is_forgotten_and_if_asked_for_again_runs_once(shard: Shard) -> None:
    shard.stored = {"~x": done()}
    shard.replays.set_desired("x", WANTED)
    shard.open()
    assert await shard.commit() == {}
    assert shard.phases() == {"x": Phase.COMPLETED}
    shard.replays.set_desired("x", None)
    assert await shard.commit() == {"~x": None}
    shard.replays.set_desired("x", WANTED)  # the same key
    assert shard.phases() == {"x": Phase.PENDING}
    shard.stored["~x"] = done()  # as it ends
    shard.open()
    assert await shard.commit() == {}
    assert shard.phases() == {"x": Phase.COMPLETED}


async def test_one_that_is_asked_for_before_it_is_forgotten_begins_behind_that(shard: Shard) -> None:
    shard.stored = {"~x": done()}
    shard.replays.set_desired("x", WANTED)
    shard.open()
    shard.replays.set_desired("x", None)
    shard.replays.set_desired("x", WANTED)
    assert shard.phases() == {}
    assert await shard.commit() == {"~x": None}
    assert shard.phases() == {"x": Phase.PENDING}


async def test_a_cancel_is_committed_once_and_shown_only_then(shard: Shard) -> None:
    shard.replays.set_desired("x", WANTED)
    await asyncio.sleep(0.01)
    shard.replays.set_desired(
        "x", Replay(account="main", until=9, requested_at="", requested_by="", cancel_requested=True)
    )
    await asyncio.sleep(0.01)
    assert shard.phases() == {"x": Phase.RUNNING}
    await shard.commit()
    assert shard.phases() == {"x": Phase.CANCELLED}
    assert decode_record(Progress, shard.stored["~x"]).phase is Phase.CANCELLED
    assert await shard.commit() == {}


async def test_an_account_that_returns_with_a_commit_in_flight_goes_on_behind_it(shard: Shard) -> None:
    shard.replays.set_desired(
        "x", Replay(account="main", until=9, requested_at="", requested_by="", cancel_requested=True)
    )
    await asyncio.sleep(0.01)
    taken = shard.take()
    assert taken
    shard.replays.on_account_removed("main")
    shard.replays.on_account_added("main")
    assert shard.phases() == {}
    shard.store(taken)
    await asyncio.sleep(0.01)
    assert shard.phases() == {"x": Phase.CANCELLED}
    assert shard.commits == {"~x": 1}


async def test_nothing_of_before_goes_on_in_a_log_that_is_opened_anew(shard: Shard) -> None:
    shard.replays.set_desired("x", WANTED)
    before = shard.replays._jobs["x"]
    shard.stored["~x"] = done(Phase.RUNNING)
    shard.open()
    assert shard.replays._jobs["x"] is not before
    ((_, state_of),) = shard.replays.states()
    state = state_of()
    assert state.position == 9


def test_events_bear_the_id() -> None:
    event = Event("main", "error", 1, "id", "2026-11-22T13:00:00Z", None, b"{}")
    from gateway.publication import event_message  # noqa: PLC0415

    assert event_message(event, replay="x").attributes["replayid"] == "x"
    assert "replayid" not in event_message(event).attributes
