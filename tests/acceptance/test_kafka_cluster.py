"""The log on three nodes of Kafka under everything at once; kills and freezes meet transactions in flight.

Where it struck is told by the wires between the gateway and each node, and what is in the topics by librdkafka;
the judge is `checker.py`, which knows nothing of the gateway.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final

import pytest
from confluent_kafka.admin import AdminClient

from tests.support import kafka_server
from tests.support.fault_injection import FAULTS, RATE, cut_connections, cuts_of, has_cut
from tests.support.gateway_process import Process, meanwhile, until
from tests.support.kafka_cluster import Place, made
from tests.support.kafka_server import KafkaServer
from tests.support.kafka_transactions import Catch, How

log = logging.getLogger(__name__)

ACCOUNTS: Final = [f"account-{number}" for number in range(1, 6)]
SHARDS: Final = 4
COUNT: Final = 600
"""Events that each account's hub emits around a strike."""
Blows = list[tuple[str, How]]
SOME: Final[Blows] = [
    ("gateway", "stored"),
    ("gateway", "ending"),
    ("leader", "stored"),
    ("gateway", "ended"),
    ("coordinator", "ended"),
]
MANY: Final[Blows] = [
    *SOME[:4],
    ("gateway", "ending"),
    ("gateway", "stored"),
    ("gateway", "ended"),
    ("coordinator", "ended"),
    ("gateway", "ending"),
    ("gateway", "stored"),
    ("gateway", "ended"),
    ("gateway", "ending"),
]
"""Who is killed, and at which moment of a transaction in flight: ten times the gateway, twice a broker."""
SIZES: Final = [pytest.param(3_600, SOME, id="18000"), pytest.param(10_000, MANY, id="50000", marks=pytest.mark.long)]
"""Events of each account, and the kills among them."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[KafkaServer]]:
    kafka_server.require_java()
    with kafka_server.cluster(tmp_path_factory.mktemp("kafka-cluster"), wired=True) as made_:
        yield made_


async def is_whole(place: Place) -> bool:
    """Return whether every replica of the deployment and of the coordinators is in sync."""
    found = await asyncio.to_thread(AdminClient({"bootstrap.servers": place.address}).list_topics, timeout=10)
    ours = [one for name, one in found.topics.items() if name.startswith((place.prefix, "__transaction"))]
    return all(len(part.isrs) == 3 for topic in ours for part in topic.partitions.values())


async def strike(place: Place, how: How, blow: Callable[[Catch], None], dice: Random) -> Catch:
    """Strike while each account's hub emits events, once a few transactions have gone by."""
    await place.emit(COUNT, RATE)
    return await place.flights.strike(how, blow, skip=dice.randrange(2 * SHARDS))


