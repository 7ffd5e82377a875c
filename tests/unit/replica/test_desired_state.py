"""What operators want of an account: a subscription, a pause, a new connection; from the store to the hub."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from msgspec import UNSET
from structlog.testing import capture_logs

from gateway.broker.memory.control import MemoryControl
from gateway.publication import NOTIFICATIONS
from gateway.replica.source.account import AccountState
from gateway.state import Desired, TargetState, Written
from tests.support.in_process import Build, World
from tests.unit.replica.desired_state import applied, set_desired

LATER = b'{"version":2,"strategies":null,"state":"running","moon":"full"}'


async def world_with_desired_state(build: Build, *accounts: str, prefill: int = 0) -> World:
    world = await build(*(accounts or ("alpha",)), prefill=prefill)
    world.control = MemoryControl()
    return world


def asked(world: World, account: str = "alpha") -> set[int]:
    """Return the strategies that the hub pushes to the account."""
    (connection,) = world.hub.server.of(world.hub.user(account))
    return set(connection.listener.strategies)


def strategies(world: World, after: int, account: str = "alpha") -> set[int]:
    """Return the strategies of the events that were published after a sequence."""
    found = set()
    for message in world.messages(account):
        if message.topic != NOTIFICATIONS and int(message.key) > after:
            strategy = json.loads(message.value).get("StrategyId")
            if strategy is not None:
                found.add(strategy)
    return found


async def test_a_subscription_reaches_the_hub_by_its_difference_and_filters_on(build: Build) -> None:
    world = await world_with_desired_state(build, prefill=20)
    await world.replica()
    await world.published("alpha", range(1, 21))
    assert asked(world) == {1, 2, 3, 4, 5}

    await applied(world, await set_desired(world, Desired(strategies=(1, 2))))
    await world.until(lambda: asked(world) == {1, 2}, "the hub pushes no more than these")
    world.hub.user("alpha").emit(60)
    await world.until(lambda: world.status("alpha").settled == 80, "all are settled")
    assert strategies(world, 20) == {1, 2}

    await applied(world, await set_desired(world, Desired(strategies=(2, 3))))
    await world.until(lambda: asked(world) == {2, 3}, "the hub pushes these")
    world.hub.user("alpha").emit(60)
    await world.until(lambda: world.status("alpha").settled == 140, "all are settled")
    assert strategies(world, 80) == {2, 3}

    await applied(world, await set_desired(world, Desired(strategies=())))
    await world.until(lambda: asked(world) == set(), "the hub pushes nothing")
    world.hub.user("alpha").emit(60)
    await world.until(lambda: world.status("alpha").settled == 200, "all are settled, by history")
    assert strategies(world, 140) == set()

    await applied(world, await set_desired(world, Desired()))
    assert asked(world) == {1, 2, 3, 4, 5}
    world.hub.user("alpha").emit(60)
    await world.published("alpha", range(201, 261))
    assert world.hub.user("alpha").counts["connects"] == 1
    late = [message for message in world.messages("alpha") if "late" in message.attributes]
    assert late == []


async def test_desired_state_that_was_there_first_holds_from_the_first_event(build: Build) -> None:
    world = await world_with_desired_state(build, prefill=60)
    revision = await set_desired(world, Desired(strategies=(4,)))
    await world.replica()
    await applied(world, revision)
    await world.until(lambda: world.status("alpha").settled == 60, "all are settled")
    assert strategies(world, 0) == {4}
    assert asked(world) == {4}


async def test_a_strategy_that_the_hub_does_not_give_is_reported(build: Build) -> None:
    world = await world_with_desired_state(build)
    await world.replica()
    await applied(world, await set_desired(world, Desired(strategies=(1, 99))))
    assert world.replicas[0].view.observed["alpha"].value.failed_strategies == (99,)


async def test_how_the_hub_writes_enums_is_reported(build: Build) -> None:
    world = await world_with_desired_state(build)
    await world.replica()
    await world.until(lambda: "alpha" in world.replicas[0].view.observed, "it is reported")
    assert world.replicas[0].view.observed["alpha"].value.enum_forms is UNSET
    world.hub.user("alpha").emit(100)
    await world.until(
        lambda: "SignalState" in (world.replicas[0].view.observed["alpha"].value.unnamed_enums or ()), "it is reported"
    )
    assert "numbers" in world.replicas[0].view.observed["alpha"].value.enum_forms


async def test_a_paused_account_has_no_connection_and_resumes_where_it_was(build: Build) -> None:
    world = await world_with_desired_state(build, "alpha", "beta", prefill=5)
    await world.replica()
    await world.published("alpha", range(1, 6))
    await applied(world, await set_desired(world, Desired(state=TargetState.PAUSED)))
    await world.becomes("alpha", AccountState.PAUSED)
    assert world.hub.server.of(world.hub.user("alpha")) == []
    for name in ("alpha", "beta"):
        world.hub.user(name).emit(5)
    await world.published("beta", range(1, 11))
    assert world.keys_of("alpha") == [1, 2, 3, 4, 5]
    await applied(world, await set_desired(world, Desired()))
    await world.published("alpha", range(1, 11))
    assert world.keys_of("alpha") == list(range(1, 11))


async def test_an_account_paused_when_the_gateway_begins_is_never_connected(build: Build) -> None:
    world = await world_with_desired_state(build, prefill=5)
    revision = await set_desired(world, Desired(state=TargetState.PAUSED))
    await world.replica()
    await applied(world, revision)
    assert world.hub.user("alpha").counts["connects"] == 0


async def test_a_new_connection_is_made_when_it_is_asked_for_and_only_then(build: Build) -> None:
    world = await world_with_desired_state(build, prefill=5)
    await world.replica()
    await world.published("alpha", range(1, 6))
    await applied(world, await set_desired(world, Desired(reconnects=1)))
    assert world.hub.user("alpha").counts["connects"] == 2
    await applied(world, await set_desired(world, Desired(reconnects=1, strategies=(1,))))
    assert world.hub.user("alpha").counts["connects"] == 2


async def test_asking_for_a_connection_ends_the_wait_for_the_next_try(build: Build) -> None:
    world = await world_with_desired_state(build, prefill=5)
    (world.keys / "alpha").write_text("wrong")
    world.hub.hub.change_key(world.hub.user("alpha"), "right")
    await world.replica()
    await world.becomes("alpha", AccountState.UNAUTHORIZED)
    world.hub.hub.change_key(world.hub.user("alpha"), "wrong")
    began = asyncio.get_running_loop().time()
    await set_desired(world, Desired(reconnects=1))
    await world.published("alpha", range(1, 6))
    assert asyncio.get_running_loop().time() - began < 10  # else not before 15 s


async def test_desired_state_of_a_later_release_is_neither_taken_nor_overwritten(build: Build) -> None:
    world = await world_with_desired_state(build, prefill=5)
    await world.replica()
    await world.published("alpha", range(1, 6))
    await applied(world, await set_desired(world, Desired(strategies=(1,))))
    await set_desired(world, LATER)
    world.hub.user("alpha").emit(30)
    await world.published("alpha", [31])  # the last one that it wants
    assert strategies(world, 5) == {1}
    assert world.control.records[False, "account.alpha"][0].value == LATER


async def test_too_many_strategies_are_refused_and_the_account_goes_on(build: Build) -> None:
    world = await world_with_desired_state(build, prefill=5)
    await world.replica()
    with capture_logs() as logs:
        await set_desired(world, Desired(strategies=tuple(range(10**8, 10**8 + 2000))))
        await world.until(
            lambda: any("desired subscription is invalid" in entry["event"] for entry in logs), "it says so"
        )
    await world.published("alpha", range(1, 6))
    assert asked(world) == {1, 2, 3, 4, 5}


async def test_the_owner_reports_what_is_so_and_of_an_idle_account_only_once(build: Build) -> None:
    world = await world_with_desired_state(build, prefill=5)
    replica = await world.replica()

    def observed() -> Any:  # noqa: ANN401 - Observed, or nothing yet
        sighting = replica.view.observed.get("alpha")
        return None if sighting is None else sighting.value

    await world.until(
        lambda: observed() is not None and observed().state == "live" and observed().settled == 5, "it is reported"
    )
    assert (observed().owner, observed().latest, observed().last_error, observed().strategies) == (
        "replica-1",
        5,
        None,
        None,
    )
    assert observed().since.endswith("Z")
    revision = replica.view.observed["alpha"].revision
    await asyncio.sleep(1.5)
    assert replica.view.observed["alpha"].revision == revision
    assert replica.view.age(replica.view.observed["alpha"]) > 1
    assert replica.view.shards["0"].value.owner == "replica-1"


async def test_the_owner_says_whom_it_obeys_and_who_came_by_another_way(build: Build) -> None:
    world = await world_with_desired_state(build)
    await world.replica()
    await world.becomes("alpha", AccountState.LIVE)
    mine = Written("otto", "2026-11-22T13:32:25.092Z", "the-request")
    with capture_logs() as logs:
        await applied(world, await set_desired(world, Desired(strategies=(1,), written=mine)))
        await applied(world, await set_desired(world, Desired(strategies=(2,))))
        await applied(world, await set_desired(world, Desired(strategies=(3,), written=mine)))
        await applied(
            world, await set_desired(world, Desired(strategies=(4,), written=mine))
        )  # a copy of what was there
    assert world.replicas[0]._source.counters.unknown_writers == 2
    logged = [
        (log["log_level"], log["by"], log.get("request_id")) for log in logs if "applied a change" in log["event"]
    ]
    assert logged == [
        ("info", "otto", "the-request"),
        ("warning", "unknown writer", None),
        ("info", "otto", "the-request"),
        ("warning", "unknown writer", None),
    ]


async def test_an_owner_that_begins_does_not_say_whom_it_obeyed_before(build: Build) -> None:
    world = await world_with_desired_state(build)
    revision = await set_desired(world, Desired(strategies=(1,)))
    with capture_logs() as logs:
        await world.replica()
        await applied(world, revision)
    assert [log for log in logs if "applied a change" in log["event"]] == []
