"""A replica and the registry: an account that was begun is never begun again by mistake."""

from __future__ import annotations

from gateway.replica.source.account import AccountState
from tests.support.in_process import Build


async def test_an_account_is_registered_once_its_first_checkpoint_is_committed(build: Build) -> None:
    world = await build("main", prefill=10)
    await world.replica()
    await world.published("main", range(1, 11))
    assert world.registry.registered == {"main"}


async def test_an_account_with_a_lost_checkpoint_stops_and_repeats_nothing(
    build: Build,
) -> None:
    world = await build("main", prefill=10)
    await world.replica()
    await world.published("main", range(1, 11))
    world.broker.stored_checkpoints.clear()
    await world.replica()
    await world.becomes("main", AccountState.DIVERGED)
    assert "the checkpoint of main is gone" in world.status("main").last_error
    assert world.keys_of("main") == list(range(1, 11))


async def test_an_account_older_than_the_registry_is_taken_from_its_checkpoint(build: Build) -> None:
    world = await build("main", prefill=10)
    await world.replica()
    await world.published("main", range(1, 11))
    world.registry.registered.clear()
    await world.replica()
    await world.until(lambda: world.registry.registered == {"main"}, "main is registered")
    assert world.keys_of("main") == list(range(1, 11))
