"""Addresses at which nothing is, on both brokers: they hold up nobody who has a good one."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.broker import peers
from gateway.broker.jetstream.connection import Connection, ConnectionOptions, connect
from gateway.broker.peers import PeerRace, resolve
from gateway.broker.ports import Commit
from gateway.errors import Unavailable
from tests.support.event_log_suite import message, numbers
from tests.support.leaks import leaving_nothing
from tests.support.nats_server import NatsServer
from tests.support.rigs import Rig, kafka_rig, nats_rig
from tests.support.sockets import DEAD, dead_addresses, free_port

log = logging.getLogger(__name__)

SOON = 10.0
"""Seconds until the first event with two dead addresses of three; it takes one or two where nothing else runs."""
KINDS = [*DEAD, "unknown"]


@asynccontextmanager
async def rig_at(broker: str, address: str, dead: list[str]) -> AsyncIterator[Rig]:
    """Yield a rig whose configured addresses begin with dead ones."""
    async with AsyncExitStack() as stack:
        if broker == "kafka":
            yield await stack.enter_async_context(kafka_rig(*dead, address))
        else:
            yield await stack.enter_async_context(nats_rig(*(f"nats://{one}" for one in dead), address, timeout=10))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("broker", ["jetstream", "kafka"])
async def test_the_first_event_comes_soon_with_two_dead_addresses_of_three(
    request: pytest.FixtureRequest, broker: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broker == "kafka":
        address: str = request.getfixturevalue("kafka_address")
    else:
        server: NatsServer = request.getfixturevalue("nats_server")
        address = server.url
    monkeypatch.setattr("random.sample", lambda given, count: list(given)[:count])  # the dead ones first
    monkeypatch.setattr("random.shuffle", lambda _: None)
    with dead_addresses(kind, 2) as dead:
        async with leaving_nothing():
            began = time.monotonic()
            async with rig_at(broker, address, dead) as rig:
                async with rig.log("a").open(0) as shard:
                    await shard.commit(Commit([message(1)], {"demo": b"1"}))
                    took = time.monotonic() - began
                log.info("the first event came after %.2f s", took)
                assert took < SOON
                assert await numbers(rig.reader) == [1]


# Addresses that a NATS server tells of --------------------------------------------------------------------


@pytest.fixture
def behind_a_nat(folder: Path) -> Iterator[NatsServer]:
    """Yield a server that tells its clients of addresses that they cannot reach."""
    with dead_addresses("silent", 2) as (own, other):
        cluster = {"name": "test", "listen": f"127.0.0.1:{free_port()}"}
        config: dict[str, Any] = {"server_name": "n", "cluster": cluster, "client_advertise": own}
        route = {**cluster, "listen": f"127.0.0.1:{free_port()}", "routes": [f"nats://{cluster['listen']}"]}
        neighbour: dict[str, Any] = {"server_name": "m", "jetstream": None, "cluster": route}
        with (
            NatsServer(folder / "n", config={**config, "jetstream": None}) as server,
            NatsServer(folder / "m", config={**neighbour, "client_advertise": other}),
        ):
            yield server


async def discovered(connection: Connection) -> set[str]:
    link = await connection.connected()
    return {str(uri.netloc) for uri in link.client.discovered_servers}


async def silence_of_a_restart(server: NatsServer, connection: Connection) -> float:
    """Restart the server, and give how long it took from then on until the connection was there again."""
    link = await connection.connected()
    server.kill()
    await asyncio.sleep(1.5)
    await asyncio.to_thread(server.start)
    began = time.monotonic()
    async with asyncio.timeout(60):
        while await connection.connected() is link:
            await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_addresses_that_a_server_names_and_nobody_reaches_cost_no_silence(behind_a_nat: NatsServer) -> None:
    """Each restart cost 20 s of silence: the addresses of others were tried before the good one."""
    options = ConnectionOptions(servers=[behind_a_nat.url], timeout=10, ping_interval=0.5)
    knows_both = False
    while not knows_both:
        async with connect(options) as connection:
            knows_both = len(await discovered(connection)) == 2
            if knows_both:
                silences = [await silence_of_a_restart(behind_a_nat, connection) for _ in range(4)]
    log.info("silent for %s s", ", ".join(f"{one:.1f}" for one in silences))
    assert max(silences) < 8


@pytest.mark.parametrize("discover", [True, False])
async def test_what_a_server_tells_of_is_passed_over_where_that_is_set(
    behind_a_nat: NatsServer, discover: bool
) -> None:
    options = ConnectionOptions(servers=[behind_a_nat.url], discover=discover)
    async with asyncio.timeout(30):
        while True:
            async with connect(options) as connection:
                if await discovered(connection):
                    assert bool(connection._discovered) is discover
                    return


async def test_a_server_that_was_silent_for_hours_is_reconnected_to(folder: Path) -> None:
    """Each try at a silent server is given twice as long as the one before: 1,022 of them take three hours."""
    with NatsServer(folder) as server:
        async with connect(ConnectionOptions(servers=[server.url], timeout=5, ping_interval=0.5)) as connection:
            connection._slow[server.url] = 100_000
            await silence_of_a_restart(server, connection)
            assert connection._slow == {}


async def test_a_fault_of_ours_while_connecting_ends_no_connection_for_good(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults = iter([ZeroDivisionError("a fault of ours"), OverflowError("another one")])

    def sample(given: list[str], count: int) -> list[str]:
        for fault in faults:
            raise fault
        return list(given)[:count]

    with NatsServer(folder) as server:
        async with connect(ConnectionOptions(servers=[server.url], timeout=5, ping_interval=0.5)) as connection:
            monkeypatch.setattr("random.sample", sample)
            await silence_of_a_restart(server, connection)
            assert connection.link.max_payload > 0
    reported = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [str(record.exc_info[1]) for record in reported if record.exc_info] == ["a fault of ours", "another one"]


# Trying peers ---------------------------------------------------------------------------------------------


async def _discard(won: list[str]) -> None:
    won.append("discarded")


async def test_a_race_ends_what_was_won_too_late_and_what_is_under_way() -> None:
    race: PeerRace[list[str]] = PeerRace(_discard, (OSError,))
    both: list[list[str]] = [[], []]

    async def wins(what: list[str]) -> list[str]:
        return what

    race.begin("silent", asyncio.sleep(60, ["never"]))
    race.begin("a", wins(both[0]))
    race.begin("b", wins(both[1]))
    await asyncio.sleep(0.01)
    won = await race.won()
    assert won is not None
    assert won[1] == []
    await race.end()
    assert sorted(both) == [[], ["discarded"]]
    assert race.silent == []


async def test_a_race_tells_of_a_failure_at_once_and_raises_what_is_not_expected() -> None:
    race: PeerRace[list[str]] = PeerRace(_discard, (OSError,))

    async def fails(error: Exception) -> list[str]:
        raise error

    race.begin("a", fails(OSError("no")))
    assert await race.won(60) is None
    assert str(race.failures["a"]) == "no"
    race.begin("b", fails(ValueError("a fault of ours")))
    with pytest.raises(ValueError, match="ours"):
        await race.won(60)
    await race.end()


async def test_a_name_that_nobody_resolves_takes_one_thread_and_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered = [], threading.Event()

    def hanging(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        answered.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    monkeypatch.setattr(peers, "_RESOLVE", 0.1)
    try:
        for _ in range(5):
            with pytest.raises(OSError, match=r"nobody resolved the name hung\.example within 0\.1 s"):
                await resolve("hung.example")
        assert asked == ["hung.example"]
        with pytest.raises(Unavailable, match=r"nobody resolved the name hung\.example"):
            async with connect(ConnectionOptions(servers=["nats://hung.example:4222"])):
                pass
        await resolve("127.0.0.1")
        await resolve("::1")
    finally:
        answered.set()
    monkeypatch.undo()
    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    await resolve("hung.example")  # within the usual time, which is long for a busy machine as well


async def test_a_name_that_does_not_exist_is_said() -> None:
    with pytest.raises(OSError, match=r"not known|resolution"):
        await resolve("no-such-host.invalid")
    with pytest.raises(OSError, match="is no name"):
        await resolve("a" * 64 + ".invalid")
