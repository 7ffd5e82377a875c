"""What an account does that has nothing to do: it waits, it audits, and it wakes nobody for that."""

from __future__ import annotations

import asyncio

from gateway.broker.control_view import VersionedDesired
from gateway.replica.source.account import Account, AccountState
from gateway.state import Desired, TargetState
from tests.support.in_process import Build

TIMEOUT_S = 20.0


async def test_an_audit_that_finds_nothing_new_does_not_wake_the_shard(build: Build) -> None:
    world = await build("alpha", prefill=3)
    running = await world.replica(audit=0.05)
    account: Account = running._shards.accounts["alpha"]
    await world.published("alpha", [1, 2, 3])
    await world.until(lambda: account.lag.verified == 3 and not account.memory.in_flight, "all is final")
    has_work, woken, audits = account._has_work, list[str](), set[float]()

    def wake(one: Account) -> None:
        woken.append(one.name)
        has_work(one)

    def is_audited_again() -> bool:
        audits.add(account.lag.answered_at)
        return len(audits) > 3

    account._has_work = wake
    await world.until(is_audited_again, "it audits")
    assert woken == []
    assert account.state is AccountState.LIVE
    world.hub.patch_faults("alpha", drop=1.0)
    world.hub.user("alpha").emit(1)
    await world.published("alpha", [4])  # an audit found it
    assert woken


async def paused(build: Build) -> Account:
    """Return an account of which nobody but the test waits for anything."""
    world = await build("alpha")
    running = await world.replica()
    account: Account = running._shards.accounts["alpha"]
    await world.becomes("alpha", AccountState.LIVE)
    account.set_desired(VersionedDesired(Desired(state=TargetState.PAUSED), 1))
    await world.until(lambda: not account.link.is_up, "it is let go")
    account._changed.clear()
    return account


async def test_a_wait_ends_where_there_is_something_to_do_or_after_its_limit(build: Build) -> None:
    account = await paused(build)
    async with asyncio.timeout(TIMEOUT_S):
        assert not await account.wait_for_change(0.01)
        assert not await account.wait_for_change(-1.0)
        account._changed.set()
        assert await account.wait_for_change(1000.0)
        asyncio.get_running_loop().call_later(0.01, account._changed.set)
        assert await account.wait_for_change()
        asyncio.get_running_loop().call_later(0.01, account._changed.set)
        assert await account.wait_for_change(1000.0)
    assert not account._changed.is_set()


async def test_a_wait_that_is_cancelled_leaves_no_timer(build: Build) -> None:
    account = await paused(build)
    waiting = asyncio.create_task(account.wait_for_change(0.05))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    await asyncio.sleep(0.1)
    assert not account._changed.is_set()
