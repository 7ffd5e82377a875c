"""Events that the hub has and cannot give: passed with the operator's consent, announced, and nothing else lost."""

from __future__ import annotations

import json
from random import Random

import pytest
import structlog

from gateway.errors import CallFailed, ConnectionLost
from gateway.hub.methods import EventsPage
from gateway.publication import NOTIFICATIONS
from gateway.replica.source.context import AdaptivePageSize
from gateway.replica.source.history_client import HistoryClient
from gateway.replica.source.unservable import UnservableEvents, UnservableSearch
from gateway.session.types import PageRequest
from gateway.simulator import Failure
from tests.support.in_process import Build, World

ROOM = 2**30


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow one another at once."""
    monkeypatch.setattr("gateway.replica.source.history_client.MAX_CALL_DELAY_S", 0.0)
    monkeypatch.setattr("gateway.replica.source.history_client._PAUSE", 0.0)


class Poisoned:
    """A hub whose events have these numbers, and that cannot give some of them."""

    def __init__(self, numbers: list[int], unservable: set[int], *, drops: bool = False) -> None:
        self.numbers = numbers
        self.unservable = unservable
        self.drops = drops
        self.is_down = False
        self.asked: list[tuple[int, int]] = []

    async def events_since(self, since: int, limit: int, _token: str | None) -> EventsPage:
        self.asked.append((since, limit))
        found = [number for number in self.numbers if number > since][:limit]
        if self.is_down or self.unservable.intersection(found):
            if self.drops:
                raise ConnectionLost("dropped", reason="dropped")
            raise CallFailed("GetEventsSince", "An unexpected error occurred invoking 'GetEventsSince' on the server.")
        return EventsPage([str(number).encode() for number in found], None)


def history(skip_after: int | None = 3) -> HistoryClient:
    return HistoryClient("acme", AdaptivePageSize(8, ROOM), lambda _: None, skip_after=skip_after)


async def passed(history: HistoryClient, hub: Poisoned, since: int) -> UnservableEvents:
    """Ask, over one connection after the other, until the events that cannot be given are found."""
    while True:
        try:
            await history.page(hub, PageRequest(since), may_pass=hub.numbers[-1])  # type: ignore[arg-type]
        except ConnectionLost:
            continue
        except UnservableEvents as error:
            return error
        raise AssertionError("the hub gave a page")


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize(
    ("numbers", "unservable", "through"),
    [
        (list(range(1, 21)), {5}, 5),
        (list(range(1, 21)), {5, 6}, 6),
        (list(range(1, 21)), {5, 6, 7, 8, 9, 10, 11}, 11),
        ([1, 2, 3, 4, 977, 980, 1000, 1001], {977}, 977),
        ([4, 2**40, 2**50, 2**62], {2**50, 2**40}, 2**50),
        (list(range(1, 6)), {5}, 5),
    ],
)
async def test_the_first_place_behind_them_is_found(
    numbers: list[int], unservable: set[int], through: int, drops: bool
) -> None:
    hub = Poisoned(numbers, unservable, drops=drops)
    error = await passed(history(), hub, 4)
    assert (error.since, error.through) == (4, through)
    assert len(hub.asked) < 450


@pytest.mark.usefixtures("at_once")
async def test_each_place_is_tried_as_often_as_the_operator_said() -> None:
    hub = Poisoned(list(range(1, 21)), {5, 6})
    await passed(history(7), hub, 4)
    assert [hub.asked.count((since, 1)) for since in (4, 5, 6)] == [7, 14, 1]


@pytest.mark.usefixtures("at_once")
async def test_without_the_operators_consent_it_is_waited_for() -> None:
    hub = Poisoned(list(range(1, 21)), {5})
    asking, proven = HistoryClient("acme", AdaptivePageSize(1, ROOM), lambda _: None), PageRequest(4)
    with structlog.testing.capture_logs() as logs:
        for way, may_pass in ((asking, 20), (history(1), None), (history(1), 4)):
            hub.asked.clear()

            async def mended(since: int, limit: int, token: str | None) -> EventsPage:
                if len(hub.asked) > 50:
                    hub.unservable = set()
                return await Poisoned.events_since(hub, since, limit, token)

            hub.unservable = {5}
            hub.events_since = mended  # type: ignore[method-assign]
            page = await way.page(hub, proven, may_pass=may_pass)  # type: ignore[arg-type]
            assert page is not None
            assert page.envelopes[0] == b"5"
            assert {since for since, _ in hub.asked} == {4}
    assert all("cannot return the next event" in entry["event"] for entry in logs)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("unservable", [set(), {5}])
@pytest.mark.parametrize("calls", [5, 20, 40, 60, 80, 100, 120])
async def test_what_failed_while_the_hub_was_away_is_not_passed(unservable: set[int], calls: int) -> None:
    hub = Poisoned(list(range(1, 21)), unservable)
    answer = hub.events_since

    async def comes_back(since: int, limit: int, token: str | None) -> EventsPage:
        hub.is_down = len(hub.asked) < calls
        return await answer(since, limit, token)

    hub.events_since = comes_back  # type: ignore[method-assign]
    asking = history(2)
    if unservable:
        assert (await passed(asking, hub, 4)).through == 5
    else:
        page = await asking.page(hub, PageRequest(4), may_pass=20)  # type: ignore[arg-type]
        assert page is not None
        assert page.envelopes[0] == b"5"


def test_the_search_finds_a_working_place_behind_a_failing_one() -> None:
    for seed in range(500):
        dice = Random(seed)
        last = dice.randrange(2, 200)
        fails = {0, *(number for number in range(1, last) if dice.random() < dice.random())}
        search = UnservableSearch(0, last, dice.randrange(1, 4))
        while search.through is None:
            assert 0 <= search.at <= last
            if search.at in fails:
                search.on_failure()
            else:
                search.on_page()
        assert search.through not in fails
        assert search.through - 1 in fails


@pytest.mark.usefixtures("at_once")
async def test_an_event_not_given_is_passed_and_announced_and_others_published(
    build: Build,
) -> None:
    world = await build("alpha", prefill=10)
    world.hub.patch_faults("alpha", unservable=[5, 8])
    with structlog.testing.capture_logs() as logs:
        await world.replica(skip_poison_after=3)
        world.hub.user("alpha").emit(3)
        await world.published("alpha", [1, 2, 3, 4, 6, 7, 9, 10, 11, 12, 13])
        user = world.hub.user("alpha")
        await world.until(lambda: len(gaps(world)) == 2, "both are announced")
    assert gaps(world) == [(5, 5), (8, 8)]
    assert [entry["since"] for entry in logs if "cannot return these events" in entry["event"]][:2] == [4, 7]
    user.emit(5)
    await world.published("alpha", range(14, 19))
    assert sorted(world.keys_of("alpha")) == [number for number in range(1, 19) if number not in {5, 8}]


@pytest.mark.usefixtures("at_once")
async def test_what_was_pushed_of_them_is_published_and_no_gap(build: Build) -> None:
    world = await build("alpha", prefill=4)
    await world.replica(skip_poison_after=3)
    await world.published("alpha", range(1, 5))
    user = world.hub.user("alpha")
    world.hub.patch_faults("alpha", unservable=[6, 7], drop=0.0)
    user.emit(2)
    world.hub.patch_faults("alpha", drop=1.0)
    user.emit(1)
    world.hub.patch_faults("alpha", drop=0.0)
    user.emit(4)
    await world.published("alpha", [5, 6, 8, 9, 10, 11])
    await world.until(lambda: bool(gaps(world)), "what is missing is announced")
    assert gaps(world) == [(7, 7)]
    assert world.keys_of("alpha") == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]


@pytest.mark.usefixtures("at_once")
async def test_it_waits_without_the_setting_and_goes_on_when_the_hub_can(build: Build) -> None:
    world = await build("alpha", prefill=10)
    world.hub.patch_faults("alpha", unservable=[5])
    await world.replica()
    await world.published("alpha", range(1, 5))
    user = world.hub.user("alpha")
    calls = user.counts["GetEventsSince"]
    await world.until(lambda: user.counts["GetEventsSince"] > calls + 30, "it asks and asks")
    assert world.keys_of("alpha") == [1, 2, 3, 4]
    world.hub.patch_faults("alpha", unservable=None)
    await world.published("alpha", range(1, 11))
    assert world.keys_of("alpha") == list(range(1, 11))
    assert gaps(world) == []


@pytest.mark.usefixtures("at_once")
async def test_a_hub_that_fails_for_a_while_loses_nothing(build: Build) -> None:
    world = await build("alpha", prefill=10)
    world.hub.user("alpha").failures.append(Failure("GetEventsSince", count=60, hub_exception="down"))
    await world.replica(skip_poison_after=2)
    await world.published("alpha", range(1, 11))
    assert world.keys_of("alpha") == list(range(1, 11))
    assert gaps(world) == []


def gaps(world: World) -> list[tuple[int, int]]:
    """Return the gaps that were announced."""
    values = [json.loads(message.value) for message in world.messages("alpha") if message.topic == NOTIFICATIONS]
    return [(value["FirstSeqId"], value["LastSeqId"]) for value in values if value["Type"] == "gap"]
