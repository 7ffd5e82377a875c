"""The next page is asked for while the last is decoded, where that is safe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.errors import CallFailed
from gateway.events.decode import Decoder
from gateway.hub.methods import EventsPage
from gateway.replica.memory import MemoryBudget
from gateway.replica.source.context import AdaptivePageSize
from gateway.replica.source.history_client import HistoryClient
from gateway.replica.source.prefetch import PagePrefetcher, decode
from gateway.session.types import PageRequest

FIRST, SECOND, OTHER = PageRequest(0), PageRequest(0, "2"), PageRequest(7)


@dataclass
class Hub:
    """Notes what it is asked, and answers with the token of it when told to."""

    asked: list[PageRequest] = field(default_factory=list)
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    async def events_since(self, since: int, _limit: int, token: str | None) -> EventsPage:
        self.asked.append(PageRequest(since, token))
        await self.answers.wait()
        return EventsPage([b"{}"], token)


@dataclass
class Scene:
    hub: Hub
    budget: MemoryBudget
    pages: PagePrefetcher
    page_bytes: int


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    hub, limit = Hub(), AdaptivePageSize(10, room=2**20)
    budget = MemoryBudget(3 * limit.expected_bytes)
    async with asyncio.TaskGroup() as tasks:
        given: Any = hub
        pages = PagePrefetcher(HistoryClient("acme", limit, lambda _: None), given, budget.share(), tasks)
        yield Scene(hub, budget, pages, limit.expected_bytes)
        pages.discard()
    assert budget.reserved == 0


async def test_the_next_page_is_asked_for_before_the_last_is_decoded(scene: Scene) -> None:
    scene.pages.prefetch(SECOND)
    await decode(Decoder(), "acme", [b"{}"])
    assert scene.hub.asked == [SECOND]

    asked = await scene.pages.get(lambda: SECOND)
    scene.hub.answers.set()

    assert asked is not None
    with asked.reservation.until_done():
        assert await asked.answer == EventsPage([b"{}"], "2")
    assert scene.hub.asked == [SECOND]


async def test_what_is_wanted_after_all_is_asked_for_when_it_is_something_else(scene: Scene) -> None:
    scene.pages.prefetch(SECOND)
    await asyncio.sleep(0)
    scene.hub.answers.set()

    asked = await scene.pages.get(lambda: OTHER)

    assert asked is not None
    assert scene.budget.reserved == scene.page_bytes
    with asked.reservation.until_done():
        await asked.answer
    assert scene.hub.asked == [SECOND, OTHER]


async def test_what_was_let_go_is_asked_for_again(scene: Scene) -> None:
    """It may have been read before the hub told its latest."""
    scene.hub.answers.set()
    scene.pages.prefetch(FIRST)
    await asyncio.sleep(0.01)

    scene.pages.discard()
    asked = await scene.pages.get(lambda: FIRST)

    assert asked is not None
    with asked.reservation.until_done():
        await asked.answer
    assert scene.hub.asked == [FIRST, FIRST]


async def test_nothing_is_asked_for_ahead_where_there_is_no_room_at_once(scene: Scene) -> None:
    scene.budget.share().hold(2 * scene.page_bytes + 1)

    scene.pages.prefetch(SECOND)
    await asyncio.sleep(0)

    assert scene.hub.asked == []
    assert scene.budget.reserved == 0


async def test_nothing_is_asked_where_nothing_is_wanted_any_more(scene: Scene) -> None:
    assert await scene.pages.get(lambda: None) is None
    assert scene.budget.reserved == 0


async def test_no_room_is_kept_between_two_tries_of_a_page() -> None:
    limit = AdaptivePageSize(10, room=2**20)
    budget = MemoryBudget(2 * limit.expected_bytes)
    tries: list[int] = []

    class Failing:
        async def events_since(self, *_: object) -> EventsPage:
            tries.append(budget.reserved)
            raise CallFailed("GetEventsSince", "no")

    history, given = HistoryClient("acme", limit, lambda _: None), Failing()
    async with asyncio.TaskGroup() as tasks:
        pages = PagePrefetcher(history, given, budget.share(), tasks)  # type: ignore[arg-type]
        asked = await pages.get(lambda: FIRST)
        assert asked is not None
        with asked.reservation.until_done():
            asking = tasks.create_task(asked.answer)  # type: ignore[arg-type]
            async with asyncio.timeout(10):
                while len(tries) < 3:
                    await asyncio.sleep(0.001)
            assert budget.reserved == 0
            asking.cancel()
            await asyncio.wait({asking})
    assert tries[:3] == [limit.expected_bytes, limit.expected_bytes, limit.expected_bytes // 2]
    assert budget.reserved == 0
