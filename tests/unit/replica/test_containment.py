"""Errors that nobody expects end where they happen: whoever is not struck goes on, and whoever is begins again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from gateway.broker.memory.control import MemoryControl
from gateway.broker.memory.faults import Edge
from gateway.broker.memory.ownership import MemoryOwnership
from gateway.broker.ports import Limits
from gateway.errors import ConfigurationError
from gateway.replica import reports
from gateway.replica.containment import RestartDelays, contained
from gateway.replica.sink import message_maker
from gateway.replica.source.account import Account, AccountState
from gateway.session.session import Session
from gateway.session.types import OutgoingItem
from gateway.state import Desired, TargetState
from gateway.telemetry.counters import Counters
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.replica_metrics import AccountMetrics
from tests.support.in_process import Build
from tests.unit.replica.desired_state import applied, set_desired


class PlantedError(Exception):
    """Nobody expects it."""


def reported(logs: list[Any]) -> list[str]:
    """Return the parts in which something unexpected happened."""
    return [line["part"] for line in logs if line["event"].startswith("unexpected error")]


def running(name: str) -> list[asyncio.Task[Any]]:
    return [one for one in asyncio.all_tasks() if one.get_name() == name]


async def test_an_account_whose_event_cannot_be_taken_restarts_beside_neighbours(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await build("alpha", "beta", prefill=5)
    to_message, is_broken = message_maker.to_message, True

    def breaks(item: OutgoingItem) -> Any:  # noqa: ANN401 - a message
        if is_broken and item.content.account == "alpha" and getattr(item.content, "sequence", None) == 3:
            raise PlantedError
        return to_message(item)

    monkeypatch.setattr(message_maker, "to_message", breaks)
    with structlog.testing.capture_logs() as logs:
        running_ = await world.replica()
        await world.published("beta", range(1, 6))
        await world.until(lambda: running_._source.counters.unexpected["account"] > 2, "it fails again and again")
        world.hub.user("beta").emit(5)
        await world.published("beta", range(1, 11))
        assert world.keys_of("alpha") == []
        assert "unexpected" in (world.status("alpha").last_error or "")
        is_broken = False
        await world.published("alpha", range(1, 6))
        await world.becomes("alpha", AccountState.LIVE)

    assert set(reported(logs)) == {"account"}
    assert all(isinstance(line["exc_info"], PlantedError) for line in logs if "part" in line)
    assert world.keys_of("alpha") == [1, 2, 3, 4, 5]
    assert world.status("alpha").last_error is None


async def test_a_failure_beyond_its_part_of_a_commit_leaves_nothing_noted(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be asked for more of the same commit, when it has no session any more."""
    world = await build("alpha", "beta", prefill=5)
    payloads = world.hub.user("alpha").history.payloads
    payloads[0] = payloads[0].replace(b'ame":"', b'ame":"' + b"x" * 600_000, 1)
    world.broker.limits = Limits(messages=50, bytes=1024 * 1024)
    dead_letter_message, is_broken = message_maker.dead_letter_message, True

    def breaks(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - a message
        if is_broken:
            raise PlantedError
        return dead_letter_message(*args, **kwargs)

    monkeypatch.setattr(message_maker, "dead_letter_message", breaks)
    with structlog.testing.capture_logs() as logs:
        running_ = await world.replica()
        await world.until(lambda: running_._source.counters.unexpected["account"] > 2, "it fails again and again")
        await world.published("beta", range(1, 6))
        is_broken = False
        await world.published("alpha", range(1, 6))

    assert set(reported(logs)) == {"account"}


async def test_a_timer_that_fails_begins_the_account_again(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    world = await build("alpha", "beta", prefill=2)
    await world.replica()
    for account in ("alpha", "beta"):
        await world.becomes(account, AccountState.LIVE)
        world.hub.user(account).emit(1)
        await world.published(account, [1, 2, 3])
    expire, failures = Session.expire, 1

    def breaks(self: Session, now: float) -> None:
        nonlocal failures
        if self.account == "alpha" and failures:
            failures -= 1
            raise PlantedError
        expire(self, now)

    monkeypatch.setattr(Session, "expire", breaks)
    with structlog.testing.capture_logs() as logs:
        for account in ("alpha", "beta"):
            world.hub.patch_faults(account, drop=1.0)
            world.hub.user(account).emit(1)
            world.hub.patch_faults(account, drop=0.0)
            world.hub.user(account).emit(1)  # behind a hole
        for account in ("alpha", "beta"):
            await world.published(account, range(1, 6))

    assert reported(logs) == ["account"]
    assert failures == 0
    assert sorted(world.keys_of("alpha")) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["account-alpha", "shard-0", "ownership", "view", "reports", "accounts"])
async def test_a_task_that_is_cancelled_by_mistake_is_begun_again(build: Build, name: str) -> None:
    world = await build("alpha", prefill=2)
    world.control, world.ownership = MemoryControl(), MemoryOwnership()
    running_ = await world.replica()
    await world.becomes("alpha", AccountState.LIVE)
    (before,) = running(name)
    before.cancel()
    await world.until(before.done, "it has ended")
    await world.until(lambda: running(name), "another one runs")
    world.hub.user("alpha").emit(3)

    await world.published("alpha", range(1, 6))
    await applied(world, await set_desired(world, Desired(strategies=(1, 2))))
    (running_._key_watcher._directory._path / "beta").write_text("key-of-alpha")
    await world.until(lambda: len(running_.statuses()) == 2, "new accounts come")
    await world.published("beta", range(1, 6))


async def test_an_account_stays_paused_when_its_desired_state_becomes_unreadable(build: Build) -> None:
    world = await build("alpha", prefill=2)
    world.control = MemoryControl()
    await world.replica()
    await applied(world, await set_desired(world, Desired(state=TargetState.PAUSED)))
    await world.becomes("alpha", AccountState.PAUSED)

    await set_desired(world, b'{"version": 99}')
    world.hub.user("alpha").emit(2)
    await asyncio.sleep(0.5)

    assert world.status("alpha").state is AccountState.PAUSED
    await applied(world, await set_desired(world, Desired()))
    await world.published("alpha", range(1, 5))


async def test_what_fails_is_done_again_and_a_wrong_configuration_ends_it() -> None:
    failures: list[Exception] = [PlantedError(), ExceptionGroup("", [PlantedError()])]
    counters = Counters()

    async def work() -> str:
        if failures:
            raise failures.pop(0)
        return "done"

    assert await contained(counters, "view", work) == "done"
    assert counters.unexpected["view"] == 2
    failures.append(ExceptionGroup("", [ExceptionGroup("", [ConfigurationError("a", "b", "c")])]))
    with pytest.raises(ConfigurationError):
        await contained(counters, "view", work)


async def test_a_cancellation_ends_it_though_a_cleanup_fails() -> None:
    began = asyncio.Event()

    async def work() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            raise PlantedError

    doing = asyncio.create_task(contained(Counters(), "view", work))
    await began.wait()
    doing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doing


async def test_each_part_rests_longer_with_each_failure_by_itself() -> None:
    rests = RestartDelays()
    assert all(rests.after_failure("a") <= 60 for _ in range(100))
    assert sum(rests.after_failure("a") for _ in range(20)) > 100
    assert rests.after_failure("b") <= 1
    rests.forget("a")
    assert rests.after_failure("a") <= 1


async def test_a_wrong_configuration_ends_the_replica_and_nothing_is_run_anew(build: Build) -> None:
    world = await build("alpha", "beta", prefill=2)
    world.control, world.ownership = MemoryControl(), MemoryOwnership()
    await world.replica()
    for account in ("alpha", "beta"):
        await world.published(account, [1, 2])

    async def refuse(edge: Edge) -> None:
        if edge.call == "commit":
            raise ConfigurationError("broker", "is another one now", "Set it right.")

    world.broker.faults = refuse
    with structlog.testing.capture_logs() as logs:
        world.hub.user("alpha").emit(1)
        await world.until(lambda: not running("ownership"), "it ends")
        with pytest.raises(ExceptionGroup) as ended:
            await world.stack.aclose()

    assert ended.group_contains(ConfigurationError)
    assert reported(logs) == []


async def test_what_is_being_committed_counts_until_it_is(build: Build) -> None:
    world = await build("alpha", prefill=2)
    running_ = await world.replica()
    await world.published("alpha", [1, 2])
    await world.becomes("alpha", AccountState.LIVE)
    budget, goes_on = running_._source.budget, asyncio.Event()
    await world.until(lambda: budget.held == 0, "nothing is held")

    async def hang(edge: Edge) -> None:
        if edge.call == "commit":
            await goes_on.wait()

    world.broker.faults = hang
    account = running_._shards.accounts["alpha"]
    for pushes in range(1, 4):  # the first of them is in flight when the others come
        world.hub.user("alpha").emit(1)
        await world.until(lambda pushes=pushes: account.link.pushes == pushes, "it is pushed")
    held = budget.held
    goes_on.set()
    await world.published("alpha", range(1, 6))

    assert held == sum(len(message.value) + 512 for message in world.messages("alpha")[-3:])
    await world.until(lambda: budget.held == 0, "nothing is held")


async def test_a_scrape_leaves_out_the_account_whose_numbers_fail_and_says_so(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await build("alpha", "beta", "gamma", prefill=2)
    running_ = await world.replica()
    for account in ("alpha", "beta", "gamma"):
        await world.published(account, [1, 2])
    numbers_of = reports.metrics_of

    def breaks(account: Account) -> AccountMetrics:
        if account.name == "beta":
            raise PlantedError
        return numbers_of(account)

    monkeypatch.setattr(reports, "metrics_of", breaks)
    with structlog.testing.capture_logs() as logs:
        numbers = await running_.metrics()

    assert sorted(one.account for one in numbers.accounts) == ["alpha", "gamma"]
    assert numbers.counters.unexpected["metrics"] == 1
    (line,) = [line for line in logs if line["event"].startswith("unexpected error")]
    assert (line["log_level"], line["part"], line["account"]) == ("error", "metrics", "beta")
    _, text = Metrics(1).text(numbers, "")
    assert b'unexpected_errors_total{part="metrics"} 1.0' in text
    world.hub.user("beta").emit(1)
    await world.published("beta", [3])
    assert world.status("beta").connects == 1
    monkeypatch.setattr(reports, "metrics_of", numbers_of)
    assert len((await running_.metrics()).accounts) == 3
