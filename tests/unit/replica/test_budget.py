"""The byte budget: never more than there is, first come first served, nobody starves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.broker.memory import Edge
from gateway.errors import Unavailable
from gateway.replica.account import Account, Activity
from gateway.replica.budget import Budget

Build = Callable[..., Awaitable[Any]]


def test_what_is_held_counts_and_what_is_let_go_is_free_again() -> None:
    budget = Budget(100)
    share = budget.share()
    share.hold(60)
    share.hold(40)
    assert budget.used == 40
    share.hold(0)
    assert (budget.used, budget.peak) == (0, 60)


def test_a_push_finds_room_up_to_the_total_and_not_beyond() -> None:
    budget = Budget(100)
    share = budget.share()
    share.hold(60)
    assert share.has_room(40)
    assert not share.has_room(41)


def test_when_room_gets_short_the_one_that_holds_most_is_refused_first() -> None:
    budget = Budget(100)
    greedy, modest = budget.share(), budget.share()
    greedy.hold(65)
    modest.hold(5)
    assert not greedy.has_room(10)
    assert modest.has_room(10)


async def test_pages_wait_in_turn_until_there_is_room() -> None:
    budget = Budget(100)
    first = await budget.share().reserve(80)
    turns: list[str] = []

    async def page(name: str, size: int) -> None:
        reservation = await budget.share().reserve(size)
        turns.append(name)
        reservation.release()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(page("large", 90))
        await asyncio.sleep(0)
        tasks.create_task(page("small", 10))  # would fit now, but came later
        await asyncio.sleep(0)
        assert turns == []
        first.release()
    assert turns == ["large", "small"]
    assert budget.used == 0


async def test_a_page_above_the_whole_budget_goes_alone() -> None:
    budget = Budget(100)
    reservation = await budget.share().reserve(500)
    assert not budget.share().has_room(1)
    reservation.release()
    assert budget.used == 0


@pytest.mark.parametrize("admitted", [False, True])
async def test_a_cancelled_wait_leaves_nothing_reserved_and_nobody_behind_it_stuck(admitted: bool) -> None:
    budget = Budget(100)
    first = await budget.share().reserve(80)
    waiting = asyncio.create_task(budget.share().reserve(90))
    behind = asyncio.create_task(budget.share().reserve(20))
    await asyncio.sleep(0)
    if admitted:
        first.release()  # the turn is given, and the task is cancelled before it runs
    waiting.cancel()
    await asyncio.wait({waiting})
    if not admitted:
        first.release()
    (await behind).release()
    assert budget.used == 0


async def test_pushes_that_hold_everything_do_not_keep_a_page_from_being_asked_for() -> None:
    """It is the page that lets them go on."""
    budget = Budget(100)
    budget.share().hold(100, stuck=100)
    async with asyncio.timeout(1):
        first = await budget.share().reserve(50)
    second = asyncio.create_task(budget.share().reserve(50))
    await asyncio.sleep(0)
    assert not second.done()
    first.release()
    (await second).release()
    assert (budget.held, budget.reserved) == (100, 0)


async def test_pages_wait_for_what_the_broker_is_about_to_take() -> None:
    budget = Budget(100)
    share = budget.share()
    share.hold(100, stuck=60)
    page = asyncio.create_task(budget.share().reserve(50))
    await asyncio.sleep(0)
    assert not page.done()
    share.hold(60, stuck=60)
    (await page).release()


async def test_an_account_without_a_log_holds_nothing(build: Build) -> None:
    world = await build("alpha", prefill=3)
    replica = await world.replica()
    await world.becomes("alpha", Activity.LIVE)
    account: Account = replica._accounts["alpha"]
    budget = account.access.budget
    refuse, admit = asyncio.Event(), asyncio.Event()

    async def faults(edge: Edge) -> None:
        if edge.call == "commit" and not admit.is_set():
            await refuse.wait()
            raise Unavailable("away")
        if edge.call == "open":
            await admit.wait()

    world.broker.faults = faults
    world.hub.user("alpha").emit(50)
    await world.until(lambda: budget.held > 0, "events wait for the broker")
    refuse.set()
    await world.until(lambda: account.session is None, "the log is lost")

    assert (budget.held, budget.stuck) == (0, 0)

    admit.set()
    await world.published("alpha", range(1, 54))
    assert world.keys_of("alpha") == list(range(1, 54))
