"""What the broker lacks is made again, and what a person must mend is said: seldom, and everywhere that it matters."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from gateway.broker.memory.faults import Edge, no_faults
from gateway.errors import ActionRequired, ConfigurationError, GatewayError, NotReady, Unavailable
from gateway.replica.provisioning import LogThrottle, Provisioning
from gateway.replica.source.account import AccountState
from tests.support.in_process import Build


def test_the_same_words_are_said_once_a_minute_whatever_their_numbers() -> None:
    now = 0.0
    seldom = LogThrottle(lambda: now)
    assert seldom.should_log("shard 3: no stream")
    assert not seldom.should_log("shard 4: no stream")
    assert seldom.should_log("shard 4: no room")
    now = 61.0
    assert seldom.should_log("shard 3: no stream")


def test_not_all_words_that_were_ever_said_are_remembered() -> None:
    seldom = LogThrottle(lambda: 0.0)
    messages = ["".join(chr(97 + int(digit)) for digit in str(number)) for number in range(300)]
    assert all(seldom.should_log(one) for one in messages)
    assert len(seldom._logged_at) == 100
    assert not seldom.should_log(messages[-1])


async def test_what_only_a_person_can_mend_is_known_until_it_is_mended() -> None:
    answers: list[GatewayError | None] = [
        ConfigurationError("stream x", "allow_atomic is off", "Mend it."),
        Unavailable("nobody is there"),
        ActionRequired("there is no topic x"),
        None,
    ]

    async def look() -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    provisioning = Provisioning(look)
    troubles = []
    with structlog.testing.capture_logs() as logs:
        while answers:
            await provisioning.check()
            troubles.append(provisioning.problem)
    assert troubles == ["stream x: allow_atomic is off. Mend it."] * 2 + ["there is no topic x", None]
    assert [entry["log_level"] for entry in logs] == ["error", "error", "info"]


async def test_it_is_looked_soon_after_a_log_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.replica.provisioning._FIRST_CHECK_DELAY_S", 0.01)
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1

    provisioning = Provisioning(look)
    running = asyncio.create_task(provisioning.run())
    for wanted in (1, 2):
        provisioning.request_check()
        provisioning.request_check()
        async with asyncio.timeout(10):
            while looks < wanted:
                await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait({running})
    assert looks == 2


async def test_accounts_say_what_to_mend_and_a_replica_with_no_shard_is_unready(
    build: Build,
) -> None:
    world = await build("alpha", "beta", prefill=10)

    async def faults(edge: Edge) -> None:
        if edge.call == "commit" and edge.when == "before":
            raise ActionRequired("set allow_atomic to true")

    world.broker.faults = faults
    with structlog.testing.capture_logs() as logs:
        replica = await world.replica()
        for account in ("alpha", "beta"):
            await world.until(
                lambda name=account: world.status(name).last_error == "set allow_atomic to true", "it says so"
            )

        async def needs_person() -> bool:
            return (await replica.metrics()).action_required

        async with asyncio.timeout(10):
            while not await needs_person():
                await asyncio.sleep(0.01)
        await asyncio.sleep(3)
        world.broker.faults = no_faults
        for account in ("alpha", "beta"):
            await world.published(account, range(1, 11))
            await world.becomes(account, AccountState.LIVE)
            await world.until(lambda name=account: world.status(name).last_error is None, "it is well")
    assert not await needs_person()
    assert [entry["log_level"] for entry in logs if "shard log failed, reopening" in entry["event"]] == ["error"]
    assert not [entry for entry in world.broker.entries if entry.stored.message.topic == "dead-letter"]


async def test_accounts_say_that_the_broker_does_not_serve_yet(build: Build) -> None:
    world = await build("alpha", prefill=10)
    problem = "the cluster has no leader"

    async def faults(edge: Edge) -> None:
        if edge.call == "commit" and edge.when == "before":
            raise NotReady(problem)

    async def look() -> None:
        if world.broker.faults is faults:
            raise NotReady(problem)

    world.broker.faults = faults
    with structlog.testing.capture_logs() as logs:
        replica = await world.replica(provision=look)
        await world.until(lambda: world.status("alpha").last_error == problem, "it says so")
        assert not (await replica.metrics()).action_required
        world.broker.faults = no_faults
        await world.published("alpha", range(1, 11))
        await world.until(lambda: world.status("alpha").last_error is None, "it is well")
    assert {entry["log_level"] for entry in logs if problem in entry.get("error", "")} == {"warning"}
