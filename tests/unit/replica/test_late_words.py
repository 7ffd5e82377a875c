"""What a former owner says late about accounts and replays, and what an owner says that leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from gateway.broker.control_view import View
from gateway.broker.leases import LeaseTiming
from gateway.broker.memory.control import MemoryControl
from gateway.broker.memory.ownership import MemoryOwnership
from gateway.replica import orphaned, replica
from gateway.replica.replica import Replica
from gateway.replica.sink.account_sessions import KeptPosition, kept_position
from gateway.session.checkpoint import Checkpoint, encode_checkpoint
from gateway.state import (
    ACCOUNT,
    REPLAY,
    CheckpointPosition,
    Desired,
    Destination,
    Observed,
    Phase,
    Replay,
    ReplayState,
    TargetState,
    encode_record,
)
from tests.support.in_process import Build, World

ID = "5f0e" * 8


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "SCAN_INTERVAL_S", 0.05)


@dataclass
class Held(MemoryControl):
    """The control store as one replica reaches it: its reports may stay where they are."""

    inner: MemoryControl = field(default_factory=MemoryControl)
    is_frozen: bool = False

    def watch(self) -> Any:  # noqa: ANN401 - an iterator
        return self.inner.watch()

    async def publish_observed(self, observed: Mapping[str, bytes]) -> None:
        if not self.is_frozen:
            await self.inner.publish_observed(observed)


def shared(world: World) -> Held:
    """Let replicas share the shards of `world`, the first of them over the store that is given back."""
    world.ownership = MemoryOwnership(LeaseTiming(lease=0.6, renewal=0.2, look=0.1))
    store = Held()
    world.control = store
    return store


def state(running: Replica) -> str | None:
    """Return what `running` hears of the account."""
    seen = running.view.observed.get("alpha")
    return None if seen is None or seen.value is None else seen.value.state


async def hand_over(world: World, held: Held) -> Any:  # noqa: ANN401 - worlds and replicas
    """Let a second replica take over from the first, whose reports are not heard of any more."""
    held.is_frozen = True
    world.control = held.inner
    heir = await world.replica(shards=1)
    world.replicas[0].stop()
    await world.until(lambda: 0 in heir._shards.serving, "the second takes over")
    return heir


async def recorded(world: World, type_: Any, key: str) -> Any:  # noqa: ANN401 - records
    """Return what somebody hears of `key` who looks for the first time; None for nothing."""
    view = View(lambda _: None)
    following = asyncio.create_task(view.follow(world.control))
    await view.has_synced.wait()
    following.cancel()
    kind, _, name = key.partition(".")
    seen = (view.observed if f"{kind}." == ACCOUNT else view.replay_states).get(name)
    assert seen is None or isinstance(seen.value, type_)
    return None if seen is None else seen.value


async def test_a_late_report_of_a_replay_that_ran_does_not_stand_over_its_end(build: Build) -> None:
    world = await build("alpha", prefill=5)
    held = shared(world)
    first = await world.replica(shards=1)
    await world.published("alpha", range(1, 6))
    wanted = Replay(account="alpha", until=8, destination=Destination.REPLAY, requested_at="", requested_by="")
    await held.inner.write(REPLAY + ID, encode_record(wanted), 0)
    await world.until(lambda: first.view.phase(ID) is Phase.RUNNING, "it runs, up to events that are not there yet")
    late = {REPLAY + ID: held.inner.records[True, REPLAY + ID][0].value}
    heir = await hand_over(world, held)
    world.hub.user("alpha").emit(3)
    await world.until(lambda: heir.view.phase(ID) is Phase.COMPLETED, "the heir ends it")
    phases: set[Phase] = set()

    async def is_mended() -> bool:
        phases.add(heir.view.phase(ID))
        return bool((await recorded(world, ReplayState, REPLAY + ID)).phase is Phase.COMPLETED)

    await held.inner.publish_observed(late)
    assert (await recorded(world, ReplayState, REPLAY + ID)).phase is Phase.RUNNING
    await world.until(is_mended, "who looks for the first time sees the end as well")
    assert phases == {Phase.COMPLETED}


async def test_a_late_report_is_passed_over_and_said_again_by_the_owner(build: Build) -> None:
    world = await build("alpha", prefill=5)
    held = shared(world)
    first = await world.replica(shards=1)
    await world.until(lambda: state(first) == "live", "it is live")
    late = {"account.alpha": held.inner.records[True, "account.alpha"][0].value}
    heir = await hand_over(world, held)
    await held.inner.write("account.alpha", encode_record(Desired(state=TargetState.PAUSED)), 0)
    await world.until(lambda: state(heir) == "paused", "it is paused")
    states: set[str | None] = set()

    async def is_mended() -> bool:
        states.add(state(heir))
        return bool((await recorded(world, Observed, "account.alpha")).state == "paused")

    await held.inner.publish_observed(late)
    assert (await recorded(world, Observed, "account.alpha")).state == "live"
    await world.until(is_mended, "who looks for the first time sees it as well")
    assert states == {"paused"}


async def test_observed_state_names_the_owner_and_an_epoch_that_rises_with_each(build: Build) -> None:
    world = await build("alpha", prefill=5)
    held = shared(world)
    first = await world.replica(shards=1)
    await world.until(lambda: state(first) == "live", "it is live")
    before = first.view.observed["alpha"].value
    heir = await hand_over(world, held)
    await world.until(lambda: heir.view.observed["alpha"].value.owner == "replica-2", "the heir reports")
    await world.until(lambda: state(heir) == "live", "it is live again")
    after = heir.view.observed["alpha"].value
    assert (before.owner, after.owner) == ("replica-1", "replica-2")
    assert 0 < before.epoch < after.epoch
    await world.until(lambda: heir.view.shards["0"].value.epoch == after.epoch, "the shard names it, too")
    assert heir.view.shards["0"].value.owner == "replica-2"


async def test_an_epoch_rises_on_though_the_log_was_made_anew(build: Build) -> None:
    world = await build("alpha", prefill=5)
    held = shared(world)
    first = await world.replica(shards=1)
    await world.until(lambda: state(first) == "live", "it is live")
    world.broker.epochs[0] = 700
    async with world.broker.log("a stranger").open(0):
        world.hub.user("alpha").emit(1)
        await world.until(lambda: first.view.epoch_of_shard(0) > 701, "it claimed the shard again")
    before = first.view.epoch_of_shard(0)
    world.broker.epochs.clear()
    heir = await hand_over(world, held)
    await world.until(lambda: heir.view.epoch_of_shard(0) > before, "its epoch is above that of the owner before")
    await world.until(lambda: state(heir) == "live", "its reports hold")
    assert world.broker.epochs == {0: 1}


# Who leaves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reports_it", [True, False], ids=["says so", "dies silent"])
async def test_an_account_whose_only_key_went_with_its_gateway_shows_none(
    build: Build, tmp_path: Path, *, reports_it: bool
) -> None:
    world = await build("alpha", prefill=5)
    held = shared(world)
    first = await world.replica(shards=1)
    await world.until(lambda: state(first) == "live", "it is live")
    await world.published("alpha", range(1, 6))
    world.control = held.inner
    (tmp_path / ".none").mkdir()
    other = await world.replica(shards=1, keys=tmp_path / ".none")
    held.is_frozen = not reports_it
    began = asyncio.get_running_loop().time()
    first.stop()

    async def is_reported() -> bool:
        numbers = await other.metrics()
        return state(other) == "key_missing" and numbers.orphaned == {"alpha": "key_missing"}

    await world.until(is_reported, "the other tells of it, in its report and in what alerts look at")
    assert asyncio.get_running_loop().time() - began < 15
    reported = other.view.observed["alpha"].value
    assert (reported.owner, reported.epoch) == ("replica-2", other.view.shards["0"].value.epoch)
    assert (reported.settled, reported.latest, reported.checkpoint.incarnation) == (5, UNSET, 1), (
        "what its checkpoint knows"
    )


async def test_an_account_whose_key_file_goes_still_shows_what_is_settled(build: Build, tmp_path: Path) -> None:
    """It showed 0, as if nothing of it had ever been published."""
    world = await build("alpha", "beta", prefill=5)
    shared(world)
    only = await world.replica(shards=1)
    await world.published("alpha", range(1, 6))
    (tmp_path / "alpha").unlink()
    await world.until(lambda: state(only) == "key_missing", "it is reported of")
    reported = only.view.observed["alpha"].value
    assert (reported.settled, reported.latest, reported.checkpoint.incarnation) == (5, UNSET, 1)


def test_of_a_checkpoint_that_cannot_be_read_no_number_is_reported() -> None:
    assert kept_position(b"{") == KeptPosition(UNSET, CheckpointPosition(0, 0))
    stored = encode_checkpoint(Checkpoint(verified=7, settled=((9, 9), (12, 15)), incarnation=3))
    assert kept_position(stored) == KeptPosition(15, CheckpointPosition(7, 3))


async def test_a_shard_opens_for_an_account_without_a_key_only_if_told_of_one(build: Build, tmp_path: Path) -> None:
    world = await build("alpha", prefill=5)
    shared(world)
    world.control = MemoryControl()
    (tmp_path / ".none").mkdir()
    replica_ = await world.replica(shards=2, keys=tmp_path / ".none")
    await world.until(lambda: len(replica_.view.shards) == 2, "the shards are its own")
    assert world.broker.epochs == {}


async def test_a_gateway_that_ends_says_that_nobody_serves_its_accounts(build: Build) -> None:
    world = await build("alpha", "beta", prefill=5)
    world.control = MemoryControl()
    running = await world.replica()
    await world.until(lambda: len(running.view.observed) == 2 and state(running) == "live", "they are live")
    running.stop()

    async def states() -> list[str]:
        return [(await recorded(world, Observed, f"account.{name}")).state for name in ("alpha", "beta")]

    async def are_offline() -> bool:
        return await states() == ["offline", "offline"]

    await world.until(are_offline, "they are offline")
    assert "the gateway that served it has ended" in (await recorded(world, Observed, "account.alpha")).last_error


async def test_with_its_key_elsewhere_that_one_tells_alone_and_finally_the_owner(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphaned, "_ORPHANED_AFTER_S", 0.3)
    world = await build("alpha", "beta", "gamma", prefill=5)
    held = shared(world)
    first = await world.replica(shards=1)
    await world.until(lambda: state(first) == "live", "it is live")
    keys, world.control = tmp_path / ".keys", held.inner
    keys.mkdir()
    (keys / "alpha").write_text("key-of-alpha")
    other = await world.replica(shards=1, keys=keys)
    (tmp_path / "alpha").unlink()  # the owner's; the other has the key, and no shard
    await world.until(lambda: state(first) == "orphaned", "the other tells of it")
    revision = first.view.observed["alpha"].revision
    await asyncio.sleep(2.5)
    assert first.view.observed["alpha"].revision == revision  # they do not talk each other down
    assert (await first.metrics()).orphaned == {"alpha": "key_missing"}
    other.stop()
    await world.until(lambda: state(first) == "key_missing", "nobody has a key of it any more")
