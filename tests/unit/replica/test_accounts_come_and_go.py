"""Accounts that come and go with their keys, and keys that change, while a replica works."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.accounts import AccountsDirectory, KeyFileError
from gateway.broker.leases import LeaseTiming
from gateway.broker.memory.control import MemoryControl
from gateway.broker.memory.ownership import MemoryOwnership
from gateway.replica import key_watcher as directory
from gateway.replica import orphaned, replica
from gateway.replica.key_watcher import KeyWatcher
from gateway.replica.source.account import AccountState
from tests.support.in_process import Build, World


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "SCAN_INTERVAL_S", 0.05)
    monkeypatch.setattr(orphaned, "_ORPHANED_AFTER_S", 0.3)


def connected(world: World, name: str) -> int:
    return len(world.hub.server.of(world.hub.user(name)))


async def test_an_account_comes_and_goes_with_its_key_and_goes_on_where_it_was(build: Build) -> None:
    world = await build("alpha", "beta", "gamma", prefill=5)
    (world.keys / "gamma").unlink()
    running = await world.replica(shards=2)
    await world.published("alpha", range(1, 6))
    assert {status.account for status in running.statuses()} == {"alpha", "beta"}

    (world.keys / "gamma").write_text("key-of-gamma")
    await world.published("gamma", range(1, 6))
    (world.keys / "gamma").unlink()
    await world.until(lambda: connected(world, "gamma") == 0, "its connection ends")
    world.hub.user("gamma").emit(5)
    world.hub.user("alpha").emit(5)
    await world.published("alpha", range(1, 11))
    (world.keys / "gamma").write_text("key-of-gamma")
    await world.published("gamma", range(1, 11))
    assert world.keys_of("gamma") == list(range(1, 11))
    assert world.hub.user("alpha").counts["connects"] == world.hub.user("beta").counts["connects"] == 1


async def test_the_first_account_of_a_shard_may_come_later(build: Build) -> None:
    world = await build("alpha", prefill=3)
    world.ownership = MemoryOwnership(LeaseTiming(lease=0.6, renewal=0.2, look=0.1))
    (world.keys / "alpha").unlink()
    await world.replica(shards=16)
    (world.keys / "alpha").write_text("key-of-alpha\n")
    await world.published("alpha", range(1, 4))


async def test_a_key_that_was_refused_is_tried_again_as_soon_as_it_changes(build: Build) -> None:
    world = await build("alpha", prefill=3)
    (world.keys / "alpha").write_text("an-old-key")
    await world.replica()
    await world.becomes("alpha", AccountState.UNAUTHORIZED)
    began = asyncio.get_running_loop().time()
    (world.keys / "alpha").write_text("key-of-alpha")
    await world.published("alpha", range(1, 4))
    assert asyncio.get_running_loop().time() - began < 10  # a refused key is tried again after 15 s at the least


async def test_a_key_that_changes_is_used_from_the_next_connection_on(build: Build) -> None:
    world = await build("alpha", prefill=3)
    await world.replica()
    await world.published("alpha", range(1, 4))
    world.hub.hub.change_key(world.hub.user("alpha"), "another")
    (world.keys / "alpha").write_text("another")
    assert connected(world, "alpha") == 1
    world.hub.drop("alpha")
    world.hub.user("alpha").emit(3)
    await world.published("alpha", range(1, 7))


async def test_a_key_that_is_being_written_stops_nothing(build: Build) -> None:
    world = await build("alpha", prefill=3)
    await world.replica()
    await world.published("alpha", range(1, 4))
    (world.keys / "alpha").write_text("")
    await asyncio.sleep(0.3)
    assert connected(world, "alpha") == 1


# The guard against a vanished mount ------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def watched(keys: Path, count: int) -> tuple[KeyWatcher, Clock]:
    for number in range(count):
        (keys / f"a{number}").write_text("key")
    clock = Clock()
    return KeyWatcher(AccountsDirectory(keys), clock), clock


def names(count: int) -> set[str]:
    return {f"a{number}" for number in range(count)}


def test_when_over_half_vanish_at_once_nothing_stops_for_five_minutes(tmp_path: Path) -> None:
    watch, clock = watched(tmp_path, 4)
    for number in range(1, 4):
        (tmp_path / f"a{number}").unlink()
    with capture_logs() as logs:
        assert watch.scan() == names(4)
        clock.now = 299
        assert watch.scan() == names(4)
    assert [entry["log_level"] for entry in logs] == ["error"]
    assert "over half of the key files vanished" in logs[0]["event"]
    clock.now = 301
    assert watch.scan() == names(1)


def test_a_mount_that_comes_back_ends_the_guard_and_a_new_one_begins(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    watch, clock = watched(keys, 4)
    keys.rename(tmp_path / "away")
    assert watch.scan() == names(4)
    clock.now = 200
    (tmp_path / "away").rename(keys)
    assert watch.scan() == names(4)
    keys.rename(tmp_path / "away")
    clock.now = 400
    assert watch.scan() == names(4)
    clock.now = 699
    assert watch.scan() == names(4)
    clock.now = 701
    assert watch.scan() == set()


def test_half_of_the_accounts_may_go_at_once(tmp_path: Path) -> None:
    watch, _ = watched(tmp_path, 4)
    for number in range(2, 4):
        (tmp_path / f"a{number}").unlink()
    assert watch.scan() == names(2)


def test_during_the_guard_a_new_account_still_comes(tmp_path: Path) -> None:
    watch, _ = watched(tmp_path, 2)
    for number in range(2):
        (tmp_path / f"a{number}").unlink()
    assert watch.scan() == names(2)
    (tmp_path / "new").write_text("key")
    assert watch.scan() == names(2) | {"new"}


def test_what_is_no_account_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "a*").write_text("key")
    with capture_logs() as logs:
        watch, _ = watched(tmp_path, 1)
        for _ in range(3):
            watch.scan()
    assert [entry["entry"] for entry in logs] == ["a*"]
    assert directory.SCAN_INTERVAL_S < 5


# Replicas whose directories differ -------------------------------------------------------------------------


async def test_an_account_only_another_replica_has_a_key_of_is_told_and_stays(build: Build, tmp_path: Path) -> None:
    names_ = [f"account-{number}" for number in range(16)]
    world = await build(*names_, prefill=3)
    world.control = MemoryControl()
    world.ownership = MemoryOwnership(LeaseTiming(lease=0.6, renewal=0.2, look=0.1))
    first = await world.replica(shards=32)
    for name in names_:
        await world.published(name, range(1, 4))
    fewer = tmp_path / ".fewer"
    fewer.mkdir()
    with capture_logs() as logs:
        second = await world.replica(shards=32, keys=fewer)
        seen = second.view.observed

        def orphans() -> set[str]:
            return {name for name, sighting in seen.items() if sighting.value.state == "orphaned"}

        await world.until(lambda: bool(orphans()), "somebody is not served, and it is reported")
        await asyncio.sleep(1)
    logged = [entry["account"] for entry in logs if "account orphaned" in entry["event"]]
    await world.until(lambda: sorted(logged) == sorted(orphans()), "who has the keys is heard, not who owns the shards")
    for name in names_:
        assert connected(world, name) == (0 if name in logged else 1)
        assert name in logged or seen[name].value.state == "live"
        assert world.hub.user(name).counts["connects"] == 1  # nothing flapped
    assert len(live := [status for status in first.statuses() if status.state is AccountState.LIVE]) == 16 - len(logged)
    assert live

    for name in logged:
        (fewer / name).write_text(f"key-of-{name}")
    await world.until(lambda: not orphans(), "with the key it is served")


# What a look costs -----------------------------------------------------------------------------------------


class Counted(AccountsDirectory):
    """Counts the looks at every file."""

    scans = 0

    def scan(self, known: frozenset[str] = frozenset()) -> tuple[frozenset[str], list[KeyFileError]]:
        self.scans += 1
        return super().scan(known)


def quiet(keys: Path, count: int) -> tuple[KeyWatcher, Counted, Clock]:
    """Return a directory in which nothing happened for a few looks."""
    for number in range(count):
        (keys / f"a{number}").write_text("key")
    directory, clock = Counted(keys), Clock()
    watch = KeyWatcher(directory, clock)
    for _ in range(4):
        watch.scan()
    directory.scans = 0
    return watch, directory, clock


def test_an_unchanged_directory_is_read_whole_each_half_minute_alone(tmp_path: Path) -> None:
    watch, directory, clock = quiet(tmp_path, 3)
    for _ in range(10):
        assert watch.scan() == names(3)
    assert directory.scans == 0
    clock.now = 31
    watch.scan()
    watch.scan()
    assert directory.scans == 1


def test_a_change_is_seen_at_the_next_look_and_a_simultaneous_one_after(tmp_path: Path) -> None:
    watch, _, _ = quiet(tmp_path, 3)
    (tmp_path / "a3").write_text("key")
    stamp = tmp_path.stat()
    assert watch.scan() == names(4)
    (tmp_path / "a4").write_text("key")
    os.utime(tmp_path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as if it had come at the same moment
    assert watch.scan() == names(5)


def test_a_key_that_is_still_being_written_is_looked_for_at_each_look(tmp_path: Path) -> None:
    watch, _, _ = quiet(tmp_path, 1)
    (tmp_path / "a1").write_text("")
    for _ in range(5):
        assert watch.scan() == names(1)
    (tmp_path / "a1").write_text("key")  # the directory itself does not change
    assert watch.scan() == names(2)
