"""A subscription that pushes nothing is noticed: it is renewed, and then the connection is made anew."""

from __future__ import annotations

import structlog.testing

from gateway.simulator import Injection
from tests.support.in_process import Build

HISTORY_ONLY = (
    b'{"OrderId":7,"StrategyId":1,"StrategyName":"S","State":1,"FilledQty":null,"RemainingQty":null,"FillPrice":null,'
    b'"AvgFillPrice":null,"EventId":"$ID","EventSeqId":$SEQUENCE,"EventTime":"$TIME"}'
)


async def test_a_hub_that_pushes_nothing_is_subscribed_to_then_connected_to_anew(build: Build) -> None:
    world = await build("alpha", prefill=3)
    with structlog.testing.capture_logs() as logs:
        replica = await world.replica()
        await world.published("alpha", range(1, 4))
        user = world.hub.user("alpha")
        asked = user.counts["SubscribeToStrategies"]
        world.hub.patch_faults("alpha", drop=1.0)
        sequence = 3
        while world.status("alpha").connects == 1:
            sequence += 1
            user.emit(1)
            await world.published("alpha", [sequence])

    assert user.counts["SubscribeToStrategies"] >= asked + 2, "again over the old connection, and over the new one"
    assert any("hub pushes nothing although it has events" in entry["event"] for entry in logs)
    assert any(entry.get("reason") == "deaf" for entry in logs)
    assert replica._source.counters.unpushed >= 2
    world.hub.patch_faults("alpha", drop=0.0)
    user.emit(3)
    await world.published("alpha", range(1, sequence + 4))
    assert world.keys_of("alpha") == list(range(1, sequence + 4))


async def test_a_hub_that_pushes_some_is_left_alone(build: Build) -> None:
    world = await build("alpha", prefill=3)
    await world.replica()
    await world.published("alpha", range(1, 4))
    user = world.hub.user("alpha")
    for number in range(15):
        user.inject(Injection(HISTORY_ONLY, push=False, history="payload"))
        user.emit(1)
        await world.published("alpha", range(1, 6 + 2 * number))

    assert world.status("alpha").connects == 1


async def test_a_hub_that_pushes_some_is_subscribed_to_again(build: Build) -> None:
    world = await build("alpha", prefill=3)
    with structlog.testing.capture_logs() as logs:
        await world.replica()
        await world.published("alpha", range(1, 4))
        user = world.hub.user("alpha")
        asked, emitted = user.counts["SubscribeToStrategies"], 3

        def is_subscribed_to_again() -> bool:
            nonlocal emitted
            user.inject(Injection(HISTORY_ONLY, push=False, history="payload"))
            user.emit(1)
            emitted += 2
            return user.counts["SubscribeToStrategies"] > asked

        await world.until(is_subscribed_to_again, "it subscribes again")
        assert world.status("alpha").connects == 1, "the hub is not deaf"
    assert any("hub does not push all of its events" in entry["event"] for entry in logs)
    await world.published("alpha", range(1, emitted + 1))
    assert sorted(world.keys_of("alpha")) == list(range(1, emitted + 1))
