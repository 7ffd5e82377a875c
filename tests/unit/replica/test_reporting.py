"""What a replica reports, while events are carried and accounts go."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from gateway.broker.memory import MemoryControl, MemoryOwnership
from gateway.broker.view import View
from gateway.replica import replica
from gateway.replica.reporting import Reporter, Subject
from gateway.replica.unserved import KEYLESS
from gateway.state import Observed

Build = Callable[..., Awaitable[Any]]


async def test_a_look_at_thousands_of_accounts_lets_events_go_first() -> None:
    turn, looks = 0, Counter[int]()

    def accounts() -> Iterator[Subject]:
        for number in range(2000):
            looks[turn] += 1
            yield Subject(f"account-{number}", "", partial(Observed, "replica", "live", ""))

    async def events() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    store = MemoryControl()
    working = [
        asyncio.create_task(work)
        for work in (events(), Reporter(store, accounts, list, View(lambda _: None).last_word).run(asyncio.Event()))
    ]
    async with asyncio.timeout(10):
        while not store.records:
            await asyncio.sleep(0.01)
    for task in working:
        task.cancel()
    assert max(looks.values()) <= 250
    assert looks.total() == 2000


async def test_an_account_that_goes_during_a_look_is_not_told_of(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "LOOK", 0.05)
    world = await build("alpha", "beta", "gamma", prefill=1)
    world.ownership, world.control = MemoryOwnership(), MemoryControl()
    running = await world.replica()
    for name in ("alpha", "beta", "gamma"):
        await world.published(name, [1])
    look = running._subjects()
    first = next(look).account
    (gone, stays) = sorted({"alpha", "beta", "gamma"} - {first})
    (world.keys / gone).unlink()
    await world.until(lambda: gone not in {status.account for status in running.statuses()}, "it goes")
    told = [(subject.account, subject.tell().state) for subject in look]
    assert stays in dict(told)
    assert [state for account, state in told if account == gone] == [KEYLESS]
