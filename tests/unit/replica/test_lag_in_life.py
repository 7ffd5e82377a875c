"""Lag where a hub counts what it never shows, or does not answer: a healthy account is level, a sick one is not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.replica.source.account import Account, AccountState
from gateway.simulator.history import Injection
from tests.support.in_process import Build, World

EVER = 1e9


async def live(build: Build, prefill: int = 10, **more: Any) -> tuple[World, Account]:  # noqa: ANN401
    """Serve an account that is live and level."""
    world = await build("alpha", prefill=prefill)
    replica = await world.replica(**more)
    await world.becomes("alpha", AccountState.LIVE)
    account: Account = replica._shards.accounts["alpha"]
    await world.until(lambda: account.lag_seconds() == 0, "it is level")
    return world, account


async def is_level(world: World, account: Account) -> None:
    """Wait until it is level, and see it stay so over some audits."""
    await world.until(lambda: account.state is AccountState.LIVE and account.lag_seconds() == 0, "it is level")
    for _ in range(5):
        await asyncio.sleep(0.1)
        assert account.lag_seconds() == 0
        assert account.lag.sequences == 0


async def test_numbers_the_hub_never_shows_are_waited_for_only_for_the_grace(build: Build) -> None:
    world, account = await live(build)
    world.hub.patch_faults("alpha", drop=1.0, straggle=1.0, straggle_seconds=EVER)
    world.hub.user("alpha").emit(3)
    world.hub.patch_faults("alpha", drop=0.0, straggle=0.0)
    await world.until(lambda: account.lag_seconds() > 0, "the hub tells of them, and they may still come")
    assert account.lag.latest == 13
    await is_level(world, account)
    world.hub.drop("alpha")
    await world.until(lambda: account.counters.connects == 2, "it connects again")
    await is_level(world, account)
    world.hub.user("alpha").emit(1)
    await world.published("alpha", [14])
    await is_level(world, account)


async def test_a_new_account_whose_history_is_purged_is_level(build: Build) -> None:
    world = await build("alpha", prefill=10)
    world.hub.patch_faults("alpha", forget_below=1000)
    replica = await world.replica()
    await is_level(world, replica._shards.accounts["alpha"])


async def test_an_account_that_never_had_an_event_is_level(build: Build) -> None:
    world = await build("alpha")
    replica = await world.replica()
    await is_level(world, replica._shards.accounts["alpha"])


async def test_an_account_whose_events_have_no_numbers_is_level(build: Build) -> None:
    world = await build("alpha")
    world.hub.patch_faults("alpha", sequence_missing=1.0, history_sequence_missing=1.0)
    world.hub.user("alpha").emit(5)
    replica = await world.replica()
    account = replica._shards.accounts["alpha"]
    await is_level(world, account)
    assert len(world.messages("alpha")) == 5


@pytest.mark.parametrize("raw", [b'{"EventSeqId": broken', b'{"foo": 1}'])
async def test_a_dead_letter_without_a_number_leaves_nothing_behind(build: Build, raw: bytes) -> None:
    world, account = await live(build)
    history = "no" if b"broken" in raw else "envelope"
    world.hub.user("alpha").inject(Injection(raw=raw, push=True, history=history))
    await world.until(lambda: world.messages("alpha")[-1].topic == "dead-letter", "it is a dead letter")
    await world.until(lambda: account.lag_seconds() > 0 and account.lag.latest == 11, "the hub counts it")
    await is_level(world, account)


async def test_an_account_whose_hub_pushes_nothing_and_answers_nothing_is_behind(build: Build) -> None:
    world, account = await live(build, call_timeout=0.3)
    world.hub.patch_faults("alpha", drop=1.0, slow={"*": 1000.0})
    world.hub.user("alpha").emit(50)
    await world.until(lambda: account.lag_seconds() > 1, "it is behind")
    assert account.state is AccountState.LIVE
    assert account.link.is_up


async def test_what_was_known_of_the_hub_is_known_over_the_next_connection(build: Build) -> None:
    world, account = await live(build, call_timeout=0.3)
    world.hub.patch_faults("alpha", drop=1.0, slow={"GetEventsSince": 1000.0})
    world.hub.user("alpha").emit(49)
    world.hub.patch_faults("alpha", drop=0.0)
    world.hub.user("alpha").emit(1)  # it leaves a hole before it: so it waits for history
    await world.until(lambda: account.lag_seconds() > 0 and account.lag.latest == 60, "the hub tells of them")
    world.hub.patch_faults("alpha", slow={"*": 1000.0})
    world.hub.drop("alpha")
    await world.until(lambda: account.counters.connects == 2, "it connects again")
    for _ in range(5):
        await asyncio.sleep(0.1)
        account.fingerprint()
        assert account.lag.sequences == 50
