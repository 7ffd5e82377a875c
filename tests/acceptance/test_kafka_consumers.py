"""What read_committed is good for: the consumers of the docs are exact through kills, and others are not.

Each example runs as what it is, a program, and is killed at any moment; what it counts shows a repeat.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sqlite3
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from tests.support import kafka_server
from tests.support.control_client import control_of
from tests.support.gateway_process import ROOT, process, until
from tests.support.kafka_cluster import Place, made
from tests.support.kafka_server import KafkaServer
from tests.support.replay_client import again_on_topics
from tests.support.sockets import free_port

EXAMPLES = ("kafka_consumer_aiokafka", "kafka_consumer_confluent")
KILLS = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Yield a broker that says that it is where the wire is."""
    kafka_server.require_java()
    wire = free_port()
    config = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{wire}"}
    with KafkaServer(tmp_path_factory.mktemp("kafka-consumers"), config=config) as made_:
        made_.wire_port = wire
        yield made_


def loaded(program: Path) -> ModuleType:
    """Return an example as a module."""
    spec = importlib.util.spec_from_file_location(program.stem, program)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def applied(state: Path) -> int:
    """Return how many order updates the example has counted."""
    if not state.exists():
        return 0
    database = sqlite3.connect(state)
    try:
        (total,) = database.execute("SELECT coalesce(sum(updates), 0) FROM orders").fetchone()
        return int(total)
    except sqlite3.OperationalError:  # it has no tables yet, or is being written
        return 0
    finally:
        database.close()


async def orders(place: Place) -> int:
    """Return how many order updates the hub has emitted."""
    return sum(event.callback == "OnOrderUpdate" for events in (await place.truth()).values() for event in events)


@pytest.mark.parametrize("example", EXAMPLES)
async def test_a_docs_consumer_applies_each_event_once_over_kills_and_replays(
    tmp_path: Path, server: KafkaServer, example: str
) -> None:
    state, dice = tmp_path / "orders.sqlite", Random(example)
    async with made(tmp_path, server, prefill=300) as place:
        program, topic = ROOT / "examples" / f"{example}.py", place.topic("order-update")
        command = (sys.executable, program, place.address, state, topic)
        control = await control_of(await place.gateway(), place.http)
        await place.settled(300)
        stood = [0]
        for number in range(KILLS):
            await place.emit(200, 50)
            async with process(tmp_path, *command, name=f"consumer-{number}") as consumer:
                enough = stood[-1] + dice.randrange(1, 60)
                await until(lambda enough=enough: applied(state) >= enough, "the consumer applies events")
                consumer.kill()
            stood.append(applied(state))
        await place.settled(300 + 200 * KILLS)
        total = await orders(place)
        async with process(tmp_path, *command, name="consumer") as consumer:
            await until(lambda: applied(state) >= total, "the consumer has applied all events")
            assert consumer.popen.poll() is None
        assert applied(state) == total
        again = await asyncio.to_thread(loaded(program).consume, place.address, str(state), topic, until_end=True)
        assert (await again if inspect.isawaitable(again) else again) == 0
        assert await again_on_topics(place, control) > 0
        again = await asyncio.to_thread(loaded(program).consume, place.address, str(state), topic, until_end=True)
        assert (await again if inspect.isawaitable(again) else again) == 0
        database = sqlite3.connect(state)
        counted = dict(database.execute("SELECT account, sum(updates) FROM orders GROUP BY account"))
        database.close()
        truth = await place.truth()
    assert all(before < after for before, after in pairwise([*stood, total]))  # each in the middle: there was more
    assert counted == {
        account: sum(event.callback == "OnOrderUpdate" for event in events) for account, events in truth.items()
    }


async def test_who_reads_uncommitted_sees_what_was_aborted_and_so_events_twice(
    tmp_path: Path, server: KafkaServer
) -> None:
    async with made(tmp_path, server) as place:
        gateway = await place.gateway()
        await gateway.wait_for_log('"state": "live"')
        await place.emit(300, 300)
        catch = await place.flights.strike("ending", lambda _: gateway.kill(), skip=2)
        open_now = len(await place.log("read_uncommitted")) - len(await place.log())
        await place.gateway()
        await place.settled(300)
        committed, uncommitted = await place.verdict(), await place.verdict("read_uncommitted")
    assert open_now >= catch.events > 0  # they are there to be seen before anybody knows whether they will stay
    assert committed.faults == {}
    assert committed.found == 900
    assert len(uncommitted.repeated) == uncommitted.found - 900 == open_now
    assert {fault for fault in uncommitted.faults if fault != "repeated"} <= {"out_of_order"}
