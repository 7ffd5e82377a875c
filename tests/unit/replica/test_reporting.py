"""What a replica reports, while events are carried and accounts go."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import pytest

from gateway.broker.control_view import View
from gateway.broker.memory.control import MemoryControl
from gateway.broker.memory.ownership import MemoryOwnership
from gateway.errors import Unavailable
from gateway.replica import replica, reports
from gateway.replica import reporter as reporting
from gateway.replica.orphaned import KEY_MISSING
from gateway.replica.replica import Replica
from gateway.replica.reporter import AccountReport, Reporter
from gateway.replica.source.account import Account, AccountState
from gateway.state import Observed, decode_record
from tests.support.in_process import Build, World


def fails(name: str, error: Exception) -> float:
    """Nobody here is to fail."""
    raise AssertionError(name) from error


async def test_a_look_at_thousands_of_accounts_lets_events_go_first() -> None:
    turn, looks = 0, Counter[int]()

    def accounts() -> Iterator[AccountReport]:
        for number in range(2000):
            looks[turn] += 1
            yield AccountReport(f"account-{number}", "", partial(Observed, "replica", "live", ""))

    async def events() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    store = MemoryControl()
    working = [
        asyncio.create_task(work)
        for work in (
            events(),
            Reporter(store, accounts, list, View(lambda _: None).last_writer, fails).run(asyncio.Event()),
        )
    ]
    async with asyncio.timeout(10):
        while not store.records:
            await asyncio.sleep(0.01)
    for task in working:
        task.cancel()
    assert max(looks.values()) <= 250
    assert looks.total() == 2000


async def test_thousands_of_new_accounts_are_told_of_once_before_others_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reporting, "_POLL_INTERVAL_S", 0.01)
    reported, states, sizes = Counter[str](), dict[str, str](), list[int]()

    class Store(MemoryControl):
        async def publish_observed(self, observed: Mapping[str, bytes]) -> None:
            await super().publish_observed(observed)
            sizes.append(len(observed))  # once it is stored: the end is awaited by it

    def report(name: str) -> Observed:
        reported[name] += 1
        return Observed("replica", states[name], "")

    def accounts() -> Iterator[AccountReport]:
        for name, state in states.items():
            yield AccountReport(name, state, partial(report, name))

    async def until(count: int) -> None:
        async with asyncio.timeout(20):
            while sum(sizes) < count:
                await asyncio.sleep(0.01)

    store = Store()
    running = asyncio.create_task(
        Reporter(store, accounts, list, View(lambda _: None).last_writer, fails).run(asyncio.Event())
    )
    states["old"] = "offline"
    await until(1)
    states |= {"old": "live"} | {f"account-{number:04}": "offline" for number in range(1300)}
    await until(1302)
    running.cancel()
    assert sizes == [1, 500, 500, 301]
    assert reported.pop("old") <= 4
    assert set(reported.values()) == {1}
    assert decode_record(Observed, store.records[True, "account.old"][0].value).state == "live"


async def test_an_account_that_goes_during_a_look_is_not_told_of(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "SCAN_INTERVAL_S", 0.05)
    world = await build("alpha", "beta", "gamma", prefill=1)
    world.ownership, world.control = MemoryOwnership(), MemoryControl()
    running = await world.replica()
    for name in ("alpha", "beta", "gamma"):
        await world.published(name, [1])
    look = running._reports.accounts()
    first = next(look).account
    (gone, stays) = sorted({"alpha", "beta", "gamma"} - {first})
    (world.keys / gone).unlink()
    await world.until(lambda: gone not in {status.account for status in running.statuses()}, "it goes")
    reported = [(subject.account, subject.record().state) for subject in look]
    assert stays in dict(reported)
    assert [state for account, state in reported if account == gone] == [KEY_MISSING]


# Accounts that have nothing to do ---------------------------------------------------------------------------


async def still(build: Build) -> tuple[World, Replica]:
    """Serve two accounts which nothing touches any more, and look at both."""
    world = await build("alpha", "beta", prefill=2)
    running = await world.replica(audit=1000)
    for name in ("alpha", "beta"):
        await world.becomes(name, AccountState.LIVE)
        await world.published(name, [1, 2])
    await world.until(
        lambda: not any(account.memory.in_flight for account in running._shards.served_accounts()), "all is committed"
    )
    assert names(running) == ({"alpha", "beta"}, set())
    return world, running


def names(running: Replica) -> tuple[set[str], set[str]]:
    """Look, and give whom that was done to and of whom there is the name alone."""
    seen = [*running._reports.accounts()]
    return {one.account for one in seen if isinstance(one, AccountReport)}, {
        one for one in seen if isinstance(one, str)
    }


async def test_an_account_that_nothing_touches_is_looked_at_rarely(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, running = await still(build)
    assert names(running) == (set(), {"alpha", "beta"})
    monkeypatch.setattr(reports, "REPEAT_INTERVAL_S", 0.0)
    assert names(running) == ({"alpha", "beta"}, set())


async def test_an_account_is_looked_at_as_soon_as_something_happens_to_it(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "REPEAT_INTERVAL_S", 3600.0)  # how long it takes to connect again is not asked here
    world, running = await still(build)
    world.hub.user("alpha").emit(1)
    await world.published("alpha", [3])
    assert names(running) == ({"alpha"}, {"beta"})
    await world.until(lambda: "alpha" in names(running)[1], "nothing touches it any more")
    world.hub.drop("beta")
    await world.until(lambda: world.status("beta").connects == 2, "it connects again")
    assert names(running) == ({"beta"}, {"alpha"})


async def test_an_accounts_lag_begins_when_it_does_however_old_its_last_look_is(build: Build) -> None:
    world, running = await still(build)
    account: Account = running._shards.accounts["alpha"]
    account.lag.level_at -= 1000  # as if the look had been so long ago
    world.hub.patch_faults("alpha", slow={"negotiate": 1000.0})
    world.hub.drop("alpha")
    await world.until(lambda: account.state is not AccountState.LIVE, "it is away")
    assert 0 < account.lag_seconds() < 500


class Fails(MemoryControl):
    """A store that takes nothing at first."""

    is_away = True

    async def publish_observed(self, observed: Mapping[str, bytes]) -> None:
        if self.is_away:
            raise Unavailable("it is away")
        await super().publish_observed(observed)


async def test_what_could_not_be_reported_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "_POLL_INTERVAL_S", 0.01)
    observed, touched, store, looks = Observed("replica", "live", "", latest=0), {"alpha", "beta"}, Fails(), 0

    def accounts() -> Iterator[AccountReport | str]:
        nonlocal looks
        looks += 1
        for name in ("alpha", "beta"):
            if name in touched:
                touched.discard(name)
                yield AccountReport(name, observed.latest, lambda: observed, repeat_after=partial(touched.add, name))
            else:
                yield name

    async def until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.01)

    def reported(name: str) -> Observed:
        return decode_record(Observed, store.records[True, f"account.{name}"][0].value)

    reporter = Reporter(store, accounts, list, View(lambda _: None).last_writer, fails)
    running = asyncio.create_task(reporter.run(asyncio.Event()))
    await until(lambda: looks > 3)
    assert store.records == {}
    store.is_away = False
    await until(lambda: len(store.records) == 2)
    await until(lambda: not touched)
    before, observed = looks, Observed("replica", "live", "", latest=7)
    touched.add("alpha")
    await until(lambda: looks > before + 3)
    assert touched <= {"alpha"}
    assert reported("alpha").latest == 0  # of numbers alone not so soon
    monkeypatch.setattr(reporting, "_NUMBERS", 0.0)
    await until(lambda: reported("alpha").latest == 7)
    await until(lambda: not touched)
    assert reporter._reported.keys() == {"alpha", "beta"}
    running.cancel()


async def test_an_account_of_which_nothing_can_be_said_keeps_nobody_from_reports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reporting, "_POLL_INTERVAL_S", 0.01)
    sources: dict[str, Callable[[], Observed]] = {
        "alpha": lambda: Observed("replica", "live", ""),
        "beta": lambda: Observed("replica", f"{1 / 0}", ""),
        "gamma": lambda: Observed("replica", "offline", "", last_error="no UTF-8: \udc80"),
        "omega": lambda: Observed("replica", "live", ""),
    }
    failures, store = Counter[str](), MemoryControl()

    def failed(name: str, _: Exception) -> float:
        failures[name] += 1
        return 0.2

    async def until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.01)

    def accounts() -> Iterator[AccountReport]:
        for name, report in sources.items():
            yield AccountReport(name, "", report)

    reporter = Reporter(store, accounts, list, View(lambda _: None).last_writer, failed)
    running = asyncio.create_task(reporter.run(asyncio.Event()))
    await until(lambda: len(store.records) == 2)
    assert failures == {"beta": 1, "gamma": 1}  # not at each look
    await until(lambda: min(failures.values()) > 1)
    sources["beta"] = sources["gamma"] = sources["alpha"]
    await until(lambda: len(store.records) == 4)
    running.cancel()


async def test_a_store_that_takes_nothing_is_told_of_and_not_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "_POLL_INTERVAL_S", 0.01)
    monkeypatch.setattr(reporting, "_UNAVAILABLE_INTERVAL_S", 0.5)
    tries, reported = 0, asyncio.Queue[int]()

    class Deleted(MemoryControl):
        async def publish_observed(self, _: Mapping[str, bytes]) -> None:
            nonlocal tries
            tries += 1
            raise Unavailable("nobody serves it")

    def accounts() -> Iterator[AccountReport]:
        yield AccountReport("main", 1, lambda: Observed("replica", "live", ""))

    stop = asyncio.Event()
    reporter = Reporter(
        Deleted(),
        accounts,
        list,
        View(lambda _: None).last_writer,
        fails,
        unavailable=lambda: reported.put_nowait(tries),
    )
    running = asyncio.create_task(reporter.run(stop))
    async with asyncio.timeout(20):
        assert await reported.get() == 1
        assert await reported.get() > 2
    stop.set()
    await running
