"""What operators want outlives everything: it is kept by the broker, and whoever serves an account makes it so.

Desired state is written as any replica writes it, by compare-and-set in the control store.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.bootstrap.broker import open_broker
from gateway.broker.control_view import View
from gateway.broker.ports import ControlStore
from gateway.errors import Conflict, OutcomeUnknown
from gateway.settings.load import load_broker_settings
from gateway.state import Desired, TargetState, encode_record
from tests.support import kafka_server
from tests.support.checker import judge
from tests.support.gateway_process import Process, house, until
from tests.support.kafka_cluster import made
from tests.support.kafka_server import KafkaServer
from tests.support.sockets import free_port

RATE = 200.0


class Operator:
    """Somebody with a control store and a view of it."""

    def __init__(self, store: ControlStore) -> None:
        self.store = store
        self.view = View(lambda _: None)

    async def wants(self, account: str, desired: Desired) -> int:
        """Write desired state; return its revision."""
        revision = self.view.desired_of(account).revision
        written = await self.store.write(f"account.{account}", encode_record(desired), revision)
        await until(
            lambda: self.view.desired_of(account).revision >= written, f"the desired state of {account} is seen"
        )
        return written

    async def sees_applied(self, account: str, revision: int) -> None:
        """Wait until the owner reports that it is so."""

        def is_so() -> bool:
            sighting = self.view.observed.get(account)
            return sighting is not None and sighting.value is not None and sighting.value.applied == revision

        await until(is_so, f"revision {revision} of {account} is applied")


@asynccontextmanager
async def operator(place: Any) -> AsyncIterator[Operator]:  # noqa: ANN401 - a house on either broker
    async with open_broker(load_broker_settings(place.config, {})) as broker:
        one = Operator(broker.control)
        following = asyncio.create_task(one.view.follow(broker.control))
        try:
            await until(one.view.has_synced.is_set, "the view is filled")
            yield one
        finally:
            following.cancel()
            await asyncio.wait({following})


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    kafka_server.require_java()
    wire = free_port()
    config = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{wire}"}
    with KafkaServer(tmp_path_factory.mktemp("kafka"), config=config) as server:
        server.wire_port = wire
        yield server


@pytest.fixture(params=["jetstream", pytest.param("kafka", marks=pytest.mark.long)])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """Yield everything but gateways, on each broker."""
    if request.param == "jetstream":
        async with house(tmp_path, accounts=3) as here:
            yield here, here.server
    else:
        server = request.getfixturevalue("kafka")
        async with made(tmp_path, server) as there:
            yield there, server


async def connections(here: Any) -> dict[str, int]:  # noqa: ANN401 - a house on either broker
    return {user["name"]: len(user["connections"]) for user in (await here.ask("GET /status"))["users"]}


def strategies(found: list[Any], account: str, after: int) -> set[int]:
    """Return the strategies of the events that were published of an account after a sequence."""
    events = [one for one in found if one.subject.endswith(f".{account}") and ".notifications." not in one.subject]
    later = [json.loads(one.value) for one in events if int(one.headers["Gateway-Key"]) > after]
    return {event["StrategyId"] for event in later if event.get("StrategyId") is not None}


async def test_desired_state_outlives_a_restart_of_everything(place: tuple[Any, Any]) -> None:
    here, server = place
    filtered, paused, free = here.accounts
    gateways: list[Process] = [await here.gateway() for _ in range(2)]
    await here.emit(count=50, rate=RATE)
    await here.settled(50)
    async with operator(here) as one:
        narrowed = await one.wants(filtered, Desired(strategies=(1, 2)))
        halted = await one.wants(paused, Desired(state=TargetState.PAUSED))
        await one.sees_applied(filtered, narrowed)
        await one.sees_applied(paused, halted)
    assert (await connections(here))[paused] == 0

    for gateway in gateways:
        gateway.kill()
    server.kill()
    await asyncio.to_thread(server.start)
    await here.emit(count=100, rate=RATE)
    await here.gateway()
    async with operator(here) as one:
        assert one.view.desired_of(filtered).desired == Desired(strategies=(1, 2))
        await one.sees_applied(filtered, narrowed)
        await one.sees_applied(paused, halted)
        await here.emit(count=100, rate=RATE)
        await until(lambda: _has(one, free, 250), "the free account goes on")
        assert not _has(one, paused, 51)
        assert (await connections(here))[paused] == 0
        await one.wants(paused, Desired())
        await here.settled(250)
    found, truth = await here.log(), await here.truth()
    assert strategies(found, filtered, 50) == {1, 2}
    exact = {account: truth[account] for account in (paused, free)}
    others = [one for one in found if not one.subject.endswith(f".{filtered}")]
    verdict = judge(exact, others, by_kind=server.__class__ is KafkaServer)
    assert (verdict.faults, verdict.found) == ({}, 500)


def _has(one: Operator, account: str, settled: int) -> bool:
    sighting = one.view.observed.get(account)
    return sighting is not None and sighting.value is not None and sighting.value.settled >= settled


async def test_of_two_operators_at_once_one_wins_and_the_other_hears_of_it(place: tuple[Any, Any]) -> None:
    """On Kafka, one whose transaction was about to end when the other began is told that its outcome is unknown."""
    here, _ = place
    await here.gateway()
    await here.emit(count=5, rate=RATE)
    await here.settled(5)
    account = here.accounts[0]
    async with operator(here) as one, operator(here) as other:
        for turn in range(5):
            before = one.view.desired_of(account).revision
            wanted = Desired(strategies=(turn,)), Desired(strategies=(turn + 100,))
            outcomes = await asyncio.gather(
                one.wants(account, wanted[0]), other.wants(account, wanted[1]), return_exceptions=True
            )
            won = [outcome for outcome in outcomes if isinstance(outcome, int)]
            refused = [outcome for outcome in outcomes if isinstance(outcome, Conflict | OutcomeUnknown)]
            assert (len(won) <= 1, len(won) + len(refused)) == (True, 2)
            assert won or any(isinstance(outcome, OutcomeUnknown) for outcome in refused)
            for each in (one, other):
                await until(
                    lambda at=before, each=each: each.view.desired_of(account).revision > at, "the new one is seen"
                )
            stands = one.view.desired_of(account)
            assert other.view.desired_of(account) == stands
            assert stands.desired in wanted
            assert won in ([], [stands.revision])
        await one.sees_applied(account, one.view.desired_of(account).revision)
