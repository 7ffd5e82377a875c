"""A connection on which calls cannot succeed is made anew, and what is not needed holds nothing up."""

from __future__ import annotations

from typing import Any

import structlog.testing

from gateway.simulator import Failure
from tests.support.in_process import Build

REFUSED = 100_000


async def test_a_hub_that_hangs_in_one_method_is_left_for_a_new_connection(build: Build) -> None:
    """Like ASP.NET Core, the simulator runs one method per connection at a time: the first one holds up all."""
    world = await build("alpha", prefill=3)
    await world.replica(call_timeout=0.2)
    await world.published("alpha", range(1, 4))
    user = world.hub.user("alpha")
    world.hub.patch_faults("alpha", slow={"*": 600.0}, drop=1.0)
    asked = sum(user.counts.values())
    await world.until(lambda: sum(user.counts.values()) > asked or world.status("alpha").last_error, "a call hangs")
    world.hub.patch_faults("alpha", slow={})
    user.emit(5)

    await world.published("alpha", range(1, 9))

    assert world.status("alpha").connects == 2
    assert world.keys_of("alpha") == list(range(1, 9))


async def test_a_refused_subscription_does_not_keep_the_history_from_being_read(build: Build) -> None:
    world = await build("alpha", prefill=3)
    user = world.hub.user("alpha")
    user.failures.append(Failure("SubscribeToStrategies", REFUSED, hub_exception="no"))
    with structlog.testing.capture_logs() as logs:
        await world.replica()
        await world.published("alpha", range(1, 4))
        user.emit(3)
        await world.published("alpha", range(1, 7))

    assert any("hub rejected the subscription" in entry["event"] for entry in logs)
    assert world.status("alpha").connects == 1
    user.failures.clear()
    await world.until(lambda: world.hub.server.of(user)[0].listener.strategies, "it is asked for at an audit")


async def test_errors_alone_for_long_enough_are_a_reason_to_begin_anew(build: Build, monkeypatch: Any) -> None:  # noqa: ANN401
    monkeypatch.setattr("gateway.signalr.calls._FAILING", 0.5)
    world = await build("alpha", prefill=3)
    await world.replica()
    await world.published("alpha", range(1, 4))
    user = world.hub.user("alpha")
    for method in ("GetEventsSince", "GetLatestEventSeqId", "SubscribeToStrategies"):
        user.failures.append(Failure(method, REFUSED, hub_exception="because user is unauthorized"))

    await world.until(lambda: world.status("alpha").connects > 1, "there is a new connection")
    user.failures.clear()
    user.emit(2)

    await world.published("alpha", range(1, 6))
