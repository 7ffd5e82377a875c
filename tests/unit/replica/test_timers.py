"""The reorder window's timer belongs to one session: that of a former one neither fires nor keeps a new one away."""

from __future__ import annotations

from gateway.replica.source.account import Account, AccountState
from gateway.replica.source.push_receiver import PushReceiver
from tests.support.in_process import Build

ORDER = (
    b'{"OrderId":7,"StrategyId":1,"StrategyName":"S","State":1,"FilledQty":null,"RemainingQty":null,"FillPrice":null,'
    b'"AvgFillPrice":null,"EventId":"10f687b3-c9a7-6caa-fd89-7d99fe7ad0b0","EventSeqId":6,'
    b'"EventTime":"2026-01-01T00:00:00Z"}'
)


async def test_a_timer_ends_with_its_session(build: Build) -> None:
    world = await build("alpha", prefill=3)
    replica = await world.replica()
    await world.becomes("alpha", AccountState.LIVE)
    account: Account = replica._shards.accounts["alpha"]
    user = world.hub.user("alpha")
    user.emit(1)
    await world.published("alpha", range(1, 5))
    PushReceiver(account).on_push("OnOrderUpdate", [ORDER])  # it waits for what is missing before it
    timer, session = account.timer.handle, account.session
    assert timer is not None
    assert session is not None

    account.detach()
    assert timer.cancelled()
    assert account.timer.handle is None
    account.attach(session)
    account.timer.set(session)
    assert account.timer.handle is not None, "of the session that is attached now"

    await world.published("alpha", [6])
