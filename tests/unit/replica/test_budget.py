"""The byte budget: never more than there is, first come first served, nobody starves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.broker.memory.faults import Edge
from gateway.errors import Unavailable
from gateway.hub.client import hub_http, transport_of
from gateway.replica.memory import MemoryBudget
from gateway.replica.source.account import Account, AccountState
from gateway.settings.sections import HubSettings
from gateway.signalr.connect import connect as connect_to_hub
from tests.support.in_process import Build


def test_what_is_held_counts_and_what_is_let_go_is_free_again() -> None:
    budget = MemoryBudget(100)
    share = budget.share()
    share.hold(60)
    share.hold(40)
    assert budget.used == 40
    share.hold(0)
    assert (budget.used, budget.peak) == (0, 60)


def test_a_push_finds_room_up_to_the_total_and_not_beyond() -> None:
    budget = MemoryBudget(100)
    share = budget.share()
    share.hold(60)
    assert share.has_room(40)
    assert not share.has_room(41)


def test_when_room_gets_short_the_one_that_holds_most_is_refused_first() -> None:
    budget = MemoryBudget(100)
    greedy, modest = budget.share(), budget.share()
    greedy.hold(65)
    modest.hold(5)
    assert not greedy.has_room(10)
    assert modest.has_room(10)


async def test_pages_wait_in_turn_until_there_is_room() -> None:
    budget = MemoryBudget(100)
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
    budget = MemoryBudget(100)
    reservation = await budget.share().reserve(500)
    assert not budget.share().has_room(1)
    reservation.release()
    assert budget.used == 0


@pytest.mark.parametrize("admitted", [False, True])
async def test_a_cancelled_wait_leaves_nothing_reserved_and_nobody_stuck(admitted: bool) -> None:
    budget = MemoryBudget(100)
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


async def test_pushes_that_hold_everything_do_not_keep_a_page_from_being_asked() -> None:
    """It is the page that lets them go on."""
    budget = MemoryBudget(100)
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
    budget = MemoryBudget(100)
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
    await world.becomes("alpha", AccountState.LIVE)
    account: Account = replica._shards.accounts["alpha"]
    budget = account.source.budget
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

    assert (budget.held, budget.blocked_on_history) == (0, 0)

    admit.set()
    await world.published("alpha", range(1, 54))
    assert world.keys_of("alpha") == list(range(1, 54))


# Records that are not complete ---------------------------------------------------------------------------------


async def test_what_came_of_a_record_counts_beyond_the_page_that_is_expected() -> None:
    budget = MemoryBudget(1_000)
    share = budget.share()
    page = await share.reserve(300)
    assert share.hold_unfinished(200)
    assert (budget.used, budget.blocked_on_history) == (300, 0)
    assert share.hold_unfinished(450)
    assert (budget.used, budget.blocked_on_history) == (450, 150)
    share.hold(100, stuck=20)
    assert (budget.used, budget.blocked_on_history) == (550, 170)
    page.release()
    assert share.hold_unfinished(0)
    assert (budget.used, budget.blocked_on_history) == (100, 20)


async def test_one_that_is_incomplete_finds_no_room_past_its_part_of_full_memory() -> None:
    budget = MemoryBudget(1_000)
    one, other = budget.share(), budget.share()
    assert one.hold_unfinished(900)
    other.hold(200)
    assert one.hold_unfinished(400)
    assert not one.hold_unfinished(900)
    assert one.hold_unfinished(0)
    assert budget.held == 200


async def test_the_one_that_holds_most_of_what_is_not_complete_gives_way() -> None:
    budget = MemoryBudget(1_000)
    large, small, third = budget.share(), budget.share(), budget.share()
    gone: list[int] = []
    large.on_give_way = gone.append
    assert large.hold_unfinished(600)
    assert third.hold_unfinished(300)
    assert small.hold_unfinished(100)
    assert gone == []
    assert small.hold_unfinished(101)
    assert gone == [600]
    assert (budget.held, budget.blocked_on_history) == (401, 401)
    assert large.hold_unfinished(700)  # bytes that were on their way; the connection is about to end
    assert budget.held == 401
    assert large.hold_unfinished(0)
    assert large.hold_unfinished(50)  # the next connection
    assert budget.held == 451


class Endless:
    """A connection of which a record never ends: it grows with each message that comes."""

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - a Connection
        self._connection = connection
        self.unfinished = 0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever it has
        return getattr(self._connection, name)


async def test_a_connection_whose_record_never_ends_is_given_up_in_time(build: Build) -> None:
    world = await build("alpha", "beta", prefill=5)
    made: list[Endless] = []

    async def connect(url: str, key: str, passed: Any) -> Any:  # noqa: ANN401 - as `access.connect` has it
        connection = await connect_to_hub(transport_of(HubSettings(url=world.hub.url), http), url, key, passed)
        if key != "key-of-alpha":
            return connection
        made.append(Endless(connection))
        return made[-1]

    async with hub_http(HubSettings(url=world.hub.url)) as http:
        replica = await world.replica(connect=connect)
        for account in ("alpha", "beta"):
            await world.becomes(account, AccountState.LIVE)
        budget = replica._source.budget
        made[-1].unfinished = budget.total + 1
        world.hub.user("alpha").emit(1)
        await world.until(lambda: len(made) > 1, "another connection is made")
        for account in ("alpha", "beta"):
            world.hub.user(account).emit(5)

        await world.published("alpha", range(1, 12))
        await world.published("beta", range(1, 11))
        assert replica._shards.accounts["alpha"].counters.disconnects["too-large"] == 1
        await world.until(lambda: budget.held == 0, "nothing is held")
        await world.stack.aclose()