async def kill_a_broker(
    place: Place, servers: list[KafkaServer], how: How, dice: Random
) -> tuple[Catch, asyncio.Task[None]]:
    """Kill the broker that a transaction in flight is at; it is started again meanwhile."""
    struck: list[KafkaServer] = []

    def blow(catch: Catch) -> None:
        struck.extend(server for server in servers if server.wire_port == catch.port)
        struck[0].kill()
        next(wire for wire in place.wires if wire.port == catch.port).cut()

    catch = await strike(place, how, blow, dice)
    place.flights.let_go()
    return catch, asyncio.create_task(asyncio.to_thread(struck[0].start))


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("events", "blows"), SIZES)
async def test_events_are_exact_through_a_bad_hub_and_gateway_and_brokers_kills(
    tmp_path: Path, servers: list[KafkaServer], events: int, blows: Blows
) -> None:
    dice = Random(50_000)
    async with made(tmp_path, *servers, accounts=ACCOUNTS, seed=5, grace=2.0, shards=SHARDS) as place:
        for account in place.accounts:
            await place.ask(f"PATCH /users/{account}/faults", **FAULTS)
        gateway = await place.gateway()
        catches: list[Catch] = []
        restarts: list[asyncio.Task[None]] = []
        async with meanwhile(cut_connections(place, dice)):
            for who, how in blows:
                if who == "gateway":
                    catches.append(await strike(place, how, lambda _, gateway=gateway: gateway.kill(), dice))
                    gateway = await place.gateway()
                    await has_every_shard(gateway)
                    place.flights.let_go()  # what the dead one asked for arrives now, too late to end anything
                    continue
                for restart in restarts:
                    await restart
                await until(lambda: is_whole(place), "the cluster is whole")
                catch, restart = await kill_a_broker(place, servers, how, dice)
                catches.append(catch)
                restarts.append(restart)
            await place.emit(events - COUNT * len(blows), RATE)
            await asyncio.gather(*restarts)
            await has_cut(place, min(5, len(blows) // 2))
        await place.settled(events)
        verdict, uncommitted = await place.verdict(), len(await place.log("read_uncommitted"))
        cuts = await cuts_of(place)

    struck = ", ".join(f"{who} {one.how} ({one.events})" for (who, _), one in zip(blows, catches, strict=True))
    log.info("%s; struck in flight: %s; late: %s", verdict, struck, Counter(place.flights.late))
    log.info("%d messages uncommitted; %d connections to the hub cut", uncommitted, cuts)
    assert verdict.faults == {}
    assert (verdict.emitted, verdict.found) == (5 * events, 5 * events)
    assert [one.how for one in catches if one.events and one.in_flight] == [how for _, how in blows]
    assert [one.code for one in catches] == [-1 if how == "ending" else 0 for _, how in blows]
    assert all(late.code for late in place.flights.late)
    assert place.flights.late
    assert uncommitted >= 5 * events + sum(one.events for one in catches if one.how == "ending")
    assert place.errors() == []


@pytest.mark.long  # the short run has the port, in tests/contract/test_kafka_faults.py: a zombie that thaws
async def test_a_gateway_frozen_past_its_transactions_time_writes_nothing_more(
    tmp_path: Path, servers: list[KafkaServer]
) -> None:
    async with made(tmp_path, *servers, accounts=ACCOUNTS, seed=6, grace=2.0, shards=SHARDS) as place:
        zombie = await place.gateway()
        await has_every_shard(zombie)
        await place.emit(2_500, RATE)
        catch = await place.flights.strike("ending", lambda _: zombie.freeze(), skip=SHARDS)
        await until(lambda: rolled_back(servers, catch.id), "the transaction times out")
        heir = await place.gateway()
        await has_every_shard(heir)
        zombie.thaw()
        place.flights.let_go()
        await place.emit(500, RATE)
        await until(lambda: given(zombie) == given(heir) == SHARDS // 2, "both share the shards")
        await place.settled(3_000)
        verdict = await place.verdict()

    log.info("%s; struck with %d events in flight; late: %s", verdict, catch.events, Counter(place.flights.late))
    assert verdict.faults == {}
    assert (verdict.emitted, verdict.found) == (15_000, 15_000)
    assert catch.events
    assert place.flights.late
    assert all(late.code for late in place.flights.late)  # refused, each of them
    assert "shard log failed, reopening" not in heir.stderr


async def has_every_shard(gateway: Process) -> None:
    """Wait until a gateway has opened the logs of all shards."""
    await until(lambda: gateway.stderr.count("shard log opened") == SHARDS, "every shard is open")


def rolled_back(servers: list[KafkaServer], name: str) -> bool:
    """Return whether a coordinator has ended a transaction because its time was up."""
    message = f"Completed rollback of ongoing transaction for transactionalId {name} due to timeout"
    return any(message in server.output() for server in servers)


def given(gateway: Process) -> int:
    """Return how many shards a gateway was told to serve last."""
    return int(re.findall(r'"shards": (\d+), "of"', gateway.stderr)[-1])
